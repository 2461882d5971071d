"""Checks pictures given as numpy arrays, composites transparent ones over white, and finds thresholds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError, data_checks, unread_failure
from flawscope.pictures.levels import Levels, no_data_value, used_range

Float32 = NDArray[np.float32]

_ROWS_PER_BLOCK = 256  # of a picture that are made opaque at a time
TWELVE_BITS = 4095  # up to which 16-bit values are taken for those of a camera with fewer bits
TOLERANCE = 1e-3  # of the white level, by which floats may lie outside of 0 and it: resampling overshoots


def picture_error(name: str, reason: str, remedy: str) -> InputError:
    """Return the error of a picture that cannot be read: its name, the reason and the remedy."""
    return InputError(unread_failure(name, f"{' '.join(reason.split())}; {remedy}"))


def from_numpy(array: NDArray[np.number], name: str) -> NDArray[np.number]:
    """Check an array and convert it to the form of `decode`; uint8 of three channels is not copied."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise picture_error(
            name,
            f"its shape is {list(array.shape)}",
            "give [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], one picture at a time, channels last; with more "
            "channels fit with --channels all",
        )
    array = check_values(array, name)
    if array.shape[2] == 4:
        return _opaque(array[:, :, :3], array[:, :, 3:], name)
    return grey_as_rgb(array) if array.dtype == np.uint8 else array


def check_values(array: NDArray[np.number], name: str) -> NDArray[np.number]:
    """Check the values [H, W, C] of an array; floats become float32.

    Raises:
        InputError: Its values are not uint8, uint16 or finite floats, or it has none.
    """
    if array.ndim != 3 or array.size == 0:
        raise picture_error(
            name, f"it has no pixels (shape {list(array.shape)})", "give at least 1 x 1 pixels"
        )
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # beyond float32: infinity, which is refused
            return require_finite(array.astype(np.float32, copy=False), name)
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise picture_error(name, f"its dtype is {array.dtype}", "give uint8, uint16 or floats in 0..1")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def narrow_integers(values: NDArray[np.number]) -> NDArray[np.number]:
    """Convert other integers to uint8 or uint16 where they lie in 0..65535, else to float32."""
    if values.dtype.kind not in "iu" or values.dtype in (np.uint8, np.uint16):
        return values
    whole = np.uint8 if values.dtype == np.int8 else np.uint16
    return values.astype(whole if values.min() >= 0 and values.max() <= 65535 else np.float32)


def grey_with_alpha(values: NDArray[np.number], name: str) -> NDArray[np.number]:
    """Return deep grey [H, W, 1] of grey with alpha [H, W, 2], composited over white."""
    return _opaque(values[:, :, :1], values[:, :, 1:], name)


def _opaque(colours: NDArray[np.number], alpha: NDArray[np.number], name: str) -> NDArray[np.number]:
    """Composite colours [H, W, C] over white, by their alpha [H, W, 1]."""
    lowest = alpha.min()
    highest = alpha.max()
    if lowest == highest:  # it says nothing, such as 0 in the unused fourth channel of a camera's BGRX
        return colours
    if colours.dtype == np.uint8:
        rgba = np.concatenate([colours, alpha], 2)
        return np.asarray(composite_over_white(Image.fromarray(rgba)))
    full = np.float32(65535 if colours.dtype == np.uint16 else 1)
    if highest != full or lowest < 0:
        reason = f"its alpha goes from {lowest:g} to {highest:g}, not up to {full:g}"
        raise picture_error(name, reason, "scale it, or leave the fourth channel out")
    share = alpha.astype(np.float32) / full
    blended = colours * share + full * (1 - share)
    if colours.dtype == np.uint16:
        np.add(blended, 0.5, out=blended)
    return blended.astype(colours.dtype)


def composite_over_white(image: Image.Image) -> Image.Image:
    """Convert any 8-bit mode to L or RGB; transparent pixels show white.

    An alpha that is the same everywhere says nothing about the pixels, and is left out.
    """
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    if image.mode in ("1", "L", "LA"):
        opaque = "L"
        with_alpha = "LA"
    else:
        opaque = "RGB"
        with_alpha = "RGBA"
    if image.mode not in ("LA", "RGBA", "PA") and "transparency" not in image.info:
        return image.convert(opaque)
    blocks = range(0, image.height, _ROWS_PER_BLOCK)  # the whole picture would be held five times

    def rows(top: int) -> Image.Image:
        return image.crop((0, top, image.width, min(top + _ROWS_PER_BLOCK, image.height))).convert(with_alpha)

    ranges = [rows(top).getchannel("A").getextrema() for top in blocks]
    says_nothing = min(low for low, _ in ranges) == max(high for _, high in ranges)
    paper = Image.new(opaque, image.size, "white")
    for top in blocks:
        block = rows(top)
        paper.paste(block.convert(opaque), (0, top), None if says_nothing else block.getchannel("A"))
    return paper


def grey_as_rgb(array: NDArray[np.number]) -> NDArray[np.number]:
    """Return uint8 [H, W] or [H, W, 1 or 3] as [H, W, 3]; grey channels share their memory (stride 0)."""
    if array.ndim == 2:
        array = array[:, :, None]
    return np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[2] == 1 else array


def require_finite(values: Float32, name: str) -> Float32:
    """Return float values if all are finite and none stands for missing data.

    Raises:
        InputError: Some are NaN or infinite, or some have one value far off all others (`no_data_value`).
    """
    if not (math.isfinite(values.min()) and math.isfinite(values.max())):  # NaN goes through min and max
        raise picture_error(name, "some pixels are not finite numbers", "replace NaN and infinity first")
    if (none := no_data_value(values)) is not None:
        reason = f"some pixels are {none:g}, far off all others, as where there is no data"
        remedy = data_checks.NO_DATA.coded("replace them by values like those around them")
        raise picture_error(name, reason, remedy)
    return values


def otsu(values: NDArray[np.number]) -> tuple[float, float]:
    """Return Otsu's threshold, and the share of the variance that it explains, 0..1.

    Source:
        Otsu, IEEE Transactions on Systems, Man and Cybernetics 9, 1979.
    """
    counts, edges = np.histogram(values, bins=128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    total = counts.sum()
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / (total - below)
        between = np.nan_to_num(below / total * (1 - below / total) * gap**2)
    best = int(between.argmax())
    variance = float(values.var())
    return float(edges[best + 1]), float(between[best] / variance) if variance > 0 else 0.0


def check_picture(picture: NDArray[np.number], name: str = "picture") -> None:
    """Raise InputError for anything but a picture [H, W, 3] uint8.

    Textures in 0..1 pasted into pictures in 0..255 have made defects invisible elsewhere.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"A {name} is [H, W, 3] uint8 in 0..255, not {list(picture.shape)} {picture.dtype}.")


def check_depth(picture: NDArray[np.number], white: float | None, black: float | None, name: str) -> None:
    """Raise InputError for a deep picture whose values lie far off a model's levels.

    With these levels it would look black or white.

    Args:
        picture: The decoded picture.
        white: White level of the model; None: it learnt from 8-bit pictures.
        black: Black level of the model; None: it has none, like earlier models.
        name: Name of the picture, for the error.
    """
    level = white or (65535.0 if picture.dtype == np.uint16 else 1.0)
    lowest = float(picture.min())
    largest = float(picture.max())
    if black is not None and largest > level:
        largest = used_range(picture).high  # stray pixels are clipped
    if lowest < -TOLERANCE * level:
        remedy = f"replace values that say no data, or scale it to 0..{level:g}, where 0 is black"
        raise picture_error(name, f"its values go down to {lowest:g}", remedy)
    if picture.dtype != np.uint16:
        _check_floats(largest, white, black, name)
    elif white is None and 0 < largest <= TWELVE_BITS:
        raise picture_error(
            name,
            f"its 16-bit values go up to {largest:g}, and the model learnt from 8-bit pictures",
            "fit on pictures like this one, or scale it to 0..65535",
        )
    _check_median(picture, Levels(lowest, largest), Levels(black or 0.0, level), name)


def _check_median(picture: NDArray[np.number], used: Levels, levels: Levels, name: str) -> None:
    """Raise InputError where half of a picture's values lie beyond a model's black or white level.

    Args:
        picture: The decoded picture.
        used: Lowest and largest value of the picture.
        levels: Levels of the model.
        name: Name of the picture, for the error.
    """
    black, white = levels
    has_brighter = used.white > 2 * white - black
    has_darker = used.black < 2 * black - white
    if not has_brighter and not has_darker:
        return
    middle = float(np.median(picture))
    if has_brighter and middle > white:
        reason = f"half of its values lie above the model's white level of {white:g}, up to {used.white:g}"
    elif has_darker and middle < black:
        reason = f"half of its values lie below the model's black level of {black:g}, down to {used.black:g}"
    else:
        return
    raise picture_error(name, reason, "fit on pictures of this depth, or scale it")


def _check_floats(largest: float, white: float | None, black: float | None, name: str) -> None:
    """Raise InputError for floats up to `largest` in another unit than the levels of a model."""
    level = white or 1.0
    is_unit = level == 1 or (level < 1 and black is None)
    if is_unit and largest > level * (1 + TOLERANCE):
        which = "no white level is set" if white is None else f"the white level is {level:g}"
        remedy = "divide it by 255 first" if largest <= 255 else "divide it first"
        raise picture_error(name, f"its floats go up to {largest:g} and {which}", remedy)
    if level >= 255 and 0 < largest <= 1:
        raise picture_error(name, f"its floats are in 0..1, the white level is {level:g}", "multiply it")
