"""Bounds how large what is wrong may be, by what the map doubts around a region. Torch-free.

A map falls off towards a region's ends, so that a faint end is not outlined. What may be wrong is the
connected place around a region where the map is half way or farther from good pictures' level to the mask
threshold. Simulated defects of known size say how much larger than that a defect may be (split conformal
prediction: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from flawscope.errors import InputError
from flawscope.types import Facts, Json

SIZE_BOUNDS = "size_bounds"  # among a model's facts
HALF_WAY = 0.5  # of the way from good pictures' level to the mask threshold (bench/NOTES.md)
RESERVE = 1.1  # factor of each size at least, for what simulated defects do not show
SHARE = 0.01  # of the defects that may be larger than their bound
SIZES = ("length", "width", "area")


def doubted_level(level: float, mask_threshold: float) -> float:
    """Map value above which what is around a region may be wrong, too. level: of good pictures."""
    return level + HALF_WAY * (mask_threshold - level)


@dataclass(frozen=True)
class SizeBounds:
    """Factors by which a defect may be larger than the place that the map doubts.

    length, width, area: factors, at least `RESERVE`. count: simulated defects that they were calibrated on;
    at most 1 in `count` + 1 is expected to be larger, and of 99 and more at most `SHARE`; 0: none.
    """

    length: float = RESERVE
    width: float = RESERVE
    area: float = RESERVE
    count: int = 0

    @classmethod
    def of_ratios(cls, ratios: Iterable[Iterable[float]]) -> SizeBounds:
        """Calibrates on the true sizes of defects as shares of the doubted place's: of each defect the
        length's, the width's and the area's.
        """
        columns = [sorted(map(float, each)) for each in zip(*ratios, strict=True)]
        count = len(columns[0]) if columns else 0
        rank = min(count, math.ceil((count + 1) * (1 - SHARE)))
        if not rank:
            return cls()
        length, width, area = (max(RESERVE, each[rank - 1]) for each in columns)
        return cls(length, width, area, count)

    def to_dict(self) -> Json:
        return {**{name: round(getattr(self, name), 4) for name in SIZES}, "count": self.count}

    @classmethod
    def from_facts(cls, facts: Facts) -> SizeBounds:
        """Reads the bounds from a model's facts; those of models without any are the reserve alone.

        InputError: they are damaged.
        """
        stored = facts.get(SIZE_BOUNDS, {})
        try:
            found = cls(**stored)
            if all(RESERVE <= getattr(found, name) < math.inf for name in SIZES) and found.count >= 0:
                return found
        except TypeError:
            pass
        raise InputError(f"the model's {SIZE_BOUNDS} are {stored!r:.60}, no factors: fit anew")


UNCALIBRATED = SizeBounds()  # of models without simulated defects
