"""Reads the JSON files of labelling tools: COCO, Label Studio, VIA and LabelMe."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeGuard

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
from flawscope.datasets.labels.tables import picture_texts
from flawscope.errors import InputError
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.masks import read_mask

Record = dict[str, Any]
_LINES = ("line", "linestrip", "polyline", "point", "points")


def is_records(value: object) -> TypeGuard[list[Record]]:
    """Whether a value is a list of objects of JSON."""
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


# ------------------------------------------------------------------------------------------------------- COCO


_COCO_PLACES = {"bbox", "segmentation", "keypoints", "caption"}  # without any: classes of whole pictures


def is_coco(document: object) -> bool:
    """Whether a document is COCO's: it has lists of images and of annotations."""
    lists = ("images", "annotations")
    return isinstance(document, dict) and all(is_records(document.get(name)) for name in lists)


def parse_coco(document: Record, _own: str) -> Iterator[Entry]:
    """Entries of a COCO file (https://cocodataset.org/#format-data); also of VIA, whose polygons are flat."""
    annotations: list[Record] = document["annotations"]
    annotations_of: dict[str, list[Record]] = {}
    for annotation in annotations:
        annotations_of.setdefault(_to_id(annotation["image_id"]), []).append(annotation)
    images = {_to_id(image["id"]): image for image in document["images"]}
    lost = {number: {"file_name": f"image_id {number}"} for number in annotations_of if number not in images}
    kinds = {_to_id(kind.get("id")): str(kind.get("name", "")) for kind in document.get("categories") or ()}
    are_classes = len(annotations) > 1 and not any(map(_coco_has_place, annotations))
    for number, image in [*images.items(), *lost.items()]:
        picture = _CocoPicture(image, read_size(image.get("height"), image.get("width")))
        for annotation in annotations_of.get(number, ()):
            kind = kinds.get(_to_id(annotation.get("category_id")), "")
            picture.add(annotation, kind, are_classes)
        yield picture.entry()


def _coco_has_place(annotation: Record) -> bool:
    return any(annotation.get(key) for key in _COCO_PLACES)


@dataclass
class _CocoPicture:
    """An image of a COCO file with its annotations; `classes` are those of the whole picture."""

    image: Record
    size: Size | None
    marks: list[Mark] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def add(self, annotation: Record, kind: str, are_classes: bool) -> None:
        """Add an annotation of a kind; with `are_classes`, one without a place states the picture's class."""
        if annotation.get("score") is not None:  # a model's findings are no ground truth
            self.marks.append(Mark(None, "finding of a model"))
            return
        marks = self._segments(annotation, kind)
        self.marks += marks
        if marks:
            return
        if annotation.get("bbox"):
            x, y, width, height = map(float, annotation["bbox"])
            self.marks.append(
                Mark(shapes.filled(shapes.box((x, y, x + width, y + height))), kind, is_box=True)
            )
        elif kind and are_classes:
            self.classes.append(kind)
        else:
            self.marks.append(Mark(None, NO_PLACE))

    def _segments(self, annotation: Record, kind: str) -> list[Mark]:
        """Read the polygons and the run lengths of an annotation."""
        marks = []
        for part in _coco_segmentation(annotation):
            if isinstance(part, dict):
                marks.append(Mark(self._run_lengths(part), kind))
                continue
            polygon = shapes.to_points(part)
            if len(polygon) > 2:  # fewer than three corners stand for none
                marks.append(Mark(shapes.filled(polygon), kind))
        return marks

    def _run_lengths(self, part: Record) -> Shape:
        size = read_size(*part["size"])
        self.size = self.size or size
        if self.size != size:
            name = self.image["file_name"]
            raise InputError(f"a mask of {name} has another size than the picture")
        return Shape(partial(shapes.from_runs, _read_runs(part["counts"])))

    def entry(self) -> Entry:
        about = picture_texts("class", self.classes)
        path = picture_path(self.image["file_name"])
        return name_entry(path, self.size, self.marks)._replace(about=about)


def _coco_segmentation(annotation: Record) -> list[Record | list[float]]:
    """The parts of a segmentation: polygons, which may be a flat one alone, and run lengths."""
    marked = annotation.get("segmentation")
    if marked is None:
        return []
    if not isinstance(marked, list):
        return [marked]
    is_flat = bool(marked) and not isinstance(marked[0], list | dict)
    return [marked] if is_flat else marked


def _read_runs(counts: str | list[int]) -> NDArray[np.int64]:
    if isinstance(counts, str):
        return shapes.decompress_runs(counts)
    return np.array([*counts], np.int64).ravel()


def _to_id(value: object) -> str:
    """An id as it is compared: tools write 7, 7.0 and "7" for the same picture."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


# --------------------------------------------------------------------------------------------------- LabelMe


def is_labelme(document: object) -> bool:
    """Whether a document is LabelMe's: it names a picture and has a list of shapes."""
    return isinstance(document, dict) and "imagePath" in document and is_records(document.get("shapes"))


def parse_labelme(document: Record, picture_name: str) -> Iterator[Entry]:
    """Entry of a file of LabelMe (https://github.com/wkentaro/labelme), also of AnyLabeling."""
    size = read_size(document.get("imageHeight"), document.get("imageWidth"))
    suffix = PurePosixPath(str(document["imagePath"])).suffix
    flags = document.get("flags")
    about: list[tuple[str, str]] = []
    if isinstance(flags, dict):
        for name, value in flags.items():
            about += picture_texts(name, [value])
    yield Entry(
        picture_name, size, [_labelme_mark(shape) for shape in document["shapes"]], suffix, tuple(about)
    )


def _labelme_mark(shape: Record) -> Mark:
    points = shapes.to_points(shape["points"])
    kind = shape.get("shape_type", "polygon")
    label = str(shape.get("label", ""))
    if len(points) < {"rectangle": 2, "circle": 2}.get(kind, 1):
        return Mark(None, NO_PLACE)
    if kind == "rectangle":
        corners = shapes.box([*points.min(0), *points.max(0)])
        return Mark(shapes.filled(corners), label, is_box=True)
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return Mark(shapes.filled(shapes.ellipse(points[0], (radius, radius)), is_loose=True), label)
    if kind == "mask":
        left, top = map(int, points[0].round())
        return Mark(shapes.pasted(read_mask(base64.b64decode(shape["mask"])), left, top), label)
    return shapes.mark_points(points, label, kind not in _LINES)


# -------------------------------------------------------------------------------------------------------- VIA


def _via_pictures(document: object) -> Record | None:
    """The pictures of a project or of annotations, by their keys; None where it is neither."""
    if not isinstance(document, dict):
        return None
    pictures = document.get("_via_img_metadata", document)
    return pictures if isinstance(pictures, dict) else None


def is_via(document: object) -> bool:
    """Whether a document is VIA's: a project or annotations, whose entries have a file's name and regions."""
    pictures = _via_pictures(document)
    if pictures is None:
        return False
    entries = list(pictures.values())
    if pictures is document and not entries:
        return False
    return is_records(entries) and all({"filename", "regions"} <= {*e} for e in entries)


def parse_via(document: Record, _own: str) -> Iterator[Entry]:
    """Entries of a project or of annotations of VIA 1 and 2 (https://www.robots.ox.ac.uk/~vgg/software/via)."""
    for picture in (_via_pictures(document) or {}).values():
        regions = picture["regions"]
        marks = [_via_mark(region) for region in (regions.values() if isinstance(regions, dict) else regions)]
        about = [text for k, v in (picture.get("file_attributes") or {}).items() for text in _via_texts(k, v)]
        yield name_entry(picture_path(picture["filename"]), None, marks)._replace(about=tuple(about))


def _via_texts(name: str, value: object) -> tuple[tuple[str, str], ...]:
    """Read an attribute of a picture; of several boxes, those that are ticked."""
    if not isinstance(value, dict):
        return picture_texts(f"label {name}", [value])
    return picture_texts(f"label {name}", [key for key, ticked in value.items() if ticked])


def _via_mark(region: Record) -> Mark:
    shape = region["shape_attributes"]
    attributes = region.get("region_attributes") or {}
    label = next(iter(attributes.values()), "")
    label = str(next(iter(label), "") if isinstance(label, dict) else label)  # several may be ticked
    name = shape.get("name")
    if name is None:
        return Mark(None, NO_PLACE)
    if name == "rect":
        x, y = float(shape["x"]), float(shape["y"])
        return Mark(
            shapes.filled(shapes.box((x, y, x + shape["width"], y + shape["height"]))), label, is_box=True
        )
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


_ANNOTATED = {"annotations", "completions", "predictions"}
_PLACED = {"x", "points", "rle", "imageDataURL"}


def _label_studio_tasks(document: object) -> list[Record]:
    """Tasks of an export, each with `data` and `annotations`; those of JSON_MIN are made so.

    Empty for any other document.
    """
    records: object = [document] if isinstance(document, dict) else document
    if not is_records(records):
        return []
    return [task for task in map(_label_studio_task, records) if task is not None]


def _label_studio_task(record: Record) -> Record | None:
    """The record as a Label Studio task with `data` and `annotations`, or None."""
    if isinstance(record.get("task"), dict) and "result" in record:  # an annotation as a storage holds it
        return {**record["task"], "annotations": [record]}
    if isinstance(record.get("data"), dict) and record.keys() & _ANNOTATED:
        return record
    regions = _json_min_regions(record)
    if any(_is_labelled_region(region) for region in regions):
        return {"data": record, "annotations": [{"result": regions}]}
    return None


def _is_labelled_region(region: Record) -> bool:
    """Whether a region of JSON_MIN has a place, and a label under a name such as `rectanglelabels`."""
    return bool(region.keys() & _PLACED) and any("labels" in key for key in region)


def _json_min_regions(task: Record) -> list[Record]:
    """The regions of a task of JSON_MIN, whose lists lie beside its data, as they are in JSON."""
    result: list[Record] = []
    for value in task.values():
        if is_records(value):
            result += [{**region, "value": region} for region in value]
    return result


def is_label_studio(document: object) -> bool:
    """Whether a document is an export of Label Studio, JSON or JSON_MIN."""
    return bool(_label_studio_tasks(document))


def parse_label_studio(document: object, _own: str) -> Iterator[Entry]:
    """Entries of the exports JSON and JSON_MIN (https://labelstud.io/guide/export), of all annotators."""
    for task in _label_studio_tasks(document):
        yield from _LabelStudioTask(task).entries()


class _LabelStudioTask:
    """Reads the annotations of a task's pictures, by all annotators."""

    def __init__(self, task: Record):
        self._task = task
        self._pictures = _task_pictures(task)  # paths by the names of the data
        self._paths = list(dict.fromkeys(path for paths in self._pictures.values() for path in paths))
        self._sizes: dict[str | None, Size | None] = {}
        self._marks: dict[str, list[Mark]] = {path: [] for path in self._paths}
        self._about: dict[str, list[tuple[str, str]]] = {path: [] for path in self._paths}

    def entries(self) -> Iterator[Entry]:
        for region in self._read_regions():
            if region["value"]:
                self._add(region)
        predictions = [Mark(None, "prediction") for found in self._task.get("predictions") or () if found]
        for path in self._paths:
            entry = name_entry(path, self._sizes.get(path), [*self._marks[path], *predictions])
            yield entry._replace(about=tuple(self._about[path]))
        if not self._paths:
            yield Entry("", None, [Mark(None, "task without a picture")])

    def _read_regions(self) -> Iterable[Record]:
        """Join the shape and the label of each region, which share an id, and note the pictures' sizes."""
        regions: dict[tuple[int, object], Record] = {}
        for annotation in self._task.get("annotations") or self._task.get("completions") or ():
            if annotation.get("was_cancelled"):
                continue
            for number, region in enumerate(annotation["result"]):
                key = (id(annotation), region.get("id") or number)
                before = regions.get(key, {})
                value = {**before.get("value", {}), **(region.get("value") or {})}
                regions[key] = {**before, **region, "value": value}
                picture = self._marked_picture(region)
                size = read_size(region.get("original_height"), region.get("original_width"))
                self._sizes[picture] = self._sizes.get(picture) or size
        return regions.values()

    def _add(self, region: Record) -> None:
        """Add a region to the picture that it marks, or to the texts on the whole picture."""
        picture = self._marked_picture(region)
        if picture is None:  # it is not known which: none of them is marked wholly
            for path in self._paths:
                self._marks[path] = [Mark(None, "mark in one of several pictures")]
            return
        texts = _label_studio_texts(region)
        if texts:
            self._about[picture] += texts
        else:
            self._marks[picture].append(_label_studio_mark(region, self._sizes[picture]))

    def _marked_picture(self, region: Record) -> str | None:
        """Picture that a region marks; None where several may be meant.

        It names a tag of the labelling interface, which often has the name of its data.
        """
        paths = self._pictures.get(str(region.get("to_name"))) or self._paths
        page = region.get("item_index")
        is_of_one_list = paths is not self._paths or len(self._pictures) == 1
        if len(paths) > 1 and isinstance(page, int) and is_of_one_list:
            paths = paths[page : page + 1] if page >= 0 else []
        return paths[0] if len(paths) == 1 else None


def _task_pictures(task: Record) -> dict[str, list[str]]:
    """Paths of a task's pictures, by the names of its data."""
    found: dict[str, list[str]] = {}
    for name, value in [*task["data"].items(), ("", task.get("file_upload"))]:
        paths = [picture_path(item) for item in (value if isinstance(value, list) else [value])]
        paths = [path for path in paths if is_picture(PurePosixPath(path))]
        if paths and (name or not found):  # the upload is one of the data
            found[name] = paths
    return found


def _label_studio_texts(region: Record) -> tuple[tuple[str, str], ...]:
    """Read the choices for a whole picture; a choice for a region has a place, and is left out."""
    value = region["value"]
    if value.keys() & _PLACED:
        return ()
    name = f"choice {region.get('from_name') or ''}"
    texts: list[tuple[str, str]] = []
    for path in [value.get("choices") or [], *(value.get("taxonomy") or [])]:
        texts += picture_texts(name, path if isinstance(path, list) else [path])
    return tuple(texts)


def _label_studio_mark(region: Record, size: Size | None) -> Mark:
    value = region["value"]
    label = _label_studio_label(value)
    if region.get("image_rotation"):
        return Mark(None, "mark in a picture that is turned in the tool")
    if "rle" in value or "imageDataURL" in value:
        if size is None:
            raise KeyError("original_width")
        return Mark(_label_studio_mask(value), label)
    kind = next((key for key in _PERCENT if key in value), "")
    if not kind:
        return Mark(None, str(region.get("type") or NO_PLACE))
    outline = _PERCENT[kind]
    if not len(outline(value, (1, 1))):  # damaged values are reported now, too
        return Mark(None, NO_PLACE)
    is_loose = kind == "radiusX" or bool(value.get("rotation"))
    return Mark(shapes.placed(partial(outline, value), is_loose=is_loose), label, kind == "height")


def _label_studio_label(value: Record) -> str:
    for key, names in value.items():
        if key.endswith("labels") and names:
            return str(names[0])
    return ""


def _label_studio_mask(value: Record) -> Shape:
    if "rle" in value:
        return Shape(partial(shapes.unpack_brush, bytes(map(int, value["rle"]))))
    return Shape(partial(shapes.unpack_bitmask, str(value["imageDataURL"])))


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


# by the keys of a value; all in percent of the picture. A key point has a width, and no height
_PERCENT: dict[str, Callable[[Record, Size], Polygon]] = {
    "points": _percent_polygon,
    "radiusX": _percent_ellipse,
    "height": _percent_box,
}
