"""Parts whose light is changed, and a model that keeps its rate in a range of it."""

import numpy as np
import pytest
from scipy import ndimage

import flawscope
from small_network import SMALL_NETWORK

REAL = {"size": "64", "samples": 0, "device": "cpu"}
SETTINGS = REAL | SMALL_NETWORK


def part(seed):
    """Grey part with a hole on a coloured ground, noisy, with a surface of its own."""
    rng = np.random.default_rng(seed)
    picture = np.full((80, 80, 3), (60, 80, 120), np.float64)
    picture[20:60, 20:60] = 150
    surface = ndimage.gaussian_filter(np.random.default_rng([seed, 1]).normal(0, 60, (80, 80)), 3)
    picture[20:60, 20:60] += surface[20:60, 20:60, None]
    picture[30:40, 30:40] = 40
    return (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(name="fitted", scope="module")
def fitted_fixture():
    return flawscope.fit([part(k) for k in range(20)], light="10%", **REAL)
