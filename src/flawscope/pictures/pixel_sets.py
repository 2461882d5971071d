"""Finds and measures connected sets of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows and columns


def connected_parts(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], list[Pixels]]:
    """Return the 8-connected parts of a mask [H, W].

    Returns:
        The number of each pixel's part [H, W], from 1 on, 0 for no part; and the pixels of each part.
    """
    from scipy import ndimage

    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    parts = []
    for number, (ys, xs) in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = np.nonzero(labels[ys, xs] == number)
        parts.append((rows + ys.start, columns + xs.start))
    return labels, parts


def largest_sizes(parts: Sequence[Pixels]) -> NDArray[np.float64]:
    """Return the largest length, width and area of parts of a map, in its pixels, [3]; 0 without parts."""
    sizes: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)]
    for pixels in parts:
        length, width = rectangle_sides(corners(*pixels))
        sizes.append((length, width, len(pixels[0])))
    return np.asarray(np.max(sizes, axis=0), np.float64)


def without_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask [H, W] whose neighbours all belong to it, too."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_erosion(mask, np.ones((3, 3))))


def corners(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the first and last pixel of each row, [M, 2] y and x; all others lie within their hull."""
    changes = rows[1:] != rows[:-1]
    ends = np.append(True, changes) | np.append(changes, True)
    down, across = (side.ravel() for side in np.mgrid[:2, :2])
    y, x = (at[ends, None] + to for at, to in ((rows, down), (columns, across)))
    return np.stack([y.ravel(), x.ravel()], axis=1).astype(np.float64)


def rectangle_sides(points: NDArray[np.float64]) -> tuple[float, float]:
    """Return the sides, the longer one first, of the rectangle of the least area around points [N, 2].

    The points do not all lie in a line. A side lies on the convex hull (Freeman and Shapira, Communications
    of the ACM 18, 1975).
    """
    from scipy.spatial import ConvexHull

    hull = points[ConvexHull(points).vertices]
    edges = np.roll(hull, -1, axis=0) - hull
    along = edges / np.linalg.norm(edges, axis=1, keepdims=True)  # [K, 2]
    sides = [np.ptp(hull @ axes.T, axis=0) for axes in (along, along[:, ::-1] * (1, -1))]
    best = int(np.argmin(sides[0] * sides[1]))
    a, b = float(sides[0][best]), float(sides[1][best])
    return max(a, b), min(a, b)
