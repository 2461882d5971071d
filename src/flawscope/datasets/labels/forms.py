"""Reads a file of labels by what it says. Each form has a test and a reader in `_FORMS`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from flawscope.datasets.labels import csv_forms, json_forms, tables, xml_forms, yolo
from flawscope.datasets.labels.names import PictureNames
from flawscope.datasets.labels.shapes import NO_DEFECT, Entry, Mark
from flawscope.errors import InputError, one_line_message
from flawscope.pictures.text_files import decode_text

MAX_LIST_BYTES = 1 << 26
PADDED_DIGITS = 3  # of a number that begins with 0, and is a name: 004
# Larger files are not opened
MAX_BYTES = {".json": 1 << 30, ".xml": 1 << 28, ".txt": 1 << 24, ".csv": MAX_LIST_BYTES}
# What damaged files of labels have, and others have not
_SIGN = re.compile(
    rb'"(annotations|shapes|imagePath|shape_attributes|original_width)"\s*:|<(!DOCTYPE )?annotations?[\s>]'
)
_LINES_OF_NAMES = re.compile(r"\d+(?:[ \t,;:=]+[^\d\s.-][^\n]*)?(?:\s*\n\d+(?:[ \t,;:=]+[^\d\s.-][^\n]*)?)+")
EXPECTED = (
    "COCO, Label Studio or LabelMe (.json), VIA (.json and .csv), Pascal VOC or CVAT for images (.xml), "
    "YOLO (.txt), boxes (.csv)"
)


class LabelDocument(NamedTuple):
    """Content of a file.

    Attributes:
        form: Form of the file; empty where it has none that is read.
        entries: What the file says of each picture.
        fault: Why it could not be read.
        seems_list: Whether it seems to describe the pictures, but names none exactly.
    """

    form: str
    entries: list[Entry]
    fault: str = ""
    seems_list: bool = False


def read_label_file(
    path: Path, picture_name: str, settings: Callable[[Path], yolo.YoloSettings], names: PictureNames
) -> LabelDocument | None:
    """Read a file of labels; None where its name says that it is none, or where it is empty or too large.

    A file that cannot be read has a `fault`, and does not end the work on others.

    Args:
        path: The file.
        picture_name: Path of the picture whose name the file may have.
        settings: Finds YOLO's settings for a folder.
        names: Names of the pictures.
    """
    suffix = path.suffix.lower()
    if (suffix not in MAX_BYTES and suffix not in tables.SUFFIXES) or path.name in yolo.SETTINGS:
        return None
    try:
        is_small = path.stat().st_size <= MAX_BYTES.get(suffix, MAX_LIST_BYTES)
        data = path.read_bytes() if is_small else b""
    except (OSError, MemoryError):
        return LabelDocument("", [])
    if not data.strip():  # YOLO's of a picture in which nothing is marked
        return None
    found = _read_form(path, suffix, data, picture_name, settings) if suffix in MAX_BYTES else None
    if found is not None and (found.form or found.fault):
        return found
    return _read_list(suffix, data, picture_name, names) or found


def _read_list(suffix: str, data: bytes, picture_name: str, names: PictureNames) -> LabelDocument | None:
    """Read a file as a list of pictures; None where it is no such list."""
    if suffix not in tables.SUFFIXES:
        return None
    try:
        entries, seems_list = _listed(suffix, data, picture_name, names)
    except InputError as error:
        return LabelDocument(tables.FORM, [], str(error))
    except Exception:  # it is a file of something else, which may raise anything in a reader of lists
        return None
    return LabelDocument(tables.FORM if entries else "", entries, seems_list=seems_list)


def _listed(suffix: str, data: bytes, picture_name: str, names: PictureNames) -> tuple[list[Entry], bool]:
    """Return the entries of a list of pictures; without any, whether it seems to be such a list."""
    is_known = names.is_name if suffix in tables.TABLES else names.is_exact

    @cache
    def may_numbers_name() -> bool:
        return _may_numbers_name(suffix, data)

    def is_sure(text: str) -> bool:
        is_number = text.isdecimal() and not (text[0] == "0" and len(text) >= PADDED_DIGITS)
        return is_known(text) and (not is_number or may_numbers_name())

    entries = tables.read_list(
        data, suffix, picture_name, is_sure, is_own=names.is_exact(picture_name), count=names.count
    )
    entries = [entry for entry in entries if entry.about]
    if entries:
        return entries, False
    if suffix not in tables.TABLES and not may_numbers_name():  # as a whole file its numbers may be names
        listed = tables.read_list(data, suffix, picture_name, is_known)
        return [], 2 * len({entry.name for entry in listed}) >= names.count > 1
    return [], tables.seems_list(data, suffix, names)


def _may_numbers_name(suffix: str, data: bytes) -> bool:
    """Whether numbers may name pictures: not in a damaged file of a tool, nor in a table of numbers."""
    if suffix in (".txt", ".log"):
        return _LINES_OF_NAMES.fullmatch(tables.table_text(data).strip()) is not None
    return _SIGN.search(data) is None


def _read_form(
    path: Path, suffix: str, data: bytes, picture_name: str, settings: Callable[[Path], yolo.YoloSettings]
) -> LabelDocument | None:
    """Read a file of a labelling tool; of no form where it is none, None where nothing is in it."""
    try:
        document = _load(suffix, data)
    except Exception as error:
        is_of_tool = _SIGN.search(data) is not None
        return LabelDocument("", [], _damage(error) if is_of_tool else "")
    if suffix == ".txt" and not document:  # YOLO's of a picture in which nothing is marked
        return None
    form = _form_of(suffix, document)
    if form is None:
        return LabelDocument("", [])
    try:
        parse = partial(form.parse, settings=settings(path.parent)) if suffix == ".txt" else form.parse
        return LabelDocument(form.name, [*map(_without_other_labels, parse(document, picture_name))])
    except InputError as error:
        reason = str(error)
    except KeyError as error:
        reason = f"something in it has no {error.args[0]!r}"
    except Exception:  # of whatever a damaged file makes a library raise
        reason = "a value in it has the wrong form"
    return LabelDocument(form.name, [], f"as {form.name}: {reason}")


def _damage(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else one_line_message(error)


def _form_of(suffix: str, document: object) -> _Form | None:
    """Return the form of a file's content; None where no tool wrote it."""
    try:
        return next((form for form in _FORMS if form.suffix == suffix and form.fits(document)), None)
    except Exception:  # of whatever a file of no tool makes a test raise
        return None


def _without_other_labels(entry: Entry) -> Entry:
    """Return the entry without marks of labels that are no defects, such as "background"."""
    marks = [
        Mark(None, f"label {mark.kind}")
        if mark.draw and mark.kind.strip("_ ").casefold() in NO_DEFECT
        else mark
        for mark in entry.marks
    ]
    return entry._replace(marks=marks)


def _load(suffix: str, data: bytes) -> object:
    if suffix == ".xml":
        return xml_forms.load_xml(data)
    if suffix == ".json":
        return json.loads(data)
    if suffix == ".csv":
        return csv_forms.load_csv(data)
    lines = map(str.split, decode_text(data).splitlines())
    return [words for words in lines if words]


class _Form(NamedTuple):
    name: str
    suffix: str
    fits: Callable[..., bool]  # whether the content of a file of the suffix has the form
    parse: Callable[..., Iterable[Entry]]


_FORMS = (
    _Form("COCO", ".json", json_forms.is_coco, json_forms.parse_coco),
    _Form("LabelMe", ".json", json_forms.is_labelme, json_forms.parse_labelme),
    _Form("VIA", ".json", json_forms.is_via, json_forms.parse_via),
    _Form("Label Studio", ".json", json_forms.is_label_studio, json_forms.parse_label_studio),
    _Form("Pascal VOC", ".xml", xml_forms.is_voc, xml_forms.parse_voc),
    _Form("CVAT", ".xml", xml_forms.is_cvat, xml_forms.parse_cvat),
    _Form("CSV of boxes", ".csv", csv_forms.is_boxes, csv_forms.parse_boxes),
    _Form("VIA", ".csv", csv_forms.is_via, csv_forms.parse_via),
    _Form("YOLO", ".txt", yolo.is_yolo, yolo.parse_yolo),
)
