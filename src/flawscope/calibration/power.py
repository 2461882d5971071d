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

Known = TypeVar("Known")

SIMULATED_DEFECTS = "simulated_defects"  # among a model's facts
NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %: both tails together are 5 %
CONTRAST_RANGE = (4.0, 64.0)  # grey levels: from hardly visible to as strong as most real defects
CLEAR = 16.0  # grey levels: from here on an eye sees it at once
# Share of the clear defects of a size below which a remark is made
MIN_DETECTION_RATE = 0.75
# Share of all defects, faint ones too, below which a model surely is told to see hardly any
BLIND_BELOW = 0.4
MIN_DEFECTS = 8  # of fewer neither a share nor a limit is told, nor does a guard decide
STEEPNESS = (3.0, 1.0)  # logits an octave, and their standard deviation: expected before a defect is seen


def wilson_interval(found: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval, in 0..1, of a rate from `found` hits in `count` trials; (0, 1) for none.

    Wilson, Journal of the American Statistical Association 22 (1927). Without scipy, which takes longer to
    load than everything else that describes a model.
    """
    if not count:
        return 0.0, 1.0
    rate = found / count
    z2 = NORMAL_QUANTILE**2 / count
    reach = math.sqrt(z2 * (rate * (1 - rate) + z2 / 4))
    return max(0.0, (rate + z2 / 2 - reach) / (1 + z2)), min(1.0, (rate + z2 / 2 + reach) / (1 + z2))


def describe_blindness(found: int, count: int) -> str:
    """Return a remark on a model that finds hardly any simulated defects, otherwise an empty text.

    Args:
        found: Number of simulated defects that the model finds.
        count: Number of simulated defects; fewer than `MIN_DEFECTS` give no remark.
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
        contrasts: Contrasts of the same defects, in grey levels; empty: all are clear.
        pictures: Number of good pictures that carried the defects.
        seconds: Time of the measurement.
        rate: False-alarm rate of the calibration that the scores are compared with.
        threshold: Score threshold of that calibration.
        precision: Precision of the model that gave the scores.
        bounds: Bounds on a defect's size, from the defects that were found.
        carriers: Names of the good pictures that carry the defects; empty: they were not kept.
        parts: Good parts that the carrier's part is compared with, where the model decides on parts; None:
            each picture is decided on alone, by the threshold.
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
        """Return the scores at another threshold; `parts`: good parts, of a model that decides on parts."""
        rate = calibration.effective_rate if parts is None else parts.calibration.expected_rate
        return replace(self, rate=rate, threshold=calibration.score_threshold, parts=parts)

    @property
    def is_decided(self) -> bool:
        """Whether it is known which defects the model finds.

        It is not where the model decides on parts and the pictures that carried the defects are unknown.
        """
        return self.parts is None or bool(self.carriers)

    def count_found(self, size: str, least: float = 0.0, below: float = math.inf) -> tuple[int, int]:
        """Return the number of defects of a size that are called anomalous, and of all of that size.

        Args:
            size: Name of the size.
            least: Smallest contrast of the defects that count, in grey levels.
            below: Contrast, in grey levels, from which on defects do not count.
        """
        found = [is_found for contrast, is_found in self._answers(size) if least <= contrast < below]
        return sum(found), len(found)

    def clear_scores(self, size: str) -> list[float]:
        """Return the scores of the defects of a size with a clear contrast."""
        pairs = zip(self._contrasts(size), self.scores[size], strict=True)
        return [score for contrast, score in pairs if contrast >= CLEAR]

    def _answers(self, size: str) -> list[tuple[float, bool]]:
        """Return for each defect of a size its contrast, and whether it is called anomalous."""
        return list(zip(self._contrasts(size), self._found[size], strict=True))

    @cached_property
    def _found(self) -> dict[str, list[bool]]:
        """Whether each defect of a size is found: the one place that decides it."""
        if self.parts is None:
            return {
                size: [not score <= self.threshold for score in self.scores[size]] for size in self.scores
            }
        found = dict[str, list[bool]]()
        for size, scores in self.scores.items():
            pairs = zip(self.carriers[size], scores, strict=True)
            found[size] = [self.parts.is_found(carrier, score) for carrier, score in pairs]
        return found

    def _contrasts(self, size: str) -> Sequence[float]:
        return self.contrasts.get(size) or [CLEAR] * len(self.scores[size])

    def limit(self, size: str, share: float) -> float | None:
        """Return the contrast, in grey levels, from which on a share of the defects of a size is found.

        It is infinite above `CONTRAST_RANGE`, and 0 below. None where contrasts are unknown, or the defects
        are fewer than `MIN_DEFECTS`.
        """
        answers = self._answers(size) if self.contrasts else []
        if len(answers) < MIN_DEFECTS:
            return None
        middle, slope = _fit_logistic([(math.log2(contrast), found) for contrast, found in answers])
        octaves = middle + math.log(share / (1 - share)) / slope
        low, high = (math.log2(level) for level in CONTRAST_RANGE)
        return 0.0 if octaves < low else math.inf if octaves > high else 2.0**octaves

    def describe(self) -> str:
        """Return a line for a person: shares found by size and contrast, and the limits of their meaning."""
        parts = [self._describe_size(size) for size in self.scores]
        limits = [(size, limit) for size in self.scores if (limit := self.limit(size, 0.5)) is not None]
        words = [f"{size} {_limit_in_words(limit)}" for size, limit in limits]
        (low, high), explained = CONTRAST_RANGE, ""
        if self.contrasts:
            explained = f"; contrasts are grey levels, {low:g} to {CLEAR:g} faint, to {high:g} clear"
        return (
            f"{', '.join(parts)}"
            f"{f'; half are found from these contrasts on: {join_names(words)}' if words else ''}"
            f"{explained}"
            f"; on {pluralize(self.pictures, 'good picture')} that it has not learnt from, at a false-alarm "
            f"rate of {self.rate:.1%}; 95 % intervals, of simulated defects; what share of real ones is "
            "found, only labelled ones tell"
        )

    def count_all(self) -> tuple[int, int]:
        """Return the number of defects of all sizes that are called anomalous, and of all defects."""
        counts = [self.count_found(size) for size in self.scores]
        return sum(found for found, _ in counts), sum(count for _, count in counts)

    def describe_blindness(self) -> str:
        """Return a remark where the model finds hardly any of the defects, otherwise an empty text.

        Fewer than `MIN_DEFECTS` give no remark.
        """
        return describe_blindness(*self.count_all())

    def describe_total(self) -> str | None:
        """Return the share found over all sizes in words; None for fewer than `MIN_DEFECTS` defects."""
        found, count = self.count_all()
        if count < MIN_DEFECTS:
            return None
        low, high = wilson_interval(found, count)
        return f"{found} of {count}, faint ones too (95 %: {low:.0%} to {high:.0%})"

    def _describe_size(self, size: str) -> str:
        clear, count = self.count_found(size, CLEAR)
        low, high = wilson_interval(clear, count)
        text = f"{clear} of {count} ({low:.0%} to {high:.0%})"
        if not self.contrasts:
            return f"{size} {text}"
        faint, others = self.count_found(size, below=CLEAR)
        counts = [f"{faint} of {others} faint"] * (others > 0) + [f"{text} clear"] * (count > 0)
        return f"{size} {' and '.join(counts)} ones"

    def remark(self) -> str | None:
        """Return a remark on a model that surely misses many clear defects, otherwise None.

        The defects that are not of the smallest size are judged first, then those of the smallest; fewer than
        `MIN_DEFECTS` give no remark. The share of real defects found does not follow (bench/NOTES.md).
        """
        for sizes in (list(self.scores)[1:], list(self.scores)[:1]):
            found, count = (sum(self.count_found(size, CLEAR)[k] for size in sizes) for k in (0, 1))
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
            sizes[size] = {"defects": count, "found": found, "interval": interval, "scores": list(scores)}
            if self.carriers:
                sizes[size]["carriers"] = [*self.carriers[size]]
            if self.contrasts:
                limits = {f"contrast_{share:.0%}": self.limit(size, share) for share in (0.5, 0.9)}
                finite = {
                    key: limit if limit is None or math.isfinite(limit) else None
                    for key, limit in limits.items()
                }
                sizes[size] |= {
                    "contrasts": [round(contrast, 2) for contrast in self.contrasts[size]],
                    **finite,
                }
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
            counts = [*map(len, scores.values())]
            if any(given and [*map(len, given.values())] != counts for given in (contrasts, carriers)):
                return None
            seconds, rate, threshold = (float(stored[key]) for key in ("seconds", "rate", "score_threshold"))
            if not scores or not all(scores.values()) or not math.isfinite(seconds + rate + threshold):
                return None
            pictures = int(stored["pictures"])
            precision = str(stored["precision"])
            return cls(scores, contrasts, pictures, seconds, rate, threshold, precision, carriers=carriers)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None


def _fit_logistic(answers: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    """Fit a logistic curve of found defects over their contrast in octaves.

    Returns its middle and slope, the most likely ones given `STEEPNESS`. The middle lies beyond the answers
    where all or none are found.
    """
    places = np.array([place for place, _ in answers])
    found = np.array([is_found for _, is_found in answers])
    middles = np.linspace(places.min() - 2, places.max() + 2, 121)[:, None, None]
    slopes = np.linspace(0.5, 8.0, 31)[None, :, None]
    logits = slopes * (places - middles) * np.where(found, 1, -1)
    likelihood = (
        -np.logaddexp(0, -logits).sum(2) - (slopes[..., 0] - STEEPNESS[0]) ** 2 / 2 / STEEPNESS[1] ** 2
    )
    row, column = np.unravel_index(int(likelihood.argmax()), likelihood.shape)
    return float(middles[row, 0, 0]), float(slopes[0, column, 0])


def _limit_in_words(contrast: float) -> str:
    if not contrast:
        return f"below {CONTRAST_RANGE[0]:g}"
    return f"above {CONTRAST_RANGE[1]:g}" if math.isinf(contrast) else f"{contrast:.0f}"


def _read_where_known(
    sizes: Mapping[object, Facts], key: str, convert: Callable[[str], Known]
) -> dict[str, tuple[Known, ...]]:
    """Return the values under a key, by size, of the stored sizes that have this key."""
    known = {str(size): facts[key] for size, facts in sizes.items() if key in facts}
    return {size: tuple(map(convert, values)) for size, values in known.items()}
