"""Names the kinds of defects in a picture's regions. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.predictor.kind_classifier import KindClassifier
from flawscope.predictor.product_model import ProductModel
from flawscope.results.prediction import Prediction
from flawscope.views.views import Views

MAX_POINTS = 4096  # a region's descriptor is the mean at its points, of which about so many are used at most
# Tiles of a picture that run again, because they show most of the regions; each region's best tile runs, too
MAX_VIEWS = 16

Points = tuple[NDArray[Any], NDArray[Any]]  # y and x [n] in the picture


def name_kinds(
    model: ProductModel, classifier: KindClassifier, views: Views, prediction: Prediction
) -> Prediction:
    """Return the prediction with the kinds of its regions; without regions, the network does not run."""
    if not prediction.region_pixels:
        return prediction
    region_kinds = classifier.classify(region_descriptors(model, views, prediction))
    return replace(prediction, region_kinds=tuple(region_kinds))


def region_descriptors(
    model: ProductModel, views: Views, prediction: Prediction, only: int | None = None
) -> NDArray[np.float64]:
    """Return descriptors [N, C] of a picture's regions: the mean of their cells' differences from good ones.

    With tiles, the tiles' cells are used, and not those of the whole view.

    Args:
        model: The model that found the regions.
        views: The picture's views.
        prediction: The prediction with the regions.
        only: Number of the region to describe; None: all regions.

    Raises:
        InputError: The model's network does not give differences.
    """
    region_pixels = prediction.region_pixels if only is None else prediction.region_pixels[only : only + 1]
    regions = [_points_in_picture(model, prediction, pixels) for pixels in region_pixels]
    numbers = views.view_numbers()
    finest = [number for number in numbers if views.is_tile(number)] or numbers
    # by the view's number: for each region, the points of it that the view shows
    view_points = {}
    for number in finest:
        view_points[number] = [_points_in_view(views, number, points) for points in regions]
    numbers_to_run = _views_to_run(view_points)
    point_counts = []  # [regions, 1]
    for region in range(len(regions)):
        count = 0
        for number in numbers_to_run:
            y, _ = view_points[number][region]
            count += len(y)
        point_counts.append([max(1, count)])  # not 0: it is a divisor
    session = model.session
    sums = []  # [views, regions, C]
    for start in range(0, len(numbers_to_run), session.batch):
        batch = numbers_to_run[start : start + session.batch]
        for number, cells in zip(batch, session.residuals(views.images(batch)), strict=True):
            _, height, width = cells.shape
            region_sums = []
            for y, x in view_points[number]:
                rows = (y * height).astype(int)
                columns = (x * width).astype(int)
                region_sums.append(cells[:, rows, columns].sum(1))
            sums.append(region_sums)
    return np.asarray(np.array(sums).sum(0, dtype=np.float64) / point_counts)


def _views_to_run(view_points: Mapping[int, Sequence[Points]]) -> list[int]:
    """Choose views to run: for each region the view that shows most of it, and the views with most points.

    Args:
        view_points: By the view's number: for each region, the points of it that the view shows.
    """
    totals = {number: sum(len(y) for y, _ in regions) for number, regions in view_points.items()}
    most_first = sorted(view_points, key=lambda number: -totals[number])
    region_count = len(view_points[most_first[0]])
    best_views = []
    for region in range(region_count):
        point_counts = {}
        for number in most_first:
            y, _ = view_points[number][region]
            point_counts[number] = len(y)
        best_views.append(max(point_counts, key=point_counts.__getitem__))
    views_with_most = [number for number in most_first[:MAX_VIEWS] if totals[number]]
    return [*dict.fromkeys([*best_views, *views_with_most])]


def _points_in_picture(
    model: ProductModel, prediction: Prediction, pixels: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> Points:
    """Return points of a region in the corrected picture, at most about `MAX_POINTS`, evenly spaced.

    Args:
        model: The model that found the region.
        prediction: The prediction with the region.
        pixels: Rows and columns of the region in the map.
    """
    preprocess = model.manifest.preprocess
    geometry = prediction.geometry
    if preprocess.corrections:  # the corrected picture differs from the picture
        region = np.zeros(prediction.map.shape, np.bool_)
        region[pixels] = True
        rows, columns = np.nonzero(preprocess.corrected_mask(geometry.warp_mask(region)))
        y = rows + 0.5
        x = columns + 0.5
    else:
        rows, columns = pixels
        y, x = geometry.inverse().locate(rows.astype(np.float64) + 0.5, columns.astype(np.float64) + 0.5)
    stride = max(1, math.ceil(len(y) / MAX_POINTS))
    return y[::stride], x[::stride]


def _points_in_view(views: Views, number: int, points: Points) -> Points:
    """Return the points that a view shows, as shares 0..1 of the view's height and width."""
    placement = views.placement(number)
    height, width = placement.size
    view_y, view_x = placement.locate(*points)
    y = view_y / height
    x = view_x / width
    is_inside = (y >= 0) & (y < 1) & (x >= 0) & (x < 1)
    return y[is_inside], x[is_inside]
