"""Shapes of defects: masks `[H, W]` bool, True where the defect is to be.

`within [H, W]` bool, not all False, is where a shape may lie; it also gives the picture's size.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flawscope.errors import InputError
from flawscope.synthesis.textures import Floats, fractal_noise, perlin_noise

Mask = NDArray[np.bool_]
Number = np.floating | np.integer
Area = tuple[float, float]
"""A range of shares of the picture, 0 <= low < high <= 1."""

MIN_PIXELS = 4  # a smaller defect looks like noise
PERLIN_CELLS = (1, 2, 4, 8, 16, 32)  # a side; of DRAEM, MemSeg and PRN
PERLIN_THRESHOLD = (0.35, 0.65)  # published is 0.5
_MIN_ISLAND = 0.0005  # share of the picture below which an island is not chosen
_SUPERSAMPLING = 4


class DefectScale(StrEnum):
    """The size of a defect, as a share of the picture; the ranges are in `SCALE_AREAS`."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


SCALE_AREAS: dict[DefectScale, Area] = {
    DefectScale.SMALL: (0.0005, 0.002),
    DefectScale.MEDIUM: (0.002, 0.01),
    DefectScale.LARGE: (0.01, 0.05),
}


def pixel_count(total: int, area: Area, rng: np.random.Generator) -> int:
    """Pixels of a share of `total` drawn log-uniformly from `area`, at least `MIN_PIXELS`."""
    low, high = area
    count = round(total * math.exp(rng.uniform(math.log(low), math.log(high))))
    # rounding must not leave the range
    count = min(max(count, math.ceil(total * low)), max(math.floor(total * high), 1))
    return min(max(count, MIN_PIXELS), total)


def draw_centre(within: Mask, rng: np.random.Generator) -> tuple[int, int]:
    """Return a random True pixel (row, column)."""
    places = np.flatnonzero(within)
    row, column = divmod(int(places[rng.integers(len(places))]), int(within.shape[1]))
    return row, column


def allowed_area(shape: tuple[int, int], foreground: Mask | None) -> Mask:
    """Return `foreground`, or all True where it is None or all False. InputError for another size."""
    if foreground is None or not foreground.any():
        return np.ones(shape, np.bool_)
    if foreground.shape != shape:
        raise InputError(f"The foreground is {foreground.shape}, the picture {shape}: they must agree.")
    return foreground.astype(np.bool_, copy=False)


def bounding_box(mask: Mask, pad: int = 0) -> tuple[slice, slice]:
    """Return the smallest window with all of a non-empty `mask`, widened by `pad` within the picture."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    return (
        slice(max(0, int(rows[0]) - pad), min(mask.shape[0], int(rows[-1]) + 1 + pad)),
        slice(max(0, int(columns[0]) - pad), min(mask.shape[1], int(columns[-1]) + 1 + pad)),
    )


def _rotated_perlin(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return Perlin noise turned by up to 90 degrees either way, without empty corners.

    It is drawn on as few pixels as its cells need and enlarged smoothly while it turns.
    """
    height, width = shape
    pixels = min(1.0, 8 * max(cells) / max(shape))  # coarse pixels per pixel
    diagonal = math.hypot(height, width)
    more = (math.ceil(cells[0] * diagonal / height), math.ceil(cells[1] * diagonal / width))
    canvas = (
        max(1, math.ceil(more[0] * height / cells[0] * pixels)),
        max(1, math.ceil(more[1] * width / cells[1] * pixels)),
    )
    noise = perlin_noise(canvas, more, rng)
    angle = math.radians(rng.uniform(-90, 90))
    cos, sin = math.cos(angle) * pixels, math.sin(angle) * pixels
    affine = (
        *(cos, sin, canvas[1] / 2 - (cos * width + sin * height) / 2),
        *(-sin, cos, canvas[0] / 2 + (sin * width - cos * height) / 2),
    )
    turned = Image.fromarray(noise).transform(
        (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    return np.asarray(turned, np.float32)


def perlin_mask(within: Mask, rng: np.random.Generator, threshold: float = 0.5) -> Mask:
    """Return the mask where Perlin noise exceeds `threshold`, as in DRAEM (ICCV 2021), MemSeg and PRN.

    The mask is never empty: where no noise exceeds the threshold, the threshold is lowered below the
    largest value.
    """
    cells = (int(rng.choice(np.asarray(PERLIN_CELLS))), int(rng.choice(np.asarray(PERLIN_CELLS))))
    shape: tuple[int, int] = (within.shape[0], within.shape[1])
    noise = _rotated_perlin(shape, (min(cells[0], shape[0]), min(cells[1], shape[1])), rng)
    peak = float(noise[within].max())  # in a small foreground it may be below 0
    return np.asarray(within & (noise >= min(threshold, peak - 0.1 * abs(peak))))


def islands_mask(within: Mask, rng: np.random.Generator) -> Mask:
    """Return the mask of islands of Perlin noise above a random threshold.

    Half of the time all islands are kept, as published; otherwise one to three, like most real defects.
    """
    from scipy import ndimage

    mask = perlin_mask(within, rng, float(rng.uniform(*PERLIN_THRESHOLD)))
    kept = int(rng.integers(1, 4)) if rng.random() < 0.5 else 0
    if not kept:
        return mask
    labels, count = ndimage.label(mask)
    large = 1 + np.flatnonzero(np.bincount(labels.ravel(), minlength=2)[1:] >= _MIN_ISLAND * mask.size)
    if len(large) <= kept:
        return mask
    chosen = np.zeros(count + 1, np.bool_)
    chosen[rng.choice(large, kept, replace=False)] = True
    return np.asarray(chosen[labels])


def blob_mask(within: Mask, rng: np.random.Generator, *, area: Area, roughness: float = 0.35) -> Mask:
    """Return the mask of a compact, irregular spot.

    It is an ellipse of random angle and aspect with a rough edge.

    Args:
        within: [H, W] bool, the pixels that the spot may cover.
        rng: Source of size, place and shape.
        area: Range of the spot's share of the picture.
        roughness: Height of the fractal noise that roughens the edge.
    """
    count = pixel_count(within.size, area, rng)
    row, column = draw_centre(within, rng)
    half = math.ceil(1.8 * math.sqrt(count)) + 4
    box = (
        slice(max(0, row - half), min(within.shape[0], row + half + 1)),
        slice(max(0, column - half), min(within.shape[1], column + half + 1)),
    )
    y, x = np.ogrid[box[0], box[1]]
    angle = rng.uniform(0, np.pi)
    aspect = math.exp(rng.uniform(0, 0.6))
    distance = np.hypot(*ellipse(x - column, y - row, angle, aspect)).astype(np.float32)
    ripple = fractal_noise(distance.shape, (3, 3), rng, octaves=3)
    field = -distance * np.exp(2 * roughness * ripple)
    mask = np.zeros_like(within)
    mask[box] = _grow_region(field, (row - box[0].start, column - box[1].start), count, within[box])
    return mask


def ellipse(
    x: NDArray[Number], y: NDArray[Number], angle: float, aspect: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return coordinates along and across an ellipse about (0, 0), scaled to make it a circle."""
    cos, sin = math.cos(angle), math.sin(angle)
    return (x * cos + y * sin) / aspect, (y * cos - x * sin) * aspect


def _grow_region(field: Floats, seed: tuple[int, int], count: int, allowed: Mask) -> Mask:
    """Return a connected region of `count` pixels around `seed` with the highest `field` in `allowed`.

    It is smaller only where the connected part of `allowed` is. A level set that jumps past `count` (two
    hills merge) is filled up ring by ring instead.
    """
    from scipy import ndimage

    def component(level: float) -> Mask:
        labels, _ = ndimage.label(allowed & (field >= level))
        return np.asarray(labels == labels[seed])

    core = np.zeros_like(allowed)
    core[seed] = True
    shell = component(float("-inf"))
    values = np.sort(field[shell & (field <= field[seed])])
    low, high = 0, len(values) - 1  # low: too large; high: the seed alone
    while high - low > 1 and core.sum() < 0.97 * count:
        middle = (low + high) // 2
        region = component(float(values[middle]))
        if region.sum() <= count:
            core = region
            high = middle
        else:
            shell = region
            low = middle
    while (missing := count - int(core.sum())) > 0:
        rings = int((math.sqrt(count) - math.sqrt(count - missing)) / 4)
        if rings > 1:  # far from full: several rings at once, unless that is too much
            wider = ndimage.binary_dilation(core, iterations=rings, mask=shell)
            if core.sum() < wider.sum() <= count:
                core = wider
                continue
        ring = ndimage.binary_dilation(core, mask=shell) & ~core
        places = np.flatnonzero(ring)
        if not len(places):
            break
        if len(places) > missing:
            places = places[np.argsort(-field.ravel()[places], kind="stable")[:missing]]
        core.ravel()[places] = True
    return core


def line_coverage(shape: tuple[int, ...], path: NDArray[np.float64], widths: NDArray[np.float64]) -> Floats:
    """Return the share of every pixel that a line covers, `[H, W]` float32 in 0..1.

    Args:
        shape: (H, W).
        path: [N, 2], points (row, column); pixel centres are at half integers.
        widths: [N], widths of the line at the points, in pixels.
    """
    reach = float(widths.max()) / 2 + 1
    low = np.clip(np.floor(path.min(0) - reach), 0, np.asarray(shape) - 1).astype(int)
    high = np.clip(np.ceil(path.max(0) + reach), low + 1, np.asarray(shape)).astype(int)
    size = high - low
    n = _SUPERSAMPLING
    canvas = Image.new("L", (int(size[1]) * n, int(size[0]) * n), 0)
    draw = ImageDraw.Draw(canvas)
    points = (path - low) * n
    for start, end, width in zip(points[:-1], points[1:], widths[:-1] * n, strict=True):
        step = max(abs(end - start).max(), 1)
        drawn_width = max(1, round(float(width)))
        draw.line([*start[::-1], *end[::-1]], fill=255, width=drawn_width)
        if width > 3 and step > 1:  # round joints
            radius = float(width) / 2
            draw.ellipse([*(start[::-1] - radius), *(start[::-1] + radius)], fill=255)
    fine = np.asarray(canvas, np.float32).reshape(int(size[0]), n, int(size[1]), n)
    coverage = np.zeros(shape, np.float32)
    coverage[low[0] : high[0], low[1] : high[1]] = fine.mean((1, 3)) / 255
    return coverage


def line_mask(within: Mask, rng: np.random.Generator, *, area: Area, jagged: float = 0.0) -> Mask:
    """Return the mask of a thin bent line: a scratch, a scuff of nearly parallel strokes, or a crack.

    With a growing share it becomes longer first, then wider, then there are more strokes.

    Args:
        within: [H, W] bool, the pixels that the line may cover; it is clipped there.
        rng: Source of size, place and shape.
        area: Range of the line's share of the picture, before it is clipped.
        jagged: Size of random turns in pixels; above 0 the line is a crack, and its strokes branch off.
    """
    side = min(within.shape)
    count = pixel_count(within.size, area, rng)
    longest = float(rng.uniform(0.25, 0.8)) * side
    thinnest = float(rng.uniform(0.8, 1.6)) * max(1.0, side / 256)
    thickest = 1.5 + 0.012 * side
    width = min(max(thinnest, count / longest), thickest)
    length = min(max(count / width, 3.0), longest)
    strokes = max(min(round(count / (width * length)), 12), 3 if jagged else 1)
    centre = draw_centre(within, rng)
    trunk = _curved_path(length, jagged, rng) + np.asarray(centre) + 0.5
    coverage = line_coverage(within.shape, trunk, _tapered_widths(width, trunk))
    for _ in range(strokes - 1):
        if jagged:
            more = _curved_path(length * float(rng.uniform(0.15, 0.5)), jagged, rng)
            more += trunk[int(rng.integers(1, len(trunk) - 1))] - more[0]
        else:
            more = trunk + rng.normal(0, 3 * width + 0.04 * length, 2)
        coverage = np.maximum(coverage, line_coverage(within.shape, more, 0.7 * _tapered_widths(width, more)))
    mask = within & (coverage > 0.3)
    mask[centre] = True  # never empty
    return np.asarray(mask)


def _curved_path(length: float, jagged: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a gently bent path `[N, 2]` (row, column) of about `length` pixels, its middle at (0, 0)."""
    along = np.linspace(-0.5, 0.5, max(8, int(length / 6) + 2))
    heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5) * along
    heading += rng.normal(0, 0.25) * np.sin(3 * np.pi * along)
    path = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1), 0) * (length / (len(along) - 1))
    path += rng.normal(0, jagged, path.shape)
    return np.asarray(path - path[len(path) // 2], np.float64)


def _tapered_widths(width: float, path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return widths `[N]` along a path: thickest in the middle, thin at both ends."""
    return np.asarray(width * (1 - 0.6 * np.linspace(-1, 1, len(path)) ** 2), np.float64)
