"""Pictures that are near-duplicates of each other."""

import numpy as np
from PIL import Image, ImageFilter


def product(seed, side=256):
    """A disc with a ring of holes, always in the same place, with a surface and grain of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    shape = 60.0 + 120.0 * (np.hypot(x, y) < 0.4)
    for angle in np.arange(8) * np.pi / 4:
        shape -= 90.0 * (np.hypot(x - 0.25 * np.cos(angle), y - 0.25 * np.sin(angle)) < 0.04)
    surface = Image.fromarray(rng.normal(0, 100, (side, side)).astype(np.float32))
    fine = np.asarray(surface.resize((64, 64)).resize((side, side), Image.Resampling.BICUBIC))
    grey = shape + 0.5 * fine + rng.normal(0, 2, (side, side))
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(1)).convert("RGB")
