"""Writes marked regions as labels, so that a person corrects them in a labelling tool."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.files import atomic_write
from flawscope.errors import InputError
from flawscope.results.prediction import Prediction
from flawscope.results.table import OutputFiles
from flawscope.types import Json

KIND = "anomalous"  # name of the label
TOLERANCE = (
    0.7  # pixels by which an outline may be off; the corners of a single pixel are .71 off its diagonal
)

Polygon = NDArray[np.float64]  # [N, 2]: x, y in pixels


class LabelledRegion(NamedTuple):
    """Region of a picture.

    Attributes:
        score: Largest value of the map in it.
    """

    outline: Polygon
    area: int
    score: float


class LabelledPicture(NamedTuple):
    """Picture with its regions; a good one has none.

    Attributes:
        name: Name of the picture in the labels.
        size: (H, W) in pixels.
        p_value: p-value of the picture.
        regions: Its regions.
    """

    name: Path
    size: tuple[int, int]
    p_value: float
    regions: list[LabelledRegion]


def require_own_files(form: str, pictures: Iterable[Path]) -> None:
    """Raise InputError where two pictures would share a file of labels.

    The tools of YOLO and LabelMe look for it by the picture's name without the suffix.
    """
    named: dict[Path, Path] = {}
    for picture in pictures if form in ("yolo", "labelme") else ():
        other = named.setdefault(picture.with_suffix(""), picture)
        if other != picture:
            raise InputError(
                f"{other} and {picture.name} would share a file of labels with --labels {form}: rename one, "
                "or take --labels coco"
            )


def _below_common_folder(pictures: Sequence[LabelledPicture]) -> list[LabelledPicture]:
    """Pictures that are named below the folder which they share; on several drives by their files' names."""
    folders = {picture.name.parent for picture in pictures}
    is_shared = len({folder.anchor for folder in folders}) == 1
    root = os.path.commonpath(folders) if is_shared else ""
    found = []
    for picture in pictures:
        name = os.path.relpath(picture.name, root) if root else picture.name.name
        found.append(picture._replace(name=Path(name)))
    return found


class LabelWriter:
    """Collects pictures and writes their labels, by names below the folder that the pictures share.

    The files are `labels.json` of COCO, `label_studio.json`, YOLO's `labels/NAME.txt`, `data.yaml` and
    `scores.json`, or LabelMe's `labels/NAME.json`.

    Args:
        form: coco, labelstudio, yolo or labelme.
        output: Files of the run.
    """

    def __init__(self, form: str, output: OutputFiles):
        self.form = form
        self.own = output
        self._pictures: list[LabelledPicture] = []

    def add(self, prediction: Prediction) -> None:
        """Add a picture, with the marked regions of an anomalous one; a good one has none."""
        regions = list(marked_regions(prediction)) if prediction.is_anomalous else []
        path = Path(os.path.abspath(prediction.path or "picture"))
        size = prediction.geometry.picture_size
        self._pictures.append(LabelledPicture(path, size, prediction.p_value, regions))

    def finish(self) -> None:
        """Write the files. FlawscopeError: one cannot be written, or two pictures would share it."""
        require_own_files(self.form, (picture.name for picture in self._pictures if picture.regions))
        pictures = _below_common_folder(self._pictures)
        if self.form == "yolo":
            self._write_yolo(pictures)
        elif self.form == "labelme":
            self._write_labelme(pictures)
        elif self.form == "coco":
            document = coco_document((p.name.as_posix(), p.size, _coco_marks(p)) for p in pictures)
            self._write("labels.json", json.dumps(document, allow_nan=False))
        else:
            tasks = [_task(picture) for picture in pictures]
            self._write("label_studio.json", json.dumps(tasks, allow_nan=False))

    def _write_labelme(self, pictures: Sequence[LabelledPicture]) -> None:
        for picture in pictures:
            if picture.regions:
                file = f"labels/{picture.name.with_suffix('.json').as_posix()}"
                self._write(file, json.dumps(_labelme_document(picture), allow_nan=False))

    def _write_yolo(self, pictures: Sequence[LabelledPicture]) -> None:
        scores: dict[str, list[float]] = {}
        for picture in pictures:
            if not picture.regions:
                continue
            file = f"labels/{picture.name.with_suffix('.txt').as_posix()}"
            scores[file] = [region.score for region in picture.regions]
            lines = []
            for region in picture.regions:
                shares = region.outline / picture.size[::-1]
                lines.append(" ".join(["0", *(f"{share:.7g}" for share in shares.ravel())]))
            self._write(file, "\n".join(lines))
        self._write("data.yaml", f"path: .\ntrain: images\nval: images\nnames:\n  0: {KIND}")
        self._write("scores.json", json.dumps(scores, indent=1, allow_nan=False))

    def _write(self, name: str, text: str) -> None:
        with atomic_write(self.own.path(name)) as file:
            file.write(f"{text}\n".encode())


def coco_document(
    pictures: Iterable[tuple[str, tuple[int, ...], Iterable[Json]]],
) -> Json:
    """Return the COCO data set of pictures.

    Args:
        pictures: Name, size (H, W) and marks of each; a mark has all of an annotation except its numbers.
    """
    images: list[Json] = []
    annotations: list[Json] = []
    for number, (name, (height, width), marks) in enumerate(pictures, start=1):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for mark in marks:
            numbers = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            annotations.append({**numbers, "iscrowd": 0, **mark})
    categories = [{"id": 1, "name": KIND, "supercategory": ""}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _coco_marks(picture: LabelledPicture) -> Iterator[Json]:
    for outline, area, score in picture.regions:
        low, high = outline.min(0), outline.max(0)
        place = {"bbox": [*low.tolist(), *(high - low).tolist()], "segmentation": [outline.ravel().tolist()]}
        yield {**place, "area": area, "score": score, "p_value": picture.p_value}


def _labelme_document(picture: LabelledPicture) -> Json:
    """File of LabelMe, to lie beside the picture. A description keeps the score: the tool knows none."""
    (height, width), common = picture.size, {"label": KIND, "shape_type": "polygon"}
    shapes = [
        {**common, "points": region.outline.tolist(), "description": f"score {region.score:.6g}", "flags": {}}
        for region in picture.regions
    ]
    size = {"imageHeight": height, "imageWidth": width}
    return (
        {"version": "5.5.0", "flags": {}, "imagePath": picture.name.name, "imageData": None}
        | size
        | {"shapes": shapes}
    )


def _task(picture: LabelledPicture) -> Json:
    """Task of Label Studio with a prediction; the picture is in its local storage."""
    name, (height, width), p_value, regions = picture
    shape = {"type": "polygonlabels", "from_name": "label", "to_name": "image", "image_rotation": 0}
    shape |= {"original_width": width, "original_height": height}
    result = []
    for number, (outline, _, score) in enumerate(regions):
        points = (outline * 100 / (width, height)).tolist()
        value = {"points": points, "closed": True, "polygonlabels": [KIND]}
        result.append({"id": f"region{number}", **shape, "value": value, "score": score})
    prediction = {"model_version": "flawscope", "score": 1 - p_value, "result": result}
    data = {"image": f"/data/local-files/?d={quote(name.as_posix())}"}
    return {"data": data, "predictions": [prediction]}


# ----------------------------------------------------------------------------------------------- the outlines


def marked_regions(prediction: Prediction) -> Iterator[LabelledRegion]:
    """Yield the 8-connected regions of the mask at the picture's size."""
    from scipy import ndimage

    values = prediction.picture_map()
    numbers, _ = ndimage.label(prediction.outlined(values), structure=np.ones((3, 3)))
    for number, (ys, xs) in enumerate(ndimage.find_objects(numbers), start=1):
        part = numbers[ys, xs] == number
        score = float(values[ys, xs][part].max())
        yield LabelledRegion(trace_outline(part) + np.array([xs.start, ys.start]), int(part.sum()), score)


def trace_outline(mask: NDArray[np.bool_]) -> Polygon:
    """Trace the outline of a mask as one polygon, within `TOLERANCE`.

    Holes, and pieces that only touch at a corner, are joined by a line there and back: filling by the
    even-odd rule gives the mask.
    """
    loops = [_simplified(loop) for loop in _loops(mask)]
    start = loops[0][:1]
    further = [part for loop in loops[1:] for part in (loop, loop[:1], start)]
    return np.concatenate([loops[0], start, *further] if further else loops[:1])


def _loops(mask: NDArray[np.bool_]) -> Iterator[Polygon]:
    """Yield the closed lines between marked pixels and others, clockwise around marked ones."""
    padded = np.pad(mask, 1)
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (dy, dx), (x0, y0, x1, y1) in _SIDES.items():
        shifted = np.roll(padded, (-dy, -dx), (0, 1))
        for y, x in np.argwhere(padded & ~shifted) - 1:
            ends.setdefault((int(x) + x0, int(y) + y0), []).append((int(x) + x1, int(y) + y1))
    while ends:
        at = next(iter(ends))
        loop = []
        while at in ends:
            loop.append(at)
            following = ends[at].pop()
            if not ends[at]:
                del ends[at]
            at = following
        yield np.array(loop, float)


# by the neighbour: the side of a pixel towards it, from corner to corner
_SIDES = {(-1, 0): (0, 0, 1, 0), (0, 1): (1, 0, 1, 1), (1, 0): (1, 1, 0, 1), (0, -1): (0, 1, 0, 0)}


def _simplified(loop: Polygon) -> Polygon:
    """The corners of a closed line that are needed to stay within `TOLERANCE` of it.

    Douglas-Peucker (1973) on a closed line: split at the first point and the one farthest from it, then
    simplify both halves.
    """
    far = int(np.argmax(((loop - loop[0]) ** 2).sum(1)))
    needed = {0, far}
    closed = np.concatenate([loop, loop[:1]])
    spans = [(0, far), (far, len(loop))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        along = closed[last] - closed[first]
        points = closed[first + 1 : last] - closed[first]
        share = np.clip(points @ along / max(along @ along, 1e-9), 0, 1)
        distance = np.hypot(*(points - share[:, None] * along).T)
        if distance.max() > TOLERANCE:
            middle = first + 1 + int(np.argmax(distance))
            needed.add(middle)
            spans += [(first, middle), (middle, last)]
    return loop[sorted(needed)] if len(needed) > 2 else loop
