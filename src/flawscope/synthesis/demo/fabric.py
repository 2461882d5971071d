"""Generated category "fabric": a 2/2 twill of blue warp and light weft, without any object in it.

Good pieces differ in where the weave begins, its angle (2 degrees), how the threads wander and the shade
of every single thread.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flawscope.synthesis.demo import scene
from flawscope.synthesis.demo.scene import Flaw, smooth
from flawscope.synthesis.masks import Mask, draw_centre, line_coverage
from flawscope.synthesis.textures import Floats, fractal_noise, perlin_noise

DEFECTS = ("hole", "thread", "stain", "colour", "missing_pick")

_PITCH = 7.6  # units from thread to thread
_WARP = np.asarray((56, 77, 116), np.float32)
_WEFT = np.asarray((196, 190, 176), np.float32)
_WRONG_DYE = np.asarray((128, 62, 80), np.float32)
_YARNS = ((226, 220, 206), (168, 58, 52), (40, 44, 56))  # of loose threads
_TINTS = ((0.42, 0.34, 0.22), (0.3, 0.3, 0.32))  # of stains
_THREADS = 64  # threads either way, more than the picture shows
_ZOOM = 2  # drawn at this multiple of the size, then averaged


def render(size: int, rng: np.random.Generator, flaw: Flaw | None = None) -> Floats:
    """Draw a piece of fabric as light, [size, size, 3] float32.

    The same `rng` gives the same piece, with a flaw or without one.
    """
    fine = size * _ZOOM
    frame = scene.random_frame(fine, rng, shift=2 * _PITCH, degrees=2)
    wander = [perlin_noise((size, size), (4, 4), rng).repeat(_ZOOM, 0).repeat(_ZOOM, 1) for _ in range(2)]
    # Position of each pixel in threads, from the left and from the top. Rounded down, it is the number of the
    # pixel's warp thread, and that of its weft thread
    x = frame.u / np.float32(_PITCH) + _THREADS // 2 + np.float32(0.22) * wander[0]
    y = frame.v / np.float32(_PITCH) + _THREADS // 2 + np.float32(0.22) * wander[1]
    column, row = np.floor(x), np.floor(y)  # float32: numpy would compute in float64 with integers
    warp_thread = column.astype(np.int32)
    weft_thread = row.astype(np.int32)
    across_warp = x - column - np.float32(0.5)  # -0.5..0.5, from one side of the thread to the other
    across_weft = y - row - np.float32(0.5)
    shade_warp = rng.normal(1, 0.06, _THREADS).astype(np.float32)[warp_thread]
    shade_weft = rng.normal(1, 0.045, _THREADS).astype(np.float32)[weft_thread]
    fibres = rng.standard_normal((2, fine, fine // 4 + 1), np.float32)

    # 2/2 twill: the warp lies over two threads, then under two; each row is shifted by one thread
    warp_on_top = ((warp_thread + weft_thread) & 3) < 2
    wrong_dye = np.zeros((fine, fine), np.float32)
    weft_missing = np.zeros((fine, fine), np.bool_)
    if flaw and flaw.name == "missing_pick":
        weft_missing = _missing_pick(x, weft_thread, flaw)
    elif flaw and flaw.name == "colour":
        wrong_dye = _wrong_dye(warp_thread, y, flaw)

    shows_warp = warp_on_top | weft_missing  # each pixel shows one thread: the warp or the weft
    along = np.where(shows_warp, y, x)
    across = np.where(shows_warp, across_warp, across_weft)
    # height of the thread: a wave along it, 1 in the middle of its way over two threads, 0 at both ends
    from_middle = np.where(shows_warp, y + column - 1, x + row - 3)  # in threads; the wave's period is 4
    lift = np.cos(from_middle * np.float32(np.pi / 2))
    # the warp stays up where no weft presses it down
    lift[weft_missing] = np.maximum(lift[weft_missing], 0.45)
    warp_fibres, weft_fibres = (part.repeat(4, 1)[:, :fine] for part in fibres)
    fibre = np.where(shows_warp, warp_fibres.T, weft_fibres)
    light = _yarn_light(across, along, lift, fibre) * np.where(shows_warp, shade_warp, shade_weft)
    light[weft_missing & ~warp_on_top] *= 0.86  # a warp that the missing weft would cover is darker
    colour = np.where(shows_warp[..., None], _WARP, _WEFT)
    if wrong_dye.any():
        colour += (wrong_dye * shows_warp)[..., None] * (_WRONG_DYE - colour)
    fine_canvas = light[..., None] * colour
    canvas = np.zeros((size, size, 3), np.float32)
    for down in range(_ZOOM):
        for right in range(_ZOOM):
            canvas += fine_canvas[down::_ZOOM, right::_ZOOM]
    canvas /= _ZOOM * _ZOOM
    if flaw:
        _draw_flaw(canvas, flaw)
    return canvas


def _yarn_light(across: Floats, along: Floats, lift: Floats, fibre: Floats) -> Floats:
    """Return the light on a round, twisted yarn, 0..about 1.15: dark at its sides and where it dives."""
    dive = 1 - lift
    round_off = np.sqrt(np.maximum(1 - (across * 1.9) ** 2 - 0.7 * dive * dive * dive, 0))
    twist = np.sin((along * 2.5 + across * 1.6) * np.float32(2 * np.pi))
    light = 0.30 + round_off * (0.82 + 0.07 * twist - 0.16 * dive)
    return np.asarray(light + 0.035 * fibre - 0.1 * across, np.float32)


def _missing_pick(x: Floats, weft_thread: NDArray[np.int32], flaw: Flaw) -> Mask:
    """Return the mask of a missing piece of a weft thread: only the warp is visible there."""
    span = flaw.grade(34, 9) / 2
    middle = _THREADS / 2 + float(flaw.rng.uniform(-12, 12))
    row = _THREADS // 2 + int(flaw.rng.integers(-15, 16))
    return np.asarray((weft_thread == row) & (np.abs(x - middle) < span))


def _wrong_dye(warp_thread: NDArray[np.int32], y: Floats, flaw: Flaw) -> Floats:
    """Return how much of another dye each pixel has, `[h, w]` in 0..1: a few threads have it on a stretch."""
    thread_count = max(1, round(flaw.grade(6, 1.6)))
    first_thread = _THREADS // 2 + int(flaw.rng.integers(-14, 14))
    middle = _THREADS / 2 + float(flaw.rng.uniform(-10, 10))
    span = flaw.grade(13, 5)
    # changes of the stretch's length and middle, different for each thread
    ragged = flaw.rng.uniform(-1.5, 1.5, (2, _THREADS))[:, warp_thread].astype(np.float32)
    in_span = smooth(span / 2 + ragged[0] - np.abs(y - middle - ragged[1]) + np.float32(0.5))
    is_dyed = (warp_thread >= first_thread) & (warp_thread < first_thread + thread_count)
    return np.asarray(in_span * is_dyed * min(1.0, flaw.grade(1, 0.5)), np.float32)


def _draw_flaw(canvas: Floats, flaw: Flaw) -> None:
    """Draw a flaw that lies on the weave, in place; other flaws are part of the weave (`render`)."""
    size = canvas.shape[0]
    scale = size / scene.UNITS
    inside = np.zeros((size, size), np.bool_)
    margin = size // 8
    inside[margin : size - margin, margin : size - margin] = True
    if flaw.name == "hole":
        _draw_hole(canvas, draw_centre(inside, flaw.rng), flaw, scale)
    elif flaw.name == "thread":
        scene.draw_thread(canvas, inside, flaw, scale, _YARNS)
    elif flaw.name == "stain":
        scene.draw_stain(canvas, inside, flaw, scale, _TINTS)


def _draw_hole(canvas: Floats, centre: tuple[int, int], flaw: Flaw, scale: float) -> None:
    """Draw a hole with dark ground, a shadow under the rim, and frayed ends of both colours, in place."""
    rng = flaw.rng
    size = canvas.shape[0]
    x, y = scene.offsets_from(canvas, centre)
    radius = flaw.grade(20, 5) * scale
    distance = np.hypot(x, y) / np.float32(radius)
    distance = distance * np.exp(0.45 * fractal_noise((size, size), (10, 10), rng, octaves=3))
    canvas *= 1 - 0.35 * smooth((1.45 - distance) / 0.45)[..., None]
    ground = 26 + 10 * smooth(distance) + 14 * np.maximum(-scene.light_on_slope(x, y), 0) * smooth(distance)
    scene.composite(canvas, ground[..., None] * np.asarray((1, 0.97, 0.92)), smooth((1.06 - distance) / 0.12))
    for _ in range(int(5 + radius)):
        angle = rng.uniform(0, 2 * np.pi)
        root = np.asarray([math.sin(angle), math.cos(angle)]) * radius * rng.uniform(0.9, 1.15)
        inwards = angle + math.pi + rng.normal(0, 0.7)
        steps = np.linspace(0, rng.uniform(0.25, 0.8) * radius, 6)[:, None]
        headings = inwards + rng.normal(0, 0.5) * np.linspace(0, 1, 6)  # the end is bent
        directions = np.stack([np.sin(headings), np.cos(headings)], 1)
        path = root + steps * directions + (centre[0] + 0.5, centre[1] + 0.5)
        colour = (_WARP if rng.random() < 0.5 else _WEFT) * rng.uniform(0.5, 0.95)
        widths = np.linspace(1.3, 0.5, 6) * max(scale, 0.5)
        scene.composite(canvas, colour, 0.85 * line_coverage((size, size), path, widths))
