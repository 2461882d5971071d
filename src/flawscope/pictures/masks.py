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

FEW_VALUES = 16  # up to which values are classes; more are smoothed edges, noise, or a photograph
MANY_CLASSES = 64  # values up to this are numbers of classes or of objects, however many there are
LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")  # WebP and TIFF may be either
LOSSY_CONTRAST = 32  # grey levels below which a lossy format keeps no mask
NOISE_REACH = 16  # pixels from an edge that lossy formats disturb: a block of colour
PHOTOGRAPH_LEVELS = 16  # effective number of grey levels, besides the commonest
PHOTOGRAPH = "it has grey values all over, like a photograph"
STORE_AS_PNG = "store it as PNG, black outside and white where something is marked"


def read_mask(source: PillowSource) -> Mask:
    """Return the marks of a mask, [H, W] bool.

    Raises:
        InputError: It cannot be read, or its marks are in doubt.
    """
    name = source_name(source)
    image, deep = open_upright_deep(source, name)
    lossy = _is_lossy(image, source)
    levels = _levels(image, deep, lossy, name)
    top = levels.max()
    if levels.min() == top:  # all alike: an empty mask is black
        return np.full(levels.shape, bool(top > 0))
    if lossy and top < LOSSY_CONTRAST:
        raise _doubt(
            name, f"its values lie within {int(top)} grey levels, which {image.format} does not keep"
        )
    marked = np.zeros(levels.shape, bool)
    where = (_reach(np.any(levels, axis=1)), _reach(np.any(levels, axis=0)))
    marked[where] = _marked_levels(levels[where], lossy, name)  # the rest is background
    return marked


def _reach(lines: Mask) -> slice:
    """Return the lines from the first marked one to the last, extended as far as noise reaches."""
    marked = np.flatnonzero(lines)
    return slice(max(0, int(marked[0]) - NOISE_REACH), int(marked[-1]) + NOISE_REACH + 1)


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
    """Whether a picture given as a mask has many grey values besides the commonest.

    Then it is a photograph or a map, not a mask that is badly stored. Levels are counted by the entropy of
    their histogram. Measured on photographs, dark fields among them: 20 to 200; on masks that are refused: up
    to 14, because of JPEG.

    Raises:
        InputError: It cannot be read.
    """
    image, deep = open_upright_deep(source, source_name(source))
    grey = np.asarray(image.convert("L")) if deep is None else deep[:, :, : max(1, deep.shape[2] - 1)].mean(2)
    low, high = float(np.nanmin(grey)), float(np.nanmax(grey))
    if not high > low:
        return False
    counts = np.histogram(grey, 256, (low, high))[0]
    commonest = int(counts.argmax())
    counts[max(0, commonest - 2) : commonest + 3] = 0
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(shares * np.log(shares)).sum())) > PHOTOGRAPH_LEVELS


class DoubtfulMaskError(InputError):
    """Mask whose marks are in doubt: perhaps the picture is no mask."""


def _doubt(name: str, reason: str) -> DoubtfulMaskError:
    return DoubtfulMaskError(f"cannot tell what mask {name} marks: {reason}; {STORE_AS_PNG}")


def _is_lossy(image: Image.Image, source: PillowSource) -> bool:
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
    """Measure how far each pixel is from the background.

    Args:
        image: The mask, of the size of `deep` where that is given.
        deep: Values that Pillow would cut; None where it does not.
        lossy: Whether its format loses values.
        name: Name for errors.

    Raises:
        InputError: The background is in doubt.
    """
    if _has_one_channel(image, deep):
        grey = np.asarray(image) if deep is None else deep[:, :, 0]
        if not np.isfinite(grey).all():
            raise picture_error(name, "some pixels are not finite numbers", "replace NaN and infinity first")
        return _above_darkest(grey if grey.dtype.kind == "f" else grey.astype(np.int64))
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
    """Return levels of grey values above the darkest; where all are alike, the values themselves."""
    darkest = values.min()
    above: MarkLevels = values if darkest == values.max() else values - darkest
    return above


def _levels_of_colours(colours: NDArray[np.number], lossy: bool, name: str) -> MarkLevels:
    """Return levels of colours or grey values [H, W, C] as they look, without transparency."""
    tolerance = LOSSY_CONTRAST if lossy else 0
    channels = _signed_channels(colours)
    if len(channels) == 1:
        return _above_darkest(channels[0])
    brightest: MarkLevels = reduce(np.maximum, channels)
    if (brightest - reduce(np.minimum, channels)).max() <= tolerance:
        return _above_darkest(channels[1])
    # a colour that fills more than half is the middle one in each channel
    middle = [np.partition(channel, channel.size // 2, None)[channel.size // 2] for channel in channels]
    distance = _distance_from(middle, channels)
    fills = 2 * np.count_nonzero(distance <= tolerance / 2) > distance.size
    if (brightest <= tolerance).any():  # it has black
        if fills and _is_grey(middle, tolerance):
            raise _doubt(name, "most of it is grey or white, and it has black and colours besides")
        return brightest
    if not fills:
        raise _doubt(name, "it is coloured without black, and no colour fills half of it")
    return distance if distance.any() else brightest


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
    """Return levels where some pixels are transparent: they are outside, whatever their colour."""
    opaque = colours[2 * alpha >= alpha.max()]
    black = opaque.max(1) <= (LOSSY_CONTRAST if lossy else 0)
    if black.all() or not black.any():
        return _above_darkest(alpha)
    raise _doubt(name, "it has transparent pixels and black ones, and both may be the background")


def _levels_of_palette(indices: MarkLevels, colours: NDArray[np.number], name: str) -> MarkLevels:
    """Return levels by the colours of a palette, or by its indices where all used colours look alike.

    Raises:
        InputError: Index 0, the background of class masks, and the colours contradict.
    """
    used, first = np.unique(indices, return_index=True)
    palette = colours.reshape(-1, colours.shape[2])[first]
    if len(used) > 1 and (palette == palette[0]).all():
        return _above_darkest(indices)
    if (black := int((palette.max(1) == 0).sum())) > 1:
        raise _doubt(name, f"its palette has {black} blacks")
    levels = _levels_of_colours(colours, lossy=False, name=name)
    if len(used) > 1 and used[0] == 0 and levels.flat[first[0]] > 0 and 2 * (indices == 0).mean() > 1:
        raise _doubt(name, "most of it has index 0 of its palette, and another index is darker")
    return levels


# ---------------------------------------------------------------------------------- from where on it counts


def _marked_levels(levels: MarkLevels, lossy: bool, name: str) -> Mask:
    """Mark every value above 0, if they are classes.

    Values of smoothed edges or noise, which fill no areas, belong to the areas beside them from half of the
    way up.
    """
    values, share = _shares_in_areas(levels)
    fills = share >= 0.5
    top = values[-1]
    if 8 * max(np.abs(np.diff(levels, axis=axis)).max(initial=0) for axis in (0, 1)) < top:
        raise _doubt(name, PHOTOGRAPH)
    if not lossy and (_counts_classes(levels, top) or _are_classes(values, fills)):
        return _marked_classes(levels, values)
    return _marked_above_noise(levels, values[fills & (values >= top / 8)], name)


def _counts_classes(levels: MarkLevels, top: np.number) -> bool:
    """Whether levels are so small integers that they number classes."""
    return bool(levels.dtype.kind != "f" and top <= MANY_CLASSES)


def _are_classes(values: MarkLevels, fills: Mask) -> bool:
    """Whether values are those of classes: all of them fill areas, or they are few, and none is noise."""
    if fills.all():
        return True
    top = values[-1]
    faint = (values > 0) & (values < top / 8)
    nearly = (values > top * 7 / 8) & ~fills
    is_noisy = not (faint & fills).any() and (faint.sum() > 1 or (faint.any() and nearly.any()))
    return len(values) <= FEW_VALUES and not is_noisy


def _shares_in_areas(levels: MarkLevels) -> tuple[NDArray[np.number], NDArray[np.float64]]:
    """Return the values that occur, and the share of each one's pixels in a square of 2 x 2 such pixels."""
    values = None
    places = levels
    if levels.dtype.kind == "f" or levels.max() > 65535:
        values, places = np.unique(levels, return_inverse=True)
        places = places.reshape(levels.shape)
    alike = places[:-1, :-1] == places[1:, :-1]
    alike &= (places[:-1, :-1] == places[:-1, 1:]) & (places[:-1, :-1] == places[1:, 1:])
    inside = np.zeros(levels.shape, bool)
    for rows, columns in ((0, 0), (0, 1), (1, 0), (1, 1)):
        inside[rows : rows + alike.shape[0], columns : columns + alike.shape[1]] |= alike
    counts = np.bincount(places.ravel())
    share = np.bincount(places[inside], minlength=len(counts)) / np.maximum(counts, 1)
    occurs = np.flatnonzero(counts)
    return occurs if values is None else values, share[occurs]


def _marked_classes(levels: MarkLevels, values: NDArray[np.number]) -> Mask:
    """Mark every value above 0 except those that occur on edges alone, between a lower and a higher one."""
    from scipy import ndimage

    marked: Mask = levels > 0
    if len(values) > 2:
        between = (ndimage.minimum_filter(levels, 3) < levels) & (levels < ndimage.maximum_filter(levels, 3))
        smoothed = np.setdiff1d(values[1:-1], levels[~between])
        if len(smoothed) > 1:  # a single one is a class
            near = ndimage.maximum_filter(np.where(np.isin(levels, smoothed), 0, levels), 5)
            marked &= ~np.isin(levels, smoothed) | (2 * levels >= near)
    return marked


def _marked_above_noise(levels: MarkLevels, filling: NDArray[np.number], name: str) -> Mask:
    """Mark the values that fill areas, and of the others those above half of them.

    Raises:
        InputError: Too much is neither: it is a photograph, or classes that noise has drowned.
    """
    from scipy import ndimage

    top = levels.max()
    exact = np.isin(levels, filling)
    flat = ndimage.maximum_filter(levels, 3) - ndimage.minimum_filter(levels, 3) <= LOSSY_CONTRAST // 2
    areas = np.where(exact | (flat & (levels >= max(top / 8, LOSSY_CONTRAST))), levels, 2 * top)
    near = ndimage.minimum_filter(areas, 5)
    marked: Mask = (2 * levels >= top) | (areas <= top) | (2 * levels >= near)
    square = np.ones((3, 3), bool)
    edges = ndimage.binary_dilation(marked, square) & ~ndimage.binary_erosion(marked, square, border_value=1)
    between = (levels > top * 0.1) & (levels < top * 0.9) & ~exact
    if between.sum() > max(3 * edges.sum(), 1) or between.mean() > 0.4:
        raise _doubt(name, PHOTOGRAPH)
    if ((levels > top * 0.02) & ~ndimage.maximum_filter(marked, 2 * NOISE_REACH + 1)).any():
        raise _doubt(name, "besides what is bright in it, other places are not quite dark")
    return marked
