"""Reads the XML files of labelling tools: Pascal VOC and CVAT. XML may be hostile: nothing is expanded."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
        ValueError: It has a document type, in which entities grow and files are named, or it is damaged.
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
    """Return any XML in the form of JSON: attributes, texts and elements by their names.

    Raises:
        ValueError: As in `load_xml`.
    """
    root = load_xml(data)
    return {root.tag: _element_value(root)}


def _element_value(element: Element) -> XmlValue:
    value: dict[str, XmlValue] = {**element.attrib}
    for child in element:
        elements = value.setdefault(child.tag, [])
        if not isinstance(elements, list):
            raise ValueError(f"{child.tag} is an attribute and an element")
        elements.append(_element_value(child))
    text = (element.text or "").strip()
    if not value:
        return text
    return {**value, "text": text} if text else value


def is_voc(document: object) -> TypeGuard[Element]:
    """Whether a document is of Pascal VOC: its root is `annotation`."""
    return isinstance(document, Element) and document.tag == "annotation"


def parse_voc(document: Element, picture_name: str) -> Iterator[Entry]:
    """Yield the entry of a file of Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC).

    LabelImg, CVAT, Label Studio and Roboflow write it, the latter with polygons; LabelMe for the web, too.
    The edges of a box are taken as places between pixels, as all of these tools write them, not as the first
    and the last pixel.
    """
    size = read_size(document.findtext("size/height"), document.findtext("size/width"))
    suffix = PurePosixPath(document.findtext("filename") or "").suffix
    yield Entry(picture_name, size, [_voc_mark(thing) for thing in document.iterfind("object")], suffix)


def _voc_mark(thing: Element) -> Mark:
    label = thing.findtext("name") or ""
    if thing.findtext("deleted") == "1":
        return Mark(None, "deleted mark")
    outline = thing.find("polygon")
    if outline is not None:
        points = _voc_corners(outline)
        if len(points) > 2:
            return Mark(shapes.filled(points), label)
    edges = thing.find("bndbox")
    if edges is None:
        return Mark(None, "object without a place")
    attributes = {e.findtext("name"): e.findtext("value") for e in thing.iterfind("attributes/attribute")}
    corners = [edges.findtext(name) or "" for name in ("xmin", "ymin", "xmax", "ymax")]
    degrees = float(attributes.get("rotation") or 0)
    return Mark(shapes.filled(shapes.box(corners, degrees), is_loose=degrees != 0), label, is_box=True)


def _voc_corners(outline: Element) -> Polygon:
    """Corners of a polygon, each of whose coordinates is an element: x1, y1, x2, ..."""
    numbers = []
    for element in outline.iter():
        if re.fullmatch(r"[xy]\d*", element.tag):
            numbers.append(float(element.text or ""))
    return shapes.to_points(numbers)


def is_cvat(document: object) -> TypeGuard[Element]:
    """Whether a document is of CVAT for images: its root is `annotations`."""
    return isinstance(document, Element) and document.tag == "annotations"


def parse_cvat(document: Element, _own: str) -> Iterator[Entry]:
    """Entries of CVAT for images (https://docs.cvat.ai/docs/dataset_management/formats/format-cvat)."""
    if document.find("track") is not None and document.find("image") is None:
        raise InputError("it is of a video, whose frames have no names; choose CVAT for images")
    for picture in document.iterfind("image"):
        size = read_size(picture.get("height"), picture.get("width"))
        tags = [shape for shape in picture if shape.tag == "tag"]
        marks = [_cvat_mark(shape) for shape in picture if shape.tag != "tag"]
        about = [("tag", tag.get("label", "")) for tag in tags]
        for tag in tags:
            for attribute in tag.iter("attribute"):
                about.append((attribute.get("name", ""), (attribute.text or "").strip()))
        yield name_entry(picture.attrib["name"], size, marks)._replace(about=tuple(about))


def _cvat_mark(shape: Element) -> Mark:
    values = shape.attrib
    label = shape.get("label", "")
    degrees = float(values.get("rotation") or 0)
    if shape.tag == "box":
        corners = [values[name] for name in ("xtl", "ytl", "xbr", "ybr")]
        return Mark(shapes.filled(shapes.box(corners, degrees), is_loose=degrees != 0), label, is_box=True)
    if shape.tag == "ellipse":
        centre = (values["cx"], values["cy"])
        radii = (values["rx"], values["ry"])
        return Mark(shapes.filled(shapes.ellipse(centre, radii, degrees), is_loose=True), label)
    if shape.tag == "mask":  # along the rows of its box, unmarked pixels first
        left, top, width, height = (int(values[name]) for name in ("left", "top", "width", "height"))
        runs = np.array(values["rle"].split(","), int)
        if read_size(height, width):
            return Mark(shapes.pasted(shapes.from_runs(runs, (width, height)).T, left, top), label)
    if shape.tag in ("polygon", "polyline", "points"):
        points = shapes.to_points([pair.split(",") for pair in values["points"].split(";") if pair])
        return shapes.mark_points(points, label, shape.tag == "polygon")
    return Mark(None, shape.tag)
