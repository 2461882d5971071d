"""Reads the CSV files of labelling tools: boxes, a line each, and VIA's regions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from flawscope.datasets.labels import json_forms, shapes
from flawscope.datasets.labels.shapes import Entry, Mark, Size, name_entry, picture_path, read_size
from flawscope.datasets.labels.tables import table_text
from flawscope.pictures.decoding import is_picture

Rows = list[list[str]]  # without empty ones

_PICTURE = (
    "filename",
    "file_name",
    "file",
    "image",
    "image_path",
    "imagepath",
    "path",
    "image_id",
    "imageid",
)
_LABEL = ("class", "label", "class_name", "labelname", "label_name", "name")
_EDGES = (("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"), ("x1", "y1", "x2", "y2"))
_CONFIDENCE = ("confidence", "score")  # columns of a model's findings, unless the value is 1
_REGION = ("region_shape_attributes", "region_attributes", "file_attributes")


class _Box(NamedTuple):
    """A box of a table.

    Attributes:
        edges: x0, y0, x1, y1, either all in pixels or all as shares of the picture; None: nothing is marked.
        size: Height and width of the picture; None where the table does not state it.
        is_prediction: Whether a model found it.
    """

    picture: str
    label: str
    edges: list[float] | None
    size: Size | None
    is_prediction: bool = False


def load_csv(data: bytes) -> Rows:
    """Return the non-empty rows of a CSV file.

    The delimiter is the one of comma, semicolon and tab that is most frequent in the first line.
    """
    text = table_text(data)
    first_line, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=first_line.count)  # the most frequent one
    rows = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]


def is_boxes(rows: Rows) -> bool:
    """Whether each row is a box.

    Either the columns have usual names, or they have no names and are in the order of makesense.ai or of
    Keras RetinaNet.
    """
    if not rows:
        return False
    header = _header(rows)
    if header:
        return _columns(header) is not None
    are_makesense = all(_makesense_box(row) is not None for row in rows)
    return are_makesense or all(_retinanet_box(row) is not None for row in rows)


def parse_boxes(rows: Rows, _picture_name: str) -> Iterator[Entry]:
    """Yield the entries of a table of boxes, one for each picture.

    If the columns have names, a row has the picture and two corners. These are in pixels, as Roboflow
    (*TensorFlow Object Detection*) and converters of Pascal VOC write them, or in shares of the picture, as
    Open Images does.

    If they have no names, a row is one of two:

    - makesense.ai: label, x, y, width and height of the box, picture, width and height of the picture,
    - Keras RetinaNet: picture, two corners, label; all but the picture may be empty.
    """
    yield from _group_by_picture(_boxes(rows))


def is_via(rows: Rows) -> bool:
    """Whether rows are annotations of VIA 2: the first row has the names of its columns."""
    return bool(rows) and {"filename", *_REGION} <= set(_header(rows))


def parse_via(rows: Rows, picture_name: str) -> Iterator[Entry]:
    """Yield the entries of annotations of VIA 2 as CSV, which are converted to VIA's JSON first."""
    document: json_forms.Record = {}
    for values in _records(rows):
        shape, attributes, file_attributes = (json.loads(values[name] or "{}") for name in _REGION)
        name = values["filename"]
        if name not in document:
            document[name] = {"filename": name, "regions": [], "file_attributes": file_attributes}
        if shape:
            region = {"shape_attributes": shape, "region_attributes": attributes}
            document[name]["regions"].append(region)
    yield from json_forms.parse_via(document, picture_name)


def _header(rows: Rows) -> list[str]:
    """Return the names of the columns in lower case; empty where the first row has values."""
    names = [name.casefold() for name in rows[0]]
    has_picture = any(is_picture(PurePosixPath(name)) for name in names)
    return [] if has_picture else names


def _records(rows: Rows) -> Iterator[dict[str, str]]:
    """Yield the values of each row below the header, by column."""
    header = _header(rows)
    for row in rows[1:]:
        yield dict(zip(header, row, strict=True))


def _columns(header: Sequence[str]) -> tuple[str, Sequence[str], str] | None:
    """Return the names of the columns of picture, edges and label; None if picture or edges are missing.

    The name of the label column is empty where there is none.
    """
    picture_column = next((name for name in _PICTURE if name in header), "")
    label_column = next((name for name in _LABEL if name in header), "")
    edge_columns = next((names for names in _EDGES if set(names) <= set(header)), None)
    return (picture_column, edge_columns, label_column) if picture_column and edge_columns else None


def _boxes(rows: Rows) -> Iterator[_Box]:
    """Yield the boxes of a table, with or without names of columns."""
    columns = _columns(_header(rows))
    if columns is None:
        for row in rows:
            box = _makesense_box(row) or _retinanet_box(row)
            if box:
                yield box
        return
    picture_column, edge_columns, label_column = columns
    for values in _records(rows):
        picture, label = values[picture_column], values.get(label_column, "")
        edges = _numbers([values[name] for name in edge_columns])
        size = read_size(values.get("height"), values.get("width"))
        # a box that a person marked has the confidence 1, or none
        confidences = (float(values.get(name) or 1) for name in _CONFIDENCE)
        is_prediction = any(confidence != 1 for confidence in confidences)
        yield _Box(picture, label, edges, size, is_prediction)


def _makesense_box(row: Sequence[str]) -> _Box | None:
    """Return a row of makesense.ai as a box; None where the row has another form."""
    if len(row) != 8:
        return None
    label, *box, picture, picture_width, picture_height = row
    if not is_picture(PurePosixPath(picture)):
        return None
    try:
        x, y, width, height = map(float, box)
        edges = [x, y, x + width, y + height]
        return _Box(picture, label, edges, read_size(picture_height, picture_width))
    except ValueError:
        return None


def _retinanet_box(row: Sequence[str]) -> _Box | None:
    """Return a row of Keras RetinaNet as a box; None where the row has another form."""
    if len(row) != 6:
        return None
    picture, *edges, label = row
    if not is_picture(PurePosixPath(picture)):
        return None
    try:
        return _Box(picture, label, _numbers(edges), size=None)
    except ValueError:
        return None


def _numbers(texts: Sequence[str]) -> list[float] | None:
    """Return texts as numbers; None where all of them are empty."""
    return [*map(float, texts)] if any(texts) else None


def _group_by_picture(boxes: Iterable[_Box]) -> Iterator[Entry]:
    """Yield an entry for each picture, with the marks of its boxes."""
    boxes_of: dict[str, list[_Box]] = {}
    for box in boxes:
        boxes_of.setdefault(box.picture, []).append(box)
    for name, picture_boxes in boxes_of.items():
        marks = []
        for box in picture_boxes:
            if box.edges is not None:  # None: nothing is marked
                marks.append(_mark(box, box.edges))
        yield name_entry(picture_path(name), picture_boxes[0].size, marks)


def _mark(box: _Box, edges: list[float]) -> Mark:
    """Return the mark of a box; the box of a model is a mark that is left out.

    Args:
        box: The box.
        edges: Its edges, which are not None.
    """
    if box.is_prediction:
        return Mark(draw=None, kind="prediction")
    corners = shapes.box(edges)
    are_shares = max(edges) <= 1
    if are_shares:
        shape = shapes.placed(lambda size: corners * size[::-1])  # size is (H, W)
    else:
        shape = shapes.filled(corners)
    return Mark(shape, box.label, is_box=True)
