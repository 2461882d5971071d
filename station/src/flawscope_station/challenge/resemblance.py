"""Whether a picture shows the wanted challenge part, as far as its look can show.

The look at 64 x 64 pixels distinguishes other products, an empty place, and a part that lies otherwise. It
does not distinguish two good parts of the same kind. A defective part must have a region where its stored
picture has one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures import near_duplicates
from flawscope_station.store.inspection import RegionFacts

# pixels: of the compared pictures, and of the shifts between them
SIDE = 64
MAX_SHIFT = 8
SHIFT_STEP = 2
MARGIN = 0.1  # of a picture's sides, by which a region may lie elsewhere

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of the sides


def resemblance(picture: NDArray[np.uint8], stored: NDArray[np.uint8]) -> float:
    """Return the highest correlation of two pictures [H, W, 3] over small shifts, -1 to 1."""
    looks = (near_duplicates.Look.of(whole) for whole in (picture, stored))
    first, other = (look.thumbnail.astype(np.float64) for look in looks)
    shifts = range(-MAX_SHIFT, MAX_SHIFT + 1, SHIFT_STEP)
    return max(_correlation(_cut(first, y, x), _cut(other, -y, -x)) for y in shifts for x in shifts)


def relative_boxes(regions: Sequence[RegionFacts], width: int, height: int) -> list[Box]:
    """Return the boxes of regions as shares of a picture's sides, the highest peak first."""
    ordered = sorted(regions, key=lambda region: -region["peak"])
    boxes = (region["box"] for region in ordered)
    return [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes]


def lies_alike(boxes: Sequence[Box], stored: Sequence[Box]) -> bool:
    """Whether one of the boxes overlaps `stored[0]`, of the highest peak; True where nothing is stored."""
    if not stored:
        return True
    left, top, right, bottom = stored[0]
    return any(
        x0 < right + MARGIN and left < x1 + MARGIN and y0 < bottom + MARGIN and top < y1 + MARGIN
        for x0, y0, x1, y1 in boxes
    )


def _cut(picture: NDArray[np.float64], y: int, x: int) -> NDArray[np.float64]:
    """Return the cut-out that stays in a picture's frame when the picture is moved by `y` and `x` pixels."""
    return picture[max(0, y) : SIDE + min(0, y), max(0, x) : SIDE + min(0, x)]


def _correlation(first: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    first = first - first.mean()
    other = other - other.mean()
    return float((first * other).sum() / (np.linalg.norm(first) * np.linalg.norm(other) + 1e-9))
