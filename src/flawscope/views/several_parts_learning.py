"""Learns from good pictures how several parts in a picture are found, and how many there are. Torch-free.

The ground is a smooth surface near most pixels; a part is a connected component that differs from it. The
reference is learnt from crops around those of the usual area (`congealing`). How often good pictures are
counted wrong is cross-validated: each is counted by a reference that was learnt without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError, data_checks, pluralize
from flawscope.views.congealing import MIN_REFERENCE_PICTURES, learn_cross_validated, spread_numbers
from flawscope.views.pose import SIDE, Float32, PoseKind, PoseReference
from flawscope.views.several_parts import (
    MAX_SIDE,
    MAX_SOUGHT,
    MIN_DISTANCE,
    OVERVIEW_SIDE,
    SeveralParts,
    ground_distance,
)

_SINGLE_PART_AREA = (0.7, 1.4)  # times the usual area: one part, wholly seen, touching no other
_CROP_FACTOR = 1.5  # times the part's diameter: the side of a crop
_MAX_CROPS = 80  # crops that the reference is learnt from, at most
_CANDIDATE_FACTOR = 3  # times the largest known number of parts, at most
_MIN_OBJECT_AREA = 0.3  # of a part's area: what is smaller is no object
_MIN_EQUAL_COUNTS = 0.9  # share of good pictures that have the same number of parts


class _Component(NamedTuple):
    """Connected area, in pixels of the overview."""

    label: int
    x: float
    y: float
    area: float
    radius: float


def _find_components(overview: Float32) -> tuple[NDArray[np.int32], list[_Component]]:
    """Connected areas that differ from the ground [h, w], and those that do not touch the picture's edge."""
    from scipy import ndimage

    apart = ndimage.binary_opening(ndimage.binary_fill_holes(ground_distance(overview) > MIN_DISTANCE))
    labels, _ = ndimage.label(apart, np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        ends = (rows.start, labels.shape[0] - rows.stop, columns.start, labels.shape[1] - columns.stop)
        if min(ends) == 0:
            continue
        y, x = np.nonzero(labels[rows, columns] == number)
        reach = float(np.hypot(x - x.mean(), y - y.mean()).max()) + 1
        at = float(x.mean()) + columns.start + 0.5, float(y.mean()) + rows.start + 0.5
        found.append(_Component(number, *at, float(len(x)), reach))
    return labels, found


class LearnedParts(NamedTuple):
    """Settings that find several parts, and the counts of good pictures that they were learnt from.

    Attributes:
        settings: Settings by which parts are found.
        reference: Reference by which parts are found.
        counts: Number of parts in each good picture.
        count_errors: How a model learnt without the picture counts each wrong; empty: it counts it right.
    """

    settings: SeveralParts
    reference: PoseReference
    counts: list[int]
    count_errors: list[str]

    @property
    def wrong_count(self) -> int:
        """Number of the pictures that are counted wrong."""
        return sum(map(bool, self.count_errors))

    @property
    def is_reliable(self) -> bool:
        """Whether the parts are counted right in half of the pictures at least."""
        return self.wrong_count <= len(self.count_errors) / 2

    def describe(self) -> str:
        """Describe the counts for a person."""
        counted_wrong = f"{self.wrong_count} of {len(self.count_errors)} counted wrong"
        return f"several parts: {self.settings.count_text} in a picture, {counted_wrong}"


class PartsCountedWrongError(InputError):
    """Parts are counted wrong in most good pictures.

    Attributes:
        learnt: Settings and reference by which they were counted.
    """

    def __init__(self, message: str, learnt: LearnedParts):
        super().__init__(message)
        self.learnt = learnt


def learn_several_parts(
    overviews: Sequence[Float32], small: Callable[[int, int], Float32], kind: PoseKind
) -> LearnedParts:
    """Learn the reference from good pictures with several parts each, and how many these are.

    Args:
        overviews: [h, w] float32 in 0..1, the longer side `OVERVIEW_SIDE`.
        small: returns picture `i` [h, w] float32 in 0..1 with this longer side.
        kind: poses that occur.

    Raises:
        PartsCountedWrongError: the parts of some pictures are counted wrong. The message names another kind
            of poses by which they are counted right, if there is one.
        InputError: parts do not stand out against the ground, or too few do.
    """
    found = _learn_or_error(overviews, small, kind)
    if isinstance(found, LearnedParts) and found.is_reliable:
        return found
    reliable = _learn_by_other_poses(overviews, small, kind)
    if not reliable and isinstance(found, InputError):
        raise found
    count = len(overviews)
    if reliable:
        best = min(reliable, key=lambda other: reliable[other].wrong_count)  # of equals the simplest
        right_count = count - reliable[best].wrong_count
        remedy = f"give --align {best}, by which they are counted right in {right_count} of {count}"
    else:
        remedy = (
            "take pictures of these parts alone that lie apart, or leave out --several; `flawscope data "
            f"check --align {kind} --several --out FILE.html` shows what is taken for a part"
        )
    if isinstance(found, InputError):
        raise InputError(f"--align {kind} finds no parts in the good pictures: {remedy}")
    example = next(error for error in found.count_errors if error)
    line = (
        f"parts are counted wrong in {found.wrong_count} of {count} good pictures, "
        f"such as {example}: {remedy}"
    )
    raise PartsCountedWrongError(data_checks.COUNTED_WRONG.coded(line), found)


def _learn_by_other_poses(
    overviews: Sequence[Float32], small: Callable[[int, int], Float32], kind: PoseKind
) -> dict[PoseKind, LearnedParts]:
    """Learn with each other kind of poses; return those by which parts are counted right, by the kind."""
    reliable: dict[PoseKind, LearnedParts] = {}
    for other in get_args(PoseKind):
        if other == kind:
            continue
        learnt = _learn_or_error(overviews, small, other)
        if isinstance(learnt, LearnedParts) and learnt.is_reliable:
            reliable[other] = learnt
    return reliable


def _learn_or_error(
    overviews: Sequence[Float32], small: Callable[[int, int], Float32], kind: PoseKind
) -> LearnedParts | InputError:
    try:
        return _learn(overviews, small, kind)
    except InputError as error:
        return error


def _learn(
    overviews: Sequence[Float32], small: Callable[[int, int], Float32], kind: PoseKind
) -> LearnedParts:
    """Learn the reference and the number of parts, also where parts are counted wrong."""
    components = [_find_components(overview) for overview in overviews]
    areas = np.sort([component.area for _, several in components for component in several])
    if not len(areas):
        raise InputError(
            "no parts stand out in the good pictures: take pictures of parts on a smooth ground, wholly seen"
        )
    # half of all that differs from the ground lies in areas up to the usual one: small specks count little
    typical_area = float(areas[np.searchsorted(np.cumsum(areas), areas.sum() / 2)])
    single_parts = _find_single_parts(components, typical_area)
    largest_area = max(sum(component.area for component in several) for _, several in components)
    most = max(1, round(largest_area / typical_area))
    sought = min(_CANDIDATE_FACTOR * (most + 1), MAX_SOUGHT)
    object_area = min(1.0, _MIN_OBJECT_AREA * typical_area / OVERVIEW_SIDE**2)
    settings = SeveralParts(_span_of(single_parts), object_area, sought, most=min(most, sought))
    chosen = [single_parts[row] for row in spread_numbers(len(single_parts), _MAX_CROPS)]
    crops = list[Float32]()
    levels = list[float]()
    crop_owners = list[int]()
    for i in sorted({owner for owner, _ in chosen}):
        picture = small(i, settings.side)
        levels.append(float(np.median(picture)))
        components_of_picture = [component for owner, component in chosen if owner == i]
        crops += [
            _crop_part(picture, components[i][0], component, levels[-1])
            for component in components_of_picture
        ]
        crop_owners += [i] * len(components_of_picture)
    reference, held_out = learn_cross_validated(crops, kind, float(np.median(levels)), crop_owners)
    return _count_parts(settings, reference, held_out, overviews, small)


def _span_of(single_parts: Sequence[tuple[int, _Component]]) -> float:
    """Side of the frame of a part, as a share of the picture. InputError: parts are too large or small."""
    span = (
        2
        * _CROP_FACTOR
        * float(np.median([component.radius for _, component in single_parts]))
        / OVERVIEW_SIDE
    )
    if not SIDE / MAX_SIDE <= span <= 1:
        size, way = ("fill the pictures", "farther away") if span > 1 else ("are too small", "nearer")
        raise InputError(f"parts {size} to be found among several: take pictures from {way}")
    return span


def _find_single_parts(
    components: Sequence[tuple[NDArray[np.int32], Sequence[_Component]]], typical_area: float
) -> list[tuple[int, _Component]]:
    """Find the parts that touch no others, by their area, each with the number of its picture.

    InputError: they are too few to learn from.
    """
    found = [
        (i, component)
        for i, (_, several) in enumerate(components)
        for component in several
        if _SINGLE_PART_AREA[0] * typical_area < component.area < _SINGLE_PART_AREA[1] * typical_area
    ]
    if len(found) < MIN_REFERENCE_PICTURES:
        raise InputError(
            f"{pluralize(len(found), 'part')} of about one size that touch nothing stand out in the "
            f"good pictures, and learning them takes at least {MIN_REFERENCE_PICTURES}: give more pictures, "
            "or parts that lie apart"
        )
    return found


def _count_parts(
    settings: SeveralParts,
    reference: PoseReference,
    held_out: Mapping[int, PoseReference],
    overviews: Sequence[Float32],
    small: Callable[[int, int], Float32],
) -> LearnedParts:
    """Count the parts of all good pictures by the reference, and by those that were learnt without them."""
    found = {}
    left_out = {}
    # one reference after the other
    for i in sorted(range(len(overviews)), key=lambda i: id(held_out.get(i))):
        views = small(i, settings.side), overviews[i]
        found[i] = settings.find(*views, reference)
        left_out[i] = settings.find(*views, held_out[i]) if i in held_out else found[i]
    counts = [len(found[i].poses) for i in range(len(overviews))]
    if not any(counts):
        raise InputError("the good pictures show no parts that can be found: leave out --several")
    least, most = expected_counts(counts)
    settings = replace(settings, least=least, most=min(most, settings.sought))
    wrong = []
    for i, count in enumerate(counts):
        others = [*counts[:i], *counts[i + 1 :]]
        least, most = expected_counts(others or counts)
        known = replace(settings, least=least, most=min(most, settings.sought))
        error = settings.count_error(count, len(found[i].objects))
        apart = left_out[i]
        wrong.append(error or known.count_error(len(apart.poses), len(apart.objects)))
    return LearnedParts(settings, reference, counts, wrong)


def _crop_part(picture: Float32, labels: NDArray[np.int32], component: _Component, level: float) -> Float32:
    """The square [SIDE, SIDE] around a part, others in it covered with the ground's level."""
    from scipy import ndimage

    others = ndimage.binary_dilation((labels > 0) & (labels != component.label), iterations=2)
    rows, columns = (
        (np.arange(length) * known / length).astype(np.intp)
        for length, known in zip(picture.shape, labels.shape, strict=True)
    )
    alone = np.where(others[rows][:, columns], np.float32(level), picture)
    y, x = (round(at * picture.shape[0] / labels.shape[0]) for at in (component.y, component.x))
    return np.pad(alone, SIDE // 2, mode="edge")[y : y + SIDE, x : x + SIDE]


def expected_counts(counts: Sequence[int]) -> tuple[int, int]:
    """Return the least and the largest number of parts in good pictures that have any.

    Both are the same number where nearly all pictures have it.
    """
    numbers, times = np.unique([count for count in counts if count] or [1], return_counts=True)
    if times.max() >= _MIN_EQUAL_COUNTS * times.sum():
        return int(numbers[times.argmax()]), int(numbers[times.argmax()])
    return int(numbers[0]), int(numbers[-1])
