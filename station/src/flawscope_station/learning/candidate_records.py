"""Candidates: versions made from verdicts, and whether they are used."""

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
LIVE = "live"  # status of a candidate whose version judges, or did
# states of candidates whose version was never used
UNUSED = (READY, REJECTED)


class Correction(BaseModel):
    """Verdict that contradicted a model, as the API shows it; `id` is the inspection's."""

    id: int
    verdict: Literal["good", "defect"]
    verdict_id: int


class Candidate(BaseModel):
    """Version that is being made, or was made, from verdicts."""

    id: int
    status: Literal["queued", "running", "ready", "live", "rejected", "failed", "removed"]
    start: int = Field(description="the version that it was made from")
    version: int | None = Field(description="that it became")
    compared_with: int | None = None
    by: str
    created_at: str
    changed_at: str
    how: str = ""
    corrections: list[Correction] = []
    error: str | None = None
    judgement: judgements.Judgement | None = None
    at_risk: list[int] = Field([], description="what `losing` must name to use it")
    seconds: dict[str, float] | None = None
    step: JobStep | None = None

    @classmethod
    def of(cls, row: CandidateRow, step: JobStep | None = None) -> Candidate:
        """Return the candidate of a row, with its progress while it is being made."""
        times = {name: iso(getattr(row, name)) for name in ("created_at", "changed_at")}
        version = None if row.version_state == REMOVED else row.version_id
        facts = {"id": row.id, "status": status_of(row), "start": row.start_version_id, "version": version}
        found = cls.model_validate({**json.loads(row.facts), **facts, **times, "by": row.who, "step": step})
        found.at_risk = found.judgement.at_risk if found.judgement else []
        return found


def status_of(row: CandidateRow) -> str:
    """Return the status of a candidate by its job and by the state of the version that it became."""
    if row.version_state in (ACTIVE, RETIRED):
        return LIVE
    if row.version_state == REMOVED or (row.status == DONE and row.version_id is None):
        return REMOVED
    return READY if row.status == DONE else str(row.status)


def list_history(database: Database, product_id: int, limit: int) -> list[dict[str, Any]]:
    """Return the latest events of a product's models and verdicts on its pictures, newest first."""
    # verdicts come from their own table
    is_of_product = events.c.product_id == product_id, events.c.kind != VERDICT_EVENT
    happened = select(events).where(*is_of_product).order_by(events.c.id.desc())
    said = (
        select(verdicts, inspections.c.name)
        .select_from(verdicts.join(inspections))
        .where(verdicts.c.product_id == product_id)
        .order_by(verdicts.c.id.desc())
    )
    with database.reading() as connection:
        changes = [
            (row.at, row.kind, row.who, row.text, None) for row in connection.execute(happened.limit(limit))
        ]
        words = [
            (row.at, "verdict", row.who, row.verdict, row.inspection_id)
            for row in connection.execute(said.limit(limit))
        ]
    # each kind stays in its order, whatever clocks did
    entries = heapq.merge(changes, words, key=lambda entry: entry[0], reverse=True)
    return [
        {"at": iso(at), "kind": kind, "by": who, "text": text, "inspection": inspection}
        for at, kind, who, text, inspection in islice(entries, limit)
    ]


# ------------------------------------------------------------------------------------- advice for a person


class Advice(NamedTuple):
    """Advice for a person.

    Attributes:
        use: Whether to activate the version.
        reason: End of the text's key below `advice`.
        values: Numbers in the text.
    """

    use: bool
    reason: str
    values: Mapping[str, int]


def advice(candidate: Candidate, active: int | None) -> Advice | None:
    """Return advice on a candidate; None where it is not made yet or was not judged.

    Args:
        candidate: on which a person decides.
        active: number of the version in use; None: there is none.
    """
    if (judged := candidate.judgement) is None:
        return None
    before = int(judged.good.before[0])
    after = int(judged.good.after[0])
    numbers = {"before": before, "after": after, "n": judged.good.count}
    if candidate.status == READY and candidate.compared_with not in (None, active):
        return Advice(use=False, reason="old", values={"version": candidate.compared_with or 0})
    for reason, numbers_lost in (("lost", judged.lost), ("weaker", judged.weaker)):
        if numbers_lost:
            return Advice(use=False, reason=reason, values={"n": len(numbers_lost)})
    if "simulated" in judged.refused and judged.simulated is not None:
        found, still, count = judged.simulated
        simulated = {"before": found, "after": still, "n": count}
        return Advice(use=False, reason="simulated", values=simulated)
    if judged.found:
        return Advice(use=True, reason="finds", values={"found": len(judged.found), **numbers})
    is_better = after < before
    return Advice(use=is_better, reason="fewer" if is_better else "no_gain", values=numbers)
