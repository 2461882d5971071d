"""Outlines of regions as polygons, filled again by the reader of labels."""

import numpy as np
import pytest
from scipy import ndimage

from flawscope.datasets.labels.shapes import fill_polygon
from flawscope.results import labels


def blobs(seed):
    """Regions with holes, and what touches at corners only."""
    noise = np.random.default_rng(seed).normal(size=(40, 60))
    return ndimage.gaussian_filter(noise, seed % 4 / 2) > 0.1 / (1 + seed)


@pytest.mark.parametrize("seed", range(8))
def test_outlines_with_every_corner_are_the_mask(seed, monkeypatch):
    monkeypatch.setattr(labels, "TOLERANCE", 1e-6)
    mask = blobs(seed)
    np.testing.assert_array_equal(fill_polygon(labels.trace_outline(mask), mask.shape), mask)


@pytest.mark.parametrize("seed", range(8))
def test_outlines_are_within_a_pixel_and_short(seed):
    mask = ndimage.zoom(blobs(seed).astype(np.uint8), 4, order=1) > 0
    polygon = labels.trace_outline(mask)
    filled = fill_polygon(polygon, mask.shape)
    around = np.ones((3, 3), bool)
    assert not (filled & ~ndimage.binary_dilation(mask, around)).any()
    assert not (ndimage.binary_erosion(mask, around, border_value=1) & ~filled).any()
    every = sum(map(len, labels._trace_loops(mask)))
    assert len(polygon) < every / 2


@pytest.mark.parametrize("mask", [[[1]], [[1, 1]], [[1, 0], [0, 1]], [[1, 1, 1], [1, 0, 1], [1, 1, 1]]])
def test_small_regions_stay(mask):
    marked = np.array(mask, bool)
    np.testing.assert_array_equal(fill_polygon(labels.trace_outline(marked), marked.shape), marked)
