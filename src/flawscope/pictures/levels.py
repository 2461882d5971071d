"""Black and white of pictures of more than 8 bits, from the values that they use, not from single pixels.

A stuck pixel of a 12-bit camera may say 65535: the largest value would make everything else sixteen times as
dark. Stray pixels are few, lie far beyond all others, and stand alone; what shines on a part does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError, data_checks, pluralize

# of a picture's values: more are no strays
MAX_STRAY_SHARE = 1e-4
MIN_STRAYS = 4
MAX_STRAY_GROUP = 2  # pixels that touch
# where all other values are below 2^14, 65535 means "no value"
FULL = 65535
FEW_BITS = 1 << 14
SMALL_PART = 1 / 16  # of the range from 0 to white: pictures that use less are stretched
# times the range of the others; for several pixels, and for one
NO_DATA_GAP = 10
SINGLE_NO_DATA_GAP = 100
MARGIN = 0.25  # of the used range, on either side: defects may be darker and brighter
# 90 % of pictures; those that reach four times as far are clipped
USUAL_SHARE = 0.9
UNUSUAL = 4
MIN_DEPTH_GAP = 8  # times as far as others: then pictures have another depth


class Levels(NamedTuple):
    """Values that are shown black and white, white above black."""

    black: float
    white: float


class UsedRange(NamedTuple):
    """Range of values that a picture uses, without its stray pixels.

    Attributes:
        low: Lowest value.
        high: Highest value.
        strays: Number of stray pixels.
        far: Value of the farthest stray pixel.
    """

    low: float
    high: float
    strays: int = 0
    far: float = 0.0


def used_range(picture: NDArray[np.number]) -> UsedRange:
    """Return the range of values that a decoded picture [H, W, C] uses."""
    low, high = float(picture.min()), float(picture.max())
    values = picture
    strays = 0
    if high == FULL and picture.dtype == np.uint16:
        below = picture[picture < FULL]
        if 2 * below.size > picture.size and below.max() < FEW_BITS:
            values = below
            strays = picture.size - below.size
    most = max(MIN_STRAYS, int(values.size * MAX_STRAY_SHARE))
    if values.size <= 2 * most:
        return UsedRange(low, high)
    ordered = np.partition(values, (most, values.size - 1 - most), axis=None)
    inner = float(ordered[most]), float(ordered[-1 - most])
    reach = inner[1] - inner[0]
    outside = (picture < inner[0] - reach) | (picture > inner[1] + reach)
    if not outside.any():
        return UsedRange(low, high)
    from scipy.ndimage import label

    groups, _ = label(outside.any(axis=2), structure=np.ones((3, 3)))
    alone = (np.bincount(groups.ravel()) <= MAX_STRAY_GROUP)[groups]
    alone |= (picture == FULL).any(axis=2) if strays else False
    alone &= groups > 0
    kept = picture[~alone]
    stray = picture[alone]
    if not stray.size or not kept.size:
        return UsedRange(low, high)
    middle = sum(inner) / 2
    far = float(stray.flat[np.abs(stray - np.float64(middle)).argmax()])
    return UsedRange(float(kept.min()), float(kept.max()), int(alone.sum()), far)


def no_data_value(picture: NDArray[np.floating]) -> float | None:
    """Return a float value that stands for missing data, such as 1e6 or -9999; None where there is none.

    All pixels without data have this one value, far off all others.
    """
    for value in (float(picture.min()), float(picture.max())):
        if not _may_be_brightness(value) and _is_far_off(picture, value):
            return value
    return None


def _may_be_brightness(value: float) -> bool:
    """Whether a value is a usual end of a picture's values: 0 to 1 are pictures; cameras end at 2^k - 1."""
    return 0 <= value <= 1 or (value > 0 and math.log2(value + 1).is_integer())


def _is_far_off(picture: NDArray[np.floating], value: float) -> bool:
    """Whether a picture's lowest or highest value lies far off all others.

    A value that fills a whole channel does not.
    """
    has_value = picture == np.float32(value)
    others = picture[~has_value]
    fills_channel = has_value.all(axis=(0, 1)).any()
    if fills_channel or not others.size:
        return False
    reach = float(np.ptp(others))
    if reach == 0:
        return False
    gap = float(np.abs(others - np.float32(value)).min())
    may_be_stuck_pixel = value > 0 and has_value.sum() == 1
    least_gap = SINGLE_NO_DATA_GAP if may_be_stuck_pixel else NO_DATA_GAP
    return gap > least_gap * reach


def own_levels(picture: NDArray[np.number]) -> Levels:
    """Return the levels of a single deep picture.

    Black is 0, unless the picture uses a small part of its range, and more than one value.
    """
    used = used_range(picture)
    small = 0 < used.high - used.low <= SMALL_PART * used.high
    return Levels(used.low if small else 0.0, max(used.high, 1e-6))


def white_of(high: float, kind: str) -> float:
    """Return the white of deep pictures whose largest value is `high`.

    Args:
        high: The largest value.
        kind: "u" for integers: white is the next 2^k - 1, at least 255. "f" for floats: at least 1.
    """
    return max(1.0, high) if kind == "f" else float((1 << max(8, math.ceil(high).bit_length())) - 1)


def common_levels(used: Sequence[UsedRange], kind: str) -> tuple[Levels, list[str]]:
    """Return levels for a set of deep pictures, and remarks on values that are clipped or stretched.

    Args:
        used: Range that each picture uses.
        kind: "u" for integers, whose white is the next 2^k - 1, at least 255; "f" for floats, whose white is
            at least 1.

    Raises:
        InputError: Their values lie below 0, or are not finite.
    """
    highs = np.sort([picture.high for picture in used])
    lows = np.sort([picture.low for picture in used])
    if not (np.isfinite(highs).all() and highs[-1] >= 0):
        raise InputError(f"the largest pixel value is {highs[-1]}; expected a finite number of at least 0")
    rank = int(USUAL_SHARE * (len(used) - 1))
    reach = (UNUSUAL - 1) * (highs[rank] - lows[-1 - rank])
    high = float(highs[highs <= highs[rank] + reach][-1])
    low = float(lows[lows >= lows[-1 - rank] - reach][0])
    white = white_of(high, kind)
    lines = _several_depths(highs[highs <= high], kind)
    levels = Levels(0.0, white)
    if 0 < high - low <= SMALL_PART * white:
        margin = MARGIN * (high - low)
        levels = Levels(max(0.0, low - margin), high + margin)
        line = (
            f"the pictures use only {low:g} to {high:g}: they are stretched, {levels.black:g} is black and "
            f"{levels.white:g} white"
        )
        lines.append(data_checks.SMALL_RANGE.coded(line))
    lines += _stray_pixels(used, levels)
    clipped = sum(picture.high > white or (picture.low < levels.black) for picture in used)
    if clipped:
        line = (
            f"{pluralize(clipped, 'picture')} go far beyond {levels.black:g} to {levels.white:g}, the range "
            "of nearly all others, and are clipped"
        )
        lines.append(data_checks.CLIPPED.coded(line))
    return levels, lines


def _stray_pixels(used: Iterable[UsedRange], levels: Levels) -> Iterator[str]:
    """Yield a remark on single pixels beyond the levels, where there are some."""
    beyond = [
        picture for picture in used if picture.strays and not levels.black <= picture.far <= levels.white
    ]
    if not beyond:
        return
    count = sum(picture.strays for picture in beyond)
    far = max(beyond, key=lambda picture: abs(picture.far)).far
    end = f"{levels.white:g}, white" if far > levels.white else f"{levels.black:g}, black"
    line = (
        f"{pluralize(count, 'stray pixel')} in {pluralize(len(beyond), 'picture')}, such as {far:g}, lie "
        f"far off all others: they are taken for {end}"
    )
    yield data_checks.STRAY_PIXELS.coded(line)


def _several_depths(highs: NDArray[np.float64], kind: str) -> list[str]:
    """Return a remark where pictures have several depths, such as 12 and 16 bits: one looks black.

    Args:
        highs: Largest value of each picture that is not clipped, ascending.
        kind: "u" for integers, "f" for floats, which have no depth.
    """
    if kind != "u" or highs.size < 4:
        return []
    below = np.maximum(highs[:-1], 1)
    above = highs[1:]
    first = int((above / below).argmax()) + 1  # of those that reach farther
    farther = highs.size - first
    if above[first - 1] < MIN_DEPTH_GAP * below[first - 1] or min(first, farther) < 2:
        return []
    return [
        f"{pluralize(first, 'picture')} go up to {highs[first - 1]:g}, and {farther} up to {highs[-1]:g}: "
        "the first look nearly black beside the others; store all with the same number of bits"
    ]


def widest(several: Sequence[Levels]) -> Levels | None:
    """Return levels from the darkest black to the brightest white; None without any."""
    if not several:
        return None
    return Levels(min(levels.black for levels in several), max(levels.white for levels in several))
