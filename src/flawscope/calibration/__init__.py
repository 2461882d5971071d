"""Calibrates on good pictures, and draws those that a method that learns in steps holds out for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from flawscope.errors import InputError

MIN_HELD_OUT = 10  # pictures, but at most a quarter of all
MIN_FOR_FULL_RATE = 120  # pictures, from which on as many are held out as the false-alarm rate needs
SPLIT_STREAM = 20  # RNG stream


def min_calibration_size(rate: float) -> int:
    """Number of calibration scores that a rate needs (design.md: 1 / (n + 1) is the smallest rate)."""
    return math.ceil(1 / rate - 1e-9) - 1


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
    views: float = 1,
) -> list[list[int]]:
    """Draws the pictures to hold out, by group, in the order drawn, in whole groups by the seed.

    They are the `reserved` ones, which the data set keeps apart, if any. Else they are a share of all: at
    least 10 if these are at most a quarter, and from 120 pictures on as many as the false-alarm rate needs,
    and `more`.

    Args:
        used: numbers of the pictures.
        groups: of each of them.
        views: average number of views that a picture counts as, where the numbers are of views.
        reserved: numbers of pictures that are kept apart.

    Raises:
        InputError: fewer than two pictures, or all of one group.
    """
    own_reserved = sorted(set(reserved) & set(used))
    if own_reserved and len(own_reserved) < len(used):
        order = np.random.default_rng([seed, SPLIT_STREAM]).permutation(own_reserved).tolist()
        group_of = dict(zip(used, groups, strict=True))
        return list(_by_group(order, [group_of[i] for i in order]).values())
    total = len(used)
    if total < 2:
        raise InputError(
            f"too few usable pictures for {method} ({total}): it learns from some and holds out others"
        )
    pictures = round(total / views)
    number = max(round(share * pictures), min(MIN_HELD_OUT, pictures // 4), 1)
    if pictures >= MIN_FOR_FULL_RATE:
        number = max(number, min(min_calibration_size(rate) + more, pictures // 5))
    wanted = round(number * views)
    order = np.random.default_rng([seed, SPLIT_STREAM]).permutation(sorted(set(groups)))
    members = _by_group(used, groups)
    held_out: list[list[int]] = []
    for group in order.tolist():
        count = sum(map(len, held_out))
        if count >= wanted or len(held_out) == len(members) - 1:
            break
        if count + len(members[group]) <= max(2 * wanted, total // 3):  # no large part for a few pictures
            held_out.append(members[group])
    if not held_out and len(members) > 1:
        held_out = [min(members.values(), key=len)]
    if not held_out:
        raise InputError(
            f"all pictures show one part (--group), and {method} holds out whole parts: give others too"
        )
    return held_out


def _by_group(pictures: Sequence[int], groups: Sequence[int]) -> dict[int, list[int]]:
    """Pictures of each group, both in the order in which they come."""
    members: dict[int, list[int]] = {}
    for picture, group in zip(pictures, groups, strict=True):
        members.setdefault(group, []).append(picture)
    return members
