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
_SURE = ("confidence", "score")  # columns of a model's findings, unless the value is 1
_REGION = ("region_shape_attributes", "region_attributes", "file_attributes")


class _Box(NamedTuple):
    """A box of a table.

    Attributes:
        edges: x0, y0, x1, y1 in pixels, or all as shares of the picture; None: nothing is marked in it.
    """

    picture: str
    label: str
    edges: list[float] | None
    size: Size | None
    is_found: bool = False


def load_csv(data: bytes) -> Rows:
    """Return the non-empty rows of a CSV file, cut at the most frequent of comma, semicolon and tab."""
    text = table_text(data)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]


def is_boxes(rows: Rows) -> bool:
    """Whether each line is a box.

    Its columns have the usual names, or no names and the order of makesense.ai or of Keras RetinaNet.
    """
    if not rows:
        return False
    if header := _header(rows):
        return _columns(header) is not None
    return all(_makesense(row) is not None for row in rows) or all(
        _retinanet(row) is not None for row in rows
    )


def parse_boxes(rows: Rows, _own: str) -> Iterator[Entry]:
    """Entries of boxes.

    A line has the picture and two corners, in pixels as Roboflow (*TensorFlow Object Detection*) and
    converters of Pascal VOC write them, or in shares of the picture as Open Images; or, without names of
    columns, label, x, y, width, height, picture, its width and height (makesense.ai), or picture, two
    corners, label, of which all but the picture may be empty (Keras RetinaNet).
    """
    yield from _group(_boxes(rows))


def is_via(rows: Rows) -> bool:
    """Whether rows are annotations of VIA 2: the first row has the names of its columns."""
    return bool(rows) and {"filename", *_REGION} <= set(_header(rows))


def parse_via(rows: Rows, picture_name: str) -> Iterator[Entry]:
    """Entries of annotations of VIA 2 as CSV."""
    document: json_forms.Record = {}
    for values in _records(rows):
        shape, region, about = (json.loads(values[name] or "{}") for name in _REGION)
        name = values["filename"]
        picture = document.setdefault(name, {"filename": name, "regions": [], "file_attributes": about})
        if shape:
            picture["regions"].append({"shape_attributes": shape, "region_attributes": region})
    yield from json_forms.parse_via(document, picture_name)


def _header(rows: Rows) -> list[str]:
    """Return the names of the columns, folded; empty where the first line holds values."""
    names = [name.casefold() for name in rows[0]]
    return [] if any(is_picture(PurePosixPath(name)) for name in names) else names


def _records(rows: Rows) -> Iterator[dict[str, str]]:
    header = _header(rows)
    for row in rows[1:]:
        yield dict(zip(header, row, strict=True))


def _columns(header: Sequence[str]) -> tuple[str, Sequence[str], str] | None:
    """Return the columns of picture, edges and label, which may be empty; None without picture or edges."""
    edges = next((names for names in _EDGES if set(names) <= set(header)), None)
    picture, label = (next((n for n in names if n in header), "") for names in (_PICTURE, _LABEL))
    return (picture, edges, label) if picture and edges else None


def _boxes(rows: Rows) -> Iterator[_Box]:
    columns = _columns(_header(rows))
    if columns is None:
        yield from filter(None, (_makesense(row) or _retinanet(row) for row in rows))
        return
    picture, edges, label = columns
    for values in _records(rows):
        size = read_size(values.get("height"), values.get("width"))
        numbers = _numbers([values[name] for name in edges])
        is_found = any(float(values.get(name) or 1) != 1 for name in _SURE)
        yield _Box(values[picture], values.get(label, ""), numbers, size, is_found)


def _makesense(row: Sequence[str]) -> _Box | None:
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


def _retinanet(row: Sequence[str]) -> _Box | None:
    if len(row) != 6:
        return None
    picture, *edges, label = row
    if not is_picture(PurePosixPath(picture)):
        return None
    try:
        return _Box(picture, label, _numbers(edges), None)
    except ValueError:
        return None


def _numbers(texts: Sequence[str]) -> list[float] | None:
    return [*map(float, texts)] if any(texts) else None


def _group(boxes: Iterable[_Box]) -> Iterator[Entry]:
    pictures: dict[str, list[_Box]] = {}
    for box in boxes:
        pictures.setdefault(box.picture, []).append(box)
    for name, of in pictures.items():
        marks = [_mark(box, box.edges) for box in of if box.edges is not None]
        yield name_entry(picture_path(name), of[0].size, marks)


def _mark(box: _Box, edges: list[float]) -> Mark:
    if box.is_found:
        return Mark(None, "prediction")
    corners = shapes.box(edges)
    are_shares = max(edges) <= 1
    shape = shapes.placed(lambda size: corners * size[::-1]) if are_shares else shapes.filled(corners)
    return Mark(shape, box.label, is_box=True)
