"""New inspections, as they are written into the data base."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, case, select

from flawscope.station.store.bulk_recording import record_at_once
from flawscope.station.store.database import upsert
from flawscope.station.store.schema import HOUR, hours, inspections, pictures

NONE, WAITING = "none", "waiting"  # for a review, while nobody has spoken
MOST_NAME = 300  # characters


@dataclass(frozen=True)
class Taken:
    """A picture that was judged, to be recorded.

    picture: hash of its file, "" while that is being written. at: microseconds since 1970. key: the
    sender's, under which it is taken once. brightness: 0..1; None: not known. request_hash: of all that came
    under the key. triggers: that the frame answers; None: it came by itself.
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


class Statements(NamedTuple):
    """Made once: to put such a statement together costs more than to run it."""

    keep_picture: Any
    insert: Any
    count: Any
    by_key: Any


@cache
def _statements() -> Statements:
    """Of SQLite; the last one is anybody's."""
    picture, inspection, hour = (upsert("sqlite", table) for table in (pictures, inspections, hours))
    old, given = hours.c, hour.excluded
    changes = {name: old[name] + given[name] for name in ("inspected", "anomalous", "score_sum")}
    changes["score_min"] = case((given.score_min < old.score_min, given.score_min), else_=old.score_min)
    changes["score_max"] = case((given.score_max > old.score_max, given.score_max), else_=old.score_max)
    return Statements(
        picture.on_conflict_do_update(index_elements=["product_id", "hash"], set_={"removed_at": None}),
        inspection.on_conflict_do_nothing(index_elements=["product_id", "key"]).returning(inspections.c.id),
        hour.on_conflict_do_update(index_elements=["product_id", "version_id", "hour"], set_=changes),
        select(inspections.c.id).where(
            inspections.c.product_id == bindparam("product"), inspections.c.key == bindparam("key")
        ),
    )


def record(connection: Connection, several: Sequence[Taken]) -> list[tuple[int, bool]]:
    """As `Store.record`: in a transaction, of PostgreSQL without one."""
    if connection.dialect.name == "postgresql":
        found = record_at_once(connection, [_picture(one) | _inspection(one) for one in several])
        return [
            (number, new) if number is not None else (_there(connection, one), False)
            for (number, new), one in zip(found, several, strict=True)
        ]
    made = _statements()
    there = [one.key and by_key(connection, one.product_id, one.key) for one in several]
    fresh = [_picture(one) for one, number in zip(several, there, strict=True) if not number]
    if fresh:
        connection.execute(made.keep_picture, fresh)
    numbers = [
        (number, False) if number else _insert(connection, one)
        for one, number in zip(several, there, strict=True)
    ]
    _count(connection, [one for one, (_, new) in zip(several, numbers, strict=True) if new])
    return numbers


def by_key(connection: Connection, product_id: int, key: str) -> int | None:
    """Number of the inspection that was taken under a key."""
    query = _statements().by_key
    number = connection.execute(query, {"product": product_id, "key": key}).scalar_one_or_none()
    return None if number is None else int(number)


def review_of(one: Taken | Row[Any]) -> str:
    """Of an inspection that nobody has spoken about."""
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


def _insert(connection: Connection, one: Taken) -> tuple[int, bool]:
    number = connection.execute(_statements().insert, _inspection(one)).scalar_one_or_none()
    return (_there(connection, one), False) if number is None else (int(number), True)


def _there(connection: Connection, one: Taken) -> int:
    """Number of the one whose key is in the way."""
    number = by_key(connection, one.product_id, one.key or "")
    assert number is not None, "what is in the way is there"
    return number


def _count(connection: Connection, several: Iterable[Taken]) -> None:
    """The hours that these fall into."""
    grouped: dict[tuple[int, int, int], list[Taken]] = defaultdict(list)
    for one in several:
        grouped[one.product_id, one.version_id, one.at // HOUR].append(one)
    count = _statements().count
    for place, group in sorted(grouped.items()):
        scores = [one.score for one in group]
        values = {
            **dict(zip(("product_id", "version_id", "hour"), place, strict=True)),
            **{"inspected": len(group), "anomalous": sum(one.anomalous for one in group)},
            **{"score_sum": sum(scores), "score_min": min(scores), "score_max": max(scores)},
            **dict.fromkeys(("reviewed", "defects", "false_alarms", "misses"), 0),
        }
        connection.execute(count, values)
