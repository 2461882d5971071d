"""Candidates, which are versions made from verdicts: records of them, and advice on using them."""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field
from sqlalchemy import select

from flawscope.artefact import judgement as judgements
from flawscope_station.learning.jobs import DONE, REJECTED, JobStep
from flawscope_station.store.database import Database
from flawscope_station.store.records import VERDICT_EVENT, iso
from flawscope_station.store.rows import CandidateRow
from flawscope_station.store.schema import ACTIVE, READY, REMOVED, RETIRED, events, inspections, verdicts

EVENT_READY = "candidate ready"
EVENT_FAILED = "candidate failed"
EVENT_REJECTED = "candidate rejected"
LIVE = "live"  # status of a candidate whose version is active, or was
UNUSED = (READY, REJECTED)  # statuses of candidates whose version was never active


class Correction(BaseModel):
    """Verdict that contradicted a model, in an answer of the API; `id` is the inspection's."""

    id: int
    verdict: Literal["good", "defect"]
    verdict_id: int


class Candidate(BaseModel):
    """Version that is being made, or was made, from verdicts, in an answer of the API."""

    id: int
    status: Literal["queued", "running", "ready", "live", "rejected", "failed", "removed"]
    start: int = Field(description="number of the version that the candidate was made from")
    version: int | None = Field(description="number of the version that the candidate became")
    compared_with: int | None = None
    by: str
    created_at: str
    changed_at: str
    how: str = ""
    corrections: list[Correction] = []
    error: str | None = None
    judgement: judgements.Judgement | None = None
    at_risk: list[int] = Field([], description="inspections that `losing` must name to activate the version")
    seconds: dict[str, float] | None = None
    step: JobStep | None = None

    @classmethod
    def of(cls, row: CandidateRow, step: JobStep | None = None) -> Candidate:
        """Return the candidate of a row.

        Args:
            row: Row of the candidate's job, with the state of its version.
            step: Progress of the job; None: it is not running.
        """
        times = {name: iso(getattr(row, name)) for name in ("created_at", "changed_at")}
        existing_version = None if row.version_state == REMOVED else row.version_id
        columns = {
            "id": row.id,
            "status": status_of(row),
            "start": row.start_version_id,
            "version": existing_version,
            "by": row.who,
        }
        candidate = cls.model_validate({**json.loads(row.facts), **columns, **times, "step": step})
        candidate.at_risk = candidate.judgement.at_risk if candidate.judgement else []
        return candidate


def status_of(row: CandidateRow) -> str:
    """Return the status of a candidate.

    It follows from the status of its job, and from the state of the version that it became.
    """
    if row.version_state in (ACTIVE, RETIRED):
        return LIVE
    has_lost_version = row.status == DONE and row.version_id is None
    if row.version_state == REMOVED or has_lost_version:
        return REMOVED
    return READY if row.status == DONE else str(row.status)


def list_history(database: Database, product_id: int, limit: int) -> list[dict[str, Any]]:
    """Return the latest events of a product's models and verdicts on its pictures, newest first."""
    latest_events = (
        select(events)
        .where(events.c.product_id == product_id, events.c.kind != VERDICT_EVENT)
        .order_by(events.c.id.desc())
        .limit(limit)
    )
    latest_verdicts = (
        select(verdicts, inspections.c.name)
        .select_from(verdicts.join(inspections))
        .where(verdicts.c.product_id == product_id)
        .order_by(verdicts.c.id.desc())
        .limit(limit)
    )
    # entries: time, kind, person, text, and number of the inspection
    with database.reading() as connection:
        event_entries = [
            (row.at, row.kind, row.who, row.text, None) for row in connection.execute(latest_events)
        ]
        verdict_entries = [
            (row.at, "verdict", row.who, row.verdict, row.inspection_id)
            for row in connection.execute(latest_verdicts)
        ]
    # the merge leaves events and verdicts in the order of their numbers, even where the clock was set back
    entries = heapq.merge(event_entries, verdict_entries, key=lambda entry: entry[0], reverse=True)
    return [
        {"at": iso(at), "kind": kind, "by": who, "text": text, "inspection": inspection}
        for at, kind, who, text, inspection in islice(entries, limit)
    ]


# ------------------------------------------------------------------------------------- advice for a person


class Advice(NamedTuple):
    """Advice for the person who decides on a candidate.

    Attributes:
        use: Whether to activate the version.
        reason: Name of the reason; its text has the key `advice.` and this name.
        values: Numbers in that text, by name.
    """

    use: bool
    reason: str
    values: Mapping[str, int]


def advice(candidate: Candidate, active: int | None) -> Advice | None:
    """Return advice on a candidate; None: it has no judgement, perhaps because it is still being made.

    Args:
        candidate: Candidate on which a person decides.
        active: Number of the active version; None: there is none.
    """
    judgement = candidate.judgement
    if judgement is None:
        return None
    if candidate.status == READY and candidate.compared_with not in (None, active):
        return Advice(use=False, reason="old", values={"version": candidate.compared_with or 0})
    if judgement.lost:
        return Advice(use=False, reason="lost", values={"n": len(judgement.lost)})
    if judgement.weaker:
        return Advice(use=False, reason="weaker", values={"n": len(judgement.weaker)})
    if "simulated" in judgement.refused and judgement.simulated is not None:
        found_before, found_after, count = judgement.simulated
        simulated = {"before": found_before, "after": found_after, "n": count}
        return Advice(use=False, reason="simulated", values=simulated)
    # the first of three values is the number of good pictures called anomalous; then follows its interval
    alarms_before = int(judgement.good.before[0])
    alarms_after = int(judgement.good.after[0])
    alarms = {"before": alarms_before, "after": alarms_after, "n": judgement.good.count}
    if judgement.found:
        return Advice(use=True, reason="finds", values={"found": len(judgement.found), **alarms})
    if alarms_after < alarms_before:
        return Advice(use=True, reason="fewer", values=alarms)
    return Advice(use=False, reason="no_gain", values=alarms)
