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
    """Resize a mask [Hp, Wp] to the network's size, nearest as the papers do.

    One that would keep no pixel keeps the nearest one of each of its regions: else a defective picture would
    count as a good one.

    Returns also how many 8-connected regions are `visible` [Hp, Wp], and how many nearest resizing loses.
    """
    from scipy.ndimage import find_objects, label  # slow to import

    truth = geometry.mask_to_network(marked)
    regions, count = label(visible, structure=np.ones((3, 3)))
    left = np.unique(geometry.inverse().warp_labels(regions))
    lost = count - int(np.count_nonzero(left))
    if lost == count:
        for number, window in enumerate(find_objects(regions), start=1):
            y, x = np.nonzero(regions[window] == number)
            middle = int(np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2))
            row = y[middle] + window[0].start + 0.5
            column = x[middle] + window[1].start + 0.5
            at_x, at_y, *_ = geometry.to_network((column, row, column, row))
            truth[min(int(at_y), truth.shape[0] - 1), min(int(at_x), truth.shape[1] - 1)] = True
    return truth, count, lost


Regions = list[tuple[NDArray[np.bool_], float]]  # of a picture: each with its saturation


def _saturated_regions(kept: PictureStore, configs: dict[int, Json]) -> list[Regions | None]:
    """Regions of each picture; None where it has no usable mask."""
    found: list[Regions | None] = []
    for item, prediction, truth in zip(kept.items, kept.predictions, kept.truths, strict=True):
        if truth is None:  # its masks may be damaged
            found.append(None)
            continue
        regions = [_saturated_region(Path(mask), prediction.geometry, configs) for mask in item.masks]
        found.append([region for region in regions if region])
    return found


def _of_kind_or_good(
    items: Sequence[Item], regions: Sequence[Regions | None], kind: str
) -> list[Regions | None]:
    """Regions of the good pictures and of one kind of defect; None for all others."""
    found: list[Regions | None] = []
    for item, regions_of_item in zip(items, regions, strict=True):
        found.append(regions_of_item if item.kind == kind or not item.anomalous else None)
    return found


def loco_metrics(kept: PictureStore, dataset: Dataset, explanations: Json) -> dict[str, float]:
    """Compute MVTec LOCO's sPRO, where its saturation file lies beside the data; else return none.

    Args:
        kept: Evaluated pictures.
        dataset: Their data set.
        explanations: Gets how it was measured, or why not.
    """
    if dataset.layout != "loco":
        return {}
    path = dataset.root / SATURATION_FILE
    if not path.is_file():
        explanations["au_pro"] += f"; sPRO needs {path.name} in the category's folder"
        return {}
    regions = _read_saturated_regions(path, kept)
    explanations["au_spro"] = (
        "Bergmann et al., IJCV 2022: each kind of defect with all good pictures, then their mean; "
        "maps at network size, saturation scaled with the area"
    )
    kinds = dict.fromkeys(item.kind for item in kept.items if item.anomalous)
    areas: dict[str, list[float]] = {}
    for kind in kinds:
        own_regions = _of_kind_or_good(kept.items, regions, kind)
        for limit, value in metrics.au_spro(kept.maps, own_regions, valid=kept.valid).items():
            if not np.isnan(value):  # a kind without masks has none
                areas.setdefault(f"au_spro_{limit:g}", []).append(value)
    most = max(map(len, areas.values()), default=0)
    if most < len(kinds):
        explanations["au_spro"] += (
            f"; of {most} of {pluralize(len(kinds), 'kind')}, the others have no usable mask"
        )
    return {name: float(np.mean(values)) for name, values in areas.items()}


def _read_saturated_regions(path: Path, kept: PictureStore) -> list[Regions | None]:
    """Regions of each picture with their saturations, by LOCO's file."""
    try:
        configs = {config["pixel_value"]: config for config in json.loads(path.read_text(encoding="utf-8"))}
        return _saturated_regions(kept, configs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not LOCO's saturation file ({error}): copy it again") from None


def _saturated_region(
    path: Path, geometry: Geometry, configs: dict[int, Json]
) -> tuple[NDArray[np.bool_], float] | None:
    """Return a region at the network's size, and its saturation in pixels there.

    It is None where the region lies outside of the view or marks nothing.
    """
    values = require_size(read_labels(path), geometry.picture_size, f"mask {path}")
    visible = (values > 0) & geometry.warp_mask(np.ones(geometry.size, np.bool_))
    scaled, *_ = shrink_mask(values > 0, visible, geometry)
    if not scaled.any():
        return None
    config = configs[int(values.max())]
    saturation = metrics.saturation_pixels(
        int(scaled.sum()),
        config["saturation_threshold"],
        relative=config["relative_saturation"],
        scale=geometry.scale[0] * geometry.scale[1],
    )
    return scaled, saturation
