"""False-alarm rates of a model: what each promises and would find, and the model at another one.

A rate moves the threshold among the scores that the model file keeps, so nothing is learnt anew: a model at
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
NOTHING, KEPT, BROKEN, OPEN = "nothing", "kept", "broken", "open"  # states of a `LineVerdict`


def offered_rates() -> list[tuple[float, int]]:
    """Return the rates that people choose from, each with the number of good pictures, or parts, that it
    needs.
    """
    return [(rate, min_calibration_size(rate)) for rate in OFFERED]


class LineVerdict(NamedTuple):
    """Whether a line keeps a promise, where not all flagged parts were reviewed.

    state: `NOTHING` was counted, `KEPT`, `BROKEN`, or `OPEN`: that depends on those not reviewed. interval:
    0..1, in which the share of good parts that are flagged lies with 95 %.
    """

    state: str
    interval: tuple[float, float]


class Promise(NamedTuple):
    """False alarms that a model promises.

    text: line for a person. is_made: whether there is a promise. wanted: the rate asked for. rate: expected
    share of good pictures, or parts in several views, called anomalous. calibrated: how many units it comes
    from. of_parts: whether a unit may have several pictures. by_part: whether parts in several views are
    judged.
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
        """Words `missing`; empty: nothing is."""
        return describe_missing(self.wanted, self.calibrated, self.of_parts)

    @property
    def interval(self) -> tuple[float, float]:
        """Interval, 0..1, in which the rate of this one model lies with 95 %."""
        return rate_interval(self.rate, self.calibrated)

    def judge(self, alarms: int, pictures: int) -> PromiseVerdict:
        """Judges by so many new good pictures, or parts, whether it was kept, as `evaluate` does: alarms of
        them were called anomalous. Of a model that promises nothing ask `is_made` first.
        """
        return judge_promise(alarms, pictures, self.rate, self.calibrated)

    def judge_line(self, good: int, alarms: int, unreviewed: int) -> LineVerdict:
        """Judges a line by its least and its most possible number of false alarms.

        What people review is mostly what was flagged, so a share of what they reviewed would say too much.

        Args:
            good: number of parts that nobody called a defect, flagged or not.
            alarms: number of those that were flagged and then called good.
            unreviewed: number of those that were flagged, and that nobody has reviewed.
        """
        most = alarms + unreviewed
        state = BROKEN if self.judge(alarms, good).broken else OPEN if self.judge(most, good).broken else KEPT
        interval = confidence_interval_rate(alarms, good)[0], confidence_interval_rate(most, good)[1]
        return LineVerdict(state if good else NOTHING, interval)


def promise_of(model: Manifest | ModelFacts) -> Promise:
    """Return what a model of one product promises of good pictures, or of good parts where it decides on
    those.
    """
    facts = ModelFacts.of(model)
    if facts.parts is None:
        (manifest,) = facts.manifests.values()
        scores = manifest.calibration
        of = scores.expected_rate, scores.unit_count, scores.has_shared_units
        return Promise(scores.promise(), scores.promised, scores.rate, *of)
    (known,) = facts.known_parts().values()
    parts = known.calibration
    count = parts.complete_count
    return Promise(parts.promise(), count > 1, parts.rate, parts.expected_rate, count, True, by_part=True)


class PromiseFacts(TypedDict):
    """Promise of a model as pages show it.

    promised: whether there is one. rate: expected share of good ones called anomalous. calibrated, missing:
    number of pictures, or parts, that it comes from, and of those that the wanted rate needs more. of_parts:
    whether these count parts. several: whether a picture shows several parts, and the rate is of pictures.
    """

    promised: bool
    rate: float
    calibrated: int
    missing: int
    wanted_rate: float
    of_parts: bool
    several: bool


def promise_facts(model: Manifest | ModelFacts) -> PromiseFacts:
    """Return what a model promises, as pages show it."""
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
        "several": any(one.preprocess.several is not None for one in facts.manifests.values()),
    }


def check_rate(model: Manifest | ModelFacts, rate: float) -> None:
    """InputError where a model's good pictures do not support a false-alarm rate."""
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
    """Round up to two digits, so that what is advised can be chosen."""
    digits = 1 - math.floor(math.log10(percent))
    scale = 10.0**digits
    return math.ceil(percent * scale - 1e-6) / scale


def describe_rates(model: Manifest | ModelFacts) -> list[dict[str, Any]]:
    """Return for each rate that is offered, and the model's own: `rate`; `expected`, the share of good ones
    that will be called anomalous; `supported`; `missing`, how many more good ones it needs; `threshold`, of
    one model; and `found`, simulated defects by size: found, all; empty where too few of a size were
    tried.
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
                "at_most": max(one.rate_bound for one in calibrations) if is_bound else None,
                "supported": promise.is_made and promise.rate <= rate + _ROUNDING,
                "missing": promise.missing,
                "threshold": calibrations[0].score_threshold if len(calibrations) == 1 else None,
                "found": _found_by_size(at),
            }
        )
    return rows


def _found_by_size(facts: ModelFacts) -> dict[str, list[int]]:
    """Simulated defects by size, found and all, over the models of all views; empty where too few of a size
    were tried.
    """
    found: dict[str, list[int]] = {}
    for name, manifest in facts.manifests.items():
        tried = decided_defects(manifest, facts.parts_of(name))
        if tried is None or any(len(one) < MIN_DEFECTS for one in tried.scores.values()):
            return {}
        for size in tried.scores:
            counts = found.setdefault(size, [0, 0])
            for k, number in enumerate(tried.count_found(size)):
                counts[k] += number
    return found


def found_interval(found: int, count: int) -> tuple[float, float] | None:
    """Returns the 95 % interval, 0..1, of the share of simulated defects of a size that is found; None where
    too few were tried for a number.
    """
    return None if count < MIN_DEFECTS else wilson_interval(found, count)
