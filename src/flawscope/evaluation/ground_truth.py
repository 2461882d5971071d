"""Brings ground truth to the size of the maps: masks, and the regions of MVTec LOCO with their saturation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flawscope.datasets import Dataset
from flawscope.datasets.masks import require_size
from flawscope.datasets.published import SATURATION_FILE
from flawscope.errors import InputError, pluralize
from flawscope.evaluation import metrics
from flawscope.evaluation.result import PictureStore
from flawscope.pictures.masks import read_labels
from flawscope.types import Json
from flawscope.views.geometry import Geometry

if TYPE_CHECKING:
    from flawscope.datasets.dataset import Item


def shrink_mask(
    marked: NDArray[np.bool_], visible: NDArray[np.bool_], geometry: Geometry
) -> tuple[NDArray[np.bool_], int, int]:
    """Resize a mask to the network's size by nearest neighbour, as the papers do.

    If all regions would vanish, one pixel of each region is set, so that a defective picture does not count
    as a good one.

    Args:
        marked: Mask [Hp, Wp] bool at the picture's size.
        visible: Pixels of the mask that the network sees and that count, [Hp, Wp] bool.
        geometry: Geometry of the picture.

    Returns:
        The mask at the network's size, the number of 8-connected regions in `visible`, and how many of these
        regions nearest-neighbour resizing loses.
    """
    from scipy.ndimage import find_objects, label  # slow to import

    truth = geometry.mask_to_network(marked)
    height, width = truth.shape
    number_map, region_count = label(visible, structure=np.ones((3, 3)))
    numbers_left = np.unique(geometry.inverse().warp_labels(number_map))
    # the background, which has the number 0, is not counted
    lost_count = region_count - int(np.count_nonzero(numbers_left))
    if lost_count == region_count:
        for number, (rows, columns) in enumerate(find_objects(number_map), start=1):
            y, x = np.nonzero(number_map[rows, columns] == number)
            # index of the region's pixel that is nearest to its centre of mass
            middle = int(np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2))
            centre_y = y[middle] + rows.start + 0.5
            centre_x = x[middle] + columns.start + 0.5
            point_as_box = (centre_x, centre_y, centre_x, centre_y)
            network_x, network_y, *_ = geometry.to_network(point_as_box)
            truth[min(int(network_y), height - 1), min(int(network_x), width - 1)] = True
    return truth, region_count, lost_count


Regions = list[tuple[NDArray[np.bool_], float]]  # regions of a picture, each with its saturation


def _saturated_regions(store: PictureStore, configs: dict[int, Json]) -> list[Regions | None]:
    """Return the regions of each picture; None for a picture without a usable mask."""
    regions_of_pictures: list[Regions | None] = []
    for item, prediction, truth in zip(store.items, store.predictions, store.truths, strict=True):
        if truth is None:
            regions_of_pictures.append(None)
            continue
        regions = [_saturated_region(Path(mask), prediction.geometry, configs) for mask in item.masks]
        regions_of_pictures.append([region for region in regions if region])
    return regions_of_pictures


def _of_kind_or_good(
    items: Sequence[Item], regions_of_pictures: Sequence[Regions | None], kind: str
) -> list[Regions | None]:
    """Return the regions of each picture; None for pictures with another kind of defect than `kind`."""
    selected: list[Regions | None] = []
    for item, regions in zip(items, regions_of_pictures, strict=True):
        is_selected = item.kind == kind or not item.anomalous
        selected.append(regions if is_selected else None)
    return selected


def loco_metrics(kept: PictureStore, dataset: Dataset, explanations: Json) -> dict[str, float]:
    """Return the area under the sPRO curve of MVTec LOCO for each limit, by the metric's name.

    The result is empty for other data, or if LOCO's saturation file is missing.

    Args:
        kept: Evaluated pictures.
        dataset: Data set of the pictures.
        explanations: Remarks by metric, to which is added how the metric was measured, or why it was not.

    Raises:
        InputError: The saturation file or a mask cannot be used.
    """
    if dataset.layout != "loco":
        return {}
    path = dataset.root / SATURATION_FILE
    if not path.is_file():
        explanations["au_pro"] += f"; sPRO needs {path.name} in the category's folder"
        return {}
    regions_of_pictures = _read_saturated_regions(path, kept)
    explanations["au_spro"] = (
        "Bergmann et al., IJCV 2022: each kind of defect with all good pictures, then their mean; "
        "maps at network size, saturation scaled with the area"
    )
    kinds = dict.fromkeys(item.kind for item in kept.items if item.anomalous)
    areas_by_metric: dict[str, list[float]] = {}
    for kind in kinds:
        regions = _of_kind_or_good(kept.items, regions_of_pictures, kind)
        for limit, value in metrics.au_spro(kept.maps, regions, valid=kept.valid).items():
            if not np.isnan(value):  # NaN for a kind without masks
                areas_by_metric.setdefault(f"au_spro_{limit:g}", []).append(value)
    measured_count = max(map(len, areas_by_metric.values()), default=0)
    if measured_count < len(kinds):
        explanations["au_spro"] += (
            f"; of {measured_count} of {pluralize(len(kinds), 'kind')}, the others have no usable mask"
        )
    return {name: float(np.mean(values)) for name, values in areas_by_metric.items()}


def _read_saturated_regions(path: Path, store: PictureStore) -> list[Regions | None]:
    """Return the regions of each picture with the saturations of LOCO's file.

    Raises:
        InputError: The file is not LOCO's, or a mask cannot be used.
    """
    try:
        configs = {config["pixel_value"]: config for config in json.loads(path.read_text(encoding="utf-8"))}
        return _saturated_regions(store, configs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not LOCO's saturation file ({error}): copy it again") from None


def _saturated_region(
    path: Path, geometry: Geometry, configs: dict[int, Json]
) -> tuple[NDArray[np.bool_], float] | None:
    """Return a region at the network's size, and its saturation in pixels there.

    The result is None if the region lies outside of the view or marks nothing.

    Args:
        path: Mask of the region, whose pixel value names its entry in `configs`.
        geometry: Geometry of the picture.
        configs: Entries of LOCO's saturation file by pixel value.

    Raises:
        InputError: The mask cannot be read, or has another size than the picture.
    """
    values = require_size(read_labels(path), geometry.picture_size, f"mask {path}")
    marked = values > 0
    visible = marked & geometry.warp_mask(np.ones(geometry.size, np.bool_))
    region, _, _ = shrink_mask(marked, visible, geometry)
    if not region.any():
        return None
    config = configs[int(values.max())]
    scale_y, scale_x = geometry.scale
    saturation = metrics.saturation_pixels(
        int(region.sum()),
        config["saturation_threshold"],
        relative=config["relative_saturation"],
        scale=scale_y * scale_x,
    )
    return region, saturation
