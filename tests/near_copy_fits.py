"""Drawn parts, each in several pictures that are near-duplicates, and fits of them."""

import numpy as np
from scipy.ndimage import shift

from flawscope.fitting.fitting import fit
from flawscope.synthesis.demo import plate, scene
from small_network import SMALL_NETWORK

SIDE = 96


def part(number, view=0):
    """A drawn plate, in another picture for each view: a little aside, and in other light."""
    rng = np.random.default_rng([number, view])
    canvas = plate.render(SIDE, np.random.default_rng(number), None)
    if view:
        moved = shift(canvas, (*rng.uniform(-1, 1, 2), 0), order=1, mode="nearest")
        canvas = moved * np.float32(1 + 0.03 * view)
    return scene.simulate_sensor(canvas, rng)


def fitted(images, **options):
    quick = {"size": 64, "device": "cpu", "samples": 0, "check": False, **SMALL_NETWORK}
    return fit(images, **quick | options)
