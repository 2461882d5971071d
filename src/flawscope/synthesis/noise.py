"""Perlin noise, and the textures made of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]


def _axis(size: int, cells: int) -> tuple[NDArray[np.intp], Floats, Floats]:
    """For every pixel of one axis: the lattice point before it, the offset from it in cells, the fade."""
    position = (np.arange(size, dtype=np.float64) + 0.5) * cells / size
    before = np.minimum(position.astype(np.intp), cells - 1)
    offset = position - before
    fade = offset**3 * (offset * (offset * 6 - 15) + 10)  # Perlin 2002: 6t^5 - 15t^4 + 10t^3
    return before, offset.astype(np.float32), fade.astype(np.float32)


def perlin_noise(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Gradient noise `[H, W]` float32 in -1..1 with `cells` lattice cells down and across.

    Perlin, "An image synthesizer" (1985), with the quintic fade of "Improving noise" (2002). Any size and
    any number of cells. The four-corner sum is linear in the gradients and separable, so that the rows are
    interpolated on the lattice's columns first and only the second axis works on all pixels.
    """
    if min(shape) < 1 or min(cells) < 1:
        raise InputError(f"Perlin noise needs a size and cells of at least 1, not {shape} and {cells}.")
    angle = rng.uniform(0, 2 * np.pi, (cells[1] + 1, cells[0] + 1)).astype(np.float32)
    down, across = np.sin(angle), np.cos(angle)  # [columns, rows] of the lattice
    y, dy, fade_y = _axis(shape[0], cells[0])
    x, dx, fade_x = _axis(shape[1], cells[1])
    slope_y = (1 - fade_y) * dy * down[:, y] + fade_y * (dy - 1) * down[:, y + 1]  # [cells + 1, H]
    slope_x = (1 - fade_y) * across[:, y] + fade_y * across[:, y + 1]
    dx, fade_x = dx[:, None], fade_x[:, None]
    left = slope_y[x] + dx * slope_x[x]  # [W, H]
    right = slope_y[x + 1] + (dx - 1) * slope_x[x + 1]
    noise = (left + fade_x * (right - left)).T * np.float32(np.sqrt(2))  # unit gradients reach sqrt(1/2)
    return np.ascontiguousarray(np.clip(noise, -1, 1))


def fractal_noise(
    shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator, octaves: int = 4
) -> Floats:
    """Sum of Perlin octaves, each with double the cells and half the height; `[H, W]` float32 in -1..1."""
    total = np.zeros(shape, np.float32)
    height, used = 1.0, 0.0
    for octave in range(octaves):
        grid = (cells[0] << octave, cells[1] << octave)
        if octave and (grid[0] > shape[0] or grid[1] > shape[1]):
            break
        total += height * perlin_noise(shape, grid, rng)
        used += height
        height /= 2
    return total / np.float32(used)


def _colours(count: int, rng: np.random.Generator) -> Floats:
    """`[count, 3]` colours in 0..255: a random hue family, from dark to bright, in random order."""
    base = rng.uniform(40, 215, 3)
    tint = rng.normal(0, 1, (count, 3)) * rng.uniform(8, 45)
    light = np.linspace(-1, 1, count)[:, None] * rng.uniform(20, 110)
    return rng.permuted(np.clip(base + tint + light, 0, 255), axis=0).astype(np.float32)


def _ramp(field: Floats, colours: Floats) -> Floats:
    """Colours interpolated along `field` in 0..1; `[H, W, 3]`."""
    position = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(field, position, colours[:, c]) for c in range(3)], -1).astype(np.float32)


def _rotated(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Pixel coordinates along a random direction and across it, centred."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _clouds(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    cells = (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    field = fractal_noise(shape, cells, rng, octaves=5) * 1.6
    return _ramp(np.clip(field * 0.5 + 0.5, 0, 1), _colours(int(rng.integers(2, 5)), rng))


def _stripes(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    along, _ = _rotated(shape, rng)
    period = rng.uniform(4, max(6.0, max(shape) / 3))
    wave = np.sin(2 * np.pi * along / period + 2 * perlin_noise(shape, (2, 2), rng))
    sharp = rng.uniform(1, 6)
    return _ramp(np.clip(0.5 + 0.5 * sharp * wave, 0, 1), _colours(2, rng))


def _checker(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    along, across = _rotated(shape, rng)
    period = rng.uniform(5, max(8.0, max(shape) / 3))
    wave = np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period)
    return _ramp(np.clip(0.5 + 4 * wave, 0, 1).astype(np.float32), _colours(2, rng))


def _speckle(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    grain = int(rng.integers(1, 4))
    coarse = rng.normal(0, 1, (-(-shape[0] // grain), -(-shape[1] // grain))).astype(np.float32)
    field = np.repeat(np.repeat(coarse, grain, 0), grain, 1)[: shape[0], : shape[1]]
    return _ramp(np.clip(0.5 + 0.25 * field, 0, 1), _colours(3, rng))


_TEXTURES = (_clouds, _clouds, _stripes, _checker, _speckle)  # clouds twice as often


def generated_texture(shape: tuple[int, int], rng: np.random.Generator) -> Picture:
    """A random texture `[H, W, 3]` uint8 for when there is no folder of textures: clouds, stripes,
    checks or speckle in a random family of colours, with a little grain."""
    texture = _TEXTURES[int(rng.integers(len(_TEXTURES)))](shape, rng)
    texture += rng.normal(0, rng.uniform(0, 8), (*shape, 1)).astype(np.float32)
    return np.clip(np.rint(texture), 0, 255).astype(np.uint8)
