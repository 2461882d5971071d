"""Queries of challenge parts, challenges, and the inspections that belong to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from sqlalchemy import Connection, exists, select

from flawscope_station.challenge.readiness import REPLACED, Run, Showing
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

MAX_SHOWN = 500  # showings of a product that people see
MAX_CHALLENGES = 20  # challenges of a product that people see


class ShowingRow(NamedTuple):
    """Showing of a challenge part, with its score.

    Attributes:
        run: Number of the challenge; None: no challenge was due.
        score: Score of the inspection.
        score_threshold: Threshold with which the score was compared.
        showing: Facts on which the outcome depends.
    """

    run: int | None
    score: float
    score_threshold: float
    showing: Showing


def current_parts(connection: Connection, product_id: int) -> Sequence[ChallengePartRow]:
    """Return the challenge parts of a product, in the order in which they were added."""
    column = challenge_parts.c
    query = select(challenge_parts).where(column.product_id == product_id, column.removed_at.is_(None))
    return connection.execute(query.order_by(column.id)).all()


def stored_views(connection: Connection, product_id: int) -> dict[int, dict[str, ChallengeViewRow]]:
    """Return the stored pictures of a product: number of the challenge part -> name of the view -> picture.

    The views of a part are sorted by name, all views with regions before all views without.
    """
    query = select(challenge_views).join_from(challenge_views, challenge_parts)
    query = query.where(challenge_parts.c.product_id == product_id, challenge_parts.c.removed_at.is_(None))

    def order(row: ChallengeViewRow) -> tuple[bool, str]:
        has_no_regions = row.boxes == "[]"
        return has_no_regions, row.view

    rows: list[ChallengeViewRow] = sorted(connection.execute(query), key=order)
    views_by_part: dict[int, dict[str, ChallengeViewRow]] = {}
    for row in rows:
        views_by_part.setdefault(row.part_id, {})[row.view] = row
    return views_by_part


def find_runs(connection: Connection, product_id: int, count: int = 1) -> list[tuple[int, Run]]:
    """Return pairs of number and challenge for the latest challenges of a product, the latest first.

    Args:
        connection: Connection to the database.
        product_id: Number of the product.
        count: Largest number of challenges.
    """
    query = select(challenges).where(challenges.c.product_id == product_id)
    rows = connection.execute(query.order_by(challenges.c.id.desc()).limit(count)).all()
    showing_rows = find_showings(connection, product_id, runs=[row.id for row in rows])
    runs = []
    for row in rows:
        run = Run(
            judging=(row.version_id, row.state_hash),
            parts={int(number): expected for number, expected in json.loads(row.parts).items()},
            begun_at=row.begun_at,
            cause=row.cause,
            who=row.who,
            reason=row.reason,
            showings=tuple(showing_row.showing for showing_row in showing_rows if showing_row.run == row.id),
        )
        runs.append((row.id, run))
    return runs


def find_showings(
    connection: Connection, product_id: int, *, runs: Sequence[int] | None = None
) -> list[ShowingRow]:
    """Return the showings of a product's challenge parts, the oldest first.

    Inspections whose pictures became the stored pictures of a challenge part are left out.

    Args:
        connection: Connection to the database.
        product_id: Number of the product.
        runs: Numbers of the challenges; None: the latest `MAX_SHOWN` showings, in any challenge or none.
    """
    columns = inspections.c
    query = select(inspections, pictures.c.pixels).select_from(inspections.join(pictures))
    query = query.where(columns.product_id == product_id, IS_CHALLENGE)
    query = query.where(columns.challenge_part_id.is_not(None)).order_by(columns.id.desc())
    if runs is None:
        query = query.limit(MAX_SHOWN)
    else:
        query = query.where(columns.challenge_id.in_(runs))
    newest_first = connection.execute(query).all()
    return [_showing_of(row) for row in reversed(newest_first)]


def _showing_of(row: ChallengeInspectionRow) -> ShowingRow:
    """Return the showing that an inspection recorded."""
    facts = json.loads(row.record)["challenge"]
    # earlier releases recorded no hashes here: take the hash of the inspection's only picture
    pixel_hashes = facts.get("pixels") or [row.pixels]
    showing = Showing(
        number=row.challenge_part_id,
        inspection=row.id,
        at=row.at,
        decision=decision_of(row),
        resemblance=facts["resemblance"],
        # None counts as True: earlier releases recorded it if no region was stored
        is_at_place=facts["is_at_place"] is not False,
        pixels=frozenset(pixel_hashes),
        is_copy=facts["is_copy"],
    )
    return ShowingRow(row.challenge_id, row.score, row.score_threshold, showing)


def was_taken_before(connection: Connection, product_id: int, pixels: str) -> bool:
    """Return whether a picture with these pixels is stored for a challenge part, or was shown before.

    Args:
        connection: Connection to the database.
        product_id: Number of the product.
        pixels: Hash of the pixels.
    """
    stored = select(challenge_views.c.part_id).join_from(challenge_views, challenge_parts)
    stored = stored.where(challenge_parts.c.product_id == product_id, challenge_views.c.pixels == pixels)
    has_pixels = (pictures.c.product_id == product_id) & (pictures.c.pixels == pixels)
    is_challenge_of_product = (inspections.c.product_id == product_id) & IS_CHALLENGE
    shown = select(inspections.c.id).join_from(inspections, pictures)
    shown = shown.where(has_pixels, is_challenge_of_product)
    is_picture_of_view = (pictures.c.product_id == views.c.product_id) & (pictures.c.hash == views.c.picture)
    shown_as_view = select(views.c.place).join_from(views, inspections).join(pictures, is_picture_of_view)
    shown_as_view = shown_as_view.where(has_pixels, is_challenge_of_product)
    return bool(connection.scalar(select(exists(stored) | exists(shown) | exists(shown_as_view))))


class ResultFacts(TypedDict):
    """Result of a showing of a challenge part, as the API shows it."""

    at: str
    outcome: str
    score: float
    score_threshold: float
    resemblance: float
    inspection: int


class PartFacts(TypedDict):
    """Challenge part with its results, as the API shows it.

    Attributes:
        id: Number of the challenge part.
        name: Name of the challenge part.
        expected: Right decision, good or anomalous.
        note: Note for people.
        views: Views with a stored picture.
        results: Results of its showings, the oldest first.
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
        id: Number of the challenge.
        version_id: Number of the version that judged.
        cause: Why the challenge was due.
        who: Person who began it.
        outcome: passed, failed, overridden or replaced; None: it is under way.
        reason: Reason of the person who overrode it; None: nobody did.
        begun_at: Time of the beginning, in ISO 8601.
    """

    id: int
    version_id: int | None
    cause: str
    who: str
    outcome: str | None
    reason: str | None
    begun_at: str


class ChallengeRecords(TypedDict):
    """Challenge parts, and challenges, the latest first."""

    parts: list[PartFacts]
    challenges: list[RunFacts]


def describe(database: Database, product_id: int) -> ChallengeRecords:
    """Return challenge parts with their results, and the latest challenges, as the API shows them."""
    with database.reading() as connection:
        part_rows = current_parts(connection, product_id)
        views_by_part = stored_views(connection, product_id)
        showing_rows = find_showings(connection, product_id)
        runs = find_runs(connection, product_id, MAX_CHALLENGES)
    parts: list[PartFacts] = []
    for part in part_rows:
        parts.append(
            {
                "id": part.id,
                "name": part.name,
                "expected": part.expected,
                "note": part.note,
                "views": list(views_by_part.get(part.id, ())),
                "results": _results(part, showing_rows),
            }
        )
    challenges: list[RunFacts] = []
    for position, (number, run) in enumerate(runs):
        version_id, _state_hash = run.judging
        outcome = run.outcome
        if outcome is None and position > 0:  # not the newest: a later challenge has begun
            outcome = REPLACED
        challenges.append(
            {
                "id": number,
                "version_id": version_id,
                "cause": run.cause,
                "who": run.who,
                "outcome": outcome,
                "reason": run.reason,
                "begun_at": iso(run.begun_at),
            }
        )
    return {"parts": parts, "challenges": challenges}


def _results(part: ChallengePartRow, showing_rows: Sequence[ShowingRow]) -> list[ResultFacts]:
    """Return the results of those showings of a part that belong to a challenge, the oldest first.

    Args:
        part: Challenge part.
        showing_rows: Showings of all challenge parts of the product, the oldest first.
    """
    rows_in_challenges = [row for row in showing_rows if row.run is not None]
    results: list[ResultFacts] = []
    for position, row in enumerate(rows_in_challenges):
        showing = row.showing
        if showing.number != part.id:
            continue
        # showings of all parts: the same picture may have been shown for another part
        earlier = [
            earlier_row.showing for earlier_row in rows_in_challenges[:position] if earlier_row.run == row.run
        ]
        results.append(
            {
                "at": iso(showing.at),
                "outcome": showing.outcome(part.expected, earlier),
                "score": row.score,
                "score_threshold": row.score_threshold,
                "resemblance": showing.resemblance,
                "inspection": showing.inspection,
            }
        )
    return results
