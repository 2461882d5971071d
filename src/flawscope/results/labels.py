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
# Largest distance in pixels of a polygon from the edge of its region. It is less than 0.71, the distance of a
# pixel's corners from its diagonal, so that the polygon of a single pixel keeps all corners.
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

    The label files of YOLO and LabelMe have the picture's name without its suffix, so that a.png and a.jpg
    would share one. Other forms have one file for all pictures.

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
    """Return the pictures with names relative to their common folder.

    If the pictures lie on several drives, the names are only the file names.
    """
    folders = {picture.name.parent for picture in pictures}
    are_on_one_drive = len({folder.anchor for folder in folders}) == 1
    root = os.path.commonpath(folders) if are_on_one_drive else ""
    renamed = []
    for picture in pictures:
        name = os.path.relpath(picture.name, root) if root else picture.name.name
        renamed.append(picture._replace(name=Path(name)))
    return renamed


class LabelWriter:
    """Collects pictures and writes their labels. Names of pictures are relative to their common folder.

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
            FlawscopeError: A file cannot be written, or two pictures would share a file.
        """
        require_own_files(self.form, (picture.name for picture in self._pictures if picture.regions))
        pictures = _shorten_names(self._pictures)
        if self.form == "yolo":
            self._write_yolo(pictures)
        elif self.form == "labelme":
            self._write_labelme(pictures)
        elif self.form == "coco":
            document = coco_document(
                (picture.name.as_posix(), picture.size, _coco_marks(picture)) for picture in pictures
            )
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
        """Write a file of polygons for each picture with regions, `data.yaml`, and the regions' scores."""
        scores_by_file: dict[str, list[float]] = {}
        for picture in pictures:
            if not picture.regions:
                continue
            file = f"labels/{picture.name.with_suffix('.txt').as_posix()}"
            scores_by_file[file] = [region.score for region in picture.regions]
            lines = []
            for region in picture.regions:
                height, width = picture.size
                shares = region.outline / (width, height)
                coordinates = [f"{share:.7g}" for share in shares.ravel()]  # x, y, x, y, ...
                lines.append(" ".join(["0", *coordinates]))  # 0: number of the class
            self._write(file, "\n".join(lines))
        self._write("data.yaml", f"path: .\ntrain: images\nval: images\nnames:\n  0: {KIND}")
        self._write("scores.json", json.dumps(scores_by_file, indent=1, allow_nan=False))

    def _write(self, name: str, text: str) -> None:
        with atomic_write(self.output.path(name)) as file:
            file.write(f"{text}\n".encode())


def coco_document(
    pictures: Iterable[tuple[str, tuple[int, ...], Iterable[Json]]],
) -> Json:
    """Return the COCO data set of pictures.

    Args:
        pictures: Name, size (H, W) and marks of each picture. A mark holds the entries of an annotation
            without `id`, `image_id`, `category_id` and `iscrowd`, which are added here.
    """
    images: list[Json] = []
    annotations: list[Json] = []
    for number, (name, (height, width), marks) in enumerate(pictures, start=1):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for mark in marks:
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            annotations.append({**ids, "iscrowd": 0, **mark})
    categories = [{"id": 1, "name": KIND, "supercategory": ""}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _coco_marks(picture: LabelledPicture) -> Iterator[Json]:
    """Yield the marks of a picture's regions, as `coco_document` takes them."""
    for region in picture.regions:
        upper_left = region.outline.min(axis=0)
        size = region.outline.max(axis=0) - upper_left  # width, height
        yield {
            "bbox": [*upper_left.tolist(), *size.tolist()],
            "segmentation": [region.outline.ravel().tolist()],
            "area": region.area,
            "score": region.score,
            "p_value": picture.p_value,
        }


def _labelme_document(picture: LabelledPicture) -> Json:
    """Return the content of a LabelMe file, which must lie beside the picture.

    The score is in the description of a shape, since the format has no field for scores.
    """
    height, width = picture.size
    path = picture.name
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
        "imagePath": path.name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        "shapes": shapes,
    }


def _task(picture: LabelledPicture) -> Json:
    """Return a task of Label Studio that shows the regions as a prediction.

    The picture is expected in the local storage of Label Studio.
    """
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

    picture_map = prediction.picture_map()
    labels, _ = ndimage.label(prediction.outlined(picture_map), structure=np.ones((3, 3)))
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        region = labels[rows, columns] == label
        outline = trace_outline(region) + np.array([columns.start, rows.start])  # x, y in the picture
        score = float(picture_map[rows, columns][region].max())
        yield LabelledRegion(outline, area=int(region.sum()), score=score)


def trace_outline(mask: NDArray[np.bool_]) -> Polygon:
    """Trace the edge of a mask as one polygon, within `TOLERANCE`.

    The edge may consist of several closed loops: around holes, and around parts of the mask that only touch
    at a corner. The polygon goes from its start to each further loop, around it, and back to the start.
    Filled by the even-odd rule, it gives the mask, since the ways there and back enclose nothing.
    """
    first_loop, *other_loops = [_simplify(loop) for loop in _trace_loops(mask)]
    if not other_loops:
        return first_loop
    start = first_loop[:1]
    point_lists = [first_loop, start]
    for loop in other_loops:
        loop_start = loop[:1]
        point_lists += [loop, loop_start, start]
    return np.concatenate(point_lists)


# Each side of a pixel, by the direction (y, x) of the neighbour behind it: its beginning x0, y0 and its end
# x1, y1, clockwise around the pixel
_SIDES = {(-1, 0): (0, 0, 1, 0), (0, 1): (1, 0, 1, 1), (1, 0): (1, 1, 0, 1), (0, -1): (0, 1, 0, 0)}


def _trace_loops(mask: NDArray[np.bool_]) -> Iterator[Polygon]:
    """Yield the closed lines between marked and unmarked pixels, clockwise around marked ones."""
    padded = np.pad(mask, 1)
    # The sides between a marked and an unmarked pixel, each from its beginning (x, y) to its end. Two sides
    # begin at a corner where marked pixels touch diagonally
    ends_by_beginning: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (dy, dx), (x0, y0, x1, y1) in _SIDES.items():
        # whether the neighbour of each pixel in the direction (dy, dx) is marked
        has_marked_neighbour = np.roll(padded, (-dy, -dx), axis=(0, 1))
        for y, x in np.argwhere(padded & ~has_marked_neighbour) - 1:  # - 1: without the padding
            beginning = (int(x) + x0, int(y) + y0)
            end = (int(x) + x1, int(y) + y1)
            ends_by_beginning.setdefault(beginning, []).append(end)
    while ends_by_beginning:
        corner = next(iter(ends_by_beginning))
        loop = []
        while corner in ends_by_beginning:
            loop.append(corner)
            next_corner = ends_by_beginning[corner].pop()
            if not ends_by_beginning[corner]:
                del ends_by_beginning[corner]
            corner = next_corner
        yield np.array(loop, float)


def _simplify(loop: Polygon) -> Polygon:
    """Return those corners of a closed line that are needed to stay within `TOLERANCE` of it.

    This is the algorithm of Douglas and Peucker (1973). The closed line is first split in two, at its first
    point and the point farthest from that; both halves are then simplified.
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
        # each point's nearest point on the chord, as a share of the chord; 1e-9 avoids a division by zero
        shares = np.clip(points @ chord / max(chord @ chord, 1e-9), 0, 1)
        distances = np.hypot(*(points - shares[:, None] * chord).T)
        if distances.max() > TOLERANCE:
            farthest_point = first + 1 + int(np.argmax(distances))
            needed.add(farthest_point)
            spans += [(first, farthest_point), (farthest_point, last)]
    return loop[sorted(needed)] if len(needed) > 2 else loop  # two points make no polygon
