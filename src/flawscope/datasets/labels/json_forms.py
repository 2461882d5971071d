"""Reads the JSON files of labelling tools: COCO, Label Studio, VIA and LabelMe."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from flawscope.datasets.labels import shapes
from flawscope.datasets.labels.shapes import Entry, Mark, Polygon, Size, read_size, strip_suffix
from flawscope.errors import InputError
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.masks import read_mask

Record = dict[str, Any]
_LINES = ("line", "linestrip", "polyline", "point", "points")


def is_records(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _picture_path(address: Any) -> str:
    """Path of a picture in its address, which may have a query, or a path in it as Label Studio's."""
    return re.sub(r"(\.\w+)\?.*|.*\?d=", r"\1", unquote(str(address)))


# ------------------------------------------------------------------------------------------------------- COCO


def is_coco(document: Any) -> bool:
    lists = ("images", "annotations")
    return isinstance(document, dict) and all(is_records(document.get(name)) for name in lists)


def parse_coco(document: Record, _own: str) -> Iterator[Entry]:
    """Entries of a COCO file (https://cocodataset.org/#format-data); also of VIA, whose polygons are flat."""
    annotations_of: dict[str, list[Record]] = {}
    for annotation in document["annotations"]:
        annotations_of.setdefault(_to_id(annotation["image_id"]), []).append(annotation)
    images = {_to_id(image["id"]): image for image in document["images"]}
    lost = {number: {"file_name": f"image_id {number}"} for number in annotations_of if number not in images}
    kinds = {_to_id(kind.get("id")): str(kind.get("name", "")) for kind in document.get("categories") or ()}
    for number, image in [*images.items(), *lost.items()]:
        size, marks = read_size(image.get("height"), image.get("width")), list[Mark]()
        for annotation in annotations_of.get(number, ()):
            kind = kinds.get(_to_id(annotation.get("category_id")), "")
            marked = annotation.get("segmentation")
            if annotation.get("score") is not None:  # a model's findings are no ground truth
                marks.append(Mark(None, "finding of a model"))
                continue
            if marked is None and "bbox" not in annotation:
                marks.append(Mark(None, "annotation without a place"))
                continue
            if isinstance(marked, dict):
                of = read_size(*marked["size"])
                if (size := size or of) != of:
                    raise InputError(f"a mask of {image['file_name']} has another size than the picture")
                counts = marked["counts"]
                runs = shapes.decompress_runs(counts) if isinstance(counts, str) else np.array([*counts], int)
                marks.append(Mark(partial(shapes.from_runs, runs.ravel()), kind))
                continue
            lists = [marked] if marked and not isinstance(marked[0], list) else marked or ()
            polygons = [polygon for polygon in map(shapes.to_points, lists) if len(polygon) > 2]
            marks += [Mark(shapes.filled(polygon), kind) for polygon in polygons]
            if not polygons:  # fewer than three corners stand for none
                x, y, width, height = map(float, annotation["bbox"])
                marks.append(Mark(shapes.filled(shapes.box((x, y, x + width, y + height))), kind, True))
        yield Entry(strip_suffix(_picture_path(image["file_name"])), size, marks)


def _to_id(value: Any) -> str:
    """An id as it is compared: tools write 7, 7.0 and "7" for the same picture."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


# --------------------------------------------------------------------------------------------------- LabelMe


def is_labelme(document: Any) -> bool:
    return isinstance(document, dict) and "imagePath" in document and is_records(document.get("shapes"))


def parse_labelme(document: Record, own: str) -> Iterator[Entry]:
    """Entry of a file of LabelMe (https://github.com/wkentaro/labelme), also of AnyLabeling."""
    size = read_size(document.get("imageHeight"), document.get("imageWidth"))
    yield Entry(own, size, [_labelme_mark(shape) for shape in document["shapes"]])


def _labelme_mark(shape: Record) -> Mark:
    points, kind = shapes.to_points(shape["points"]), shape.get("shape_type", "polygon")
    label = str(shape.get("label", ""))
    if kind == "rectangle":
        return Mark(shapes.filled(shapes.box((*points.min(0), *points.max(0)))), label, True)
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return Mark(shapes.filled(shapes.ellipse(points[0], (radius, radius))), label)
    if kind == "mask":
        left, top = map(int, points[0].round())
        return Mark(shapes.pasted(read_mask(base64.b64decode(shape["mask"])), left, top), label)
    return Mark(shapes.drawn(points, kind not in _LINES), label)


# -------------------------------------------------------------------------------------------------------- VIA


def _via_pictures(document: Any) -> Any:
    return document.get("_via_img_metadata", document) if isinstance(document, dict) else None


def is_via(document: Any) -> bool:
    pictures = _via_pictures(document)
    entries = list(pictures.values()) if isinstance(pictures, dict) else []
    return bool(entries) and is_records(entries) and all({"filename", "regions"} <= {*e} for e in entries)


def parse_via(document: Record, _own: str) -> Iterator[Entry]:
    """Entries of a project or of annotations of VIA 1 and 2 (https://www.robots.ox.ac.uk/~vgg/software/via)."""
    for picture in _via_pictures(document).values():
        regions = picture["regions"]
        marks = [_via_mark(region) for region in (regions.values() if isinstance(regions, dict) else regions)]
        yield Entry(strip_suffix(_picture_path(picture["filename"])), None, marks)


def _via_mark(region: Record) -> Mark:
    shape, attributes = region["shape_attributes"], region.get("region_attributes") or {}
    label = next(iter(attributes.values()), "")
    label = str(next(iter(label), "") if isinstance(label, dict) else label)  # several may be ticked
    name = shape["name"]
    if name == "rect":
        x, y = float(shape["x"]), float(shape["y"])
        return Mark(shapes.filled(shapes.box((x, y, x + shape["width"], y + shape["height"]))), label, True)
    if name in ("circle", "ellipse"):
        radii = (shape["r"], shape["r"]) if name == "circle" else (shape["rx"], shape["ry"])
        turned = np.degrees(float(shape.get("theta") or 0))  # radians
        return Mark(shapes.filled(shapes.ellipse((shape["cx"], shape["cy"]), radii, turned)), label)
    if name == "point":
        points = shapes.to_points((shape["cx"], shape["cy"]))
    else:
        points = shapes.to_points(np.stack([shape["all_points_x"], shape["all_points_y"]], 1))
    return Mark(shapes.drawn(points, name == "polygon"), label)


# ----------------------------------------------------------------------------------------------- Label Studio


_ANNOTATED, _PLACED = {"annotations", "completions", "predictions"}, {"x", "points", "rle"}


def _label_studio_tasks(document: Any) -> list[Record]:
    """Tasks of an export, each with `data` and `annotations`; those of JSON_MIN are made so. Empty for any
    other document."""
    tasks = []
    for task in [document] if isinstance(document, dict) else document if is_records(document) else ():
        if isinstance(task.get("task"), dict) and "result" in task:  # an annotation as a storage holds it
            tasks.append({**task["task"], "annotations": [task]})
        elif isinstance(task.get("data"), dict) and task.keys() & _ANNOTATED:
            tasks.append(task)
        else:
            lists = [value for value in task.values() if is_records(value)]
            result = [{**region, "value": region} for regions in lists for region in regions]
            if any(region.keys() & _PLACED and "labels" in "".join(region) for region in result):
                tasks.append({"data": task, "annotations": [{"result": result}]})
    return tasks


def is_label_studio(document: Any) -> bool:
    return bool(_label_studio_tasks(document))


def parse_label_studio(document: Any, _own: str) -> Iterator[Entry]:
    """Entries of the exports JSON and JSON_MIN (https://labelstud.io/guide/export), of all annotators."""
    for task in _label_studio_tasks(document):
        regions: dict[Any, Record] = {}
        size = None
        for annotation in task.get("annotations") or task.get("completions") or ():
            for number, region in enumerate(() if annotation.get("was_cancelled") else annotation["result"]):
                key = (id(annotation), region.get("id") or number)  # a shape and its label share an id
                before = regions.get(key, {})
                value = {**before.get("value", {}), **(region.get("value") or {})}
                regions[key] = {**before, **region, "value": value}
                size = size or read_size(region.get("original_height"), region.get("original_width"))
        marks = [_label_studio_mark(region, size) for region in regions.values() if region["value"]]
        marks += [Mark(None, "prediction") for found in task.get("predictions") or () if found]
        paths = map(_picture_path, (*task["data"].values(), task.get("file_upload")))
        path = next((path for path in paths if is_picture(PurePosixPath(path))), None)
        if path is None:
            raise KeyError("image")
        yield Entry(strip_suffix(path), size, marks)


def _label_studio_mark(region: Record, size: Size | None) -> Mark:
    value = region["value"]
    label = next((str(names[0]) for key, names in value.items() if key.endswith("labels") and names), "")
    if region.get("image_rotation"):
        raise InputError("a picture is turned in it: turn the picture itself")
    if "rle" in value:
        if size is None:
            raise KeyError("original_width")
        return Mark(partial(shapes.unpack_brush, bytes(map(int, value["rle"]))), label)
    outline = next((f for key, f in _PERCENT.items() if key in value), None)
    if outline is None:
        return Mark(None, str(region.get("type") or "mark without an outline"))
    outline(value, (1, 1))  # what is damaged is told now
    return Mark(lambda of: shapes.fill_polygon(outline(value, of), of), label, "height" in value)


def _percent_polygon(value: Record, size: Size) -> Polygon:
    return shapes.to_points(value["points"]) * size[::-1] / 100


def _percent_ellipse(value: Record, size: Size) -> Polygon:
    names = (("x", "y"), ("radiusX", "radiusY"))
    centre, radii = (shapes.to_points([value[a], value[b]]) * size[::-1] / 100 for a, b in names)
    return shapes.ellipse(centre, radii, float(value.get("rotation") or 0))


def _percent_box(value: Record, size: Size) -> Polygon:
    """Corners of a box, turned around the first one."""
    x, y = float(value["x"]), float(value["y"])
    corners = shapes.box((x, y, x + value["width"], y + value["height"])) * size[::-1] / 100
    return shapes.turn(corners, corners[0], float(value.get("rotation") or 0))


# by what a value has; all in percent of the picture. A key point has a width, and no height
_PERCENT: dict[str, Callable[[Record, Size], Polygon]] = {
    "points": _percent_polygon,
    "radiusX": _percent_ellipse,
    "height": _percent_box,
}
