"""Metrics over anomaly maps and ground-truth masks, exact, over all pictures of a test set at once.

sPRO is the metric of MVTec LOCO AD: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in
Unsupervised Anomaly Detection and Localization", IJCV 130 (2022), and the evaluation code published with the
data set. Of a missing object, for example, a large area is marked, because the object could be anywhere in
it. A method is asked to find only a part of this area, the saturation.
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
    limit. A region is the valid pixels of an 8-connected component of a mask; each region of the test set
    weighs the same. The false-positive rate is over all normal pixels of all pictures. The curve has a point
    per distinct score and straight lines between the points. Source: Bergmann et al., IJCV 129 (2021); the
    regions are 8-connected as in the evaluation code published with it.

    All metrics are NaN without an anomalous or without a normal pixel. Each sequence is read twice, picture
    by picture, and may read the pictures from a file. The metrics need about 200 MB of memory, and
    32 bytes more for each anomalous pixel. The arguments are not changed.

    Args:
        maps: A sequence of [H, W] arrays, whose sizes may differ, or one [N, H, W] array. Higher = more
            anomalous. Values are compared in their own type.
        masks: Bool of the same shapes, True = anomalous. The mask of a good picture is all False. If the mask
            is None, the picture is left out.
        valid: Bool of the same shapes, True = the pixel counts; None for a picture where all count. A map may
            have any value in pixels that do not count.

    Raises:
        InputError: (a ValueError) A map has NaN, masks are not bool, or shapes differ.
    """
    counted, regions = _count_masks(maps, masks, valid)
    ranking = rank_metrics(counted)
    return PixelMetrics(
        auroc=ranking.auroc,
        ap=ranking.ap,
        f1=ranking.f1,
        f1_threshold=ranking.f1_threshold,
        au_pro=overlap_area(counted, regions, limit=0.3),
        au_pro_05=overlap_area(counted, regions, limit=0.05),
        regions=regions.count,
    )


def _count_masks(maps: Maps, masks: Masks, valid: Valid | None) -> tuple[RankCounts, Regions]:
    """Gather the anomalous scores region by region, and count the normal scores below each.

    The arguments are those of `pixel_metrics`.
    """
    pieces: list[Array] = []
    areas: list[float] = []
    dtypes: set[np.dtype[np.generic]] = set()
    normal_count = 0
    for i, values, unchecked_mask, is_valid in iterate_checked(maps, masks, valid, "masks"):
        mask = check_mask(unchecked_mask, values.shape, f"masks[{i}]")
        dtypes.add(values.dtype)
        is_anomalous = mask if is_valid is None else mask & is_valid
        valid_count = mask.size if is_valid is None else int(np.count_nonzero(is_valid))
        normal_count += valid_count - int(np.count_nonzero(is_anomalous))
        if is_anomalous.any():
            # the scores of the picture's regions, one region after the other, and the regions' areas
            scores, region_areas = _scores_by_region(values, mask, is_anomalous)
            pieces += np.split(scores, np.cumsum(region_areas)[:-1])
            areas += region_areas.tolist()
    # each region is one piece, divided by its area
    regions = gather_regions(
        pieces, shares=[1.0] * len(areas), divisors=areas, count=len(areas), dtypes=dtypes
    )
    normal = (
        values[~mask] if is_valid is None else values[~mask & is_valid]
        for _, values, mask, is_valid in iterate_checked(maps, masks, valid, "masks")
    )
    return count_normal(regions, batches(normal, normal_count, regions.scores.dtype)), regions


def _scores_by_region(
    values: Array, mask: NDArray[np.bool_], is_anomalous: NDArray[np.bool_]
) -> tuple[Array, Counts]:
    """Return the anomalous scores of a picture sorted by region, and the number of scores in each region.

    Args:
        values: Map [H, W].
        mask: [H, W], whose 8-connected components are the regions.
        is_anomalous: [H, W], pixels of the mask that count. If none of a region's pixels count, the region is
            left out.
    """
    from scipy.ndimage import label  # slow to import

    number_map, region_count = label(mask, structure=np.ones((3, 3), dtype=np.int8))
    scores = values[is_anomalous]
    region_numbers = number_map[is_anomalous]
    if region_count > 1:
        if region_count <= np.iinfo(np.uint16).max:
            region_numbers = region_numbers.astype(np.uint16)  # for 16 bits, NumPy has a faster sort (radix)
        scores = scores[np.argsort(region_numbers, kind="stable")]
    score_counts = np.bincount(region_numbers).astype(np.int64, copy=False)
    return scores, score_counts[score_counts > 0]


# Per picture its regions, each ([H, W] bool, saturation in pixels); [] = good; None = no ground truth
SaturatedRegions = Sequence[Sequence[tuple[NDArray[np.bool_], float]] | None]


# The paper's main result, and the usual limit of AU-PRO.
LIMITS = (0.05, 0.3)


def au_spro(
    maps: Maps, regions: SaturatedRegions, limits: Sequence[float] = LIMITS, *, valid: Valid | None = None
) -> dict[float, float]:
    """Return, for each limit, the area under the sPRO curve up to the limit, divided by the limit.

    sPRO is the mean over all regions of min(overlap / saturation, 1). A saturation above the region's area is
    reduced to the area. The false-positive rate is over the pixels outside every region. Regions may overlap.
    A mask whose pixels were all lost in resizing is no region. Curve and integral are as for AU-PRO. If each
    region is connected and its saturation is its area, AU-sPRO equals AU-PRO. The paper measures logical and
    structural anomalies separately, each with all good pictures, and averages the two results.

    The areas are NaN if there is no region or no normal pixel.

    Args:
        maps: Maps of the pictures, as `pixel_metrics` takes them.
        regions: For each picture the list of its regions, one per mask file (not per connected component). A
            region is a pair: mask [H, W] bool, and saturation in pixels of this mask (`saturation_pixels`).
            The list is empty for a good picture, and None for a picture to leave out.
        limits: False-positive rates up to which the area is taken.
        valid: Pixels that count, as `pixel_metrics` takes them.

    Raises:
        InputError: A map has NaN, masks are not bool, shapes differ, or a saturation is not above 0.
    """
    counted, gathered_regions = _count_regions(maps, regions, valid)
    return {float(limit): overlap_area(counted, gathered_regions, limit) for limit in limits}


def saturation_pixels(area: int, threshold: float, *, relative: bool, scale: float = 1.0) -> float:
    """Return the saturation of a region in pixels, from its entry in LOCO's `defects_config.json`.

    The saturation is at most the area.

    Args:
        area: Pixels of the region.
        threshold: `saturation_threshold` of the entry.
        relative: `relative_saturation` of the entry. If True, the threshold is a share of the area; the
            saturation is rounded down to whole pixels, at least one, as in the published code. If False, the
            threshold is a number of pixels of the original picture.
        scale: (pixels of the mask in use) / (pixels of the original mask) where the mask was resized.

    Raises:
        InputError: The area, the threshold or the scale is not above 0.
    """
    if min(area, threshold, scale) <= 0:
        raise InputError(f"area {area}, threshold {threshold} and scale {scale} must all be above 0")
    if relative:
        share_pixels = max(int(threshold * area), 1)
        return float(min(share_pixels, area))
    return min(threshold * scale, float(area))


def _count_regions(maps: Maps, regions: SaturatedRegions, valid: Valid | None) -> tuple[RankCounts, Regions]:
    """Gather the highest scores of each region, up to its saturation, and count the normal scores below each.

    The arguments are those of `au_spro`.
    """
    pieces: list[Array] = []
    shares: list[float] = []
    divisors: list[float] = []
    dtypes: set[np.dtype[np.generic]] = set()
    region_count = pixel_count = 0  # `pixel_count` counts all pixels, normal or not
    for i, values, picture_regions, is_valid in iterate_checked(maps, regions, valid, "lists of regions"):
        dtypes.add(values.dtype)
        pixel_count += values.size
        for j, (unchecked_mask, saturation) in enumerate(picture_regions):
            name = f"regions[{i}][{j}]"
            mask = check_mask(unchecked_mask, values.shape, name)
            if not saturation > 0:  # true for NaN, too
                raise InputError(f"the saturation of {name} is {saturation}, expected a number above 0")
            is_counted = mask if is_valid is None else mask & is_valid
            scores = np.sort(values[is_counted])
            if scores.size == 0:
                continue
            region_count += 1
            divisor = min(float(saturation), float(scores.size))  # number of scores that count
            for piece, share in _saturated_pieces(scores, divisor):
                pieces.append(piece)
                shares.append(share)
                divisors.append(divisor)
    gathered_regions = gather_regions(pieces, shares, divisors, region_count, dtypes)
    normal = (
        values[_normal_pixels(picture_regions, values.shape, is_valid)]
        for _, values, picture_regions, is_valid in iterate_checked(maps, regions, valid, "lists of regions")
    )
    normal_batches = batches(normal, pixel_count, gathered_regions.scores.dtype)
    return count_normal(gathered_regions, normal_batches), gathered_regions


def _saturated_pieces(scores: Array, saturation: float) -> Iterator[tuple[Array, float]]:
    """Yield the highest scores of a region in one or two pieces, each with the weight of its scores.

    Once `saturation` pixels are found, further pixels add nothing: only the highest scores count. With a
    saturation of 2.4 pixels, the two highest scores have weight 1, and the third has weight 0.4.

    Args:
        scores: Scores of the region, in rising order.
        saturation: Number of pixels that count, at most the number of scores.
    """
    full_count = math.floor(saturation)
    fraction = saturation - full_count
    start = scores.size - full_count
    if full_count:
        yield scores[start:], 1.0
    if fraction > 0:
        yield scores[start - 1 : start], fraction


def _normal_pixels(
    regions: Sequence[tuple[NDArray[np.bool_], float]],
    shape: tuple[int, ...],
    is_valid: NDArray[np.bool_] | None,
) -> NDArray[np.bool_]:
    """Return the valid pixels outside all regions, [H, W] bool."""
    is_normal = np.ones(shape, np.bool_) if is_valid is None else is_valid.copy()
    for mask, _ in regions:
        is_normal &= ~mask
    return is_normal
