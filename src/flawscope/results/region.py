"""Region: where a picture looks different, how much, how large, and of what kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.size_bounds import SizeBounds
from flawscope.pictures.pixel_sets import corners, rectangle_sides
from flawscope.types import Json
from flawscope.views.geometry import Geometry


class KindSet(NamedTuple):
    """Kinds that a region may be of.

    Attributes:
        kinds: Kinds by name, the likeliest first; empty: the region is like no known kind.
        kind_p_values: P-values of all kinds by name, 0..1; `kinds` has the kinds whose p-value is above the
            allowed share of errors.
    """

    kinds: tuple[str, ...]
    kind_p_values: dict[str, float]


def describe_kinds(kinds: Sequence[str]) -> str:
    """Return the words for the kinds that a region may be of, such as "scratch or dent"."""
    return " or ".join(kinds) or "something new"


@dataclass(frozen=True)
class Region:
    """A connected part of the mask, in the pixels of the picture (x to the right, y down).

    Sizes in mm are None where the length of a pixel is not known.

    Attributes:
        box: x0, y0, x1, y1, the upper bounds exclusive.
        area: Area in square pixels.
        peak: Largest map value in the region.
        centroid: x, y.
        kinds: Kinds of defects that it may be of, likeliest first; empty: something new; None: the model
            names none.
        kind_p_values: p-values of all kinds by name, 0..1.
        length_mm, width_mm: Sides of the smallest rectangle around the region, at any angle.
        area_mm2: Area in mm².
        length_mm_at_most, width_mm_at_most, area_mm2_at_most: Largest sizes that the defect may have, which
            may reach beyond the region (`SizeBounds`).
        box_at_most: Box around all pixels that may belong to the defect; None if the length of a pixel is not
            known.
    """

    box: tuple[float, float, float, float]
    area: float
    peak: float
    centroid: tuple[float, float]
    kinds: tuple[str, ...] | None = None
    kind_p_values: Mapping[str, float] = field(default_factory=dict, hash=False)
    length_mm: float | None = None
    width_mm: float | None = None
    area_mm2: float | None = None
    length_mm_at_most: float | None = None
    width_mm_at_most: float | None = None
    area_mm2_at_most: float | None = None
    box_at_most: tuple[float, float, float, float] | None = None

    @property
    def kinds_text(self) -> str:
        """The kinds for a person; empty: the model names none."""
        return "" if self.kinds is None else describe_kinds(self.kinds)

    @property
    def longer_side(self) -> float:
        """Longer side of the box, in the picture's pixels."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, y1 - y0)

    def to_dict(self) -> Json:
        """Return the region's entry in the JSON of a result."""
        document: Json = {
            "box": [round(side, 2) for side in self.box],
            "area": round(self.area, 2),
            "peak": self.peak,
            "centroid": [round(place, 2) for place in self.centroid],
        }
        if self.kinds is not None:
            document |= self._kind_entries(self.kinds)
        if self.length_mm is not None:
            document |= self._size_entries()
        return document

    def _kind_entries(self, kinds: tuple[str, ...]) -> Json:
        p_values = {name: float(f"{p:.3g}") for name, p in self.kind_p_values.items()}
        return {"kinds": [*kinds], "kind_p_values": p_values}

    def _size_entries(self) -> Json:
        return {
            "length_mm": self.length_mm,
            "width_mm": self.width_mm,
            "area_mm2": self.area_mm2,
            "length_mm_at_most": self.length_mm_at_most,
            "width_mm_at_most": self.width_mm_at_most,
            "area_mm2_at_most": self.area_mm2_at_most,
        }


def measure_region(rows: NDArray[np.intp], columns: NDArray[np.intp], geometry: Geometry) -> Json:
    """Return a region's length, width and area in mm, as entries of `Region`.

    Length and width are the sides of the smallest rectangle, at any angle, that holds all corners of the
    pixels in the picture. They are never too small; they are too large by about a pixel of the map.

    Args:
        rows: [N], rows of the region's pixels in the map, in ascending order.
        columns: [N], their columns.
        geometry: Place of the map in the picture.

    Returns:
        The entries; empty where the length of the picture's pixels is not known.
    """
    mm_per_pixel = geometry.mm_per_pixel
    if mm_per_pixel is None:
        return {}
    corner_rows, corner_columns = corners(rows, columns).T
    y, x = geometry.inverse().locate(corner_rows, corner_columns)
    length, width = rectangle_sides(np.stack([x, y], axis=1))
    scale_y, scale_x = geometry.scale
    area = float(len(rows) / (scale_y * scale_x))
    return {
        "length_mm": length * mm_per_pixel,
        "width_mm": width * mm_per_pixel,
        "area_mm2": area * mm_per_pixel**2,
    }


def bound_sizes(
    rows: NDArray[np.intp], columns: NDArray[np.intp], geometry: Geometry, bounds: SizeBounds
) -> Json:
    """Return the largest sizes that a defect may have, as the entries `..._at_most` of `Region`.

    The result is empty if the length of the picture's pixels is not known.

    Args:
        rows: [N], rows of all map pixels that may belong to the defect.
        columns: [N], their columns.
        geometry: Place of the map in the picture.
        bounds: Factors by which the size of these pixels is multiplied.
    """
    sizes = measure_region(rows, columns, geometry)
    if not sizes:
        return {}
    return {
        "box_at_most": geometry.box_around(rows, columns),
        "length_mm_at_most": bounds.length * sizes["length_mm"],
        "width_mm_at_most": bounds.width * sizes["width_mm"],
        "area_mm2_at_most": bounds.area * sizes["area_mm2"],
    }
