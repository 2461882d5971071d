"""Turns a raw score into a decision: conformal p-values, thresholds and the colour scale.

All of this comes from good pictures alone. With n calibration scores the p-value of a score s is
(1 + #{scores >= s}) / (n + 1): if the next good picture is exchangeable with them, its p-value is at most
alpha with probability at most alpha, whatever the scores' distribution (Vovk, Gammerman & Shafer,
Algorithmic Learning in a Random World, 2005).

A picture that shows several parts has the score of its worst part, whether it is new or left out with all its
parts. A picture with a wrong number of parts ranks above all scores. So the guarantee holds for pictures,
however their parts depend on each other and however many there are.

Pictures of one part depend on each other: they form a unit, and units are exchangeable. With K units, of
which unit k has n_k scores s_ki, the p-value is (1 + sum_k mean_i 1{s_ki >= s}) / (K + 1): each unit weighs
the same, and a picture of a new unit, drawn by chance, keeps the rate (hierarchical conformal prediction:
Lee, Barber & Willett, Distribution-free inference with hierarchical data, 2023). Where each picture is a
unit, this is the formula above.

A picture is lost where its part is not found. Of the pictures that people give to a fit, fewer are lost than
on the line. So pictures that were drawn from the line by chance give the share of lost pictures, if it is
larger: the lost pictures get this share of the weight of all K units, and the other pictures share the rest.
The scores of the other pictures stay exchangeable, wherever they come from.
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
OFFERED_RATES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # rates that people choose from
Rate = float | str  # 0.05 or "5%"
NORMAL_MAD = 1.4826  # ratio of standard deviation to median absolute deviation of normal values
MIN_FOR_SOLE = 5  # fewest units of which one may be said to lie apart from the others
# Largest share of its height above the median score that the threshold keeps without the picture that sets it
SOLE_SHARE = 0.5
FAR_SEVERITY = 3.0  # severity of a picture by many others, from which on it may be as far out as defects are
FEW_FAR_SEVERITY = 2.6  # for n others, where n is small, n / (n - 4) times this; see `far_severity`
DEFAULT_OUTLINE = 0.65  # share of the height nearby: chosen on simulated defects (docs/threshold.md)
# Smallest spread, as a share of the way from good maps' level to their median maximum. Of eight models the
# spread was 0.13 to 0.36 of it.
MIN_SPREAD = 0.1
ROUNDING = 1e-9  # by which sums of weights may be off


def parse_false_alarm_rate(value: Rate) -> float:
    """Return a rate such as 0.05, "0.05" or "5%" as a number.

    Raises:
        InputError: The value is no number between 0 and 1.
    """
    try:
        text = decimal_point(str(value)).rstrip()
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 < number < 1:
        raise InputError(f"{value!r} is not a rate: write 0.05 or 5%")
    return number


def far_severity(count: int) -> float:
    """Return the severity above which the highest of `count` scores is far out, compared with the others.

    For many scores it is `FAR_SEVERITY`. For few scores it is higher, since their spread is often much too
    small: by chance, the highest of 8 scores lies 3 spreads above the rest in one of 6 draws. The returned
    severity is exceeded by chance in one of 16 draws of a Gumbel distribution (of maxima), simulated for 5 to
    24 scores. For fewer than 5 scores it is infinite.
    """
    if count <= 4:
        return math.inf
    return max(FAR_SEVERITY, FEW_FAR_SEVERITY * count / (count - 4))


def _find_threshold(
    weights: NDArray[np.float64], miscounted_weight: float, rate: float, units: int
) -> tuple[int, float]:
    """Find the lowest score that keeps the rate as a threshold; if no score keeps it, the highest score.

    A threshold keeps the rate if the p-value of a score just above it, (1 + weight above it) / (units + 1),
    is at most the rate.

    Args:
        weights: Weights [n] of the scores, that of the highest score first.
        miscounted_weight: Weight of the pictures that rank above all scores.
        rate: Target false-alarm rate, 0..1.
        units: Number of units.

    Returns:
        The index of the threshold in `weights`, and the weight of all pictures above the threshold.
    """
    # weight of all pictures above each score [n]: the lower the score, the larger the weight
    weights_above = np.cumsum([miscounted_weight, *weights[:-1]])
    # the p-value is at most the rate if the weight above is at most this one
    max_weight = rate * (units + 1) - 1 + ROUNDING
    keeping_count = int(np.searchsorted(weights_above, max_weight, side="right"))  # scores that keep the rate
    place = max(0, keeping_count - 1)
    return place, float(weights_above[place])


def _spread(
    scores: NDArray[np.float64], maxima: NDArray[np.float64], level: float, threshold: float
) -> float:
    """Compute the `Calibration.spread`.

    Args:
        scores: Scores of good pictures.
        maxima: Maxima of their maps.
        level: Median map value of good pictures.
        threshold: Score threshold.
    """
    deviations = np.abs(scores - np.median(scores))
    level_to_maxima = float(np.median(maxima)) - level
    min_spread = 1e-6 * max(1.0, abs(threshold))  # the spread is divided by, so it is not 0
    return max(NORMAL_MAD * float(np.median(deviations)), MIN_SPREAD * level_to_maxima, min_spread)


class LineSample(NamedTuple):
    """Units that were drawn from the line by chance.

    Attributes:
        lost: Number of lost units; a unit with several pictures counts by its share of lost pictures.
        units: Number of all units.
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
        promised: Whether the good pictures' scores are like those of new good pictures. They are not if all
            pictures show the same part, which was compared with itself.
        miscounted: Number of further good pictures that have no score, because their parts were counted
            wrong. They are called anomalous, and rank above all scores.
        units: Unit [count] of each score and then of each miscounted picture. Pictures of one part, and
            near-duplicates, share a unit. Empty: each picture is a unit.
        line: Number of units that were drawn from the line by chance, and of lost ones among them. The share
            of lost pictures on the line is estimated from these.
        outline: Map value of a region's outline, as a share of the way from `map_level` to the peak of the
            region nearby; 0: at the mask threshold.
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
        if not all(math.isfinite(value) for value in (*self.scores, *self.map_maxima, self.map_level)):
            raise InputError("calibration scores must be finite numbers")
        if not 0 < self.rate < 1:
            raise InputError(f"a false-alarm rate of {self.rate} makes no sense: choose between 0 and 1")
        if self.miscounted < 0:
            raise InputError(f"{self.miscounted} pictures counted wrong make no sense: fit anew")
        if self.units and len(self.units) != self.count:
            raise InputError("calibration needs a unit for each score, or none: fit anew")
        if len({*self.units}) == len(self.units):  # each picture is a unit: stored as empty
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
        """Number of good pictures, including the miscounted pictures."""
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
        """Target rate, or the smallest rate that the units can promise if that is larger.

        The smallest rate that K units can promise is (m + 1)/(K + 1), where m of them were counted wrong.
        """
        return max(self.rate, (1.0 + self._miscounted_weight) / (self.unit_count + 1))

    @property
    def expected_rate(self) -> float:
        """Expected share of new good pictures above the threshold: at most the target rate if possible.

        It is k/(n + 1) if each of n pictures is a unit, and the threshold is the k-th largest score.
        """
        _, weight_above = self._score_threshold_and_weight
        return (1 + weight_above) / (self.unit_count + 1)

    @property
    def rate_interval(self) -> tuple[float, float]:
        """Interval, 0..1, that contains the false-alarm rate of this single model with a probability of 95 %.

        `expected_rate` is the mean of the rates of all models that are calibrated on as many units.
        """
        return rate_interval(self.expected_rate, self.unit_count)

    @property
    def rate_bound(self) -> float:
        """Upper bound, 0..1, on the false-alarm rate of this single model.

        With a probability of 95 %, the bounds that belong to all possible thresholds hold together. So the
        bound also holds if a person chose the threshold after seeing which pictures it finds
        (`promise.simultaneous_bound`).
        """
        threshold, weight_above = self._score_threshold_and_weight
        units_above = int((self._unit_maxima > threshold).sum())
        # the weight is larger where more parts are lost on the line than in the calibration
        units_above = max(units_above, math.ceil(weight_above - ROUNDING))
        if units_above >= self.unit_count:
            return 1.0
        return simultaneous_bound(rank=units_above + 1, units=self.unit_count)

    @cached_property
    def _unit_maxima(self) -> NDArray[np.float64]:
        """Largest score of each unit [K], ascending; infinite where one of its pictures was counted wrong."""
        maxima: dict[int, float] = {}
        scores = (*self.scores, *[math.inf] * self.miscounted)
        for unit, score in zip(self.units or range(self.count), scores, strict=True):
            maxima[unit] = max(score, maxima.get(unit, -math.inf))
        return np.sort(np.array([*maxima.values()], dtype=np.float64))

    def unit_p_values(self, scores: Array | float) -> NDArray[np.float64]:
        """Return p-values of raw scores of any shape, compared with the largest score of each good unit.

        These p-values judge a batch of pictures whose units are new. They are never smaller than the
        `p_values`, and equal to the `p_values` if each picture is a unit.
        """
        units_below = np.searchsorted(self._unit_maxima, np.asarray(scores, dtype=np.float64), side="left")
        unit_p_values = (1.0 + self.unit_count - units_below) / (self.unit_count + 1.0)
        # `p_values` are larger where more parts are lost on the line than in the calibration
        return np.asarray(np.maximum(unit_p_values, self.p_values(scores)), dtype=np.float64)

    @property
    def pictures_missing(self) -> int:
        """Number of further units (good pictures of other parts) that the target rate needs; 0: enough."""
        return units_missing(self.rate, self.unit_count)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Weights [count] of the pictures with a score, then of the miscounted pictures.

        The weights of a unit's pictures add up to 1, so that all weights add up to `unit_count`. If a larger
        share of pictures is lost on the line than in the calibration, the weights are changed: the miscounted
        pictures together get this share of the sum, and the other pictures the rest.
        """
        weights = np.ones(self.count)
        if self.units:
            _, unit_places, unit_sizes = np.unique(self.units, return_inverse=True, return_counts=True)
            weights = np.asarray(1.0 / unit_sizes[unit_places], dtype=np.float64)
        scored_count = len(self.scores)
        total = float(weights.sum())
        lost = float(weights[scored_count:].sum())
        lost_on_line = total * self.line.lost_share
        if 0 < lost < lost_on_line:  # the sum of all weights stays the same
            weights[:scored_count] *= (total - lost_on_line) / (total - lost)
            weights[scored_count:] *= lost_on_line / lost
        return weights

    @property
    def _miscounted_weight(self) -> float:
        """Weight of all miscounted pictures together."""
        return float(self.weights[len(self.scores) :].sum())

    def _threshold_and_weight(self, values: tuple[float, ...]) -> tuple[float, float]:
        """Return the threshold among values, and the weight of all pictures above it (`_find_threshold`).

        Args:
            values: Score, or maximum of the map, of each picture with a score.
        """
        descending = np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")
        place, weight_above = _find_threshold(
            self.weights[descending], self._miscounted_weight, self.rate, self.unit_count
        )
        return float(values[descending[place]]), weight_above

    @cached_property
    def _score_threshold_and_weight(self) -> tuple[float, float]:
        """Score threshold, and the weight of all pictures above it."""
        return self._threshold_and_weight(self.scores)

    @cached_property
    def _mask_threshold_and_weight(self) -> tuple[float, float]:
        """Mask threshold, and the weight of all pictures whose maps exceed it."""
        return self._threshold_and_weight(self.map_maxima)

    @property
    def score_threshold(self) -> float:
        """Threshold above which a picture's score makes it anomalous."""
        threshold, _ = self._score_threshold_and_weight
        return threshold

    @property
    def mask_threshold(self) -> float:
        """Map value above which pixels make a region.

        As many good pictures have a region as are called anomalous. `outline` sets how much of the region is
        outlined.
        """
        threshold, _ = self._mask_threshold_and_weight
        return threshold

    @property
    def colour_range(self) -> tuple[float, float]:
        """Map values at the dark and the bright end; the mask threshold lies in the middle."""
        dark_end = min(self.map_level, self.mask_threshold)
        half_range = max(self.mask_threshold - dark_end, 1e-6 * max(1.0, abs(dark_end)))
        return dark_end, dark_end + 2.0 * half_range

    @cached_property
    def spread(self) -> float:
        """Spread of good pictures' scores, in units of the score, above 0.

        It is their median absolute deviation, scaled to the standard deviation of normally distributed
        scores. It is at least a tenth of the way from the maps' level to their median maximum, so that a
        single picture, or equal scores, have a spread, too.
        """
        return _spread(np.array(self.scores), np.array(self.map_maxima), self.map_level, self.score_threshold)

    def severity(self, scores: Array | float) -> NDArray[np.float64]:
        """Return the severity of raw scores of any shape: (score - score threshold) / spread.

        It is above 0 exactly if a picture is anomalous. It can be compared between sizes, methods and models,
        and also ranks pictures that all have the smallest p-value.
        """
        above = np.asarray(scores, dtype=np.float64) - self.score_threshold
        return np.asarray(above / self.spread, dtype=np.float64)

    @cached_property
    def _ascending_scores_and_sums(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores [n] in ascending order, and sums of weights [n + 1].

        Sum k is the weight of score k, of all higher scores, and of the miscounted pictures, which rank above
        all scores. The last sum is the weight of the miscounted pictures only.
        """
        scores = np.asarray(self.scores, dtype=np.float64)
        ascending = np.argsort(scores, kind="stable")
        descending = ascending[::-1]
        # from the highest score on, each sum adds the weight of one more score
        descending_sums = np.cumsum([self._miscounted_weight, *self.weights[descending]])
        return scores[ascending], descending_sums[::-1]

    def p_values(self, scores: Array | float) -> NDArray[np.float64]:
        """Return conformal p-values, in 1/(K + 1)..1, of raw scores of any shape."""
        ascending_scores, sums_from = self._ascending_scores_and_sums
        places = np.searchsorted(ascending_scores, np.asarray(scores, dtype=np.float64), side="left")
        return np.asarray((1.0 + sums_from[places]) / (self.unit_count + 1.0), dtype=np.float64)

    def is_anomalous(self, scores: Array | float) -> NDArray[np.bool_]:
        """Whether pictures are anomalous, by raw scores of any shape: those above the threshold, and NaN.

        P-values of anomalous pictures are at most the `effective_rate`.
        """
        return np.asarray(~(np.asarray(scores, dtype=np.float64) <= self.score_threshold))

    def with_rate(self, rate: Rate) -> Calibration:
        """Return the calibration for another target false-alarm rate, 0.05 or "5%"."""
        return replace(self, rate=parse_false_alarm_rate(rate))

    def without_units(self, places: Sequence[int]) -> Calibration:
        """Return the calibration without the units of the scores at `places`.

        The calibration is unchanged if no score would remain.
        """
        units = self.units or tuple(range(self.count))
        removed_units = {units[place] for place in places}
        kept = [place for place in range(self.count) if units[place] not in removed_units]
        # the places behind the scores are those of the miscounted pictures
        kept_with_score = [place for place in kept if place < len(self.scores)]
        if not kept_with_score:
            return self
        return replace(
            self,
            scores=tuple(self.scores[place] for place in kept_with_score),
            map_maxima=tuple(self.map_maxima[place] for place in kept_with_score),
            miscounted=len(kept) - len(kept_with_score),
            units=tuple(self.units[place] for place in kept) if self.units else (),
        )

    def sole_threshold(self) -> tuple[int, float] | None:
        """Return the place of the one score that sets the threshold, and the threshold without its unit.

        None: no single score sets the threshold (`is_sole`), or there are fewer than `MIN_FOR_SOLE` units.
        """
        place = self.scores.index(self.score_threshold)
        threshold_without = self.without_units([place]).score_threshold
        if self.unit_count < MIN_FOR_SOLE or not self.is_sole(threshold_without):
            return None
        return place, threshold_without

    def is_sole(self, without: float) -> bool:
        """Whether certain scores set the threshold: without them it would be much lower.

        The threshold without these scores is then at most half as high above the median score.

        Args:
            without: Score threshold without these scores.
        """
        median = float(np.median(self.scores))
        height = self.score_threshold - median
        height_without = without - median
        return height_without <= SOLE_SHARE * height

    def far_out(self) -> list[int]:
        """Return the places of the scores that are far out, compared with the other units; the highest first.

        They are the n highest scores, with the largest n (up to a quarter of all) for which the lowest of
        them is far out when all n are left out. They are left out together, so that two scores that are
        equally far out do not hide each other.
        """
        return list(self._far_out)

    @cached_property
    def _far_out(self) -> list[int]:
        """Places of the scores that are far out, the highest first (`far_out`)."""
        scored_count = len(self.scores)
        descending = np.argsort(-np.array(self.scores), kind="stable")
        scores = np.array(self.scores)[descending]
        maxima = np.array(self.map_maxima)[descending]
        weights = self.weights[descending]
        miscounted_weights = self.weights[scored_count:]
        _, units = np.unique(self.units or range(self.count), return_inverse=True)
        # by unit, the rank of its highest score (0: the highest of all); behind all ranks if it has no score
        highest_ranks = np.full(units.max() + 1, scored_count)
        np.minimum.at(highest_ranks, units[descending], np.arange(scored_count))
        score_ranks = highest_ranks[units[descending]]  # rank of the highest score in each score's unit
        miscounted_ranks = highest_ranks[units[scored_count:]]
        # The threshold is that of `without_units` for the `far_count` highest scores, but found faster.
        for far_count in range(max(1, self.count // 4), 0, -1):
            in_rest = score_ranks >= far_count
            if not in_rest.any():
                continue
            rest = scores[in_rest]
            rest_units = int((highest_ranks >= far_count).sum())
            rest_miscounted = float(miscounted_weights[miscounted_ranks >= far_count].sum())
            place, _ = _find_threshold(weights[in_rest], rest_miscounted, self.rate, rest_units)
            threshold = float(rest[place])
            spread = _spread(rest, maxima[in_rest], self.map_level, threshold)
            lowest_far_score = scores[far_count - 1]
            if (lowest_far_score - threshold) / spread > far_severity(rest_units + 1):
                far_places: list[int] = descending[:far_count].tolist()
                return far_places
        return []

    def with_outline(self, outline: float) -> Calibration:
        """Return the calibration with another `outline`, 0..1; 0: at the mask threshold."""
        return replace(self, outline=float(outline))

    def outlined(self) -> str:
        """Return a phrase on the marked area: mask threshold and outline."""
        text = f"regions where the map is above {self.mask_threshold:.4g}"
        if self.outline:
            text += f", outlined at {self.outline:.0%} of the height nearby"
        return text

    def promise(self) -> str:
        """Return a line for a person: the expected rate, and the pictures missing for the target rate."""
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
        return self._with_lack(text)

    def _with_lack(self, text: str) -> str:
        """Add to a text how many pictures are missing for the target rate, if any are."""
        lack = describe_lack(self.rate, self.unit_count, self.has_shared_units)
        return f"{text}; {lack}" if lack else text

    def brief(self) -> str:
        """Return a short line for a person: the expected rate without its origin."""
        if self.promised:
            return self._with_lack(self.describe_rate())
        return f"no promise, from {self._pictures_of_one_part()}: good pictures of other parts would tell"

    def describe_rate(self) -> str:
        """Return the expected rate in words, with the interval of this model."""
        at_most = "at most " if self.has_shared_units else ""
        return at_most + describe_rate(self.expected_rate, self.unit_count, "pictures")

    def describe_bounds(self) -> str:
        """Describe the `rate_bound` at each of the `OFFERED_RATES` that can be promised; empty: none can."""
        if not self.promised:
            return ""
        bounds = []
        for rate in OFFERED_RATES:
            calibration = self.with_rate(rate)
            if not calibration.pictures_missing:
                bounds.append(f"{100 * rate:g} %: at most {100 * calibration.rate_bound:.2g} %")
        if not bounds:
            return ""
        return f"whichever rate is chosen after a look at what it finds, {', '.join(bounds)} (95 %)"

    def describe_pictures(self) -> str:
        """Return the number of good pictures in words, and of their units where these are fewer."""
        pictures = pluralize(self.count, "good picture")
        return f"{pictures} of {pluralize(self.unit_count, 'part')}" if self.has_shared_units else pictures

    def no_promise(self) -> str:
        """Return the reason why a model that is not `promised` promises no rate."""
        return (
            f"no promise: {self._pictures_of_one_part()}, {self.method}; how many other good parts are above "
            f"it is not known, and no p-value is below {1 / (self.unit_count + 1):.2g}; good pictures of "
            "other parts would tell"
        )

    def _pictures_of_one_part(self) -> str:
        """Return the number of good pictures in words, where all show the same part."""
        return "one good picture" if self.count == 1 else f"{self.count} good pictures of one part"

    @property
    def chosen(self) -> Json:
        """Fields that a person chooses, and that every later calibration of the model keeps."""
        return {"rate": self.rate, "outline": self.outline}

    def to_dict(self) -> Json:
        """Return the fields that do not follow from the rows of good pictures (`rows.calibrate`)."""
        return {name: getattr(self, name) for name in HOW}

    @staticmethod
    def read_how(data: Facts) -> Json:
        """Read the fields that `to_dict` returned, as the arguments of `rows.calibrate`.

        Raises:
            InputError: The fields are damaged.
        """
        try:
            return {name: convert(data[name]) for name, convert in HOW.items()}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"the model's calibration is damaged ({error}): fit or calibrate again"
            ) from None


# Fields of a calibration that a file stores, with the function that reads each
HOW: Mapping[str, Callable[[str], object]]
HOW = {"rate": float, "method": str, "runtime": str, "precision": str, "promised": bool, "outline": float}


def envelope(values: NDArray[np.float64], units: Sequence[int] = ()) -> NDArray[np.float64]:
    """Return the envelope [N] of the values of N pictures in L lights.

    The k-th largest value of the envelope is the maximum of the k-th largest values of all lights. The
    envelope has this value at the picture with the k-th largest value in the first light. If pictures share
    units, they have different weights. Then each picture gets the largest of its own values instead: this
    envelope is never smaller than the other.

    Args:
        values: Value of each picture in each light, [N, L].
        units: Unit of each picture; empty: each picture is a unit.
    """
    if len({*units}) < len(units):
        return np.asarray(values.max(axis=1), dtype=np.float64)
    ascending_envelope = np.sort(values, axis=0).max(axis=1)
    envelope_values = np.empty(len(values))
    ascending_in_first_light = np.argsort(values[:, 0], kind="stable")
    envelope_values[ascending_in_first_light] = ascending_envelope
    return envelope_values


# Suspects are far out, not merely the last few percent. Where the logarithms of good scores are normally
# distributed, a factor of 4 lets about one good picture in 3,000 pass the fence. The quartile of few pictures
# is uncertain: of 200 pictures one in 1,000 passes, of 20 one in 130 (simulated,
# tests/calibration/test_threshold.py).
FENCE_FACTOR = 4.0


def upper_fence(scores: Array) -> float:
    """Return the score above which a good picture is suspicious; infinite for fewer than four scores.

    For the logarithms of the scores it is: upper quartile + `FENCE_FACTOR` * (upper quartile - median). This
    follows Tukey (1977), but uses only the upper half, so that a long lower tail has no influence.
    """
    log_scores = np.log(np.maximum(np.asarray(scores, dtype=np.float64), 1e-12))
    if len(log_scores) < 4:
        return math.inf
    median, upper_quartile = np.quantile(log_scores, [0.5, 0.75])
    return float(np.exp(upper_quartile + FENCE_FACTOR * max(upper_quartile - median, 1e-3)))
