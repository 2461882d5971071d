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
# Pixels by which a polygon may be off its region: less than 0.71, the distance of a pixel's corners from its
# diagonal, so that a single pixel keeps its corners
TOLERANCE = 0.7

Polygon = NDArray[np.float64]  # [N, 2]: x, y in pixels


class LabelledRegion(NamedTuple):
    """Region of a picture.

    Attributes:
        outline: Corners of the region, in pixels of the picture.
        area: Number of pixels.
        score: Largest value of the map in the region.
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
    """Check that each picture has its own file of labels.

    YOLO and LabelMe name it as the picture, without the suffix; other forms have one file for all pictures.

    Raises:
        InputError: Two pictures would share a file.
    """
    if form not in ("yolo", "labelme"):
        return
    picture_by_stem: dict[Path, Path] = {}
    for picture in pictures:
        other = picture_by_stem.setdefault(picture.with_suffix(""), picture)
        if other != picture:
            raise InputError(
                f"{other} and {picture.name} would share a file of labels with --labels {form}: rename one, "
                "or take --labels coco"
            )


def _shorten_names(pictures: Sequence[LabelledPicture]) -> list[LabelledPicture]:
    """Return pictures with names below their common folder; on several drives with file names alone."""
    folders = {picture.name.parent for picture in pictures}
    are_on_one_drive = len({folder.anchor for folder in folders}) == 1
    root = os.path.commonpath(folders) if are_on_one_drive else ""
    renamed = []
    for picture in pictures:
        name = os.path.relpath(picture.name, root) if root else picture.name.name
        renamed.append(picture._replace(name=Path(name)))
    return renamed


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
        self.output = output
        self._pictures: list[LabelledPicture] = []

    def add(self, prediction: Prediction) -> None:
        """Add a picture, with the marked regions of an anomalous one; a good one has none."""
        regions = list(marked_regions(prediction)) if prediction.is_anomalous else []
        path = Path(os.path.abspath(prediction.path or "picture"))
        size = prediction.geometry.picture_size
        self._pictures.append(LabelledPicture(path, size, prediction.p_value, regions))

    def finish(self) -> None:
        """Write the files.

        Raises:
            FlawscopeError: A file cannot be written, or two pictures would share it.
        """
        require_own_files(self.form, (picture.name for picture in self._pictures if picture.regions))
        pictures = _shorten_names(self._pictures)
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
        with atomic_write(self.output.path(name)) as file:
            file.write(f"{text}\n".encode())


def coco_document(
    pictures: Iterable[tuple[str, tuple[int, ...], Iterable[Json]]],
) -> Json:
    """Return the COCO data set of pictures.

    Args:
        pictures: Name, size (H, W) and marks of each picture. A mark has the entries of an annotation that
            are not its number, those of the picture and the category, and `iscrowd`.
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
    """Yield the marks of a picture's regions, as `coco_document` takes them."""
    for region in picture.regions:
        corner = region.outline.min(axis=0)
        size = region.outline.max(axis=0) - corner
        yield {
            "bbox": [*corner.tolist(), *size.tolist()],
            "segmentation": [region.outline.ravel().tolist()],
            "area": region.area,
            "score": region.score,
            "p_value": picture.p_value,
        }


def _labelme_document(picture: LabelledPicture) -> Json:
    """Return the content of a LabelMe file, to lie beside the picture.

    The score is in the description of a shape: the format has no field for it.
    """
    height, width = picture.size
    shapes = []
    for region in picture.regions:
        shapes.append(
            {
                "label": KIND,
                "shape_type": "polygon",
                "points": region.outline.tolist(),
                "description": f"score {region.score:.6g}",
                "flags": {},
            }
        )
    return {
        "version": "5.5.0",
        "flags": {},
        "imagePath": picture.name.name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        "shapes": shapes,
    }


def _task(picture: LabelledPicture) -> Json:
    """Return a task of Label Studio with a prediction; the picture is in the tool's local storage."""
    height, width = picture.size
    result = []
    for number, region in enumerate(picture.regions):
        percent = region.outline * 100 / (width, height)
        result.append(
            {
                "id": f"region{number}",
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "image_rotation": 0,
                "original_width": width,
                "original_height": height,
                "value": {"points": percent.tolist(), "closed": True, "polygonlabels": [KIND]},
                "score": region.score,
            }
        )
    prediction = {"model_version": "flawscope", "score": 1 - picture.p_value, "result": result}
    data = {"image": f"/data/local-files/?d={quote(picture.name.as_posix())}"}
    return {"data": data, "predictions": [prediction]}


# ----------------------------------------------------------------------------------------------- the outlines


def marked_regions(prediction: Prediction) -> Iterator[LabelledRegion]:
    """Yield the 8-connected regions of the mask at the picture's size."""
    from scipy import ndimage

    values = prediction.picture_map()
    labels, _ = ndimage.label(prediction.outlined(values), structure=np.ones((3, 3)))
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        region = labels[rows, columns] == label
        outline = trace_outline(region) + np.array([columns.start, rows.start])
        score = float(values[rows, columns][region].max())
        yield LabelledRegion(outline, area=int(region.sum()), score=score)


def trace_outline(mask: NDArray[np.bool_]) -> Polygon:
    """Trace the edge of a mask as one polygon, within `TOLERANCE`.

    Holes, and pieces that only touch at a corner, have loops of their own. A line from the start to each of
    them and back joins them: filling the polygon by the even-odd rule gives the mask.
    """
    first_loop, *other_loops = [_simplify(loop) for loop in _trace_loops(mask)]
    if not other_loops:
        return first_loop
    start = first_loop[:1]
    pieces = [first_loop, start]
    for loop in other_loops:
        pieces += [loop, loop[:1], start]
    return np.concatenate(pieces)


# Sides of a pixel by the direction (y, x) of the neighbour: corners x0, y0, x1, y1, clockwise
_SIDES = {(-1, 0): (0, 0, 1, 0), (0, 1): (1, 0, 1, 1), (1, 0): (1, 1, 0, 1), (0, -1): (0, 1, 0, 0)}


def _trace_loops(mask: NDArray[np.bool_]) -> Iterator[Polygon]:
    """Yield the closed lines between marked pixels and others, clockwise around marked ones."""
    padded = np.pad(mask, 1)
    # ends of the sides between marked pixels and others, by their beginnings
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (dy, dx), (x0, y0, x1, y1) in _SIDES.items():
        has_marked_neighbour = np.roll(padded, (-dy, -dx), (0, 1))
        for y, x in np.argwhere(padded & ~has_marked_neighbour) - 1:
            ends.setdefault((int(x) + x0, int(y) + y0), []).append((int(x) + x1, int(y) + y1))
    while ends:
        corner = next(iter(ends))
        loop = []
        while corner in ends:
            loop.append(corner)
            next_corner = ends[corner].pop()
            if not ends[corner]:
                del ends[corner]
            corner = next_corner
        yield np.array(loop, float)


def _simplify(loop: Polygon) -> Polygon:
    """Return the corners of a closed line that are needed to stay within `TOLERANCE` of it.

    This is the algorithm of Douglas and Peucker (1973) on a closed line: split at the first point and the
    point farthest from it, then simplify both halves.
    """
    farthest = int(np.argmax(((loop - loop[0]) ** 2).sum(axis=1)))
    needed = {0, farthest}
    closed = np.concatenate([loop, loop[:1]])
    spans = [(0, farthest), (farthest, len(loop))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:  # no points lie between
            continue
        chord = closed[last] - closed[first]
        points = closed[first + 1 : last] - closed[first]
        # nearest points on the chord, as shares of its length; 1e-9 avoids a division by zero
        shares = np.clip(points @ chord / max(chord @ chord, 1e-9), 0, 1)
        distances = np.hypot(*(points - shares[:, None] * chord).T)
        if distances.max() > TOLERANCE:
            middle = first + 1 + int(np.argmax(distances))
            needed.add(middle)
            spans += [(first, middle), (middle, last)]
    return loop[sorted(needed)] if len(needed) > 2 else loop  # two points make no polygon
