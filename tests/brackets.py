"""Drawn parts whose places are known: one in a picture, or several."""

import math

import numpy as np
from scipy import ndimage

SIDE, CELL = 256, 85  # pixels; a part lies anyhow in each cell


def drawn(seed, cells, other=None, defect=None):
    """Brackets, and a disc in cell `other`, on an uneven ground, [H, W, 3] uint8; where the brackets lie.
    defect: cell whose bracket has a dark spot."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    picture = 70 + 40 * ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 3)
    known = []
    for cell in (*cells, *([] if other is None else [other])):
        x, y = ((at + 0.5) * CELL + rng.uniform(-9, 9) for at in (cell % 3, cell // 3))
        angle = rng.uniform(-np.pi, np.pi)
        u = np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)
        v = np.cos(angle) * (rows - y) - np.sin(angle) * (columns - x)
        bars = [
            np.maximum(abs(u - a) - w, abs(v - b) - h) for a, b, w, h in ((0, 14, 22, 6), (-16, 0, 6, 20))
        ]
        shape = np.hypot(u, v) - 18 if cell == other else np.minimum(*bars)
        picture += np.clip(0.5 - shape, 0, 1) * (170 - picture)
        if cell == defect:
            picture[np.hypot(u, v - 14) < 3.5] = 30
        known += [] if cell == other else [(x, y)]
    picture += rng.normal(0, 2, picture.shape)
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2), known


def bracket(seed, spot=None, *, side=128, radius=4, depth=120, empty=False):
    """A bracket at any place and angle, [H, W, 3] uint8, and a function from places on it to the picture.
    spot: place of a dark defect of this radius, in the picture's pixels. empty: the ground alone."""
    rng, unit = np.random.default_rng(seed), side / 128
    x, y = rng.uniform(0.42 * side, 0.58 * side, 2)
    angle = rng.uniform(-math.pi, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    down, right = np.mgrid[:side, :side] + 0.5
    u, v = ((cos * (right - x) + sin * (down - y)) / unit, (cos * (down - y) - sin * (right - x)) / unit)
    foot = np.maximum(abs(u) - 30, abs(v - 18) - 7)
    shape = np.minimum(foot, np.maximum(abs(u + 23) - 7, abs(v) - 25))
    picture = 80 + 100 * (not empty) * np.clip(0.5 - shape * unit, 0, 1) + rng.normal(0, 3, (side, side))

    def place(point):
        a, b = point[0] * unit, point[1] * unit
        return cos * a - sin * b + x, sin * a + cos * b + y

    if spot is not None:
        at = place(spot)
        picture[np.hypot(right - at[0], down - at[1]) < radius] -= depth
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2), place
