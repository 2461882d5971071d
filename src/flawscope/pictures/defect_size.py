"""Sizes of small defects in pictures that are scaled to a network's size. Torch-free.

Sizes are (height, width), defects are measured along their longer side, in pixels.

`MIN_PIXELS` was measured with PatchCore (bench/NOTES.md): of spots a quarter of full scale darker or
brighter than what they lie on, these shares were found at 5 % false alarms, mean of one size of 256, 384 and
512 px:

    network pixels   4    6    8    10   12   16
    plate           .56  .63  .80  .91  .84  .96
    board           .39  .48  .57  .81  .88  .96
    fabric          .05  .05  .12  .30  .53  .83

At 16 nearly all are found, on a strong texture most; at 10 one in five is missed on boards. More costs time:
the number of tiles grows with the square. Beyond twice the picture's own resolution there is nothing to see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flawscope.errors import InputError, decimal_point
from flawscope.pictures.form import MAX_CANVAS_PIXELS, STEP, Size, size_in_form, size_text, usual_form

MIN_PIXELS = 16.0  # of a defect at the network, pixels
MAX_ENLARGEMENT = 2.0  # times
DEFAULT_SIZE = 512  # the larger of PatchCore's two, in the pictures' form
TILE_SIZE = 512  # of a tile at the network, in the pictures' form
MIN_REMARKED_REDUCTION = 4.0  # times reduced: from here on a picture deserves a remark
SMALL = 20.0  # pixels: the defect that `reduction_remark` speaks of


def parse_pixels(text: str | float) -> float:
    """Return 20, "20" or "20px" as a number of pixels.

    Raises:
        InputError: It is any other text, or a value not above 0.
    """
    try:
        number = decimal_point(str(text).lower()).strip()
        value = float(number.removesuffix("px"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{text!r} is not the size of a defect: write its pixels, such as 20px")
    return value


def pixels_left(defect: float, picture: Size, network: Size) -> float:
    """Return the pixels that a defect of `defect` picture pixels has at the network.

    They are counted along the side that is reduced most.

    Args:
        defect: Length of the defect in picture pixels.
        picture: Size of the picture.
        network: Size that the picture is scaled to; of several sizes, the largest.
    """
    return defect * min(small / large for small, large in zip(network, picture, strict=True))


def choose_tile(
    min_defect: float, pictures: Sequence[Size], whole: Size, step: int = STEP
) -> tuple[Size, float] | None:
    """Return the tile size, in picture pixels, and the scale at which small defects are large enough.

    A defect of `min_defect` pixels then has `MIN_PIXELS` at the network; fewer where that would enlarge the
    picture more than `MAX_ENLARGEMENT` times. The tile has the pictures' form, since the whole picture is
    seen at its size, too, and is no larger than they are: the network's size, tile divided by scale, is then
    smaller than `TILE_SIZE`².

    Args:
        min_defect: Length of the smallest defect in picture pixels.
        pictures: Sizes of the pictures.
        whole: Size that whole pictures are scaled to.
        step: Number that the sides at the network are multiples of.

    Returns:
        The tile (H, W) and the scale: picture pixels to one of the network. None where pictures scaled to
        `whole` show the defect large enough: no tiles are needed.
    """
    if all(pixels_left(min_defect, picture, whole) >= MIN_PIXELS for picture in pictures):
        return None
    scale = max(1 / MAX_ENLARGEMENT, min_defect / MIN_PIXELS)
    if scale < 1:  # the largest picture's canvas stays below the limit
        largest = max(math.prod(size) for size in pictures)
        scale = max(scale, min(1.0, 1.01 * math.sqrt(largest / MAX_CANVAS_PIXELS)))
    form = usual_form(pictures)
    tile = size_in_form(TILE_SIZE, form, step)
    height = min(round(tile[0] * scale), *(picture[0] for picture in pictures))
    width = min(round(tile[1] * scale), *(picture[1] for picture in pictures))
    return (height, width), scale


def default_network(pictures: Sequence[Size]) -> Size:
    """Return the size that pictures are scaled to by default, of several the largest."""
    return size_in_form(DEFAULT_SIZE, usual_form(pictures))


def reduction_remark(pictures: Sequence[Size], network: Size | None = None) -> tuple[str, str] | None:
    """Return a remark on how small a defect of `SMALL` pixels becomes in scaled pictures, and the remedy.

    The remark is about the largest picture. None where a picture is reduced less than
    `MIN_REMARKED_REDUCTION` times.

    Args:
        pictures: Sizes of the pictures.
        network: Size that they are scaled to, of several the largest; None: the default.
    """
    size = network or default_network(pictures)
    picture = min(pictures, key=lambda picture_size: pixels_left(1, picture_size, size), default=size)
    left = pixels_left(SMALL, picture, size)
    if left > SMALL / MIN_REMARKED_REDUCTION:
        return None
    where = f"size {size_text(size)}," if network else f"the default size, {size_text(size)} px,"
    height, width = picture
    message = (
        f"pictures are {width}x{height} and seen at {where} where a defect {SMALL:g} px long is only "
        f"{left:.1f} px long"
    )
    return message, f"to find such small ones give fit --min-defect {SMALL:g}px, or --tile"
