"""One simulated defect on one good picture: draw a kind and a scale, change the picture, measure the mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flawscope.errors import InputError
from flawscope.synthesis import effects
from flawscope.synthesis.masks import (
    MIN_PIXELS,
    SCALE_AREAS,
    DefectScale,
    Mask,
    blob_mask,
    bounding_box,
    perlin_mask,
    pixel_count,
)
from flawscope.synthesis.noise import Picture, fractal_noise, generated_texture

VISIBLE_LEVEL = 5  # grey levels in the channel that changes most: a pixel below counts as unchanged
VISIBLE_MEAN = 9.0  # mean of the same over the mask: a defect below is drawn again
_SMALLEST_SIDE = 16
_TRIES = 12


class Simulated(NamedTuple):
    """A picture with a defect.

    `picture [H, W, 3]` uint8 equals the good one wherever `mask [H, W]` bool is False. `kind` is a key of
    `KINDS`; it differs from the one asked for only where that one cannot be seen (nothing to blur).
    """

    picture: Picture
    mask: Mask
    kind: str
    scale: DefectScale


class Brief(NamedTuple):
    """What a kind of defect is given: its share of the picture, where it may be, and a texture to use."""

    area: tuple[float, float]
    within: Mask | None
    texture: Picture | None


Kind = Callable[[Picture, Brief, np.random.Generator], tuple[Picture, Mask]]


def _blob(picture: Picture, brief: Brief, rng: np.random.Generator) -> Mask:
    return blob_mask(
        picture.shape[:2], rng, area=brief.area, within=brief.within, roughness=float(rng.uniform(0.1, 0.5))
    )


def _perlin(picture: Picture, brief: Brief, rng: np.random.Generator) -> Mask:
    return perlin_mask(picture.shape[:2], rng, area=brief.area, within=brief.within)


def _texture(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Foreign material: MemSeg's and PRN's texture anomaly."""
    mask = _perlin(picture, brief, rng)
    texture = brief.texture
    if texture is None:
        box = mask[bounding_box(mask)].shape
        texture = generated_texture((max(box[0], 24), max(box[1], 24)), rng)
    return effects.paste_texture(picture, mask, texture, float(rng.uniform(0.15, 1)), rng), mask


def _structure(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Right material in the wrong place: MemSeg's and PRN's structural anomaly, light changed a little."""
    mask = _perlin(picture, brief, rng)
    changed = effects.shuffle_patches(picture, mask, rng)
    bright = changed[mask].astype(np.float32) * rng.uniform(0.8, 1.2) + rng.normal(0, 6, 3)
    changed[mask] = np.clip(np.rint(bright), 0, 255).astype(np.uint8)
    return changed, mask


def _paste(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    return effects.cut_paste(picture, rng, area=brief.area, within=brief.within)


def _shift(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    mask = _blob(picture, brief, rng)
    return effects.local_shift(picture, mask, rng), mask


def _blur(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    mask = _blob(picture, brief, rng)
    return effects.local_blur(picture, mask, rng), mask


def _light(picture: Picture, mask: Mask, rng: np.random.Generator, *, sign: float, spread: float) -> Picture:
    strength = sign * math.exp(rng.uniform(math.log(14), math.log(90)))
    tint = rng.normal(0, spread, 3)
    red, green, blue = (float(c) for c in strength + tint - tint.mean())
    return effects.local_light(picture, mask, (red, green, blue), rng)


def _dark(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    mask = _blob(picture, brief, rng)
    return _light(picture, mask, rng, sign=-1, spread=4), mask


def _bright(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    mask = _blob(picture, brief, rng)
    return _light(picture, mask, rng, sign=1, spread=4), mask


def _colour(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    mask = _blob(picture, brief, rng)
    hue = rng.normal(0, 1, 3)
    hue -= hue.mean()
    hue *= rng.uniform(15, 60) / max(float(np.abs(hue).max()), 1e-6)
    red, green, blue = (float(c) for c in hue)
    return effects.local_light(picture, mask, (red, green, blue), rng), mask


def _missing(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    mask = _blob(picture, brief, rng)
    return effects.fill_from_surroundings(picture, mask, rng), mask


def _line(
    picture: Picture, brief: Brief, rng: np.random.Generator, jagged: float, dark: float
) -> tuple[Picture, Mask]:
    """A line of the area asked for: longer first, then a little wider, then more strokes."""
    shape = picture.shape[:2]
    side = min(shape)
    count = pixel_count(shape, brief.area, rng)
    longest = float(rng.uniform(0.25, 0.8)) * side
    thin, thick = float(rng.uniform(0.8, 1.6)) * max(1.0, side / 256), 1.5 + 0.012 * side
    width = min(max(thin, count / longest), thick)
    length = min(max(count / width, 3.0), longest)
    strokes = min(1 + round(count / (width * length)), 12)
    contrast = math.exp(rng.uniform(math.log(20), math.log(90)))
    return effects.scratch(
        picture,
        rng,
        length=length,
        width=width,
        contrast=-contrast if rng.random() < dark else contrast,
        jagged=jagged,
        strokes=max(strokes, 3) if jagged else strokes - 1 or 1,
        within=brief.within,
    )


def _scratch(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    return _line(picture, brief, rng, 0.0, 0.4)


def _crack(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    return _line(picture, brief, rng, 1.6 * max(1.0, min(picture.shape[:2]) / 256), 0.85)


def _spot(picture: Picture, brief: Brief, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A blot that hides the surface: paint, dirt, a drop, a burr."""
    mask = _blob(picture, brief, rng)
    height, width = mask[bounding_box(mask)].shape
    shades = fractal_noise((max(height, 8), max(width, 8)), (2, 2), rng)[..., None] * rng.uniform(10, 60)
    grain = rng.normal(0, rng.uniform(1, 8), shades.shape)
    colour = rng.choice([30.0, 128.0, 220.0]) + rng.normal(0, 12) + rng.normal(0, 14, 3)
    blot = np.clip(np.rint(colour + shades + grain), 0, 255).astype(np.uint8)
    return effects.paste_texture(picture, mask, blot, float(rng.uniform(0.4, 1)), rng), mask


KINDS: dict[str, Kind] = {
    "texture": _texture,
    "structure": _structure,
    "paste": _paste,
    "shift": _shift,
    "blur": _blur,
    "dark": _dark,
    "bright": _bright,
    "colour": _colour,
    "missing": _missing,
    "scratch": _scratch,
    "crack": _crack,
    "spot": _spot,
}


def visible_change(good: Picture, changed: Picture, intended: Mask) -> tuple[Picture, Mask, float]:
    """Keep what changed visibly: the picture, its exact mask and the mean change over it in grey levels.

    The mask is what was intended and lies on, or next to, a pixel whose largest channel difference is at
    least `VISIBLE_LEVEL`; all else goes back to the good picture.
    """
    from scipy import ndimage

    box = bounding_box(intended)
    inside = intended[box]
    difference = np.abs(changed[box].astype(np.int16) - good[box]).max(-1)
    seen = inside & ndimage.maximum_filter((difference >= VISIBLE_LEVEL) & inside, 3)
    mask = np.zeros_like(intended)
    mask[box] = seen
    picture = good.copy()
    picture[mask] = changed[mask]
    return picture, mask, float(difference[seen].mean()) if seen.any() else 0.0


def simulate_defect(
    picture: Picture,
    rng: np.random.Generator,
    *,
    kind: str | None = None,
    scale: DefectScale | str | None = None,
    texture: Picture | None = None,
    foreground: Mask | None = None,
) -> Simulated:
    """A defect of `kind` and `scale` (drawn where None) on a good `[H, W, 3]` uint8 picture.

    `texture [h, w, 3]` uint8 is the material for the kind "texture"; without it one is generated.
    `foreground [H, W]` bool limits the place. The mask is never empty, holds the pixels that changed (see
    `visible_change`), at most the scale's area, and its mean change is at least `VISIBLE_MEAN`. A draw that
    cannot be seen is drawn again; where a kind stays invisible, a plain spot takes its place, and the result
    says so. Raises `InputError` for a picture below 16 x 16 or an unknown kind or scale.
    """
    effects.check_picture(picture)
    shape = picture.shape[:2]
    if min(shape) < _SMALLEST_SIDE:
        raise InputError(f"A picture of {shape[1]}x{shape[0]} is too small for a defect: at least 16x16.")
    if kind is not None and kind not in KINDS:
        raise InputError(f"There is no kind of defect {kind!r}: choose of {', '.join(KINDS)}.")
    if scale is not None and scale not in list(DefectScale):
        raise InputError(f"There is no scale {scale!r}: choose of {', '.join(DefectScale)}.")
    names, scales = list(KINDS), list(DefectScale)
    drawn_scale = scales[int(rng.integers(len(scales)))] if scale is None else DefectScale(scale)
    area = SCALE_AREAS[drawn_scale]
    smallest = max(MIN_PIXELS, round(0.5 * area[0] * shape[0] * shape[1]))
    largest = max(MIN_PIXELS, math.floor(area[1] * shape[0] * shape[1]))
    brief = Brief(area, foreground, texture)
    for _ in range(_TRIES):
        name = names[int(rng.integers(len(names)))] if kind is None else kind
        changed, intended = KINDS[name](picture, brief, rng)
        result, mask, mean = visible_change(picture, changed, intended)
        if mean >= VISIBLE_MEAN and smallest <= mask.sum() <= largest:
            return Simulated(result, mask, name, drawn_scale)
    mask = _blob(picture, brief, rng)
    result = picture.copy()
    away = np.where(picture[mask] < 128, 45, -45)  # visible on any picture
    result[mask] = (picture[mask].astype(np.int16) + away).astype(np.uint8)
    return Simulated(result, mask, "spot", drawn_scale)
