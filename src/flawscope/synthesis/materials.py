"""Random changes of how a picture looks, and the materials of defects.

Every material takes the request, the mask `[H, W]` bool of the defect and a generator. It returns a picture
`[H, W, 3]` uint8 that shows the defect inside the mask; its pixels outside are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from flawscope.pictures.arrays import check_picture
from flawscope.pictures.decoding import to_eight_bits
from flawscope.synthesis.masks import Area, Mask, bounding_box, draw_centre
from flawscope.synthesis.textures import Floats, Picture, fractal_noise

Change = Callable[[Picture, np.random.Generator, float], Picture]
"""Changes a picture [H, W, 3] uint8, by a generator and a strength, of which 1 is plain to see."""

_LEVELS = np.arange(256, dtype=np.float64)
_LUMA = np.asarray([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's grey


def is_grey(picture: Picture) -> bool:
    """Whether all three channels are the same everywhere."""
    first = picture[..., 0]
    return bool((first == picture[..., 1]).all() and (first == picture[..., 2]).all())


def to_grey(picture: Picture) -> Picture:
    """Return the picture in greys, still `[H, W, 3]`."""
    return to_eight_bits(np.asarray(Image.fromarray(picture).convert("L"))[..., None])


def change_appearance(
    picture: Picture, rng: np.random.Generator, *, count: int = 3, strong: bool = False
) -> Picture:
    """Return a picture with random changes of brightness, contrast, gamma, colour, sharpness or noise.

    A grey picture stays grey.

    Args:
        picture: [H, W, 3] uint8.
        rng: Source of the changes.
        count: Number of different changes.
        strong: Whether to change more, and also to solarise, posterise or equalise: then the picture looks
            like other material.
    """
    changes = _CHANGES + _STRONG if strong else _CHANGES
    strength = 1.0 if strong else 0.5
    for index in rng.permutation(len(changes))[:count]:
        change = changes[int(index)]
        picture = change(picture, rng, strength)
    return picture


def _apply_table(picture: Picture, values: NDArray[np.float64]) -> Picture:
    """Return the picture with its levels replaced by a table of 256 values."""
    table: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return table[picture]


def _brightness(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    return _apply_table(picture, _LEVELS * math.exp(strength * rng.uniform(-0.5, 0.4)))


def _contrast(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    middle = float(picture.mean())
    return _apply_table(picture, middle + (_LEVELS - middle) * math.exp(strength * rng.uniform(-0.6, 0.6)))


def _gamma(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    return _apply_table(picture, 255 * (_LEVELS / 255) ** math.exp(strength * rng.uniform(-0.6, 0.6)))


def _colour(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Turn the hue about the grey axis, and change the saturation."""
    turn = strength * rng.uniform(-1, 1)
    # Rodrigues' rotation formula for the axis (1, 1, 1) / √3. All entries of the axis's outer product with
    # itself are 1/3
    s = math.sqrt(1 / 3) * math.sin(turn)
    cross_product = np.asarray([[0, -s, s], [s, 0, -s], [-s, s, 0]])
    hue = math.cos(turn) * np.eye(3) + cross_product + (1 - math.cos(turn)) / 3
    saturation = math.exp(strength * rng.uniform(-1, 0.5))
    matrix = (saturation * np.eye(3) + (1 - saturation) * _LUMA) @ hue
    coefficients = np.concatenate([matrix, np.zeros((3, 1))], 1).ravel()  # Pillow's matrix [3, 4]
    return np.asarray(Image.fromarray(picture).convert("RGB", tuple(coefficients.tolist())))


def _blur(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    radius = strength * rng.uniform(0.3, 1.6) * max(1.0, max(picture.shape[:2]) / 256)
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def _sharpness(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    # radius, percent, and threshold in grey levels
    sharper = ImageFilter.UnsharpMask(rng.uniform(0.6, 2), round(strength * rng.uniform(40, 200)), 1)
    return np.asarray(Image.fromarray(picture).filter(sharper))


def _noise(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Add noise that is the same in all channels."""
    grain = rng.standard_normal(picture.shape[:2], np.float32) * np.float32(strength * rng.uniform(2, 14))
    noisy = picture.astype(np.int16) + np.rint(grain).astype(np.int16)[..., None]
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def _solarise(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    return _apply_table(picture, np.where(rng.uniform(60, 220) > _LEVELS, _LEVELS, 255 - _LEVELS))


def _posterise(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    step = 255 / int(rng.integers(2, 7))
    return _apply_table(picture, np.rint(_LEVELS / step) * step)


def _equalise(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Make grey levels equally frequent, by one curve for all channels."""
    counts = np.bincount(picture[::2, ::2].ravel(), minlength=256)
    return _apply_table(picture, 255 * np.cumsum(counts) / counts.sum())


_CHANGES: tuple[Change, ...] = (_brightness, _contrast, _gamma, _colour, _blur, _sharpness, _noise)
_STRONG: tuple[Change, ...] = (_solarise, _posterise, _equalise)


ANY_SIZE: Area = (0.0, 1.0)  # a request without a size: islands of Perlin noise
_CELLS = 8  # number of cells along a side of a shuffled mosaic

Textures = Callable[[np.random.Generator], Picture]
"""Draws a texture `[h, w, 3]` uint8 of any size; `TextureFolder.draw` is one."""


class DefectRequest(NamedTuple):
    """Request for a defect on a good picture.

    Attributes:
        picture: [H, W, 3] uint8, the good picture.
        allowed: [H, W] bool, the pixels that a defect may cover; not all False.
        area: Range for the defect's share of the picture.
        textures: Draws textures.
    """

    picture: Picture
    allowed: Mask
    area: Area
    textures: Textures


def foreign_texture(request: DefectRequest, mask: Mask, rng: np.random.Generator) -> Picture:
    """Return the picture with foreign material: a part of a texture in other light.

    The part is stretched over the entire picture. If the request has a size, it is stretched over the defect
    only.
    """
    texture = request.textures(rng)
    check_picture(texture, "texture")
    box = bounding_box(np.ones_like(mask) if request.area == ANY_SIZE else mask)
    rows, columns = box
    size = (columns.stop - columns.start, rows.stop - rows.start)
    height, width = texture.shape[:2]
    share = float(rng.uniform(0.3, 1))
    top = (1 - share) * height * float(rng.random())
    left = (1 - share) * width * float(rng.random())
    window = (left, top, min(left + share * width, width), min(top + share * height, height))
    part = Image.fromarray(texture).resize(size, Image.Resampling.BILINEAR, window)
    changed_part = change_appearance(np.asarray(part), rng, count=int(rng.integers(0, 4)))
    return _insert(request.picture, box, changed_part)


def shuffled_structure(request: DefectRequest, mask: Mask, rng: np.random.Generator) -> Picture:
    """Return the picture with its own material in the wrong place: in other light, and shuffled."""
    return shuffle_cells(change_appearance(request.picture, rng, strong=True), mask, rng)


def shuffle_cells(picture: Picture, mask: Mask, rng: np.random.Generator) -> Picture:
    """Return the picture with a shuffled 8 x 8 mosaic of itself in the mask (MemSeg)."""
    height, width = mask.shape
    rows = min(_CELLS, height)
    columns = min(_CELLS, width)
    order = rng.permutation(rows * columns)  # for each cell, the number of the cell that it shows
    row_starts = np.arange(rows) * height // rows
    column_starts = np.arange(columns) * width // columns
    y, x = np.nonzero(mask)
    row = np.searchsorted(row_starts, y, "right") - 1
    column = np.searchsorted(column_starts, x, "right") - 1
    source_cell = order[row * columns + column]
    y_in_cell = y - row_starts[row]
    x_in_cell = x - column_starts[column]
    source_y = np.minimum(row_starts[source_cell // columns] + y_in_cell, height - 1)
    source_x = np.minimum(column_starts[source_cell % columns] + x_in_cell, width - 1)
    changed = picture.copy()
    changed[y, x] = picture[source_y, source_x]
    return changed


def moved_piece(request: DefectRequest, mask: Mask, rng: np.random.Generator) -> Picture:
    """Return the picture with a piece from another place of the object, turned and resized a little.

    Source: CutPaste (CVPR 2021), NSA (ECCV 2022).
    """
    box = bounding_box(mask)
    height, width = mask[box].shape
    zoom = math.exp(rng.uniform(-0.25, 0.25))
    angle = rng.uniform(0, 2 * np.pi)
    scaled_cos = math.cos(angle) * zoom
    scaled_sin = math.sin(angle) * zoom
    # the piece is cut inside the picture, if the picture is large enough
    shape = np.asarray(mask.shape, np.float64)
    reach = np.minimum(math.hypot(height, width) * zoom / 2, shape / 2)
    middle_y, middle_x = np.clip(draw_centre(request.allowed, rng), reach, shape - reach)
    x_offset = float(middle_x - scaled_cos * width / 2 - scaled_sin * height / 2)
    y_offset = float(middle_y + scaled_sin * width / 2 - scaled_cos * height / 2)
    affine = (scaled_cos, scaled_sin, x_offset, -scaled_sin, scaled_cos, y_offset)
    turned = Image.fromarray(request.picture).transform(
        (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    return _insert(request.picture, box, np.asarray(turned))


def displaced_surface(request: DefectRequest, mask: Mask, rng: np.random.Generator) -> Picture:
    """Move the surface, most in the middle of the mask and not at its edge, like a bend or a snag."""
    from scipy import ndimage

    box = bounding_box(mask)
    radius = _radius(mask)
    weights = _feathered_weights(mask[box], radius)
    distance = radius * rng.uniform(0.5, 1.2) + 1
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[box].astype(np.float32)
    positions = [y + distance * np.sin(angle) * weights, x + distance * np.cos(angle) * weights]
    channels = [
        ndimage.map_coordinates(
            request.picture[..., channel], positions, output=np.float32, order=1, mode="nearest"
        )
        for channel in range(3)
    ]
    return _insert(request.picture, box, np.stack(channels, -1))


def smeared_surface(request: DefectRequest, mask: Mask, rng: np.random.Generator) -> Picture:
    """Blur the surface, like a rubbed or molten place; invisible where there is nothing to blur."""
    from scipy import ndimage

    sigma = float(rng.uniform(0.3, 0.7)) * _radius(mask) + 1
    box = bounding_box(mask, math.ceil(2 * sigma))
    surface = request.picture[box].astype(np.float32)
    return _insert(request.picture, box, ndimage.gaussian_filter(surface, (sigma, sigma, 0), truncate=2.0))


def stained_surface(request: DefectRequest, mask: Mask, rng: np.random.Generator, *, sign: int) -> Picture:
    """Stain the surface: a darker (`sign` -1), brighter (1) or discoloured (0) place with a soft edge.

    The structure of the surface stays visible.
    """
    tint = rng.normal(0, 1, 3)
    tint -= tint.mean()
    strength = math.exp(rng.uniform(math.log(20), math.log(100)))  # grey levels
    if sign:
        shade = sign * strength + 4 * tint
    else:
        shade = tint * strength / max(float(np.abs(tint).max()), 1e-6)
    box = bounding_box(mask)
    feather = 2 + rng.uniform(0, 1) ** 2 * 2 / 3 * _radius(mask)
    weights = _feathered_weights(mask[box], feather)
    # unevenness, from noise of 2 x 2 cells on
    weights = weights * (1 + 0.3 * fractal_noise(weights.shape, (2, 2), rng))
    return _insert(request.picture, box, request.picture[box] + weights[..., None] * shade)


def shaded_surface(request: DefectRequest, mask: Mask, rng: np.random.Generator, *, dark: float) -> Picture:
    """Shade thin lines evenly: darker than the surface with the probability `dark`, else brighter."""
    contrast = math.exp(rng.uniform(math.log(20), math.log(100)))  # grey levels
    if rng.random() < dark:
        contrast = -contrast
    box = bounding_box(mask)
    return _insert(request.picture, box, request.picture[box] + np.float32(contrast))


def grown_surroundings(request: DefectRequest, mask: Mask, rng: np.random.Generator) -> Picture:
    """Fill the mask with its surroundings and their grain, like a missing part."""
    from scipy import ndimage

    radius = _radius(mask)
    box = bounding_box(mask, max(3, round(radius / 2)))
    inside = mask[box]
    surface = request.picture[box].astype(np.float32)
    nearest = ndimage.distance_transform_edt(inside, return_distances=False, return_indices=True)
    filled = ndimage.gaussian_filter(surface[tuple(nearest)], (radius / 3, radius / 3, 0), mode="nearest")
    grain = (surface - ndimage.uniform_filter(surface, (3, 3, 1), mode="nearest"))[~inside]
    # the grain's standard deviation by the median (1.4826 for normal values), which ignores edges
    strength = np.minimum(1.4826 * np.median(np.abs(grain), 0), 12)
    return _insert(request.picture, box, filled + rng.normal(0, 1, filled.shape) * strength)


def paint_blot(request: DefectRequest, mask: Mask, rng: np.random.Generator) -> Picture:
    """Paint a blot that hides the surface: paint, dirt, a drop, a burr."""
    box = bounding_box(mask)
    shades = fractal_noise(mask[box].shape, (2, 2), rng)[..., None] * rng.uniform(10, 60)
    grain = rng.normal(0, rng.uniform(1, 8), shades.shape)
    colour = rng.choice([30.0, 128.0, 220.0]) + rng.normal(0, 12) + rng.normal(0, 14, 3)
    return _insert(request.picture, box, colour + shades + grain)


def _insert(picture: Picture, box: tuple[slice, slice], values: NDArray[np.floating | np.uint8]) -> Picture:
    """Return the picture with other values `[h, w, 3]` in a window."""
    changed = picture.copy()
    changed[box] = values if values.dtype == np.uint8 else np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return changed


def _radius(mask: Mask) -> float:
    """Return the radius of a disc of the mask's area, in pixels."""
    return math.sqrt(float(mask.sum()) / math.pi)


def _feathered_weights(mask: Mask, feather: float) -> Floats:
    """Return weights: 1 inside the mask, falling smoothly to its edge over `feather` pixels, 0 outside.

    In a mask that is too thin for this, the weights rise faster, so that they reach 1 in its middle.
    """
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)
    ramp = np.clip(depth / min(max(feather, 1.0), float(depth.max())), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)
