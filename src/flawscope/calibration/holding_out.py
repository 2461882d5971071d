"""Draws the good pictures that a method which learns in steps holds out for its calibration."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from flawscope.calibration.streams import Stream
from flawscope.errors import InputError

MIN_HELD_OUT = 10  # pictures, but at most a quarter of all
MIN_FOR_FULL_RATE = 120  # pictures, from which on as many are held out as the false-alarm rate needs
SMALLEST_RATE = (
    1e-12  # that no number of pictures could promise: the inverse of a smaller one may be infinite
)


def min_calibration_size(rate: float) -> int:
    """Return the number of calibration scores that a rate needs: n scores allow 1 / (n + 1) at least."""
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
    """Draw the pictures to hold out, in whole groups: calibration counts groups.

    Where pictures are `reserved`, their groups are held out. Otherwise it is a share of all groups, and at
    least 10 groups, or a quarter of all where that is fewer. From 120 groups on, it is at least the number
    that the false-alarm rate needs and `more`, or a fifth of all where that is fewer.

    Args:
        used: Numbers of the pictures.
        groups: Group of each picture; pictures of one part, or views of one picture, share a group.
        share: Share of the groups to hold out, 0..1.
        rate: Target false-alarm rate, 0..1.
        seed: Seed of the draw.
        method: Name of the method, for errors.
        reserved: Numbers of pictures that the data set keeps apart.
        more: Number of groups that are held out beyond those that the rate needs.

    Returns:
        The numbers of the pictures of each group held out, in the order drawn.

    Raises:
        InputError: There are fewer than two pictures, or all are of one group.
    """
    members = by_group(used, groups)
    total = len(used)
    group_of = dict(zip(used, groups, strict=True))
    own_reserved = sorted(set(reserved) & set(used))
    apart = {group_of[i] for i in own_reserved}
    if own_reserved and len(apart) < len(members):
        order = Stream.HOLD_OUT.rng(seed).permutation(own_reserved).tolist()
        return [members[group] for group in dict.fromkeys(group_of[i] for i in order)]
    if total < 2:
        raise InputError(
            f"too few usable pictures for {method} ({total}): it learns from some and holds out others"
        )
    units = len(members)
    number = max(round(share * units), min(MIN_HELD_OUT, units // 4), 1)
    if units >= MIN_FOR_FULL_RATE:
        number = max(number, min(min_calibration_size(rate) + more, units // 5))
    if units < 2:
        raise InputError(
            f"all pictures show one part (--group), and {method} holds out whole parts: give others too"
        )
    return _draw_groups(members, number, Stream.HOLD_OUT.rng(seed))


def _draw_groups(members: Mapping[int, list[int]], number: int, rng: np.random.Generator) -> list[list[int]]:
    """Draw groups, never all of them.

    Args:
        members: Pictures by group, of two groups or more.
        number: How many groups to draw. They are fewer, one at least, where they would hold too many of the
            pictures.
        rng: Source of the draw.
    """
    units = len(members)
    total = sum(map(len, members.values()))
    most = max(2 * number * total / units, total // 3)  # pictures: no large part for a few small ones
    drawn: list[list[int]] = []
    for group in rng.permutation(sorted(members)).tolist():
        if len(drawn) >= min(number, units - 1):
            break
        if sum(map(len, drawn)) + len(members[group]) <= most:
            drawn.append(members[group])
    return drawn or [min(members.values(), key=len)]


def by_group(pictures: Sequence[int], groups: Sequence[int]) -> dict[int, list[int]]:
    """Return the pictures of each group; groups and pictures stay in the order in which they come."""
    members: dict[int, list[int]] = {}
    for picture, group in zip(pictures, groups, strict=True):
        members.setdefault(group, []).append(picture)
    return members
