"""Shapes of defects: masks `[H, W]` bool, True on the defect.

In all functions, `within` is a mask `[H, W]` bool of the pixels that a shape may cover. It is not all False,
and has the picture's size.
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
PERLIN_CELLS = (1, 2, 4, 8, 16, 32)  # numbers of cells along a side, as in DRAEM, MemSeg and PRN
PERLIN_THRESHOLD = (0.35, 0.65)  # range of the threshold; published is 0.5
_MIN_ISLAND = 0.0005  # share of the picture below which an island is not chosen
_SUPERSAMPLING = 4  # lines are drawn at this multiple of the size


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
    """Return a random number of pixels: a share of `total` that is log-uniform in the range `area`.

    It is at least `MIN_PIXELS`, and at most `total`.
    """
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
    """Return `foreground`; if it is None or all False, return a mask that is True everywhere.

    Raises:
        InputError: The foreground does not have the picture's `shape`.
    """
    if foreground is None or not foreground.any():
        return np.ones(shape, np.bool_)
    if foreground.shape != shape:
        raise InputError(f"The foreground is {foreground.shape}, the picture {shape}: they must agree.")
    return foreground.astype(np.bool_, copy=False)


def bounding_box(mask: Mask, pad: int = 0) -> tuple[slice, slice]:
    """Return the smallest window that holds a non-empty mask, widened by `pad` pixels within the picture."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    return (
        slice(max(0, int(rows[0]) - pad), min(mask.shape[0], int(rows[-1]) + 1 + pad)),
        slice(max(0, int(columns[0]) - pad), min(mask.shape[1], int(columns[-1]) + 1 + pad)),
    )


def _rotated_perlin(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return Perlin noise turned by up to 90 degrees either way, without empty corners.

    The noise is made on as few pixels as its cells need, and enlarged smoothly by the same resampling that
    turns it.
    """
    height, width = shape
    cell_rows, cell_columns = cells
    coarseness = min(1.0, 8 * max(cells) / max(shape))  # coarse pixels per pixel
    # enough cells of the same size to fill the picture at any angle
    diagonal = math.hypot(height, width)
    canvas_cells = (math.ceil(cell_rows * diagonal / height), math.ceil(cell_columns * diagonal / width))
    # pixels of the canvas: number of cells times pixels of a cell, in coarse pixels
    canvas_height = max(1, math.ceil(canvas_cells[0] * height / cell_rows * coarseness))
    canvas_width = max(1, math.ceil(canvas_cells[1] * width / cell_columns * coarseness))
    noise = perlin_noise((canvas_height, canvas_width), canvas_cells, rng)
    angle = math.radians(rng.uniform(-90, 90))
    scaled_cos = math.cos(angle) * coarseness
    scaled_sin = math.sin(angle) * coarseness
    # offsets by which the picture's middle comes from the canvas's middle
    x_offset = canvas_width / 2 - (scaled_cos * width + scaled_sin * height) / 2
    y_offset = canvas_height / 2 + (scaled_sin * width - scaled_cos * height) / 2
    affine = (scaled_cos, scaled_sin, x_offset, -scaled_sin, scaled_cos, y_offset)
    turned = Image.fromarray(noise).transform(
        (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    return np.asarray(turned, np.float32)


def perlin_mask(within: Mask, rng: np.random.Generator, threshold: float = 0.5) -> Mask:
    """Return the mask where Perlin noise exceeds `threshold`, as in DRAEM (ICCV 2021), MemSeg and PRN.

    The mask is never empty: where no noise exceeds the threshold, the threshold is lowered below the
    largest value.
    """
    height, width = within.shape[0], within.shape[1]
    rows = int(rng.choice(np.asarray(PERLIN_CELLS)))
    columns = int(rng.choice(np.asarray(PERLIN_CELLS)))
    noise = _rotated_perlin((height, width), (min(rows, height), min(columns, width)), rng)
    peak = float(noise[within].max())  # it may be below 0 in a small foreground
    return np.asarray(within & (noise >= min(threshold, peak - 0.1 * abs(peak))))


def islands_mask(within: Mask, rng: np.random.Generator) -> Mask:
    """Return the mask of islands of Perlin noise above a random threshold.

    Half of the time all islands stay, as in the papers (`perlin_mask`). Otherwise one to three stay, because
    most real defects have so few.
    """
    from scipy import ndimage

    mask = perlin_mask(within, rng, threshold=float(rng.uniform(*PERLIN_THRESHOLD)))
    if rng.random() >= 0.5:
        return mask
    island_count = int(rng.integers(1, 4))
    labels, label_count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]  # without label 0, the background
    large_labels = 1 + np.flatnonzero(sizes >= _MIN_ISLAND * mask.size)
    if len(large_labels) <= island_count:
        return mask
    stays = np.zeros(label_count + 1, np.bool_)
    stays[rng.choice(large_labels, island_count, replace=False)] = True
    return np.asarray(stays[labels])


def blob_mask(within: Mask, rng: np.random.Generator, *, area: Area, roughness: float = 0.35) -> Mask:
    """Return the mask of a compact, irregular spot.

    It is an ellipse of random angle and aspect with a rough edge.

    Args:
        within: [H, W] bool, the pixels that the spot may cover.
        rng: Source of size, place and shape.
        area: Range for the spot's share of the picture.
        roughness: Height of the fractal noise that roughens the edge.
    """
    target_pixels = pixel_count(within.size, area, rng)
    row, column = draw_centre(within, rng)
    # a window that is large enough for any aspect and edge of the spot
    reach = math.ceil(1.8 * math.sqrt(target_pixels)) + 4
    rows = slice(max(0, row - reach), min(within.shape[0], row + reach + 1))
    columns = slice(max(0, column - reach), min(within.shape[1], column + reach + 1))
    box = (rows, columns)
    y, x = np.ogrid[rows, columns]
    angle = rng.uniform(0, np.pi)
    aspect = math.exp(rng.uniform(0, 0.6))
    distance = np.hypot(*ellipse(x - column, y - row, angle, aspect)).astype(np.float32)
    ripple = fractal_noise(distance.shape, (3, 3), rng, octaves=3)
    field = -distance * np.exp(2 * roughness * ripple)
    mask = np.zeros_like(within)
    seed = (row - rows.start, column - columns.start)
    mask[box] = _grow_region(field, seed, target_pixels, within[box])
    return mask


def ellipse(
    x: NDArray[Number], y: NDArray[Number], angle: float, aspect: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return coordinates along and across an ellipse about (0, 0), scaled so that it becomes a circle."""
    cos, sin = math.cos(angle), math.sin(angle)
    return (x * cos + y * sin) / aspect, (y * cos - x * sin) * aspect


def _grow_region(field: Floats, seed: tuple[int, int], count: int, allowed: Mask) -> Mask:
    """Return a connected region of `count` pixels around `seed` with the highest `field` in `allowed`.

    The region has fewer pixels if the connected part of `allowed` has fewer. A bisection finds the level
    above which the field's region around the seed has about `count` pixels. If the size jumps past `count` at
    a level, because two hills merge, rings of pixels are added to the smaller region.

    Args:
        field: [H, W], the field.
        seed: (row, column) of the seed.
        count: Number of pixels.
        allowed: [H, W] bool, the pixels that the region may cover.
    """
    from scipy import ndimage

    def region_above(level: float) -> Mask:
        """Return the connected region around the seed in which the field is at least `level`."""
        labels, _ = ndimage.label(allowed & (field >= level))
        return np.asarray(labels == labels[seed])

    core = np.zeros_like(allowed)  # a region that is not too large
    core[seed] = True
    shell = region_above(float("-inf"))  # a region that is too large, or the largest one
    levels = np.sort(field[shell & (field <= field[seed])])
    low = 0  # a level whose region is the shell
    high = len(levels) - 1  # a level whose region is the core
    while high - low > 1 and core.sum() < 0.97 * count:
        middle = (low + high) // 2
        region = region_above(float(levels[middle]))
        if region.sum() <= count:
            core = region
            high = middle
        else:
            shell = region
            low = middle
    while (missing_count := count - int(core.sum())) > 0:
        # Add several rings at once: a quarter of those that a disc would need. If these are too many, a
        # single ring follows below
        rings = int((math.sqrt(count) - math.sqrt(count - missing_count)) / 4)
        if rings > 1:
            wider = ndimage.binary_dilation(core, iterations=rings, mask=shell)
            if core.sum() < wider.sum() <= count:
                core = wider
                continue
        ring = ndimage.binary_dilation(core, mask=shell) & ~core
        pixels = np.flatnonzero(ring)
        if not len(pixels):
            break
        if len(pixels) > missing_count:
            highest_first = np.argsort(-field.ravel()[pixels], kind="stable")
            pixels = pixels[highest_first[:missing_count]]
        core.ravel()[pixels] = True
    return core


def line_coverage(shape: tuple[int, ...], path: NDArray[np.float64], widths: NDArray[np.float64]) -> Floats:
    """Return the share of every pixel that a line covers, `[H, W]` float32 in 0..1.

    Args:
        shape: (H, W).
        path: [N, 2], points (row, column); pixel centres are at half integers.
        widths: [N], widths of the line at the points, in pixels.
    """
    # (row, column) where the line's window starts, and where it stops
    reach = float(widths.max()) / 2 + 1
    start_corner = np.clip(np.floor(path.min(0) - reach), 0, np.asarray(shape) - 1).astype(int)
    stop_corner = np.clip(np.ceil(path.max(0) + reach), start_corner + 1, np.asarray(shape)).astype(int)
    rows, columns = (int(side) for side in stop_corner - start_corner)
    factor = _SUPERSAMPLING
    canvas = Image.new("L", (columns * factor, rows * factor), 0)
    draw = ImageDraw.Draw(canvas)
    points = (path - start_corner) * factor
    for start, end, width in zip(points[:-1], points[1:], widths[:-1] * factor, strict=True):
        start_xy = start[::-1]
        end_xy = end[::-1]
        draw.line([*start_xy, *end_xy], fill=255, width=max(1, round(float(width))))
        step = max(abs(end - start).max(), 1)
        if width > 3 and step > 1:  # a disc rounds the joint
            radius = float(width) / 2
            draw.ellipse([*(start_xy - radius), *(start_xy + radius)], fill=255)
    fine = np.asarray(canvas, np.float32).reshape(rows, factor, columns, factor)
    coverage = np.zeros(shape, np.float32)
    top, left = start_corner
    bottom, right = stop_corner
    coverage[top:bottom, left:right] = fine.mean((1, 3)) / 255
    return coverage


def line_mask(within: Mask, rng: np.random.Generator, *, area: Area, jagged: float = 0.0) -> Mask:
    """Return the mask of a thin bent line: a scratch, a scuff of nearly parallel strokes, or a crack.

    To cover a larger share, the line first becomes longer, then wider; then further strokes are added.

    Args:
        within: [H, W] bool, the pixels that the line may cover; the rest of the line is cut off.
        rng: Source of size, place and shape.
        area: Range for the line's share of the picture, before a part of it is cut off.
        jagged: Size of random turns in pixels; above 0 the line is a crack, and its strokes branch off.
    """
    side = min(within.shape)
    target_pixels = pixel_count(within.size, area, rng)
    max_length = float(rng.uniform(0.25, 0.8)) * side
    min_width = float(rng.uniform(0.8, 1.6)) * max(1.0, side / 256)
    max_width = 1.5 + 0.012 * side
    width = min(max(min_width, target_pixels / max_length), max_width)
    length = min(max(target_pixels / width, 3.0), max_length)
    min_strokes = 3 if jagged else 1
    stroke_count = max(min(round(target_pixels / (width * length)), 12), min_strokes)
    centre = draw_centre(within, rng)
    trunk = _curved_path(length, jagged, rng) + np.asarray(centre) + 0.5
    coverage = line_coverage(within.shape, trunk, _tapered_widths(width, trunk))
    for _ in range(stroke_count - 1):
        if jagged:  # a branch
            stroke = _curved_path(length * float(rng.uniform(0.15, 0.5)), jagged, rng)
            stroke += trunk[int(rng.integers(1, len(trunk) - 1))] - stroke[0]
        else:
            stroke = trunk + rng.normal(0, 3 * width + 0.04 * length, 2)
        stroke_widths = 0.7 * _tapered_widths(width, stroke)
        coverage = np.maximum(coverage, line_coverage(within.shape, stroke, stroke_widths))
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
