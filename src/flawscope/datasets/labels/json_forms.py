"""Reads the JSON files of labelling tools: COCO, Label Studio, VIA and LabelMe."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.datasets.labels import shapes
from flawscope.datasets.labels.shapes import (
    NO_PLACE,
    Entry,
    Mark,
    Polygon,
    Shape,
    Size,
    name_entry,
    picture_path,
    read_size,
)
from flawscope.datasets.labels.tables import told_texts
from flawscope.errors import InputError
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.masks import read_mask

Record = dict[str, Any]
_LINES = ("line", "linestrip", "polyline", "point", "points")


def is_records(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


# ------------------------------------------------------------------------------------------------------- COCO


_COCO_PLACES = {"bbox", "segmentation", "keypoints", "caption"}  # without any: classes of whole pictures


def is_coco(document: Any) -> bool:
    lists = ("images", "annotations")
    return isinstance(document, dict) and all(is_records(document.get(name)) for name in lists)


def parse_coco(document: Record, _own: str) -> Iterator[Entry]:
    """Entries of a COCO file (https://cocodataset.org/#format-data); also of VIA, whose polygons are flat."""
    annotations_of: dict[str, list[Record]] = {}
    for annotation in document["annotations"]:
        annotations_of.setdefault(_to_id(annotation["image_id"]), []).append(annotation)
    images = {_to_id(image["id"]): image for image in document["images"]}
    is_classes = len(document["annotations"]) > 1 and not any(
        annotation.get(key) for annotation in document["annotations"] for key in _COCO_PLACES
    )
    lost = {number: {"file_name": f"image_id {number}"} for number in annotations_of if number not in images}
    kinds = {_to_id(kind.get("id")): str(kind.get("name", "")) for kind in document.get("categories") or ()}
    for number, image in [*images.items(), *lost.items()]:
        size, marks = read_size(image.get("height"), image.get("width")), list[Mark]()
        whole: list[str] = []
        for annotation in annotations_of.get(number, ()):
            kind = kinds.get(_to_id(annotation.get("category_id")), "")
            marked = annotation.get("segmentation")
            if annotation.get("score") is not None:  # a model's findings are no ground truth
                marks.append(Mark(None, "finding of a model"))
                continue
            parts = marked if isinstance(marked, list) else [] if marked is None else [marked]
            parts = [parts] if parts and not isinstance(parts[0], list | dict) else parts
            found = len(marks)
            for part in parts:
                if isinstance(part, dict):  # run lengths
                    of = read_size(*part["size"])
                    if (size := size or of) != of:
                        raise InputError(f"a mask of {image['file_name']} has another size than the picture")
                    marks.append(Mark(Shape(partial(shapes.from_runs, _read_runs(part["counts"]))), kind))
                elif len(polygon := shapes.to_points(part)) > 2:  # fewer than three corners stand for none
                    marks.append(Mark(shapes.filled(polygon), kind))
            if len(marks) == found and annotation.get("bbox"):
                x, y, width, height = map(float, annotation["bbox"])
                marks.append(Mark(shapes.filled(shapes.box((x, y, x + width, y + height))), kind, True))
            elif len(marks) == found and kind and is_classes:
                whole.append(kind)
            elif len(marks) == found:
                marks.append(Mark(None, NO_PLACE))
        about = told_texts("class", whole)
        yield name_entry(picture_path(image["file_name"]), size, marks)._replace(about=about)


def _read_runs(counts: Any) -> NDArray[np.int64]:
    if isinstance(counts, str):
        return shapes.decompress_runs(counts)
    return np.array([*counts], np.int64).ravel()


def _to_id(value: Any) -> str:
    """An id as it is compared: tools write 7, 7.0 and "7" for the same picture."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


# --------------------------------------------------------------------------------------------------- LabelMe


def is_labelme(document: Any) -> bool:
    return isinstance(document, dict) and "imagePath" in document and is_records(document.get("shapes"))


def parse_labelme(document: Record, own: str) -> Iterator[Entry]:
    """Entry of a file of LabelMe (https://github.com/wkentaro/labelme), also of AnyLabeling."""
    size = read_size(document.get("imageHeight"), document.get("imageWidth"))
    suffix = PurePosixPath(str(document["imagePath"])).suffix
    flags = document.get("flags")
    about = [one for k, v in flags.items() for one in told_texts(k, [v])] if isinstance(flags, dict) else ()
    yield Entry(own, size, [_labelme_mark(shape) for shape in document["shapes"]], suffix, tuple(about))


def _labelme_mark(shape: Record) -> Mark:
    points, kind = shapes.to_points(shape["points"]), shape.get("shape_type", "polygon")
    label = str(shape.get("label", ""))
    if len(points) < {"rectangle": 2, "circle": 2}.get(kind, 1):
        return Mark(None, NO_PLACE)
    if kind == "rectangle":
        return Mark(shapes.filled(shapes.box((*points.min(0), *points.max(0)))), label, True)
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return Mark(shapes.filled(shapes.ellipse(points[0], (radius, radius)), is_loose=True), label)
    if kind == "mask":
        left, top = map(int, points[0].round())
        return Mark(shapes.pasted(read_mask(base64.b64decode(shape["mask"])), left, top), label)
    return shapes.mark_points(points, label, kind not in _LINES)


# -------------------------------------------------------------------------------------------------------- VIA


def _via_pictures(document: Any) -> Any:
    return document.get("_via_img_metadata", document) if isinstance(document, dict) else None


def is_via(document: Any) -> bool:
    pictures = _via_pictures(document)
    entries = list(pictures.values()) if isinstance(pictures, dict) else []
    if not isinstance(pictures, dict) or (pictures is document and not entries):
        return False
    return is_records(entries) and all({"filename", "regions"} <= {*e} for e in entries)


def parse_via(document: Record, _own: str) -> Iterator[Entry]:
    """Entries of a project or of annotations of VIA 1 and 2 (https://www.robots.ox.ac.uk/~vgg/software/via)."""
    for picture in _via_pictures(document).values():
        regions = picture["regions"]
        marks = [_via_mark(region) for region in (regions.values() if isinstance(regions, dict) else regions)]
        about = [one for k, v in (picture.get("file_attributes") or {}).items() for one in _via_texts(k, v)]
        yield name_entry(picture_path(picture["filename"]), None, marks)._replace(about=tuple(about))


def _via_texts(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    """Reads an attribute of a picture; of several that may be ticked those that are."""
    return told_texts(
        f"label {name}",
        [key for key, ticked in value.items() if ticked] if isinstance(value, dict) else [value],
    )


def _via_mark(region: Record) -> Mark:
    shape, attributes = region["shape_attributes"], region.get("region_attributes") or {}
    label = next(iter(attributes.values()), "")
    label = str(next(iter(label), "") if isinstance(label, dict) else label)  # several may be ticked
    name = shape.get("name")
    if name is None:
        return Mark(None, NO_PLACE)
    if name == "rect":
        x, y = float(shape["x"]), float(shape["y"])
        return Mark(shapes.filled(shapes.box((x, y, x + shape["width"], y + shape["height"]))), label, True)
    if name in ("circle", "ellipse"):
        radii = (shape["r"], shape["r"]) if name == "circle" else (shape["rx"], shape["ry"])
        turned = np.degrees(float(shape.get("theta") or 0))  # radians
        ellipse = shapes.ellipse((shape["cx"], shape["cy"]), radii, turned)
        return Mark(shapes.filled(ellipse, is_loose=True), label)
    if name == "point":
        points = shapes.to_points((shape["cx"], shape["cy"]))
    else:
        points = shapes.to_points(np.stack([shape["all_points_x"], shape["all_points_y"]], 1))
    return shapes.mark_points(points, label, name == "polygon")


# ----------------------------------------------------------------------------------------------- Label Studio


_ANNOTATED, _PLACED = {"annotations", "completions", "predictions"}, {"x", "points", "rle", "imageDataURL"}
_SIDES = ("height", "width")


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
        pictures = _task_pictures(task)
        every = list(dict.fromkeys(path for paths in pictures.values() for path in paths))
        regions: dict[Any, Record] = {}
        sizes: dict[str | None, Size | None] = {}
        for annotation in task.get("annotations") or task.get("completions") or ():
            for number, region in enumerate(() if annotation.get("was_cancelled") else annotation["result"]):
                key = (id(annotation), region.get("id") or number)  # a shape and its label share an id
                before = regions.get(key, {})
                value = {**before.get("value", {}), **(region.get("value") or {})}
                regions[key] = {**before, **region, "value": value}
                of, told = _marked_picture(region, pictures, every), (f"original_{s}" for s in _SIDES)
                sizes[of] = sizes.get(of) or read_size(*map(region.get, told))
        marks: dict[str | None, list[Mark]] = {path: [] for path in every}
        about: dict[str | None, list[tuple[str, str]]] = {path: [] for path in every}
        for region in (region for region in regions.values() if region["value"]):
            of = _marked_picture(region, pictures, every)
            if of is None:  # nobody knows which: none of them is marked wholly
                for path in every:
                    marks[path] = [Mark(None, "mark in one of several pictures")]
                continue
            if said := _label_studio_texts(region):
                about[of] += said
            else:
                marks[of].append(_label_studio_mark(region, sizes[of]))
        predictions = [Mark(None, "prediction") for found in task.get("predictions") or () if found]
        for path in every:
            entry = name_entry(path, sizes.get(path), [*marks[path], *predictions])
            yield entry._replace(about=tuple(about[path]))
        if not every:
            yield Entry("", None, [Mark(None, "task without a picture")])


def _task_pictures(task: Record) -> dict[str, list[str]]:
    """Paths of a task's pictures, by the names of its data."""
    found: dict[str, list[str]] = {}
    for name, value in [*task["data"].items(), ("", task.get("file_upload"))]:
        paths = [picture_path(one) for one in (value if isinstance(value, list) else [value])]
        paths = [path for path in paths if is_picture(PurePosixPath(path))]
        if paths and (name or not found):  # the upload is one of the data
            found[name] = paths
    return found


def _marked_picture(region: Record, pictures: dict[str, list[str]], every: list[str]) -> str | None:
    """Picture that a region marks; None where several may be meant. It names a tag of the labelling
    interface, which often has the name of its data."""
    paths = pictures.get(str(region.get("to_name"))) or every
    page = region.get("item_index")
    if len(paths) > 1 and isinstance(page, int) and (paths is not every or len(pictures) == 1):
        paths = paths[page : page + 1] if page >= 0 else []
    return paths[0] if len(paths) == 1 else None


def _label_studio_texts(region: Record) -> tuple[tuple[str, str], ...]:
    """Reads what was chosen for a whole picture; a choice for a region has its place, and is none."""
    value, name = region["value"], f"choice {region.get('from_name') or ''}"
    if value.keys() & _PLACED:
        return ()
    paths = [value.get("choices") or [], *(value.get("taxonomy") or [])]
    return tuple(
        one for path in paths for one in told_texts(name, path if isinstance(path, list) else [path])
    )


def _label_studio_mark(region: Record, size: Size | None) -> Mark:
    value = region["value"]
    label = next((str(names[0]) for key, names in value.items() if key.endswith("labels") and names), "")
    if region.get("image_rotation"):
        return Mark(None, "mark in a picture that is turned in the tool")
    if "rle" in value or "imageDataURL" in value:
        if size is None:
            raise KeyError("original_width")
        if "rle" in value:
            return Mark(Shape(partial(shapes.unpack_brush, bytes(map(int, value["rle"])))), label)
        return Mark(Shape(partial(shapes.unpack_bitmask, str(value["imageDataURL"]))), label)
    kind, outline = next(((key, f) for key, f in _PERCENT.items() if key in value), ("", None))
    if outline is None:
        return Mark(None, str(region.get("type") or NO_PLACE))
    if not len(outline(value, (1, 1))):  # what is damaged is told now, too
        return Mark(None, NO_PLACE)
    is_loose = kind == "radiusX" or bool(value.get("rotation"))
    return Mark(shapes.placed(partial(outline, value), is_loose=is_loose), label, kind == "height")


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
