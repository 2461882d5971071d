"""Checks pictures given as numpy arrays, composites transparent ones over white, and finds thresholds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError, data_checks, unread_failure
from flawscope.pictures.levels import Levels, no_data_value, used_range

Float32 = NDArray[np.float32]

_ROWS_PER_BLOCK = 256  # number of rows that are made opaque at a time
TWELVE_BITS = 4095  # 16-bit values up to this one are taken for those of a camera with fewer bits
# Share of the white level by which floats may lie below 0 or above the white level: resampling overshoots
TOLERANCE = 1e-3


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
    """Check the values [H, W, C] of an array, and return them; floats become float32.

    Raises:
        InputError: The values are not uint8, uint16 or finite floats, or there are none.
    """
    if array.ndim != 3 or array.size == 0:
        raise picture_error(
            name, f"it has no pixels (shape {list(array.shape)})", "give at least 1 x 1 pixels"
        )
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # values too large for float32 become infinity, which is refused
            return require_finite(array.astype(np.float32, copy=False), name)
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise picture_error(name, f"its dtype is {array.dtype}", "give uint8, uint16 or floats in 0..1")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def narrow_integers(values: NDArray[np.number]) -> NDArray[np.number]:
    """Convert other integers to uint8 or uint16 where they lie in 0..65535, else to float32."""
    if values.dtype.kind not in "iu" or values.dtype in (np.uint8, np.uint16):
        return values
    if values.min() < 0 or values.max() > 65535:
        return values.astype(np.float32)
    return values.astype(np.uint8 if values.dtype == np.int8 else np.uint16)


def grey_with_alpha(values: NDArray[np.number], name: str) -> NDArray[np.number]:
    """Composite deep grey with alpha [H, W, 2] over white; return grey [H, W, 1]."""
    return _opaque(values[:, :, :1], values[:, :, 1:], name)


def _opaque(colours: NDArray[np.number], alpha: NDArray[np.number], name: str) -> NDArray[np.number]:
    """Composite colours [H, W, C] over white, by their alpha [H, W, 1].

    Raises:
        InputError: The alpha of deep colours is not in 0..65535 or 0..1, or has no opaque pixel.
    """
    lowest = alpha.min()
    highest = alpha.max()
    if lowest == highest:  # no transparency: for example, 0 in the unused fourth channel of a camera's BGRX
        return colours
    if colours.dtype == np.uint8:
        rgba = np.concatenate([colours, alpha], 2)
        return np.asarray(composite_over_white(Image.fromarray(rgba)))
    opaque_alpha = np.float32(65535 if colours.dtype == np.uint16 else 1)
    if highest != opaque_alpha or lowest < 0:
        reason = f"its alpha goes from {lowest:g} to {highest:g}, not up to {opaque_alpha:g}"
        raise picture_error(name, reason, "scale it, or leave the fourth channel out")
    share = alpha.astype(np.float32) / opaque_alpha
    blended = colours * share + opaque_alpha * (1 - share)
    if colours.dtype == np.uint16:
        np.add(blended, 0.5, out=blended)  # so that the conversion below rounds
    return blended.astype(colours.dtype)


def composite_over_white(image: Image.Image) -> Image.Image:
    """Convert any 8-bit mode to L or RGB; transparent pixels show white.

    An alpha that is the same everywhere says nothing about the pixels, and is left out.
    """
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    is_grey = image.mode in ("1", "L", "LA")
    opaque_mode = "L" if is_grey else "RGB"
    alpha_mode = "LA" if is_grey else "RGBA"
    if image.mode not in ("LA", "RGBA", "PA") and "transparency" not in image.info:
        return image.convert(opaque_mode)
    tops = range(0, image.height, _ROWS_PER_BLOCK)  # in blocks, since all at once take five times the memory

    def block_at(top: int) -> Image.Image:
        bottom = min(top + _ROWS_PER_BLOCK, image.height)
        return image.crop((0, top, image.width, bottom)).convert(alpha_mode)

    alpha_ranges = [block_at(top).getchannel("A").getextrema() for top in tops]
    is_constant = min(low for low, _ in alpha_ranges) == max(high for _, high in alpha_ranges)
    canvas = Image.new(opaque_mode, image.size, "white")
    for top in tops:
        block = block_at(top)
        canvas.paste(block.convert(opaque_mode), (0, top), None if is_constant else block.getchannel("A"))
    return canvas


def grey_as_rgb(array: NDArray[np.number]) -> NDArray[np.number]:
    """Return uint8 [H, W] or [H, W, 1 or 3] as [H, W, 3]; grey channels share their memory (stride 0)."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] > 1:
        return array
    return np.broadcast_to(array, (*array.shape[:2], 3))


def require_finite(values: Float32, name: str) -> Float32:
    """Return float values if all are finite and none stands for missing data.

    Raises:
        InputError: Some values are NaN or infinite, or one value lies far off all others (`no_data_value`).
    """
    if not (math.isfinite(values.min()) and math.isfinite(values.max())):  # NaN goes through min and max
        raise picture_error(name, "some pixels are not finite numbers", "replace NaN and infinity first")
    missing_value = no_data_value(values)
    if missing_value is not None:
        reason = f"some pixels are {missing_value:g}, far off all others, as where there is no data"
        remedy = data_checks.NO_DATA.coded("replace them by values like those around them")
        raise picture_error(name, reason, remedy)
    return values


def otsu(values: NDArray[np.number]) -> tuple[float, float]:
    """Return Otsu's threshold, and the share of the variance that it explains, 0..1.

    Source:
        Otsu, IEEE Transactions on Systems, Man and Cybernetics 9, 1979.
    """
    counts, edges = np.histogram(values, bins=128)
    bin_centres = (edges[:-1] + edges[1:]) / 2
    total = counts.sum()
    sums = np.cumsum(counts * bin_centres)
    # from here on, arrays have a value for each inner edge as the threshold
    counts_below = np.cumsum(counts)[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        means_below = sums[:-1] / counts_below
        means_above = (sums[-1] - sums[:-1]) / (total - counts_below)
        shares_below = counts_below / total
        variances_between = np.nan_to_num(
            shares_below * (1 - shares_below) * (means_below - means_above) ** 2
        )
    best = int(variances_between.argmax())
    threshold = float(edges[best + 1])  # the inner edges begin with edges[1]
    variance = float(values.var())
    explained_share = float(variances_between[best] / variance) if variance > 0 else 0.0
    return threshold, explained_share


def check_picture(picture: NDArray[np.number], name: str = "picture") -> None:
    """Raise InputError for anything but a picture [H, W, 3] uint8.

    Values in 0..1 are refused, too: pasted into a picture in 0..255 they would be invisible.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"A {name} is [H, W, 3] uint8 in 0..255, not {list(picture.shape)} {picture.dtype}.")


def check_depth(picture: NDArray[np.number], white: float | None, black: float | None, name: str) -> None:
    """Raise InputError for a deep picture whose values do not fit a model's black and white levels.

    With these levels the picture would look all black or all white.

    Args:
        picture: The decoded picture.
        white: White level of the model; None: it learnt from 8-bit pictures.
        black: Black level of the model; None: a model of an earlier version, which has none.
        name: Name of the picture, for the error.
    """
    white_level = white or (65535.0 if picture.dtype == np.uint16 else 1.0)
    lowest = float(picture.min())
    largest = float(picture.max())
    if black is not None and largest > white_level:
        largest = used_range(picture).high  # a few very bright pixels do not count
    if lowest < -TOLERANCE * white_level:
        remedy = f"replace values that say no data, or scale it to 0..{white_level:g}, where 0 is black"
        raise picture_error(name, f"its values go down to {lowest:g}", remedy)
    if picture.dtype != np.uint16:
        _check_floats(largest, white, black, name)
    elif white is None and 0 < largest <= TWELVE_BITS:
        raise picture_error(
            name,
            f"its 16-bit values go up to {largest:g}, and the model learnt from 8-bit pictures",
            "fit on pictures like this one, or scale it to 0..65535",
        )
    used_levels = Levels(lowest, largest)
    model_levels = Levels(black or 0.0, white_level)
    _check_median(picture, used_levels, model_levels, name)


def _check_median(picture: NDArray[np.number], used: Levels, levels: Levels, name: str) -> None:
    """Raise InputError where half of a picture's values lie below a model's black or above its white level.

    Args:
        picture: The decoded picture.
        used: Lowest value (black) and largest value (white) of the picture.
        levels: Levels of the model.
        name: Name of the picture, for the error.
    """
    black, white = levels
    # the median takes time, and is computed only where some values are beyond a level by white - black
    has_brighter = used.white > 2 * white - black
    has_darker = used.black < 2 * black - white
    if not has_brighter and not has_darker:
        return
    median = float(np.median(picture))
    if has_brighter and median > white:
        reason = f"half of its values lie above the model's white level of {white:g}, up to {used.white:g}"
    elif has_darker and median < black:
        reason = f"half of its values lie below the model's black level of {black:g}, down to {used.black:g}"
    else:
        return
    raise picture_error(name, reason, "fit on pictures of this depth, or scale it")


def _check_floats(largest: float, white: float | None, black: float | None, name: str) -> None:
    """Raise InputError for a picture of floats whose scale (0..1, 0..255) is not the model's.

    Args:
        largest: Largest value of the picture.
        white: White level of the model; None: it learnt from 8-bit pictures.
        black: Black level of the model; None: a model of an earlier version, which has none.
        name: Name of the picture, for the error.
    """
    level = white or 1.0
    # a white of 1 means 0..1; one below 1 is that of a stretched range, except in models of earlier versions
    expects_unit_range = level == 1 or (level < 1 and black is None)
    if expects_unit_range and largest > level * (1 + TOLERANCE):
        level_text = "no white level is set" if white is None else f"the white level is {level:g}"
        remedy = "divide it by 255 first" if largest <= 255 else "divide it first"
        raise picture_error(name, f"its floats go up to {largest:g} and {level_text}", remedy)
    if level >= 255 and 0 < largest <= 1:
        raise picture_error(name, f"its floats are in 0..1, the white level is {level:g}", "multiply it")
