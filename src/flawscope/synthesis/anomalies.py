"""Defects to learn from, two ways: simulated from nothing (texture, structure), and seen ones put on other
good pictures. PRN's training pictures (CVPR 2023, 3.4); the split into texture and structure is MemSeg's.

Here the mask is exactly where the picture differs from the good one, pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from flawscope.errors import InputError
from flawscope.synthesis.appearance import changed_appearance, is_grey, without_colour
from flawscope.synthesis.effects import check_picture, shuffle_patches
from flawscope.synthesis.masks import MIN_PIXELS, Mask, blob_mask, bounding_box, everywhere, perlin_mask
from flawscope.synthesis.noise import Floats, Picture, generated_texture
from flawscope.synthesis.simulate import VISIBLE_LEVEL
from flawscope.synthesis.transform import moved_cut, pasted

ANOMALIES = ("texture", "structure")
OPACITY = (0.15, 1.0)  # of MemSeg and PRN
VISIBLE = (12.0, 160.0)
THRESHOLD = (0.35, 0.65)  # of the Perlin noise; published is 0.5
_GRID = 8  # cells a side that are shuffled
_SMALLEST_SIDE = 16
_SPECK = 0.0001  # share of the picture below which an island is dropped
_ISLAND = 0.0005  # and below which it is not chosen
_KEPT = 0.25  # share of the intended mask that must show
_UNEASY = 20.0  # grey levels that a lively surface adds at most to what must differ
_TRIES = 12

Textures = Callable[[np.random.Generator], Picture]
"""Draws a texture `[h, w, 3]` uint8 of any size; `TextureFolder.draw` is one."""


class Anomaly(NamedTuple):
    """A good picture with a defect.

    `picture [H, W, 3]` uint8 differs from the good one in every pixel where `mask [H, W]` bool is True, and
    in no other. `kind` is "texture", "structure", "seen", or "spot" where these could not be seen.
    `difference` is the mean over the mask of the largest channel difference, in grey levels.
    """

    picture: Picture
    mask: Mask
    kind: str
    difference: float


def simulate_anomaly(
    picture: Picture,
    rng: np.random.Generator,
    *,
    kind: str | None = None,
    textures: Textures | None = None,
    foreground: Mask | None = None,
    opacity: tuple[float, float] = OPACITY,
    visible: tuple[float, float] = VISIBLE,
) -> Anomaly:
    """A simulated defect on a good `[H, W, 3]` uint8 picture: all or a few of the islands of Perlin noise
    within the foreground, filled with other material.

    `kind` "texture" takes the material from `textures`, or generates it where that is None; "structure"
    takes the picture itself, its appearance changed and its cells shuffled; None draws one of the two.
    `foreground [H, W]` bool limits the place; None or all False is everywhere. `opacity` is a range within
    0..1 that the share of the material is drawn from, `visible` the range that the mean difference over the
    mask must lie in, in grey levels: what does not is drawn again. On a lively surface, where a faint change
    is lost, it must be up to 20 levels above the range's beginning. Where nothing can be seen, a plain spot
    takes its place. Raises `InputError` for a picture below 16 x 16, an unknown kind or a senseless range.
    """
    within = _checked(picture, foreground, visible)
    if kind is not None and kind not in ANOMALIES:
        raise InputError(f"There is no kind of anomaly {kind!r}: choose of {', '.join(ANOMALIES)}.")
    if not 0 < opacity[0] <= opacity[1] <= 1:
        raise InputError(f"An opacity is a range, 0 < low <= high <= 1, not {opacity}.")
    grey = is_grey(picture)
    for _ in range(_TRIES):
        name = ANOMALIES[int(rng.integers(len(ANOMALIES)))] if kind is None else kind
        mask = _islands(within, rng)
        if name == "texture":
            source = _material(picture.shape[:2], textures, rng)
            source = without_colour(source) if grey else source
        else:
            source = shuffle_patches(changed_appearance(picture, rng, strong=True), mask, rng, _GRID)
        changed = _blended(picture, mask, source, float(rng.uniform(*opacity)), rng)
        lively = min(_grain(picture, mask), _UNEASY, (visible[1] - visible[0]) / 2)
        found = _result(picture, changed, mask, name, (visible[0] + lively, visible[1]))
        if found is not None:
            return found
    return _plain_spot(picture, within, visible, rng)


def extend_defect(
    picture: Picture,
    defect: Picture,
    defect_mask: Mask,
    rng: np.random.Generator,
    *,
    foreground: Mask | None = None,
    visible: tuple[float, float] = VISIBLE,
) -> Anomaly:
    """A seen defect on a good `[H, W, 3]` uint8 picture: cut out by its mask, transformed, pasted.

    `defect [h, w, 3]` uint8 and `defect_mask [h, w]` bool are stretched over the picture where their size
    differs. The cut is turned, mirrored, resized, distorted a little, and seen in other light. It is pasted
    where that leaves it if more than 2/3 of it lies in `foreground [H, W]` bool (None or all False:
    everywhere); otherwise each of its connected parts moves to a random place of the foreground, inside the
    frame. What is pasted in place may reach over the object's edge, as a bent lead does; what moves may not.
    `visible` as for `simulate_anomaly`.
    """
    within = _checked(picture, foreground, visible)
    check_picture(defect, "picture of a defect")
    if defect_mask.shape != defect.shape[:2]:
        raise InputError(f"The mask is {defect_mask.shape}, its picture {defect.shape[:2]}: they must agree.")
    if not defect_mask.any():
        raise InputError("The mask of a seen defect is empty: give one that marks the defect.")
    if defect.shape != picture.shape:
        defect, defect_mask = _stretched(defect, defect_mask, picture.shape[:2])
    if is_grey(picture):
        defect = without_colour(defect)
    for _ in range(_TRIES):
        cut = moved_cut(defect, defect_mask, rng)
        if not cut.mask.any():
            continue
        light = changed_appearance(cut.pixels, rng, count=int(rng.integers(0, 4)))
        changed, mask = pasted(picture, cut._replace(pixels=light), within, rng)
        found = _result(picture, changed, mask, "seen", visible) if mask.any() else None
        if found is not None:
            return found
    return _plain_spot(picture, within, visible, rng)


def _checked(picture: Picture, foreground: Mask | None, visible: tuple[float, float]) -> Mask:
    """The foreground as a mask, after the refusals that both ways share."""
    check_picture(picture)
    if min(picture.shape[:2]) < _SMALLEST_SIDE:
        raise InputError(
            f"A picture of {picture.shape[1]}x{picture.shape[0]} is too small for a defect: at least 16x16."
        )
    if not (VISIBLE_LEVEL <= visible[0] <= 60 and visible[0] + 20 <= visible[1]):
        raise InputError(
            f"A visible difference is a range of at least 20 grey levels that begins in {VISIBLE_LEVEL}..60, "
            f"not {visible}."
        )
    return everywhere(picture.shape[:2], foreground)


def _islands(within: Mask, rng: np.random.Generator) -> Mask:
    """Perlin noise above a threshold, inside `within [H, W]`: half of the time all its islands, as published,
    else one to three of them, as most real defects are."""
    from scipy import ndimage

    mask = perlin_mask(within.shape, rng, threshold=float(rng.uniform(*THRESHOLD)), within=within)
    kept = int(rng.integers(1, 4)) if rng.random() < 0.5 else 0
    if not kept:
        return mask
    labels, count = ndimage.label(mask)
    large = 1 + np.flatnonzero(np.bincount(labels.ravel(), minlength=2)[1:] >= _ISLAND * mask.size)
    if len(large) <= kept:
        return mask
    chosen = np.zeros(count + 1, np.bool_)
    chosen[rng.choice(large, kept, replace=False)] = True
    return np.asarray(chosen[labels])


def _least(mask: Mask) -> int:
    """Pixels of the smallest island: what is smaller is a speck."""
    return max(MIN_PIXELS, round(_SPECK * mask.size))


def _grain(picture: Picture, mask: Mask) -> float:
    """How much the picture's surface varies under the mask within 7 pixels, in grey levels."""
    box = bounding_box(mask, 3)
    grey = Image.fromarray(picture[box]).convert("L")
    smooth = np.asarray(grey.filter(ImageFilter.BoxBlur(3)), np.int16)
    return float(np.abs(np.asarray(grey, np.int16) - smooth)[mask[box]].mean())


def _material(shape: tuple[int, int], textures: Textures | None, rng: np.random.Generator) -> Picture:
    """A part of a texture in other light, stretched over the picture `[H, W, 3]`."""
    texture = generated_texture((128, 128), rng) if textures is None else textures(rng)
    check_picture(texture, "texture")
    height, width = texture.shape[:2]
    share = float(rng.uniform(0.3, 1))
    top, left = (1 - share) * height * float(rng.random()), (1 - share) * width * float(rng.random())
    box = (left, top, min(left + share * width, width), min(top + share * height, height))
    part = Image.fromarray(texture).resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box)
    return changed_appearance(np.asarray(part), rng, count=int(rng.integers(0, 4)))


def _blended(
    picture: Picture, mask: Mask, source: Picture, opacity: float, rng: np.random.Generator
) -> Picture:
    """`(1 - opacity) * picture + opacity * source` inside the mask, its edge hard or up to 2 pixels soft."""
    box = bounding_box(mask)
    inside = mask[box]
    softness = float(rng.choice([0.0, 0.7, 1.5]))
    if softness:
        blurred = Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(softness))
        share: Floats = np.asarray(blurred, np.float32) * inside * np.float32(opacity / 255)
    else:
        share = inside * np.float32(opacity)
    old = picture[box].astype(np.float32)
    changed = picture.copy()
    changed[box] = np.rint(old + share[..., None] * (source[box] - old)).astype(np.uint8)
    return changed


def _result(
    good: Picture, changed: Picture, intended: Mask, kind: str, visible: tuple[float, float]
) -> Anomaly | None:
    """What can be seen of a change, or None where that is too little or too much.

    Kept is what lies on, or next to, a pixel that changed by `VISIBLE_LEVEL`, without specks; all else goes
    back to the good picture.
    """
    from scipy import ndimage

    box = bounding_box(intended)
    old, new = good[box], changed[box]
    apart = np.maximum(old, new) - np.minimum(old, new)
    difference = np.maximum(np.maximum(apart[..., 0], apart[..., 1]), apart[..., 2])
    inside = intended[box] & (difference > 0)
    seen = inside & ndimage.binary_dilation(inside & (difference >= VISIBLE_LEVEL), np.ones((3, 3)))
    least = _least(intended)
    labels, count = ndimage.label(seen, np.ones((3, 3)))
    if count > 1:
        areas = np.bincount(labels.ravel())
        seen = seen & (areas >= least)[labels]
    area = int(seen.sum())
    if area < max(least, _KEPT * intended.sum()):
        return None
    mean = float(difference[seen].mean())
    if not visible[0] <= mean <= visible[1]:
        return None
    mask = np.zeros_like(intended)
    mask[box] = seen
    return Anomaly(np.where(mask[..., None], changed, good), mask, kind, mean)


def _plain_spot(
    picture: Picture, within: Mask, visible: tuple[float, float], rng: np.random.Generator
) -> Anomaly:
    """A spot of another brightness, in the range and visible on any picture."""
    mask = blob_mask(picture.shape[:2], rng, area=(0.002, 0.02), within=within)
    step = min(max(45, math.ceil(visible[0])), math.floor(visible[1]))
    away = np.where(picture[mask] < 128, step, -step)
    changed = picture.copy()
    changed[mask] = (picture[mask].astype(np.int16) + away).astype(np.uint8)
    return Anomaly(changed, mask, "spot", float(step))


def _stretched(picture: Picture, mask: Mask, shape: tuple[int, int]) -> tuple[Picture, Mask]:
    """A picture and its mask at another size (H, W); a mask never vanishes."""
    size = (shape[1], shape[0])
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    return resized, share >= min(0.5, float(share.max()))
