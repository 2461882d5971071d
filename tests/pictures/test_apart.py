"""Small groups of pictures that lie apart from a set, whatever explains them among themselves."""

import numpy as np
import pytest

from flawscope.pictures.apart import GROUP_GAP, MIN_PICTURES, groups_apart, groups_of_other_look


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


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_group_of_one_kind_is_found_although_its_members_explain_each_other(count):
    good, bad = cells(24), odd(count, seed=5)
    assert groups_apart(np.concatenate([good, bad])) == [[24 + k for k in range(count)]]


def test_groups_of_two_kinds_do_not_hide_each_other():
    found = groups_apart(np.concatenate([odd(2, 5), cells(30), odd(2, 7), odd(1, 11)]))
    assert sorted(found) == [[0, 1], [32, 33], [34]]


@pytest.mark.parametrize("seed", range(20))
def test_good_pictures_lie_together(seed):
    rng = np.random.default_rng(seed)
    made = cells(24, seed + 100)
    order = rng.permuted(np.tile(np.arange(16), (24, 1)), axis=1)  # parts turned: cells change places
    assert groups_apart(np.take_along_axis(made, order[..., None], axis=1)) == []


def test_a_variant_that_is_common_is_no_group_apart():
    assert groups_apart(np.concatenate([cells(24), odd(8, 5)])) == []


def test_few_pictures_say_nothing():
    assert groups_apart(np.concatenate([cells(MIN_PICTURES - 3), odd(2, 5)])) == []


def test_a_gap_that_is_narrow_is_none():
    """Two of equal pictures that lie by a factor farther out than the others are from each other."""
    angles = 2 * np.pi * np.arange(24) / 24
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / (
        2 * np.sin(np.pi / 24)
    )  # neighbours: 1 apart
    for factor, found in ((GROUP_GAP * 1.1, [[24, 25]]), (GROUP_GAP * 0.9, [])):
        pair = circle[0] * (1 + factor / np.linalg.norm(circle[0]))
        points = np.concatenate([circle, [pair, pair]]).astype(np.float32)
        assert groups_apart(points[:, None]) == found, factor


def test_pictures_of_another_light_are_a_group():
    rng = np.random.default_rng(0)
    good = [tuple(rng.normal(0.5, 0.01, 6)) for _ in range(24)]
    dark = [tuple(rng.normal(0.1, 0.005, 6)) for _ in range(3)]
    assert groups_of_other_look([*good, (), *dark]) == [[25, 26, 27]]
    assert groups_of_other_look([*good, dark[0]]) == []  # one is what `predict` would name
    assert groups_of_other_look(good) == []
