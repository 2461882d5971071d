"""Measures the length, the width and the area of a region in millimetres, and how long a pixel is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.size_bounds import SizeBounds
from flawscope.errors import InputError
from flawscope.pictures.arrays import otsu
from flawscope.pictures.channels import first_view
from flawscope.pictures.decoding import PictureSource, source_name
from flawscope.pictures.pixel_sets import corners, rectangle_sides
from flawscope.views.geometry import Geometry

MIN_MARKER_LENGTH = 50  # pixels: an edge is known to some tenths of one
MIN_CONTRAST = 5  # of a marker, in spreads of the ground
MIN_OTHER = 0.1  # of the marker's area, above which something else may be the marker
MAX_DIFFERENCE = 0.05  # of its length where its edges are taken farther out or in


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


def measure_scale(picture: PictureSource, length: float) -> float:
    """Measures how long a pixel of a picture is, in millimetres, by a marker: one thing on plain ground of
    another colour, such as a gauge block, with a longer side of `length` mm. Its edge is half way between.

    Raises:
        InputError: the picture cannot be read, or nothing or more than one thing in it can be the marker.
    """
    values, name = first_view(picture)[0].astype(np.float32), source_name(picture)
    rim = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    away = abs(values - np.median(rim, axis=0)).max(2)  # [H, W], from the ground
    parts = away > otsu(away)[0]
    ground, marker = (float(away[part].mean()) if part.any() else 0.0 for part in (~parts, parts))
    spread = float(away[~parts].std()) if not parts.all() else 0.0
    if marker - ground < MIN_CONTRAST * max(spread, 1e-6):
        raise _no_marker(name, "nothing stands out from its ground", "lay the marker on plain ground")
    sides = [_marker_length(away, ground + share * (marker - ground), name) for share in (0.25, 0.5, 0.75)]
    if sides[1] < MIN_MARKER_LENGTH:
        why = f"the marker is {sides[1]:.0f} pixels long, {MIN_MARKER_LENGTH} are needed"
        raise _no_marker(name, why, "take a longer one")
    if max(sides) - min(sides) > MAX_DIFFERENCE * sides[1]:
        why = f"the marker's edge is not sharp: it is {min(sides):.0f} to {max(sides):.0f} pixels long"
        raise _no_marker(name, why, "focus, and light it evenly")
    return length / sides[1]


def _no_marker(name: str, why: str, remedy: str) -> InputError:
    return InputError(f"{name}: {why}; {remedy}")


def _marker_length(away: NDArray[np.float32], level: float, name: str) -> float:
    """Length in pixels of the only thing in a picture that is above a level [H, W]. InputError."""
    from scipy import ndimage

    filled = ndimage.binary_fill_holes(away > level)
    labels, _ = ndimage.label(filled, structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel())[1:]
    if (count := int((areas > MIN_OTHER * areas.max()).sum())) > 1:
        remedy = "show it alone, or paint all else in the colour of the ground"
        raise _no_marker(name, f"{count} things in it may be the marker", remedy)
    inside = labels == areas.argmax() + 1
    if inside[[0, -1]].any() or inside[:, [0, -1]].any():
        raise _no_marker(name, "the marker touches the border", "show all of it")
    points = []
    for across, within in ((away, inside), (away.T, inside.T)):  # crossings of the level, along rows
        rows, columns = np.nonzero(within[:, 1:] != within[:, :-1])
        before, after = across[rows, columns], across[rows, columns + 1]
        points.append(np.stack([rows, columns + (level - before) / (after - before)], axis=1))
    return rectangle_sides(np.concatenate([points[0], points[1][:, ::-1]]))[0]
