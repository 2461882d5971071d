"""Finds pictures that show nothing beside the others: black, white, grey, or a cap on the lens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flawscope.pictures.near_duplicates import Look

MIN_SPREAD = 4.0  # standard deviation in grey levels, below which a picture may show nothing
MIN_SPREAD_SHARE = 0.2  # share of the median of all pictures, below which a picture may show nothing
MIN_ABOVE_NOISE = 2.0  # ratio of standard deviation to noise, below which a picture may show noise alone
NOTHING = "nothing beside the others (black, white, or a covered lens)"  # object of "shows" in a message


def spread_of(look: Look) -> float:
    """Return the standard deviation of the grey levels."""
    return float(look.thumbnail.astype(np.float32).std())


def find_blank_pictures(looks: Sequence[Look | None]) -> list[int]:
    """Return the numbers of the pictures that show nothing, compared with the others.

    A picture is compared with the medians of all pictures: if all look empty, they show a plain product and
    are good. Pictures without a look are left out.
    """
    spreads, noises = np.full((2, len(looks)), np.nan)  # standard deviations of grey levels, and of noise
    for number, look in enumerate(looks):
        if look is not None:
            spreads[number] = spread_of(look)
            noises[number] = look.noise
    if np.isnan(spreads).all():
        return []
    has_no_contrast = spreads < min(MIN_SPREAD, MIN_SPREAD_SHARE * float(np.nanmedian(spreads)))
    # an empty picture of more than 8 bits is scaled by its brightest pixel, so its noise has high contrast
    ratios = spreads / noises
    is_noise = ratios < min(MIN_ABOVE_NOISE, MIN_SPREAD_SHARE * float(np.nanmedian(ratios)))
    return np.flatnonzero(has_no_contrast | is_noise).tolist()
