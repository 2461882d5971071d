"""Reads a file of labels by what it says. Each form has a test and a reader in `_FORMS`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flawscope.datasets.labels import json_forms, xml_forms, yolo
from flawscope.datasets.labels.shapes import Entry
from flawscope.errors import InputError

MAX_BYTES = {".json": 1 << 30, ".xml": 1 << 28, ".txt": 1 << 24}  # larger files are not opened
# What damaged files of labels have, and others have not
_SIGN = re.compile(
    rb'"(annotations|shapes|imagePath|shape_attributes|original_width)"\s*:|<(!DOCTYPE )?annotations?[\s>]'
)
EXPECTED = "COCO, Label Studio, VIA or LabelMe (.json), Pascal VOC or CVAT for images (.xml), YOLO (.txt)"


class LabelDocument(NamedTuple):
    """Content of a file. form: empty where it has none that is read."""

    form: str
    entries: list[Entry]


def read_label_file(
    path: Path, own: str, settings: Callable[[Path], yolo.YoloSettings]
) -> LabelDocument | None:
    """Reads a file of labels; None where its name says that it is none. InputError: it is damaged.

    own: the path of the picture of which the file has the name. settings: finds YOLO's for a folder.
    """
    suffix = path.suffix.lower()
    unread = LabelDocument("", [])
    if suffix not in MAX_BYTES:
        return None
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES[suffix] else b""
    except OSError:
        return unread
    try:
        document = _load(suffix, data)
    except (ValueError, RecursionError) as error:
        if _SIGN.search(data):
            raise _damage(path, "", str(error) or "it is nested too deeply") from None
        return unread
    if suffix == ".txt" and not document:  # YOLO's of a picture in which nothing is marked
        return None
    form = next((form for form in _FORMS if form.suffix == suffix and form.fits(document)), None)
    if form is None:
        return unread
    parse = partial(form.parse, settings=settings(path.parent)) if suffix == ".txt" else form.parse
    try:
        return LabelDocument(form.name, list(parse(document, own)))
    except InputError as error:
        reason = str(error)
    except KeyError as error:
        reason = f"something in it has no {error.args[0]!r}"
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError):
        reason = "a value in it has the wrong form"
    raise _damage(path, f"{form.name} ", reason)


def _damage(path: Path, form: str, reason: str) -> InputError:
    file = f"a {form}file" if form else "a file of labels"
    return InputError(f"{path} is damaged, it looks like {file} ({reason}): export it again")


def _load(suffix: str, data: bytes) -> Any:
    if suffix == ".xml":
        return xml_forms.load_xml(data)
    if suffix == ".json":
        return json.loads(data)
    return [words for line in data.decode("utf-8-sig").splitlines() if (words := line.split())]


class _Form(NamedTuple):
    name: str
    suffix: str
    fits: Callable[[Any], bool]
    parse: Callable[..., Iterable[Entry]]


_FORMS = (
    _Form("COCO", ".json", json_forms.is_coco, json_forms.parse_coco),
    _Form("LabelMe", ".json", json_forms.is_labelme, json_forms.parse_labelme),
    _Form("VIA", ".json", json_forms.is_via, json_forms.parse_via),
    _Form("Label Studio", ".json", json_forms.is_label_studio, json_forms.parse_label_studio),
    _Form("Pascal VOC", ".xml", xml_forms.is_voc, xml_forms.parse_voc),
    _Form("CVAT", ".xml", xml_forms.is_cvat, xml_forms.parse_cvat),
    _Form("YOLO", ".txt", yolo.is_yolo, yolo.parse_yolo),
)
