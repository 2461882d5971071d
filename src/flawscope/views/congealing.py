"""Learns the reference for poses from pictures of good parts in unknown poses, and which poses these are.

Torch-free.

All pictures are aligned to one of them, averaged, aligned to the average, and so on (congealing:
Learned-Miller, Data Driven Image Models through Continuous Joint Alignment, PAMI 28, 2006). The first
reference is the picture to which the others can be aligned best; its pixels that are the same in all pictures
before the alignment show the ground, not the part, and do not count.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.pictures.apart import NORMAL_MAD
from flawscope.views.pose import (
    HALF_SIDE,
    MAX_ERROR,
    SIDE,
    SPREAD_SCALE,
    Float32,
    Pose,
    PoseKind,
    PoseReference,
    align,
)

MAX_PICTURES = 40  # pictures that the reference is learnt from
MIN_REFERENCE_PICTURES = 8
_SEED_CANDIDATES = 5  # pictures that are tried as the first reference
_SEED_COMPARISONS = 12  # other pictures on which each candidate is tried
_ROUNDS = 3  # rounds of alignment to the average
_MIN_SPREAD = 0.015  # least spread of good parts: noise, and half a pixel's error at an edge
_MIN_CONTRAST = 2.5  # spreads by which a pixel of the part differs from half of the ground's pixels
_BORDER = 6  # pixels along a picture's edges, which show the ground
_QUANTILES = 64  # quantiles of the border's pixels in all pictures
_MIN_AREA_SHARE = 0.02  # share of all areas that differ from the ground, below which an area is left out
_OUTLINE_WIDTH = 6  # pixels around the part, which show its outline
_MARGIN = 6  # pixels around the part that are inspected with it
_ANGLE_TOLERANCE = math.radians(4)  # within which two references agree on an angle, or 1/16 of a period
_MIN_AGREEMENT = 0.85  # share of the pictures on which they must agree
_MAX_PERIOD = 24  # largest number of folds of a symmetry, such as the teeth of a wheel
_FOLDS = 10  # folds of the cross-validation
# Parts lie elsewhere in each picture where their places or their angles spread by more
_MIN_SHIFT = 0.1  # sides of the part
_MIN_TURN = math.radians(8)
_MIN_FOUND = 0.8  # share of the pictures that must show the part
# A few pictures, each as the reference, show how parts lie (bench/NOTES.md)
_FEW = 5  # pictures that are tried as the reference, at most
_MOST = 0.75  # share of the pictures in which such a reference must find the part
_NEAR = 5.0  # pixels, within which parts lie at the same place


class Aligned(NamedTuple):
    """A reference without errors, and the poses of the pictures that it was learnt from."""

    reference: PoseReference
    poses: list[Pose]


class Lying(NamedTuple):
    """Poses in which parts lie.

    Attributes:
        kind: The poses.
        learnt: The parts, aligned by these poses; None: the poses were found without an alignment.
    """

    kind: PoseKind
    learnt: Aligned | None


def learn_reference(
    pictures: Sequence[Float32], kind: PoseKind, learnt: Aligned | None = None
) -> PoseReference:
    """Learn the reference as `learn_cross_validated` does, without references for groups."""
    reference, _ = learn_cross_validated(pictures, kind, learnt=learnt)
    return reference


def learn_cross_validated(
    pictures: Sequence[Float32],
    kind: PoseKind,
    ground: float | None = None,
    groups: Sequence[int] | None = None,
    learnt: Aligned | None = None,
) -> tuple[PoseReference, dict[int, PoseReference]]:
    """Learn the reference, and the errors of good parts by 10-fold cross-validation.

    Two further references are learnt, each from half of the pictures. The angles on which these agree give
    the period of the part's symmetry.

    Args:
        pictures: [h, w] float32 in 0..1 of good parts, the longer side `pose.SIDE`.
        kind: Poses that occur.
        ground: Grey level around the parts, if each lies in the middle of its picture; None: not known.
        groups: Group of each picture; pictures of one group are left out together. None: each picture is a
            group of its own.
        learnt: The parts as `poses_needed` aligned them, in the same pictures and by the same poses; None:
            they are aligned here.

    Returns:
        The reference; and group -> reference learnt without this group, for groups that the reference was
        learnt from.

    Raises:
        InputError: There are too few pictures, or they show nothing to be found.
    """
    if len(pictures) < MIN_REFERENCE_PICTURES:
        raise InputError(
            f"aligning parts takes at least {MIN_REFERENCE_PICTURES} good pictures, and there are "
            f"{len(pictures)}: give more, or leave out --align"
        )
    chosen = spread_numbers(len(pictures), MAX_PICTURES)
    chosen_pictures = [pictures[number] for number in chosen]
    aligned = learnt or _align_all(_SingleReferences(chosen_pictures, ground), kind)
    other_numbers = sorted(set(range(len(pictures))) - set(chosen))
    unused_errors = [aligned.reference.find(pictures[number]).error for number in other_numbers]
    chosen_groups = chosen if groups is None else [groups[number] for number in chosen]
    fold_errors, held_out = _learn_folds(chosen_pictures, aligned, chosen_groups)
    errors = tuple(sorted(unused_errors + fold_errors))
    return replace(aligned.reference, errors=errors), held_out


def _learn_folds(
    pictures: Sequence[Float32], aligned: Aligned, groups: Sequence[int]
) -> tuple[list[float], dict[int, PoseReference]]:
    """Learn a reference for each of 10 folds, from the pictures of all other folds.

    Returns:
        The errors of all pictures, fold by fold, each by the reference learnt without the picture's fold; and
        group -> reference learnt without the group's fold.
    """
    reference, poses = aligned
    ground_levels = _border_quantiles(pictures)
    distinct_groups = dict.fromkeys(groups)
    fold_by_group = {group: number % _FOLDS for number, group in enumerate(distinct_groups)}
    errors = list[float]()
    reference_by_group = dict[int, PoseReference]()
    if len(fold_by_group) < 2:
        return errors, reference_by_group
    for fold in range(min(_FOLDS, len(fold_by_group))):
        learnt = []
        left_out = []
        for picture, pose, group in zip(pictures, poses, groups, strict=True):
            if fold_by_group[group] == fold:
                left_out.append(picture)
            else:
                learnt.append((picture, pose))
        fold_reference = _average(learnt, reference, ground_levels)
        errors += [fold_reference.find(picture).error for picture in left_out]
        for group, group_fold in fold_by_group.items():
            if group_fold == fold:
                reference_by_group[group] = fold_reference
    return errors, reference_by_group


def poses_needed(pictures: Sequence[Float32], full: bool = False) -> Lying | None:
    """Return the kind of poses in which parts lie; None: all lie in the same pose, or cannot be found.

    Parts cannot be found if less than 80 % of the pictures show the part, or if the part fills the picture.

    Args:
        pictures: [h, w] float32 in 0..1 of good parts, the longer side `pose.SIDE`. If there are fewer than
            `MIN_REFERENCE_PICTURES`, the result is None.
        full: Whether parts may also be mirrored or scaled, which takes twice as long to find out.
    """
    chosen = [pictures[number] for number in spread_numbers(len(pictures), MAX_PICTURES)]
    if len(chosen) < MIN_REFERENCE_PICTURES:
        return None
    singles = _SingleReferences(chosen)
    kinds, is_sure = _poses_by_few(singles, full)
    if is_sure:
        return Lying(kinds[0], learnt=None)  # found without aligning the parts
    for kind in kinds:
        try:
            aligned = _align_all(singles, kind)
        except InputError:
            continue
        valid_poses = _valid_poses(aligned.poses)
        if len(valid_poses) >= _MIN_FOUND * len(chosen):
            return _simplest_poses(aligned, kind, valid_poses)
    return None


def _simplest_poses(aligned: Aligned, kind: PoseKind, poses: Sequence[Pose]) -> Lying | None:
    """Return the simplest kind of poses in which aligned parts lie; None: all lie in the same pose.

    Args:
        aligned: The aligned parts.
        kind: Kind of poses by which they were aligned.
        poses: Poses of the parts that were found.
    """
    reference = aligned.reference
    if reference.extent >= HALF_SIDE:  # the part fills the picture, as a texture does: it has no place
        return None
    if reference.rotates and _angle_spread(poses, reference.period) > _MIN_TURN:
        return Lying(kind, aligned)
    places = np.array([(pose.x, pose.y) for pose in poses])
    if places.std(0).max() <= _MIN_SHIFT * 2 * reference.extent:
        return None
    # an alignment by other poses than shifts cannot be used for shifts
    return Lying("shift", aligned if kind == "shift" else None)


def _valid_poses(poses: Sequence[Pose]) -> list[Pose]:
    """Return the poses in which a part was found."""
    return [pose for pose in poses if pose.found]


def _poses_by_few(singles: _SingleReferences, full: bool) -> tuple[Sequence[PoseKind], bool]:
    """Find the kinds of poses in which parts may lie, by using each of a few pictures as the reference.

    This takes a tenth of the time of aligning all pictures.

    Args:
        singles: The pictures.
        full: Whether parts may also be mirrored or scaled.

    Returns:
        The kinds, in the order to try them, which are none if all parts lie in the same pose or no part is
        found; and whether the first kind is sure without trying it.
    """
    upright_count, same_place_count = _count_upright(singles)
    # two references by which most parts lie at the same place, or upright, are enough
    if same_place_count == 2:
        return (), False
    if upright_count >= 2:
        return ("shift",), False
    count = len(singles.pictures)
    first, second = (singles.find(number, "turn") for number in spread_numbers(count, 2))
    first_valid = _valid_poses(first)
    second_valid = _valid_poses(second)
    if not full and max(len(first_valid), len(second_valid)) < _MOST * count:
        return (), False
    period = 0
    if min(len(first_valid), len(second_valid)) >= _MIN_FOUND * count:
        period = _count_folds(first, second)
    if period:
        spread = min(_angle_spread(first_valid, period), _angle_spread(second_valid, period))
        if spread > 2 * _MIN_TURN:
            return ("turn",), True
    return ("turn", "full", "shift") if full else ("turn", "shift"), False


def _count_upright(singles: _SingleReferences) -> tuple[int, int]:
    """Use each of a few pictures as the reference, and count those by which most parts are found unturned.

    The count ends early after two references by which most parts lie at the same place, or after three of
    which none finds most parts.

    Returns:
        The number of references by which most parts are found well; and the number of those by which most
        parts lie at the same place.
    """
    count = len(singles.pictures)
    valid_counts = list[int]()
    upright_count = 0
    same_place_count = 0
    for number in spread_numbers(count, _FEW):
        poses = _valid_poses(singles.find(number, "shift"))
        valid_counts.append(len(poses))
        finds_most = len(poses) >= _MOST * count
        # turned parts may be found too, in wrong places, but with larger errors
        if finds_most and np.median([pose.error for pose in poses]) <= MAX_ERROR / 2:
            upright_count += 1
            same_place_count += _have_same_place(poses, count)
        if same_place_count == 2:
            break
        if len(valid_counts) == 3 and max(valid_counts) < _MOST * count:
            break
    return upright_count, same_place_count


def _have_same_place(poses: Sequence[Pose], count: int) -> bool:
    """Whether the parts in most of `count` pictures lie at the same place."""
    places = np.array([(pose.x, pose.y) for pose in poses])
    x, y = (places - np.median(places, axis=0)).T  # from the median place
    distances = np.hypot(x, y)
    return int((distances <= _NEAR).sum()) >= _MOST * count


def _angle_spread(poses: Sequence[Pose], period: int) -> float:
    """Return the circular standard deviation of the angles, in radians.

    Args:
        poses: Poses of the parts.
        period: Number of folds of the part's symmetry: it looks the same after 1 / period of a turn.
    """
    angles = np.array([pose.angle for pose in poses]) * period
    length = abs(np.exp(1j * angles).mean())  # length of the mean direction: 1 where all angles are equal
    return math.sqrt(-2 * math.log(min(1.0, max(length, 1e-9)))) / period


def spread_numbers(count: int, max_count: int) -> list[int]:
    """Return at most `max_count` of the numbers below `count`, from the first to the last, evenly spaced."""
    numbers: list[int] = np.unique(np.linspace(0, count - 1, min(max_count, count)).astype(int)).tolist()
    return numbers


def _align_all(singles: _SingleReferences, kind: PoseKind) -> Aligned:
    """Learn a reference, whose `errors` stay empty, and find the poses of the pictures by it.

    Raises:
        InputError: The pictures show nothing to be found.
    """
    pictures = singles.pictures
    period = 1
    if kind != "shift":
        first = _congeal(_SingleReferences(pictures[0::2], singles.ground), kind)
        second = _congeal(_SingleReferences(pictures[1::2], singles.ground), kind)
        first_poses = [first.find(picture) for picture in pictures]
        second_poses = [second.find(picture) for picture in pictures]
        period = _count_folds(first_poses, second_poses)
    reference = _congeal(singles, kind, period)
    return Aligned(reference, [reference.find(picture) for picture in pictures])


def _count_folds(first: Sequence[Pose], second: Sequence[Pose]) -> int:
    """Count the folds of the part's symmetry (`PoseReference.period`) from the poses by two references.

    A part with n folds looks the same after 1/n of a turn. In each picture the angles by the two references
    have a difference. The result is the least n for which most pictures have the same difference, up to
    multiples of 1/n of a turn. 0: there is no such n, and the part looks the same at every angle.

    Args:
        first: Pose of each picture by the first reference.
        second: Pose of each picture by the second reference.
    """
    angle_differences = []
    for first_pose, second_pose in zip(first, second, strict=True):
        side = -1 if first_pose.mirrored else 1  # a mirrored part turns the other way
        angle_differences.append((second_pose.angle - first_pose.angle) * side)
    differences = np.array(angle_differences)
    for folds in range(1, _MAX_PERIOD + 1):
        phases = np.exp(1j * folds * differences)
        # [N, N]: row i has the angles between the difference of picture i and those of all pictures
        distances = np.angle(phases[:, None] / phases) / folds
        period = 2 * math.pi / folds
        tolerance = min(_ANGLE_TOLERANCE, period / 16)
        agreement = (np.abs(distances) < tolerance).mean(1)
        if agreement.max() >= _MIN_AGREEMENT:
            return folds
    return 0


def _congeal(singles: _SingleReferences, kind: PoseKind, period: int = 1) -> PoseReference:
    """Learn a reference: align all pictures to one of them, then repeatedly to their average."""
    reference = singles.best(kind, period)
    pictures = singles.pictures
    ground_levels = _border_quantiles(pictures)
    for _ in range(_ROUNDS):
        with_poses = [(picture, reference.find(picture)) for picture in pictures]
        reference = _average(with_poses, reference, ground_levels)
    return reference


def _border_quantiles(pictures: Sequence[Float32]) -> Float32:
    """Return evenly spaced quantiles of the grey levels along the pictures' edges.

    The edges show the ground, however large the parts are.
    """
    strips = []
    for picture in pictures:
        for rows in (picture, picture.T):
            strips += [rows[:_BORDER].ravel(), rows[-_BORDER:].ravel()]
    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return np.asarray(np.quantile(np.concatenate(strips), shares), np.float32)


class _SingleReferences:
    """Pictures [h, w], each tried as the first reference.

    A picture shows its part where the picture differs from the ground's level or, if that is not known, from
    the median of all pictures before they are aligned.

    Args:
        pictures: The pictures.
        ground: Level of the ground; None: it is not known.
    """

    def __init__(self, pictures: Sequence[Float32], ground: float | None = None):
        from scipy import ndimage

        self.pictures = pictures
        self.ground = ground
        # each picture in the reference's frame; the middles of picture and frame coincide
        centred = [align(picture, Pose(picture.shape[1] / 2, picture.shape[0] / 2)) for picture in pictures]
        self._centred = np.stack([pixels for pixels, _ in centred])
        self._inside = np.stack([inside for _, inside in centred])
        if ground is None:
            self._background = np.median(self._centred, axis=0)
            absolute_deviations = np.abs(self._centred - self._background)
            deviation = NORMAL_MAD * np.median(absolute_deviations, axis=0)
            self._spread = ndimage.gaussian_filter(deviation, 2) + 2 * _MIN_SPREAD
        else:
            self._background = np.full((SIDE, SIDE), ground)
            self._spread = np.full((SIDE, SIDE), 2 * _MIN_SPREAD)

    def build(self, number: int, kind: PoseKind, period: int = 1) -> PoseReference | None:
        """Build a reference from a single picture; None: the picture differs from the background nowhere."""
        from scipy import ndimage

        distance = np.abs(self._centred[number] - self._background) / self._spread
        smooth_distance = ndimage.gaussian_filter(distance, 2) * self._inside[number]
        # 0..1: how surely each pixel shows the part; 0.5 at a distance of 2 spreads
        certainty = smooth_distance**2 / (smooth_distance**2 + 4)
        certainty[certainty < certainty.max() / 4] = 0  # unsure pixels do not count
        middle_row, middle_column = ndimage.center_of_mass(certainty + 1e-12)
        picture = self.pictures[number]
        # from a pixel of the frame to a place in the picture: the middles of both coincide
        y = middle_row + 0.5 - HALF_SIDE + picture.shape[0] / 2
        x = middle_column + 0.5 - HALF_SIDE + picture.shape[1] / 2
        centred_picture, visible = align(picture, Pose(x, y))
        shift = [HALF_SIDE - 0.5 - middle_row, HALF_SIDE - 0.5 - middle_column]
        centred_certainty = ndimage.shift(certainty, shift, order=1) * visible
        counted = centred_certainty > 0.01
        if not counted.any():
            return None
        uncertainty = 2 * _MIN_SPREAD / np.sqrt(np.maximum(centred_certainty, 0.01))
        deviation = np.where(counted, uncertainty, 0)  # 0: the pixel does not count
        return _build_reference(kind, centred_picture, deviation, HALF_SIDE, period)

    def find(self, number: int, kind: PoseKind) -> list[Pose]:
        """Return the poses of all pictures by the reference of one; empty: that picture has no reference."""
        reference = self.build(number, kind)
        return [] if reference is None else [reference.find(picture) for picture in self.pictures]

    def best(self, kind: PoseKind, period: int) -> PoseReference:
        """Build a reference from each of a few pictures; return the one to which other pictures align best.

        Raises:
            InputError: No picture shows anything of its own.
        """
        candidates = list[tuple[float, PoseReference]]()  # median error and reference
        numbers = range(len(self.pictures))
        candidate_stride = max(1, len(numbers) // _SEED_CANDIDATES)
        comparison_stride = max(1, len(numbers) // _SEED_COMPARISONS)
        for number in numbers[::candidate_stride]:
            reference = self.build(number, kind, period)
            if reference is None:
                continue
            other_numbers = [other for other in numbers if other != number][::comparison_stride]
            errors = [reference.find(self.pictures[other]).error for other in other_numbers]
            candidates.append((float(np.median(errors)), reference))
        if not candidates:
            raise InputError("the good pictures are all alike: there is nothing to align, leave out --align")
        _, best = min(candidates, key=lambda candidate: candidate[0])
        return best


def _average(
    pictures: Sequence[tuple[Float32, Pose]], previous: PoseReference, levels: Float32
) -> PoseReference:
    """Align pictures by their poses, and make a reference of their median.

    Args:
        pictures: Small pictures, each with its pose.
        previous: Reference by which the poses were found.
        levels: Quantiles of the ground's levels (`_border_quantiles`).

    Raises:
        InputError: In most pictures no part was found, or no pixel of the part is visible in most pictures.
    """
    from scipy import ndimage

    no_part = InputError(
        "the good pictures show no part that can be found in most of them: leave out --align"
    )
    with_part = [(picture, pose) for picture, pose in pictures if pose.found]
    if 2 * len(with_part) < len(pictures):
        raise no_part
    warped = [align(picture, pose) for picture, pose in with_part]
    stack = np.stack([np.where(inside, picture, np.nan) for picture, inside in warped])
    visible = np.stack([inside for _, inside in warped]).mean(0) > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # places outside of all pictures
        median = np.nanmedian(stack, axis=0)
        raw_deviation = NORMAL_MAD * np.nanmedian(np.abs(stack - median), axis=0)
    level = np.where(visible, median, np.median(levels))
    visible_deviation = np.where(visible, raw_deviation, 1.0)
    deviation = np.sqrt(ndimage.uniform_filter(visible_deviation**2, 3) + _MIN_SPREAD**2)
    # pixels that differ from half of the ground's levels show the part or its outline
    contrast = np.median(np.abs(levels[:, None] - level.ravel()), axis=0).reshape(level.shape)
    part = _without_small_areas((contrast > _MIN_CONTRAST * deviation) & visible)
    if part is None:
        part = visible
    if not part.any():  # no pixel lies in most of the pictures
        raise no_part
    counted = ndimage.binary_dilation(part, iterations=_OUTLINE_WIDTH) & visible
    square = _bounding_square(part, previous.rotates)
    # pixels of the new frame, from its middle; then their rows and columns in the old frame
    from_middle = np.arange(SIDE) + 0.5 - HALF_SIDE
    right, down = np.meshgrid(from_middle, from_middle)
    cos, sin = math.cos(square.turn), math.sin(square.turn)
    rows = sin * right + cos * down + square.y + HALF_SIDE - 0.5
    columns = cos * right - sin * down + square.x + HALF_SIDE - 0.5
    turned_level = ndimage.map_coordinates(level, (rows, columns), order=1, mode="nearest")
    counted_deviation = np.where(counted, deviation, 0)
    turned_deviation = ndimage.map_coordinates(counted_deviation, (rows, columns), order=0)
    extent = min(HALF_SIDE, square.half_side + _MARGIN)
    return _build_reference(previous.kind, turned_level, turned_deviation, extent, previous.period)


def _without_small_areas(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return a mask [SIDE, SIDE] without thin lines and small areas; None: no area remains."""
    from scipy import ndimage

    labels, count = ndimage.label(ndimage.binary_opening(mask), np.ones((3, 3)))
    if not count:
        return None
    sizes = np.bincount(labels.ravel())[1:]  # label 0 is outside of the mask
    large_labels = 1 + np.flatnonzero(sizes >= _MIN_AREA_SHARE * sizes.sum())
    return np.isin(labels, large_labels)


class _Square(NamedTuple):
    """Square in the reference's frame, in pixels.

    Attributes:
        turn: Angle, in radians.
        x: Distance of its middle to the right of the frame's middle.
        y: Distance of its middle below the frame's middle.
        half_side: Half of its side.
    """

    turn: float
    x: float
    y: float
    half_side: float


def _bounding_square(part: NDArray[np.bool_], can_turn: bool) -> _Square:
    """Return the smallest square around a part; a turned square must be clearly smaller than the upright one.

    Args:
        part: [SIDE, SIDE], pixels of the part.
        can_turn: Whether the square may be turned.
    """
    # centres of the part's pixels, from the frame's middle
    y, x = np.nonzero(part) + np.array([[0.5 - HALF_SIDE], [0.5 - HALF_SIDE]])
    squares = []
    for turn in np.radians(np.arange(0, 90, 3)) if can_turn else [0.0]:
        cos, sin = math.cos(turn), math.sin(turn)
        # coordinates along the sides of the turned square
        u = cos * x + sin * y
        v = cos * y - sin * x
        middle_u = (u.min() + u.max()) / 2
        middle_v = (v.min() + v.max()) / 2
        half_side = max(np.ptp(u), np.ptp(v)) / 2 + 0.5  # + 0.5: from the outermost centres to the edges
        middle_x = cos * middle_u - sin * middle_v
        middle_y = sin * middle_u + cos * middle_v
        squares.append(_Square(turn, middle_x, middle_y, half_side))
    upright = squares[0]
    smallest = min(squares, key=lambda square: square.half_side)
    return smallest if smallest.half_side < 0.95 * upright.half_side else upright


def _build_reference(
    kind: PoseKind, levels: NDArray[np.floating], deviation: NDArray[np.floating], extent: float, period: int
) -> PoseReference:
    """Build a reference from levels in 0..1 and deviations; a pixel of deviation 0 does not count."""
    least_spread = deviation > 0  # 1 for a pixel that counts, since 0 means that it does not count
    spread = np.clip(np.rint(deviation * SPREAD_SCALE), least_spread, 255).astype(np.uint8)
    grey_levels = np.rint(levels * 255).clip(0, 255).astype(np.uint8)
    return PoseReference(kind, grey_levels, spread, extent, period)
