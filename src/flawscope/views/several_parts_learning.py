"""Learns from good pictures how several parts in a picture are found, and how many there are. Torch-free.

The ground is a smooth surface near most pixels; a part is a connected component that differs from it. The
reference is learnt from crops around the components of the usual area (`congealing`). Cross-validation tells
how often good pictures are counted wrong: each is counted by a reference that was learnt without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
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

_SINGLE_PART_AREA = (0.7, 1.4)  # a component of one part has this many times the usual area
_CROP_FACTOR = 1.5  # side of a crop, as a factor of the part's diameter
_MAX_CROPS = 80  # crops that the reference is learnt from, at most
_CANDIDATE_FACTOR = 3  # places that are examined, as a factor of the largest number of parts
_MIN_OBJECT_AREA = 0.3  # least area of another object, as a share of a part's area
_MIN_EQUAL_SHARE = 0.9  # share of good pictures that have the same number of parts


class _Component(NamedTuple):
    """Connected area, in pixels of the overview.

    Attributes:
        label: Its number among the labels.
        x: Middle, to the right.
        y: Middle, down.
        area: Number of its pixels.
        radius: Distance of the farthest pixel from the middle.
    """

    label: int
    x: float
    y: float
    area: float
    radius: float


def _find_components(overview: Float32) -> tuple[NDArray[np.int32], list[_Component]]:
    """Find connected areas that differ from the ground.

    Returns:
        The labels [h, w] of all such areas, 0: ground; and the areas that do not touch the picture's edge.
    """
    from scipy import ndimage

    is_far = ground_distance(overview) > MIN_DISTANCE
    differs = ndimage.binary_opening(ndimage.binary_fill_holes(is_far))
    labels, _ = ndimage.label(differs, np.ones((3, 3)))
    height, width = labels.shape
    components = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        edge_distances = (rows.start, height - rows.stop, columns.start, width - columns.stop)
        touches_edge = min(edge_distances) == 0
        if touches_edge:
            continue
        y, x = np.nonzero(labels[rows, columns] == label)
        components.append(
            _Component(
                label,
                x=float(x.mean()) + columns.start + 0.5,
                y=float(y.mean()) + rows.start + 0.5,
                area=float(len(x)),
                radius=float(np.hypot(x - x.mean(), y - y.mean()).max()) + 1,
            )
        )
    return labels, components


class LearnedParts(NamedTuple):
    """Settings that find several parts, and the counts of good pictures that they were learnt from.

    Attributes:
        settings: Settings by which parts are found.
        reference: Reference by which parts are found.
        counts: Number of parts in each good picture.
        count_errors: How each picture is counted wrong, by a model that was learnt without it; empty: it is
            counted right.
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
    """Learn the reference and the number of parts from good pictures with several parts each.

    Args:
        overviews: [h, w] float32 in 0..1, the longer side `OVERVIEW_SIDE`.
        small: Function (picture number, longer side) that returns the picture [h, w] float32 in 0..1 at that
            size.
        kind: Poses that occur.

    Raises:
        PartsCountedWrongError: Parts are counted wrong in most pictures. The message names another kind of
            poses by which they are counted right, if there is one.
        InputError: Too few parts, or none, stand out against the ground.
    """
    learnt = _learn_or_error(overviews, small, kind)
    if isinstance(learnt, LearnedParts) and learnt.is_reliable:
        return learnt
    reliable = _learn_by_other_poses(overviews, small, kind)
    if not reliable and isinstance(learnt, InputError):
        raise learnt
    count = len(overviews)
    if reliable:
        # kinds are sorted from the simplest: of equally good ones, the simplest is named
        best = min(reliable, key=lambda other_kind: reliable[other_kind].wrong_count)
        right_count = count - reliable[best].wrong_count
        remedy = f"give --align {best}, by which they are counted right in {right_count} of {count}"
    else:
        remedy = (
            "take pictures of these parts alone that lie apart, or leave out --several; `flawscope data "
            f"check --align {kind} --several --out FILE.html` shows what is taken for a part"
        )
    if isinstance(learnt, InputError):
        raise InputError(f"--align {kind} finds no parts in the good pictures: {remedy}")
    example = next(error for error in learnt.count_errors if error)
    message = (
        f"parts are counted wrong in {learnt.wrong_count} of {count} good pictures, "
        f"such as {example}: {remedy}"
    )
    raise PartsCountedWrongError(data_checks.COUNTED_WRONG.coded(message), learnt)


def _learn_by_other_poses(
    overviews: Sequence[Float32], small: Callable[[int, int], Float32], kind: PoseKind
) -> dict[PoseKind, LearnedParts]:
    """Learn with every kind of poses except `kind`; return the reliable results by kind."""
    reliable: dict[PoseKind, LearnedParts] = {}
    for other_kind in get_args(PoseKind):
        if other_kind == kind:
            continue
        learnt = _learn_or_error(overviews, small, other_kind)
        if isinstance(learnt, LearnedParts) and learnt.is_reliable:
            reliable[other_kind] = learnt
    return reliable


def _learn_or_error(
    overviews: Sequence[Float32], small: Callable[[int, int], Float32], kind: PoseKind
) -> LearnedParts | InputError:
    """Learn the reference and the number of parts; return the error where that fails."""
    try:
        return _learn(overviews, small, kind)
    except InputError as error:
        return error


def _learn(
    overviews: Sequence[Float32], small: Callable[[int, int], Float32], kind: PoseKind
) -> LearnedParts:
    """Learn the reference and the number of parts; the result may count parts wrong."""
    components = [_find_components(overview) for overview in overviews]
    picture_areas = []  # areas of each picture's components
    for _, picture_components in components:
        picture_areas.append([component.area for component in picture_components])
    areas = np.sort(list(chain.from_iterable(picture_areas)))
    if not len(areas):
        raise InputError(
            "no parts stand out in the good pictures: take pictures of parts on a smooth ground, wholly seen"
        )
    # Area of the component that contains the median of all components' pixels: so small specks count little
    median_index = np.searchsorted(np.cumsum(areas), areas.sum() / 2)
    typical_area = float(areas[median_index])
    single_parts = _find_single_parts(components, typical_area)
    largest_area = max(map(sum, picture_areas))
    most = max(1, round(largest_area / typical_area))
    sought = min(_CANDIDATE_FACTOR * (most + 1), MAX_SOUGHT)
    object_area = min(1.0, _MIN_OBJECT_AREA * typical_area / OVERVIEW_SIDE**2)
    settings = SeveralParts(_frame_span(single_parts), object_area, sought, most=min(most, sought))
    chosen = [single_parts[index] for index in spread_numbers(len(single_parts), _MAX_CROPS)]
    crops = list[Float32]()
    crop_pictures = list[int]()  # number of the picture of each crop
    ground_levels = list[float]()
    for number in sorted({number for number, _ in chosen}):
        picture = small(number, settings.side)
        ground_level = float(np.median(picture))
        ground_levels.append(ground_level)
        labels, _ = components[number]
        for picture_number, component in chosen:
            if picture_number == number:
                crops.append(_crop_part(picture, labels, component, ground_level))
                crop_pictures.append(number)
    reference, held_out = learn_cross_validated(
        crops, kind, ground=float(np.median(ground_levels)), groups=crop_pictures
    )
    return _count_parts(settings, reference, held_out, overviews, small)


def _frame_span(single_parts: Sequence[tuple[int, _Component]]) -> float:
    """Return the side of the frame around a part, as a share of the picture's longer side.

    Raises:
        InputError: Parts are too large or too small.
    """
    radius = float(np.median([component.radius for _, component in single_parts]))
    span = 2 * _CROP_FACTOR * radius / OVERVIEW_SIDE
    if span > 1:
        raise InputError("parts fill the pictures to be found among several: take pictures from farther away")
    if span < SIDE / MAX_SIDE:  # the frame has SIDE pixels, and the small picture at most MAX_SIDE
        raise InputError("parts are too small to be found among several: take pictures from nearer")
    return span


def _find_single_parts(
    components: Sequence[tuple[NDArray[np.int32], Sequence[_Component]]], typical_area: float
) -> list[tuple[int, _Component]]:
    """Find the components that show a single part, by their area; parts that touch have a larger area.

    Args:
        components: Labels and components of each picture.
        typical_area: Usual area of a part.

    Returns:
        The components, each with the number of its picture.

    Raises:
        InputError: There are too few such components to learn from.
    """
    smallest, largest = (factor * typical_area for factor in _SINGLE_PART_AREA)
    single_parts = []
    for number, (_, picture_components) in enumerate(components):
        for component in picture_components:
            if smallest < component.area < largest:
                single_parts.append((number, component))
    if len(single_parts) < MIN_REFERENCE_PICTURES:
        raise InputError(
            f"{pluralize(len(single_parts), 'part')} of about one size that touch nothing stand out in the "
            f"good pictures, and learning them takes at least {MIN_REFERENCE_PICTURES}: give more pictures, "
            "or parts that lie apart"
        )
    return single_parts


def _count_parts(
    settings: SeveralParts,
    reference: PoseReference,
    held_out: Mapping[int, PoseReference],
    overviews: Sequence[Float32],
    small: Callable[[int, int], Float32],
) -> LearnedParts:
    """Count the parts of each good picture by the reference, and by one that was learnt without the picture.

    Args:
        settings: Settings by which parts are found; their `least` and `most` are not final yet.
        reference: Reference that was learnt from all pictures.
        held_out: Picture number -> reference learnt without this picture, for the pictures of the crops.
        overviews: Overviews of the pictures.
        small: Function (picture number, longer side) that returns the picture at that size.

    Raises:
        InputError: No parts are found.
    """
    detections = {}  # number of a picture -> parts found by the reference
    # number of a picture -> parts found by a reference that was learnt without the picture
    held_out_detections = {}
    # Pictures with the same held-out reference follow each other: its spectra are then computed once
    by_held_out_reference = sorted(range(len(overviews)), key=lambda number: id(held_out.get(number)))
    for number in by_held_out_reference:
        picture = small(number, settings.side)
        overview = overviews[number]
        detections[number] = settings.find(picture, overview, reference)
        if number in held_out:
            held_out_detections[number] = settings.find(picture, overview, held_out[number])
        else:
            held_out_detections[number] = detections[number]
    counts = [len(detections[number].poses) for number in range(len(overviews))]
    if not any(counts):
        raise InputError("the good pictures show no parts that can be found: leave out --several")
    least, most = expected_counts(counts)
    final_settings = replace(settings, least=least, most=min(most, settings.sought))
    count_errors = []
    for number, count in enumerate(counts):
        other_counts = [*counts[:number], *counts[number + 1 :]]
        least, most = expected_counts(other_counts or counts)  # a single picture has no others
        held_out_settings = replace(settings, least=least, most=min(most, settings.sought))
        held_out_detection = held_out_detections[number]
        error = final_settings.count_error(count, len(detections[number].objects))
        held_out_error = held_out_settings.count_error(
            len(held_out_detection.poses), len(held_out_detection.objects)
        )
        count_errors.append(error or held_out_error)
    return LearnedParts(final_settings, reference, counts, count_errors)


def _crop_part(picture: Float32, labels: NDArray[np.int32], component: _Component, level: float) -> Float32:
    """Crop the square [SIDE, SIDE] around a part, with other parts covered.

    Args:
        picture: [h, w], the small picture.
        labels: Labels of the components, in the overview.
        component: The part.
        level: Level of the ground, which covers other parts.
    """
    from scipy import ndimage

    is_other_part = ndimage.binary_dilation((labels > 0) & (labels != component.label), iterations=2)
    height, width = picture.shape
    overview_height, overview_width = labels.shape
    # for each row and column of the small picture, the row and column of the overview
    rows = (np.arange(height) * overview_height / height).astype(np.intp)
    columns = (np.arange(width) * overview_width / width).astype(np.intp)
    covered = np.where(is_other_part[rows][:, columns], np.float32(level), picture)
    y = round(component.y * height / overview_height)
    x = round(component.x * height / overview_height)  # scaled by the same factor as y
    padded = np.pad(covered, SIDE // 2, mode="edge")
    return padded[y : y + SIDE, x : x + SIDE]  # (y, x) of `covered` is the middle of this square


def expected_counts(counts: Sequence[int]) -> tuple[int, int]:
    """Return the least and the largest expected number of parts.

    If nearly all pictures with parts have the same number, the least and the largest are this number.

    Args:
        counts: Number of parts in each good picture; pictures with 0 are left out.
    """
    positive_counts = [count for count in counts if count] or [1]
    distinct_counts, frequencies = np.unique(positive_counts, return_counts=True)
    if frequencies.max() >= _MIN_EQUAL_SHARE * frequencies.sum():
        usual = int(distinct_counts[frequencies.argmax()])
        return usual, usual
    return int(distinct_counts[0]), int(distinct_counts[-1])
