"""Names the kinds of defects in a picture's regions. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.predictor.kind_classifier import KindClassifier
from flawscope.predictor.product_model import ProductModel
from flawscope.results.prediction import Prediction
from flawscope.views.views import Views

MAX_POINTS = 4096  # of a region that its descriptor is the mean of
MAX_VIEWS = 16  # tiles of a picture that are looked at again: those with most of the regions, and each's own

Points = tuple[NDArray[Any], NDArray[Any]]  # y and x [n] in the picture


def name_kinds(
    model: ProductModel, classifier: KindClassifier, views: Views, prediction: Prediction
) -> Prediction:
    """Names the kinds of a picture's regions; a picture without regions is not run again."""
    if not prediction.region_pixels:
        return prediction
    region_kinds = classifier.classify(region_descriptors(model, views, prediction))
    return replace(prediction, region_kinds=tuple(region_kinds))


def region_descriptors(
    model: ProductModel, views: Views, prediction: Prediction, only: int | None = None
) -> NDArray[np.float64]:
    """Return descriptors [N, C] of a picture's regions: the mean difference of their cells from good ones.

    Where a picture is seen in tiles, the cells of the tiles count.

    Args:
        model: The model that found the regions.
        views: The picture's views.
        prediction: The prediction with the regions.
        only: Number of the only region to describe; None: all.

    Raises:
        InputError: The model's network does not give differences.
    """
    chosen = slice(None) if only is None else slice(only, only + 1)
    regions = [_in_picture(model, prediction, pixels) for pixels in prediction.region_pixels[chosen]]
    numbers = views.view_numbers()
    finest = [number for number in numbers if views.is_tile(number)] or numbers
    hits = {number: [_inside(views, number, points) for points in regions] for number in finest}
    used = _views_to_run(hits)
    counts = [[max(1, sum(len(hits[number][k][0]) for number in used))] for k in range(len(regions))]
    session = model.session
    sums = []
    for start in range(0, len(used), session.batch):
        batch = used[start : start + session.batch]
        for number, cells in zip(batch, session.residuals(views.images(batch)), strict=True):
            _, h, w = cells.shape
            sums.append([cells[:, (y * h).astype(int), (x * w).astype(int)].sum(1) for y, x in hits[number]])
    return np.asarray(np.array(sums).sum(0, dtype=np.float64) / counts)


def _views_to_run(hits: Mapping[int, Sequence[Points]]) -> list[int]:
    """Return the numbers of the views with most of the regions, and of each region's best view.

    Args:
        hits: For each view, the points of each region that it shows.
    """
    totals = {number: sum(len(y) for y, _ in regions) for number, regions in hits.items()}
    falling = sorted(hits, key=lambda number: -totals[number])
    region_count = len(hits[falling[0]])
    best = [max(falling, key=lambda number: len(hits[number][k][0])) for k in range(region_count)]
    most = [number for number in falling[:MAX_VIEWS] if totals[number]]
    return [*dict.fromkeys([*best, *most])]


def _in_picture(
    model: ProductModel, prediction: Prediction, pixels: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> Points:
    """Return points of a region in the picture as the views show it, at most about `MAX_POINTS`."""
    how = model.manifest.preprocess
    geometry = prediction.geometry
    if how.corrections:
        region = np.zeros(prediction.map.shape, np.bool_)
        region[pixels] = True
        rows, columns = np.nonzero(how.corrected_mask(geometry.warp_mask(region)))
        y, x = rows + 0.5, columns + 0.5
    else:
        y, x = geometry.inverse().locate(*(at.astype(np.float64) + 0.5 for at in pixels))
    some = slice(None, None, -(-len(y) // MAX_POINTS) or 1)
    return y[some], x[some]


def _inside(views: Views, number: int, points: Points) -> Points:
    """Return the points that a view shows, as shares 0..1 of its height and width."""
    place = views.placement(number)
    y, x = (at / side for at, side in zip(place.locate(*points), place.size, strict=True))
    seen = (y >= 0) & (y < 1) & (x >= 0) & (x < 1)
    return y[seen], x[seen]
