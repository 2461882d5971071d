"""Metrics over anomaly maps and ground-truth masks, exact, over all pictures of a test set at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.metrics._checks import Pictures, Valid, check_limit, check_mask, checked
from flawscope.metrics._ranking import Counted, Counts, Regions, batches, count, gathered, overlap_area, rank

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


def pixel_metrics(
    maps: Pictures, masks: Masks, *, valid: Valid | None = None, pro_limit: float = 0.3
) -> PixelMetrics:
    """All pixel metrics, exact, without binning.

    `maps`: a sequence of [H, W] arrays, of different sizes if need be, or one [N, H, W] array; higher = more
    anomalous; float32 is compared as float32. `masks`: bool of the same shapes, True = anomalous. A good
    picture has a mask that is all False; a picture whose mask is None takes no part. `valid`: bool of the
    same shapes, or None for a picture: only these pixels count, and a map may have any value elsewhere.
    AU-PRO is that of `au_pro`.

    Without an anomalous pixel everything is NaN; without a normal one AUROC and AU-PRO are. The sequences are
    read twice, one picture after the other, so they may read from a file. The memory needed beside is some
    32 bytes for each anomalous pixel and 200 MB. The arguments are left as they are.

    Raises InputError (a ValueError) for NaN in a map, for masks that are not bool, or shapes that differ.
    """
    check_limit(pro_limit)
    counted, regions = _count(maps, masks, valid)
    ranking, area = rank(counted), overlap_area(counted, regions, pro_limit)
    return PixelMetrics(
        ranking.auroc, ranking.ap, ranking.f1, ranking.f1_threshold, au_pro=area, regions=regions.count
    )


def au_pro(maps: Pictures, masks: Masks, limit: float = 0.3, *, valid: Valid | None = None) -> float:
    """Area under the per-region overlap curve for false-positive rates 0..`limit`, divided by `limit`.

    A region is an 8-connected component of a mask, as far as its pixels are valid; each weighs the same over
    the whole test set. The false-positive rate is over all normal pixels of all pictures. One point per
    distinct score, trapezoids between them, linear interpolation at `limit`. Source: Bergmann et al.,
    IJCV 129 (2021), and the connectivity of the evaluation code published with it.

    Arguments and errors as for `pixel_metrics`. NaN without an anomalous or without a normal pixel.
    """
    check_limit(limit)
    return overlap_area(*_count(maps, masks, valid), limit)


def _count(maps: Pictures, masks: Masks, valid: Valid | None) -> tuple[Counted, Regions]:
    """The anomalous scores region by region, and where they lie among the normal ones."""
    pieces: list[NDArray[Any]] = []
    areas: list[float] = []
    dtypes: set[np.dtype[Any]] = set()
    normal_pixels = 0
    for i, values, given, keep in checked(maps, masks, valid, "masks"):
        mask = check_mask(given, values.shape, f"masks[{i}]")
        dtypes.add(values.dtype)
        inside = mask if keep is None else mask & keep
        counting = mask.size if keep is None else int(np.count_nonzero(keep))
        normal_pixels += counting - int(np.count_nonzero(inside))
        if inside.any():
            scores, picture_areas = _by_region(values, mask, inside)
            pieces += np.split(scores, np.cumsum(picture_areas)[:-1])
            areas += picture_areas.tolist()
    regions = gathered(pieces, [1.0] * len(areas), areas, len(areas), dtypes)
    normal = (
        values[~mask if keep is None else ~mask & keep]
        for _, values, mask, keep in checked(maps, masks, valid, "masks")
    )
    return count(regions, batches(normal, normal_pixels, regions.scores.dtype)), regions


def _by_region(
    values: NDArray[Any], mask: NDArray[np.bool_], inside: NDArray[np.bool_]
) -> tuple[NDArray[Any], Counts]:
    """The scores of `inside`, 8-connected component of the mask after component, and how many each has."""
    from scipy.ndimage import label  # slow to import

    labelled, count = label(mask, structure=np.ones((3, 3), dtype=np.int8))
    scores, components = values[inside], labelled[inside]
    if count > 1:
        if count <= np.iinfo(np.uint16).max:
            components = components.astype(np.uint16)  # sorted by radix
        scores = scores[np.argsort(components, kind="stable")]
    areas = np.bincount(components).astype(np.int64, copy=False)
    return scores, areas[areas > 0]
