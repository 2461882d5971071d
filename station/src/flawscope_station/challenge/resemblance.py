"""Resemblance of a picture to the stored picture of a challenge part.

Pictures are compared at 64 x 64 pixels. That tells other products, an empty place and a part in another
position from the challenge part, but not two good parts of the same product. A defective part must have a
region where its stored picture has one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures import near_duplicates
from flawscope_station.store.inspection import RegionFacts

SIDE = 64  # pixels of a side of the compared pictures
MAX_SHIFT = 8  # pixels of the largest shift between them
SHIFT_STEP = 2  # pixels between two shifts
MARGIN = 0.1  # share of a picture's side by which a region may be shifted

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of the picture's sides


def resemblance(picture: NDArray[np.uint8], stored: NDArray[np.uint8]) -> float:
    """Return the highest correlation of two pictures [H, W, 3] at any small shift between them, -1 to 1."""
    thumbnail = near_duplicates.Look.of(picture).thumbnail.astype(np.float64)
    stored_thumbnail = near_duplicates.Look.of(stored).thumbnail.astype(np.float64)
    shifts = range(-MAX_SHIFT, MAX_SHIFT + 1, SHIFT_STEP)
    return max(
        _correlation(_overlap(thumbnail, y, x), _overlap(stored_thumbnail, -y, -x))
        for y in shifts
        for x in shifts
    )


def relative_boxes(regions: Sequence[RegionFacts], width: int, height: int) -> list[Box]:
    """Return the boxes of regions as shares of a picture's sides, the highest peak first."""
    highest_first = sorted(regions, key=lambda region: -region["peak"])
    boxes = [region["box"] for region in highest_first]
    return [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes]


def lies_alike(boxes: Sequence[Box], stored: Sequence[Box]) -> bool:
    """Return whether any box overlaps the first stored box, or would if shifted by `MARGIN`.

    If there is no stored box, the result is True.

    Args:
        boxes: Boxes of a picture.
        stored: Boxes of the stored picture; the first is around the highest peak of its anomaly map.
    """
    if not stored:
        return True
    left, top, right, bottom = stored[0]
    return any(
        x0 < right + MARGIN and left < x1 + MARGIN and y0 < bottom + MARGIN and top < y1 + MARGIN
        for x0, y0, x1, y1 in boxes
    )


def _overlap(picture: NDArray[np.float64], y: int, x: int) -> NDArray[np.float64]:
    """Return the cut-out of a picture that overlaps a second one, which is shifted by y and x pixels.

    Both have `SIDE` x `SIDE` pixels. The same cut-out of the second picture is `_overlap(second, -y, -x)`.
    """
    rows = slice(max(0, y), SIDE + min(0, y))
    columns = slice(max(0, x), SIDE + min(0, x))
    return picture[rows, columns]


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the correlation of two arrays of the same shape, -1 to 1."""
    first_deviation = first - first.mean()
    second_deviation = second - second.mean()
    norms = np.linalg.norm(first_deviation) * np.linalg.norm(second_deviation)
    covariance = (first_deviation * second_deviation).sum()
    return float(covariance / (norms + 1e-9))  # the deviation of a uniform array has the norm 0
