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

MAX_STRAY_SHARE = 1e-4  # largest share of a picture's values that may be strays
MIN_STRAYS = 4  # number of values that may always be strays
MAX_STRAY_GROUP = 2  # largest number of stray pixels that touch
FULL = 65535  # means "no value" where all other values are below `FEW_BITS`
FEW_BITS = 1 << 14
SMALL_PART = 1 / 16  # share of the range from 0 to white: pictures that use less are stretched
# A value stands for missing data if its distance to the others is more than this multiple of their range
NO_DATA_GAP = 10
SINGLE_NO_DATA_GAP = 100  # the same for a single pixel
MARGIN = 0.25  # share of the used range added on either side: defects may be darker and brighter
# Pictures whose values reach four times as far as those of 90 % of the pictures are clipped
USUAL_SHARE = 0.9
UNUSUAL = 4
MIN_DEPTH_GAP = 8  # ratio of largest values from which on pictures have different numbers of bits


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
    """Return the range of values that a decoded picture [H, W, C] uses, without its stray pixels.

    Stray pixels are few, and their values lie far off all others.
    """
    low, high = float(picture.min()), float(picture.max())
    values = picture
    is_full_no_data = False  # whether the value `FULL` marks missing data
    if high == FULL and picture.dtype == np.uint16:
        below_full = picture[picture < FULL]
        if 2 * below_full.size > picture.size and below_full.max() < FEW_BITS:
            values = below_full
            is_full_no_data = True
    max_strays = max(MIN_STRAYS, int(values.size * MAX_STRAY_SHARE))
    if values.size <= 2 * max_strays:
        return UsedRange(low, high)
    # `inner` is the range without the `max_strays` lowest and highest values, which may be strays
    ordered = np.partition(values, (max_strays, values.size - 1 - max_strays), axis=None)
    inner_low = float(ordered[max_strays])
    inner_high = float(ordered[-1 - max_strays])
    inner_range = inner_high - inner_low
    is_outside = (picture < inner_low - inner_range) | (picture > inner_high + inner_range)
    if not is_outside.any():
        return UsedRange(low, high)
    from scipy.ndimage import label

    groups, _ = label(is_outside.any(axis=2), structure=np.ones((3, 3)))
    is_small = np.bincount(groups.ravel()) <= MAX_STRAY_GROUP  # a value for each group's number
    is_stray = is_small[groups]
    if is_full_no_data:
        is_stray |= (picture == FULL).any(axis=2)
    is_stray &= groups > 0  # group 0: pixels that are not outside
    other_values = picture[~is_stray]
    stray_values = picture[is_stray]
    if not stray_values.size or not other_values.size:
        return UsedRange(low, high)
    middle = (inner_low + inner_high) / 2
    farthest = float(stray_values.flat[np.abs(stray_values - np.float64(middle)).argmax()])
    return UsedRange(
        low=float(other_values.min()),
        high=float(other_values.max()),
        strays=int(is_stray.sum()),
        far=farthest,
    )


def no_data_value(picture: NDArray[np.floating]) -> float | None:
    """Return the value that stands for missing data in a picture of floats; None where there is none.

    Such a value, for example 1e6 or -9999, is the lowest or the highest, and lies far off all others.
    """
    for value in (float(picture.min()), float(picture.max())):
        if not _may_be_brightness(value) and _is_far_off(picture, value):
            return value
    return None


def _may_be_brightness(value: float) -> bool:
    """Whether a value may be the lowest or highest brightness: from 0 to 1, or a camera's 2^k - 1."""
    return 0 <= value <= 1 or (value > 0 and math.log2(value + 1).is_integer())


def _is_far_off(picture: NDArray[np.floating], value: float) -> bool:
    """Whether a value of a picture lies far off all other values; False where it fills a whole channel.

    Args:
        picture: The picture [H, W, C].
        value: Its lowest or highest value.
    """
    has_value = picture == np.float32(value)
    other_values = picture[~has_value]
    fills_channel = has_value.all(axis=(0, 1)).any()
    if fills_channel or not other_values.size:
        return False
    value_range = float(np.ptp(other_values))
    if value_range == 0:
        return False
    gap = float(np.abs(other_values - np.float32(value)).min())
    may_be_stuck_pixel = value > 0 and has_value.sum() == 1
    min_ratio = SINGLE_NO_DATA_GAP if may_be_stuck_pixel else NO_DATA_GAP
    return gap > min_ratio * value_range


def own_levels(picture: NDArray[np.number]) -> Levels:
    """Return the levels of a single deep picture.

    White is its highest value. Black is 0, or its lowest value if the picture uses only a small part of the
    range from 0 to white.
    """
    used = used_range(picture)
    is_small_part = 0 < used.high - used.low <= SMALL_PART * used.high
    return Levels(used.low if is_small_part else 0.0, max(used.high, 1e-6))


def white_of(high: float, kind: str) -> float:
    """Return the white level of deep pictures.

    Args:
        high: Largest value of the pictures.
        kind: "u" for integers: white is the next 2^k - 1, at least 255. "f" for floats: white is `high`, at
            least 1.
    """
    if kind == "f":
        return max(1.0, high)
    bits = max(8, math.ceil(high).bit_length())
    return float(2**bits - 1)


def common_levels(used: Sequence[UsedRange], kind: str) -> tuple[Levels, list[str]]:
    """Return levels for a set of deep pictures, and remarks on values that are clipped or stretched.

    Args:
        used: Range that each picture uses.
        kind: "u" for integers, whose white is the next 2^k - 1, at least 255; "f" for floats, whose white is
            at least 1.

    Raises:
        InputError: The values of all pictures lie below 0, or some are not finite.
    """
    highs = np.sort([picture.high for picture in used])
    lows = np.sort([picture.low for picture in used])
    if not (np.isfinite(highs).all() and highs[-1] >= 0):
        raise InputError(f"the largest pixel value is {highs[-1]}; expected a finite number of at least 0")
    # range that most pictures keep within
    rank = int(USUAL_SHARE * (len(used) - 1))
    usual_high = highs[rank]
    usual_low = lows[-1 - rank]
    tolerance = (UNUSUAL - 1) * (usual_high - usual_low)
    # range of the pictures that are not clipped
    unclipped_highs = highs[highs <= usual_high + tolerance]
    unclipped_lows = lows[lows >= usual_low - tolerance]
    high = float(unclipped_highs[-1])
    low = float(unclipped_lows[0])
    white = white_of(high, kind)
    lines = _depth_remarks(unclipped_highs, kind)
    levels = Levels(0.0, white)
    if 0 < high - low <= SMALL_PART * white:
        margin = MARGIN * (high - low)
        levels = Levels(max(0.0, low - margin), high + margin)
        line = (
            f"the pictures use only {low:g} to {high:g}: they are stretched, {levels.black:g} is black and "
            f"{levels.white:g} white"
        )
        lines.append(data_checks.SMALL_RANGE.coded(line))
    lines += _stray_remarks(used, levels)
    clipped_count = sum(picture.high > white or picture.low < levels.black for picture in used)
    if clipped_count:
        line = (
            f"{pluralize(clipped_count, 'picture')} go far beyond {levels.black:g} to {levels.white:g}, the "
            "range of nearly all others, and are clipped"
        )
        lines.append(data_checks.CLIPPED.coded(line))
    return levels, lines


def _stray_remarks(used: Iterable[UsedRange], levels: Levels) -> Iterator[str]:
    """Yield a remark on stray pixels beyond the levels, if there are some.

    Args:
        used: Range that each picture uses.
        levels: Levels of all pictures.
    """
    ranges_with_strays = []
    for picture_range in used:
        is_farthest_within = levels.black <= picture_range.far <= levels.white
        if picture_range.strays and not is_farthest_within:
            ranges_with_strays.append(picture_range)
    if not ranges_with_strays:
        return
    count = sum(picture_range.strays for picture_range in ranges_with_strays)
    farthest = max((picture_range.far for picture_range in ranges_with_strays), key=abs)
    is_bright = farthest > levels.white
    level_text = f"{levels.white:g}, white" if is_bright else f"{levels.black:g}, black"
    line = (
        f"{pluralize(count, 'stray pixel')} in {pluralize(len(ranges_with_strays), 'picture')}, such as "
        f"{farthest:g}, lie far off all others: they are taken for {level_text}"
    )
    yield data_checks.STRAY_PIXELS.coded(line)


def _depth_remarks(highs: NDArray[np.float64], kind: str) -> list[str]:
    """Return a remark if pictures seem to have several depths, such as 12 and 16 bits; else an empty list.

    The pictures of fewer bits would look nearly black beside the others.

    Args:
        highs: Largest value of each picture that is not clipped, ascending.
        kind: "u" for integers, "f" for floats, which have no depth.
    """
    if kind != "u" or highs.size < 4:
        return []
    previous_highs = np.maximum(highs[:-1], 1)
    next_highs = highs[1:]
    ratios = next_highs / previous_highs
    gap_place = int(ratios.argmax())  # the widest gap is above the picture at this place
    shallow_count = gap_place + 1
    deep_count = highs.size - shallow_count
    is_narrow = next_highs[gap_place] < MIN_DEPTH_GAP * previous_highs[gap_place]
    if is_narrow or min(shallow_count, deep_count) < 2:
        return []
    return [
        f"{pluralize(shallow_count, 'picture')} go up to {highs[gap_place]:g}, and {deep_count} up to "
        f"{highs[-1]:g}: the first look nearly black beside the others; store all with the same number of "
        "bits"
    ]


def widest(all_levels: Sequence[Levels]) -> Levels | None:
    """Return the levels from the darkest black to the brightest white; None for no levels."""
    if not all_levels:
        return None
    return Levels(min(levels.black for levels in all_levels), max(levels.white for levels in all_levels))
