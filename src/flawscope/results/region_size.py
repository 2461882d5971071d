"""Measures the length, the width and the area of a region in millimetres."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.size_bounds import SizeBounds
from flawscope.pictures.pixel_sets import corners, rectangle_sides
from flawscope.views.geometry import Geometry


def measure_region(rows: NDArray[np.intp], columns: NDArray[np.intp], geometry: Geometry) -> dict[str, Any]:
    """Measures a region, of a map's pixels [N]; empty where the length of the picture's pixels is not known.

    Length and width are the sides of the smallest rectangle around the pixels, whole with their corners, in
    the picture: at no angle too small, and too large by about a pixel of the map. Rows come in order.
    """
    if (mm_per_pixel := geometry.mm_per_pixel) is None:
        return {}
    y, x = geometry.inverse().locate(*corners(rows, columns).T)
    length, width = rectangle_sides(np.stack([x, y], axis=1))
    sy, sx = geometry.scale
    return {
        "length_mm": length * mm_per_pixel,
        "width_mm": width * mm_per_pixel,
        "area_mm2": float(len(rows) / (sy * sx)) * mm_per_pixel**2,
    }


def bound_sizes(
    rows: NDArray[np.intp], columns: NDArray[np.intp], geometry: Geometry, bounds: SizeBounds
) -> dict[str, Any]:
    """Bounds what is wrong within a place that the map doubts, of a map's pixels [N], as entries of `Region`;
    empty where the length of the picture's pixels is not known."""
    if not (sizes := measure_region(rows, columns, geometry)):
        return {}
    factors = bounds.length, bounds.width, bounds.area
    bounded = {f"{name}_at_most": f * sizes[name] for name, f in zip(sizes, factors, strict=True)}
    return {"box_at_most": geometry.box_around(rows, columns), **bounded}
