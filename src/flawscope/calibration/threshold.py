"""Turns a raw score into a decision: conformal p-values, thresholds and the colour scale.

All of this comes from good pictures alone. With n calibration scores the p-value of a score s is
(1 + #{scores >= s}) / (n + 1): if the next good picture is exchangeable with them, its p-value is at most
alpha with probability at most alpha, whatever the scores' distribution (Vovk, Gammerman & Shafer,
Algorithmic Learning in a Random World, 2005).

A picture that shows several parts scores as its worst part does, new or left out with all its parts; one with
a wrong number of parts ranks above all scores. So the guarantee holds for pictures, however their parts
depend on each other and however many there are.

Pictures of one part depend on each other: they form a unit, and units are exchangeable. With K units, of
which unit k has n_k scores s_ki, the p-value is (1 + sum_k mean_i 1{s_ki >= s}) / (K + 1): each unit weighs
the same, and a picture of a new unit, drawn by chance, keeps the rate (hierarchical conformal prediction:
Lee, Barber & Willett, Distribution-free inference with hierarchical data, 2023). Where each picture is a
unit, this is the formula above.

Whether a part is found is a matter of the line: people give pictures to a fit of which few are lost. Where a
larger share of the pictures is lost that were drawn from the line by chance, that share is the line's: the
lost ones weigh as much among all K, and the others share the rest. The K scores of those that were found stay
exchangeable, wherever they come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.promise import (
    describe_lack,
    describe_rate,
    rate_interval,
    simultaneous_bound,
    units_missing,
)
from flawscope.errors import InputError, decimal_point, pluralize
from flawscope.types import Array, Facts, Json

DEFAULT_RATE = 0.05
OFFERED_RATES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # that people choose from
Rate = float | str  # 0.05 or "5%"
NORMAL_MAD = 1.4826  # standard deviations of normal values in their median absolute deviation
MIN_FOR_SOLE = 5  # units, from which on it can be said that one lies apart from the others
SOLE_SHARE = 0.5  # of the threshold's height above the middle, which is left without the picture that sets it
FAR_SEVERITY = 3.0  # of a picture, by many others, from which on it may be as far out as defects are
FEW_FAR_SEVERITY = 2.6  # the same by few: times n / (n - 4), for n units; see `far_severity`
DEFAULT_OUTLINE = 0.65  # of the height nearby: chosen on simulated defects (docs/threshold.md)
MIN_SPREAD = 0.1  # of the way from good maps' level to their maxima; 0.13 to 0.36 was found on eight models


def parse_false_alarm_rate(value: Rate) -> float:
    """Read 0.05, "0.05" or "5%" as a number. InputError where it does not lie between 0 and 1."""
    try:
        text = decimal_point(str(value)).rstrip()
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 < number < 1:
        raise InputError(f"{value!r} is not a rate: write 0.05 or 5%")
    return number


def far_severity(count: int) -> float:
    """Return the severity from which on the highest of `count` scores is far out beside the others.

    Chance exceeds it in one of 16 draws of a Gumbel distribution (of maxima), simulated for 5 to 24 scores;
    for more it is `FAR_SEVERITY`, for fewer than 5 infinite. The spread of few scores is often far too small:
    the highest of 8 lies 3 spreads above the rest in one of 6 draws.
    """
    return max(FAR_SEVERITY, FEW_FAR_SEVERITY * count / (count - 4)) if count > 4 else math.inf


def _ranked(weights: NDArray[np.float64], missing: float, rate: float, units: int) -> tuple[int, float]:
    """Return the place of the threshold among falling scores, and the weight above it.

    Args:
        weights: [n], weights of the scores.
        missing: Weight of the pictures that rank above all scores.
        rate: Target false-alarm rate, 0..1.
        units: Number of units.
    """
    above = np.cumsum([missing, *weights[:-1]])  # [n], of those above each
    allowed = rate * (units + 1) - 1 + 1e-9
    place = max(0, int(np.searchsorted(above, allowed, side="right")) - 1)
    return place, float(above[place])


def _spread(
    scores: NDArray[np.float64], maxima: NDArray[np.float64], level: float, threshold: float
) -> float:
    """Return the `Calibration.spread` of scores and map maxima."""
    deviation = np.abs(scores - np.median(scores))
    reach = float(np.median(maxima)) - level
    least = 1e-6 * max(1.0, abs(threshold))
    return max(NORMAL_MAD * float(np.median(deviation)), MIN_SPREAD * reach, least)


class LineSample(NamedTuple):
    """Units that were drawn from the line by chance.

    Attributes:
        lost: Number of units that are lost; a unit with several pictures counts by the share that is lost.
        units: Number of units.
    """

    lost: float = 0.0
    units: int = 0

    @property
    def lost_share(self) -> float:
        """Share of the units that is lost, 0..1; 0 without units."""
        return self.lost / self.units if self.units else 0.0


NO_LINE = LineSample()


@dataclass(frozen=True)
class Calibration:
    """Thresholds and scales for new pictures, from the scores and maps of good ones.

    Attributes:
        scores: Raw scores of the good pictures that count, in the order of their rows (`rows.calibrate`).
        map_maxima: Maximum of each picture's map.
        map_level: Median map value of good pictures: the dark end of the colour scale.
        rate: Target false-alarm rate, 0..1.
        method: How the scores were made, for the reader: "leave-one-picture-out", "held out", ...
        runtime: Engine that gave the scores.
        precision: Precision of the model that gave the scores.
        promised: Whether the good pictures' scores are like those of new ones. False where all pictures show
            one and the same part, which was compared with itself.
        miscounted: Number of good pictures, beside those with a score, whose parts were counted wrong: they
            are called anomalous whatever they score, and count as above all scores.
        units: [count], number of the unit of each score, then of each miscounted picture; pictures of one
            part, and near-duplicates, share a unit. Empty: each picture is a unit.
        line: The units that were drawn from the line by chance: they give the share of the line's pictures
            that is lost.
        outline: Height of an outline, as a share of the way from `map_level` to the region's peak nearby; 0:
            at the mask threshold.
    """

    scores: tuple[float, ...]
    map_maxima: tuple[float, ...]
    map_level: float
    rate: float = DEFAULT_RATE
    method: str = "held out"
    runtime: str = "torch"
    precision: str = "fp32"
    promised: bool = True
    outline: float = 0.0
    miscounted: int = 0
    units: tuple[int, ...] = ()
    line: LineSample = NO_LINE

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.map_maxima):
            raise InputError("calibration needs at least one good picture, each with a score and a map")
        if not all(math.isfinite(v) for v in (*self.scores, *self.map_maxima, self.map_level)):
            raise InputError("calibration scores must be finite numbers")
        if not 0 < self.rate < 1:
            raise InputError(f"a false-alarm rate of {self.rate} makes no sense: choose between 0 and 1")
        if self.miscounted < 0:
            raise InputError(f"{self.miscounted} pictures counted wrong make no sense: fit anew")
        if self.units and len(self.units) != self.count:
            raise InputError("calibration needs a unit for each score, or none: fit anew")
        if len({*self.units}) == len(self.units):  # each picture is one
            object.__setattr__(self, "units", ())
        if not 0 <= self.outline < 1:
            raise InputError(f"an outline at {self.outline} of a region's height: choose from 0 to below 1")

    def __repr__(self) -> str:
        promise = (
            f"{self.expected_rate:.1%} of good pictures expected above it" if self.promised else "no promise"
        )
        return (
            f"<Calibration score threshold {self.score_threshold:.4g}, {promise}, from "
            f"{self.describe_pictures()} ({self.method}), "
            f"mask threshold {self.mask_threshold:.4g}>"
        )

    @property
    def count(self) -> int:
        """Number of good pictures, with the miscounted ones."""
        return len(self.scores) + self.miscounted

    @property
    def unit_count(self) -> int:
        """Number of units, K, from which the promised rate follows."""
        return len({*self.units}) or self.count

    @property
    def has_shared_units(self) -> bool:
        """Whether some unit has several pictures."""
        return self.unit_count < self.count

    @property
    def effective_rate(self) -> float:
        """Target rate, or the smallest rate that the units can promise where that is larger.

        With K units it is 1/(K + 1), and (m + 1)/(K + 1) where m of them were counted wrong.
        """
        return max(self.rate, (1.0 + self._miscounted_weight) / (self.unit_count + 1))

    @property
    def expected_rate(self) -> float:
        """Expected share of new good pictures above the threshold: at most the target if possible.

        Where each picture is a unit it is k/(n + 1).
        """
        return (1 + self._score_rank[1]) / (self.unit_count + 1)

    @property
    def rate_interval(self) -> tuple[float, float]:
        """Interval, 0..1, that holds the false-alarm rate of this single model with 95 %.

        `expected_rate` is the mean of such models.
        """
        return rate_interval(self.expected_rate, self.unit_count)

    @property
    def rate_bound(self) -> float:
        """Bound, 0..1, on the false-alarm rate of this single model, with 95 % for all thresholds at once.

        It also holds for a threshold that was chosen by the pictures that it finds
        (`promise.simultaneous_bound`).
        """
        above = int((self._unit_maxima > self.score_threshold).sum())
        above = max(above, math.ceil(self._score_rank[1] - 1e-9))  # more are lost on the line
        return simultaneous_bound(above + 1, self.unit_count) if above < self.unit_count else 1.0

    @cached_property
    def _unit_maxima(self) -> NDArray[np.float64]:
        """Largest score of each unit [K], ascending; infinite where a picture of it was counted wrong."""
        found: dict[int, float] = {}
        scores = (*self.scores, *[math.inf] * self.miscounted)
        for unit, score in zip(self.units or range(self.count), scores, strict=True):
            found[unit] = max(score, found.get(unit, -math.inf))
        return np.sort(np.array([*found.values()], dtype=np.float64))

    def unit_p_values(self, scores: Array | float) -> NDArray[np.float64]:
        """Return p-values of raw scores, any shape, among the largest score of each good unit.

        They are the `p_values` where each picture is a unit, otherwise never smaller. They judge a batch of
        pictures of new units.
        """
        place = np.searchsorted(self._unit_maxima, np.asarray(scores, dtype=np.float64), side="left")
        by_units = (1.0 + self.unit_count - place) / (self.unit_count + 1.0)
        at_least = self.p_values(scores)  # more may be lost on the line
        return np.asarray(np.maximum(by_units, at_least), dtype=np.float64)

    @property
    def pictures_missing(self) -> int:
        """Number of further units that the target rate needs; 0 where it is met.

        A unit is a good picture of another part.
        """
        return units_missing(self.rate, self.unit_count)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Weights [count] of the pictures: of those with a score, then of those with parts counted wrong.

        The pictures of a unit have a weight of 1 together, and all pictures `unit_count`. Where a larger
        share is lost on the line than here, the pictures without a score get that share of the weight.
        """
        weights = np.ones(self.count)
        if self.units:
            _, unit, sizes = np.unique(self.units, return_inverse=True, return_counts=True)
            weights = np.asarray(1.0 / sizes[unit], dtype=np.float64)
        scored = len(self.scores)
        total = float(weights.sum())
        lost = float(weights[scored:].sum())
        lost_on_line = total * self.line.lost_share
        if 0 < lost < lost_on_line:
            weights[:scored] *= (total - lost_on_line) / (total - lost)
            weights[scored:] *= lost_on_line / lost
        return weights

    @property
    def _miscounted_weight(self) -> float:
        return float(self.weights[len(self.scores) :].sum())

    def _rank(self, values: tuple[float, ...]) -> tuple[float, float]:
        """Return the threshold among values, and the weight of all pictures above it.

        The threshold is the smallest value above which the p-value is at most the rate; where there is none,
        the largest value.
        """
        falling = np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")
        weights = self.weights[falling]
        place, weight = _ranked(weights, self._miscounted_weight, self.rate, self.unit_count)
        return float(values[falling[place]]), weight

    @cached_property
    def _score_rank(self) -> tuple[float, float]:  # asked for with every picture
        return self._rank(self.scores)

    @cached_property
    def _mask_rank(self) -> tuple[float, float]:
        return self._rank(self.map_maxima)

    @property
    def score_threshold(self) -> float:
        """Threshold above which a picture's score makes it anomalous."""
        return self._score_rank[0]

    @property
    def mask_threshold(self) -> float:
        """Threshold above which pixels' map values make a region: good pictures have none at the same rate.

        `outline` sets how much of the region is outlined.
        """
        return self._mask_rank[0]

    @property
    def colour_range(self) -> tuple[float, float]:
        """Map values at the dark and the bright end; the mask threshold lies in the middle."""
        level = min(self.map_level, self.mask_threshold)
        reach = max(self.mask_threshold - level, 1e-6 * max(1.0, abs(level)))
        return level, level + 2.0 * reach

    @cached_property
    def spread(self) -> float:
        """Spread of good pictures' scores, in units of the score, above 0.

        It is their median absolute deviation, scaled to the standard deviation of normal scores, and at least
        a tenth of the way from good maps' level to their median maximum: a single picture, or equal scores,
        have a spread too.
        """
        return _spread(np.array(self.scores), np.array(self.map_maxima), self.map_level, self.score_threshold)

    def severity(self, scores: Array | float) -> NDArray[np.float64]:
        """Return the severity of raw scores, any shape: (score - score threshold) / spread.

        Above 0 exactly where a picture is anomalous; comparable between sizes, methods and models, and
        without the p-value's floor.
        """
        above = np.asarray(scores, dtype=np.float64) - self.score_threshold
        return np.asarray(above / self.spread, dtype=np.float64)

    @cached_property
    def _ordered(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores [n], ascending, and the weight [n + 1] of all pictures from each place on."""
        scores = np.asarray(self.scores, dtype=np.float64)
        order = np.argsort(scores, kind="stable")
        return scores[order], np.cumsum([self._miscounted_weight, *self.weights[order[::-1]]])[::-1]

    def p_values(self, scores: Array | float) -> NDArray[np.float64]:
        """Return conformal p-values, in 1/(K + 1)..1, of raw scores of any shape."""
        ordered, at_least = self._ordered
        place = np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), side="left")
        return np.asarray((1.0 + at_least[place]) / (self.unit_count + 1.0), dtype=np.float64)

    def is_anomalous(self, scores: Array | float) -> NDArray[np.bool_]:
        """Whether the p-value is at most the effective rate: the score is above the threshold, or NaN."""
        return np.asarray(~(np.asarray(scores, dtype=np.float64) <= self.score_threshold))

    def with_rate(self, rate: Rate) -> Calibration:
        """Return the calibration for another target false-alarm rate, 0.05 or "5%"."""
        return replace(self, rate=parse_false_alarm_rate(rate))

    def without_units(self, places: Sequence[int]) -> Calibration:
        """Return the calibration without the units of the scores at `places`.

        It is unchanged where no other unit has a score.
        """
        unit = self.units or tuple(range(self.count))
        left_out = {unit[place] for place in places}
        kept = [k for k in range(self.count) if unit[k] not in left_out]
        counted = [k for k in kept if k < len(self.scores)]
        if not counted:
            return self
        scores = [self.scores[k] for k in counted]
        maxima = [self.map_maxima[k] for k in counted]
        units = [self.units[k] for k in kept] if self.units else []
        return replace(
            self,
            scores=tuple(scores),
            map_maxima=tuple(maxima),
            miscounted=len(kept) - len(counted),
            units=tuple(units),
        )

    def sole_threshold(self) -> tuple[int, float] | None:
        """Return the place of the score that alone sets the threshold, and the threshold without its unit.

        That threshold has at most half the height above the middle of the scores. None: no score alone sets
        the threshold, or the units are fewer than `MIN_FOR_SOLE`.
        """
        place = self.scores.index(self.score_threshold)
        without = self.without_units([place]).score_threshold
        return (place, without) if self.unit_count >= MIN_FOR_SOLE and self.is_sole(without) else None

    def is_sole(self, without: float) -> bool:
        """Whether the threshold `without` some scores has at most half the height above the middle."""
        middle = float(np.median(self.scores))
        return without - middle <= SOLE_SHARE * (self.score_threshold - middle)

    def far_out(self) -> list[int]:
        """Return the places of scores that are far out beside those of other units, highest first.

        It is the largest number of highest scores, up to a quarter of all, whose lowest is far out beside the
        rest without all of them. Two that are equally far out do not hide each other.
        """
        return list(self._far_out)

    @cached_property
    def _far_out(self) -> list[int]:
        scores = np.array(self.scores)
        maxima = np.array(self.map_maxima)
        count = len(self.scores)
        falling = np.argsort(-scores, kind="stable")
        _, unit = np.unique(self.units or range(self.count), return_inverse=True)
        highest = np.full(unit.max() + 1, count)  # place of each unit's highest score, falling
        np.minimum.at(highest, unit[falling], np.arange(count))
        places = highest[unit[falling]]
        wrong = highest[unit[count:]]
        scores = scores[falling]
        maxima = maxima[falling]
        weights = self.weights[falling]
        for most in range(max(1, self.count // 4), 0, -1):  # as `without_units`, but for a quarter of all
            kept = places >= most
            units = int((highest >= most).sum())
            if not kept.any():
                continue
            missing = float(self.weights[count:][wrong >= most].sum())
            rest = scores[kept]
            threshold = float(rest[_ranked(weights[kept], missing, self.rate, units)[0]])
            spread = _spread(rest, maxima[kept], self.map_level, threshold)
            if (scores[most - 1] - threshold) / spread > far_severity(units + 1):
                found: list[int] = falling[:most].tolist()
                return found
        return []

    def with_outline(self, outline: float) -> Calibration:
        """Return the calibration with another `outline`, 0..1; 0: at the mask threshold."""
        return replace(self, outline=float(outline))

    def outlined(self) -> str:
        """Return a phrase on the marked area: mask threshold and outline."""
        text = f"regions where the map is above {self.mask_threshold:.4g}"
        return text + (f", outlined at {self.outline:.0%} of the height nearby" if self.outline else "")

    def promise(self) -> str:
        """Return a line for a person: the promised rate, and the pictures missing for the target rate."""
        if not self.promised:
            return f"score threshold {self.score_threshold:.4g}; {self.no_promise()}"
        text = (
            f"{self.describe_rate()}: score threshold {self.score_threshold:.4g} from "
            f"{self.describe_pictures()} ({self.method})"
        )
        if self.miscounted:
            text += f"; {self.miscounted} of them for parts counted wrong or not found"
            if self.miscounted < self.count * self.line.lost_share:
                text += f", {self.line.lost:g} of {self.line.units} drawn from the line"
        return "; ".join(filter(None, (text, self._lack)))

    @property
    def _lack(self) -> str:
        return describe_lack(self.rate, self.unit_count, self.has_shared_units)

    def brief(self) -> str:
        """Return a short line for a person: the promised rate without its origin."""
        if self.promised:
            return "; ".join(filter(None, (self.describe_rate(), self._lack)))
        seen = "one good picture" if self.count == 1 else f"{self.count} good pictures of one part"
        return f"no promise, from {seen}: good pictures of other parts would tell"

    def describe_rate(self) -> str:
        """Return the promised rate in words, with the interval of this model."""
        at_most = "at most " if self.has_shared_units else ""
        return at_most + describe_rate(self.expected_rate, self.unit_count, "pictures")

    def describe_bounds(self) -> str:
        """Return `rate_bound` in words at each offered rate that can be promised; empty: none can."""
        every = map(self.with_rate, OFFERED_RATES if self.promised else ())
        known = [bound for bound in every if not bound.pictures_missing]
        each = ", ".join(f"{100 * bound.rate:g} %: at most {100 * bound.rate_bound:.2g} %" for bound in known)
        return f"whichever rate is chosen after a look at what it finds, {each} (95 %)" if each else ""

    def describe_pictures(self) -> str:
        """Return the number of good pictures in words, and of their units where these are fewer."""
        pictures = pluralize(self.count, "good picture")
        return f"{pictures} of {pluralize(self.unit_count, 'part')}" if self.has_shared_units else pictures

    def no_promise(self) -> str:
        """Return the reason why a model that is not `promised` promises no rate."""
        seen = "one good picture" if self.count == 1 else f"{self.count} good pictures of one part"
        return (
            f"no promise: {seen}, {self.method}; how many other good parts are above it is not known, and no "
            f"p-value is below {1 / (self.unit_count + 1):.2g}; good pictures of other parts would tell"
        )

    @property
    def chosen(self) -> Json:
        """Fields that a person chooses, and that every later calibration of the model keeps."""
        return {"rate": self.rate, "outline": self.outline}

    def to_dict(self) -> Json:
        """Return the fields that do not follow from the rows of good pictures (`rows.calibrate`)."""
        return {name: getattr(self, name) for name in HOW}

    @staticmethod
    def read_how(data: Facts) -> Json:
        """Read fields stored by `to_dict`, for `rows.calibrate`. InputError where they are damaged."""
        try:
            return {name: kind(data[name]) for name, kind in HOW.items()}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"the model's calibration is damaged ({error}): fit or calibrate again"
            ) from None


HOW: Mapping[str, Callable[[str], object]]
HOW = {"rate": float, "method": str, "runtime": str, "precision": str, "promised": bool, "outline": float}


def envelope(values: NDArray[np.float64], units: Sequence[int] = ()) -> NDArray[np.float64]:
    """Return the envelope [N] of values [N, L], in the order of the first column.

    The k-th largest value is the largest of the columns' k-th largest values. Where pictures share `units`,
    and weigh less than others, each has the largest of its own values, which is never below that.
    """
    if len({*units}) < len(units):
        return np.asarray(values.max(axis=1), dtype=np.float64)
    ranked = np.sort(values, axis=0).max(axis=1)
    result = np.empty(len(values))
    result[np.argsort(values[:, 0], kind="stable")] = ranked
    return result


# Suspects are far out, not merely the last few percent. Where the logarithms of good scores spread normally,
# 4 lets about one good picture in 3,000 pass the fence; the quartile of few pictures is uncertain, so that of
# 200 it is one in 1,000 and of 20 one in 130 (simulated, tests/calibration/test_threshold.py).
FENCE_FACTOR = 4.0


def upper_fence(scores: Array) -> float:
    """Return the score beyond which a good picture is suspicious; infinite with fewer than four scores.

    On the logarithm of the scores: the upper quartile plus `FENCE_FACTOR` times the distance from the median
    to the upper quartile (after Tukey, 1977, one-sided, so that a long lower tail hides nothing).
    """
    values = np.log(np.maximum(np.asarray(scores, dtype=np.float64), 1e-12))
    if len(values) < 4:
        return math.inf
    middle, upper = np.quantile(values, [0.5, 0.75])
    return float(np.exp(upper + FENCE_FACTOR * max(upper - middle, 1e-3)))
