"""Sizes of small defects in pictures that are scaled to a network's size. Torch-free.

Sizes are (height, width), defects are measured along their longer side, in pixels.

`MIN_PIXELS` was measured with PatchCore (bench/NOTES.md): of spots a quarter of full scale darker or
brighter than what they lie on, these shares were found at 5 % false alarms, mean of one size of 256, 384 and
512 px:

    network pixels   4    6    8    10   12   16
    plate           .56  .63  .80  .91  .84  .96
    board           .39  .48  .57  .81  .88  .96
    fabric          .05  .05  .12  .30  .53  .83

At 16 pixels nearly all are found, on a strong texture most; at 10 one in five is missed on boards. More
pixels cost time: the number of tiles grows with their square. Enlarging a picture more than twice shows no
more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flawscope.errors import InputError, decimal_point
from flawscope.pictures.form import MAX_CANVAS_PIXELS, STEP, Size, size_in_form, size_text, usual_form

MIN_PIXELS = 16.0  # length in pixels that a defect should have at the network
MAX_ENLARGEMENT = 2.0  # largest factor by which a picture is enlarged
DEFAULT_SIZE = 512  # larger of PatchCore's two sizes, in the pictures' form
TILE_SIZE = 512  # size of a tile at the network, in the pictures' form
MIN_REMARKED_REDUCTION = 4.0  # factor of reduction from which on a picture deserves a remark
SMALL = 20.0  # length in pixels of the defect in `reduction_remark`


def parse_pixels(text: str | float) -> float:
    """Return 20, "20" or "20px" as a number of pixels.

    Raises:
        InputError: The text is written otherwise, or its number is not above 0.
    """
    try:
        number_text = decimal_point(str(text).lower()).strip()
        value = float(number_text.removesuffix("px"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{text!r} is not the size of a defect: write its pixels, such as 20px")
    return value


def pixels_left(defect: float, picture: Size, network: Size) -> float:
    """Return the length of a defect in the scaled picture, in pixels, along the side that is reduced most.

    Args:
        defect: Length of the defect in picture pixels.
        picture: Size of the picture.
        network: Size that the picture is scaled to; of several sizes, the largest.
    """
    scales = [to_side / from_side for to_side, from_side in zip(network, picture, strict=True)]
    return defect * min(scales)


def choose_tile(
    min_defect: float, pictures: Sequence[Size], whole: Size, step: int = STEP
) -> tuple[Size, float] | None:
    """Return the tile size and the scale at which small defects are large enough.

    - In a tile of this size, a defect of `min_defect` pixels has `MIN_PIXELS` at the network. It has fewer if
      the picture would have to be enlarged more than `MAX_ENLARGEMENT` times, or would not fit on the largest
      canvas.
    - The tile has the pictures' form, since the network also gets the whole picture, scaled to the size of a
      tile.
    - The tile is no larger than the smallest picture. So if pictures are small, a tile has fewer than
      `TILE_SIZE`² pixels at the network (tile divided by scale).

    Args:
        min_defect: Length of the smallest defect in picture pixels.
        pictures: Sizes of the pictures.
        whole: Size that whole pictures are scaled to.
        step: Number that the sides at the network are multiples of.

    Returns:
        The tile (H, W) in picture pixels, and the scale: the number of picture pixels along a pixel of the
        network. None where no tiles are needed: pictures scaled to `whole` show the defect large enough.
    """
    if all(pixels_left(min_defect, picture, whole) >= MIN_PIXELS for picture in pictures):
        return None
    scale = max(1 / MAX_ENLARGEMENT, min_defect / MIN_PIXELS)
    if scale < 1:  # enlarged pictures have to fit on the largest canvas
        max_pixels = max(math.prod(size) for size in pictures)
        scale = max(scale, min(1.0, 1.01 * math.sqrt(max_pixels / MAX_CANVAS_PIXELS)))
    network_height, network_width = size_in_form(TILE_SIZE, usual_form(pictures), step)
    heights, widths = zip(*pictures, strict=True)
    height = min(round(network_height * scale), *heights)
    width = min(round(network_width * scale), *widths)
    return (height, width), scale


def default_network(pictures: Sequence[Size]) -> Size:
    """Return the size that pictures are scaled to by default; of several sizes, the largest."""
    return size_in_form(DEFAULT_SIZE, usual_form(pictures))


def reduction_remark(pictures: Sequence[Size], network: Size | None = None) -> tuple[str, str] | None:
    """Return a remark on how short a defect of `SMALL` pixels becomes in scaled pictures, and the remedy.

    The remark is about the picture that is reduced most. None where even this picture is reduced less than
    `MIN_REMARKED_REDUCTION` times.

    Args:
        pictures: Sizes of the pictures.
        network: Size that pictures are scaled to; of several sizes, the largest. None: the default.
    """
    size = network or default_network(pictures)

    def scale(picture: Size) -> float:
        """Return the length of a picture's pixel at the network, the shorter the more it is reduced."""
        return pixels_left(1, picture, size)  # of 1 pixel

    most_reduced = min(pictures, key=scale, default=size)
    reduced_length = pixels_left(SMALL, most_reduced, size)
    if reduced_length > SMALL / MIN_REMARKED_REDUCTION:
        return None
    network_text = f"size {size_text(size)}," if network else f"the default size, {size_text(size)} px,"
    height, width = most_reduced
    message = (
        f"pictures are {width}x{height} and seen at {network_text} where a defect {SMALL:g} px long is only "
        f"{reduced_length:.1f} px long"
    )
    return message, f"to find such small ones give fit --min-defect {SMALL:g}px, or --tile"
