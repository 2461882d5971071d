"""Metrics over anomaly maps and ground-truth masks, exact, over all pictures of a test set at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.metrics._checks import Pictures, check_limit, check_maps, check_mask, score_dtype
from flawscope.metrics._ranking import Counts, Regions, Scores, false_alarm_counts, overlap_area, rank

# [H, W] bool each, None where a picture has no ground truth; or one [N, H, W] array
Masks = Sequence[NDArray[np.bool_] | None] | NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PixelMetrics:
    """Pixel-level metrics over a whole test set, 0..1, higher is better; NaN where undefined.

    `f1` is the best over all thresholds and `f1_threshold` the one it is reached at (decision: map >=
    threshold), both chosen on the masks that they judge. `regions` is the number of ground-truth regions
    behind `au_pro`.
    """

    auroc: float
    ap: float
    f1: float
    f1_threshold: float
    au_pro: float
    regions: int


def pixel_metrics(maps: Pictures, masks: Masks, *, pro_limit: float = 0.3) -> PixelMetrics:
    """All pixel metrics from one sort of the normal pixels' scores, without binning.

    `maps`: a sequence of [H, W] arrays, of different sizes if need be, or one [N, H, W] array; higher = more
    anomalous; float32 is compared as float32. `masks`: bool of the same shapes, True = anomalous. A good
    picture has a mask that is all False; a picture whose mask is None takes no part. AU-PRO is that of
    `au_pro`.

    Without an anomalous pixel everything is NaN; without a normal one AUROC and AU-PRO are. The memory needed
    beside the arguments is one copy of the maps, plus some 100 MB. The arguments are left as they are.

    Raises InputError (a ValueError) for NaN in a map, for masks that are not bool, or shapes that differ.
    """
    check_limit(pro_limit)
    normal, regions = _gather(maps, masks)
    area = overlap_area(normal, regions, pro_limit)
    anomalous = regions.scores
    anomalous.sort()  # in place: only now, because the areas need the pixels region by region
    ranking = rank(normal, anomalous)
    return PixelMetrics(
        ranking.auroc, ranking.ap, ranking.f1, ranking.f1_threshold, au_pro=area, regions=regions.count
    )


def au_pro(maps: Pictures, masks: Masks, limit: float = 0.3) -> float:
    """Area under the per-region overlap curve for false-positive rates 0..`limit`, divided by `limit`.

    A region is an 8-connected component of a mask; each weighs the same over the whole test set. The
    false-positive rate is over all normal pixels of all pictures. One point per distinct score, trapezoids
    between them, linear interpolation at `limit`. Source: Bergmann et al., IJCV 129 (2021), and
    the connectivity of the evaluation code published with it.

    Arguments and errors as for `pixel_metrics`. NaN without an anomalous or without a normal pixel.
    """
    check_limit(limit)
    normal, regions = _gather(maps, masks)
    return overlap_area(normal, regions, limit)


def pro_curve(
    maps: Pictures, masks: Masks, limit: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curve under which `au_pro` measures, for plots: (false-positive rate, PRO), both [K] and ascending.

    It begins at (0, 0) and ends at `limit`. Points inside a straight horizontal line are left out, so K is at
    most 2 * (distinct anomalous scores) + 2, and np.trapezoid(pro, fpr) / limit is au_pro up to rounding.
    Needs more memory than `au_pro`: some 100 bytes per anomalous pixel. Both are empty where `au_pro` is NaN.
    """
    check_limit(limit)
    normal, regions = _gather(maps, masks)
    negatives = normal.size
    if negatives == 0 or regions.count == 0:
        return np.empty(0), np.empty(0)
    order = np.argsort(regions.scores)[::-1]
    scores = regions.scores[order]
    areas = np.diff(np.append(regions.starts, scores.size))
    overlap = np.cumsum(np.repeat(1 / (areas * regions.count), areas)[order])
    last = np.append(scores[1:] != scores[:-1], True)  # the end of a run of equal scores
    overlap = np.minimum(overlap[last], 1.0)
    overlap[-1] = 1.0  # the rounding of the sum must not show
    below, up_to = false_alarm_counts(normal, scores[last])

    # two points per threshold: just above it, and at it
    fpr = np.column_stack([negatives - up_to, negatives - below]).ravel() / negatives
    pro = np.column_stack([np.append(0.0, overlap[:-1]), overlap]).ravel()
    fpr, pro = np.concatenate([[0.0], fpr, [1.0]]), np.concatenate([[0.0], pro, [1.0]])
    moved = np.append(True, (fpr[1:] != fpr[:-1]) | (pro[1:] != pro[:-1]))
    fpr, pro = fpr[moved], pro[moved]

    end = int(np.searchsorted(fpr, limit, side="right"))
    if fpr[end - 1] < limit:
        at_limit = np.interp(limit, fpr[end - 1 : end + 1], pro[end - 1 : end + 1])
        return np.append(fpr[:end], limit), np.append(pro[:end], at_limit)
    return fpr[:end], pro[:end]


def _gather(maps: Pictures, masks: Masks) -> tuple[Scores, Regions]:
    """The normal pixels' scores, ascending, and the anomalous ones region by region."""
    chosen = check_maps(maps, masks, "masks")
    checked = {i: check_mask(np.asarray(masks[i]), np.shape(maps[i]), f"masks[{i}]") for i in chosen}
    anomalous_pixels = sum(int(np.count_nonzero(mask)) for mask in checked.values())
    pixels = sum(mask.size for mask in checked.values())
    # filled in place: collecting pieces and joining them would hold every score twice
    dtype = score_dtype(maps, chosen)
    normal: NDArray[Any] = np.empty(pixels - anomalous_pixels, dtype=dtype)
    anomalous: NDArray[Any] = np.empty(anomalous_pixels, dtype=dtype)
    areas: list[Counts] = []
    normal_end = anomalous_end = 0
    for i, mask in checked.items():
        values = np.asarray(maps[i])
        outside = values[~mask]
        normal[normal_end : normal_end + outside.size] = outside
        normal_end += outside.size
        if outside.size == mask.size:
            continue
        inside, picture_areas = _by_region(values, mask)
        anomalous[anomalous_end : anomalous_end + inside.size] = inside
        anomalous_end += inside.size
        areas.append(picture_areas)
    normal.sort()
    divisors = np.concatenate([*areas, np.empty(0, dtype=np.int64)])
    regions = Regions(
        scores=anomalous,
        starts=np.cumsum(divisors) - divisors,
        shares=np.ones(divisors.size),
        divisors=divisors.astype(np.float64),
        count=divisors.size,
    )
    return normal, regions


def _by_region(values: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], Counts]:
    """The scores inside the mask, 8-connected component after component, and the components' areas."""
    from scipy.ndimage import label  # slow to import

    labelled, count = label(mask, structure=np.ones((3, 3), dtype=np.int8))
    inside = values[mask]
    components = labelled[mask]
    if count > 1:
        if count <= np.iinfo(np.uint16).max:
            components = components.astype(np.uint16)  # sorted by radix
        inside = inside[np.argsort(components, kind="stable")]
    return inside, np.bincount(components)[1:].astype(np.int64, copy=False)
