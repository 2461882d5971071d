"""Shapes of defects: boolean masks `[H, W]`, True where the defect is to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flawscope.errors import InputError
from flawscope.synthesis.noise import Floats, fractal_noise, perlin_noise

Mask = NDArray[np.bool_]

MIN_PIXELS = 4  # a smaller defect cannot be told from noise
_SUPERSAMPLING = 4


class DefectScale(StrEnum):
    """How large a defect is, as a share of the picture; the ranges are in `SCALE_AREAS`."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


SCALE_AREAS: dict[DefectScale, tuple[float, float]] = {
    DefectScale.SMALL: (0.0005, 0.002),
    DefectScale.MEDIUM: (0.002, 0.01),
    DefectScale.LARGE: (0.01, 0.05),
}


def pixel_count(shape: tuple[int, int], area: tuple[float, float], rng: np.random.Generator) -> int:
    """Pixels of a share of the picture drawn log-uniformly from `area`, at least `MIN_PIXELS`."""
    low, high = area
    if not 0 < low <= high <= 1:
        raise InputError(f"An area is a range of shares of the picture, 0 < low <= high <= 1, not {area}.")
    total = shape[0] * shape[1]
    drawn = round(total * math.exp(rng.uniform(math.log(low), math.log(high))))
    # rounding must not leave the range
    drawn = min(max(drawn, math.ceil(total * low)), max(math.floor(total * high), 1))
    return min(max(drawn, MIN_PIXELS), total)


def draw_centre(allowed: Mask, rng: np.random.Generator) -> tuple[int, int]:
    """A random True pixel of `allowed` (row, column)."""
    places = np.flatnonzero(allowed)
    row, column = divmod(int(places[rng.integers(len(places))]), int(allowed.shape[1]))
    return row, column


def everywhere(shape: tuple[int, int], within: Mask | None) -> Mask:
    """`within`, or every pixel where it is None or holds nothing."""
    if within is None or not within.any():
        return np.ones(shape, np.bool_)
    if within.shape != shape:
        raise InputError(f"The foreground is {within.shape}, the picture {shape}: they must agree.")
    return within.astype(np.bool_, copy=False)


def window(centre: tuple[int, int], half: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The square of `2 half + 1` pixels about `centre`, clipped to the picture."""
    y, x = centre
    return (
        slice(max(0, y - half), min(shape[0], y + half + 1)),
        slice(max(0, x - half), min(shape[1], x + half + 1)),
    )


def bounding_box(mask: Mask, pad: int = 0) -> tuple[slice, slice]:
    """The smallest window that holds all of a non-empty `mask`, widened by `pad` within the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(0, int(rows[0]) - pad), min(mask.shape[0], int(rows[-1]) + 1 + pad)),
        slice(max(0, int(columns[0]) - pad), min(mask.shape[1], int(columns[-1]) + 1 + pad)),
    )


def _grow(field: Floats, seed: tuple[int, int], count: int, allowed: Mask) -> Mask:
    """A connected region of `count` pixels about `seed`, of the highest `field`, inside `allowed`.

    Fewer pixels only where the connected part of `allowed` holds no more. A level set that jumps past
    `count` (two hills merge) is filled up ring by ring instead.
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
            core, high = region, middle
        else:
            shell, low = region, middle
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


def _rotated_perlin(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Perlin noise turned by up to 90 degrees either way, without empty corners.

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


def perlin_mask(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    scales: Sequence[int] = (1, 2, 4, 8, 16, 32),
    threshold: float = 0.5,
    area: tuple[float, float] | None = None,
    within: Mask | None = None,
) -> Mask:
    """Where Perlin noise exceeds `threshold`: the masks of DRAEM (ICCV 2021), MemSeg and PRN.

    The cells of either axis are drawn from `scales`, the noise is turned by up to 90 degrees. Without
    `area` all islands are kept, as published. With `area` (low and high share of the picture) one island
    is, grown or shrunk along the noise to a size in that range. `within` limits it to a foreground. Never
    empty: where no noise exceeds the threshold, the threshold is lowered to what there is.
    """
    allowed = everywhere(shape, within)
    cells = (int(rng.choice(np.asarray(scales))), int(rng.choice(np.asarray(scales))))
    noise = _rotated_perlin(shape, (min(cells[0], shape[0]), min(cells[1], shape[1])), rng)
    if area is None:
        peak = float(noise[allowed].max())  # in a small foreground it may be below 0
        return np.asarray(allowed & (noise >= min(threshold, peak - 0.1 * abs(peak))))
    count = pixel_count(shape, area, rng)
    # an island: of some places, the one highest in the noise
    places = [draw_centre(allowed, rng) for _ in range(8)]
    seed = max(places, key=lambda place: float(noise[place]))
    box = window(seed, math.ceil(2 * math.sqrt(count)) + 8, shape)
    mask = np.zeros(shape, np.bool_)
    inside = (seed[0] - box[0].start, seed[1] - box[1].start)
    mask[box] = _grow(noise[box], inside, count, allowed[box])
    return mask


def blob_mask(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    within: Mask | None = None,
    roughness: float = 0.35,
) -> Mask:
    """One compact, irregular spot with a share of the picture drawn from `area`: an ellipse of random
    turn and aspect whose edge is roughened by fractal noise of height `roughness`."""
    allowed = everywhere(shape, within)
    count = pixel_count(shape, area, rng)
    seed = draw_centre(allowed, rng)
    box = window(seed, math.ceil(1.8 * math.sqrt(count)) + 4, shape)
    y, x = np.ogrid[box[0], box[1]]
    angle, aspect = rng.uniform(0, np.pi), math.exp(rng.uniform(0, 0.6))
    along = (x - seed[1]) * math.cos(angle) + (y - seed[0]) * math.sin(angle)
    across = (y - seed[0]) * math.cos(angle) - (x - seed[1]) * math.sin(angle)
    distance = np.hypot(along / aspect, across * aspect).astype(np.float32)
    ripple = fractal_noise(distance.shape, (3, 3), rng, octaves=3)
    mask = np.zeros(shape, np.bool_)
    inside = (seed[0] - box[0].start, seed[1] - box[1].start)
    mask[box] = _grow(-distance * np.exp(2 * roughness * ripple), inside, count, allowed[box])
    return mask


def line_coverage(shape: tuple[int, int], path: NDArray[np.float64], widths: NDArray[np.float64]) -> Floats:
    """How much of every pixel a line covers, `[H, W]` float32 in 0..1.

    `path [N, 2]` holds points (row, column), pixel centres at half integers; `widths [N]` in pixels.
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
        draw.line([*start[::-1], *end[::-1]], fill=255, width=max(1, round(float(width))))
        if width > 3 and step > 1:  # round joints
            radius = float(width) / 2
            draw.ellipse([*(start[::-1] - radius), *(start[::-1] + radius)], fill=255)
    fine = np.asarray(canvas, np.float32).reshape(int(size[0]), n, int(size[1]), n)
    coverage = np.zeros(shape, np.float32)
    coverage[low[0] : high[0], low[1] : high[1]] = fine.mean((1, 3)) / 255
    return coverage


def curve(
    shape: tuple[int, int], length: float, rng: np.random.Generator, *, start: tuple[int, int] | None = None
) -> NDArray[np.float64]:
    """A gently bent path `[N, 2]` (row, column) of about `length` pixels, mostly inside the picture."""
    size = np.asarray(shape, np.float64)
    middle = rng.uniform(0.1, 0.9, 2) * size if start is None else np.asarray(start, np.float64) + 0.5
    angle = rng.uniform(0, 2 * np.pi)
    bend = rng.normal(0, 0.5)
    along = np.linspace(-0.5, 0.5, max(8, int(length / 6) + 2))
    heading = angle + bend * along + rng.normal(0, 0.25) * np.sin(3 * np.pi * along)
    steps = np.stack([np.sin(heading), np.cos(heading)], 1) * (length / (len(along) - 1))
    path = np.cumsum(steps, 0)
    path += middle - path[len(path) // 2]
    return np.asarray(path)


def scratch_mask(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    length: float,
    width: float,
    within: Mask | None = None,
) -> Mask:
    """A thin bent line of about `length` and `width` pixels; clipped to the picture and to `within`,
    never empty."""
    return line_coverage_within(shape, rng, length=length, width=width, within=within)[0] > 0.3


def line_coverage_within(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    length: float,
    width: float,
    within: Mask | None = None,
    jagged: float = 0.0,
    strokes: int = 1,
) -> tuple[Floats, tuple[int, int]]:
    """Coverage of a random line inside `within`, `[H, W]` float32 in 0..1, and a pixel it goes through.

    It is thickest in the middle and runs out thinly. More `strokes` run beside it, nearly parallel: a
    scuff. `jagged` > 0 makes a crack of it: the path turns at random, and strokes branch off it.
    """
    if length <= 0 or width <= 0:
        raise InputError(f"A line needs a length and a width above 0, not {length} and {width}.")
    allowed = everywhere(shape, within)
    centre = draw_centre(allowed, rng)
    path = curve(shape, length, rng, start=centre)
    taper = 1 - 0.6 * np.abs(np.linspace(-1, 1, len(path))) ** 2
    if jagged:
        shake = rng.normal(0, jagged, path.shape)
        shake[len(path) // 2] = 0  # the centre stays on the line
        path = path + shake
    coverage = line_coverage(shape, path, width * taper)
    for _ in range(strokes - 1):
        if jagged:
            root = int(rng.integers(1, len(path) - 1))
            more = curve(shape, length * rng.uniform(0.15, 0.5), rng)
            more += path[root] - more[0] + rng.normal(0, jagged / 2, more.shape)
            widths = 0.7 * width * np.linspace(1, 0.4, len(more))
        else:
            part = path[: max(3, int(len(path) * rng.uniform(0.3, 1)))]
            turn = rng.normal(0, 0.08)
            middle = part.mean(0)
            more = (part - middle) @ np.array([[1, -turn], [turn, 1]]) + middle
            more += rng.normal(0, 3 * width + 0.04 * length, 2)
            widths = width * rng.uniform(0.4, 1) * taper[: len(part)]
        coverage = np.maximum(coverage, line_coverage(shape, more, widths))
    coverage[centre] = max(float(coverage[centre]), 0.5)  # never empty
    return np.where(allowed, coverage, np.float32(0)), centre


def crack_mask(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    length: float,
    width: float,
    within: Mask | None = None,
) -> Mask:
    """A jagged line with branches, else like `scratch_mask`."""
    return (
        line_coverage_within(shape, rng, length=length, width=width, within=within, jagged=1.5, strokes=3)[0]
        > 0.3
    )
