"""Small groups of pictures that lie apart from a set, whatever explains them among themselves."""

import numpy as np
import pytest

from flawscope.pictures.apart import (
    GROUP_GAP,
    MIN_PICTURES,
    SINGLE_GAP,
    groups_apart,
    groups_of_other_look,
)


def cells(count, seed=0, cells=16, width=12):
    """Features of products whose cells resemble each other's, in any order."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).normal(size=(cells, width))
    return (kinds + 0.2 * rng.normal(size=(count, cells, width))).astype(np.float32)


def odd(count, seed, share=0.5):
    """Others, of which a share of the cells shows something else, the same on all of them."""
    found = cells(count, seed)
    own = np.random.default_rng(seed).normal(size=found.shape[2])
    found[:, : int(share * found.shape[1])] = 4 * own + 0.05 * np.random.default_rng(seed + 1).normal(
        size=found[:, : int(share * found.shape[1])].shape
    )
    return found


def groups(cells, units=None):
    return groups_apart(cells, range(len(cells)) if units is None else units)


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        *[((cells(24), odd(count, seed=5)), [[24 + k for k in range(count)]]) for count in (2, 3, 4)],
        ((odd(2, 5), cells(30), odd(2, 7), odd(1, 11)), [[0, 1], [32, 33], [34]]),  # none hides another
        ((cells(24), odd(8, 5)), []),  # a variant that is common
        ((cells(MIN_PICTURES - 3), odd(2, 5)), []),  # few pictures say nothing
    ],
)
def test_small_groups_are_found_although_their_members_explain_each_other(shown, found):
    assert sorted(groups(np.concatenate(shown))) == found


@pytest.mark.parametrize("seed", range(20))
def test_good_pictures_lie_together(seed):
    rng = np.random.default_rng(seed)
    made = cells(24, seed + 100)
    order = rng.permuted(np.tile(np.arange(16), (24, 1)), axis=1)  # parts turned: cells change places
    assert groups(np.take_along_axis(made, order[..., None], axis=1)) == []


def test_a_gap_that_is_narrow_is_none():
    """Two of equal pictures that lie by a factor farther out than the others are from each other."""
    angles = 2 * np.pi * np.arange(24) / 24
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / (
        2 * np.sin(np.pi / 24)
    )  # neighbours: 1 apart
    for factor, found in ((GROUP_GAP * 1.1, [[24, 25]]), (GROUP_GAP * 0.9, [])):
        pair = circle[0] * (1 + factor / np.linalg.norm(circle[0]))
        points = np.concatenate([circle, [pair, pair]]).astype(np.float32)
        assert groups(points[:, None]) == found, factor


@pytest.mark.parametrize("units", [[30, 30, 30], [30, 31, 32], [30, 30, 31]])
def test_pictures_of_few_parts_tell_and_misfires_that_seem_one_part_do_not_hide(units):
    parts = [k // 2 for k in range(24)]  # each seen twice
    rng = np.random.default_rng(3)
    good = np.repeat(cells(12), 2, axis=0)
    good += 0.02 * rng.normal(size=good.shape).astype(np.float32)
    assert groups(np.concatenate([good, odd(3, 5)]), [*parts, *units]) == [[24, 25, 26]]
    assert groups(good, parts) == []


def test_a_part_seen_twice_is_as_odd_as_one_seen_once():
    """Its gap is that of a single picture: between those of a group and of one."""
    alike = np.pad(np.eye(24), ((0, 0), (0, 1)))  # sqrt(2) from each other
    middle = (GROUP_GAP + SINGLE_GAP) / 2
    twice = [[*np.full(24, 1 / 24), np.sqrt(2 * middle**2 - 23 / 24)]] * 2
    points = np.concatenate([alike, twice]).astype(np.float32)[:, None]
    assert groups(points) == [[24, 25]]
    assert groups(points, [*range(25), 24]) == []


def test_pictures_of_another_light_are_a_group():
    rng = np.random.default_rng(0)
    good = [tuple(rng.normal(0.5, 0.01, 6)) for _ in range(24)]
    dark = [tuple(rng.normal(0.1, 0.005, 6)) for _ in range(3)]

    def groups(looks, units=None):
        return groups_of_other_look(looks, range(len(looks)) if units is None else units)

    assert groups([*good, (), *dark]) == [[25, 26, 27]]
    assert groups([*good, (), *dark], [*range(25), 25, 25, 25]) == [[25, 26, 27]]
    assert groups([*good, dark[0]]) == []  # one is what `predict` would name
    assert groups(good) == []


@pytest.mark.parametrize(("brighter", "found"), [(0.024, []), (0.06, [[24, 25]])])
def test_pictures_that_are_hardly_brighter_than_equal_ones_are_no_group(brighter, found):
    looks = [(0.5 + brighter * (k > 23), 0.0, 0.0, 0.1, -4.0, -4.0) for k in range(26)]
    assert groups_of_other_look(looks, range(26)) == found
