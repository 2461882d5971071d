"""Draws the good pictures that a method which learns in steps holds out for its calibration."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from flawscope.calibration.streams import Stream
from flawscope.errors import InputError

MIN_HELD_OUT = 10  # groups, but at most a quarter of all groups
MIN_FOR_FULL_RATE = 120  # groups, from which on as many are held out as the false-alarm rate needs
SMALLEST_RATE = 1e-12  # smaller rates count as this one, since their inverse may be infinite


def min_calibration_size(rate: float) -> int:
    """Return the smallest number n of calibration scores for a rate: 1 / (n + 1) <= rate."""
    # less 1e-9, since the inverse of a rate 1 / k may be rounded to more than k
    return math.ceil(1 / max(rate, SMALLEST_RATE) - 1e-9) - 1


def hold_out(
    used: Sequence[int],
    groups: Sequence[int],
    *,
    share: float,
    rate: float,
    seed: int,
    method: str,
    reserved: Collection[int] = (),
    more: int = 0,
) -> list[list[int]]:
    """Draw the pictures to hold out, in whole groups, since calibration counts groups.

    If pictures are `reserved`, their groups are held out, unless these are all groups. Otherwise groups are
    drawn, and their number is the largest of these:

    - `share` of all groups,
    - 10 groups, but at most a quarter of all,
    - if there are 120 groups or more: the number that the false-alarm rate needs plus `more`, but at most a
      fifth of all.

    Args:
        used: Numbers of the pictures that can be learnt from.
        groups: Group of each of these pictures; pictures of one part, or views of one picture, share a group.
        share: Share of the groups to hold out, 0..1.
        rate: Target false-alarm rate, 0..1.
        seed: Seed of the draw.
        method: Name of the method, for errors.
        reserved: Numbers of pictures that the data set keeps for the calibration.
        more: Number of groups to hold out in addition to those that the rate needs.

    Returns:
        For each group that is held out, in the order in which they were drawn, the numbers of its pictures.

    Raises:
        InputError: There are fewer than two pictures, or all are of one group.
    """
    pictures_by_group = by_group(used, groups)
    count = len(used)
    group_by_picture = dict(zip(used, groups, strict=True))
    usable_reserved = sorted(set(reserved) & set(used))
    reserved_groups = {group_by_picture[picture] for picture in usable_reserved}
    if usable_reserved and len(reserved_groups) < len(pictures_by_group):
        order = Stream.HOLD_OUT.rng(seed).permutation(usable_reserved).tolist()
        # each group once, in the random order of the pictures
        drawn_groups = dict.fromkeys(group_by_picture[picture] for picture in order)
        return [pictures_by_group[group] for group in drawn_groups]
    if count < 2:
        raise InputError(
            f"too few usable pictures for {method} ({count}): it learns from some and holds out others"
        )
    group_count = len(pictures_by_group)
    draw_count = max(round(share * group_count), min(MIN_HELD_OUT, group_count // 4), 1)
    if group_count >= MIN_FOR_FULL_RATE:
        count_for_rate = min_calibration_size(rate) + more
        draw_count = max(draw_count, min(count_for_rate, group_count // 5))
    if group_count < 2:
        raise InputError(
            f"all pictures show one part (--group), and {method} holds out whole parts: give others too"
        )
    return _draw_groups(pictures_by_group, draw_count, Stream.HOLD_OUT.rng(seed))


def _draw_groups(
    pictures_by_group: Mapping[int, list[int]], draw_count: int, rng: np.random.Generator
) -> list[list[int]]:
    """Draw groups, never all of them.

    Args:
        pictures_by_group: Pictures by group, of two groups or more.
        draw_count: Number of groups to draw. If they have too many of the pictures, fewer groups are drawn,
            but at least one.
        rng: Source of the draw.
    """
    group_count = len(pictures_by_group)
    picture_count = sum(map(len, pictures_by_group.values()))
    # Twice the pictures that `draw_count` average groups have, or a third of all pictures if that is more. So
    # a large group is not drawn in place of several small ones.
    max_pictures = max(2 * draw_count * picture_count / group_count, picture_count // 3)
    max_groups = min(draw_count, group_count - 1)
    drawn: list[list[int]] = []
    for group in rng.permutation(sorted(pictures_by_group)).tolist():
        if len(drawn) >= max_groups:
            break
        drawn_pictures = sum(map(len, drawn))
        if drawn_pictures + len(pictures_by_group[group]) <= max_pictures:
            drawn.append(pictures_by_group[group])
    smallest_group = min(pictures_by_group.values(), key=len)
    return drawn or [smallest_group]


def by_group(pictures: Sequence[int], groups: Sequence[int]) -> dict[int, list[int]]:
    """Return the pictures of each group; groups and pictures stay in the order in which they come."""
    pictures_by_group: dict[int, list[int]] = {}
    for picture, group in zip(pictures, groups, strict=True):
        pictures_by_group.setdefault(group, []).append(picture)
    return pictures_by_group
