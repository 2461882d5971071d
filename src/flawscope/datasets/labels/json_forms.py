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
    """Whether a value is a list of JSON objects."""
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


# ------------------------------------------------------------------------------------------------------- COCO


# Keys of annotations that mark or describe something; an annotation without them states a picture's class
_COCO_PLACES = {"bbox", "segmentation", "keypoints", "caption"}


def is_coco(document: object) -> bool:
    """Whether a document is COCO's: it has lists of images and of annotations."""
    lists = ("images", "annotations")
    return isinstance(document, dict) and all(is_records(document.get(name)) for name in lists)


def parse_coco(document: Record, _picture_name: str) -> Iterator[Entry]:
    """Yield the entries of a COCO file (https://cocodataset.org/#format-data), also as VIA writes it.

    If annotations are of an image that the file does not list, their entry names the picture
    "image_id NUMBER".
    """
    annotations: list[Record] = document["annotations"]
    annotations_of: dict[str, list[Record]] = {}
    for annotation in annotations:
        annotations_of.setdefault(_to_id(annotation["image_id"]), []).append(annotation)
    image_by_id = {_to_id(image["id"]): image for image in document["images"]}
    for image_id in annotations_of:
        image_by_id.setdefault(image_id, {"file_name": f"image_id {image_id}"})
    kind_by_id = {}
    for category in document.get("categories") or ():
        kind_by_id[_to_id(category.get("id"))] = str(category.get("name", ""))
    # annotations without places state the classes of whole pictures, unless others in the file have places
    can_state_class = len(annotations) > 1 and not any(map(_coco_has_place, annotations))
    for image_id, image in image_by_id.items():
        size = read_size(image.get("height"), image.get("width"))
        picture = _CocoPicture(image, size)
        for annotation in annotations_of.get(image_id, ()):
            kind = kind_by_id.get(_to_id(annotation.get("category_id")), "")
            picture.add(annotation, kind, can_state_class=can_state_class)
        yield picture.entry()


def _coco_has_place(annotation: Record) -> bool:
    """Whether an annotation marks or describes something in the picture."""
    return any(annotation.get(key) for key in _COCO_PLACES)


@dataclass
class _CocoPicture:
    """Image of a COCO file, with what its annotations mark and state.

    Attributes:
        image: The image's object in the file.
        size: Height and width of the image; None where they are not stated.
        marks: Marks in the image.
        classes: Classes of the whole image.
    """

    image: Record
    size: Size | None
    marks: list[Mark] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def add(self, annotation: Record, kind: str, can_state_class: bool) -> None:
        """Add an annotation.

        Args:
            annotation: The annotation.
            kind: Name of its category.
            can_state_class: Whether an annotation without a place states the class of the whole picture.
        """
        if annotation.get("score") is not None:  # a model's findings are no ground truth
            self.marks.append(Mark(draw=None, kind="finding of a model"))
            return
        marks = self._segments(annotation, kind)
        self.marks += marks
        if marks:
            return
        if annotation.get("bbox"):
            x, y, width, height = map(float, annotation["bbox"])
            corners = shapes.box((x, y, x + width, y + height))
            self.marks.append(Mark(shapes.filled(corners), kind, is_box=True))
        elif kind and can_state_class:
            self.classes.append(kind)
        else:
            self.marks.append(Mark(draw=None, kind=NO_PLACE))

    def _segments(self, annotation: Record, kind: str) -> list[Mark]:
        """Return the marks of an annotation's segmentation, one for each polygon or run-length mask."""
        marks = []
        for part in _coco_segmentation(annotation):
            if isinstance(part, dict):
                marks.append(Mark(self._read_run_lengths(part), kind))
                continue
            polygon = shapes.to_points(part)
            if len(polygon) > 2:  # tools write fewer corners where there is no polygon
                marks.append(Mark(shapes.filled(polygon), kind))
        return marks

    def _read_run_lengths(self, part: Record) -> Shape:
        """Return the shape of run lengths; an image of unknown size gets the size of the run lengths.

        Raises:
            InputError: The run lengths have another size than the image.
        """
        height, width = part["size"]
        size = read_size(height, width)
        self.size = self.size or size
        if self.size != size:
            name = self.image["file_name"]
            raise InputError(f"a mask of {name} has another size than the picture")
        return Shape(partial(shapes.from_runs, _read_runs(part["counts"])))

    def entry(self) -> Entry:
        """Return the entry with all marks and classes that were added."""
        texts = picture_texts("class", self.classes)
        path = picture_path(self.image["file_name"])
        return name_entry(path, self.size, self.marks)._replace(about=texts)


def _coco_segmentation(annotation: Record) -> list[Record | list[float]]:
    """Return the parts of a segmentation: polygons (lists) or run lengths (dicts).

    VIA writes a single polygon without a list around it.
    """
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        return []
    if not isinstance(segmentation, list):
        return [segmentation]
    is_single_polygon = bool(segmentation) and not isinstance(segmentation[0], list | dict)
    return [segmentation] if is_single_polygon else segmentation


def _read_runs(counts: str | list[int]) -> NDArray[np.int64]:
    """Return run lengths, which COCO writes as numbers or as a compressed text."""
    if isinstance(counts, str):
        return shapes.decompress_runs(counts)
    return np.array([*counts], np.int64).ravel()


def _to_id(value: object) -> str:
    """Return an id as a text for comparison: tools write 7, 7.0 and "7" for the same picture."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


# --------------------------------------------------------------------------------------------------- LabelMe


def is_labelme(document: object) -> bool:
    """Whether a document is LabelMe's: it names a picture and has a list of shapes."""
    return isinstance(document, dict) and "imagePath" in document and is_records(document.get("shapes"))


def parse_labelme(document: Record, picture_name: str) -> Iterator[Entry]:
    """Yield the entry of a file of LabelMe (https://github.com/wkentaro/labelme), also of AnyLabeling."""
    size = read_size(document.get("imageHeight"), document.get("imageWidth"))
    suffix = PurePosixPath(str(document["imagePath"])).suffix
    marks = [_labelme_mark(shape) for shape in document["shapes"]]
    flags = document.get("flags")
    texts: list[tuple[str, str]] = []
    if isinstance(flags, dict):
        for name, value in flags.items():
            texts += picture_texts(name, [value])
    yield Entry(picture_name, size, marks, suffix=suffix, about=tuple(texts))


def _labelme_mark(shape: Record) -> Mark:
    """Return the mark of a shape of LabelMe."""
    points = shapes.to_points(shape["points"])
    kind = shape.get("shape_type", "polygon")
    label = str(shape.get("label", ""))
    min_points = 2 if kind in ("rectangle", "circle") else 1
    if len(points) < min_points:
        return Mark(draw=None, kind=NO_PLACE)
    if kind == "rectangle":
        corners = shapes.box([*points.min(0), *points.max(0)])
        return Mark(shapes.filled(corners), label, is_box=True)
    if kind == "circle":  # its centre, and a point on it
        radius = float(np.hypot(*(points[1] - points[0])))
        circle = shapes.ellipse(points[0], (radius, radius))
        return Mark(shapes.filled(circle, is_loose=True), label)
    if kind == "mask":
        left, top = map(int, points[0].round())
        mask = read_mask(base64.b64decode(shape["mask"]))
        return Mark(shapes.pasted(mask, left, top), label)
    return shapes.mark_points(points, label, is_closed=kind not in _LINES)


# -------------------------------------------------------------------------------------------------------- VIA


def _via_pictures(document: object) -> Record | None:
    """Return the pictures of VIA's project or annotations, by their keys; None for any other document."""
    if not isinstance(document, dict):
        return None
    pictures = document.get("_via_img_metadata", document)
    return pictures if isinstance(pictures, dict) else None


def is_via(document: object) -> bool:
    """Whether a document is VIA's project or annotations: each picture has a file name and regions."""
    pictures = _via_pictures(document)
    if pictures is None:
        return False
    entries = list(pictures.values())
    if pictures is document and not entries:  # {} may be of anything; a project may be empty
        return False
    return is_records(entries) and all({"filename", "regions"} <= entry.keys() for entry in entries)


def parse_via(document: Record, _picture_name: str) -> Iterator[Entry]:
    """Yield entries of a project or of annotations of VIA (https://www.robots.ox.ac.uk/~vgg/software/via).

    In VIA 1, the regions of a picture are a dict by number, in VIA 2 a list.
    """
    pictures = _via_pictures(document) or {}
    for picture in pictures.values():
        regions = picture["regions"]
        if isinstance(regions, dict):
            regions = regions.values()
        marks = [_via_mark(region) for region in regions]
        texts: list[tuple[str, str]] = []
        for name, value in (picture.get("file_attributes") or {}).items():
            texts += _via_texts(name, value)
        entry = name_entry(picture_path(picture["filename"]), size=None, marks=marks)
        yield entry._replace(about=tuple(texts))


def _via_texts(name: str, value: object) -> tuple[tuple[str, str], ...]:
    """Return the texts of a picture's attribute: its value, or the names of its ticked checkboxes."""
    texts = [value]
    if isinstance(value, dict):
        texts = [checkbox for checkbox, is_ticked in value.items() if is_ticked]
    return picture_texts(f"label {name}", texts)


def _via_mark(region: Record) -> Mark:
    """Return the mark of a region of VIA."""
    shape = region["shape_attributes"]
    label = _via_label(region)
    kind = shape.get("name")
    if kind is None:
        return Mark(draw=None, kind=NO_PLACE)
    if kind == "rect":
        x, y = float(shape["x"]), float(shape["y"])
        corners = shapes.box((x, y, x + shape["width"], y + shape["height"]))
        return Mark(shapes.filled(corners), label, is_box=True)
    if kind in ("circle", "ellipse"):
        radii = (shape["r"], shape["r"]) if kind == "circle" else (shape["rx"], shape["ry"])
        radians = float(shape.get("theta") or 0)
        ellipse = shapes.ellipse((shape["cx"], shape["cy"]), radii, np.degrees(radians))
        return Mark(shapes.filled(ellipse, is_loose=True), label)
    if kind == "point":
        points = shapes.to_points((shape["cx"], shape["cy"]))
    else:
        points = shapes.to_points(np.stack([shape["all_points_x"], shape["all_points_y"]], 1))
    return shapes.mark_points(points, label, is_closed=kind == "polygon")


def _via_label(region: Record) -> str:
    """Return the value of a region's first attribute; if it has checkboxes, the name of the first."""
    attributes = region.get("region_attributes") or {}
    value = next(iter(attributes.values()), "")
    if isinstance(value, dict):
        value = next(iter(value), "")
    return str(value)


# ----------------------------------------------------------------------------------------------- Label Studio


_ANNOTATION_KEYS = {"annotations", "completions", "predictions"}
_PLACE_KEYS = {"x", "points", "rle", "imageDataURL"}


def _label_studio_tasks(document: object) -> list[Record]:
    """Return the tasks of an export, each with `data` and `annotations`; empty for any other document.

    An export in the form JSON_MIN is converted to this form.
    """
    records: object = [document] if isinstance(document, dict) else document
    if not is_records(records):
        return []
    return [task for task in map(_label_studio_task, records) if task is not None]


def _label_studio_task(record: Record) -> Record | None:
    """Return a record as a task of Label Studio with `data` and `annotations`; None where it is not one."""
    is_stored_annotation = isinstance(record.get("task"), dict) and "result" in record
    if is_stored_annotation:  # in a target storage, the annotation contains the task
        return {**record["task"], "annotations": [record]}
    if isinstance(record.get("data"), dict) and record.keys() & _ANNOTATION_KEYS:
        return record
    regions = _json_min_regions(record)
    if any(_is_labelled_region(region) for region in regions):  # JSON_MIN: the data and regions in one record
        return {"data": record, "annotations": [{"result": regions}]}
    return None


def _is_labelled_region(region: Record) -> bool:
    """Whether a region of JSON_MIN has a place, and a label under a name such as `rectanglelabels`."""
    return bool(region.keys() & _PLACE_KEYS) and any("labels" in key for key in region)


def _json_min_regions(task: Record) -> list[Record]:
    """Return the regions of a task of JSON_MIN, converted to the form of JSON.

    In JSON_MIN, the lists of regions are among the task's data, and each region's place is in the region
    itself. In JSON, the place is under `value`.
    """
    regions: list[Record] = []
    for value in task.values():
        if is_records(value):
            regions += [{**region, "value": region} for region in value]
    return regions


def is_label_studio(document: object) -> bool:
    """Whether a document is an export of Label Studio, JSON or JSON_MIN."""
    return bool(_label_studio_tasks(document))


def parse_label_studio(document: object, _picture_name: str) -> Iterator[Entry]:
    """Yield entries of all annotators in the exports JSON and JSON_MIN (https://labelstud.io/guide/export)."""
    for task in _label_studio_tasks(document):
        yield from _LabelStudioTask(task).entries()


class _LabelStudioTask:
    """Reads the annotations of a task's pictures, by all annotators."""

    def __init__(self, task: Record):
        self._task = task
        self._paths_by_name = _task_pictures(task)
        self._paths = list(dict.fromkeys(path for paths in self._paths_by_name.values() for path in paths))
        self._sizes: dict[str | None, Size | None] = {}  # the key None: of regions of unknown pictures
        self._marks: dict[str, list[Mark]] = {path: [] for path in self._paths}
        self._about: dict[str, list[tuple[str, str]]] = {path: [] for path in self._paths}

    def entries(self) -> Iterator[Entry]:
        """Yield an entry for each picture of the task.

        Each has a left-out mark for every prediction of the task.
        """
        for region in self._read_regions():
            if region["value"]:
                self._add(region)
        predictions = [prediction for prediction in self._task.get("predictions") or () if prediction]
        left_out = [Mark(draw=None, kind="prediction")] * len(predictions)
        for path in self._paths:
            entry = name_entry(path, self._sizes.get(path), [*self._marks[path], *left_out])
            yield entry._replace(about=tuple(self._about[path]))
        if not self._paths:
            yield Entry(name="", size=None, marks=[Mark(draw=None, kind="task without a picture")])

    def _read_regions(self) -> Iterable[Record]:
        """Return the regions of all annotators, and store the pictures' sizes that they state.

        Label Studio may write shape and label of a region as two regions with the same id: these are joined.
        """
        # keys: the annotation, and the region's id (without an id, its number in the annotation)
        regions: dict[tuple[int, object], Record] = {}
        for annotation in self._task.get("annotations") or self._task.get("completions") or ():
            if annotation.get("was_cancelled"):
                continue
            for number, region in enumerate(annotation["result"]):
                key = (id(annotation), region.get("id") or number)
                first_part = regions.get(key, {})
                value = {**first_part.get("value", {}), **(region.get("value") or {})}
                regions[key] = {**first_part, **region, "value": value}
                picture = self._marked_picture(region)
                size = read_size(region.get("original_height"), region.get("original_width"))
                self._sizes[picture] = self._sizes.get(picture) or size
        return regions.values()

    def _add(self, region: Record) -> None:
        """Add a region to the marks of its picture, or to the texts on it.

        If a region may be of several pictures, none of these is known to be marked completely. So the marks
        of each are replaced by a single mark, which is left out.
        """
        picture = self._marked_picture(region)
        if picture is None:
            for path in self._paths:
                self._marks[path] = [Mark(draw=None, kind="mark in one of several pictures")]
            return
        texts = _label_studio_texts(region)
        if texts:
            self._about[picture] += texts
        else:
            self._marks[picture].append(_label_studio_mark(region, self._sizes[picture]))

    def _marked_picture(self, region: Record) -> str | None:
        """Return the path of the picture that a region marks; None where several are possible.

        A region names a tag of the labelling interface. The tag often has the name of a field of the task's
        data. If this field is a list of pictures, the region has the picture's number in the list.
        """
        named_paths = self._paths_by_name.get(str(region.get("to_name")))
        paths = named_paths or self._paths
        number = region.get("item_index")
        is_list_known = bool(named_paths) or len(self._paths_by_name) == 1  # the list that `number` counts in
        if len(paths) > 1 and isinstance(number, int) and is_list_known:
            return paths[number] if 0 <= number < len(paths) else None
        return paths[0] if len(paths) == 1 else None


def _task_pictures(task: Record) -> dict[str, list[str]]:
    """Return the paths of a task's pictures, by the names of the task's data fields.

    If no field has a picture, the uploaded file is used, under an empty name.
    """
    paths_by_name: dict[str, list[str]] = {}
    for name, value in task["data"].items():
        paths = _picture_paths(value)
        if paths:
            paths_by_name[name] = paths
    upload_paths = _picture_paths(task.get("file_upload"))
    if upload_paths and not paths_by_name:
        paths_by_name[""] = upload_paths
    return paths_by_name


def _picture_paths(value: object) -> list[str]:
    """Return the paths of pictures in a JSON value, which may be a list."""
    items = value if isinstance(value, list) else [value]
    paths = [picture_path(item) for item in items]
    return [path for path in paths if is_picture(PurePosixPath(path))]


def _label_studio_texts(region: Record) -> tuple[tuple[str, str], ...]:
    """Return the choices for a whole picture as texts; empty for a region with a place."""
    value = region["value"]
    if value.keys() & _PLACE_KEYS:
        return ()
    name = f"choice {region.get('from_name') or ''}"
    texts: list[tuple[str, str]] = []
    # "choices" is one list of words, "taxonomy" a list of such lists
    for choice in [value.get("choices") or [], *(value.get("taxonomy") or [])]:
        words = choice if isinstance(choice, list) else [choice]
        texts += picture_texts(name, words)
    return tuple(texts)


def _label_studio_mark(region: Record, size: Size | None) -> Mark:
    """Return the mark of a region.

    Args:
        region: The region.
        size: Height and width of the picture; None where unknown.

    Raises:
        KeyError: The region is a mask, and the size that it needs is unknown.
    """
    value = region["value"]
    label = _label_studio_label(value)
    if region.get("image_rotation"):
        return Mark(draw=None, kind="mark in a picture that is turned in the tool")
    if "rle" in value or "imageDataURL" in value:
        if size is None:
            raise KeyError("original_width")
        return Mark(_label_studio_mask(value), label)
    read_polygon = next((reader for key, reader in _POLYGON_READERS.items() if key in value), None)
    if read_polygon is None:  # a shape that is not read
        return Mark(draw=None, kind=str(region.get("type") or NO_PLACE))
    # (1, 1): any size, so that damaged values raise here, while the file is read, not when the mask is drawn
    corners = read_polygon(value, (1, 1))
    if not len(corners):
        return Mark(draw=None, kind=NO_PLACE)
    is_ellipse = read_polygon is _percent_ellipse
    is_rectangle = read_polygon is _percent_box
    is_turned = bool(value.get("rotation"))
    shape = shapes.placed(partial(read_polygon, value), is_loose=is_ellipse or is_turned)
    return Mark(shape, label, is_box=is_rectangle)


def _label_studio_label(value: Record) -> str:
    """Return the first label of a region; empty without labels."""
    for key, names in value.items():
        if key.endswith("labels") and names:
            return str(names[0])
    return ""


def _label_studio_mask(value: Record) -> Shape:
    """Return the shape of a brush's run lengths or of a bitmask."""
    if "rle" in value:
        packed = bytes(map(int, value["rle"]))
        return Shape(partial(shapes.unpack_brush, packed))
    return Shape(partial(shapes.unpack_bitmask, str(value["imageDataURL"])))


def _from_percent(points: Polygon, size: Size) -> Polygon:
    """Return points [N, 2] in pixels, from percent of the picture's width and height."""
    height, width = size
    return points * (width, height) / 100


def _percent_polygon(value: Record, size: Size) -> Polygon:
    """Return the corners of a polygon in pixels."""
    return _from_percent(shapes.to_points(value["points"]), size)


def _percent_ellipse(value: Record, size: Size) -> Polygon:
    """Return an ellipse as a polygon, in pixels."""
    centre = _from_percent(shapes.to_points([value["x"], value["y"]]), size)
    radii = _from_percent(shapes.to_points([value["radiusX"], value["radiusY"]]), size)
    return shapes.ellipse(centre, radii, float(value.get("rotation") or 0))


def _percent_box(value: Record, size: Size) -> Polygon:
    """Return the corners of a box in pixels, turned around its first corner."""
    x, y = float(value["x"]), float(value["y"])
    corners = _from_percent(shapes.box((x, y, x + value["width"], y + value["height"])), size)
    return shapes.turn(corners, corners[0], float(value.get("rotation") or 0))


# Functions that return polygons, by a key that only values of their shape have. For a box, this key is its
# height, because a key point has a width, too.
_POLYGON_READERS: dict[str, Callable[[Record, Size], Polygon]] = {
    "points": _percent_polygon,
    "radiusX": _percent_ellipse,
    "height": _percent_box,
}
