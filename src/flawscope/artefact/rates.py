"""False-alarm rates of a model: the promise and the defects found at each rate.

A rate moves the threshold among the scores that the model file keeps. Nothing is learnt anew: a model at
another rate is the same network with another calibration.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypedDict

from flawscope.artefact.detection import decided_defects
from flawscope.artefact.model_facts import ModelFacts
from flawscope.artefact.model_file import Manifest
from flawscope.calibration.holding_out import min_calibration_size
from flawscope.calibration.power import MIN_DEFECTS, wilson_interval
from flawscope.calibration.promise import (
    PromiseVerdict,
    confidence_interval_rate,
    describe_missing,
    judge_promise,
    rate_interval,
    units_missing,
)
from flawscope.calibration.threshold import OFFERED_RATES
from flawscope.errors import InputError

OFFERED = OFFERED_RATES
_ROUNDING = 1e-9
# states of a `LineVerdict`
NOTHING = "nothing"
KEPT = "kept"
BROKEN = "broken"
OPEN = "open"


def offered_rates() -> list[tuple[float, int]]:
    """Return the rates that people choose from, each with the number of good pictures or parts it needs."""
    return [(rate, min_calibration_size(rate)) for rate in OFFERED]


class LineVerdict(NamedTuple):
    """Whether a line keeps a promise, where not all flagged parts were reviewed.

    Attributes:
        state: `NOTHING` where nothing was counted, `KEPT`, `BROKEN`, or `OPEN` where it depends on the parts
            that are not reviewed.
        interval: Interval, 0..1, that holds the share of good parts that are flagged with 95 %.
    """

    state: str
    interval: tuple[float, float]


class Promise(NamedTuple):
    """False alarms that a model promises.

    Attributes:
        text: Line for a person.
        is_made: Whether there is a promise.
        wanted: Target rate, 0..1.
        rate: Expected share of good pictures, or parts in several views, called anomalous.
        calibrated: Number of units that it comes from.
        of_parts: Whether a unit may have several pictures.
        by_part: Whether parts in several views are judged.
    """

    text: str
    is_made: bool
    wanted: float
    rate: float
    calibrated: int
    of_parts: bool
    by_part: bool = False

    @property
    def missing(self) -> int:
        """Number of further units that the wanted rate needs."""
        return units_missing(self.wanted, self.calibrated)

    def describe_missing(self) -> str:
        """Return `missing` in words; empty where none are missing."""
        return describe_missing(self.wanted, self.calibrated, self.of_parts)

    @property
    def interval(self) -> tuple[float, float]:
        """Interval, 0..1, that holds the rate of this single model with 95 %."""
        return rate_interval(self.rate, self.calibrated)

    def judge(self, alarms: int, pictures: int) -> PromiseVerdict:
        """Judge whether the promise was kept, by new good pictures or parts; only valid where `is_made`.

        Args:
            alarms: Number of the pictures that were called anomalous.
            pictures: Number of new good pictures, or parts.
        """
        return judge_promise(alarms, pictures, self.rate, self.calibrated)

    def judge_line(self, good: int, alarms: int, unreviewed: int) -> LineVerdict:
        """Judge a line by its smallest and its largest possible number of false alarms.

        People review mostly flagged parts: the share of false alarms among reviewed parts would be too high.

        Args:
            good: Number of parts that nobody called a defect, flagged or not.
            alarms: Number of these parts that were flagged and then called good.
            unreviewed: Number of these parts that were flagged, and that nobody has reviewed.
        """
        most = alarms + unreviewed
        state = BROKEN if self.judge(alarms, good).broken else OPEN if self.judge(most, good).broken else KEPT
        interval = confidence_interval_rate(alarms, good)[0], confidence_interval_rate(most, good)[1]
        return LineVerdict(state if good else NOTHING, interval)


def promise_of(model: Manifest | ModelFacts) -> Promise:
    """Return the promise of a model of one product, on good pictures or, if it decides on them, parts."""
    facts = ModelFacts.of(model)
    if facts.parts is None:
        (manifest,) = facts.manifests.values()
        scores = manifest.calibration
        return Promise(
            text=scores.promise(),
            is_made=scores.promised,
            wanted=scores.rate,
            rate=scores.expected_rate,
            calibrated=scores.unit_count,
            of_parts=scores.has_shared_units,
        )
    (known,) = facts.known_parts().values()
    parts = known.calibration
    count = parts.complete_count
    return Promise(
        text=parts.promise(),
        is_made=count > 1,
        wanted=parts.rate,
        rate=parts.expected_rate,
        calibrated=count,
        of_parts=True,
        by_part=True,
    )


class PromiseFacts(TypedDict):
    """Promise of a model for pages.

    Attributes:
        promised: Whether there is a promise.
        rate: Expected share of good pictures or parts called anomalous, 0..1.
        calibrated: Number of pictures, or parts, that it comes from.
        missing: Number of further pictures, or parts, that the wanted rate needs.
        wanted_rate: Target rate, 0..1.
        of_parts: Whether `calibrated` and `missing` count parts.
        several: Whether a picture shows several parts, and the rate is that of pictures.
    """

    promised: bool
    rate: float
    calibrated: int
    missing: int
    wanted_rate: float
    of_parts: bool
    several: bool


def promise_facts(model: Manifest | ModelFacts) -> PromiseFacts:
    """Return the promise of a model for pages."""
    facts = ModelFacts.of(model)
    promise = promise_of(facts)
    return {
        "promised": promise.is_made,
        "rate": promise.rate,
        "calibrated": promise.calibrated,
        "missing": promise.missing,
        "wanted_rate": promise.wanted,
        # where pictures show one part alone, only other parts help
        "of_parts": promise.of_parts or not promise.is_made,
        "several": any(manifest.preprocess.several is not None for manifest in facts.manifests.values()),
    }


def check_rate(model: Manifest | ModelFacts, rate: float) -> None:
    """Raise an InputError where a model's good pictures do not support a false-alarm rate."""
    promise = promise_of(ModelFacts.of(model).with_rate(rate))
    if not promise.is_made:
        raise InputError(
            "the model promises no false-alarm rate, so it has none to change: learn from more parts"
        )
    if promise.rate > rate + _ROUNDING:
        more = promise.describe_missing()  # empty where pictures that were counted wrong are in the way
        raise InputError(
            f"a false-alarm rate of {100 * rate:g} % cannot be kept: the model is calibrated on "
            f"{promise.calibrated} good ones, which support {_round_up(100 * promise.rate):g} % or more; "
            f"choose that{', or learn from ' if more else ''}{more}"
        )


def _round_up(percent: float) -> float:
    """Return a percentage rounded up to two digits: a rate that is advised must be one that is supported."""
    digits = 1 - math.floor(math.log10(percent))
    scale = 10.0**digits
    return math.ceil(percent * scale - 1e-6) / scale


def describe_rates(model: Manifest | ModelFacts) -> list[dict[str, Any]]:
    """Return a row for each offered rate, and for the model's own, from the highest rate down.

    Keys of a row:

    - `rate`: the rate, 0..1.
    - `expected`: share of good pictures, or parts, that will be called anomalous.
    - `at_most`: bound on that share for all rates at once (`Calibration.rate_bound`); None for parts, and
      without a promise.
    - `supported`: whether the good pictures are enough for the rate.
    - `missing`: number of further good pictures, or parts, that it needs.
    - `threshold`: score threshold of a single model; None for several.
    - `found`: simulated defects by size, [found, all]; empty where too few of a size were tried.
    """
    facts = ModelFacts.of(model)
    rows = []
    for rate in sorted({*OFFERED, facts.rate}, reverse=True):
        at = facts.with_rate(rate)
        promise = promise_of(at)
        calibrations = [manifest.calibration for manifest in at.manifests.values()]
        is_bound = promise.is_made and not promise.by_part
        rows.append(
            {
                "rate": rate,
                "expected": promise.rate,
                "at_most": max(calibration.rate_bound for calibration in calibrations) if is_bound else None,
                "supported": promise.is_made and promise.rate <= rate + _ROUNDING,
                "missing": promise.missing,
                "threshold": calibrations[0].score_threshold if len(calibrations) == 1 else None,
                "found": _found_by_size(at),
            }
        )
    return rows


def _found_by_size(facts: ModelFacts) -> dict[str, list[int]]:
    """Return simulated defects by size, [found, all], summed over the models of all views.

    Empty where too few of a size were tried.
    """
    found: dict[str, list[int]] = {}
    for name, manifest in facts.manifests.items():
        tried = decided_defects(manifest, facts.parts_of(name))
        if tried is None or any(len(scores) < MIN_DEFECTS for scores in tried.scores.values()):
            return {}
        for size in tried.scores:
            counts = found.setdefault(size, [0, 0])
            for k, number in enumerate(tried.count_found(size)):
                counts[k] += number
    return found


def found_interval(found: int, count: int) -> tuple[float, float] | None:
    """Return the 95 % interval, 0..1, of the share of simulated defects that is found; None for too few.

    Args:
        found: Number of simulated defects of a size that are found.
        count: Number of simulated defects of that size; fewer than `MIN_DEFECTS` give None.
    """
    return None if count < MIN_DEFECTS else wilson_interval(found, count)
