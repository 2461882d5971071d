"""Searches for settings on drawn pictures."""

import functools

import numpy as np
from PIL import Image

from flawscope.synthesis.demo.dataset import draw_picture


def pictures(count, size=64, turned=False):
    return [picture_of(k, size, turned) for k in range(count)]


@functools.cache
def picture_of(k, size, turned):
    rng = np.random.default_rng([3, k])
    plate = draw_picture("plate", rng, size=size)[0]
    if turned:
        level = rng.normal(70, 3, (size, size, 1)).repeat(3, 2)
        ground = Image.fromarray(level.clip(0, 255).astype(np.uint8))
        small = Image.fromarray(plate).resize((size // 2,) * 2).convert("RGBA")
        small = small.rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC, expand=True)
        at = [(size - side) // 2 + int(rng.integers(-size // 12, size // 12)) for side in small.size]
        ground.paste(small, (at[0], at[1]), small)
        plate = np.asarray(ground)
    return plate
