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
_SEED_COMPARISONS = 12  # other pictures that each is tried on
_ROUNDS = 3
_MIN_SPREAD = 0.015  # least spread of good parts: noise, and half a pixel's error at an edge
_MIN_CONTRAST = 2.5  # spreads by which a pixel of the part differs from half of the ground's pixels
_BORDER = 6  # pixels wide, along a picture's edges: they show the ground
_QUANTILES = 64  # of the border's pixels in all pictures
_OUTLINE_WIDTH = 6  # pixels around the part, which show its outline
_MARGIN = 6  # pixels around the part that are inspected with it
_ANGLE_TOLERANCE = math.radians(4)  # within which two references agree on an angle, or 1/16 of a period
_MIN_AGREEMENT = 0.85  # share of the pictures on which they must agree
_MAX_PERIOD = 24  # teeth of a wheel, say
_FOLDS = 10  # of the cross-validation
# Parts lie elsewhere where their places, in sides of the part, or their angles spread by more
_MIN_SHIFT = 0.1
_MIN_TURN = math.radians(8)
_MIN_FOUND = 0.8  # share of the pictures that must show the part
# What a few pictures, each as the reference, tell of how parts lie: bench/NOTES.md
_FEW = 5  # pictures that are tried so, at most
# share of the pictures that one must find; pixels, within which parts lie alike
_MOST = 0.75
_NEAR = 5.0


class Aligned(NamedTuple):
    """A reference without errors, and the poses of the pictures that it was learnt from."""

    reference: PoseReference
    poses: list[Pose]


class Lying(NamedTuple):
    """Poses in which parts lie.

    Attributes:
        kind: The poses.
        learnt: Parts that were aligned by these poses; None: the poses were found without.
    """

    kind: PoseKind
    learnt: Aligned | None


def learn_reference(
    pictures: Sequence[Float32], kind: PoseKind, learnt: Aligned | None = None
) -> PoseReference:
    """Learn the reference as `learn_cross_validated` does, without references for groups."""
    return learn_cross_validated(pictures, kind, learnt=learnt)[0]


def learn_cross_validated(
    pictures: Sequence[Float32],
    kind: PoseKind,
    ground: float | None = None,
    groups: Sequence[int] | None = None,
    learnt: Aligned | None = None,
) -> tuple[PoseReference, dict[int, PoseReference]]:
    """Learn the reference, with the errors of good parts that were left out of it (10-fold).

    Two references are learnt, each from half of the pictures. The angles on which they agree give the period:
    the part looks the same after a share of a turn, or after any.

    Args:
        pictures: [h, w] float32 in 0..1 of good parts, the longer side `pose.SIDE`.
        kind: Poses that occur.
        ground: Level around the parts, where these lie in the middle of the pictures.
        groups: Group of each picture: those of one group are left out together. None: each is a group.
        learnt: Result of `poses_needed` for the same pictures and poses, which is not computed again.

    Returns:
        The reference; and for each group whose pictures it was learnt from, a reference learnt without them.

    Raises:
        InputError: There are too few pictures, or they show nothing to be found.
    """
    if len(pictures) < MIN_REFERENCE_PICTURES:
        raise InputError(
            f"aligning parts takes at least {MIN_REFERENCE_PICTURES} good pictures, and there are "
            f"{len(pictures)}: give more, or leave out --align"
        )
    chosen = spread_numbers(len(pictures), MAX_PICTURES)
    selected = [pictures[i] for i in chosen]
    aligned = learnt or _align_all(_SingleReferences(selected, ground), kind)
    others = sorted(set(range(len(pictures))) - set(chosen))
    errors = [aligned.reference.find(pictures[i]).error for i in others]
    numbers = chosen if groups is None else [groups[i] for i in chosen]
    left_out, held_out = _learn_folds(selected, aligned, numbers)
    return replace(aligned.reference, errors=tuple(sorted(errors + left_out))), held_out


def _learn_folds(
    pictures: Sequence[Float32], aligned: Aligned, groups: Sequence[int]
) -> tuple[list[float], dict[int, PoseReference]]:
    """Learn references from all pictures except those of some groups, for 10 folds.

    Returns:
        The errors of the pictures that a reference was learnt without; and that reference for each group.
    """
    reference, poses = aligned
    levels = _border_quantiles(pictures)
    order = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    errors = list[float]()
    held_out = dict[int, PoseReference]()
    if len(order) < 2:
        return errors, held_out
    folds = [order[group] % _FOLDS for group in groups]
    for fold in range(min(_FOLDS, len(order))):
        pairs = zip(pictures, poses, folds, strict=True)
        without = _average(
            [(picture, pose) for picture, pose, picture_fold in pairs if picture_fold != fold],
            reference,
            levels,
        )
        errors += [
            without.find(picture).error
            for picture, picture_fold in zip(pictures, folds, strict=True)
            if picture_fold == fold
        ]
        held_out |= {group: without for group, k in order.items() if k % _FOLDS == fold}
    return errors, held_out


def poses_needed(pictures: Sequence[Float32], full: bool = False) -> Lying | None:
    """Return the poses in which parts lie; None where they lie alike, or cannot be found.

    They cannot be found where fewer than four of five pictures show one part, or where it fills them.

    Args:
        pictures: [h, w] float32 in 0..1 of good parts, the longer side `pose.SIDE`; with fewer than
            `MIN_REFERENCE_PICTURES` the answer is None.
        full: Whether parts may lie mirrored or at another scale, too, which takes twice as long.
    """
    pictures = [pictures[i] for i in spread_numbers(len(pictures), MAX_PICTURES)]
    if len(pictures) < MIN_REFERENCE_PICTURES:
        return None
    singles = _SingleReferences(pictures)
    kinds, is_sure = _poses_by_few(singles, full)
    if is_sure:
        return Lying(kinds[0], learnt=None)
    for kind in kinds:
        try:
            aligned = _align_all(singles, kind)
        except InputError:
            continue
        found = _found_among(aligned.poses)
        if len(found) >= _MIN_FOUND * len(pictures):
            return _lying_of(aligned, kind, found)
    return None


def _lying_of(aligned: Aligned, kind: PoseKind, found: Sequence[Pose]) -> Lying | None:
    """Poses in which parts lie that were aligned by poses of a kind, and found; None: they lie alike."""
    reference = aligned.reference
    if reference.extent >= HALF_SIDE:  # as of a texture: nothing has a place in the picture
        return None
    if reference.rotates and _turns(found, reference.period) > _MIN_TURN:
        return Lying(kind, aligned)
    places = np.array([(pose.x, pose.y) for pose in found])
    is_shifted = places.std(0).max() > _MIN_SHIFT * 2 * reference.extent
    return Lying("shift", aligned if kind == "shift" else None) if is_shifted else None


def _found_among(poses: Sequence[Pose]) -> list[Pose]:
    return [pose for pose in poses if pose.found]


def _poses_by_few(singles: _SingleReferences, full: bool) -> tuple[Sequence[PoseKind], bool]:
    """Return the poses in which parts may lie, in the order to try them, and whether the first is sure.

    There are none where parts lie alike, or no part is there. A few pictures, each as the reference, take a
    tenth of the time of all.
    """
    upright, alike = _count_upright(singles)
    if alike == 2:
        return (), False
    if upright >= 2:
        return ("shift",), False
    count = len(singles.pictures)
    first, second = (singles.find(number, "turn") for number in spread_numbers(count, 2))
    seen = (_found_among(first), _found_among(second))
    if not full and max(map(len, seen)) < _MOST * count:
        return (), False
    period = _count_folds(first, second) if min(map(len, seen)) >= _MIN_FOUND * count else 0
    if period and min(_turns(poses, period) for poses in seen) > 2 * _MIN_TURN:
        return ("turn",), True
    return ("turn", "full", "shift") if full else ("turn", "shift"), False


def _count_upright(singles: _SingleReferences) -> tuple[int, int]:
    """Count the references by which most parts are found without a turn, and those by which they lie alike.

    A few pictures are tried as the reference.

    Returns:
        The number of pictures by which most parts are found well; and of those by which the parts lie alike.
        The count ends at two that lie alike, and early where no picture finds most parts.
    """
    count = len(singles.pictures)
    found = list[int]()
    upright = 0
    alike = 0
    for number in spread_numbers(count, _FEW):
        poses = _found_among(singles.find(number, "shift"))
        found.append(len(poses))
        # turned parts may be found too, in wrong places, but not so well
        if len(poses) >= _MOST * count and np.median([pose.error for pose in poses]) <= MAX_ERROR / 2:
            upright += 1
            alike += _lie_alike(poses, count)
        if alike == 2:
            break
        if len(found) == 3 and max(found) < _MOST * count:
            break
    return upright, alike


def _lie_alike(poses: Sequence[Pose], count: int) -> bool:
    """Whether the parts of most of so many pictures lie at one place."""
    places = np.array([(pose.x, pose.y) for pose in poses])
    away = np.hypot(*(places - np.median(places, axis=0)).T)
    return int((away <= _NEAR).sum()) >= _MOST * count


def _turns(poses: Sequence[Pose], period: int) -> float:
    """Spread of the angles, in radians, of a part that looks the same after a share of a turn."""
    turns = np.array([pose.angle for pose in poses]) * period
    length = abs(np.exp(1j * turns).mean())  # of the mean direction: 1 where all are alike
    return math.sqrt(-2 * math.log(min(1.0, max(length, 1e-9)))) / period


def spread_numbers(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers below `count`, from the first to the last, evenly spread."""
    found: list[int] = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()
    return found


def _align_all(singles: _SingleReferences, kind: PoseKind) -> Aligned:
    """Learn the reference, without errors, and find the poses of its pictures.

    InputError: they show nothing to be found.
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
    """Return the folds of the part's symmetry, as in `PoseReference.period`, by the poses of two references.

    With n folds, turns by 1/n of a circle look the same. The part has the least n for which, in most
    pictures, the references' angles differ by a common angle, up to such turns. 0: there is none, and every
    turn looks the same.

    Args:
        first: Pose of each picture by the first reference.
        second: Pose of each picture by the second reference.
    """
    sides = [-1 if pose.mirrored else 1 for pose in first]
    delta = np.array([(b.angle - a.angle) * side for a, b, side in zip(first, second, sides, strict=True)])
    for folds in range(1, _MAX_PERIOD + 1):
        phase = np.exp(1j * folds * delta)
        # [N, N]: row i tries the difference of picture i as the common one, and holds how far each is from it
        residual = np.angle(phase[:, None] / phase) / folds
        tolerance = min(_ANGLE_TOLERANCE, 2 * math.pi / folds / 16)
        if (np.abs(residual) < tolerance).mean(1).max() >= _MIN_AGREEMENT:
            return folds
    return 0


def _congeal(singles: _SingleReferences, kind: PoseKind, period: int = 1) -> PoseReference:
    """Align all pictures to one of them, then to their average, again and again."""
    reference = singles.best(kind, period)
    pictures = singles.pictures
    levels = _border_quantiles(pictures)
    for _ in range(_ROUNDS):
        reference = _average([(picture, reference.find(picture)) for picture in pictures], reference, levels)
    return reference


def _border_quantiles(pictures: Sequence[Float32]) -> Float32:
    """Return evenly spaced quantiles of the grey levels along the pictures' edges.

    They are the ground's, however large the parts are.
    """
    strips = (
        strip
        for picture in pictures
        for way in (picture, picture.T)
        for strip in (way[:_BORDER], way[-_BORDER:])
    )
    every = np.concatenate([strip.ravel() for strip in strips])
    return np.asarray(np.quantile(every, (np.arange(_QUANTILES) + 0.5) / _QUANTILES), np.float32)


class _SingleReferences:
    """Pictures [h, w], each tried as the first reference.

    A picture shows its part where it differs from the other pictures, unaligned, or from the ground.
    """

    def __init__(self, pictures: Sequence[Float32], ground: float | None = None):
        from scipy import ndimage

        every = [align(picture, Pose(picture.shape[1] / 2, picture.shape[0] / 2)) for picture in pictures]
        self.pictures = pictures
        self.ground = ground
        whole, inside = (np.stack(part) for part in zip(*every, strict=True))
        if ground is None:
            median = np.median(whole, axis=0)
            deviation = 1.4826 * np.median(np.abs(whole - median), axis=0)
            spread = ndimage.gaussian_filter(deviation, 2) + 2 * _MIN_SPREAD
        else:
            median = np.full((SIDE, SIDE), ground)
            spread = np.full((SIDE, SIDE), 2 * _MIN_SPREAD)
        self._whole = whole
        self._inside = inside
        self._median = median
        self._spread = spread

    def build(self, number: int, kind: PoseKind, period: int = 1) -> PoseReference | None:
        """Build the reference of a single picture; None where it shows nothing of its own."""
        from scipy import ndimage

        away = np.abs(self._whole[number] - self._median) / self._spread
        difference = ndimage.gaussian_filter(away, 2) * self._inside[number]
        part = difference**2 / (difference**2 + 4)  # 0..1: how surely each pixel shows the part
        part[part < part.max() / 4] = 0
        middle = ndimage.center_of_mass(part + 1e-12)
        picture = self.pictures[number]
        # from a pixel of the frame to a place in the picture: the frame's middle is the picture's
        y, x = (at + 0.5 - HALF_SIDE + side / 2 for at, side in zip(middle, picture.shape, strict=True))
        centred_picture, visible = align(picture, Pose(x, y))
        to_centre = [HALF_SIDE - 0.5 - at for at in middle]
        centred_part = ndimage.shift(part, to_centre, order=1) * visible
        counts = centred_part > 0.01
        if not counts.any():
            return None
        uncertainty = 2 * _MIN_SPREAD / np.sqrt(np.maximum(centred_part, 0.01))
        deviation = np.where(counts, uncertainty, 0)  # 0: the pixel does not count
        return _build_reference(kind, centred_picture, deviation, HALF_SIDE, period)

    def find(self, number: int, kind: PoseKind) -> list[Pose]:
        """Return the poses of the pictures by a single picture's reference; none where it shows nothing."""
        reference = self.build(number, kind)
        return [] if reference is None else [reference.find(picture) for picture in self.pictures]

    def best(self, kind: PoseKind, period: int) -> PoseReference:
        """Return the reference to which the other pictures can be aligned best.

        Raises:
            InputError: No picture shows anything of its own.
        """
        found = list[tuple[float, PoseReference]]()
        numbers = range(len(self.pictures))
        for number in numbers[:: max(1, len(numbers) // _SEED_CANDIDATES)]:
            if (reference := self.build(number, kind, period)) is None:
                continue
            others = [i for i in numbers if i != number][:: max(1, len(numbers) // _SEED_COMPARISONS)]
            errors = [reference.find(self.pictures[i]).error for i in others]
            found.append((float(np.median(errors)), reference))
        if not found:
            raise InputError("the good pictures are all alike: there is nothing to align, leave out --align")
        return min(found, key=lambda candidate: candidate[0])[1]


def _average(
    pictures: Sequence[tuple[Float32, Pose]], previous: PoseReference, levels: Float32
) -> PoseReference:
    """Return the median of the pictures as a reference, aligned by their poses to the previous reference.

    Args:
        pictures: Small pictures, each with its pose.
        previous: Reference that the poses are against.
        levels: Quantiles of the ground's levels (`_border_quantiles`).

    Raises:
        InputError: Most pictures show no part, or none in common.
    """
    from scipy import ndimage

    lost = InputError("the good pictures show no part that can be found in most of them: leave out --align")
    known = [(picture, pose) for picture, pose in pictures if pose.found]
    if 2 * len(known) < len(pictures):
        raise lost
    warped = [align(picture, pose) for picture, pose in known]
    stack = np.stack([np.where(inside, picture, np.nan) for picture, inside in warped])
    visible = np.stack([inside for _, inside in warped]).mean(0) > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # places outside of all pictures
        middle = np.nanmedian(stack, axis=0)
        deviation = 1.4826 * np.nanmedian(np.abs(stack - middle), axis=0)
    middle = np.where(visible, middle, np.median(levels))
    deviation = np.where(visible, deviation, 1.0)
    deviation = np.sqrt(ndimage.uniform_filter(deviation**2, 3) + _MIN_SPREAD**2)
    # pixels that differ from half of the ground's levels show the part or its outline
    contrast = np.median(np.abs(levels[:, None] - middle.ravel()), axis=0).reshape(middle.shape)
    part = ndimage.binary_opening((contrast > _MIN_CONTRAST * deviation) & visible)
    areas, count = ndimage.label(part, np.ones((3, 3)))
    if count:
        sizes = np.bincount(areas.ravel())[1:]
        part = np.isin(areas, 1 + np.flatnonzero(sizes >= 0.02 * sizes.sum()))
    else:
        part = visible
    if not part.any():  # aligned to each other, they show no place in common
        raise lost
    counted = ndimage.binary_dilation(part, iterations=_OUTLINE_WIDTH) & visible
    turn, x, y, extent = _bounding_square(part, previous.rotates)
    right, down = np.meshgrid(*2 * [np.arange(SIDE) + 0.5 - HALF_SIDE])
    cos, sin = math.cos(turn), math.sin(turn)
    at = sin * right + cos * down + y + HALF_SIDE - 0.5, cos * right - sin * down + x + HALF_SIDE - 0.5
    middle = ndimage.map_coordinates(middle, at, order=1, mode="nearest")
    deviation = ndimage.map_coordinates(np.where(counted, deviation, 0), at, order=0)
    extent = min(HALF_SIDE, extent + _MARGIN)
    return _build_reference(previous.kind, middle, deviation, extent, previous.period)


class _Square(NamedTuple):
    """Square in the reference's frame, in pixels.

    Attributes:
        turn: Angle, in radians.
        x: Middle, to the right of the frame's.
        y: Middle, below the frame's.
        half_side: Half its side.
    """

    turn: float
    x: float
    y: float
    half_side: float


def _bounding_square(part: NDArray[np.bool_], turns: bool) -> _Square:
    """Return the square around the part [SIDE, SIDE].

    It is not turned unless a turn makes it clearly smaller.
    """
    y, x = np.nonzero(part) + np.array([[0.5 - HALF_SIDE], [0.5 - HALF_SIDE]])
    found = []
    for turn in np.radians(np.arange(0, 90, 3)) if turns else [0.0]:
        cos, sin = math.cos(turn), math.sin(turn)
        u, v = cos * x + sin * y, cos * y - sin * x
        mid_u = (u.min() + u.max()) / 2
        mid_v = (v.min() + v.max()) / 2
        half = max(np.ptp(u), np.ptp(v)) / 2 + 0.5
        found.append(_Square(turn, cos * mid_u - sin * mid_v, sin * mid_u + cos * mid_v, half))
    upright = found[0]
    smallest = min(found, key=lambda square: square.half_side)
    return smallest if smallest.half_side < 0.95 * upright.half_side else upright


def _build_reference(
    kind: PoseKind, levels: NDArray[np.floating], deviation: NDArray[np.floating], extent: float, period: int
) -> PoseReference:
    """A reference of levels 0..1 and standard deviations, 0 where a pixel does not count."""
    spread = np.clip(np.rint(deviation * SPREAD_SCALE), deviation > 0, 255).astype(np.uint8)
    return PoseReference(kind, np.rint(levels * 255).clip(0, 255).astype(np.uint8), spread, extent, period)
