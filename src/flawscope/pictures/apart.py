"""Finds pictures that lie apart from the rest of a set, alone or as a small group of one kind.

Such pictures are misfires or parts of another product. Pictures of a small group are near each other, so that
a picture's distance to its nearest neighbour does not reveal them.

So the distance of each picture to pictures of other units (parts; near-duplicates are one unit) is measured
several times, leaving out the 0, 1, 2, ... nearest units. For each of these numbers the distances of all
pictures are compared: pictures beyond a gap in the distances are apart. For pictures of a single unit, which
are unusual together, the gap must be wider. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.appearance import FEATURES, FeatureValues

Distances = NDArray[np.float64]
# Returns the distances [C, N] of a picture's C cells to the nearest cell of each of N pictures
Compare = Callable[[int], Distances]
# Combines the distances [C, ...] of a picture's C cells into one distance of the picture, [...]
Combine = Callable[[Distances], Distances]

GRID = 8  # cells of a picture along each side
FARTHEST_SHARE = 0.25  # share of a picture's cells, the farthest, whose mean distance counts
MAX_SHARE = 5  # at most one of five pictures is apart: more of a kind are a variant of the product
MAX_GROUP = 6  # largest number of nearest units that are left out
# In smaller sets no picture lies apart
MIN_PICTURES = 16
MIN_UNITS = 8
MAX_COMPARED = 1000  # pictures, chosen evenly: the time grows with their square
# Ratio of the smallest distance of the pictures apart to the largest distance of the rest: where the pictures
# apart are of several units, and where they are of one (bench/NOTES.md)
GROUP_GAP = 1.65
SINGLE_GAP = 2.0
LOOK_GAP = 2.4
SINGLE_LOOK_GAP = 4.2
NORMAL_MAD = 1.4826  # ratio of standard deviation to median absolute deviation of normal values
LEAST_STEP = 1.0  # added to distances of looks, in spreads: differences of near looks then hardly count


def find_apart(
    cells: Sequence[NDArray[np.float32] | None], looks: Sequence[FeatureValues], units: Sequence[int]
) -> list[list[int]]:
    """Return the indices of the pictures that lie apart from the rest, in groups of similar pictures.

    A group lies apart by its features, or by the look of its whole pictures. At most `MAX_COMPARED` looks,
    chosen evenly, are compared.

    Args:
        cells: Features [C, D] of each picture's cells; None where they are not known.
        looks: Measures of each picture's look (`measure_appearance`); empty where not known.
        units: Number of the part that each picture shows.
    """
    groups = _apart_by_features(cells, units)
    grouped_indices = {index for group in groups for index in group}
    step = max(1, math.ceil(len(looks) / MAX_COMPARED))
    compared_looks = looks[::step]
    compared_units = units[::step]
    for group in groups_of_other_look(compared_looks, compared_units):
        indices = [k * step for k in group]
        if grouped_indices.isdisjoint(indices):  # none of its pictures was found by the features
            groups.append(indices)
    return groups


def _apart_by_features(cells: Sequence[NDArray[np.float32] | None], units: Sequence[int]) -> list[list[int]]:
    """Return the indices of pictures whose features lie apart, in groups of similar pictures.

    The arguments are those of `find_apart`.
    """
    indices = [index for index, picture_cells in enumerate(cells) if picture_cells is not None]
    if not indices:
        return []
    features = np.stack([picture_cells for picture_cells in cells if picture_cells is not None])
    groups = groups_apart(features, [units[index] for index in indices])
    return [[indices[k] for k in group] for group in groups]


def groups_apart(cells: NDArray[np.float32], units: Sequence[int]) -> list[list[int]]:
    """Return the indices of pictures that lie apart by their features, in groups of similar pictures.

    Args:
        cells: Features [N, C, D] of each picture's cells. A cell is compared with all cells of another
            picture, wherever they are.
        units: Number [N] of the part that each picture shows.
    """
    picture_count, cell_count, feature_count = cells.shape
    if not _is_large_enough(units):
        return []
    cells = cells - cells.mean(axis=(0, 1))
    squared_norms = np.square(cells).sum(2)
    all_cells = cells.reshape(-1, feature_count)
    farthest_count = max(1, round(FARTHEST_SHARE * cell_count))

    def compare(picture: int) -> Distances:
        """Return the distances [C, N] of a picture's cells to the nearest cell of each picture."""
        products = (cells[picture] @ all_cells.T).reshape(cell_count, picture_count, -1)
        # |a - b|^2 = |a|^2 + |b|^2 - 2 a b
        squares = squared_norms[picture][:, None] + (squared_norms[None] - 2 * products).min(2)
        return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float64)

    def combine(distances: Distances) -> Distances:
        """Return the mean distance of the farthest cells."""
        return np.asarray(np.sort(distances, axis=0)[-farthest_count:].mean(axis=0), dtype=np.float64)

    unit_numbers = np.asarray(units)
    nearest, distances = _measure_distances(unit_numbers, compare, combine)
    return _find_groups(nearest, distances, unit_numbers, gap=GROUP_GAP, single_gap=SINGLE_GAP)


def groups_of_other_look(looks: Sequence[FeatureValues], units: Sequence[int]) -> list[list[int]]:
    """Return groups of pictures, as indices, whose looks as a whole lie apart from the rest.

    A picture that lies apart alone is left out: a single good picture may look unlike the others.

    Args:
        looks: Measures of each picture's look (`measure_appearance`); empty where not known.
        units: Number [N] of the part that each picture shows.
    """
    indices = [index for index, look in enumerate(looks) if look]
    unit_numbers = np.array([units[index] for index in indices])
    if not _is_large_enough(unit_numbers):
        return []
    values = np.array([looks[index] for index in indices])
    deviation = NORMAL_MAD * np.median(np.abs(values - np.median(values, axis=0)), axis=0)
    values /= np.maximum(deviation, [feature.min_width for feature in FEATURES])

    def compare(picture: int) -> Distances:
        """Return the distances of a picture, as a single cell, to all pictures."""
        return np.asarray(LEAST_STEP + np.linalg.norm(values - values[picture], axis=1)[None])

    nearest, distances = _measure_distances(unit_numbers, compare, combine=lambda distances: distances[0])
    groups = _find_groups(nearest, distances, unit_numbers, gap=LOOK_GAP, single_gap=SINGLE_LOOK_GAP)
    return [[indices[k] for k in group] for group in groups if len(group) > 1]


def _is_large_enough(units: Sequence[int] | NDArray[np.intp]) -> bool:
    """Whether a set has enough pictures and units to tell which of them lie apart."""
    return len(units) >= MIN_PICTURES and len({*units}) >= MIN_UNITS


def _measure_distances(
    units: NDArray[np.intp], compare: Compare, combine: Combine
) -> tuple[NDArray[np.intp], Distances]:
    """Measure each picture's distance to those of other units, with 0, 1, 2, ... nearest units left out.

    Args:
        units: Number [N] of the part that each picture shows.
        compare: Returns the distances [C, N] of the cells of a picture, by its number, to the nearest cell
            of each picture.
        combine: Combines the distances of a picture's cells into one.

    Returns:
        Two arrays [N, K]:

        - The nearest picture of the k-th nearest other unit, k from 0 on.
        - The distance to the other units without the k nearest (k = 0: none is left out).
    """
    count = len(units)
    left_out_count = max(1, min(MAX_GROUP, count // MAX_SHARE))
    nearest = np.empty((count, left_out_count), np.intp)
    picture_distances = np.empty((count, left_out_count))
    for picture in range(count):
        distances = compare(picture)
        distances[:, units == units[picture]] = np.inf
        ascending = np.argsort(combine(distances), kind="stable")
        _, first_places = np.unique(units[ascending], return_index=True)  # nearest picture of each unit
        nearest[picture] = ascending[np.sort(first_places)][:left_out_count]
        for k in range(left_out_count):
            picture_distances[picture, k] = combine(distances.min(axis=1))
            distances[:, units == units[nearest[picture, k]]] = np.inf
    return nearest, picture_distances


def _find_groups(
    nearest: NDArray[np.intp], distances: Distances, units: NDArray[np.intp], gap: float, single_gap: float
) -> list[list[int]]:
    """Return the indices of the pictures beyond the widest gaps, in groups.

    Of the pictures beyond a gap, each shares a group with its nearest pictures, and with those of its unit.

    Args:
        nearest: Nearest pictures [N, K], as `_measure_distances` returns them.
        distances: Distances [N, K], as `_measure_distances` returns them.
        units: Number [N] of the part that each picture shows.
        gap: Smallest gap that counts where the pictures beyond it are of several units.
        single_gap: Smallest gap that counts where they are of one unit.
    """
    remaining = list(range(len(nearest)))
    # for each picture apart, the lowest picture that it is linked to; following the links leads to the first
    # picture of its group, which is linked to itself
    link_by_picture = dict[int, int]()
    while beyond := _beyond_gap(distances[remaining], units[remaining], gap, single_gap):
        group = [remaining[place] for place in beyond]
        for picture in group:
            nearest_pictures = nearest[picture, : len(group)].tolist()
            same_unit = np.flatnonzero(units == units[picture]).tolist()
            neighbours = {*nearest_pictures, *same_unit}
            lowest = picture
            for neighbour in neighbours:
                if neighbour in group:
                    lowest = min(lowest, link_by_picture.get(neighbour, neighbour))
            link_by_picture[picture] = lowest
        remaining = [picture for picture in remaining if picture not in link_by_picture]
    group_by_first: dict[int, list[int]] = {}
    for picture in sorted(link_by_picture):
        first = picture
        while link_by_picture[first] != first:
            first = link_by_picture[first]
        group_by_first.setdefault(first, []).append(picture)
    return list(group_by_first.values())


def _beyond_gap(distances: Distances, units: NDArray[np.intp], gap: float, single_gap: float) -> list[int]:
    """Return the indices of the pictures beyond the widest gap; empty where no gap is wide enough.

    A gap is the ratio of two distances that follow each other in descending order.

    With k units left out, only gaps with at least k + 1 pictures beyond them are tried: smaller groups are
    found with fewer units left out.

    Args:
        distances: Distances [N, K]; in column k with the k nearest units left out.
        units: Number [N] of the part that each picture shows.
        gap: Smallest gap that counts where the pictures beyond it are of several units.
        single_gap: Smallest gap that counts where they are of one unit.
    """
    widest = 1.0
    beyond = list[int]()
    for k in range(distances.shape[1]):
        farthest_first = np.argsort(-distances[:, k], kind="stable")
        max_count = len(farthest_first) // MAX_SHARE
        for far_count in range(k + 1, max_count + 1):
            nearest_beyond = distances[farthest_first[far_count - 1], k]
            farthest_of_rest = distances[farthest_first[far_count], k]
            ratio = nearest_beyond / max(farthest_of_rest, 1e-12)
            is_one_unit = len({*units[farthest_first[:far_count]]}) == 1
            if ratio > widest and ratio >= (single_gap if is_one_unit else gap):
                widest = ratio
                beyond = farthest_first[:far_count].tolist()
    return beyond
