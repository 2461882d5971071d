"""Queries of challenge parts, challenges and their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from flawscope_station.store.database import Database
from flawscope_station.store.records import iso
from flawscope_station.store.schema import challenge_parts, challenge_results, challenges

PASSED, FAILED, OVERRIDDEN, REPLACED = "passed", "failed", "overridden", "replaced"  # outcomes of a challenge
WRONG_PART, OLD_PICTURE = "wrong_part", "old_picture"  # outcomes of a picture, beside passed and failed
MAX_RESULTS, MAX_CHALLENGES = 500, 20  # of a product, that people see


def current_parts(connection: Connection, product_id: int) -> Sequence[Row[Any]]:
    """Return the challenge parts of a product, in the order in which they were added."""
    of_product = challenge_parts.c.product_id == product_id, challenge_parts.c.removed_at.is_(None)
    return connection.execute(select(challenge_parts).where(*of_product).order_by(challenge_parts.c.id)).all()


def latest_challenges(connection: Connection, product_id: int, count: int = 1) -> Sequence[Row[Any]]:
    query = select(challenges).where(challenges.c.product_id == product_id)
    return connection.execute(query.order_by(challenges.c.id.desc()).limit(count)).all()


def passed_parts(connection: Connection, challenge_id: int) -> frozenset[int]:
    """Return the numbers of the parts that have passed in a challenge."""
    result = challenge_results.c
    query = select(result.part_id).where(result.challenge_id == challenge_id, result.outcome == PASSED)
    return frozenset(connection.execute(query).scalars())


def was_taken_before(connection: Connection, product_id: int, pixels: str) -> bool:
    """Whether these pixels are those of a stored picture, or of one that a challenge has taken."""
    same = challenge_parts.c.pixels == pixels, challenge_results.c.pixels == pixels
    stored = select(challenge_parts.c.id)
    queries = stored.where(same[0]), stored.join_from(challenge_parts, challenge_results).where(same[1])
    of_product = challenge_parts.c.product_id == product_id
    return any(connection.execute(query.where(of_product).limit(1)).first() for query in queries)


def describe(database: Database, product_id: int) -> dict[str, Any]:
    """Return parts with their scores over time, and the latest challenges, as the API shows them."""
    result = challenge_results.c
    with database.reading() as connection:
        parts = current_parts(connection, product_id)
        query = select(challenge_results).where(result.part_id.in_([part.id for part in parts]))
        rows = connection.execute(query.order_by(result.id.desc()).limit(MAX_RESULTS)).all()[::-1]
        latest = latest_challenges(connection, product_id, MAX_CHALLENGES)
    names = ("outcome", "score", "score_threshold", "resemblance")
    each = [
        (row.part_id, {"at": iso(row.at), **{name: getattr(row, name) for name in names}}) for row in rows
    ]
    same = ("id", "name", "expected", "note")
    told = ("id", "version_id", "cause", "who", "outcome", "reason")
    return {
        "parts": [
            {name: getattr(part, name) for name in same}
            | {"results": [found for part_id, found in each if part_id == part.id]}
            for part in parts
        ],
        "challenges": [
            {name: getattr(row, name) for name in told} | {"begun_at": iso(row.begun_at)} for row in latest
        ],
    }
