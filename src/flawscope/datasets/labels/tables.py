"""Reads lists of pictures that no labelling tool wrote: CSV, text, Excel, JSON, XML, files of one picture.

Such a list has no form of its own. It is a list because a column names pictures that are there, or because
the file has a picture's name. The other columns are read elsewhere (`datasets.class_labels`).
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import PurePosixPath

from flawscope.datasets.labels import xml_forms
from flawscope.datasets.labels.names import PictureNames, name_of
from flawscope.datasets.labels.shapes import Entry, name_entry, picture_path
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.folder_words import says_good
from flawscope.pictures.name_words import form_groups
from flawscope.pictures.text_files import decode_text

FORM = "list"
JSON_LINES = (".jsonl", ".ndjson", ".manifest")
KEYS_AND_VALUES = (".txt", ".ini", ".cfg", ".yaml", ".yml", ".toml", ".log")
TABLES = (".csv", ".tsv", ".xlsx", *KEYS_AND_VALUES)
SUFFIXES = (".json", ".xml", *JSON_LINES, *TABLES)
_DELIMITERS = (",", ";", "\t", "|", " ", "=", ":")
_OWN_TEXT = 200  # characters of a file of one picture that say something of it
LISTED = "listed in"  # column of a list of names alone: the name of the file, or of the sheet
# Columns of a model's findings, which are no ground truth
_OF_A_MODEL = {"p_value", "largest, px", "area, px²"}

IsName = Callable[[str], bool]
Row = dict[str, list[str]]  # texts by the column's name


def read_list(
    data: bytes, suffix: str, picture_name: str, is_name: IsName, *, is_own: bool = False, count: int = 0
) -> list[Entry]:
    """Return the entries of a list; empty where the file is none.

    Args:
        data: Content of the file.
        suffix: Suffix of the file.
        picture_name: Path of the file without its suffix.
        is_name: Returns whether a text names a picture.
        is_own: Whether the file has a picture's name.
        count: Number of pictures.
    """
    rows = _rows(data, suffix, is_name)
    headers = list(dict.fromkeys(chain.from_iterable(rows)))
    if _OF_A_MODEL & {name.casefold() for name in headers}:
        return []
    column, named = _column_of_names(rows, headers, is_name)
    if not named or _is_by_chance(named, suffix, column == headers[0], count):
        return _own_entry(data, suffix, picture_name) if is_own else []
    if headers == [column]:  # names alone
        return [_entry(row[column][0], ((LISTED, PurePosixPath(picture_name).name),)) for row in rows]
    return [_entry(row[column][0], _about(row, column)) for row in rows if row.get(column)]


def _column_of_names(rows: Sequence[Row], headers: Iterable[str], is_name: IsName) -> tuple[str, set[str]]:
    """Return the column whose first texts name most pictures, with these names.

    Numbers in other columns may be names of pictures, too.
    """
    column = ""
    named = set[str]()
    for header in headers:
        firsts = {row[header][0] for row in rows if row.get(header)}
        names = {text for text in firsts if is_name(text)}
        if len(names) > len(named):
            column = header
            named = names
    return column, named


def _own_entry(data: bytes, suffix: str, picture_name: str) -> list[Entry]:
    """The entry of a file that has a picture's name; none where it says nothing."""
    about = _about(_own_row(data, suffix), "")
    return [Entry(picture_name, size=None, marks=[], about=about)] if about else []


def _is_by_chance(named: Collection[str], suffix: str, is_first: bool, count: int) -> bool:
    """Whether texts may be something other than pictures' names, although they are equal to some.

    They may be where they are numbers that name few of the pictures, or values behind a key.
    """
    if suffix in KEYS_AND_VALUES and suffix != ".txt" and not is_first:
        return True
    is_table = suffix in (".csv", ".tsv", ".xlsx", ".txt")
    return not is_table and all(text.isdecimal() for text in named) and 2 * len(named) < count


def _own_row(data: bytes, suffix: str) -> Row:
    """Return the row of a file of one picture: its keys and values, or its text."""
    if suffix not in TABLES:
        document = _document(data, suffix)
        return _record_row(document if isinstance(document, dict) else {"label": document})
    lines = [line for line in map(str.strip, table_text(data).splitlines()) if line]
    words = " ".join(lines).split()
    if len(words) > 1 and not any(map(_is_word, words)):  # numbers that are no marks
        return {}
    row: Row = {}
    for line in lines:
        pair = _cut_pair(line)
        if pair is not None:
            name, value = pair
            row[name] = [value]
        elif not line.startswith("["):
            return {"label": [" ".join(lines)[:_OWN_TEXT]]}
    return row if lines else {"label": [""]}


def _cut_pair(line: str) -> tuple[str, str] | None:
    """Cut a line into key and value; None where it has none."""
    for sign in ("=", ":", "\t"):
        key, found, value = line.partition(sign)
        if found and key.strip():
            return key.strip(), value.strip()
    return None


def _entry(name: str, about: tuple[tuple[str, str], ...]) -> Entry:
    entry = name_entry(picture_path(name), None, [])
    if not is_picture(f"a{entry.suffix}"):  # "part 1.5" has no suffix, "part.raw" has another
        place = PurePosixPath(name.replace("\\", "/"))
        entry = Entry(place.with_name(name_of(name)).as_posix(), None, [])
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
    if suffix not in TABLES:
        return [*_json_rows(_document(data, suffix), is_name)]
    if suffix == ".xlsx":
        return [row for title, table in _sheets(data) for row in _sheet_rows(title, table, is_name)]
    text = table_text(data)
    if suffix in KEYS_AND_VALUES:
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("[", "#")))  # no pairs
    return [*_table_rows(_best_cut(text, is_name), is_name)]


def _document(data: bytes, suffix: str) -> object:
    """Return the content of JSON or of lines of JSON; XML in the form of JSON."""
    if suffix == ".xml":
        return xml_forms.to_document(data)
    text = table_text(data)
    if suffix in JSON_LINES:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text)


def _sheet_rows(title: str, table: list[list[str]], is_name: IsName) -> Iterator[Row]:
    """Yield rows of a sheet; where it has names alone, its title describes the pictures."""
    for row in _table_rows(table, is_name):
        yield row if len(row) > 1 else {**row, LISTED: [title]}


def seems_list(data: bytes, suffix: str, names: PictureNames) -> bool:
    """Whether a table that names no picture seems to describe the pictures all the same.

    It has about as many rows as there are pictures, and a column says good or defective, or a column nearly
    names the pictures beside one that sorts them.

    Args:
        data: Content of the file.
        suffix: Suffix of the file.
        names: Names of the pictures.
    """
    if suffix not in TABLES:
        return False
    tables = [table for _, table in _sheets(data)] if suffix == ".xlsx" else [_widest_cut(table_text(data))]
    return any(_seems_table_of(table, names) for table in tables)


def _seems_table_of(table: list[list[str]], names: PictureNames) -> bool:
    rows = [cells for cells in table if any(map(str.strip, cells))]
    if not names.count / 2 <= len(rows) <= 2 * names.count + 1:
        return False
    if _OF_A_MODEL & {cell.strip().casefold() for cell in rows[0]}:
        return False
    width = Counter(map(len, rows)).most_common(1)[0][0]
    full = [[*map(str.strip, cells)] for cells in rows if len(cells) == width]
    columns = [*zip(*full, strict=True)]
    if any(map(_says_both, columns)):
        return True
    return any(map(names.are_near, columns)) and any(form_groups(column[1:], 2) for column in columns)


def _says_both(column: Sequence[str]) -> bool:
    """Whether values of a column sort its rows, and one of them says defective."""
    return form_groups(column[1:], 2) and any(says_good(text) is False for text in {*column[1:]})


def _widest_cut(text: str) -> list[list[str]]:
    """Rows of a text, cut where most have several cells."""
    best = [[line] for line in text.splitlines()]
    most = 0
    for _, rows in _cuts(text):
        count = sum(len(row) > 1 for row in rows)
        if count > most:
            best = rows
            most = count
    return best


def _cuts(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each delimiter that can cut a text, with the rows that it makes."""
    lines = text.splitlines()
    for delimiter in _DELIMITERS:
        try:
            rows = [*csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
        except csv.Error:
            continue
        yield delimiter, rows


def _table_rows(table: list[list[str]], is_name: IsName) -> Iterator[Row]:
    """Yield the rows of a table, whose first line names the columns unless it names a picture."""
    stripped = [[cell.strip() for cell in cells] for cells in table]
    lines = [cells for cells in stripped if any(cells)]
    width = max(map(len, lines), default=0)
    keys = _unnamed_columns(width)
    if len(lines) > 1 and not any(map(is_name, lines[0])):
        keys = [name or key for name, key in zip(lines[0], keys, strict=False)]
        lines = lines[1:]
    elif width > 2:  # such as label, place, size, picture
        words = _column_of_words(lines, width, is_name)
        if words is not None:
            keys[words] = "label"
    keys = _make_distinct(keys)
    for cells in lines:
        yield {key: [cell] for key, cell in zip(keys, cells, strict=False)}


def _unnamed_columns(width: int) -> list[str]:
    """Keys of columns that no line names."""
    if width <= 2:
        return ["label"] * width
    return [f"column {k + 1}" for k in range(width)]


def _make_distinct(keys: Sequence[str]) -> list[str]:
    """Keys; one that came before gets its number behind it."""
    return [key if keys.index(key) == k else f"{key} {k + 1}" for k, key in enumerate(keys)]


def _column_of_words(lines: Iterable[Sequence[str]], width: int, is_name: IsName) -> int | None:
    """Return the only column that has words and no picture's name in every row; None without exactly one."""
    full = [cells for cells in lines if len(cells) == width]
    found = []
    for number in range(width):
        column = [cells[number] for cells in full]
        if all(map(_is_word, column)) and not any(map(is_name, column)):
            found.append(number)
    return found[0] if len(found) == 1 else None


def _is_word(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return bool(text)
    return False


def table_text(data: bytes) -> str:
    """Decode a text as Excel, PowerShell and editors store it."""
    try:
        return decode_text(data)
    except ValueError:
        return data.decode("cp1252", "replace")


def _best_cut(text: str, is_name: IsName) -> list[list[str]]:
    """Return the rows of a text, cut where most rows name a picture and have something beside the name.

    Where no cut does, each line is a row of one cell.
    """
    best = [[line] for line in text.splitlines()]
    most = 0
    for delimiter, rows in _cuts(text):
        named = [row for row in rows if _names_beside(row, is_name)]
        if delimiter == " " and len(named) == 1 and not _has_file_name(named[0]):
            continue  # "a note" beside a.png
        if len(named) > most:
            best = rows
            most = len(named)
    return best


def _names_beside(row: Sequence[str], is_name: IsName) -> bool:
    """Whether a row names a picture and has something beside the name."""
    return len(row) > 1 and any(is_name(cell.strip()) for cell in row)


def _has_file_name(row: Iterable[str]) -> bool:
    return any(is_picture(PurePosixPath(cell)) for cell in row)


def _sheets(data: bytes) -> list[tuple[str, list[list[str]]]]:
    """Titles and rows of the sheets of a workbook."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    sheets = []
    for sheet in book.worksheets:
        rows = [[*map(_scalar, cells)] for cells in sheet.iter_rows(values_only=True)]
        sheets.append((sheet.title, rows))
    return sheets


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _texts(value: object) -> list[str]:
    """Texts of a value in JSON: itself, those of a list, or of {"choices": [...]}."""
    if isinstance(value, dict):
        value = next(iter(value.values()), None) if len(value) == 1 else None
    values = value if isinstance(value, list) else [value]
    return [_scalar(item) for item in values if not isinstance(item, list | dict)]


def _json_rows(document: object, is_name: IsName) -> Iterator[Row]:
    """Yield the rows of a JSON document.

    It is a list of records, at the top or within a record; or records or values by a picture's name; or lists
    of pictures by their class.
    """
    if isinstance(document, list):
        for record in document:
            if isinstance(record, dict):
                yield from _json_rows(record, is_name)
            elif isinstance(record, list) and len(record) == 2:
                yield {"picture": _texts(record[0]), "label": _texts(record[1])}
    elif isinstance(document, dict) and any(map(is_name, document)):
        yield from _rows_by_picture(document)
    elif isinstance(document, dict):
        yield from _rows_of_record(document, is_name)


def _rows_by_picture(records: Mapping[str, object]) -> Iterator[Row]:
    """Rows of records, or of values, by the pictures' names."""
    for name, value in records.items():
        if isinstance(value, dict) and len(value) > 1:
            yield {"picture": [name], **_record_row(value)}
        else:
            yield {"picture": [name], "label": _texts(value)}


def _rows_of_record(record: Mapping[str, object], is_name: IsName) -> Iterator[Row]:
    """Yield the rows of a record.

    It is a row itself where it names one picture; else its lists of pictures are rows, by their class; else
    the records in it are read.
    """
    row = _record_row(record)
    if len(_named_in(row, is_name)) == 1:
        yield row
        return
    inside = [value for value in record.values() if isinstance(value, list | dict)]
    lists = {k: v for k, v in record.items() if isinstance(v, list) and _name_pictures(v, is_name)}
    if lists:
        for label, pictures in lists.items():
            for picture in pictures:
                yield {"picture": [str(picture)], "label": [label]}
    elif inside:
        for value in inside:
            yield from _json_rows(value, is_name)
    else:
        yield row


def _named_in(record: Row, is_name: IsName) -> set[str]:
    """Return the pictures that a record names: by their files' names, or else by other texts."""
    named = {text for texts in record.values() for text in texts if is_name(text)}
    files = {name_of(text) for text in named if is_picture(PurePosixPath(text))}
    return files or named


def _name_pictures(values: Sequence[object], is_name: IsName) -> bool:
    return any(isinstance(item, str) and is_name(item) for item in values)


def _record_row(record: Mapping[str, object], above: str = "") -> Row:
    """Texts in a record by the names that lead to them; numbers of a list's places are no names."""
    row: Row = {}
    for key, value in record.items():
        header = f"{above} {key}".strip()
        is_nested = isinstance(value, dict) and len(value) != 1
        if not is_nested and (texts := _texts(value)):
            row.setdefault(header, []).extend(texts)
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                for name, inside in _record_row(item, header).items():
                    row.setdefault(name, []).extend(inside)
    return row


def picture_texts(header: str, values: Iterable[object]) -> tuple[tuple[str, str], ...]:
    """Return a labelling tool's texts on a whole picture, each under the name `header`."""
    return tuple((header, text) for value in values for text in _texts(value) if text)
