"""Are all parts of a picture found and counted, and how long does it take?

    python bench/several_parts.py

3 to 12 parts are drawn in a picture at any place and angle, none over another: plates, discs with one mark,
long pins with a head, on plain and on textured ground (bench/pose.py). The places are learnt from --learnt good
pictures, which nobody marks, and found in --pictures new ones: good ones, and as many each with a part too few,
with one too many, and with another kind of part added. A part is found where a pose lies within 2 % of the
side, and, but for one common turn, within 2 degrees. The time is that of one picture in one thread.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import common
from common import Cell
from pose import GROUNDS, PARTS, REACH, disc, pin, plate

RADIUS = {"plate": 56.0, "disc": 42.0, "pin": 62.0}  # pixels from the middle to the farthest point
OTHER = {"plate": "disc", "disc": "plate", "pin": "disc"}
SIDE, GAP = 512, 5  # pixels
COUNTS = (3, 6, 12)
KINDS = ("good", "missing", "additional", "other")
Known = tuple[float, float, float]  # x and y in pixels, angle


def draw(part: str, ground: str, count: int, seed: int, other: bool = False) -> tuple[Any, list[Known]]:
    """[SIDE, SIDE, 3] uint8, and where its parts lie. other: one part of another kind is added."""
    import numpy as np
    from scipy import ndimage

    from flawscope.synthesis.demo import scene
    from flawscope.synthesis.masks import fractal_noise

    rng = np.random.default_rng(seed)
    rough = (3, 4.0, 70.0) if ground == "plain" else (16, 28.0, 100.0)
    canvas = np.empty((SIDE, SIDE, 3), np.float32)
    noise = fractal_noise((SIDE, SIDE), (rough[0],) * 2, rng, octaves=4)
    canvas[:] = (rough[2] + rough[1] * noise)[..., None]
    taken = np.zeros((SIDE, SIDE), np.bool_)
    known: list[Known] = []
    for kind in [part] * count + [OTHER[part]] * other:
        radius = RADIUS[kind]
        scale, half = radius / REACH[kind], math.ceil(radius) + 12
        for _ in range(2000):
            x, y = (float(at) for at in rng.uniform(radius + 3, SIDE - radius - 3, 2))
            angle = float(rng.uniform(-math.pi, math.pi))
            top, left = max(0, int(y) - half), max(0, int(x) - half)
            here = np.s_[top : min(SIDE, int(y) + half), left : min(SIDE, int(x) + half)]
            down, across = np.mgrid[here] + 0.5
            across, down = (across - x) / scale, (down - y) / scale
            cos, sin = math.cos(angle), math.sin(angle)
            u, v = (cos * across + sin * down).astype(np.float32), (cos * down - sin * across).astype(np.float32)
            inside = outline(kind, u, v) < 0
            if not (taken[here] & ndimage.binary_dilation(inside, iterations=GAP)).any():
                break
        else:
            return draw(part, ground, count, seed + 1_000_000, other)  # no room was left
        edge, face = {"plate": plate, "disc": disc, "pin": pin}[kind](u, v, scale, rng)
        taken[here] |= inside
        canvas[here] *= (1 - 0.3 * scene.smooth(1 - (edge * scale - 1) / 5))[..., None]
        scene.lay(canvas[here], face, scene.cover(edge, scale))
        if kind == part:
            known.append((x, y, angle))
    return scene.sensor(canvas, rng), known


def outline(kind: str, u: Any, v: Any) -> Any:
    """Distance from the outline [H, W], in units."""
    import numpy as np

    from flawscope.synthesis.demo.scene import rounded_box

    if kind == "plate":
        return rounded_box(u / 0.6, v / 0.6, (141.0, 120.0), 16.0)
    if kind == "disc":
        return np.hypot(u, v) - 58
    return np.minimum(rounded_box(u, v, (104, 8), 4), rounded_box(u - 94, v, (10, 15), 3))
