"""Reads the XML files of labelling tools: Pascal VOC and CVAT. XML may be hostile: nothing is expanded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TypeAlias, TypeGuard
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from flawscope.datasets.labels import shapes
from flawscope.datasets.labels.shapes import Entry, Mark, Polygon, name_entry, read_size
from flawscope.errors import InputError

# an element as JSON would have it: its text, or its attributes and its elements by their names
XmlValue: TypeAlias = "str | dict[str, XmlValue] | list[XmlValue]"


def load_xml(data: bytes) -> Element:
    """Parse XML.

    Raises:
        ValueError: The XML is damaged, or has a document type, whose entities may fill the memory or read
            files.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, AssertionError, LookupError) as error:
        raise ValueError(str(error)) from None


def _refuse(*_: object) -> None:
    raise ValueError("it has a document type, <!DOCTYPE>, which no tool writes")


def to_document(data: bytes) -> dict[str, XmlValue]:
    """Return XML of any kind in the form of JSON: attributes, texts and elements by their names.

    Raises:
        ValueError: As in `load_xml`.
    """
    root = load_xml(data)
    return {root.tag: _element_value(root)}


def _element_value(element: Element) -> XmlValue:
    """Return an element in the form of JSON.

    An element that has only a text becomes this text. Any other becomes a mapping of its attributes and child
    elements by name, with the text under "text".

    Raises:
        ValueError: An attribute and a child element have the same name.
    """
    value: dict[str, XmlValue] = {**element.attrib}
    for child in element:
        elements = value.setdefault(child.tag, [])
        if not isinstance(elements, list):
            raise ValueError(f"{child.tag} is an attribute and an element")
        elements.append(_element_value(child))
    text = (element.text or "").strip()
    if not value:
        return text
    if text:
        value["text"] = text
    return value


def is_voc(document: object) -> TypeGuard[Element]:
    """Whether a document is of Pascal VOC: its root is `annotation`."""
    return isinstance(document, Element) and document.tag == "annotation"


def parse_voc(document: Element, picture_name: str) -> Iterator[Entry]:
    """Yield the entry of a file of Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC).

    LabelImg, CVAT, Label Studio and LabelMe for the web write it, and Roboflow with polygons. The edges of a
    box are coordinates between pixels, as all of these tools write them, not indices of the first and the
    last pixel.
    """
    size = read_size(document.findtext("size/height"), document.findtext("size/width"))
    suffix = PurePosixPath(document.findtext("filename") or "").suffix
    marks = [_voc_mark(element) for element in document.iterfind("object")]
    yield Entry(picture_name, size, marks, suffix)


def _voc_mark(element: Element) -> Mark:
    """Return the mark of an `object` of Pascal VOC: its polygon, else its box."""
    label = element.findtext("name") or ""
    if element.findtext("deleted") == "1":
        return Mark(draw=None, kind="deleted mark")
    polygon = element.find("polygon")
    if polygon is not None:
        points = _voc_corners(polygon)
        if len(points) > 2:
            return Mark(shapes.filled(points), label)
    box = element.find("bndbox")
    if box is None:
        return Mark(draw=None, kind="object without a place")
    attributes = {}
    for attribute in element.iterfind("attributes/attribute"):
        attributes[attribute.findtext("name")] = attribute.findtext("value")
    edges = [box.findtext(name) or "" for name in ("xmin", "ymin", "xmax", "ymax")]
    return _box_mark(edges, attributes.get("rotation"), label)


def _box_mark(edges: Sequence[str], rotation: str | None, label: str) -> Mark:
    """Return the mark of a box; `rotation` is in degrees clockwise, None or empty for an upright box."""
    degrees = float(rotation or 0)
    corners = shapes.box(edges, degrees)
    return Mark(shapes.filled(corners, is_loose=degrees != 0), label, is_box=True)


def _voc_corners(polygon: Element) -> Polygon:
    """Return the corners of a polygon whose coordinates are elements x1, y1, x2, ..."""
    numbers = []
    for element in polygon.iter():
        if re.fullmatch(r"[xy]\d*", element.tag):
            numbers.append(float(element.text or ""))
    return shapes.to_points(numbers)


def is_cvat(document: object) -> TypeGuard[Element]:
    """Whether a document is of CVAT for images: its root is `annotations`."""
    return isinstance(document, Element) and document.tag == "annotations"


def parse_cvat(document: Element, _picture_name: str) -> Iterator[Entry]:
    """Yield entries of CVAT for images (https://docs.cvat.ai/docs/dataset_management/formats/format-cvat).

    Raises:
        InputError: The file is of CVAT for video.
    """
    if document.find("track") is not None and document.find("image") is None:
        raise InputError("it is of a video, whose frames have no names; choose CVAT for images")
    for picture in document.iterfind("image"):
        size = read_size(picture.get("height"), picture.get("width"))
        tags = [element for element in picture if element.tag == "tag"]
        marks = [_cvat_mark(element) for element in picture if element.tag != "tag"]
        texts = [("tag", tag.get("label", "")) for tag in tags]
        for tag in tags:
            for attribute in tag.iter("attribute"):
                texts.append((attribute.get("name", ""), (attribute.text or "").strip()))
        yield name_entry(picture.attrib["name"], size, marks)._replace(about=tuple(texts))


def _cvat_mark(element: Element) -> Mark:
    """Return the mark of a shape of CVAT; the mark is left out if this kind of shape is not read."""
    kind = element.tag
    values = element.attrib
    label = values.get("label", "")
    if kind == "box":
        edges = [values[name] for name in ("xtl", "ytl", "xbr", "ybr")]
        return _box_mark(edges, values.get("rotation"), label)
    if kind == "ellipse":
        centre = (values["cx"], values["cy"])
        radii = (values["rx"], values["ry"])
        degrees = float(values.get("rotation") or 0)
        ellipse = shapes.ellipse(centre, radii, degrees)
        return Mark(shapes.filled(ellipse, is_loose=True), label)
    if kind == "mask":
        left, top, width, height = (int(values[name]) for name in ("left", "top", "width", "height"))
        runs = np.array(values["rle"].split(","), int)
        if read_size(height, width):
            # `from_runs` reads down the columns, but CVAT writes along the rows: the mask is transposed
            mask = shapes.from_runs(runs, (width, height)).T
            return Mark(shapes.pasted(mask, left, top), label)
    if kind in ("polygon", "polyline", "points"):
        points = shapes.to_points([pair.split(",") for pair in values["points"].split(";") if pair])
        return shapes.mark_points(points, label, is_closed=kind == "polygon")
    return Mark(draw=None, kind=kind)
