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

SIZE_BOUNDS = "size_bounds"  # key of a model's facts
HALF_WAY = 0.5  # share of the way from good pictures' level to the mask threshold (bench/NOTES.md)
RESERVE = 1.1  # smallest factor of a size: real defects differ from simulated ones
SHARE = 0.01  # share of the defects that may be larger than their bound
SIZES = ("length", "width", "area")


def doubted_level(level: float, mask_threshold: float) -> float:
    """Return the map value above which pixels around a region are doubted.

    Args:
        level: Median map value of good pictures.
        mask_threshold: Map value above which pixels make a region.
    """
    return level + HALF_WAY * (mask_threshold - level)


@dataclass(frozen=True)
class SizeBounds:
    """Factors by which a defect may be larger than the doubted area around its region.

    The expected share of defects that are larger than their bound is at most max(`SHARE`, 1 / (`count` + 1)).

    Attributes:
        length: Factor of the length, at least `RESERVE`.
        width: Factor of the width, at least `RESERVE`.
        area: Factor of the area, at least `RESERVE`.
        count: Number of simulated defects that the factors were calibrated on; 0: none.
    """

    length: float = RESERVE
    width: float = RESERVE
    area: float = RESERVE
    count: int = 0

    @classmethod
    def of_ratios(cls, ratios: Iterable[Iterable[float]]) -> SizeBounds:
        """Calibrate on defects of known size.

        Args:
            ratios: For each defect its true length, width and area, divided by the length, width and area of
                the doubted area around its region.

        Returns:
            The bounds; without defects each factor is `RESERVE`.
        """
        # three lists: of lengths, widths and areas
        ascending_ratios = [sorted(map(float, column)) for column in zip(*ratios, strict=True)]
        if not ascending_ratios:
            return cls()
        count = len(ascending_ratios[0])
        # at most the share `SHARE` of count + 1 ratios, those of the defects and of a new one, ranks higher
        rank = min(count, math.ceil((count + 1) * (1 - SHARE)))
        length, width, area = (max(RESERVE, column[rank - 1]) for column in ascending_ratios)
        return cls(length, width, area, count)

    def to_dict(self) -> Json:
        """Return the factors, rounded to four digits, and `count`, as a model's facts hold them."""
        factors = {name: round(getattr(self, name), 4) for name in SIZES}
        return {**factors, "count": self.count}

    @classmethod
    def from_facts(cls, facts: Facts) -> SizeBounds:
        """Read the bounds from a model's facts. If the facts have none, each factor is `RESERVE`.

        Raises:
            InputError: The bounds are damaged.
        """
        stored = facts.get(SIZE_BOUNDS, {})
        damaged = InputError(f"the model's {SIZE_BOUNDS} are {stored!r:.60}, no factors: fit anew")
        try:
            bounds = cls(**stored)
            is_valid = (
                all(RESERVE <= getattr(bounds, name) < math.inf for name in SIZES) and bounds.count >= 0
            )
        except TypeError:  # other keys, or values that are no numbers
            raise damaged from None
        if not is_valid:
            raise damaged
        return bounds


UNCALIBRATED = SizeBounds()  # bounds of a model without simulated defects
