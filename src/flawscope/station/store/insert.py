"""Writing of new inspections to the data base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, text
from sqlalchemy.dialects import postgresql

from flawscope.station.store.database import upsert
from flawscope.station.store.schema import HOUR, inspections, pictures

NONE, WAITING = "none", "waiting"  # states of a review without a verdict
MOST_NAME = 300  # characters


@dataclass(frozen=True)
class Taken:
    """Judged picture, to be recorded.

    picture: hash of the file, "" while the file is being written. at: microseconds since 1970. key: the
    sender's, which is recorded once. brightness: 0..1; None: unknown. request_hash: hash of all that came
    under the key. triggers: number of triggers that the frame answers; None: it came by itself.
    """

    product_id: int
    version_id: int
    picture: str
    suffix: str
    bytes: int
    width: int
    height: int
    at: int
    name: str
    source: str
    score: float
    p_value: float
    severity: float
    score_threshold: float
    anomalous: bool
    near: bool
    regions: list[dict[str, Any]] = field(default_factory=list)
    key: str | None = None
    brightness: float | None = None
    part: str | None = None
    batch: str | None = None
    request_hash: str | None = None
    triggers: int | None = None


_OF_PICTURE, _OF_INSPECTION = (
    tuple(field.name for field in fields(Taken) if field.name in table.c) for table in (pictures, inspections)
)

# Adds the inspections in `new` to their hours
COUNT = f"""
INSERT INTO hours (product_id, version_id, hour, inspected, anomalous, score_sum, score_min,
    score_max, reviewed, defects, false_alarms, misses)
SELECT product_id, version_id, at / {HOUR}, count(*), count(*) FILTER (WHERE anomalous), sum(score),
    min(score), max(score), 0, 0, 0, 0
FROM new GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (product_id, version_id, hour) DO UPDATE SET
    inspected = hours.inspected + excluded.inspected, anomalous = hours.anomalous + excluded.anomalous,
    score_sum = hours.score_sum + excluded.score_sum,
    score_min = CASE WHEN excluded.score_min < hours.score_min
        THEN excluded.score_min ELSE hours.score_min END,
    score_max = CASE WHEN excluded.score_max > hours.score_max
        THEN excluded.score_max ELSE hours.score_max END
"""
COUNT_FROM = text(f"WITH new AS (SELECT * FROM inspections WHERE id >= :first) {COUNT}")

# One statement of PostgreSQL, which is a transaction by itself: with several, and BEGIN and COMMIT, waiting
# for the answers takes as long as the work. All stations lock rows in the same order, so that there is no
# deadlock. An inspection whose key another one takes at this moment gets no number.
RECORD = """
WITH given AS MATERIALIZED (
    SELECT one.*, CASE WHEN one.key IS NOT NULL THEN (
        SELECT there.id FROM inspections there
        WHERE there.product_id = one.product_id AND there.key = one.key
    ) END AS known
    FROM ROWS FROM (json_to_recordset(%(rows)s::json) AS ({types})) WITH ORDINALITY
        AS one ({names}, place)
), fresh AS MATERIALIZED (
    SELECT given.*, nextval(pg_get_serial_sequence('inspections', 'id')) AS id
    FROM given WHERE known IS NULL ORDER BY place
), kept AS (
    INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at)
    SELECT DISTINCT ON (product_id, picture) product_id, picture, suffix, bytes, width, height, at
    FROM fresh ORDER BY product_id, picture, place DESC
    ON CONFLICT (product_id, hash) DO UPDATE SET removed_at = NULL
), new AS (
    INSERT INTO inspections (id, {taken})
    SELECT id, {taken} FROM fresh ORDER BY product_id, key, place
    ON CONFLICT (product_id, key) DO NOTHING
    RETURNING id, product_id, version_id, at, anomalous, score
), counted AS ({count})
SELECT coalesce(given.known, new.id), given.known IS NULL
FROM given LEFT JOIN fresh USING (place) LEFT JOIN new ON new.id = fresh.id
ORDER BY place
"""

# Built once: building such a statement costs more than running it
BY_KEY = select(inspections.c.id).where(
    inspections.c.product_id == bindparam("product"), inspections.c.key == bindparam("key")
)
KEEP_PICTURE = upsert("sqlite", pictures).on_conflict_do_update(
    index_elements=["product_id", "hash"], set_={"removed_at": None}
)
INSERT = (
    upsert("sqlite", inspections)
    .on_conflict_do_nothing(index_elements=["product_id", "key"])
    .returning(inspections.c.id)
)


def record(connection: Connection, several: Sequence[Taken]) -> list[tuple[int, bool]]:
    """Record inspections as `Store.record` does: in SQLite in a transaction, in PostgreSQL without one."""
    together = _record_together if connection.dialect.name == "postgresql" else _record_each
    numbers = together(connection, several)
    found = []
    for (number, new), one in zip(numbers, several, strict=True):
        there = number or by_key(connection, one.product_id, one.key or "")
        assert there is not None, "what is in the way is there"
        found.append((there, new and number is not None))
    return found


def _record_together(connection: Connection, several: Sequence[Taken]) -> list[tuple[int | None, bool]]:
    """Number of each inspection, None where its key was taken meanwhile, and whether it is new."""
    rows = [_picture(one) | _inspection(one) for one in several]
    given = {"rows": json.dumps(rows)}  # one value: arrays take longer to build
    statement = _statement(tuple(rows[0]))
    return [(number, bool(new)) for number, new in connection.exec_driver_sql(statement, given)]


@cache
def _statement(names: tuple[str, ...]) -> str:
    columns = {**pictures.c, **inspections.c}
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = {name: columns[name].type.compile(dialect) for name in names}
    return RECORD.format(
        types=", ".join(f"{name} {kind}" for name, kind in types.items()),
        names=", ".join(names),
        taken=", ".join(name for name in names if name in inspections.c),
        count=COUNT,
    )


def _record_each(connection: Connection, several: Sequence[Taken]) -> list[tuple[int | None, bool]]:
    """Record in SQLite, where no other process writes meanwhile; returns as `_record_together`."""
    known = [one.key and by_key(connection, one.product_id, one.key) for one in several]
    fresh = [_picture(one) for one, number in zip(several, known, strict=True) if not number]
    if fresh:
        connection.execute(KEEP_PICTURE, fresh)
    made = [
        (int(number), False) if number else (connection.scalar(INSERT, _inspection(one)), True)
        for one, number in zip(several, known, strict=True)
    ]
    new = [number for number, is_new in made if is_new and number is not None]
    if new:
        connection.execute(COUNT_FROM, {"first": min(new)})
    return made


def by_key(connection: Connection, product_id: int, key: str) -> int | None:
    """Number of the inspection under a key; None where there is none."""
    number = connection.execute(BY_KEY, {"product": product_id, "key": key}).scalar_one_or_none()
    return None if number is None else int(number)


def review_of(one: Taken | Row[Any]) -> str:
    """State of the review of an inspection without a verdict."""
    return WAITING if one.anomalous or one.near else NONE


def _picture(one: Taken) -> dict[str, Any]:
    return {"hash": one.picture, "created_at": one.at, **{name: getattr(one, name) for name in _OF_PICTURE}}


def _inspection(one: Taken) -> dict[str, Any]:
    values = {name: getattr(one, name) for name in _OF_INSPECTION}
    return values | {
        "name": one.name[:MOST_NAME],
        "regions": json.dumps(one.regions),
        "review": review_of(one),
    }
