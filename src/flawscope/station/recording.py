"""New inspections, as they are written into the data base."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, case, select

from flawscope.station.database import upsert
from flawscope.station.schema import hours, inspections, pictures

HOUR = 3_600_000_000  # microseconds
NONE, WAITING = "none", "waiting"  # for a review, while nobody has spoken
MOST_NAME = 300  # characters


@dataclass(frozen=True)
class Taken:
    """A picture that was judged, to be recorded.

    picture: hash of its file, "" while that is being written. at: microseconds since 1970. key: the
    sender's, under which it is taken once.
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


class Statements(NamedTuple):
    """Made once: to put such a statement together costs more than to run it."""

    keep_picture: Any
    insert: Any
    count: Any
    by_key: Any


@cache
def _statements(dialect: str) -> Statements:
    picture, inspection, hour = (upsert(dialect, table) for table in (pictures, inspections, hours))
    old, given = hours.c, hour.excluded
    changes = {name: old[name] + given[name] for name in ("inspected", "anomalous", "score_sum")}
    changes["score_min"] = case((given.score_min < old.score_min, given.score_min), else_=old.score_min)
    changes["score_max"] = case((given.score_max > old.score_max, given.score_max), else_=old.score_max)
    return Statements(
        picture.on_conflict_do_update(index_elements=["hash"], set_={"removed_at": None}),
        inspection.on_conflict_do_nothing(index_elements=["product_id", "key"]).returning(inspections.c.id),
        hour.on_conflict_do_update(index_elements=["product_id", "version_id", "hour"], set_=changes),
        select(inspections.c.id).where(
            inspections.c.product_id == bindparam("product"), inspections.c.key == bindparam("key")
        ),
    )


def record(connection: Connection, several: Sequence[Taken]) -> list[tuple[int, bool]]:
    """As `Store.record`, in a transaction."""
    made = _statements(connection.dialect.name)
    there = [one.key and by_key(connection, one.product_id, one.key) for one in several]
    fresh = {one.picture: one for one, number in zip(several, there, strict=True) if not number}
    if fresh:  # in one order everywhere, so that two stations never wait for each other in a circle
        connection.execute(made.keep_picture, [_picture(fresh[digest]) for digest in sorted(fresh)])
    found = [
        (number, False) if number else _insert(connection, one)
        for one, number in zip(several, there, strict=True)
    ]
    _count(connection, [one for one, (_, new) in zip(several, found, strict=True) if new])
    return found


def by_key(connection: Connection, product_id: int, key: str) -> int | None:
    """Number of the inspection that was taken under a key."""
    query = _statements(connection.dialect.name).by_key
    number = connection.execute(query, {"product": product_id, "key": key}).scalar_one_or_none()
    return None if number is None else int(number)


def review_of(one: Taken | Row[Any]) -> str:
    """Of an inspection that nobody has spoken about."""
    return WAITING if one.anomalous or one.near else NONE


def _picture(one: Taken) -> dict[str, Any]:
    names = "suffix", "bytes", "width", "height"
    return {"hash": one.picture, "created_at": one.at, **{name: getattr(one, name) for name in names}}


def _insert(connection: Connection, one: Taken) -> tuple[int, bool]:
    names = (
        *("product_id", "version_id", "picture", "at", "source", "key", "score", "p_value", "severity"),
        *("score_threshold", "anomalous", "near"),
    )
    values = {name: getattr(one, name) for name in names}
    values |= {"name": one.name[:MOST_NAME], "regions": json.dumps(one.regions), "review": review_of(one)}
    insert = _statements(connection.dialect.name).insert
    number = connection.execute(insert, values).scalar_one_or_none()
    if number is not None:
        return int(number), True
    there = by_key(connection, one.product_id, one.key or "")
    assert there is not None, "what is in the way is there"
    return there, False


def _count(connection: Connection, several: Iterable[Taken]) -> None:
    """The hours that these fall into."""
    grouped: dict[tuple[int, int, int], list[Taken]] = defaultdict(list)
    for one in several:
        grouped[one.product_id, one.version_id, one.at // HOUR].append(one)
    count = _statements(connection.dialect.name).count
    for place, group in sorted(grouped.items()):
        scores = [one.score for one in group]
        values = {
            **dict(zip(("product_id", "version_id", "hour"), place, strict=True)),
            **{"inspected": len(group), "anomalous": sum(one.anomalous for one in group)},
            **{"score_sum": sum(scores), "score_min": min(scores), "score_max": max(scores)},
            **dict.fromkeys(("reviewed", "defects", "false_alarms", "misses"), 0),
        }
        connection.execute(count, values)
