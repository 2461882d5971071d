"""Finds pictures that lie apart from the rest of a set, alone or as a small group of one kind.

Such pictures are misfires or parts of another product. Pictures of one kind explain each other, so that
leaving out one shows nothing.

Each picture is compared with those of other units (parts; near-duplicates are one unit), leaving out the 0,
1, 2, ... nearest, and all pictures alike: so the usual distances are measured with as many left out. Pictures
beyond a gap are apart; for pictures of one unit, which are unusual together, the gap must be wider.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.appearance import FEATURES, FeatureValues

Distances = NDArray[np.float64]
Compare = Callable[[int], Distances]  # a picture's cells with the nearest of each picture, [C, N]
Height = Callable[[Distances], Distances]  # how far cells [C, ...] are away together, [...]

GRID = 8  # cells of a picture along each side
FARTHEST_SHARE = 0.25  # of a picture's cells: the mean of their distances counts
MAX_SHARE = 5  # at most one of five pictures is apart: more of a kind are a variant of the product
MAX_GROUP = 6  # nearest pictures that are left out, at most
# below which nothing can be said
MIN_PICTURES = 16
MIN_UNITS = 8
MAX_COMPARED = 1000  # pictures, drawn evenly: the time grows with their square
# Factors between the nearest of the pictures apart and the farthest of the rest: of several units, and of one
# (bench/NOTES.md)
GROUP_GAP = 1.65
SINGLE_GAP = 2.0
LOOK_GAP = 2.4
SINGLE_LOOK_GAP = 4.2
NORMAL_MAD = 1.4826  # standard deviations of normal values in their median absolute deviation
LEAST_STEP = 1.0  # of the look as a whole, in spreads: nearer pictures are alike


def find_apart(
    cells: Sequence[NDArray[np.float32] | None], looks: Sequence[FeatureValues], units: Sequence[int]
) -> list[list[int]]:
    """Return the pictures that lie apart, by their places, in groups of one kind.

    They lie apart by their features, or by their look as a whole; the look is compared for `MAX_COMPARED`
    pictures drawn evenly.

    Args:
        cells: Features of each picture's cells; None where they are not known.
        looks: Measures of each picture's look (`measure_appearance`); empty where not known.
        units: Number of the part that each picture shows.
    """
    found = _apart_by_features(cells, units)
    known = {place for places in found for place in places}
    compared = range(0, len(looks), -(-len(looks) // MAX_COMPARED) or 1)
    for group in groups_of_other_look([looks[k] for k in compared], [units[k] for k in compared]):
        places = [compared[k] for k in group]
        if known.isdisjoint(places):
            found.append(places)
    return found


def _apart_by_features(cells: Sequence[NDArray[np.float32] | None], units: Sequence[int]) -> list[list[int]]:
    """Return the places of pictures whose features lie apart, in groups of one kind."""
    places = [place for place, cell in enumerate(cells) if cell is not None]
    if not places:
        return []
    features = np.stack([cell for cell in cells if cell is not None])
    groups = groups_apart(features, [units[place] for place in places])
    return [[places[k] for k in group] for group in groups]


def groups_apart(cells: NDArray[np.float32], units: Sequence[int]) -> list[list[int]]:
    """Return the places of pictures that lie apart by their features, in groups of one kind.

    Args:
        cells: Features [N, C, D] of each picture's cells; cells may change places from picture to picture.
        units: [N], equal for pictures of one part.
    """
    count = len(cells)
    if not _tell_enough(units):
        return []
    cells = cells - cells.mean(axis=(0, 1))
    norms = np.square(cells).sum(2)
    flat = cells.reshape(-1, cells.shape[2])
    most = max(1, round(FARTHEST_SHARE * cells.shape[1]))

    def compare(picture: int) -> Distances:
        products = (cells[picture] @ flat.T).reshape(cells.shape[1], count, -1)
        squares = norms[picture][:, None] + (norms[None] - 2 * products).min(2)
        return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float64)

    def height(distances: Distances) -> Distances:
        return np.asarray(np.sort(distances, axis=0)[-most:].mean(axis=0), dtype=np.float64)

    unit_numbers = np.asarray(units)
    nearest, left_out = _leave_out(unit_numbers, compare, height)
    return _find_groups(nearest, left_out, unit_numbers, GROUP_GAP, SINGLE_GAP)


def groups_of_other_look(looks: Sequence[FeatureValues], units: Sequence[int]) -> list[list[int]]:
    """Return groups of pictures, by their places, that lie apart together by their look as a whole.

    A single picture is no group: a good picture may look unlike the others.

    Args:
        looks: Measures of each picture's look (`measure_appearance`); empty where not known.
        units: [N], equal for pictures of one part.
    """
    known = [place for place, look in enumerate(looks) if look]
    unit_numbers = np.array([units[place] for place in known])
    if not _tell_enough(unit_numbers):
        return []
    values = np.array([looks[place] for place in known])
    deviation = NORMAL_MAD * np.median(np.abs(values - np.median(values, axis=0)), axis=0)
    values /= np.maximum(deviation, [feature.min_width for feature in FEATURES])

    def compare(picture: int) -> Distances:
        return np.asarray(LEAST_STEP + np.linalg.norm(values - values[picture], axis=1)[None])

    nearest, left_out = _leave_out(unit_numbers, compare, lambda distances: distances[0])
    found = _find_groups(nearest, left_out, unit_numbers, LOOK_GAP, SINGLE_LOOK_GAP)
    return [[known[place] for place in group] for group in found if len(group) > 1]


def _tell_enough(units: Sequence[int] | NDArray[np.intp]) -> bool:
    return len(units) >= MIN_PICTURES and len({*units}) >= MIN_UNITS


def _leave_out(
    units: NDArray[np.intp], compare: Compare, height: Height
) -> tuple[NDArray[np.intp], Distances]:
    """Measure each picture's distance to the others with the nearest other units left out.

    Args:
        units: [N], equal for pictures of one part.
        compare: Compares a picture's cells with the nearest of each picture, [C, N].
        height: Joins the distances of cells into one.

    Returns:
        The picture nearest to each in each of the K nearest other units [N, K], nearest first; and the
        distance [N, K] to the other pictures without the first 0, 1, 2, ... of these units.
    """
    count = len(units)
    few = max(1, min(MAX_GROUP, count // MAX_SHARE))
    nearest = np.empty((count, few), np.intp)
    left_out = np.empty((count, few))
    for picture in range(count):
        distances = compare(picture)
        distances[:, units == units[picture]] = np.inf
        order = np.argsort(height(distances), kind="stable")
        nearest[picture] = order[np.sort(np.unique(units[order], return_index=True)[1])][:few]
        for k in range(few):
            left_out[picture, k] = height(distances.min(axis=1))
            distances[:, units == units[nearest[picture, k]]] = np.inf
    return nearest, left_out


def _find_groups(
    nearest: NDArray[np.intp], left_out: Distances, units: NDArray[np.intp], gap: float, single_gap: float
) -> list[list[int]]:
    """Return the pictures beyond the widest gaps, in groups.

    A picture beyond a gap is joined with those beyond it that are nearest to it, and with those of its unit.
    """
    # and the group of each that is apart
    rest = list(range(len(nearest)))
    apart = dict[int, int]()
    while found := _beyond_gap(left_out[rest], units[rest], gap, single_gap):
        group = [rest[place] for place in found]
        for place in group:
            near = {*nearest[place, : len(group)].tolist(), *np.flatnonzero(units == units[place]).tolist()}
            apart[place] = min([place, *(apart.get(other, other) for other in near if other in group)])
        rest = [place for place in rest if place not in apart]
    groups: dict[int, list[int]] = {}
    for place in sorted(apart):
        first = place
        while apart[first] != first:
            first = apart[first]
        groups.setdefault(first, []).append(place)
    return list(groups.values())


def _beyond_gap(left_out: Distances, units: NDArray[np.intp], gap: float, single_gap: float) -> list[int]:
    """Return the places beyond the widest gap in the distances with 0, 1, 2, ... left out; none without one.

    A gap with k left out concerns k + 1 pictures or more: fewer would be beyond it with fewer left out.
    """
    widest = 1.0
    found = list[int]()
    for k in range(left_out.shape[1]):
        order = np.argsort(-left_out[:, k], kind="stable")
        for several in range(k + 1, len(order) // MAX_SHARE + 1):
            near, far = left_out[order[[several, several - 1]], k]
            width = far / max(near, 1e-12)
            of_one = len({*units[order[:several]]}) == 1
            if width > widest and width >= (single_gap if of_one else gap):
                widest = width
                found = order[:several].tolist()
    return found
