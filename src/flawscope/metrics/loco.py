"""Saturated per-region overlap (sPRO), the metric of MVTec LOCO AD.

Source: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection
and Localization", IJCV 130 (2022), and the evaluation code published with the data set. For a
missing object, say, a large area is marked because the object could be anywhere in it; finding part of it,
the saturation, is all that can be asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.metrics._checks import Pictures, Valid, check_limit, check_mask, checked
from flawscope.metrics._ranking import Counted, Regions, batches, count, gathered, overlap_area

# Per picture its regions, each ([H, W] bool, saturation in pixels); [] = good; None = no ground truth
SaturatedRegions = Sequence[Sequence[tuple[NDArray[np.bool_], float]] | None]

SATURATION_FILE = "defects_config.json"  # in a category's folder

# The paper's main result, and the usual limit of AU-PRO.
LIMITS = (0.05, 0.3)


def au_spro(
    maps: Pictures,
    regions: SaturatedRegions,
    limits: Sequence[float] = LIMITS,
    *,
    valid: Valid | None = None,
) -> dict[float, float]:
    """Area under the sPRO curve up to each of `limits`, divided by it.

    `maps`, `valid`: as for `pixel_metrics`. `regions`: for each picture the list of its regions, one per mask
    file (not per connected component), as ([H, W] bool mask, saturation in pixels); an empty list for a good
    picture, None for a picture that takes no part. sPRO is the mean over all regions of min(overlap /
    saturation, 1) with the saturation capped at the region's area; the false-positive rate is over the pixels
    outside every region. Regions may overlap. A mask without a pixel (lost in resizing) is no region. The
    saturation is in pixels of the mask given: see `saturation_pixels`. Same curve and integral as `au_pro`,
    which it equals where no region saturates early and regions are connected. The paper takes the logical and
    the structural anomalies apart, each with all good pictures, and averages the two results.

    NaN without a region or without a normal pixel. Raises InputError for NaN in a map, masks that are not
    bool, shapes that differ, or a saturation that is not above 0.
    """
    for limit in limits:
        check_limit(limit)
    counted, found = _count(maps, regions, valid)
    return {float(limit): overlap_area(counted, found, limit) for limit in limits}


def saturation_pixels(area: int, threshold: float, *, relative: bool, scale: float = 1.0) -> float:
    """The saturation in pixels of a region of `area` pixels, from its entry in LOCO's `defects_config.json`.

    `threshold` is `saturation_threshold`, `relative` is `relative_saturation`: a share of the area, cut to
    whole pixels as the published code does (but at least one), or a number of pixels of the original picture,
    at most the area. `scale` is (pixels of the mask in use) / (pixels of the original mask) where the mask
    was resized.

    Raises InputError if the area, the threshold or the scale is not above 0.
    """
    if min(area, threshold, scale) <= 0:
        raise InputError(f"area {area}, threshold {threshold} and scale {scale} must all be above 0")
    if relative:
        return float(min(max(int(threshold * area), 1), area))
    return min(threshold * scale, float(area))


def _count(maps: Pictures, regions: SaturatedRegions, valid: Valid | None) -> tuple[Counted, Regions]:
    """The highest scores of each region, up to its saturation, and where they lie among the normal ones."""
    pieces: list[NDArray[Any]] = []
    shares: list[float] = []
    divisors: list[float] = []
    dtypes: set[np.dtype[Any]] = set()
    number = pixels = 0
    for i, values, here, keep in checked(maps, regions, valid, "lists of regions"):
        dtypes.add(values.dtype)
        pixels += values.size
        for j, (given, saturation) in enumerate(here):
            name = f"regions[{i}][{j}]"
            mask = check_mask(given, values.shape, name)
            if not saturation > 0:
                raise InputError(f"the saturation of {name} is {saturation}, expected a number above 0")
            scores = np.sort(values[mask if keep is None else mask & keep])
            if scores.size == 0:
                continue
            number += 1
            # Once `saturation` pixels are found, more add nothing, so lower ones never count. The last one
            # that does counts for the fraction that is still missing. Among equal scores it is all one.
            saturation = min(float(saturation), float(scores.size))
            whole = math.floor(saturation)
            end = scores.size - whole
            for piece, share in ((scores[end:], 1.0), (scores[end - 1 : end], saturation - whole)):
                if piece.size and share > 0:
                    pieces.append(piece)
                    shares.append(share)
                    divisors.append(saturation)
    found = gathered(pieces, shares, divisors, number, dtypes)
    normal = (
        values[_outside(here, values.shape) if keep is None else _outside(here, values.shape) & keep]
        for _, values, here, keep in checked(maps, regions, valid, "lists of regions")
    )
    return count(found, batches(normal, pixels, found.scores.dtype)), found


def _outside(regions: Sequence[tuple[NDArray[np.bool_], float]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """[H, W]: pixels of no region."""
    outside = np.ones(shape, np.bool_)
    for mask, _ in regions:
        outside &= ~mask
    return outside
