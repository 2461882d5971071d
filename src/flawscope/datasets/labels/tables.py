"""Reads lists of pictures and of what is said of each: CSV, text, Excel, and JSON of no labelling tool.

Such a list has no form of its own. What makes it one is that a column names pictures that are there; what the
other columns say is read elsewhere (`datasets.class_labels`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from flawscope.datasets.labels.shapes import Entry, name_entry, picture_path
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.folder_words import says_good
from flawscope.pictures.text_files import decode_text

FORM = "list"
SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx")
_DELIMITERS = (",", ";", "\t", "|", " ")
# Columns of what a model found, which is no ground truth
_OF_A_MODEL = {"p_value", "largest, px", "area, px²"}

IsName = Callable[[str], bool]
Row = dict[str, list[str]]  # texts by the column's name


def read_list(data: bytes, suffix: str, own: str, is_name: IsName) -> list[Entry]:
    """Entries of a list; empty where the file is none.

    own: the path of the picture of which the file has the name. is_name: whether a text names a picture.
    """
    rows = _rows(data, suffix, is_name)
    headers = list(dict.fromkeys(name for row in rows for name in row))
    if _OF_A_MODEL & {name.casefold() for name in headers}:
        return []
    # of several columns the one that names most pictures; their numbers may be names, too
    named = {h: {text for row in rows for text in row.get(h, ())[:1] if is_name(text)} for h in headers}
    column = max(headers, key=lambda name: len(named[name]), default="")
    if not column or not named[column]:
        texts = [text for row in rows for own_texts in row.values() for text in own_texts]
        is_word = suffix == ".txt" and len(texts) == 1 and says_good(texts[0]) is not None
        is_own = len(rows) == 1 and (suffix == ".json" or is_word)
        if not is_own or not is_name(own):
            return []
        return [Entry(own, None, [], about=_about(rows[0], ""))]
    return [_entry(row[column][0], _about(row, column)) for row in rows if row.get(column)]


def _entry(name: str, about: tuple[tuple[str, str], ...]) -> Entry:
    entry = name_entry(picture_path(name), None, [])
    entry = entry if is_picture(f"a{entry.suffix}") else Entry(name, None, [])  # "part 1.5" has no suffix
    return entry._replace(about=about)


def _about(row: Row, column: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (header.strip(), text.strip())
        for header, texts in row.items()
        if header != column
        for text in texts
        if not is_picture(PurePosixPath(text))
    )


def _rows(data: bytes, suffix: str, is_name: IsName) -> list[Row]:
    if suffix == ".json":
        return [*_json_rows(json.loads(table_text(data)), is_name)]
    if suffix == ".jsonl":
        records = [json.loads(line) for line in table_text(data).splitlines() if line.strip()]
        return [*_json_rows(records, is_name)]
    tables = _sheets(data) if suffix == ".xlsx" else [_best_cut(table_text(data), is_name)]
    return [row for table in tables for row in _table_rows(table, is_name)]


def _table_rows(table: list[list[str]], is_name: IsName) -> Iterator[Row]:
    """Yields the rows of a table. Its first line names the columns, unless it names a picture; of columns
    without names one is the picture, and its label is the other of two, or the only one of words."""
    lines = [[cell.strip() for cell in cells] for cells in table if any(map(str.strip, cells))]
    width = max(map(len, lines), default=0)
    keys = ["label"] * width if width <= 2 else [f"column {k + 1}" for k in range(width)]
    if len(lines) > 1 and not any(map(is_name, lines[0])):
        keys = [name or key for name, key in zip(lines[0], keys, strict=False)]
        lines = lines[1:]
    elif width > 2:  # such as label, place, size, picture
        full = [cells for cells in lines if len(cells) == width]
        words = [
            k for k in range(width) if all(_is_word(cells[k]) and not is_name(cells[k]) for cells in full)
        ]
        keys = ["label" if [k] == words else key for k, key in enumerate(keys)]
    keys = [key if keys.index(key) == k else f"{key} {k + 1}" for k, key in enumerate(keys)]
    for cells in lines:
        yield {key: [cell] for key, cell in zip(keys, cells, strict=False)}


def _is_word(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return bool(text)
    return False


def table_text(data: bytes) -> str:
    """Text as Excel, PowerShell and editors store it."""
    try:
        return decode_text(data)
    except ValueError:
        return data.decode("cp1252", "replace")


def _best_cut(text: str, is_name: IsName) -> list[list[str]]:
    """Rows of a text, cut where most pictures' names and something beside them come out; else one cell a
    row."""
    lines = text.splitlines()
    best, most = [[line] for line in lines], 0
    for delimiter in _DELIMITERS:
        try:
            rows = [*csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
        except csv.Error:
            continue
        named = [row for row in rows if len(row) > 1 and any(is_name(cell.strip()) for cell in row)]
        count = len(named)
        if delimiter == " " and count == 1 and not any(is_picture(PurePosixPath(cell)) for cell in named[0]):
            continue  # "a note" beside a.png
        if count > most:
            best, most = rows, count
    return best


def _sheets(data: bytes) -> list[list[list[str]]]:
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    return [
        [[*map(_scalar, cells)] for cells in sheet.iter_rows(values_only=True)] for sheet in book.worksheets
    ]


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _texts(value: Any) -> list[str]:
    """Texts of a value in JSON: itself, those of a list, or of {"choices": [...]}."""
    if isinstance(value, dict):
        value = next(iter(value.values()), None) if len(value) == 1 else None
    values = value if isinstance(value, list) else [value]
    return [_scalar(one) for one in values if not isinstance(one, list | dict)]


def _json_rows(document: Any, is_name: IsName) -> Iterator[Row]:
    """Rows of a list of records, at the top or within a record; of records or values by a picture's name; or
    of lists of pictures by what is said of them."""
    if isinstance(document, list):
        for record in document:
            if isinstance(record, dict):
                yield _record_row(record)
            elif isinstance(record, list) and len(record) == 2:
                yield {"picture": _texts(record[0]), "label": _texts(record[1])}
        return
    if not isinstance(document, dict):
        return
    if not any(map(is_name, document)):
        inside = [value for value in document.values() if isinstance(value, list | dict)]
        lists = {k: v for k, v in document.items() if isinstance(v, list) and _name_pictures(v, is_name)}
        if lists:
            yield from (
                {"picture": [str(one)], "label": [key]} for key, value in lists.items() for one in value
            )
        elif inside:
            yield from (row for value in inside for row in _json_rows(value, is_name))
        else:
            yield _record_row(document)
        return
    for name, value in document.items():
        if isinstance(value, dict) and len(value) > 1:
            yield {"picture": [name], **_record_row(value)}
        else:
            yield {"picture": [name], "label": _texts(value)}


def _name_pictures(values: Sequence[Any], is_name: IsName) -> bool:
    return any(isinstance(one, str) and is_name(one) for one in values)


def _record_row(record: dict[str, Any]) -> Row:
    return {str(key): texts for key, value in record.items() if (texts := _texts(value))}


def told_texts(header: str, values: Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """Texts that a labelling tool says of a whole picture, under a name."""
    return tuple((header, text) for value in values for text in _texts(value) if text)
