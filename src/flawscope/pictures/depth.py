"""Refuses deep pictures of another depth than a model learnt from. Torch-free."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.arrays import picture_error
from flawscope.pictures.levels import used_range

TWELVE_BITS = 4095  # up to which 16-bit values are taken for those of a camera with fewer bits
TOLERANCE = 1e-3  # of the white level, by which floats may lie outside of 0 and it: resampling overshoots


def check_depth(picture: NDArray[Any], white: float | None, black: float | None, name: str) -> None:
    """InputError for a deep picture whose values lie far off a model's levels: it would be black or white.

    white, black: levels of the model; None: it learnt from 8-bit pictures, or has no black level, as earlier
    models.
    """
    level = white or (65535.0 if picture.dtype == np.uint16 else 1.0)
    lowest, largest = float(picture.min()), float(picture.max())
    if black is not None and largest > level:
        largest = used_range(picture).high  # stray pixels are clipped
    if lowest < -TOLERANCE * level:
        remedy = f"replace values that say no data, or scale it to 0..{level:g}, where 0 is black"
        raise picture_error(name, f"its values go down to {lowest:g}", remedy)
    if white is None and picture.dtype == np.uint16 and 0 < largest <= TWELVE_BITS:
        raise picture_error(
            name,
            f"its 16-bit values go up to {largest:g}, and the model learnt from 8-bit pictures",
            "fit on pictures like this one, or scale it to 0..65535",
        )
    unit = level == 1 or (level < 1 and black is None)
    if picture.dtype != np.uint16 and unit and largest > level * (1 + TOLERANCE):
        which = "no white level is set" if white is None else f"the white level is {level:g}"
        remedy = "divide it by 255 first" if largest <= 255 else "divide it first"
        raise picture_error(name, f"its floats go up to {largest:g} and {which}", remedy)
    if picture.dtype != np.uint16 and level >= 255 and 0 < largest <= 1:
        raise picture_error(name, f"its floats are in 0..1, the white level is {level:g}", "multiply it")
    dark = black or 0.0
    above, below = largest > 2 * level - dark, lowest < 2 * dark - level
    middle = float(np.median(picture)) if above or below else level
    for side, far, limit, found in (
        ("above", largest, f"white level of {level:g}, up to", above and middle > level),
        ("below", lowest, f"black level of {dark:g}, down to", below and middle < dark),
    ):
        if found:
            raise picture_error(
                name,
                f"half of its values lie {side} the model's {limit} {far:g}",
                "fit on pictures of this depth, or scale it",
            )
