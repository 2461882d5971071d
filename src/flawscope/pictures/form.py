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

MAX_SIDE = 4096  # pixels of a side at the network
MAX_CANVAS_PIXELS = 1 << 28  # of the canvas that is scaled to it, where that is larger than the picture
STEP = 16  # sides that follow from a form are multiples of it: the stride of the coarser feature map
LARGEST_SQUARE_FORM = 1.6  # factor from a square up to which pictures are stretched to one
MAX_ENLARGEMENT = 2.0  # times, along a side, up to which a form is better than a square
NEARLY_ALL = 0.9  # share of the pictures that a form must not stretch more than a square does
SAME_FORM = 1.1  # factor by which forms differ that count as the same
SAME_SIDE = 1.5  # factor by which sides differ that count as the same
MIXED_PICTURES = 5  # of one size, from which on it is no chance
MIXED_SHARE = 0.1  # of the pictures with one size, from which on it is no chance
MAX_LENGTH = 1e6  # mm of a pixel: a kilometre
SIZES_KEY = "picture_sizes"  # among a model's facts


def usual_form(sizes: Sequence[Size]) -> float:
    """Return the median of height by width.

    It is 1 where nearly all pictures would be stretched less to a square, or without any picture.
    """
    forms = sorted(height / width for height, width in sizes)
    usual = statistics.median_low(forms) if forms else 1.0

    def stretch(to: float) -> float:
        """Factor, as a logarithm, that nearly all are within."""
        factors = sorted(abs(math.log(form / to)) for form in forms)
        return factors[math.ceil(NEARLY_ALL * len(factors)) - 1] if factors else 0.0

    return usual if stretch(usual) <= 1.01 * stretch(1.0) else 1.0


def is_enlarged_much(side: int, sizes: Sequence[Size]) -> bool:
    """Whether `side`² pixels are more than `MAX_ENLARGEMENT`² times those of most pictures."""
    pixels = statistics.median_low(math.prod(size) for size in sizes) if sizes else math.inf
    return side**2 > MAX_ENLARGEMENT**2 * pixels


def size_in_form(side: int, form: float, step: int = STEP, smallest: int = 1) -> Size:
    """Return a size of about `side`² pixels in a form, its sides multiples of `step` and at least `smallest`.

    It is a square for forms within a factor of `LARGEST_SQUARE_FORM` of a square.
    """
    if max(form, 1 / form) <= LARGEST_SQUARE_FORM:
        return side, side
    longest = min(MAX_SIDE, side * side / max(smallest, step))
    long = max(side, min(longest, side * math.sqrt(max(form, 1 / form))))
    sides = [
        max(step, -(-smallest // step) * step, round(length / step) * step)
        for length in (side * side / long, long)
    ]
    short, long = sides
    return (long, short) if form > 1 else (short, long)


def size_text(size: Size) -> str:
    """Return a size in the form of `--size`: N or HxW."""
    height, width = size
    return f"{height}" if height == width else f"{height}x{width}"


def extreme_sizes(sizes: Iterable[Size]) -> list[Size]:
    """Return the smallest and largest of the sizes, and those of the widest and highest form: each once."""
    every = [*sizes]
    if not every:
        return []
    ends = (end(every, key=key) for key in (_form, _side) for end in (min, max))
    return list(dict.fromkeys(ends))


def known_sizes(facts: Facts) -> list[Size]:
    """Return sizes (`extreme_sizes`) of the pictures that a model learnt from; none where it states none."""
    try:
        return [(int(height), int(width)) for height, width in facts[SIZES_KEY] if min(height, width) > 0]
    except (KeyError, TypeError, ValueError):
        return []


def describe_other_form(size: Size, known: Sequence[Size]) -> tuple[str, bool]:
    """Describe a picture whose form or size is unlike the pictures that a model learnt from.

    Where the known forms or sizes differ more than usual, as much is allowed for the picture.

    Args:
        size: Size of the picture.
        known: Sizes of the pictures that the model learnt from.

    Returns:
        The description, empty where form and size are alike; and whether the form is unlike.
    """
    for key, factor, noun in ((_form, SAME_FORM, "form"), (_side, SAME_SIDE, "size")):
        low, high = (end(map(key, known), default=key(size)) for end in (min, max))
        factor = max(factor, high / low)
        if not low / factor <= key(size) <= high * factor:
            nearest = min(known, key=lambda known_size: abs(math.log(key(known_size) / key(size))))
            learnt = f"({nearest[1]} x {nearest[0]})"
            this_form = f"{size[1]} x {size[0]}"
            return f"{this_form} pixels, another {noun} than learnt from {learnt}", key is _form
    return "", False


def mixed_sizes(sizes: Sequence[Size]) -> str:
    """Name the sizes of pictures that seem to come from several cameras, with their counts; else empty.

    Such sizes differ, and each is that of a tenth of the pictures or more. A picture taken upright counts as
    the same picture taken across.
    """
    least = max(MIXED_PICTURES, MIXED_SHARE * len(sizes))
    across = Counter((min(size), max(size)) for size in sizes)
    often = [(size, n) for size, n in across.most_common() if n >= least]
    if not any(describe_other_form(size, [often[0][0]])[0] for size, _ in often[1:]):
        return ""
    return ", ".join(f"{width}x{height} ({n})" for (height, width), n in often)


def positive_length(value: object) -> float:
    """Return the millimetres of a pixel, above 0 to `MAX_LENGTH`.

    Raises:
        ValueError: It is any other value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_LENGTH:
        raise ValueError(value)
    return float(value)


def _form(size: Size) -> float:
    return size[0] / size[1]


def _side(size: Size) -> float:
    return math.sqrt(math.prod(size))
