"""What a defect does to the picture inside its mask.

Every function returns a new `[H, W, 3]` uint8 picture (`cut_paste` and `scratch`, which shape their own
mask, a pair), identical to the old one outside the mask.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError
from flawscope.synthesis.masks import Mask, blob_mask, bounding_box, draw_centre, line_coverage_within
from flawscope.synthesis.noise import Floats, Picture, fractal_noise


def check_picture(picture: Picture, name: str = "picture") -> None:
    """Refuse anything but `[H, W, 3]` uint8: textures in 0..1 pasted into pictures in 0..255 have made
    defects invisible elsewhere."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"A {name} is [H, W, 3] uint8 in 0..255, not {list(picture.shape)} {picture.dtype}.")


def _soft(mask: Mask, feather: float) -> Floats:
    """Opacity of a mask: 1 inside, falling smoothly to its edge over `feather` pixels, 0 outside.

    The feather shrinks in masks that are too thin for it, so that the middle always gets 1.
    """
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)
    ramp = np.clip(depth / min(max(feather, 1.0), float(depth.max())), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _blend(
    picture: Picture, box: tuple[slice, slice], source: NDArray[np.floating], opacity: Floats
) -> Picture:
    """The picture with `source` (0..255) laid over the window `box` with `opacity [h, w]` in 0..1."""
    changed = picture.copy()
    old = picture[box].astype(np.float32)
    changed[box] = np.clip(np.rint(old + opacity[..., None] * (source - old)), 0, 255).astype(np.uint8)
    return changed


def _feather(mask: Mask, rng: np.random.Generator) -> float:
    """A random softness of edge, from hard to a third of the spot's radius."""
    radius = math.sqrt(float(mask.sum()) / math.pi)
    return float(1 + rng.uniform(0, 1) ** 2 * radius / 3)


def paste_texture(
    picture: Picture, mask: Mask, texture: Picture, opacity: float, rng: np.random.Generator
) -> Picture:
    """Blend a random part of `texture` into the mask: `(1 - opacity) * picture + opacity * texture`.

    MemSeg and PRN draw `opacity` from 0.15..1. The texture is `[h, w, 3]` uint8 of any size; the part
    taken is as large as the defect or up to as large as if the whole texture covered the picture.
    """
    check_picture(texture, "texture")
    if not 0 < opacity <= 1:
        raise InputError(f"The opacity of a texture is in 0..1 and above 0, not {opacity}.")
    box = bounding_box(mask)
    height, width = mask[box].shape
    largest = min(texture.shape[0] / height, texture.shape[1] / width)
    cover = min(texture.shape[0] / picture.shape[0], texture.shape[1] / picture.shape[1])
    zoom = min(largest, max(1.0, cover) ** float(rng.uniform(0, 1)))
    size_y, size_x = height * zoom, width * zoom
    top = float(rng.uniform(0, max(0.0, texture.shape[0] - size_y)))
    left = float(rng.uniform(0, max(0.0, texture.shape[1] - size_x)))
    part = Image.fromarray(texture).resize(
        (width, height),
        Image.Resampling.BILINEAR,
        (left, top, min(left + size_x, texture.shape[1]), min(top + size_y, texture.shape[0])),
    )
    soft = _soft(mask[box], 2.0 if mask.sum() > 60 else 1.0)
    return _blend(picture, box, np.asarray(part, np.float32), np.float32(opacity) * soft)


def shuffle_patches(picture: Picture, mask: Mask, rng: np.random.Generator, grid: int = 8) -> Picture:
    """Replace the mask by what a shuffled `grid` x `grid` mosaic of the same picture shows there (MemSeg's
    structural anomalies: right material, wrong place)."""
    height, width = mask.shape
    rows, columns = min(grid, height), min(grid, width)
    order = rng.permutation(rows * columns)
    starts_y, starts_x = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    y, x = np.nonzero(mask)
    cell_y = np.searchsorted(starts_y, y, "right") - 1
    cell_x = np.searchsorted(starts_x, x, "right") - 1
    source = order[cell_y * columns + cell_x]
    source_y = np.minimum(starts_y[source // columns] + y - starts_y[cell_y], height - 1)
    source_x = np.minimum(starts_x[source % columns] + x - starts_x[cell_x], width - 1)
    changed = picture.copy()
    changed[y, x] = picture[source_y, source_x]
    return changed


def cut_paste(
    picture: Picture,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.002, 0.03),
    within: Mask | None = None,
) -> tuple[Picture, Mask]:
    """A piece of the same picture, cut elsewhere, turned and resized a little, pasted with soft edges.

    CutPaste (CVPR 2021) with the irregular shapes, resizing and blended edges of NSA (ECCV 2022). Returns
    the picture and the mask of the paste, whose area is drawn from `area` (share of the picture).
    """
    mask = blob_mask(picture.shape[:2], rng, area=area, within=within)
    box = bounding_box(mask)
    height, width = mask[box].shape
    zoom, angle = math.exp(rng.uniform(-0.25, 0.25)), rng.uniform(0, 2 * np.pi)
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    shape = np.asarray(picture.shape[:2], np.float64)
    if within is not None and within.any():
        middle = np.asarray(draw_centre(within, rng), np.float64)
    else:
        middle = rng.uniform(0.1, 0.9, 2) * shape
    # keep what is cut inside the picture, as far as it is large enough
    reach = np.minimum(math.hypot(height, width) * zoom / 2, shape / 2)
    middle = np.clip(middle, reach, shape - reach)
    affine = (
        *(cos, sin, float(middle[1] - cos * width / 2 - sin * height / 2)),
        *(-sin, cos, float(middle[0] + sin * width / 2 - cos * height / 2)),
    )
    piece = np.asarray(
        Image.fromarray(picture).transform(
            (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
        ),
        np.float32,
    )
    return _blend(picture, box, piece, _soft(mask[box], _feather(mask, rng))), mask


def local_shift(picture: Picture, mask: Mask, rng: np.random.Generator) -> Picture:
    """Displace what the mask shows, most in its middle and not at all at its edge, as a bend or a snag."""
    from scipy import ndimage

    box = bounding_box(mask)
    radius = math.sqrt(float(mask.sum()) / math.pi)
    soft = _soft(mask[box], radius)
    distance, angle = radius * rng.uniform(0.5, 1.2) + 1, rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[box].astype(np.float32)
    coordinates = [y + distance * np.sin(angle) * soft, x + distance * np.cos(angle) * soft]
    moved = np.stack(
        [ndimage.map_coordinates(picture[..., c], coordinates, np.float32, 1, "nearest") for c in range(3)],
        -1,
    )
    return _blend(picture, box, moved, mask[box].astype(np.float32))


def local_blur(picture: Picture, mask: Mask, rng: np.random.Generator) -> Picture:
    """Smear the mask out: a rubbed or molten place. Invisible where there is nothing to blur."""
    from scipy import ndimage

    radius = math.sqrt(float(mask.sum()) / math.pi)
    sigma = float(rng.uniform(0.3, 0.7) * radius + 1)
    pad = math.ceil(2 * sigma)
    wide, box = bounding_box(mask, pad), bounding_box(mask)
    blurred: Floats = ndimage.gaussian_filter(
        picture[wide].astype(np.float32), (sigma, sigma, 0), truncate=2.0, mode="nearest"
    )
    blurred = blurred[
        box[0].start - wide[0].start : box[0].stop - wide[0].start,
        box[1].start - wide[1].start : box[1].stop - wide[1].start,
    ]
    return _blend(picture, box, blurred, _soft(mask[box], _feather(mask, rng)))


def local_light(
    picture: Picture, mask: Mask, shade: tuple[float, float, float], rng: np.random.Generator
) -> Picture:
    """Add `shade` (grey levels per channel, negative darkens) with a soft edge and uneven strength: a
    stain, a burn, a bleached or discoloured place. The structure of the surface stays visible."""
    box = bounding_box(mask)
    opacity = _soft(mask[box], 2 * _feather(mask, rng))
    opacity = opacity * (1 + 0.3 * fractal_noise(opacity.shape, (2, 2), rng))
    return _blend(picture, box, picture[box].astype(np.float32) + np.asarray(shade, np.float32), opacity)


def fill_from_surroundings(picture: Picture, mask: Mask, rng: np.random.Generator) -> Picture:
    """Let the surroundings grow over the mask: a missing part.

    A smooth fill from the rim by pull and push over a pyramid (Gortler et al., "The Lumigraph", 1996),
    with as much grain as the surroundings have.
    """
    from scipy import ndimage

    box = bounding_box(mask, max(3, round(math.sqrt(float(mask.sum())) / 4)))
    inside, old = mask[box], picture[box].astype(np.float32)
    known = ~inside
    if not known.any():
        return _blend(picture, box, np.broadcast_to(old.mean((0, 1)), old.shape), inside.astype(np.float32))
    weight = known.astype(np.float32)[..., None]
    filled = _pull_push(old * weight, weight)
    for _ in range(12):  # smooth the pyramid's blocks
        filled = ndimage.uniform_filter(np.where(known[..., None], old, filled), (3, 3, 1), mode="nearest")
    grain = (old - ndimage.uniform_filter(old, (3, 3, 1), mode="nearest"))[known]
    # the median ignores the edges among the surroundings
    strength = np.minimum(1.4826 * np.median(np.abs(grain), 0), 12)
    filled = filled + rng.normal(0, 1, filled.shape).astype(np.float32) * strength
    return _blend(picture, box, filled, inside.astype(np.float32))


def _pull_push(values: Floats, weight: Floats) -> Floats:
    """Fill where `weight [h, w, 1]` is 0 from coarser levels; `values [h, w, 3]` are weighted already."""
    height, width = weight.shape[:2]
    if weight.min() > 0 or max(height, width) == 1:
        return np.asarray(values / np.maximum(weight, 1e-6), np.float32)
    pad = ((0, height % 2), (0, width % 2), (0, 0))

    def halve(array: Floats) -> Floats:
        even = np.pad(array, pad)
        return np.asarray(even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, -1).sum((1, 3)))

    coarse = _pull_push(halve(values), halve(weight))
    fine = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    share = np.minimum(weight, 1)
    return np.asarray(share * values / np.maximum(weight, 1e-6) + (1 - share) * fine, np.float32)


def scratch(
    picture: Picture,
    rng: np.random.Generator,
    *,
    length: float,
    width: float,
    contrast: float,
    jagged: float = 0.0,
    strokes: int = 1,
    within: Mask | None = None,
) -> tuple[Picture, Mask]:
    """A scratch, or with `jagged` > 0 a crack: an anti-aliased line of `contrast` grey levels (negative
    is dark) beside which, for a scratch, runs a fainter rim of the other sign, as light does on a groove.

    `length` and `width` are in pixels; more `strokes` make a scuff, or branches of the crack.
    Returns the picture and the mask of every pixel touched.
    """
    coverage, _ = line_coverage_within(
        picture.shape[:2], rng, length=length, width=width, jagged=jagged, strokes=strokes, within=within
    )
    relief = coverage
    if not jagged:
        step = tuple(int(s) for s in rng.choice([-1, 1], 2))
        rim = np.zeros_like(coverage)
        height, breadth = coverage.shape
        rim[max(0, step[0]) : height + min(0, step[0]), max(0, step[1]) : breadth + min(0, step[1])] = (
            coverage[
                max(0, -step[0]) : height + min(0, -step[0]), max(0, -step[1]) : breadth + min(0, -step[1])
            ]
        )
        relief = coverage - 0.35 * rim * (1 - coverage)
        if within is not None and within.any():
            relief = np.where(within, relief, np.float32(0))
    mask = relief != 0
    box = bounding_box(mask)
    shaded = picture[box] + np.float32(contrast) * relief[box][..., None]
    return _blend(picture, box, shaded, np.ones(shaded.shape[:2], np.float32)), mask
