"""Challenge parts, challenges and their results in the data base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from flawscope_station.store.database import Database
from flawscope_station.store.schema import challenge_parts, challenge_results, challenges

PASSED, FAILED, OVERRIDDEN, REPLACED = "passed", "failed", "overridden", "replaced"  # outcomes of a challenge
WRONG_PART, OLD_PICTURE = "wrong_part", "old_picture"  # outcomes of a picture, beside passed and failed
MAX_RESULTS, MAX_CHALLENGES = 500, 20  # of a product, that people see


def current_parts(connection: Connection, product_id: int) -> Sequence[Row[Any]]:
    """Return the challenge parts of a product, in the order in which they were added."""
    part = challenge_parts.c
    where = part.product_id == product_id, part.removed_at.is_(None)
    return connection.execute(select(challenge_parts).where(*where).order_by(part.id)).all()


def last_challenge(connection: Connection, product_id: int) -> Row[Any] | None:
    return next(iter(_latest_challenges(connection, product_id, 1)), None)


def passed_parts(connection: Connection, challenge_id: int) -> frozenset[int]:
    """Return the numbers of the parts that have passed in a challenge."""
    result = challenge_results.c
    query = select(result.part_id).where(result.challenge_id == challenge_id, result.outcome == PASSED)
    return frozenset(connection.execute(query).scalars())


def was_taken_before(connection: Connection, product_id: int, pixels: str) -> bool:
    """Whether these pixels are those of a stored picture, or of one that a challenge has taken."""
    of_product = challenge_parts.c.product_id == product_id
    stored = select(challenge_parts.c.id).where(of_product, challenge_parts.c.pixels == pixels)
    taken = select(challenge_results.c.id).join_from(challenge_results, challenge_parts)
    taken = taken.where(of_product, challenge_results.c.pixels == pixels)
    return any(connection.execute(query.limit(1)).first() is not None for query in (stored, taken))


def add_challenge(connection: Connection, product_id: int, **columns: Any) -> int:
    """Begin a challenge, or with an outcome record one; return its number."""
    new = insert(challenges).values(product_id=product_id, **columns)
    return int(connection.execute(new.returning(challenges.c.id)).scalar_one())


def end_challenge(connection: Connection, challenge_id: int, **columns: Any) -> None:
    connection.execute(update(challenges).where(challenges.c.id == challenge_id).values(**columns))


def add_result(connection: Connection, **columns: Any) -> None:
    connection.execute(insert(challenge_results).values(**columns))


def describe(database: Database, product_id: int, iso: Callable[[int], str]) -> dict[str, Any]:
    """Return parts with their scores over time, and the latest challenges, as the API shows them."""
    result = challenge_results.c
    with database.reading() as connection:
        parts = current_parts(connection, product_id)
        query = select(challenge_results).where(result.part_id.in_([part.id for part in parts]))
        results = connection.execute(query.order_by(result.id.desc()).limit(MAX_RESULTS)).all()[::-1]
        latest = _latest_challenges(connection, product_id, MAX_CHALLENGES)
    return {
        "parts": [
            _part_facts(part, [row for row in results if row.part_id == part.id], iso) for part in parts
        ],
        "challenges": [_challenge_facts(row, iso) for row in latest],
    }


def _latest_challenges(connection: Connection, product_id: int, count: int) -> Sequence[Row[Any]]:
    query = select(challenges).where(challenges.c.product_id == product_id)
    return connection.execute(query.order_by(challenges.c.id.desc()).limit(count)).all()


def _part_facts(part: Row[Any], results: Sequence[Row[Any]], iso: Callable[[int], str]) -> dict[str, Any]:
    names = ("outcome", "score", "score_threshold", "resemblance")
    each = [{"at": iso(row.at), **{name: getattr(row, name) for name in names}} for row in results]
    same = {name: getattr(part, name) for name in ("id", "name", "expected", "note")}
    return {**same, "inspection": part.inspection_id, "results": each}


def _challenge_facts(row: Row[Any], iso: Callable[[int], str]) -> dict[str, Any]:
    names = ("id", "cause", "who", "outcome", "ended_by", "reason")
    ended_at = None if row.ended_at is None else iso(row.ended_at)
    times = {"begun_at": iso(row.begun_at), "ended_at": ended_at}
    return {**{name: getattr(row, name) for name in names}, **times, "version": row.version_id}
