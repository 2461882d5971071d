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
        good: Number of parts, passed or flagged, that nobody called a defect.
        alarms: Number of flagged parts that a person called good.
        unreviewed: Number of flagged parts that nobody has reviewed.
    """

    good: int
    alarms: int
    unreviewed: int

    @classmethod
    def of(cls, parts: Iterable[tuple[bool, str | None]]) -> LineAlarms:
        """Count good parts, false alarms, and flagged parts without a review.

        Args:
            parts: For each part, whether it was flagged, and its verdict (None: it has no verdict).
        """
        # nobody called these parts a defect
        good_parts = [(is_flagged, verdict) for is_flagged, verdict in parts if verdict != DEFECT]
        false_alarms = good_parts.count((True, GOOD))
        unreviewed = good_parts.count((True, None))
        return cls(len(good_parts), false_alarms, unreviewed)


def active_promise(
    versions: ModelRegistry, product_id: int
) -> tuple[int, ModelFacts, rates.Promise] | tuple[None, None, None]:
    """Return number, model facts and expected rate of the active version; three None if there is none."""
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


class FalseAlarmComparison(TypedDict):
    """Expected false-alarm rate of a version beside the counts on the line (`LineAlarms`).

    Attributes:
        version: Number of the version.
        rate: Expected rate.
        interval: 95 % interval of the expected rate.
        good: Number of parts that nobody called a defect.
        alarms: Number of flagged parts that a person called good.
        unreviewed: Number of flagged parts that nobody has reviewed.
        line_interval: 95 % interval of the rate on the line.
        state: Result of the comparison: nothing, kept, broken or open.
    """

    version: int
    rate: float
    interval: list[float]
    good: int
    alarms: int
    unreviewed: int
    line_interval: list[float]
    state: str


def compare_false_alarm_rates(versions: ModelRegistry, product_id: int) -> FalseAlarmComparison | None:
    """Compare the active version's expected rate with the counts on the line, by `Promise.judge_line`.

    Returns:
        The comparison as the API shows it; None: no version is active, or it has no expected rate.
    """
    version, _, promise = active_promise(versions, product_id)
    if version is None or promise is None or not promise.is_made:
        return None
    count = count_parts(versions.database, product_id, version)
    comparison = promise.judge_line(count.good, count.alarms, count.unreviewed)
    return {
        "version": version,
        "rate": promise.rate,
        "interval": list(promise.interval),
        "good": count.good,
        "alarms": count.alarms,
        "unreviewed": count.unreviewed,
        "line_interval": list(comparison.interval),
        "state": comparison.state,
    }


def count_parts(database: Database, product_id: int, version: int) -> LineAlarms:
    """Count the latest parts that a version judged on the line.

    If a part was inspected several times, only its first inspection counts. Parts within tolerance are left
    out, and so are parts that the version has learnt from.

    Args:
        database: Database of the station.
        product_id: Number of the product.
        version: Number of the version.
    """
    is_learnt = exists().where(
        learnt_pixels.c.version_id == version, learnt_pixels.c.pixels == pictures.c.pixels
    )
    inspection = inspections.c
    query = select(
        inspection.picture, inspection.part, inspection.batch, inspection.anomalous, inspection.verdict
    )
    query = query.select_from(inspections.join(pictures))
    query = query.where(on_line(product_id), inspection.version_id == version).where(
        ~inspection.tolerated, ~is_learnt
    )
    query = query.order_by(inspection.id.desc()).limit(RECENT_PARTS)
    # part -> flag and verdict; the newest come first, and a part's first inspection overwrites its later ones
    judgement_by_part = {}
    with database.reading() as connection:
        for picture, part, batch, is_flagged, verdict in connection.execute(query):
            identity = (batch, part) if part else picture  # without a number, each picture is a part
            judgement_by_part[identity] = is_flagged, verdict
    return LineAlarms.of(judgement_by_part.values())
