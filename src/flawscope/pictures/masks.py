"""Reads the marks in a mask, however it was stored.

Ground truth, regions of interest, seen defects and foregrounds are all read here. The rule (docs/labels.md):
the background is black, or the darkest grey, or in coloured masks without black the colour that fills most of
them, or whatever is transparent; all else is marked. Edges that were smoothed, and the noise of JPEG, count
from half of the way up. A doubtful mask is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from flawscope.errors import InputError
from flawscope.pictures.arrays import picture_error
from flawscope.pictures.decoding import PillowSource, open_upright_deep, source_name

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Mask = NDArray[np.bool_]
    MarkLevels = NDArray[np.number]  # [H, W], 0 outside and higher the more a pixel is marked

FEW_VALUES = 16  # as many different values may be classes; more are smoothed edges, noise, or a photograph
MANY_CLASSES = 64  # integers up to this are numbers of classes or objects, however many different ones occur
LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")  # WebP and TIFF may be lossy or not
LOSSY_CONTRAST = 32  # grey levels; a lossy format keeps no mask of a lower contrast
NOISE_REACH = 16  # distance in pixels from an edge that lossy formats disturb: a block of colour
PHOTOGRAPH_LEVELS = 16  # more effective grey levels, besides the commonest, are those of a photograph
PHOTOGRAPH = "it has grey values all over, like a photograph"
STORE_AS_PNG = "store it as PNG, black outside and white where something is marked"


def read_mask(source: PillowSource) -> Mask:
    """Return the marks of a mask, [H, W] bool.

    Raises:
        InputError: The mask cannot be read, or its marks are in doubt.
    """
    name = source_name(source)
    image, deep = open_upright_deep(source, name)
    is_lossy = _is_lossy(image, source)
    levels = _levels(image, deep, is_lossy, name)
    top = levels.max()
    # with a single level, either nothing is marked (all is black) or everything
    if levels.min() == top:
        return np.full(levels.shape, bool(top > 0))
    if is_lossy and top < LOSSY_CONTRAST:
        raise _doubt(
            name, f"its values lie within {int(top)} grey levels, which {image.format} does not keep"
        )
    rows = _marked_range(np.any(levels, axis=1))
    columns = _marked_range(np.any(levels, axis=0))
    marked = np.zeros(levels.shape, bool)  # outside of these rows and columns all is background
    marked[rows, columns] = _marked_levels(levels[rows, columns], is_lossy, name)
    return marked


def _marked_range(is_marked: Mask) -> slice:
    """Return the range from the first marked row or column to the last, extended as far as noise reaches."""
    lines = np.flatnonzero(is_marked)
    return slice(max(0, int(lines[0]) - NOISE_REACH), int(lines[-1]) + NOISE_REACH + 1)


def marks_most(mask: Mask) -> str:
    """Return a text on a defect's mask that marks more than half of its picture; else empty."""
    share = float(mask.mean())
    if share <= 0.5:
        return ""
    return f"marks {share:.0%} of its picture: is it inverted? White is the defect"


def read_labels(source: PillowSource) -> NDArray[np.int32]:
    """Return raw grey values (or palette indices) [H, W] int32, as MVTec LOCO's masks use them."""
    name = source_name(source)
    image, deep = open_upright_deep(source, name)
    if deep is not None and deep.shape[2] == 1 and deep.dtype.kind == "u":
        return deep[:, :, 0].astype(np.int32)
    if image.mode in ("L", "P", "I") or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.int32)
    if image.mode == "F":
        raise picture_error(
            name, "labels are whole numbers, the file holds floats", "store it as 8 or 16 bits"
        )
    rgb = np.asarray(image.convert("RGB"))
    if (rgb != rgb[:, :, :1]).any():
        raise picture_error(
            name, "labels are grey values, the file has colours", "store it as a grey picture"
        )
    return rgb[:, :, 0].astype(np.int32)


def is_photograph(source: PillowSource) -> bool:
    """Whether a picture given as a mask has many grey values besides the commonest, like a photograph.

    The effective number of these values is exp(entropy of their histogram). It was 20 to 200 for photographs,
    dark fields among them, and up to 14 for masks that are refused because of JPEG.

    Raises:
        InputError: The picture cannot be read.
    """
    image, deep = open_upright_deep(source, source_name(source))
    if deep is None:
        grey = np.asarray(image.convert("L"))
    else:
        colour_count = max(1, deep.shape[2] - 1)  # the last channel may be alpha
        grey = deep[:, :, :colour_count].mean(2)
    low, high = float(np.nanmin(grey)), float(np.nanmax(grey))
    if not high > low:  # one value, or NaN
        return False
    counts, _ = np.histogram(grey, 256, (low, high))
    commonest = int(counts.argmax())
    counts[max(0, commonest - 2) : commonest + 3] = 0
    shares = counts[counts > 0] / max(1, counts.sum())
    entropy = -(shares * np.log(shares)).sum()
    return float(np.exp(entropy)) > PHOTOGRAPH_LEVELS


class DoubtfulMaskError(InputError):
    """Mask whose marks are in doubt: perhaps the picture is no mask."""


def _doubt(name: str, reason: str) -> DoubtfulMaskError:
    """Return the error of a mask whose marks are in doubt, with the remedy."""
    return DoubtfulMaskError(f"cannot tell what mask {name} marks: {reason}; {STORE_AS_PNG}")


def _is_lossy(image: Image.Image, source: PillowSource) -> bool:
    """Whether the format of a mask loses values."""
    if image.format == "TIFF":
        return "jpeg" in str(image.info.get("compression", ""))
    if image.format != "WEBP":
        return image.format in LOSSY_FORMATS
    head = source[:64] if isinstance(source, bytes) else b""
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            head = file.read(64)
    return b"VP8L" not in head  # the chunk of lossless WebP


# ------------------------------------------------------------------------------------ which is the background


def _levels(image: Image.Image, deep: NDArray[np.number] | None, lossy: bool, name: str) -> MarkLevels:
    """Measure for each pixel how different it is from the background.

    Args:
        image: The mask; with `deep` only its mode is used.
        deep: Values that Pillow would cut to fewer bits; None: Pillow reads all bits.
        lossy: Whether the format loses values.
        name: Name for errors.

    Raises:
        InputError: The background is in doubt.
    """
    if _has_one_channel(image, deep):
        grey = np.asarray(image) if deep is None else deep[:, :, 0]
        if not np.isfinite(grey).all():
            raise picture_error(name, "some pixels are not finite numbers", "replace NaN and infinity first")
        is_float = grey.dtype.kind == "f"
        return _above_darkest(grey if is_float else grey.astype(np.int64))
    values = _channels(image) if deep is None else deep
    if values.shape[2] in (2, 4):
        values, alpha = values[:, :, :-1], values[:, :, -1].astype(np.int32)
        if alpha.min() != alpha.max():
            return _levels_above_transparent(values, alpha, lossy, name)
    if image.mode == "P":
        return _levels_of_palette(np.asarray(image).astype(np.int32), values, name)
    return _levels_of_colours(values, lossy, name)


def _has_one_channel(image: Image.Image, deep: NDArray[np.number] | None) -> bool:
    """Whether a picture of more than 8 bits is grey."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return True
    return deep is not None and deep.shape[2] == 1


def _channels(image: Image.Image) -> NDArray[np.uint8]:
    """Return values [H, W, C] of grey or colour, with alpha or without."""
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    return np.atleast_3d(np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")))


def _above_darkest(values: NDArray[np.number]) -> MarkLevels:
    """Return levels of grey values above the darkest; where all are equal, the values themselves."""
    darkest = values.min()
    above: MarkLevels = values if darkest == values.max() else values - darkest
    return above


def _levels_of_colours(colours: NDArray[np.number], lossy: bool, name: str) -> MarkLevels:
    """Measure for each pixel how different its colour or grey value is from the background's.

    Args:
        colours: Colours or grey values [H, W, C] without alpha.
        lossy: Whether the format loses values.
        name: Name for errors.

    Raises:
        InputError: The background is in doubt.
    """
    tolerance = LOSSY_CONTRAST if lossy else 0
    channels = _signed_channels(colours)
    if len(channels) == 1:
        return _above_darkest(channels[0])
    brightest_channel: MarkLevels = reduce(np.maximum, channels)
    darkest_channel: MarkLevels = reduce(np.minimum, channels)
    is_all_grey = (brightest_channel - darkest_channel).max() <= tolerance
    if is_all_grey:
        return _above_darkest(channels[1])  # green, as good as any
    # a colour that fills more than half of the mask is the median in each channel
    middle = channels[0].size // 2
    median = [np.partition(channel, middle, axis=None)[middle] for channel in channels]
    distances = _distance_from(median, channels)
    fills_half = 2 * np.count_nonzero(distances <= tolerance / 2) > distances.size
    has_black = (brightest_channel <= tolerance).any()
    if has_black and fills_half and _is_grey(median, tolerance):
        raise _doubt(name, "most of it is grey or white, and it has black and colours besides")
    if has_black:
        return brightest_channel
    if not fills_half:
        raise _doubt(name, "it is coloured without black, and no colour fills half of it")
    # a mask of a single colour marks everything
    return distances if distances.any() else brightest_channel


def _is_grey(colour: Sequence[np.number], tolerance: int) -> bool:
    """Whether a colour is grey or white, and not black."""
    return bool(max(colour) > tolerance and max(colour) - min(colour) <= tolerance)


def _signed_channels(colours: NDArray[np.number]) -> list[MarkLevels]:
    """Return the channels of colours [H, W, C], in a type in which their differences can be taken."""
    signed = {1: np.int16, 2: np.int32}.get(colours.dtype.itemsize, np.float64)
    return [colours[:, :, k].astype(signed) for k in range(colours.shape[2])]


def _distance_from(colour: Sequence[np.number], channels: Sequence[MarkLevels]) -> MarkLevels:
    """Return the distance of each pixel from a colour, in the channel that differs most."""
    differences: list[MarkLevels] = [
        abs(channel - value) for channel, value in zip(channels, colour, strict=True)
    ]
    distance: MarkLevels = reduce(np.maximum, differences)
    return distance


def _levels_above_transparent(
    colours: NDArray[np.number], alpha: MarkLevels, lossy: bool, name: str
) -> MarkLevels:
    """Return the levels of a mask with transparent pixels: the background is what is transparent.

    Args:
        colours: Colours or grey values [H, W, C].
        alpha: Alpha [H, W], integers.
        lossy: Whether the format loses values.
        name: Name for errors.

    Raises:
        InputError: Only some of the opaque pixels are black, so that black may be the background.
    """
    is_opaque = 2 * alpha >= alpha.max()
    max_black = LOSSY_CONTRAST if lossy else 0
    is_black = colours[is_opaque].max(1) <= max_black
    if is_black.all() or not is_black.any():
        return _above_darkest(alpha)
    raise _doubt(name, "it has transparent pixels and black ones, and both may be the background")


def _levels_of_palette(indices: MarkLevels, colours: NDArray[np.number], name: str) -> MarkLevels:
    """Return levels by the colours of a palette, or by its indices where all used colours are equal.

    Args:
        indices: Index of each pixel in the palette, [H, W].
        colours: Colour of each pixel, [H, W, C].
        name: Name for errors.

    Raises:
        InputError: The colours contradict index 0, which is the background of class masks.
    """
    used_indices, first_pixels = np.unique(indices, return_index=True)
    used_colours = colours.reshape(-1, colours.shape[2])[first_pixels]
    if len(used_indices) > 1 and (used_colours == used_colours[0]).all():
        return _above_darkest(indices)
    black_count = int((used_colours.max(1) == 0).sum())
    if black_count > 1:
        raise _doubt(name, f"its palette has {black_count} blacks")
    levels = _levels_of_colours(colours, lossy=False, name=name)
    if len(used_indices) > 1 and used_indices[0] == 0:
        fills_half = 2 * (indices == 0).mean() > 1
        is_index_0_marked = levels.flat[first_pixels[0]] > 0
        if fills_half and is_index_0_marked:
            raise _doubt(name, "most of it has index 0 of its palette, and another index is darker")
    return levels


# ---------------------------------------------------------------------------------- from where on it counts


def _marked_levels(levels: MarkLevels, lossy: bool, name: str) -> Mask:
    """Return the mask of the marked pixels.

    If the levels are classes, all pixels above 0 are marked. Otherwise a pixel that lies in no area of one
    level, such as a smoothed edge or noise, is marked if it has at least half of the level of the area beside
    it.

    Args:
        levels: Levels of the mask, 0 for the background.
        lossy: Whether the format loses values.
        name: Name for errors.

    Raises:
        InputError: The levels have no edges, like a photograph, or too much noise.
    """
    values, shares = _shares_in_areas(levels)
    fills_areas = shares >= 0.5
    top = values[-1]
    largest_step = max(np.abs(np.diff(levels, axis=axis)).max(initial=0) for axis in (0, 1))
    is_smooth_everywhere = 8 * largest_step < top
    if is_smooth_everywhere:
        raise _doubt(name, PHOTOGRAPH)
    if not lossy and (_counts_classes(levels, top) or _are_classes(values, fills_areas)):
        return _marked_classes(levels, values)
    area_values = values[fills_areas & (values >= top / 8)]
    return _marked_above_noise(levels, area_values, name)


def _counts_classes(levels: MarkLevels, top: np.number) -> bool:
    """Whether levels are integers so small that they are the numbers of classes."""
    return bool(levels.dtype.kind != "f" and top <= MANY_CLASSES)


def _are_classes(values: MarkLevels, fills: Mask) -> bool:
    """Whether the values of a mask mean classes, and do not come from noise or smoothed edges.

    They are values of classes if all of them fill areas. They also are if they are few, and one of these is
    true:

    - A faint value fills an area.
    - No value seems to be noise.

    Args:
        values: Values that occur, ascending.
        fills: For each value, whether it fills areas.
    """
    if fills.all():
        return True
    top = values[-1]
    is_faint = (values > 0) & (values < top / 8)
    is_nearly_top = (values > top * 7 / 8) & ~fills
    has_noise = is_faint.sum() > 1 or (is_faint.any() and is_nearly_top.any())
    has_faint_area = (is_faint & fills).any()
    return len(values) <= FEW_VALUES and bool(has_faint_area or not has_noise)


def _shares_in_areas(levels: MarkLevels) -> tuple[NDArray[np.number], NDArray[np.float64]]:
    """Return the values that occur, and for each the share of its pixels that lie in areas.

    A pixel lies in an area if it belongs to a square of 2 x 2 pixels of the same value.
    """
    values = None  # None: the codes are the values themselves
    codes = levels  # a small integer for each value
    if levels.dtype.kind == "f" or levels.max() > 65535:
        values, codes = np.unique(levels, return_inverse=True)
        codes = codes.reshape(levels.shape)
    corners = codes[:-1, :-1]
    is_square = (corners == codes[1:, :-1]) & (corners == codes[:-1, 1:]) & (corners == codes[1:, 1:])
    height, width = is_square.shape
    is_in_area = np.zeros(levels.shape, bool)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):  # the four pixels of a square
        is_in_area[down : down + height, right : right + width] |= is_square
    counts = np.bincount(codes.ravel())
    shares = np.bincount(codes[is_in_area], minlength=len(counts)) / np.maximum(counts, 1)
    used_codes = np.flatnonzero(counts)
    used_values: NDArray[np.number] = used_codes if values is None else values
    return used_values, shares[used_codes]


def _marked_classes(levels: MarkLevels, values: NDArray[np.number]) -> Mask:
    """Return the mask of all pixels above 0, without the lower half of smoothed edges.

    A value is one of smoothed edges if all of its pixels lie between a lower and a higher value.

    Args:
        levels: Levels of the mask.
        values: Values that occur in it, ascending.
    """
    from scipy import ndimage

    marked: Mask = levels > 0
    if len(values) <= 2:
        return marked
    is_between = (ndimage.minimum_filter(levels, 3) < levels) & (levels < ndimage.maximum_filter(levels, 3))
    edge_values = np.setdiff1d(values[1:-1], levels[~is_between])
    if len(edge_values) <= 1:  # a single such value is a class: smoothed edges have several
        return marked
    is_edge = np.isin(levels, edge_values)
    level_of_area = ndimage.maximum_filter(np.where(is_edge, 0, levels), 5)
    marked &= ~is_edge | (2 * levels >= level_of_area)
    return marked


def _marked_above_noise(levels: MarkLevels, filling: NDArray[np.number], name: str) -> Mask:
    """Return the mask of the areas, and of other pixels with at least half of the nearest area's level.

    Args:
        levels: Levels of the mask.
        filling: Values that fill areas.
        name: Name for errors.

    Raises:
        InputError: Too many pixels belong to no area: it is a photograph, or has too much noise.
    """
    from scipy import ndimage

    top = levels.max()
    is_exact = np.isin(levels, filling)
    is_flat = ndimage.maximum_filter(levels, 3) - ndimage.minimum_filter(levels, 3) <= LOSSY_CONTRAST // 2
    is_area = is_exact | (is_flat & (levels >= max(top / 8, LOSSY_CONTRAST)))
    area_levels = np.where(is_area, levels, 2 * top)  # outside of areas: a value above all levels
    level_of_area = ndimage.minimum_filter(area_levels, 5)
    has_half_of_top = 2 * levels >= top
    has_half_of_area = 2 * levels >= level_of_area
    marked: Mask = has_half_of_top | (area_levels <= top) | has_half_of_area
    square = np.ones((3, 3), bool)
    edges = ndimage.binary_dilation(marked, square) & ~ndimage.binary_erosion(marked, square, border_value=1)
    is_between = (levels > top * 0.1) & (levels < top * 0.9) & ~is_exact
    if is_between.sum() > max(3 * edges.sum(), 1) or is_between.mean() > 0.4:
        raise _doubt(name, PHOTOGRAPH)
    is_near_mark = ndimage.maximum_filter(marked, 2 * NOISE_REACH + 1)
    is_bright_elsewhere = (levels > top * 0.02) & ~is_near_mark
    if is_bright_elsewhere.any():
        raise _doubt(name, "besides what is bright in it, other places are not quite dark")
    return marked
