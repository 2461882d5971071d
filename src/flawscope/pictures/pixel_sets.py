"""Finds and measures connected sets of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows and columns


def connected_parts(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], list[Pixels]]:
    """Return the 8-connected parts of a mask [H, W].

    Returns:
        A map [H, W] with the number of each pixel's part (from 1 on; 0 outside of the mask), and a list with
        the pixels of each part.
    """
    from scipy import ndimage

    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    parts = []
    for number, (row_range, column_range) in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = np.nonzero(labels[row_range, column_range] == number)
        parts.append((rows + row_range.start, columns + column_range.start))
    return labels, parts


def largest_sizes(parts: Sequence[Pixels]) -> NDArray[np.float64]:
    """Return [largest length, largest width, largest area] of sets of pixels; zeros if there are none.

    Lengths and widths are in pixels, areas in square pixels.
    """
    sizes: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)]
    for rows, columns in parts:
        length, width = rectangle_sides(corners(rows, columns))
        area = len(rows)
        sizes.append((length, width, area))
    return np.asarray(np.max(sizes, axis=0), np.float64)


def without_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask [H, W] whose neighbours all belong to the mask."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_erosion(mask, np.ones((3, 3))))


def corners(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the corner points (y, x), [M, 2], of the first and the last pixel of each row.

    Their convex hull contains all other pixels.

    Args:
        rows: Row of each pixel, ascending.
        columns: Column of each pixel, ascending in a row.
    """
    row_changes = rows[1:] != rows[:-1]  # whether each pixel's next one lies in another row
    is_first = np.append(True, row_changes)
    is_last = np.append(row_changes, True)
    is_row_end = is_first | is_last
    row_offsets, column_offsets = (offsets.ravel() for offsets in np.mgrid[:2, :2])  # a pixel's four corners
    y = rows[is_row_end, None] + row_offsets
    x = columns[is_row_end, None] + column_offsets
    return np.stack([y.ravel(), x.ravel()], axis=1).astype(np.float64)


def rectangle_sides(points: NDArray[np.float64]) -> tuple[float, float]:
    """Return the sides, the longer first, of the rectangle with the smallest area around points [N, 2].

    The points must not all lie on a line. A side of the rectangle lies on a side of the convex hull (Freeman
    and Shapira, Communications of the ACM 18, 1975).
    """
    from scipy.spatial import ConvexHull

    hull = points[ConvexHull(points).vertices]
    edges = np.roll(hull, -1, axis=0) - hull
    directions = edges / np.linalg.norm(edges, axis=1, keepdims=True)  # [K, 2], of the hull's sides
    normals = directions[:, ::-1] * (1, -1)
    lengths = np.ptp(hull @ directions.T, axis=0)  # [K], of the rectangle along each side
    widths = np.ptp(hull @ normals.T, axis=0)
    best = int(np.argmin(lengths * widths))
    length, width = float(lengths[best]), float(widths[best])
    return max(length, width), min(length, width)
