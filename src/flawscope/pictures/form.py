"""The form of pictures: their height by their width. Torch-free.

A size of one number, N, means N² pixels in the form that the good pictures have, so that nothing is
stretched. Sizes are (height, width).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flawscope.types import Facts

Size = tuple[int, int]

MAX_SIDE = 4096  # largest side at the network, in pixels
MAX_CANVAS_PIXELS = 1 << 28  # largest canvas, which is scaled to the network, where it exceeds the picture
STEP = 16  # sides that follow from a form are multiples of it: the stride of the coarser feature map
LARGEST_SQUARE_FORM = 1.6  # ratio of sides up to which pictures are stretched to a square
MAX_ENLARGEMENT = 2.0  # factor along a side, up to which a form is better than a square
NEARLY_ALL = 0.9  # share of the pictures that a form must not stretch more than a square does
SAME_FORM = 1.1  # factor by which forms may differ that count as the same
SAME_SIDE = 1.5  # factor by which sides may differ that count as the same
MIXED_PICTURES = 5  # number of pictures from which on a size is no chance
MIXED_SHARE = 0.1  # share of the pictures from which on a size is no chance
MAX_LENGTH = 1e6  # largest length of a pixel in mm: a kilometre
SIZES_KEY = "picture_sizes"  # key of a model's facts


def usual_form(sizes: Sequence[Size]) -> float:
    """Return the usual form (height / width) of pictures: the median, or 1 for a square.

    The form is 1 if there is no picture. It is also 1 if the square stretches nearly all pictures less than
    the median form does.
    """
    forms = sorted(height / width for height, width in sizes)
    if not forms:
        return 1.0
    median_form = statistics.median_low(forms)

    def usual_stretch(target: float) -> float:
        """Return the log of the factor by which a form stretches nearly all pictures at most."""
        logs = sorted(abs(math.log(form / target)) for form in forms)
        return logs[math.ceil(NEARLY_ALL * len(logs)) - 1]

    return median_form if usual_stretch(median_form) <= 1.01 * usual_stretch(1.0) else 1.0


def is_enlarged_much(side: int, sizes: Sequence[Size]) -> bool:
    """Whether `side`² pixels are more than `MAX_ENLARGEMENT`² times the pixels of most pictures."""
    pixels = statistics.median_low(math.prod(size) for size in sizes) if sizes else math.inf
    return side**2 > MAX_ENLARGEMENT**2 * pixels


def size_in_form(side: int, form: float, step: int = STEP, smallest: int = 1) -> Size:
    """Return a size (height, width) of about `side`² pixels in a form.

    The sides are multiples of `step`. Forms within a factor of `LARGEST_SQUARE_FORM` of a square become the
    square (side, side).

    Args:
        side: Side of a square with as many pixels.
        form: Height / width.
        step: Number that the sides are multiples of.
        smallest: Smallest length of a side.
    """
    elongation = max(form, 1 / form)
    if elongation <= LARGEST_SQUARE_FORM:
        return side, side
    max_length = min(MAX_SIDE, side * side / max(smallest, step))
    long_side = max(side, min(max_length, side * math.sqrt(elongation)))
    short_side = side * side / long_side
    # both as multiples of `step`
    min_side = max(step, math.ceil(smallest / step) * step)
    rounded_short = max(min_side, round(short_side / step) * step)
    rounded_long = max(min_side, round(long_side / step) * step)
    is_upright = form > 1
    return (rounded_long, rounded_short) if is_upright else (rounded_short, rounded_long)


def size_text(size: Size) -> str:
    """Return a size in the form of `--size`: N or HxW."""
    height, width = size
    return f"{height}" if height == width else f"{height}x{width}"


def extreme_sizes(sizes: Iterable[Size]) -> list[Size]:
    """Return the sizes of the widest and of the highest form, and the smallest and the largest size.

    A size that is several of these is listed once.
    """
    all_sizes = [*sizes]
    if not all_sizes:
        return []
    extremes = [
        min(all_sizes, key=_form),
        max(all_sizes, key=_form),
        min(all_sizes, key=_side),
        max(all_sizes, key=_side),
    ]
    return list(dict.fromkeys(extremes))


def known_sizes(facts: Facts) -> list[Size]:
    """Return the extreme sizes of the pictures that a model learnt from; empty where they are not known."""
    try:
        return [(int(height), int(width)) for height, width in facts[SIZES_KEY] if min(height, width) > 0]
    except (KeyError, TypeError, ValueError):
        return []


def describe_other_form(size: Size, known: Sequence[Size]) -> tuple[str, bool]:
    """Describe a picture whose form or size is unlike the pictures that a model learnt from.

    The more the known forms (or sizes) differ among each other, the more the picture may differ from them.

    Args:
        size: Size of the picture.
        known: Sizes of the pictures that the model learnt from.

    Returns:
        The description, and whether the form is another one (False: at most the size is). The description is
        empty where form and size are as known.
    """
    if not known:
        return "", False
    height, width = size
    for measure, same_factor, noun in ((_form, SAME_FORM, "form"), (_side, SAME_SIDE, "size")):
        value = measure(size)
        known_values = [measure(known_size) for known_size in known]
        low, high = min(known_values), max(known_values)
        factor = max(same_factor, high / low)
        if low / factor <= value <= high * factor:
            continue
        distances = [abs(math.log(known_value / value)) for known_value in known_values]
        known_height, known_width = known[distances.index(min(distances))]
        description = (
            f"{width} x {height} pixels, another {noun} than learnt from ({known_width} x {known_height})"
        )
        return description, measure is _form
    return "", False


def mixed_sizes(sizes: Sequence[Size]) -> str:
    """Return, in words, the sizes of pictures that seem to come from several cameras; else an empty text.

    This is the case if at least two different sizes are frequent, each with a tenth of the pictures or more.
    The orientation does not count: 640 x 480 and 480 x 640 are the same size.
    """
    min_count = max(MIXED_PICTURES, MIXED_SHARE * len(sizes))
    counts = Counter((min(size), max(size)) for size in sizes)
    frequent = [(size, count) for size, count in counts.most_common() if count >= min_count]
    if len(frequent) < 2:
        return ""
    usual_size, _ = frequent[0]
    descriptions = [describe_other_form(size, [usual_size]) for size, _ in frequent[1:]]
    if not any(description for description, _ in descriptions):
        return ""
    return ", ".join(f"{width}x{height} ({count})" for (height, width), count in frequent)


def positive_length(value: object) -> float:
    """Check the length of a pixel in millimetres, above 0 and at most `MAX_LENGTH`, and return it.

    Raises:
        ValueError: The value is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_LENGTH:
        raise ValueError(value)
    return float(value)


def _form(size: Size) -> float:
    """Return height by width."""
    height, width = size
    return height / width


def _side(size: Size) -> float:
    """Return the side of a square with as many pixels."""
    return math.sqrt(math.prod(size))
