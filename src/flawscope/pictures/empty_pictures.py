"""Finds pictures that show nothing beside the others: black, white, grey, or a cap on the lens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flawscope.pictures.near_duplicates import Look

MIN_SPREAD = 4.0  # grey levels of spread below which a picture may show nothing
MIN_SPREAD_SHARE = 0.2  # and of the spread of the others
MIN_ABOVE_NOISE = 2.0  # times its noise: a spread below which nothing else may be there
NOTHING = "nothing beside the others (black, white, or a covered lens)"  # that such pictures show


def spread_of(look: Look) -> float:
    """Standard deviation of the grey levels."""
    return float(look.thumbnail.astype(np.float32).std())


def find_blank_pictures(looks: Sequence[Look | None]) -> list[int]:
    """Numbers of the pictures that show nothing beside the others.

    A product that is plain itself has such pictures alone, and they are good.
    """
    spreads, noises = np.full((2, len(looks)), np.nan)  # standard deviations of grey levels
    for number, look in enumerate(looks):
        if look is not None:
            spreads[number] = spread_of(look)
            noises[number] = look.noise
    if np.isnan(spreads).all():
        return []
    found = spreads < min(MIN_SPREAD, MIN_SPREAD_SHARE * float(np.nanmedian(spreads)))
    # noise alone, in pictures of more bits brightened by their brightest pixel, spreads widely
    above_noise = spreads / noises
    found |= above_noise < min(MIN_ABOVE_NOISE, MIN_SPREAD_SHARE * float(np.nanmedian(above_noise)))
    return np.flatnonzero(found).tolist()
