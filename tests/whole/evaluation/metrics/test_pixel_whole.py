"""Pixel metrics against a literal definition, image metrics, two public packages, and properties; sPRO
against a literal definition."""

import tracemalloc

import numpy as np
import pytest

from flawscope.evaluation.metrics import auroc_au_pro as ranking
from flawscope.evaluation.metrics import pixel_metrics


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_memory_is_for_anomalous_pixels_and_one_batch(share, monkeypatch):
    """Normal pixels, of which there are many, are counted and forgotten."""
    monkeypatch.setattr(ranking, "BATCH", 1 << 20)
    rng = np.random.default_rng(0)
    maps = rng.random((60, 256, 256), dtype=np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    masks[:, : round(256 * share)] = True
    tracemalloc.start()
    pixel_metrics(maps, masks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 36 * masks.sum() + 4 * 2**20 + 32 * 2**20
    if share < 0.1:
        assert peak < maps.nbytes
