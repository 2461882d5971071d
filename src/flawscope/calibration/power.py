"""Computes the share of simulated defects that a model finds. Torch-free.

`fit` puts defects of several sizes on good pictures that the model has not learnt from. Their scores stand in
the model file, so that the shares follow when the threshold changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flawscope.calibration.threshold import Calibration
from flawscope.errors import pluralize

SIMULATED_DEFECTS = "simulated_defects"  # among a model's facts
NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %: both tails together are 5 %
# Share of the defects that are not small which a model is expected to find. On drawn objects PatchCore finds
# 0.92 to 1, networks that were trained for too short a time 0 to 0.53 (docs/measurements.md).
MIN_DETECTION_RATE = 0.75


def wilson_interval(found: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a rate of which `found` of `count` trials came up, in 0..1; (0, 1) for no trials.

    Wilson, Journal of the American Statistical Association 22 (1927). Without scipy, which takes longer to
    load than everything else that describes a model.
    """
    if not count:
        return 0.0, 1.0
    rate, z2 = found / count, NORMAL_QUANTILE**2 / count
    reach = math.sqrt(z2 * (rate * (1 - rate) + z2 / 4))
    return max(0.0, (rate + z2 / 2 - reach) / (1 + z2)), min(1.0, (rate + z2 / 2 + reach) / (1 + z2))


@dataclass(frozen=True)
class DefectScores:
    """Scores of simulated defects on good pictures that the model has not learnt from.

    scores: by size of the defects, smallest first.
    pictures: how many good pictures carried them.
    seconds: time of the measurement.
    rate, threshold: of the calibration that they are compared with.
    precision: of the model that gave the scores.
    """

    scores: Mapping[str, Sequence[float]]
    pictures: int
    seconds: float
    rate: float
    threshold: float
    precision: str = "fp32"

    def with_calibration(self, calibration: Calibration) -> DefectScores:
        """Returns the scores at another threshold."""
        return replace(self, rate=calibration.effective_rate, threshold=calibration.threshold)

    def count_found(self, size: str) -> tuple[int, int]:
        """Number of defects of a size that are called anomalous, and of all."""
        scores = self.scores[size]
        return sum(not score <= self.threshold for score in scores), len(scores)

    def describe(self) -> str:
        """Line for a person with the shares by size."""
        parts = []
        for size in self.scores:
            found, count = self.count_found(size)
            low, high = wilson_interval(found, count)
            parts.append(f"{size} {found} of {count} ({low:.0%} to {high:.0%})")
        return (
            f"{', '.join(parts)}; on {pluralize(self.pictures, 'good picture')} that it has not learnt from, "
            f"at a false-alarm rate of {self.rate:.1%}; 95 % intervals"
        )

    def warning(self) -> str | None:
        """Warning about a model that surely misses too many defects: the interval of the share that it finds,
        small defects aside, ends below `MIN_DETECTION_RATE`."""
        sizes = list(self.scores)[1:]
        if not sizes:
            return None
        found, count = (sum(part) for part in zip(*map(self.count_found, sizes), strict=True))
        if wilson_interval(found, count)[1] >= MIN_DETECTION_RATE:
            return None
        defects = pluralize(count, "simulated defect")
        return f"it finds only {found} of {defects} of {' and '.join(sizes)} size"

    def to_dict(self) -> dict[str, Any]:
        sizes = {}
        for size, scores in self.scores.items():
            found, count = self.count_found(size)
            interval = list(wilson_interval(found, count))
            sizes[size] = {"defects": count, "found": found, "interval": interval, "scores": list(scores)}
        return {
            "sizes": sizes,
            "pictures": self.pictures,
            "seconds": round(self.seconds, 3),
            "rate": self.rate,
            "score_threshold": self.threshold,
            "precision": self.precision,
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> DefectScores | None:
        """Reads the scores from a model's facts; None where there are none, or they are damaged."""
        try:
            stored = facts[SIMULATED_DEFECTS]
            scores = {str(size): tuple(map(float, one["scores"])) for size, one in stored["sizes"].items()}
            stored = {"score_threshold": stored.get("threshold"), **stored}  # its name in earlier models
            seconds, rate, threshold = (float(stored[key]) for key in ("seconds", "rate", "score_threshold"))
            if not scores or not all(scores.values()) or not math.isfinite(seconds + rate + threshold):
                return None
            return cls(scores, int(stored["pictures"]), seconds, rate, threshold, str(stored["precision"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None


def update_detection_facts(facts: Mapping[str, Any], calibration: Calibration) -> dict[str, Any]:
    """A model's facts with the defects that it finds at another threshold."""
    stored = DefectScores.from_facts(facts)
    new = {} if stored is None else {SIMULATED_DEFECTS: stored.with_calibration(calibration).to_dict()}
    return {**facts, **new}


def describe_detection(facts: Mapping[str, Any], calibration: Calibration) -> str | None:
    """Describes the share of simulated defects that a model finds; None where it was not measured."""
    stored = DefectScores.from_facts(facts)
    if stored is None:
        return None
    other = stored.precision != calibration.precision
    return f"{stored.describe()}{f'; measured in {stored.precision}' if other else ''}"
