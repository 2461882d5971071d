"""Bounds the size of a defect by the doubted area around its region. Torch-free.

A map falls off towards a region's ends: a faint end is not outlined. The doubted area is the connected area
around a region where the map is at least half way from good pictures' level to the mask threshold. Simulated
defects of known size give the factor by which a defect may be larger (split conformal prediction: Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, 2005).
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
    """Return the map value above which pixels around a region are doubted; `level` is good pictures'."""
    return level + HALF_WAY * (mask_threshold - level)


@dataclass(frozen=True)
class SizeBounds:
    """Factors by which a defect may be larger than the doubted area around its region.

    Attributes:
        length: Factor of the length, at least `RESERVE`.
        width: Factor of the width, at least `RESERVE`.
        area: Factor of the area, at least `RESERVE`.
        count: Number of simulated defects that the factors were calibrated on; 0: none. At most 1 defect in
            `count` + 1 is expected to be larger than its bound; from 99 on, at most `SHARE`.
    """

    length: float = RESERVE
    width: float = RESERVE
    area: float = RESERVE
    count: int = 0

    @classmethod
    def of_ratios(cls, ratios: Iterable[Iterable[float]]) -> SizeBounds:
        """Calibrate on defects of known size.

        Args:
            ratios: For each defect the true length, width and area, each divided by that of the doubted area.
        """
        columns = [sorted(map(float, each)) for each in zip(*ratios, strict=True)]
        count = len(columns[0]) if columns else 0
        rank = min(count, math.ceil((count + 1) * (1 - SHARE)))
        if not rank:
            return cls()
        length, width, area = (max(RESERVE, each[rank - 1]) for each in columns)
        return cls(length, width, area, count)

    def to_dict(self) -> Json:
        """Return the factors, rounded to four digits, and `count`, as a model's facts hold them."""
        return {**{name: round(getattr(self, name), 4) for name in SIZES}, "count": self.count}

    @classmethod
    def from_facts(cls, facts: Facts) -> SizeBounds:
        """Read the bounds from a model's facts; where these hold none, each factor is `RESERVE`.

        Raises:
            InputError: The bounds are damaged.
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
