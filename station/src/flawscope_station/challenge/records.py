"""Queries of challenge parts, challenges, and the inspections that belong to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from sqlalchemy import Connection, exists, select

from flawscope_station.challenge.readiness import REPLACED, Run, Shown
from flawscope_station.store.database import Database
from flawscope_station.store.insert import decision_of
from flawscope_station.store.records import iso
from flawscope_station.store.rows import ChallengeInspectionRow, ChallengePartRow, ChallengeViewRow
from flawscope_station.store.schema import (
    IS_CHALLENGE,
    challenge_parts,
    challenge_views,
    challenges,
    inspections,
    pictures,
    views,
)

# of a product, that people see
MAX_SHOWN = 500
MAX_CHALLENGES = 20


class ShownRow(NamedTuple):
    """Challenge part as it was shown, with its score.

    Attributes:
        run: Number of the challenge; None: none was due.
        score: Of the inspection.
        score_threshold: That the score was compared with.
        shown: The part, and what the judgement depends on.
    """

    run: int | None
    score: float
    score_threshold: float
    shown: Shown


def current_parts(connection: Connection, product_id: int) -> Sequence[ChallengePartRow]:
    """Return the challenge parts of a product, in the order in which they were added."""
    column = challenge_parts.c
    query = select(challenge_parts).where(column.product_id == product_id, column.removed_at.is_(None))
    return connection.execute(query.order_by(column.id)).all()


def stored_views(connection: Connection, product_id: int) -> dict[int, dict[str, ChallengeViewRow]]:
    """Return the stored picture of each view, by number of the challenge part; one with a region first."""
    query = select(challenge_views).join_from(challenge_views, challenge_parts)
    query = query.where(challenge_parts.c.product_id == product_id, challenge_parts.c.removed_at.is_(None))
    rows: list[ChallengeViewRow] = [*connection.execute(query)]
    rows.sort(key=lambda row: (row.boxes == "[]", row.view))
    found: dict[int, dict[str, ChallengeViewRow]] = {}
    for row in rows:
        found.setdefault(row.part_id, {})[row.view] = row
    return found


def find_runs(connection: Connection, product_id: int, count: int = 1) -> list[tuple[int, Run]]:
    """Return numbers and challenges, the latest first."""
    query = select(challenges).where(challenges.c.product_id == product_id)
    rows = connection.execute(query.order_by(challenges.c.id.desc()).limit(count)).all()
    shown = find_shown(connection, product_id, runs=[row.id for row in rows])
    runs = []
    for row in rows:
        judging = row.version_id, row.state_hash
        parts = {int(number): expected for number, expected in json.loads(row.parts).items()}
        of_run = tuple(item.shown for item in shown if item.run == row.id)
        runs.append((row.id, Run(judging, parts, row.begun_at, row.cause, row.who, row.reason, of_run)))
    return runs


def find_shown(
    connection: Connection, product_id: int, *, runs: Sequence[int] | None = None
) -> list[ShownRow]:
    """Return the showings of a product's challenge parts, the oldest first.

    The pictures from which a challenge part was kept are not among them.

    Args:
        connection: to the data base.
        product_id: number of the product.
        runs: numbers of the challenges; None: all showings, the latest `MAX_SHOWN` at most.
    """
    column = inspections.c
    query = select(inspections, pictures.c.pixels).select_from(inspections.join(pictures))
    query = query.where(column.product_id == product_id, IS_CHALLENGE)
    query = query.where(column.challenge_part_id.is_not(None)).order_by(column.id.desc())
    query = query.limit(MAX_SHOWN) if runs is None else query.where(column.challenge_id.in_(runs))
    return [_shown(row) for row in connection.execute(query).all()[::-1]]


def _shown(row: ChallengeInspectionRow) -> ShownRow:
    facts = json.loads(row.record)["challenge"]
    shown = Shown(
        row.challenge_part_id,
        row.id,
        row.at,
        decision_of(row),
        facts["resemblance"],
        facts["is_at_place"] is not False,
        frozenset(facts.get("pixels") or [row.pixels]),
        facts["is_copy"],
    )
    return ShownRow(row.challenge_id, row.score, row.score_threshold, shown)


def was_taken_before(connection: Connection, product_id: int, pixels: str) -> bool:
    """Whether a stored picture of a challenge part, or one that was shown before, has these pixels."""
    stored = select(challenge_views.c.part_id).join_from(challenge_views, challenge_parts)
    stored = stored.where(challenge_parts.c.product_id == product_id, challenge_views.c.pixels == pixels)
    is_same = pictures.c.product_id == product_id, pictures.c.pixels == pixels
    shown = select(inspections.c.id).join_from(inspections, pictures).where(*is_same)
    shown = shown.where(inspections.c.product_id == product_id, IS_CHALLENGE)
    seen = (
        select(views.c.place)
        .join_from(views, inspections)
        .join(pictures, (pictures.c.product_id == views.c.product_id) & (pictures.c.hash == views.c.picture))
    )
    seen = seen.where(*is_same, inspections.c.product_id == product_id, IS_CHALLENGE)
    return bool(connection.scalar(select(exists(stored) | exists(shown) | exists(seen))))


class ResultFacts(TypedDict):
    """Result of a challenge part that was shown."""

    at: str
    outcome: str
    score: float
    score_threshold: float
    resemblance: float
    inspection: int


class PartFacts(TypedDict):
    """Challenge part with its results, as the API shows it.

    Attributes:
        expected: good or anomalous.
        views: Views with a stored picture.
        results: The oldest first.
    """

    id: int
    name: str
    expected: str
    note: str
    views: list[str]
    results: list[ResultFacts]


class RunFacts(TypedDict):
    """Challenge, as the API shows it.

    Attributes:
        version_id: Number of the version that judged.
        cause: Why it was due.
        who: Began it.
        outcome: passed, failed, overridden or replaced; None while it is under way.
        reason: Of the person who overrode it.
    """

    id: int
    version_id: int | None
    cause: str
    who: str
    outcome: str | None
    reason: str | None
    begun_at: str


class ChallengeRecords(TypedDict):
    """Challenge parts, and the latest challenges first."""

    parts: list[PartFacts]
    challenges: list[RunFacts]


def describe(database: Database, product_id: int) -> ChallengeRecords:
    """Return parts with their scores over time, and the latest challenges, as the API shows them."""
    with database.reading() as connection:
        rows = current_parts(connection, product_id)
        views = stored_views(connection, product_id)
        every = find_shown(connection, product_id)
        runs = find_runs(connection, product_id, MAX_CHALLENGES)
    parts: list[PartFacts] = []
    for part in rows:
        parts.append(
            {
                "id": part.id,
                "name": part.name,
                "expected": part.expected,
                "note": part.note,
                "views": [*views.get(part.id, ())],
                "results": _results(part, every),
            }
        )
    challenges: list[RunFacts] = []
    for place, (number, run) in enumerate(runs):
        is_latest = place == 0
        challenges.append(
            {
                "id": number,
                "version_id": run.judging[0],
                "cause": run.cause,
                "who": run.who,
                "outcome": run.outcome or (None if is_latest else REPLACED),
                "reason": run.reason,
                "begun_at": iso(run.begun_at),
            }
        )
    return {"parts": parts, "challenges": challenges}


def _results(part: ChallengePartRow, every: Sequence[ShownRow]) -> list[ResultFacts]:
    """Return what became of a challenge part, the oldest first, where a challenge was due."""
    due = [item for item in every if item.run is not None]
    results: list[ResultFacts] = []
    for place, item in enumerate(due):
        if item.shown.number != part.id:
            continue
        before = [other.shown for other in due[:place] if other.run == item.run]
        results.append(
            {
                "at": iso(item.shown.at),
                "outcome": item.shown.outcome(part.expected, before),
                "score": item.score,
                "score_threshold": item.score_threshold,
                "resemblance": item.shown.resemblance,
                "inspection": item.shown.inspection,
            }
        )
    return results
