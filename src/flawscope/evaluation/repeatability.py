"""Measures how well a model's score repeats on one part that is put in again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flawscope.errors import InputError, pluralize

MIN_PICTURES = 3
MIN_DISTANCE = 3.0  # standard deviations between mean and threshold below which decisions change by chance


@dataclass(frozen=True)
class Repeatability:
    """Severities of pictures of one part.

    A severity is the distance of a score above the threshold, in units of the spread of good pictures.
    """

    severities: tuple[float, ...]

    @classmethod
    def of(cls, severities: Sequence[float]) -> Repeatability:
        """Return the figures of severities.

        Raises:
            InputError: The severities are fewer than `MIN_PICTURES`.
        """
        if len(severities) < MIN_PICTURES:
            pictures = pluralize(len(severities), "picture")
            raise InputError(f"{pictures} of the part: put it in five times, with a picture each")
        return cls(tuple(severities))

    @property
    def mean(self) -> float:
        """Mean severity."""
        return float(np.mean(self.severities))

    @property
    def deviation(self) -> float:
        """Standard deviation of the severities."""
        return float(np.std(self.severities, ddof=1))

    @property
    def distance(self) -> float:
        """Distance of the threshold from the mean, in standard deviations."""
        return abs(self.mean) / self.deviation if self.deviation else float("inf")

    @property
    def anomalous(self) -> int:
        """Number of pictures that are called anomalous."""
        return sum(severity > 0 for severity in self.severities)

    @property
    def is_fault(self) -> bool:
        """Whether the mean lies too near the threshold, or the decisions on the pictures differ."""
        decisions_differ = 0 < self.anomalous < len(self.severities)
        return self.distance < MIN_DISTANCE or decisions_differ

    def lines(self) -> list[str]:
        """Return the figures as lines for people; where there is a fault, a line with "!" has the advice."""
        count = len(self.severities)
        lines = [
            f"{pluralize(count, 'picture')} of one part: severity {self.mean:+.2f} in the mean, "
            f"standard deviation {self.deviation:.2f}; {self.anomalous} of {count} called anomalous"
        ]
        if self.is_fault:
            lines.append(
                f"! the threshold is {self.distance:.1f} standard deviations away: the decision on this part "
                "is chance. Put parts in more alike, find them in the picture (--align), or learn from parts "
                "that were put in again"
            )
        else:
            lines.append(f"  the threshold is {self.distance:.1f} standard deviations away")
        return lines

    def to_dict(self) -> dict[str, object]:
        """Return the figures as values that JSON can hold."""
        return {
            "severities": [*self.severities],
            "mean": self.mean,
            "standard_deviation": self.deviation,
            "distance": None if self.deviation == 0 else self.distance,
            "anomalous": self.anomalous,
            "fault": self.is_fault,
        }
