"""Holds the false-alarm rate that the active version promises against what people said of the line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import exists, select

from flawscope.predictor import rates
from flawscope_station.store.database import Database
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.records import DEFECT, GOOD
from flawscope_station.store.schema import (
    inspections,
    learnt_pixels,
    on_line,
    parts,
    pictures,
)

RECENT_PARTS = 10_000  # latest inspections, or decisions on parts, that are counted


class LineAlarms(NamedTuple):
    """Count of a version's parts, each once.

    good: parts that nobody called a defect: those that passed, and those that were flagged.
    alarms: flagged ones that a person called good. unreviewed: flagged ones that nobody has
    reviewed.
    """

    good: int
    alarms: int
    unreviewed: int

    @classmethod
    def of(cls, found: Iterable[tuple[bool, str | None]]) -> LineAlarms:
        """Count parts by whether each was flagged, and its verdict."""
        flagged = [(is_flagged, verdict) for is_flagged, verdict in found if verdict != DEFECT]
        return cls(len(flagged), flagged.count((True, GOOD)), flagged.count((True, None)))


def hold_promise(versions: ModelRegistry, product_id: int) -> dict[str, Any] | None:
    """Return what the active version promises, what was counted on the line, and the verdict of
    `Promise.judge_line`, as the API shows it; None without a promise."""
    try:
        version, predictor = versions.active(product_id)
    except NoModelError:
        return None
    promise = rates.promise_of(predictor.manifest)
    if not promise.is_made:
        return None
    count = (_count_parts if promise.by_part else _count_pictures)(versions.database, product_id, version)
    verdict = promise.judge_line(*count)
    told = {"version": version, "rate": promise.rate, "interval": [*promise.interval], **count._asdict()}
    return {**told, "line_interval": [*verdict.interval], "state": verdict.state}


def _count_pictures(database: Database, product_id: int, version: int) -> LineAlarms:
    """Count pictures, of a part that came again the first one. Those within tolerance are left out, and those
    that the version has learnt from."""
    learnt = exists().where(
        learnt_pixels.c.version_id == version, learnt_pixels.c.pixels == pictures.c.pixels
    )
    query = (
        select(*(inspections.c[name] for name in ("picture", "part", "batch", "anomalous", "verdict")))
        .select_from(inspections.join(pictures))
        .where(on_line(product_id), inspections.c.version_id == version)
        .where(~inspections.c.tolerated, ~learnt)
        .order_by(inspections.c.id.desc())
        .limit(RECENT_PARTS)
    )
    found = {}
    with database.reading() as connection:
        for row in connection.execute(query):
            found[(row.batch, row.part) if row.part else row.picture] = bool(row.anomalous), row.verdict
    return LineAlarms.of(found.values())


def _count_parts(database: Database, product_id: int, version: int) -> LineAlarms:
    """Count decisions on parts in several views, of a part that came again the first one. A part has the
    verdict on its most unusual view, and is a defect where any view is."""
    latest = (
        select(parts.c.id)
        .where(on_line(product_id, parts), parts.c.version_id == version)
        .where(parts.c.decision.in_(("good", "anomalous")))
        .order_by(parts.c.id.desc())
        .limit(RECENT_PARTS)
    )
    columns = (parts.c[name] for name in ("id", "batch", "part", "decision", "worst"))
    query = (
        select(*columns, inspections.c.view, inspections.c.verdict)
        .select_from(parts.join(inspections, inspections.c.part_id == parts.c.id))
        .where(parts.c.id.in_(latest))
        .order_by(parts.c.id.desc())
    )
    found: dict[Any, tuple[int, bool, str | None]] = {}
    with database.reading() as connection:
        for row in connection.execute(query):
            key = row.batch, row.part
            before = found.get(key)
            verdict = before[2] if before is not None and before[0] == row.id else None
            if row.verdict == DEFECT or (row.view == row.worst and verdict is None):
                verdict = row.verdict
            found[key] = row.id, row.decision == "anomalous", verdict
    return LineAlarms.of((is_flagged, verdict) for _, is_flagged, verdict in found.values())
