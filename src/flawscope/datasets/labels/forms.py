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
PADDED_DIGITS = 3  # a number of at least so many digits that begins with 0 is a name, such as 004
# Largest number of bytes of files that are opened, by suffix
MAX_BYTES = {".json": 1 << 30, ".xml": 1 << 28, ".txt": 1 << 24, ".csv": MAX_LIST_BYTES}
# Text by which a damaged file of labels is known
_LABEL_SIGN = re.compile(
    rb'"(annotations|shapes|imagePath|shape_attributes|original_width)"\s*:|<(!DOCTYPE )?annotations?[\s>]'
)
# Two or more lines, each a whole number, which a text may follow that begins with no digit, sign or point
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
        fault: Why the file could not be read; empty where it could.
        seems_list: Whether the file seems to describe the pictures, but names none exactly.
    """

    form: str
    entries: list[Entry]
    fault: str = ""
    seems_list: bool = False


def read_label_file(
    path: Path, picture_name: str, settings: Callable[[Path], yolo.YoloSettings], names: PictureNames
) -> LabelDocument | None:
    """Read a file of labels.

    If a file cannot be read, the result has a `fault`. No error is raised, so that the other files are read.

    Args:
        path: The file.
        picture_name: Path of the file without its suffix; a file of one picture lies beside the picture and
            has its name.
        settings: Function that returns YOLO's settings for a folder.
        names: Names of the pictures.

    Returns:
        The content; None if the suffix is not one of label files, or the file is too large or empty. YOLO
        writes an empty file for a picture without marks.
    """
    suffix = path.suffix.lower()
    has_labels_suffix = suffix in MAX_BYTES or suffix in tables.SUFFIXES
    if not has_labels_suffix or path.name in yolo.SETTINGS:
        return None
    try:
        is_small = path.stat().st_size <= MAX_BYTES.get(suffix, MAX_LIST_BYTES)
        data = path.read_bytes() if is_small else b""
    except (OSError, MemoryError):
        return LabelDocument(form="", entries=[])
    if not data.strip():
        return None
    document = None
    if suffix in MAX_BYTES:
        document = _read_form(path, suffix, data, picture_name, settings)
        if document is not None and (document.form or document.fault):
            return document
    # if the file is no list either, `document` says that its form is unknown
    return _read_list(suffix, data, picture_name, names) or document


def _read_list(suffix: str, data: bytes, picture_name: str, names: PictureNames) -> LabelDocument | None:
    """Read a file as a list of pictures; None where its suffix or its content is of something else.

    Args:
        suffix: Suffix of the file.
        data: Content of the file.
        picture_name: Path of the file without its suffix.
        names: Names of the pictures.
    """
    if suffix not in tables.SUFFIXES:
        return None
    try:
        entries, seems_list = _list_entries(suffix, data, picture_name, names)
    except InputError as error:
        return LabelDocument(tables.FORM, entries=[], fault=str(error))
    except Exception:  # it is a file of something else, which may raise anything in a reader of lists
        return None
    form = tables.FORM if entries else ""
    return LabelDocument(form, entries, seems_list=seems_list)


def _list_entries(
    suffix: str, data: bytes, picture_name: str, names: PictureNames
) -> tuple[list[Entry], bool]:
    """Return the entries of a list of pictures; the arguments are those of `_read_list`.

    Returns:
        The entries, and whether the file seems to be a list of pictures although it has no entries.

    Raises:
        Exception: Whatever the readers of lists raise for a file of something else.
    """
    # only programs for tables remove leading zeros from names
    is_name = names.is_name if suffix in tables.TABLES else names.is_exact

    @cache
    def can_numbers_be_names() -> bool:
        return _can_numbers_be_names(suffix, data)

    def is_sure_name(text: str) -> bool:
        """Whether a text names a picture, and is not a number that may mean something else."""
        if not is_name(text):
            return False
        is_padded = text[0] == "0" and len(text) >= PADDED_DIGITS
        return not text.isdecimal() or is_padded or can_numbers_be_names()

    is_own = names.is_exact(picture_name)
    entries = tables.read_list(data, suffix, picture_name, is_sure_name, is_own=is_own, count=names.count)
    described = [entry for entry in entries if entry.about]
    if described:
        return described, False
    if suffix in tables.TABLES or can_numbers_be_names():
        return [], tables.seems_list(data, suffix, names)
    # a tool's file in which numbers name most pictures may be a list of them
    named_pictures = {entry.name for entry in tables.read_list(data, suffix, picture_name, is_name)}
    are_most_named = 2 * len(named_pictures) >= names.count
    return [], names.count > 1 and are_most_named


def _can_numbers_be_names(suffix: str, data: bytes) -> bool:
    """Whether numbers in a file may name pictures.

    They may not in a damaged file of a labelling tool, nor in a text that is a table of numbers.
    """
    if suffix in (".txt", ".log"):
        return _LINES_OF_NAMES.fullmatch(tables.table_text(data).strip()) is not None
    return _LABEL_SIGN.search(data) is None


def _read_form(
    path: Path, suffix: str, data: bytes, picture_name: str, settings: Callable[[Path], yolo.YoloSettings]
) -> LabelDocument | None:
    """Read a file of a labelling tool; the arguments are those of `read_label_file`.

    If the file is of no such tool, the result has an empty form. None for a text file without words, which
    may be YOLO's file of a picture in which nothing is marked.
    """
    try:
        document = _load(suffix, data)
    except Exception as error:
        is_of_tool = _LABEL_SIGN.search(data) is not None
        fault = _damage(error) if is_of_tool else ""
        return LabelDocument(form="", entries=[], fault=fault)
    if suffix == ".txt" and not document:
        return None
    form = _form_of(suffix, document)
    if form is None:
        return LabelDocument(form="", entries=[])
    try:
        parse = form.parse
        if suffix == ".txt":
            parse = partial(parse, settings=settings(path.parent))
        entries = [_without_other_labels(entry) for entry in parse(document, picture_name)]
        return LabelDocument(form.name, entries)
    except InputError as error:
        reason = str(error)
    except KeyError as error:
        reason = f"something in it has no {error.args[0]!r}"
    except Exception:  # a damaged file may make a library raise anything
        reason = "a value in it has the wrong form"
    return LabelDocument(form.name, entries=[], fault=f"as {form.name}: {reason}")


def _damage(error: Exception) -> str:
    """Return why a file's content cannot be loaded."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else one_line_message(error)


def _form_of(suffix: str, document: object) -> _Form | None:
    """Return the form of a file's content; None where no tool wrote it."""
    try:
        return next((form for form in _FORMS if form.suffix == suffix and form.fits(document)), None)
    except Exception:  # a file of no tool may make a test raise anything
        return None


def _without_other_labels(entry: Entry) -> Entry:
    """Return the entry with those marks left out that name no defect, such as "background"."""
    marks = []
    for mark in entry.marks:
        is_no_defect = mark.kind.strip("_ ").casefold() in NO_DEFECT
        if mark.draw and is_no_defect:
            marks.append(Mark(draw=None, kind=f"label {mark.kind}"))
        else:
            marks.append(mark)
    return entry._replace(marks=marks)


def _load(suffix: str, data: bytes) -> object:
    """Return the content of a file by its suffix: XML, JSON, rows of CSV, else lines of words."""
    if suffix == ".xml":
        return xml_forms.load_xml(data)
    if suffix == ".json":
        return json.loads(data)
    if suffix == ".csv":
        return csv_forms.load_csv(data)
    lines = map(str.split, decode_text(data).splitlines())
    return [words for words in lines if words]


class _Form(NamedTuple):
    """Form of a labelling tool's files.

    Attributes:
        name: Name of the form.
        suffix: Suffix of the files.
        fits: Returns whether the content of a file has the form, as `fits(content)`.
        parse: Returns the entries, as `parse(content, picture_name)`; YOLO's also needs `settings`.
    """

    name: str
    suffix: str
    fits: Callable[..., bool]
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
