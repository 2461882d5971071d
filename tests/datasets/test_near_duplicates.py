"""Copies are found, different pictures of the same product are not."""

import numpy as np

from flawscope.pictures.near_duplicates import (
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
