"""Computes the share of simulated defects that a model finds. Torch-free.

`fit` puts defects of several sizes and contrasts on good pictures that the model has not learnt from. Their
scores stand in the model file, so that the shares follow when the threshold changes. They say how large and
how strong a simulated defect must be to be found, not which share of a factory's defects is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from flawscope.calibration.parts import KnownParts
from flawscope.calibration.size_bounds import UNCALIBRATED, SizeBounds
from flawscope.calibration.threshold import Calibration
from flawscope.errors import join_names, pluralize
from flawscope.types import Facts, Json

Value = TypeVar("Value")

SIMULATED_DEFECTS = "simulated_defects"  # key of a model's facts
NORMAL_QUANTILE = 1.959963984540054  # 97.5 % quantile: both tails together are 5 %
CONTRAST_RANGE = (4.0, 64.0)  # grey levels: from hardly visible to as strong as most real defects
CLEAR = 16.0  # contrast in grey levels from which on an eye sees a defect at once
MIN_DETECTION_RATE = 0.75  # below this share of found clear defects a remark is made
BLIND_BELOW = 0.4  # below this share of found defects, with the faint ones, a model is said to see hardly any
MIN_DEFECTS = 8  # fewer defects give no share and no limit, and no data check uses them
EXPECTED_SLOPE = 3.0  # logits an octave of contrast, by which defects become easier to find
SLOPE_STD = 1.0  # standard deviation of this slope among models


def wilson_interval(found: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval (low, high), 0..1, of a rate from `found` hits in `count` trials.

    Without trials it is (0, 1).

    Source: Wilson, Journal of the American Statistical Association 22 (1927).
    """
    # scipy is not used: it takes longer to load than everything else that describes a model
    if not count:
        return 0.0, 1.0
    rate = found / count
    z2_by_n = NORMAL_QUANTILE**2 / count
    half_width = math.sqrt(z2_by_n * (rate * (1 - rate) + z2_by_n / 4))
    low = (rate + z2_by_n / 2 - half_width) / (1 + z2_by_n)
    high = (rate + z2_by_n / 2 + half_width) / (1 + z2_by_n)
    return max(0.0, low), min(1.0, high)


def describe_blindness(found: int, count: int) -> str:
    """Return a remark on a model that finds hardly any simulated defects; otherwise an empty text.

    Args:
        found: Number of simulated defects that the model finds.
        count: Number of all simulated defects; for fewer than `MIN_DEFECTS` there is no remark.
    """
    low, high = wilson_interval(found, count)
    if count < MIN_DEFECTS or high >= BLIND_BELOW:
        return ""
    return (
        f"it hardly sees such defects as simulated ones: found {found} of {count} ({low:.0%} to {high:.0%})"
    )


@dataclass(frozen=True)
class DefectScores:
    """Scores of simulated defects on good pictures that the model has not learnt from.

    Attributes:
        scores: Scores of the defects, by size, smallest first.
        contrasts: Contrasts of the same defects, in grey levels, by size; empty: all are clear.
        pictures: Number of good pictures that carried the defects.
        seconds: Time of the measurement.
        rate: False-alarm rate of the calibration that the scores are compared with.
        threshold: Score threshold of that calibration.
        precision: Precision of the model that gave the scores.
        bounds: Bounds on a defect's size, from the defects that were found.
        carriers: Name of the good picture that carries each defect, by size; empty: an earlier version did
            not store them.
        parts: If the model decides on parts, the good parts that the carrier's part is compared with. None:
            each picture is decided on by itself, by the threshold.
    """

    scores: Mapping[str, Sequence[float]]
    contrasts: Mapping[str, Sequence[float]]
    pictures: int
    seconds: float
    rate: float
    threshold: float
    precision: str = "fp32"
    bounds: SizeBounds = UNCALIBRATED
    carriers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parts: KnownParts | None = field(default=None, compare=False)

    def with_calibration(self, calibration: Calibration, parts: KnownParts | None = None) -> DefectScores:
        """Return the scores with the threshold of another calibration.

        Args:
            calibration: The calibration.
            parts: Good parts, if the model decides on parts; None: it decides on pictures.
        """
        rate = calibration.effective_rate if parts is None else parts.calibration.expected_rate
        return replace(self, rate=rate, threshold=calibration.score_threshold, parts=parts)

    @property
    def is_decided(self) -> bool:
        """Whether it is known which defects the model finds.

        If the model decides on parts, it is only known if the pictures that carried the defects are known.
        """
        return self.parts is None or bool(self.carriers)

    def count_found(self, size: str, least: float = 0.0, below: float = math.inf) -> tuple[int, int]:
        """Count the defects of a size whose contrast c is in the range least <= c < below.

        Args:
            size: Name of the size.
            least: Smallest contrast, in grey levels.
            below: Contrast, in grey levels, that is not reached.

        Returns:
            The number of these defects that are called anomalous, and the number of all of them.
        """
        answers = [is_found for contrast, is_found in self._answers(size) if least <= contrast < below]
        return sum(answers), len(answers)

    def clear_scores(self, size: str) -> list[float]:
        """Return the scores of the defects of a size with a clear contrast."""
        contrasts_and_scores = zip(self._contrasts(size), self.scores[size], strict=True)
        return [score for contrast, score in contrasts_and_scores if contrast >= CLEAR]

    def _answers(self, size: str) -> list[tuple[float, bool]]:
        """Return for each defect of a size its contrast, and whether it is called anomalous."""
        return list(zip(self._contrasts(size), self._is_found[size], strict=True))

    @cached_property
    def _is_found(self) -> dict[str, list[bool]]:
        """Whether each defect is called anomalous, by size."""
        is_found_by_size = dict[str, list[bool]]()
        for size, scores in self.scores.items():
            if self.parts is None:
                # `not <=` instead of `>`: NaN counts as found
                is_found_by_size[size] = [not score <= self.threshold for score in scores]
            else:
                carriers_and_scores = zip(self.carriers[size], scores, strict=True)
                is_found_by_size[size] = [
                    self.parts.is_found(carrier, score) for carrier, score in carriers_and_scores
                ]
        return is_found_by_size

    def _contrasts(self, size: str) -> Sequence[float]:
        """Return the contrasts of the defects of a size; unknown contrasts count as clear."""
        return self.contrasts.get(size) or [CLEAR] * len(self.scores[size])

    def limit(self, size: str, share: float) -> float | None:
        """Return the contrast, in grey levels, at which the chance of finding a defect of a size is `share`.

        The result is infinite if this contrast lies above `CONTRAST_RANGE`, and 0 if it lies below. None:
        contrasts are unknown, or there are fewer than `MIN_DEFECTS` defects.

        Args:
            size: Name of the size.
            share: Share of the defects, above 0 and below 1.
        """
        if not self.contrasts:
            return None
        answers = self._answers(size)
        if len(answers) < MIN_DEFECTS:
            return None
        middle, slope = _fit_logistic([(math.log2(contrast), is_found) for contrast, is_found in answers])
        octaves = middle + math.log(share / (1 - share)) / slope  # where the logistic curve reaches `share`
        low, high = (math.log2(contrast) for contrast in CONTRAST_RANGE)
        if octaves < low:
            return 0.0
        return math.inf if octaves > high else 2.0**octaves

    def describe(self) -> str:
        """Return a line for a person: shares found by size and contrast, and what these shares mean."""
        line = ", ".join(self._describe_size(size) for size in self.scores)
        half_found_from = []
        for size in self.scores:
            limit = self.limit(size, share=0.5)
            if limit is not None:
                half_found_from.append(f"{size} {_limit_in_words(limit)}")
        if half_found_from:
            line += f"; half are found from these contrasts on: {join_names(half_found_from)}"
        if self.contrasts:
            low, high = CONTRAST_RANGE
            line += f"; contrasts are grey levels, {low:g} to {CLEAR:g} faint, to {high:g} clear"
        return (
            f"{line}; on {pluralize(self.pictures, 'good picture')} that it has not learnt from, at a "
            f"false-alarm rate of {self.rate:.1%}; 95 % intervals, of simulated defects; what share of real "
            "ones is found, only labelled ones tell"
        )

    def count_all(self) -> tuple[int, int]:
        """Return the number of defects that are called anomalous, and the number of all defects."""
        counts = [self.count_found(size) for size in self.scores]
        return sum(found for found, _ in counts), sum(count for _, count in counts)

    def describe_blindness(self) -> str:
        """Return a remark if the model finds hardly any of the defects; otherwise an empty text.

        For fewer than `MIN_DEFECTS` defects there is no remark.
        """
        found, count = self.count_all()
        return describe_blindness(found, count)

    def describe_total(self) -> str | None:
        """Return the share found over all sizes in words; None for fewer than `MIN_DEFECTS` defects."""
        found, count = self.count_all()
        if count < MIN_DEFECTS:
            return None
        low, high = wilson_interval(found, count)
        return f"{found} of {count}, faint ones too (95 %: {low:.0%} to {high:.0%})"

    def _describe_size(self, size: str) -> str:
        """Return the number and share of found defects of a size in words, by faint and clear contrast."""
        clear_found, clear_count = self.count_found(size, least=CLEAR)
        low, high = wilson_interval(clear_found, clear_count)
        clear_text = f"{clear_found} of {clear_count} ({low:.0%} to {high:.0%})"
        if not self.contrasts:
            return f"{size} {clear_text}"
        faint_found, faint_count = self.count_found(size, below=CLEAR)
        counts = []
        if faint_count:
            counts.append(f"{faint_found} of {faint_count} faint")
        if clear_count:
            counts.append(f"{clear_text} clear")
        return f"{size} {' and '.join(counts)} ones"

    def remark(self) -> str | None:
        """Return a remark on a model that surely misses many clear defects; otherwise None.

        First, all sizes but the smallest are considered together. If they give no remark, the smallest size
        is considered. For fewer than `MIN_DEFECTS` defects there is no remark. The share of real defects that
        is found cannot be inferred (bench/NOTES.md).
        """
        smallest_first = list(self.scores)
        for sizes in (smallest_first[1:], smallest_first[:1]):
            found = count = 0
            for size in sizes:
                found_of_size, count_of_size = self.count_found(size, least=CLEAR)
                found += found_of_size
                count += count_of_size
            low, high = wilson_interval(found, count)
            if count >= MIN_DEFECTS and high < MIN_DETECTION_RATE:
                text = f"of {count} clear simulated defects of {' and '.join(sizes)} size it finds {found}"
                return f"{text} (95 %: {low:.0%} to {high:.0%}): `evaluate` tells by real ones"
        return None

    def to_dict(self) -> Json:
        """Return the entry of a model's facts: scores, shares, intervals and contrast limits by size."""
        sizes = {}
        for size, scores in self.scores.items():
            found, count = self.count_found(size)
            interval = list(wilson_interval(found, count))
            entry: Json = {"defects": count, "found": found, "interval": interval, "scores": list(scores)}
            if self.carriers:
                entry["carriers"] = [*self.carriers[size]]
            if self.contrasts:
                entry["contrasts"] = [round(contrast, 2) for contrast in self.contrasts[size]]
                for share in (0.5, 0.9):
                    limit = self.limit(size, share)
                    is_finite = limit is not None and math.isfinite(limit)
                    entry[f"contrast_{share:.0%}"] = limit if is_finite else None  # JSON has no infinity
            sizes[size] = entry
        return {
            "sizes": sizes,
            "pictures": self.pictures,
            "seconds": round(self.seconds, 3),
            "rate": self.rate,
            "score_threshold": self.threshold,
            "precision": self.precision,
        }

    @classmethod
    def from_facts(cls, facts: Facts) -> DefectScores | None:
        """Read the scores from a model's facts; None where there are none, or they are damaged."""
        try:
            stored: Facts = facts[SIMULATED_DEFECTS]
            sizes: Mapping[object, Facts] = stored["sizes"]
            scores = {
                str(size): tuple(map(float, stored_size["scores"])) for size, stored_size in sizes.items()
            }
            contrasts = _read_where_known(sizes, "contrasts", float)
            carriers = _read_where_known(sizes, "carriers", str)
            defect_counts = [len(size_scores) for size_scores in scores.values()]
            for values_by_size in (contrasts, carriers):
                if values_by_size and [len(values) for values in values_by_size.values()] != defect_counts:
                    return None
            seconds = float(stored["seconds"])
            rate = float(stored["rate"])
            threshold = float(stored["score_threshold"])
            # the sum is finite only if all three numbers are
            if not scores or not all(scores.values()) or not math.isfinite(seconds + rate + threshold):
                return None
            return cls(
                scores=scores,
                contrasts=contrasts,
                pictures=int(stored["pictures"]),
                seconds=seconds,
                rate=rate,
                threshold=threshold,
                precision=str(stored["precision"]),
                carriers=carriers,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None


def _fit_logistic(answers: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    """Fit a logistic curve to the chance of finding a defect, as a function of its contrast in octaves.

    The curve is the most likely one of a grid of middles and slopes. Slopes have a normal prior with mean
    `EXPECTED_SLOPE` and standard deviation `SLOPE_STD`.

    Args:
        answers: Contrast in octaves of each defect, and whether the defect is found.

    Returns:
        The middle: the contrast in octaves at which half of the defects are found; and the slope in logits
        per octave. If all defects or none are found, the middle lies outside of their contrasts.
    """
    octaves = np.array([octave for octave, _ in answers])
    is_found = np.array([found for _, found in answers])
    # axes: middles, slopes, defects
    middles = np.linspace(octaves.min() - 2, octaves.max() + 2, 121)[:, None, None]
    slopes = np.linspace(0.5, 8.0, 31)[None, :, None]
    # logits of what happened: of finding a found defect, or of missing a missed one
    logits = slopes * (octaves - middles) * np.where(is_found, 1, -1)
    log_likelihood = -np.logaddexp(0, -logits).sum(2)
    slopes_without_defects = slopes[..., 0]  # without the axis of the defects
    log_prior = -((slopes_without_defects - EXPECTED_SLOPE) ** 2) / 2 / SLOPE_STD**2
    log_posterior = log_likelihood + log_prior
    row, column = np.unravel_index(int(log_posterior.argmax()), log_posterior.shape)
    return float(middles[row, 0, 0]), float(slopes[0, column, 0])


def _limit_in_words(contrast: float) -> str:
    """Return a `DefectScores.limit` in words, such as "below 4" for 0."""
    lowest, highest = CONTRAST_RANGE
    if contrast == 0:
        return f"below {lowest:g}"
    return f"above {highest:g}" if math.isinf(contrast) else f"{contrast:.0f}"


def _read_where_known(
    sizes: Mapping[object, Facts], key: str, convert: Callable[[str], Value]
) -> dict[str, tuple[Value, ...]]:
    """Return the converted values under a key, by size; stored sizes without the key are left out."""
    values_by_size = {str(size): facts[key] for size, facts in sizes.items() if key in facts}
    return {size: tuple(map(convert, values)) for size, values in values_by_size.items()}
