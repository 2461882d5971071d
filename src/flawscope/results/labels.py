"""Label files for other tools of what a run marked: COCO, and FiftyOne's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.datasets.masks import to_runs
from flawscope.results.table import Row

ANOMALOUS = "anomalous"


class Marked(NamedTuple):
    """A judged picture, and what is marked in it: [H, W] bool of the picture's size."""

    name: str  # without suffix, unlike any other
    path: Path
    row: Row
    mask: NDArray[np.bool_]

    def parts(self) -> Iterator[tuple[list[int], NDArray[np.bool_]]]:
        """Box (x, y, width, height) and mask [H, W] of every connected part, where it is anomalous."""
        from scipy import ndimage

        if self.row.decision != ANOMALOUS:
            return
        numbers, _ = ndimage.label(self.mask, structure=np.ones((3, 3)))
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            yield box, numbers == number

    @property
    def facts(self) -> dict[str, float | None]:
        return {"score": self.row.score, "p_value": self.row.p_value, "severity": self.row.severity}


def coco(pictures: Iterable[Marked]) -> dict[str, Any]:
    """A COCO data set: every judged picture, and of the anomalous ones each part that is marked, as run
    lengths."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for picture in pictures:
        height, width = picture.mask.shape
        images.append(
            {"id": len(images) + 1, "file_name": str(picture.path), "width": width, "height": height}
        )
        for box, part in picture.parts():
            runs = {"size": [height, width], "counts": to_runs(part).tolist()}
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": len(images), "category_id": 1},
                    **{"bbox": box, "segmentation": runs, "area": int(part.sum()), "iscrowd": 0},
                    **picture.facts,
                }
            )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": ANOMALOUS, "supercategory": ""}],
    }


def fiftyone(pictures: Iterable[Marked]) -> tuple[dict[str, Any], dict[str, str]]:
    """`labels.json` and `data.json` of a `FiftyOneImageDetectionDataset`: boxes as fractions of the picture,
    and where the pictures lie. The confidence is 1 less the p-value."""
    labels: dict[str, list[dict[str, Any]]] = {}
    places: dict[str, str] = {}
    for picture in pictures:
        height, width = picture.mask.shape
        places[picture.name] = str(picture.path.absolute())
        labels[picture.name] = [
            {
                "label": ANOMALOUS,
                "bounding_box": [x / width, y / height, w / width, h / height],
                "confidence": 1 - (picture.row.p_value or 0.0),
                "attributes": picture.facts,
            }
            for (x, y, w, h), _ in picture.parts()
        ]
    return {"classes": [ANOMALOUS], "labels": labels}, places
