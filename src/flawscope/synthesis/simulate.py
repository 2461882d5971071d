"""Simulator of defects: a good picture in, the same picture with a defect and its exact mask out.

All kinds follow one recipe. A shape within the foreground is filled with a material, and blended with the
picture. The mask keeps the visible part of the change, and a plain spot replaces a defect that is not
visible. `KINDS` has the shape and the material of each kind. PRN is trained on "texture" and "structure"
without a scale (CVPR 2023, 3.4; the two kinds are MemSeg's), and on seen defects that `extend_defect` puts on
other good pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from flawscope.errors import InputError
from flawscope.pictures.arrays import check_picture
from flawscope.synthesis import materials
from flawscope.synthesis.masks import (
    MIN_PIXELS,
    SCALE_AREAS,
    Area,
    DefectScale,
    Mask,
    allowed_area,
    blob_mask,
    bounding_box,
    islands_mask,
    line_mask,
)
from flawscope.synthesis.materials import (
    ANY_SIZE,
    DefectRequest,
    Textures,
    change_appearance,
    is_grey,
    to_grey,
)
from flawscope.synthesis.textures import Floats, Picture, generated_texture
from flawscope.synthesis.transform import blend, cut_and_move, paste_cut

OPACITY_RANGE = (0.15, 1.0)  # as in MemSeg and PRN
VISIBLE_LEVEL = 5  # grey levels in the channel that changes most: a smaller change of a pixel is not visible
VISIBLE_CHANGE = (12.0, 160.0)  # range for the mean change over the mask; other defects are drawn again
_MAX_GRAIN = 20.0  # largest rise of that range's lower end, in grey levels, on surfaces with much grain
_MIN_ISLAND = 0.0001  # share of the picture below which an island is dropped
_MIN_VISIBLE_SHARE = 0.25  # share of the intended mask that must be visible
_SMALLEST_SIDE = 16
_TRIES = 12
_SPOT_AREA = (0.002, 0.02)
_SPOT_CONTRAST = 45  # grey levels: visible on any picture


class SimulatedDefect(NamedTuple):
    """Good picture with a defect.

    Attributes:
        picture: [H, W, 3] uint8; differs from the good picture in every pixel of the mask, and in no other.
        mask: [H, W] bool, True on the defect.
        kind: A key of `KINDS`, or "seen"; "spot" where a defect of the requested kind was not visible.
        difference: Mean over the mask of the largest channel difference, in grey levels.
    """

    picture: Picture
    mask: Mask
    kind: str
    difference: float


class DefectKind(NamedTuple):
    """Kind of defect: a shape and the material that fills it.

    Attributes:
        shape: Draws a shape within a mask, with a share of the picture in a range.
        material: Fills the shape.
        translucent: Whether the material is blended with a random opacity. The change must then be larger on
            a surface with much grain, where a faint change is lost.
    """

    shape: Callable[[Mask, Area, np.random.Generator], Mask]
    material: Callable[[DefectRequest, Mask, np.random.Generator], Picture]
    translucent: bool = False


def _patch_shape(allowed: Mask, area: Area, rng: np.random.Generator) -> Mask:
    """Return a spot with a share of the picture in `area`; for `ANY_SIZE`, islands of any size."""
    if area == ANY_SIZE:
        return islands_mask(allowed, rng)
    return blob_mask(allowed, rng, area=area, roughness=float(rng.uniform(0.1, 0.5)))


def _line_shape(allowed: Mask, area: Area, rng: np.random.Generator, *, jagged: float) -> Mask:
    """Return a line; `jagged` is the size of its turns in pixels, for a picture with sides of 256 pixels."""
    scaled_jagged = jagged * max(1.0, min(allowed.shape) / 256)
    return line_mask(allowed, rng, area=area, jagged=scaled_jagged)


PAPER_KINDS = ("texture", "structure")  # of any size where no scale is asked for
KINDS: dict[str, DefectKind] = {
    "texture": DefectKind(_patch_shape, materials.foreign_texture, translucent=True),
    "structure": DefectKind(_patch_shape, materials.shuffled_structure, translucent=True),
    "paste": DefectKind(_patch_shape, materials.moved_piece),
    "shift": DefectKind(_patch_shape, materials.displaced_surface),
    "blur": DefectKind(_patch_shape, materials.smeared_surface),
    "dark": DefectKind(_patch_shape, partial(materials.stained_surface, sign=-1)),
    "bright": DefectKind(_patch_shape, partial(materials.stained_surface, sign=1)),
    "colour": DefectKind(_patch_shape, partial(materials.stained_surface, sign=0)),
    "missing": DefectKind(_patch_shape, materials.grown_surroundings),
    "scratch": DefectKind(partial(_line_shape, jagged=0.0), partial(materials.shaded_surface, dark=0.4)),
    "crack": DefectKind(partial(_line_shape, jagged=1.6), partial(materials.shaded_surface, dark=0.85)),
    "spot": DefectKind(_patch_shape, materials.paint_blot, translucent=True),
}


def simulate_defect(
    picture: Picture,
    rng: np.random.Generator,
    *,
    kind: str | None = None,
    scale: DefectScale | str | None = None,
    contrast: float | None = None,
    textures: Textures | None = None,
    foreground: Mask | None = None,
) -> SimulatedDefect:
    """Simulate a defect on a good picture.

    A defect that is too faint or too strong (`VISIBLE_CHANGE`) is drawn again. If all attempts fail, the
    result is a plain spot.

    Args:
        picture: [H, W, 3] uint8, the good picture.
        rng: Source of the defect.
        kind: A key of `KINDS`. None: a random one of `KINDS` if a scale is given, else of `PAPER_KINDS`.
        scale: Range of the defect's size: at least half of the scale's smallest area and at most its largest.
            None: a kind of `PAPER_KINDS` has any size, all or a few islands of Perlin noise; for the other
            kinds a scale is chosen at random.
        contrast: About the `difference` in grey levels that the defect gets by fading or strengthening; less
            where the picture's range ends. None: unchanged.
        textures: Draws the material of "texture"; None: it is generated.
        foreground: [H, W] bool, the pixels where the defect may lie; None or all False: everywhere.

    Raises:
        InputError: The picture is below 16 x 16, or the kind or the scale is unknown.
    """
    within = _check_area(picture, foreground)
    _check_kind_and_scale(kind, scale)
    if scale is None and kind not in (None, *PAPER_KINDS):
        scale = list(DefectScale)[int(rng.integers(len(DefectScale)))]
    area = ANY_SIZE if scale is None else SCALE_AREAS[DefectScale(scale)]
    request = DefectRequest(picture, within, area, textures or partial(generated_texture, (128, 128)))
    if kind is not None:
        kinds: Sequence[str] = (kind,)
    else:
        kinds = PAPER_KINDS if scale is None else tuple(KINDS)
    defect = _draw_visible_defect(request, kinds, rng)
    if defect is None:
        defect = _plain_spot(picture, within, _SPOT_AREA if scale is None else area, rng)
    return defect if contrast is None else _with_contrast(picture, defect, contrast)


def _check_kind_and_scale(kind: str | None, scale: DefectScale | str | None) -> None:
    """Raise an InputError for an unknown kind or scale."""
    if kind is not None and kind not in KINDS:
        raise InputError(f"There is no kind of defect {kind!r}: choose of {', '.join(KINDS)}.")
    if scale is not None and scale not in list(DefectScale):
        raise InputError(f"There is no scale {scale!r}: choose of {', '.join(DefectScale)}.")


def _draw_visible_defect(
    request: DefectRequest, kinds: Sequence[str], rng: np.random.Generator
) -> SimulatedDefect | None:
    """Draw a defect of one of the kinds, of the requested size.

    It is None where none of `_TRIES` defects is visible and has that size.
    """
    smallest_share, largest_share = request.area
    min_pixels = max(MIN_PIXELS, smallest_share / 2 * request.allowed.size)
    max_pixels = max(MIN_PIXELS, largest_share * request.allowed.size)
    for _ in range(_TRIES):
        # a single kind takes no random number
        kind = kinds[0] if len(kinds) == 1 else kinds[int(rng.integers(len(kinds)))]
        defect = _draw_defect(request, kind, rng)
        if defect is not None and min_pixels <= defect.mask.sum() <= max_pixels:
            return defect
    return None


def extend_defect(
    picture: Picture,
    defect: Picture,
    defect_mask: Mask,
    rng: np.random.Generator,
    *,
    foreground: Mask | None = None,
) -> SimulatedDefect:
    """Put a seen defect on a good picture: cut it out by its mask, transform and paste it.

    The cut is turned, mirrored, resized, distorted a little, and shown in other light. If more than 2/3 of
    the cut then lies in the foreground, it is pasted there, and may reach over the object's edge like a bent
    lead. Otherwise each of its connected parts moves to a random place inside the frame, and is clipped to
    the foreground.

    Args:
        picture: [H, W, 3] uint8, the good picture.
        defect: [h, w, 3] uint8, a picture with the defect; stretched to the good picture's size.
        defect_mask: [h, w] bool, True on the defect; stretched in the same way.
        rng: Source of the transformation.
        foreground: [H, W] bool; None or all False: everywhere.

    Raises:
        InputError: The picture is below 16 x 16, or the mask is empty or not of its picture's size.
    """
    within = _check_area(picture, foreground)
    check_picture(defect, "picture of a defect")
    if defect_mask.shape != defect.shape[:2]:
        raise InputError(f"The mask is {defect_mask.shape}, its picture {defect.shape[:2]}: they must agree.")
    if not defect_mask.any():
        raise InputError("The mask of a seen defect is empty: give one that marks the defect.")
    if defect.shape != picture.shape:
        defect, defect_mask = _resize_defect(defect, defect_mask, picture.shape[:2])
    if is_grey(picture):
        defect = to_grey(defect)
    for _ in range(_TRIES):
        cut = cut_and_move(defect, defect_mask, rng)
        if not cut.mask.any():
            continue
        changed_pixels = change_appearance(cut.pixels, rng, count=int(rng.integers(0, 4)))
        changed, mask = paste_cut(picture, cut._replace(pixels=changed_pixels), within, rng)
        extended = _keep_visible(picture, changed, mask, kind="seen") if mask.any() else None
        if extended is not None:
            return extended
    return _plain_spot(picture, within, _SPOT_AREA, rng)


def largest_change(good: Picture, changed: Picture) -> Picture:
    """Return the difference of the channel that differs most, `[H, W]` uint8."""
    difference = np.maximum(good, changed) - np.minimum(good, changed)
    return np.asarray(np.maximum(np.maximum(difference[..., 0], difference[..., 1]), difference[..., 2]))


def visible_part(intended: Mask, difference: NDArray[np.uint8]) -> Mask:
    """Return a mask's pixels that changed by at least `VISIBLE_LEVEL`, and their neighbours in the mask."""
    from scipy import ndimage

    is_visible = intended & (difference >= VISIBLE_LEVEL)
    return np.asarray(intended & ndimage.binary_dilation(is_visible, np.ones((3, 3))))


def _check_area(picture: Picture, foreground: Mask | None) -> Mask:
    """Return the mask of the pixels that a defect may cover; raise InputError for an unusable picture."""
    check_picture(picture)
    height, width = picture.shape[:2]
    if min(height, width) < _SMALLEST_SIDE:
        raise InputError(f"A picture of {width}x{height} is too small for a defect: at least 16x16.")
    return allowed_area((height, width), foreground)


def _draw_defect(request: DefectRequest, name: str, rng: np.random.Generator) -> SimulatedDefect | None:
    """Draw a defect of a kind, in a single attempt; None where the defect is not visible."""
    kind = KINDS[name]
    picture = request.picture
    mask = kind.shape(request.allowed, request.area, rng)
    source = kind.material(request, mask, rng)
    if is_grey(picture):
        source = to_grey(source)
    opacity = float(rng.uniform(*OPACITY_RANGE)) if kind.translucent else 1.0
    changed = _blend_material(picture, mask, source, opacity, rng)
    grain = _grain(picture, mask) if kind.translucent else 0.0
    return _keep_visible(picture, changed, mask, name, grain)


def _blend_material(
    picture: Picture, mask: Mask, source: Picture, opacity: float, rng: np.random.Generator
) -> Picture:
    """Return the picture with `opacity` of the source inside the mask, with a hard or a soft edge.

    A soft edge is up to 2 pixels wide.
    """
    box = bounding_box(mask)
    inside = mask[box]
    softness = float(rng.choice([0.0, 0.7, 1.5]))
    if softness:
        blurred = Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(softness))
        share: Floats = np.asarray(blurred, np.float32) * inside * np.float32(opacity / 255)
    else:
        share = inside * np.float32(opacity)
    changed = picture.copy()
    changed[box] = blend(picture[box], source[box], share)
    return changed


def _grain(picture: Picture, mask: Mask) -> float:
    """Return the surface's grain under the mask, in grey levels.

    The grain is the mean absolute difference of a pixel from the mean of the 7 x 7 pixels about it.
    """
    box = bounding_box(mask, 3)  # with a margin of 3 pixels, for the filter
    grey = Image.fromarray(picture[box]).convert("L")
    smooth = np.asarray(grey.filter(ImageFilter.BoxBlur(3)), np.int16)
    return float(np.abs(np.asarray(grey, np.int16) - smooth)[mask[box]].mean())


def _keep_visible(
    good: Picture, changed: Picture, intended: Mask, kind: str, grain: float = 0.0
) -> SimulatedDefect | None:
    """Return the visible part of a change as a defect; None if it is too small, too faint or too strong.

    The `visible_part` of the changed pixels stays, without specks; all other pixels are those of the good
    picture. The mean change must lie in `VISIBLE_CHANGE`.

    Args:
        good: The good picture.
        changed: The picture with the change.
        intended: Mask of the change.
        kind: Kind of the defect.
        grain: Grain of the surface; it raises the lower end of `VISIBLE_CHANGE`.
    """
    from scipy import ndimage

    box = bounding_box(intended)
    difference = largest_change(good[box], changed[box])
    visible = visible_part(intended[box] & (difference > 0), difference)
    min_pixels = max(MIN_PIXELS, round(_MIN_ISLAND * intended.size))
    labels, count = ndimage.label(visible, np.ones((3, 3)))
    if count > 1:
        areas = np.bincount(labels.ravel())
        is_large = areas >= min_pixels  # a value for each label
        visible = visible & is_large[labels]
    if int(visible.sum()) < max(min_pixels, _MIN_VISIBLE_SHARE * intended.sum()):
        return None
    mean = float(difference[visible].mean())
    min_change, max_change = VISIBLE_CHANGE
    if not min_change + min(grain, _MAX_GRAIN) <= mean <= max_change:
        return None
    mask = np.zeros_like(intended)
    mask[box] = visible
    picture = np.where(mask[..., None], changed, good)
    return SimulatedDefect(picture, mask, kind=kind, difference=mean)


def _plain_spot(picture: Picture, within: Mask, area: Area, rng: np.random.Generator) -> SimulatedDefect:
    """Draw a spot of another brightness, visible on any picture."""
    mask = blob_mask(within, rng, area=area)
    change = np.where(picture[mask] < 128, _SPOT_CONTRAST, -_SPOT_CONTRAST)
    changed = picture.copy()
    changed[mask] = (picture[mask].astype(np.int16) + change).astype(np.uint8)
    return SimulatedDefect(changed, mask, kind="spot", difference=float(_SPOT_CONTRAST))


def _with_contrast(good: Picture, defect: SimulatedDefect, contrast: float) -> SimulatedDefect:
    """Return the defect at a mean contrast in grey levels: all changes are multiplied by one factor."""
    box = bounding_box(defect.mask)
    change = defect.picture[box].astype(np.float32) - good[box]
    factor = contrast / defect.difference
    scaled = np.clip(np.rint(good[box] + change * factor), 0, 255).astype(np.uint8)
    difference = largest_change(good[box], scaled)
    if not difference.any():  # fainter than a grey level
        return defect
    picture = good.copy()
    picture[box] = scaled
    mask = np.zeros_like(defect.mask)
    mask[box] = difference > 0
    mean = float(difference[difference > 0].mean())
    return SimulatedDefect(picture, mask, kind=defect.kind, difference=mean)


def _resize_defect(picture: Picture, mask: Mask, shape: tuple[int, ...]) -> tuple[Picture, Mask]:
    """Return a picture and its mask at another size (H, W); the mask never vanishes."""
    size = (shape[1], shape[0])
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    return resized, share >= min(0.5, float(share.max()))
