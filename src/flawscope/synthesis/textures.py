"""Noise, textures made of it, and the textures of a folder: materials of defects."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.decoding import decode, to_eight_bits
from flawscope.pictures.listing import list_pictures

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]
Field = tuple[Floats, int]  # values [H, W] in 0..1, and the number of colours for them


def _lattice_axis(size: int, cells: int) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Return, for each pixel of an axis, its place in a lattice of cells.

    Returns:
        Number of the pixel's cell; the pixel's offset from the cell's beginning, in cells; and the fade, the
        weight that the cell's end has at the pixel.
    """
    position = (np.arange(size, dtype=np.float64) + 0.5) * cells / size
    cell = np.minimum(position.astype(np.intp), cells - 1)
    offset = position - cell
    fade = offset**3 * (offset * (offset * 6 - 15) + 10)  # Perlin 2002: 6t^5 - 15t^4 + 10t^3
    return cell, offset.astype(np.float32), fade.astype(np.float32)


def perlin_noise(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return gradient noise `[H, W]` float32 in -1..1 with `cells` lattice cells down and across.

    Source: Perlin, "An image synthesizer" (1985), with the quintic fade of "Improving noise" (2002). Any size
    and any number of cells will do. A pixel's value is interpolated between the four corners of its cell:
    first downwards, along the lattice's columns, then across.
    """
    angle = rng.uniform(0, 2 * np.pi, (cells[1] + 1, cells[0] + 1)).astype(np.float32)
    # the gradients, [columns, rows] of the lattice
    down = np.sin(angle)
    across = np.cos(angle)
    y, dy, fade_y = _lattice_axis(shape[0], cells[0])
    x, dx, fade_x = _lattice_axis(shape[1], cells[1])
    # along each column of the lattice: the noise's height, and its slope across
    column_height = (1 - fade_y) * dy * down[:, y] + fade_y * (dy - 1) * down[:, y + 1]  # [cells + 1, H]
    column_slope = (1 - fade_y) * across[:, y] + fade_y * across[:, y + 1]
    dx = dx[:, None]
    fade_x = fade_x[:, None]
    left = column_height[x] + dx * column_slope[x]  # [W, H]
    right = column_height[x + 1] + (dx - 1) * column_slope[x + 1]
    noise = (left + fade_x * (right - left)).T * np.float32(np.sqrt(2))  # unit gradients reach sqrt(1/2)
    return np.ascontiguousarray(np.clip(noise, -1, 1))


def fractal_noise(
    shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator, octaves: int = 4
) -> Floats:
    """Return a weighted mean of octaves of Perlin noise, `[H, W]` float32 in -1..1.

    Each octave has twice the cells and half the weight of the octave before. Octaves stop where cells would
    be smaller than a pixel.
    """
    total = np.zeros(shape, np.float32)
    weight = 1.0
    weight_sum = 0.0
    for octave in range(octaves):
        grid = (cells[0] << octave, cells[1] << octave)
        if octave and (grid[0] > shape[0] or grid[1] > shape[1]):
            break
        total += weight * perlin_noise(shape, grid, rng)
        weight_sum += weight
        weight /= 2
    return total / np.float32(weight_sum)


def _colour_family(count: int, rng: np.random.Generator) -> Floats:
    """Return colours `[count, 3]` in 0..255 around a random one, dark to bright, shuffled in each channel."""
    base = rng.uniform(40, 215, 3)
    tint = rng.normal(0, 1, (count, 3)) * rng.uniform(8, 45)
    light = np.linspace(-1, 1, count)[:, None] * rng.uniform(20, 110)
    return rng.permuted(np.clip(base + tint + light, 0, 255), axis=0).astype(np.float32)


def _ramp(field: Floats, colours: Floats) -> Floats:
    """Return the colours `[H, W, 3]` of a field: 0 is the first colour, 1 the last, interpolated between."""
    positions = np.linspace(0, 1, len(colours))
    channels = [np.interp(field, positions, colours[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def _rotated_coordinates(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the coordinates of pixels along a random direction and across it."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _clouds(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    cells = (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    field = fractal_noise(shape, cells, rng, octaves=5) * 1.6
    return np.clip(field * 0.5 + 0.5, 0, 1), int(rng.integers(2, 5))


def _stripes(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    along, _ = _rotated_coordinates(shape, rng)
    period = rng.uniform(4, max(6.0, max(shape) / 3))
    wave = np.sin(2 * np.pi * along / period + 2 * perlin_noise(shape, (2, 2), rng))
    sharp = rng.uniform(1, 6)
    return np.clip(0.5 + 0.5 * sharp * wave, 0, 1), 2


def _checker(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    along, across = _rotated_coordinates(shape, rng)
    period = rng.uniform(5, max(8.0, max(shape) / 3))
    wave = np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period)
    return np.clip(0.5 + 4 * wave, 0, 1).astype(np.float32), 2


def _speckle(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    grain = int(rng.integers(1, 4))
    coarse_shape = (-(-shape[0] // grain), -(-shape[1] // grain))  # rounded up
    coarse = rng.normal(0, 1, coarse_shape).astype(np.float32)
    field = np.repeat(np.repeat(coarse, grain, 0), grain, 1)[: shape[0], : shape[1]]
    return np.clip(0.5 + 0.25 * field, 0, 1), 3


_TEXTURES = (_clouds, _clouds, _stripes, _checker, _speckle)  # clouds twice as often


def generated_texture(shape: tuple[int, int], rng: np.random.Generator) -> Picture:
    """Return a random texture `[H, W, 3]` uint8, for use without a folder of textures.

    It has clouds, stripes, checks or speckle in a random family of colours, with a little grain.
    """
    draw_field = _TEXTURES[int(rng.integers(len(_TEXTURES)))]
    field, colour_count = draw_field(shape, rng)
    texture = _ramp(field, _colour_family(colour_count, rng))
    texture += rng.normal(0, rng.uniform(0, 8), (*shape, 1)).astype(np.float32)
    return np.clip(np.rint(texture), 0, 255).astype(np.uint8)


class TextureFolder:
    """Textures of a folder and its subfolders, which are read once and stay in memory.

    If not all textures fit into memory, every n-th in natural order is used: all subfolders are represented.

    Attributes:
        pictures: The textures, `[h, w, 3]` uint8, read-only.
        skipped: A line for each file that cannot be read.
        left_out: Number of files that are not used for want of memory.
    """

    def __init__(self, folder: str | os.PathLike[str], *, side: int = 512, memory: int = 256 << 20):
        """Read the textures.

        Args:
            folder: The folder.
            side: Side in pixels to which larger textures are reduced.
            memory: Most bytes that the textures may take.

        Raises:
            InputError: There is no picture, or none can be read.
        """
        paths = list_pictures(folder)
        max_count = max(1, memory // (3 * side * side))
        step = -(-len(paths) // max_count)  # rounded up
        used_paths = paths[::step]
        pictures = []
        skipped = []
        for path in used_paths:
            try:
                pictures.append(_shrink_texture(to_eight_bits(decode(path)), side))
            except InputError as error:
                skipped.append(str(error))
        if not pictures:
            raise InputError(f"no texture in {folder} can be read; the first: {skipped[0]}")
        self.pictures: tuple[Picture, ...] = tuple(pictures)
        self.skipped: tuple[str, ...] = tuple(skipped)
        self.left_out = len(paths) - len(used_paths)

    def __len__(self) -> int:
        return len(self.pictures)

    def draw(self, rng: np.random.Generator) -> Picture:
        """Return a random texture `[h, w, 3]` uint8: one of `pictures` itself, which is read-only."""
        return self.pictures[int(rng.integers(len(self.pictures)))]


def _shrink_texture(picture: Picture, side: int) -> Picture:
    """Return the picture, read-only, with its longer side reduced to `side` pixels if it is larger."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    reduced: Picture = np.asarray(image)
    reduced.flags.writeable = False
    return reduced
