"""Learns the reference for poses from pictures of good parts that lie anyhow: nobody says where. Torch-free.

All pictures are aligned to one of them, averaged, aligned to the average, and so on (congealing:
Learned-Miller, Data Driven Image Models through Continuous Joint Alignment, PAMI 28, 2006). The first one is
that to which most others can be aligned well. What is at the same place in all pictures as they are tells
nothing about the part, so it does not count in the first one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.pictures.pose import HALF, SIDE, SPREADS, Float32, Kind, Pose, Reference, aligned

MOST = 40  # pictures that the reference is learnt from
LEAST = 8
_FIRST = 5  # pictures that are tried as the first reference, each on so many others
_OTHERS = 12
_ROUNDS = 3
_FLOOR = 0.015  # least spread of good parts: noise, and half a pixel's error at an edge
_SALIENT = 2.5  # spreads by which a pixel of the part differs from half of the ground's
_EDGE = 6  # pixels along a picture's edges, which show the ground
_LEVELS = 64  # quantiles of the pixels there, of all pictures
_RIM = 6  # pixels around the part, which show its outline
_MARGIN = 6  # pixels around the part that are inspected with it
_SAME = math.radians(4)  # two references agree on an angle
_AGREE = 0.85  # share of the pictures on which they must
_PERIODS = (1, 2, 3, 4, 6, 8)
_FOLDS = 10  # shares of the pictures, each found by a reference of the others


def learn(pictures: Sequence[Float32], kind: Kind) -> Reference:
    return learn_apart(pictures, kind)[0]


def learn_apart(
    pictures: Sequence[Float32], kind: Kind, ground: float | None = None, groups: Sequence[int] | None = None
) -> tuple[Reference, dict[int, Reference]]:
    """Learns the reference, with the errors of good parts that it does not know; and for each group whose
    pictures it knows, one that does not know them.

    Two references are learnt, each from half of the pictures. They must agree on the angles of the parts, or
    else these mean nothing: the part looks the same after a share of a turn, or after any.

    Args:
        pictures: [h, w] float32 in 0..1 of good parts, the longer side `pose.SIDE`.
        kind: poses that occur.
        ground: level around the parts, where these lie in the middle of the pictures.
        groups: of every picture: those of one group are left out together. None: each stands alone.

    Raises:
        InputError: there are too few pictures, or they show nothing to be found.
    """
    if len(pictures) < LEAST:
        raise InputError(
            f"aligning parts takes at least {LEAST} good pictures, and there are {len(pictures)}: give more, "
            "or leave out --align"
        )
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(MOST, len(pictures))).astype(int)).tolist()
    halves = [_congealed([pictures[i] for i in chosen[half::2]], kind, ground) for half in (0, 1)]
    found = [[half.find(pictures[i]) for i in chosen] for half in halves]
    period = 1 if kind == "shift" else _period(*found)
    known = [pictures[i] for i in chosen]
    reference = _congealed(known, kind, ground, period)
    errors = [reference.find(pictures[i]).error for i in sorted({*range(len(pictures))} - {*chosen})]
    levels, poses = _quantiles(known), [reference.find(one) for one in known]
    numbers = chosen if groups is None else [groups[i] for i in chosen]
    order, apart = {group: k for k, group in enumerate(dict.fromkeys(numbers))}, dict[int, Reference]()
    folds = [order[group] % _FOLDS for group in numbers]
    for fold in range(min(_FOLDS, len(order)) if len(order) > 1 else 0):
        pairs = zip(known, poses, folds, strict=True)
        without = _averaged([(one, pose) for one, pose, own in pairs if own != fold], reference, levels)
        errors += [without.find(one).error for one, own in zip(known, folds, strict=True) if own == fold]
        apart |= {group: without for group, k in order.items() if k % _FOLDS == fold}
    return replace(reference, errors=tuple(sorted(errors))), apart


def _period(found: Sequence[Pose], again: Sequence[Pose]) -> int:
    """Period of the angles on which two references agree; 0 where they agree on none."""
    sides = [-1 if pose.mirrored else 1 for pose in found]
    apart = np.array([(b.angle - a.angle) * side for a, b, side in zip(found, again, sides, strict=True)])
    for period in _PERIODS:
        around = np.exp(1j * period * apart)
        off = np.angle(around[:, None] / around) / period  # [N, N], to make each the common difference
        if (np.abs(off) < _SAME).mean(1).max() >= _AGREE:
            return period
    return 0


def _congealed(pictures: Sequence[Float32], kind: Kind, ground: float | None, period: int = 1) -> Reference:
    """Aligns all pictures to one of them, then to their average, again and again."""
    reference = _first(pictures, kind, ground, period)
    levels = _quantiles(pictures)
    for _ in range(_ROUNDS):
        reference = _averaged([(one, reference.find(one)) for one in pictures], reference, levels)
    return reference


def _quantiles(pictures: Sequence[Float32]) -> Float32:
    """Quantiles of the grey levels along the pictures' edges, evenly spaced: the ground's, however large the
    parts are."""
    strips = (strip for one in pictures for way in (one, one.T) for strip in (way[:_EDGE], way[-_EDGE:]))
    every = np.concatenate([strip.ravel() for strip in strips])
    return np.asarray(np.quantile(every, (np.arange(_LEVELS) + 0.5) / _LEVELS), np.float32)


def _first(pictures: Sequence[Float32], kind: Kind, ground: float | None, period: int) -> Reference:
    """The picture to which the others can be aligned best, as reference."""
    from scipy import ndimage

    found: list[tuple[float, Reference]] = []
    every = [aligned(one, Pose(one.shape[1] / 2, one.shape[0] / 2)) for one in pictures]
    whole, inside = np.stack([one for one, _ in every]), np.stack([mask for _, mask in every])
    if ground is None:
        usual = np.median(whole, axis=0)
        spread = ndimage.gaussian_filter(1.4826 * np.median(np.abs(whole - usual), axis=0), 2) + 2 * _FLOOR
    else:
        usual, spread = np.full((SIDE, SIDE), ground), np.full((SIDE, SIDE), 2 * _FLOOR)
    numbers = range(len(pictures))
    for number in numbers[:: max(1, len(pictures) // _FIRST)]:
        new = ndimage.gaussian_filter(np.abs(whole[number] - usual) / spread, 2) * inside[number]
        share = new**2 / (new**2 + 4)
        share[share < share.max() / 4] = 0
        middle = ndimage.center_of_mass(share + 1e-12)
        one = pictures[number]
        y, x = (at + 0.5 - HALF + side / 2 for at, side in zip(middle, one.shape, strict=True))
        shown, seen = aligned(one, Pose(x, y))
        moved = ndimage.shift(share, [HALF - 0.5 - at for at in middle], order=1) * seen
        if not (moved > 0.01).any():
            continue
        deviation = np.where(moved > 0.01, 2 * _FLOOR / np.sqrt(np.maximum(moved, 0.01)), 0)
        reference = _reference(kind, shown, deviation, HALF, period)
        others = [i for i in numbers if i != number][:: max(1, len(pictures) // _OTHERS)]
        errors = [reference.find(pictures[i]).error for i in others]
        found.append((float(np.median(errors)), reference))
    if not found:
        raise InputError("the good pictures are all alike: there is nothing to align, leave out --align")
    return min(found, key=lambda one: one[0])[1]


def _averaged(pictures: Sequence[tuple[Float32, Pose]], old: Reference, levels: Float32) -> Reference:
    """The reference that the pictures make, aligned by their poses to the old one.

    Args:
        levels: as `_quantiles` gives them.
    """
    from scipy import ndimage

    known = [(picture, pose) for picture, pose in pictures if pose.found]
    if 2 * len(known) < len(pictures):
        raise InputError(
            "the good pictures show no part that can be found in most of them: leave out --align"
        )
    shown = [aligned(picture, pose) for picture, pose in known]
    stack = np.stack([np.where(inside, one, np.nan) for one, inside in shown])
    seen = np.stack([inside for _, inside in shown]).mean(0) > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # places outside of all pictures
        middle = np.nanmedian(stack, axis=0)
        deviation = 1.4826 * np.nanmedian(np.abs(stack - middle), axis=0)
    middle, deviation = np.where(seen, middle, np.median(levels)), np.where(seen, deviation, 1.0)
    deviation = np.sqrt(ndimage.uniform_filter(deviation**2, 3) + _FLOOR**2)
    # what half of the ground's pixels differ from is the part, or is where the part's outline is
    apart = np.median(np.abs(levels[:, None] - middle.ravel()), axis=0).reshape(middle.shape)
    part = ndimage.binary_opening((apart > _SALIENT * deviation) & seen)
    areas, count = ndimage.label(part, np.ones((3, 3)))
    if count:
        sizes = np.bincount(areas.ravel())[1:]
        part = np.isin(areas, 1 + np.flatnonzero(sizes >= 0.02 * sizes.sum()))
    else:
        part = seen
    counted = ndimage.binary_dilation(part, iterations=_RIM) & seen
    turn, x, y, extent = _framed(part, old.turns)
    right, down = np.meshgrid(*2 * [np.arange(SIDE) + 0.5 - HALF])
    cos, sin = math.cos(turn), math.sin(turn)
    at = sin * right + cos * down + y + HALF - 0.5, cos * right - sin * down + x + HALF - 0.5
    middle = ndimage.map_coordinates(middle, at, order=1, mode="nearest")
    deviation = ndimage.map_coordinates(np.where(counted, deviation, 0), at, order=0)
    extent = min(HALF, extent + _MARGIN)
    return _reference(old.kind, middle, deviation, extent, old.period)


def _framed(part: NDArray[np.bool_], turns: bool) -> tuple[float, float, float, float]:
    """The square around the part [SIDE, SIDE]: its turn, its middle x and y, and half its side. The turn is 0
    unless another makes it clearly smaller."""
    y, x = np.nonzero(part) + np.array([[0.5 - HALF], [0.5 - HALF]])
    found = []
    for turn in np.radians(np.arange(0, 90, 3)) if turns else [0.0]:
        cos, sin = math.cos(turn), math.sin(turn)
        u, v = cos * x + sin * y, cos * y - sin * x
        mid_u, mid_v = (u.min() + u.max()) / 2, (v.min() + v.max()) / 2
        half = max(np.ptp(u), np.ptp(v)) / 2 + 0.5
        found.append((turn, cos * mid_u - sin * mid_v, sin * mid_u + cos * mid_v, half))
    best = min(found, key=lambda one: one[3])
    return best if best[3] < 0.95 * found[0][3] else found[0]


def _reference(
    kind: Kind, levels: NDArray[np.floating], deviation: NDArray[np.floating], extent: float, period: int
) -> Reference:
    """A reference of levels 0..1 and standard deviations, 0 where a pixel does not count."""
    spread = np.clip(np.rint(deviation * SPREADS), deviation > 0, 255).astype(np.uint8)
    return Reference(kind, np.rint(levels * 255).clip(0, 255).astype(np.uint8), spread, extent, period)
