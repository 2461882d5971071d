"""Metrics over anomaly maps and ground-truth masks, exact, over all pictures of a test set at once.

sPRO is the metric of MVTec LOCO AD: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in
Unsupervised Anomaly Detection and Localization", IJCV 130 (2022), and the evaluation code published with the
data set. For a missing object, say, a large area is marked because the object could be anywhere in it;
finding part of it, the saturation, is all that can be asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.evaluation.metrics.auroc_au_pro import (
    Counts,
    Maps,
    RankCounts,
    Regions,
    Valid,
    batches,
    check_mask,
    count_normal,
    gather_regions,
    iterate_checked,
    overlap_area,
    rank_metrics,
)
from flawscope.types import Array

# [H, W] bool each, None where a picture has no ground truth; or one [N, H, W] array
Masks = Sequence[NDArray[np.bool_] | None] | NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PixelMetrics:
    """Pixel-level metrics over a whole test set, 0..1, higher is better; NaN where undefined.

    Best F1 and its threshold are chosen on the masks that they judge.

    Attributes:
        f1: Best F1 over all thresholds.
        f1_threshold: Threshold of the best F1 (decision: map >= threshold).
        au_pro_05: AU-PRO up to a false-positive rate of .05, as MVTec AD 2 has it.
        regions: Number of ground-truth regions behind `au_pro`.
    """

    auroc: float
    ap: float
    f1: float
    f1_threshold: float
    au_pro: float
    au_pro_05: float
    regions: int


def pixel_metrics(maps: Maps, masks: Masks, *, valid: Valid | None = None) -> PixelMetrics:
    """Return all pixel metrics, exact, without binning.

    AU-PRO is the area under the per-region overlap curve for false-positive rates 0..limit, divided by the
    limit. A region is an 8-connected component of a mask, as far as its pixels are valid; each weighs the
    same over the whole test set. The false-positive rate is over all normal pixels of all pictures. One
    point per distinct score, trapezoids between them, linear interpolation at the limit. Source: Bergmann et
    al., IJCV 129 (2021), and the connectivity of the evaluation code published with it.

    Without an anomalous or without a normal pixel everything is NaN. The sequences are read twice, one
    picture after the other: they may read from a file. The memory needed beside is some 32 bytes for each
    anomalous pixel and 200 MB. The arguments are left as they are.

    Args:
        maps: A sequence of [H, W] arrays, of different sizes if need be, or one [N, H, W] array; higher =
            more anomalous; float32 is compared as float32.
        masks: Bool of the same shapes, True = anomalous. A good picture has a mask that is all False; a
            picture whose mask is None takes no part.
        valid: Bool of the same shapes, or None for a picture: only these pixels count, and a map may have any
            value elsewhere.

    Raises:
        InputError: (a ValueError) A map has NaN, masks are not bool, or shapes differ.
    """
    counted, regions = _count_masks(maps, masks, valid)
    ranking = rank_metrics(counted)
    area, area_05 = (overlap_area(counted, regions, limit) for limit in (0.3, 0.05))
    return PixelMetrics(
        ranking.auroc, ranking.ap, ranking.f1, ranking.f1_threshold, area, area_05, regions.count
    )


def _count_masks(maps: Maps, masks: Masks, valid: Valid | None) -> tuple[RankCounts, Regions]:
    """Gather the anomalous scores region by region, and count the normal ones below them."""
    pieces: list[Array] = []
    areas: list[float] = []
    dtypes: set[np.dtype[np.generic]] = set()
    normal_pixels = 0
    for i, values, given, keep in iterate_checked(maps, masks, valid, "masks"):
        mask = check_mask(given, values.shape, f"masks[{i}]")
        dtypes.add(values.dtype)
        inside = mask if keep is None else mask & keep
        counting = mask.size if keep is None else int(np.count_nonzero(keep))
        normal_pixels += counting - int(np.count_nonzero(inside))
        if inside.any():
            scores, picture_areas = _scores_by_region(values, mask, inside)
            pieces += np.split(scores, np.cumsum(picture_areas)[:-1])
            areas += picture_areas.tolist()
    regions = gather_regions(pieces, [1.0] * len(areas), areas, len(areas), dtypes)
    normal = (
        values[~mask if keep is None else ~mask & keep]
        for _, values, mask, keep in iterate_checked(maps, masks, valid, "masks")
    )
    return count_normal(regions, batches(normal, normal_pixels, regions.scores.dtype)), regions


def _scores_by_region(
    values: Array, mask: NDArray[np.bool_], inside: NDArray[np.bool_]
) -> tuple[Array, Counts]:
    """Scores of `inside`, 8-connected component of the mask after component, and the number in each."""
    from scipy.ndimage import label  # slow to import

    labelled, count = label(mask, structure=np.ones((3, 3), dtype=np.int8))
    scores = values[inside]
    components = labelled[inside]
    if count > 1:
        if count <= np.iinfo(np.uint16).max:
            components = components.astype(np.uint16)  # sorted by radix
        scores = scores[np.argsort(components, kind="stable")]
    areas = np.bincount(components).astype(np.int64, copy=False)
    return scores, areas[areas > 0]


# Per picture its regions, each ([H, W] bool, saturation in pixels); [] = good; None = no ground truth
SaturatedRegions = Sequence[Sequence[tuple[NDArray[np.bool_], float]] | None]


# The paper's main result, and the usual limit of AU-PRO.
LIMITS = (0.05, 0.3)


def au_spro(
    maps: Maps, regions: SaturatedRegions, limits: Sequence[float] = LIMITS, *, valid: Valid | None = None
) -> dict[float, float]:
    """Return the area under the sPRO curve up to each of `limits`, divided by it.

    sPRO is the mean over all regions of min(overlap / saturation, 1) with the saturation capped at the
    region's area; the false-positive rate is over the pixels outside every region. Regions may overlap. A
    mask without a pixel (lost in resizing) is no region. Curve and integral are those of AU-PRO, which it
    equals where no region saturates early and regions are connected. The paper takes the logical and the
    structural anomalies apart, each with all good pictures, and averages the two results.

    Without a region or without a normal pixel it is NaN.

    Args:
        maps: Maps of the pictures, as `pixel_metrics` takes them.
        regions: For each picture the list of its regions, one per mask file (not per connected component), as
            ([H, W] bool mask, saturation in pixels of this mask: see `saturation_pixels`); an empty list for
            a good picture, None for a picture that takes no part.
        limits: False-positive rates up to which the area is taken.
        valid: Pixels that count, as `pixel_metrics` takes them.

    Raises:
        InputError: A map has NaN, masks are not bool, shapes differ, or a saturation is not above 0.
    """
    counted, found = _count_regions(maps, regions, valid)
    return {float(limit): overlap_area(counted, found, limit) for limit in limits}


def saturation_pixels(area: int, threshold: float, *, relative: bool, scale: float = 1.0) -> float:
    """Return the saturation in pixels of a region, from its entry in LOCO's `defects_config.json`.

    Args:
        area: Pixels of the region.
        threshold: `saturation_threshold` of the entry.
        relative: `relative_saturation` of the entry. True: the threshold is a share of the area, cut to whole
            pixels as the published code does (but at least one). False: it is a number of pixels of the
            original picture, at most the area.
        scale: (pixels of the mask in use) / (pixels of the original mask) where the mask was resized.

    Raises:
        InputError: The area, the threshold or the scale is not above 0.
    """
    if min(area, threshold, scale) <= 0:
        raise InputError(f"area {area}, threshold {threshold} and scale {scale} must all be above 0")
    if relative:
        return float(min(max(int(threshold * area), 1), area))
    return min(threshold * scale, float(area))


def _count_regions(maps: Maps, regions: SaturatedRegions, valid: Valid | None) -> tuple[RankCounts, Regions]:
    """Gather each region's highest scores, up to its saturation, and count the normal ones below."""
    pieces: list[Array] = []
    shares: list[float] = []
    divisors: list[float] = []
    dtypes: set[np.dtype[np.generic]] = set()
    number = pixels = 0
    for i, values, here, keep in iterate_checked(maps, regions, valid, "lists of regions"):
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
            saturation = min(float(saturation), float(scores.size))
            for piece, share in _counting_pieces(scores, saturation):
                pieces.append(piece)
                shares.append(share)
                divisors.append(saturation)
    found = gather_regions(pieces, shares, divisors, number, dtypes)
    normal = (
        values[_outside(here, values.shape) if keep is None else _outside(here, values.shape) & keep]
        for _, values, here, keep in iterate_checked(maps, regions, valid, "lists of regions")
    )
    return count_normal(found, batches(normal, pixels, found.scores.dtype)), found


def _counting_pieces(scores: Array, saturation: float) -> Iterator[tuple[Array, float]]:
    """Yield the scores of a region that count, in rising order, each piece with the weight of its scores.

    When `saturation` pixels are found, more add nothing: lower scores never count. The last score that does
    counts for the fraction that is still missing. Among equal scores the choice does not matter.
    """
    whole = math.floor(saturation)
    end = scores.size - whole
    for piece, share in ((scores[end:], 1.0), (scores[end - 1 : end], saturation - whole)):
        if piece.size and share > 0:
            yield piece, share


def _outside(regions: Sequence[tuple[NDArray[np.bool_], float]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Mask [H, W] of the pixels outside all regions."""
    outside = np.ones(shape, np.bool_)
    for mask, _ in regions:
        outside &= ~mask
    return outside
