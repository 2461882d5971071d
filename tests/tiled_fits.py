"""Large drawn parts, and a model that sees them in tiles."""

import functools

import numpy as np
import pytest

from flawscope.fitting.fitting import fit
from flawscope.synthesis.demo.dataset import draw_picture
from small_network import SMALL_NETWORK

SMALL = {"samples": 1, "check": False, "device": "cpu", "count": 300, **SMALL_NETWORK}


@functools.cache
def parts(count=8, seed=0, size=144):
    return tuple(draw_picture("plate", np.random.default_rng([seed, k]), size=size)[0] for k in range(count))


@pytest.fixture(name="tiled", scope="module")
def tiled_fixture():
    return fit(list(parts()), tile=64, **SMALL)


def spotted(picture, y, x, side=10):
    bad = picture.copy()
    bad[y : y + side, x : x + side] = (255, 0, 255)
    return bad
