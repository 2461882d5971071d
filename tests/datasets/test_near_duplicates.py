"""Copies are found, different pictures of the same product are not."""

import numpy as np

from flawscope.pictures.near_duplicates import (
    ALL_COMPARED,
    MIN_UNSURE,
    Resemblance,
    _decide,
    _without_bridges,
    clusters,
    thumbnail,
)


def test_a_single_likeness_joins_no_two_groups():
    first, second = [(0, 1), (0, 2), (1, 2)], [(3, 4), (3, 5), (4, 5)]
    linked = [(i, j, 1.0) for i, j in [*first, (2, 3), *second]]
    assert [*clusters(_without_bridges(linked))] == [[0, 1, 2], [3, 4, 5]]


def test_thumbnail_of_any_picture():
    ramp = np.linspace(0, 1, 200, dtype=np.float32)[None, :, None].repeat(100, 0)
    deep = [ramp, (ramp * 4095).astype(np.uint16), (ramp.repeat(3, 2) * 255).astype(np.uint8)]
    expected = (np.arange(64) + 0.5) / 64 * 255
    for picture in deep:
        assert np.abs(thumbnail(picture).astype(np.float32) - expected)[:, 2:-2].max() < 1.5
    for shape in ((1, 1, 3), (3, 5000, 3), (2000, 1500, 3)):
        result = thumbnail(np.full(shape, 77, np.uint8))
        assert result.shape == (64, 64)
        assert np.abs(result.astype(np.float32) - 77).max() < 0.5


def test_of_many_a_copy_that_lost_detail_is_known_by_all_of_its_structure():
    """What it has of its own correlates less than a sharp copy's, and still far more than chance pairs do."""
    rng = np.random.default_rng(0)
    own = {(i, i + 1): [float(rng.normal(0, 0.15))] * 2 for i in range(60)}
    whole = dict.fromkeys(own, Resemblance(0.98, -9.0))
    own[70, 71] = own[72, 73] = [0.8, 0.85]
    whole[70, 71], whole[72, 73] = Resemblance(MIN_UNSURE, -6.0), Resemblance(0.98, -6.0)
    found = {(i, j) for i, j, _ in _decide(own, whole, ALL_COMPARED + 1).copies}
    assert found == {(70, 71)}
    own[70, 71] = [0.5, 0.5]
    assert not _decide(own, whole, ALL_COMPARED + 1).copies
