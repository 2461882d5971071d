"""False-alarm rate of the active version: the expected rate beside the rate counted on the line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypedDict

from sqlalchemy import exists, select

from flawscope.artefact import ModelFacts, rates
from flawscope_station.store.database import Database
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.records import DEFECT, GOOD
from flawscope_station.store.schema import (
    inspections,
    learnt_pixels,
    on_line,
    pictures,
)

RECENT_PARTS = 10_000  # latest inspections that are counted


class LineAlarms(NamedTuple):
    """Counts of a version's parts, each part once.

    Attributes:
        good: Parts that nobody called a defect, passed or flagged.
        alarms: Flagged parts that a person called good.
        unreviewed: Flagged parts that nobody has reviewed.
    """

    good: int
    alarms: int
    unreviewed: int

    @classmethod
    def of(cls, found: Iterable[tuple[bool, str | None]]) -> LineAlarms:
        """Count parts by whether each was flagged, and its verdict."""
        flagged = [(is_flagged, verdict) for is_flagged, verdict in found if verdict != DEFECT]
        return cls(len(flagged), flagged.count((True, GOOD)), flagged.count((True, None)))


def active_promise(
    versions: ModelRegistry, product_id: int
) -> tuple[int, ModelFacts, rates.Promise] | tuple[None, None, None]:
    """Return the active version, its model's facts and its expected rate; None: no version is active."""
    try:
        version, model = versions.active(product_id)
    except NoModelError:
        return None, None, None
    return version, model.facts, rates.promise_of(model.facts)


class ActivePromise(rates.PromiseFacts):
    """Expected false-alarm rate of the active version."""

    version: int


def active_promise_facts(versions: ModelRegistry, product_id: int) -> ActivePromise | None:
    """Return the active version's expected rate as the API shows it; None: no version is active."""
    version, facts, _ = active_promise(versions, product_id)
    if version is None or facts is None:
        return None
    return {"version": version, **rates.promise_facts(facts)}


class KeptPromise(TypedDict):
    """Expected false-alarm rate of a version beside the counts on the line (`LineAlarms`).

    Attributes:
        rate: Expected rate.
        interval: 95 % interval of the expected rate.
        line_interval: 95 % interval of the rate on the line.
        state: nothing, kept, broken or open.
    """

    version: int
    rate: float
    interval: list[float]
    good: int
    alarms: int
    unreviewed: int
    line_interval: list[float]
    state: str


def compare_false_alarm_rates(versions: ModelRegistry, product_id: int) -> KeptPromise | None:
    """Compare the active version's expected rate with the counts on the line, as the API shows it.

    The verdict is that of `Promise.judge_line`. None where no version is active, or it has no expected rate.
    """
    version, _, promise = active_promise(versions, product_id)
    if version is None or promise is None or not promise.is_made:
        return None
    count = count_parts(versions.database, product_id, version)
    verdict = promise.judge_line(*count)
    return {
        "version": version,
        "rate": promise.rate,
        "interval": list(promise.interval),
        "good": count.good,
        "alarms": count.alarms,
        "unreviewed": count.unreviewed,
        "line_interval": list(verdict.interval),
        "state": verdict.state,
    }


def count_parts(database: Database, product_id: int, version: int) -> LineAlarms:
    """Count parts; a part that came again counts only the first time.

    Parts within tolerance are left out, and parts that the version has learnt from.
    """
    learnt = exists().where(
        learnt_pixels.c.version_id == version, learnt_pixels.c.pixels == pictures.c.pixels
    )
    column = inspections.c
    query = select(column.picture, column.part, column.batch, column.anomalous, column.verdict)
    query = query.select_from(inspections.join(pictures))
    query = query.where(on_line(product_id), column.version_id == version).where(~column.tolerated, ~learnt)
    query = query.order_by(column.id.desc()).limit(RECENT_PARTS)
    found = {}
    with database.reading() as connection:
        for picture, part, batch, is_flagged, verdict in connection.execute(query):
            found[(batch, part) if part else picture] = is_flagged, verdict
    return LineAlarms.of(found.values())
