"""False-alarm rates of a model: the expected rate and the defects found at each target rate.

A target rate moves the threshold among the scores that the model file keeps. Nothing is learnt anew: a model
at another rate is the same network with another calibration.
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
_ROUNDING = 1e-9  # by which rates may differ that would be equal without rounding
# States of a `LineVerdict`
NOTHING = "nothing"
KEPT = "kept"
BROKEN = "broken"
OPEN = "open"


def offered_rates() -> list[tuple[float, int]]:
    """Return the rates that people choose from, each with the number of good pictures or parts needed."""
    return [(rate, min_calibration_size(rate)) for rate in OFFERED]


class LineVerdict(NamedTuple):
    """Whether a line keeps the expected rate, though not all flagged parts were reviewed.

    Attributes:
        state: `NOTHING`: nothing was counted. `KEPT` or `BROKEN`: the rate is kept or not, whatever the
            parts are that were not reviewed. `OPEN`: it depends on these parts.
        interval: Interval, 0..1, that contains with a probability of 95 % the share of good parts that are
            flagged.
    """

    state: str
    interval: tuple[float, float]


class Promise(NamedTuple):
    """False alarms that a model promises.

    Attributes:
        text: Line for a person.
        is_made: Whether there is a promise.
        wanted: Target rate, 0..1.
        rate: Expected share of good pictures (or of parts in several views) called anomalous, 0..1.
        calibrated: Number of units that the rate comes from.
        of_parts: Whether a unit is a part that may have several pictures, and not a picture.
        by_part: Whether parts in several views are judged, and not pictures.
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
        """Interval, 0..1, that contains the rate of this single model with a probability of 95 %."""
        return rate_interval(self.rate, self.calibrated)

    def judge(self, alarms: int, pictures: int) -> PromiseVerdict:
        """Judge by new good pictures or parts whether the promise was kept. Call it only if `is_made`.

        Args:
            alarms: Number of the new good pictures, or parts, that were called anomalous.
            pictures: Number of the new good pictures, or parts.
        """
        return judge_promise(alarms, pictures, self.rate, self.calibrated)

    def judge_line(self, good: int, alarms: int, unreviewed: int) -> LineVerdict:
        """Judge a line by the smallest and the largest number of false alarms that it may have.

        The share of false alarms among reviewed parts would be too high, since people mostly review flagged
        parts.

        Args:
            good: Number of parts that nobody called a defect, flagged or not.
            alarms: Number of these parts that were flagged and then called good.
            unreviewed: Number of these parts that were flagged, and that nobody has reviewed.
        """
        max_alarms = alarms + unreviewed
        if not good:
            state = NOTHING
        elif self.judge(alarms, good).broken:
            state = BROKEN
        elif self.judge(max_alarms, good).broken:
            state = OPEN
        else:
            state = KEPT
        low, _ = confidence_interval_rate(alarms, good)
        _, high = confidence_interval_rate(max_alarms, good)
        return LineVerdict(state, (low, high))


def promise_of(model: Manifest | ModelFacts) -> Promise:
    """Return the promise of a model of one product: on parts if it decides on parts, else on pictures."""
    facts = ModelFacts.of(model)
    if facts.parts is None:
        (manifest,) = facts.manifests.values()
        calibration = manifest.calibration
        return Promise(
            text=calibration.promise(),
            is_made=calibration.promised,
            wanted=calibration.rate,
            rate=calibration.expected_rate,
            calibrated=calibration.unit_count,
            of_parts=calibration.has_shared_units,
        )
    (known_parts,) = facts.known_parts().values()
    part_calibration = known_parts.calibration
    part_count = part_calibration.complete_count
    return Promise(
        text=part_calibration.promise(),
        is_made=part_count > 1,  # as in `PartCalibration.promise`
        wanted=part_calibration.rate,
        rate=part_calibration.expected_rate,
        calibrated=part_count,
        of_parts=True,
        by_part=True,
    )


class PromiseFacts(TypedDict):
    """Promise of a model, in the form that pages use.

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
        # without a promise, all pictures may be of one part: then further parts are needed, not pictures
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
        remedy = "choose that"
        # empty if there are enough pictures, and only those that were counted wrong stand in the way
        missing = promise.describe_missing()
        if missing:
            remedy += f", or learn from {missing}"
        raise InputError(
            f"a false-alarm rate of {100 * rate:g} % cannot be kept: the model is calibrated on "
            f"{promise.calibrated} good ones, which support {_round_up(100 * promise.rate):g} % or more; "
            f"{remedy}"
        )


def _round_up(percent: float) -> float:
    """Return a percentage rounded up to two significant digits, so that an advised rate is supported."""
    decimals = 1 - math.floor(math.log10(percent))  # that leave two significant digits
    scale = 10.0**decimals
    return math.ceil(percent * scale - 1e-6) / scale  # 1e-6: a number that has two digits stays unchanged


def describe_rates(model: Manifest | ModelFacts) -> list[dict[str, Any]]:
    """Return a row for each offered rate, and for the model's own, from the highest rate down.

    Keys of a row:

    - `rate`: the rate, 0..1.
    - `expected`: share of good pictures, or parts, that will be called anomalous.
    - `at_most`: bound on that share that holds for all rates together (`Calibration.rate_bound`); None if
      the model decides on parts or makes no promise.
    - `supported`: whether the good pictures are enough for the rate.
    - `missing`: number of further good pictures, or parts, that it needs.
    - `threshold`: score threshold of a single model; None for several.
    - `found`: simulated defects by size, each [number found, number tried]; empty where too few were tried.
    """
    facts = ModelFacts.of(model)
    rows = []
    for rate in sorted({*OFFERED, facts.rate}, reverse=True):
        facts_at_rate = facts.with_rate(rate)
        promise = promise_of(facts_at_rate)
        calibrations = [manifest.calibration for manifest in facts_at_rate.manifests.values()]
        rate_bound = None
        if promise.is_made and not promise.by_part:
            rate_bound = max(calibration.rate_bound for calibration in calibrations)
        rows.append(
            {
                "rate": rate,
                "expected": promise.rate,
                "at_most": rate_bound,
                "supported": promise.is_made and promise.rate <= rate + _ROUNDING,
                "missing": promise.missing,
                "threshold": calibrations[0].score_threshold if len(calibrations) == 1 else None,
                "found": _found_by_size(facts_at_rate),
            }
        )
    return rows


def _found_by_size(facts: ModelFacts) -> dict[str, list[int]]:
    """Return the numbers of simulated defects, [found, all], by size and summed over all models.

    Empty if a model was not tried, or was tried with too few defects of a size.
    """
    counts_by_size: dict[str, list[int]] = {}
    for name, manifest in facts.manifests.items():
        defects = decided_defects(manifest, facts.parts_of(name))
        if defects is None or any(len(scores) < MIN_DEFECTS for scores in defects.scores.values()):
            return {}
        for size in defects.scores:
            found_count, count = defects.count_found(size)
            found_sum, count_sum = counts_by_size.get(size, [0, 0])
            counts_by_size[size] = [found_sum + found_count, count_sum + count]
    return counts_by_size


def found_interval(found: int, count: int) -> tuple[float, float] | None:
    """Return the 95 % interval, 0..1, of the share of simulated defects that is found.

    Args:
        found: Number of simulated defects of a size that are found.
        count: Number of simulated defects of that size; fewer than `MIN_DEFECTS` give None.
    """
    return None if count < MIN_DEFECTS else wilson_interval(found, count)
