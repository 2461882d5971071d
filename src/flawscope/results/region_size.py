"""Measures the length, the width and the area of a region in millimetres."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.geometry import Geometry


def measure_region(rows: NDArray[np.intp], columns: NDArray[np.intp], geometry: Geometry) -> dict[str, Any]:
    """Measures a region, of a map's pixels [N]; empty where the length of the picture's pixels is not known.

    Length and width are the sides of the smallest rectangle around the pixels, whole with their corners, in
    the picture: at no angle too small, and too large by about a pixel of the map.
    """
    if (mm_per_pixel := geometry.mm_per_pixel) is None:
        return {}
    across, down = np.meshgrid((0, 1), (0, 1))
    y, x = geometry.inverse().locate(
        (rows[:, None] + down.ravel()).astype(np.float64).ravel(),
        (columns[:, None] + across.ravel()).astype(np.float64).ravel(),
    )
    length, width = rectangle_sides(np.stack([x, y], axis=1))
    sy, sx = geometry.scale
    return {
        "length_mm": length * mm_per_pixel,
        "width_mm": width * mm_per_pixel,
        "area_mm2": float(len(rows) / (sy * sx)) * mm_per_pixel**2,
    }


def rectangle_sides(points: NDArray[np.float64]) -> tuple[float, float]:
    """Sides, the longer one first, of the rectangle of the least area around points [N, 2], not all in a
    line. A side lies on the convex hull (Freeman and Shapira, Communications of the ACM 18, 1975)."""
    from scipy.spatial import ConvexHull

    hull = points[ConvexHull(points).vertices]
    edges = np.roll(hull, -1, axis=0) - hull
    along = edges / np.linalg.norm(edges, axis=1, keepdims=True)  # [K, 2]
    sides = [np.ptp(hull @ axes.T, axis=0) for axes in (along, along[:, ::-1] * (1, -1))]
    best = int(np.argmin(sides[0] * sides[1]))
    a, b = float(sides[0][best]), float(sides[1][best])
    return max(a, b), min(a, b)
