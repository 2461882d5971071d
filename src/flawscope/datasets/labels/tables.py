"""Reads lists of pictures that no labelling tool wrote: CSV, text, Excel, JSON, XML, files of one picture.

Such a list has no form of its own. A file is a list if a column of it names pictures of the data set, or if
the file itself has a picture's name. The meaning of the other columns is found in `datasets.class_labels`.
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
MAX_OWN_TEXT = 200  # characters of a text file of one picture that are used
LISTED = "listed in"  # column added to a list that has only names: the name of the file, or of the sheet
# Columns of a model's findings, which are no ground truth
_MODEL_COLUMNS = {"p_value", "largest, px", "area, px²"}

IsName = Callable[[str], bool]
Row = dict[str, list[str]]  # texts by the column's name


def read_list(
    data: bytes, suffix: str, picture_name: str, is_name: IsName, *, is_own: bool = False, count: int = 0
) -> list[Entry]:
    """Return the entries of a list; empty where the file is not a list of the data set's pictures.

    Args:
        data: Content of the file.
        suffix: Suffix of the file.
        picture_name: Path of the file without its suffix.
        is_name: Function that returns whether a text names a picture.
        is_own: Whether the file has the name of a picture, so that it may be about this picture alone.
        count: Number of pictures.
    """
    rows = _rows(data, suffix, is_name)
    headers = list(dict.fromkeys(chain.from_iterable(rows)))
    if _MODEL_COLUMNS & {name.casefold() for name in headers}:
        return []
    column, names = _column_of_names(rows, headers, is_name)
    if not names or _is_by_chance(names, suffix, is_first=column == headers[0], count=count):
        return _own_entry(data, suffix, picture_name) if is_own else []
    if headers == [column]:  # the list only names pictures: the name of its file says something about them
        about = ((LISTED, PurePosixPath(picture_name).name),)
        return [_entry(row[column][0], about) for row in rows]
    return [_entry(row[column][0], _about(row, column)) for row in rows if row.get(column)]


def _column_of_names(rows: Sequence[Row], headers: Iterable[str], is_name: IsName) -> tuple[str, set[str]]:
    """Return the column that names most pictures, and the names in it.

    Only the first text of each row in a column is used. Both results are empty if no column names a picture.
    """
    best_column = ""
    best_names = set[str]()
    for header in headers:
        first_texts = {row[header][0] for row in rows if row.get(header)}
        names = {text for text in first_texts if is_name(text)}
        if len(names) > len(best_names):
            best_column = header
            best_names = names
    return best_column, best_names


def _own_entry(data: bytes, suffix: str, picture_name: str) -> list[Entry]:
    """Return the entry of a file that has a picture's name; empty where the file says nothing."""
    about = _about(_own_row(data, suffix), column="")
    return [Entry(picture_name, size=None, marks=[], about=about)] if about else []


def _is_by_chance(names: Collection[str], suffix: str, *, is_first: bool, count: int) -> bool:
    """Whether texts that equal names of pictures may mean something else.

    This is so if they are values of keys, or numbers that name less than half of the pictures.

    Args:
        names: Texts that are names of pictures.
        suffix: Suffix of the file.
        is_first: Whether the texts are in the first column.
        count: Number of pictures.
    """
    is_table = suffix in (".csv", ".tsv", ".xlsx", ".txt")  # .txt may be either, and counts as a table
    has_keys = suffix in KEYS_AND_VALUES and not is_table
    if has_keys and not is_first:
        return True
    are_numbers = all(name.isdecimal() for name in names)
    return not is_table and are_numbers and 2 * len(names) < count


def _own_row(data: bytes, suffix: str) -> Row:
    """Return the row of a file about one picture: its keys and values, or its text under "label"."""
    if suffix not in TABLES:
        document = _document(data, suffix)
        record = document if isinstance(document, dict) else {"label": document}
        return _record_row(record)
    lines = [line for line in map(str.strip, table_text(data).splitlines()) if line]
    if not lines:
        return {"label": [""]}
    words = " ".join(lines).split()
    has_only_numbers = not any(map(_is_word, words))
    if len(words) > 1 and has_only_numbers:  # several numbers say nothing about the picture's class
        return {}
    row: Row = {}
    for line in lines:
        pair = _cut_pair(line)
        if pair is not None:
            name, value = pair
            row[name] = [value]
        elif not line.startswith("["):  # neither a pair nor the title of a section: the file is plain text
            return {"label": [" ".join(lines)[:MAX_OWN_TEXT]]}
    return row


def _cut_pair(line: str) -> tuple[str, str] | None:
    """Cut a line into key and value; None for a line without a key."""
    for separator in ("=", ":", "\t"):
        if separator in line:
            key, _, value = line.partition(separator)
            if key.strip():
                return key.strip(), value.strip()
    return None


def _entry(name: str, about: tuple[tuple[str, str], ...]) -> Entry:
    """Return the entry of a list for a picture.

    Args:
        name: Name or path of the picture in the list.
        about: Texts on the picture: pairs of column and text.
    """
    entry = name_entry(picture_path(name), size=None, marks=[])
    # `name_entry` cuts at any dot; a name such as "part 1.5" has no suffix of a picture
    has_picture_suffix = is_picture(f"a{entry.suffix}")  # "a": `is_picture` expects a name before the suffix
    if not has_picture_suffix:
        path = PurePosixPath(name.replace("\\", "/"))
        entry = Entry(path.with_name(name_of(name)).as_posix(), size=None, marks=[])
    return entry._replace(about=about)


def _about(row: Row, column: str) -> tuple[tuple[str, str], ...]:
    """Return pairs of column and text of a row.

    Args:
        row: The row.
        column: Column of the pictures' names, which is left out. In the other columns, file names of
            pictures are left out.
    """
    about = []
    for header, texts in row.items():
        if header == column:
            continue
        for text in texts:
            if not is_picture(PurePosixPath(text)):
                about.append((header.strip(), text.strip()))
    return tuple(about)


def _rows(data: bytes, suffix: str, is_name: IsName) -> list[Row]:
    """Return the rows of a file that may be a list."""
    if suffix not in TABLES:
        return [*_json_rows(_document(data, suffix), is_name)]
    if suffix == ".xlsx":
        return [row for title, table in _sheets(data) for row in _sheet_rows(title, table, is_name)]
    text = table_text(data)
    if suffix in KEYS_AND_VALUES:
        # titles of sections, and comments, are no keys with values
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("[", "#")))
    return [*_table_rows(_best_cut(text, is_name), is_name)]


def _document(data: bytes, suffix: str) -> object:
    """Return the content of a file of JSON, lines of JSON, or XML; XML is converted to the form of JSON."""
    if suffix == ".xml":
        return xml_forms.to_document(data)
    text = table_text(data)
    if suffix in JSON_LINES:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text)


def _sheet_rows(title: str, table: list[list[str]], is_name: IsName) -> Iterator[Row]:
    """Yield the rows of a sheet; if a row has only a name, the sheet's title is added as a text."""
    for row in _table_rows(table, is_name):
        yield row if len(row) > 1 else {**row, LISTED: [title]}


def seems_list(data: bytes, suffix: str, names: PictureNames) -> bool:
    """Whether a table that names no picture exactly seems to describe the pictures.

    Such a table has about as many rows as there are pictures, and one of these is true: a column says good or
    defective; or a column nearly names the pictures, and a column sorts them into groups.

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
    """Whether the rows of a table seem to describe the pictures, as in `seems_list`."""
    rows = [cells for cells in table if any(map(str.strip, cells))]
    min_rows, max_rows = names.count / 2, 2 * names.count + 1  # one row may name the columns
    if not min_rows <= len(rows) <= max_rows:
        return False
    if _MODEL_COLUMNS & {cell.strip().casefold() for cell in rows[0]}:
        return False
    ((usual_width, _),) = Counter(map(len, rows)).most_common(1)  # the most frequent number of cells
    full_rows = [[*map(str.strip, cells)] for cells in rows if len(cells) == usual_width]
    columns = [*zip(*full_rows, strict=True)]
    if any(map(_says_good_or_bad, columns)):
        return True
    has_near_names = any(map(names.are_near, columns))
    # column[1:]: the first row may name the columns
    return has_near_names and any(form_groups(column[1:], least=2) for column in columns)


def _says_good_or_bad(column: Sequence[str]) -> bool:
    """Whether the values of a column sort its rows into groups, and one of them says defective."""
    values = column[1:]  # without the header
    return form_groups(values, least=2) and any(says_good(text) is False for text in {*values})


def _widest_cut(text: str) -> list[list[str]]:
    """Return the rows of a text, cut by the delimiter that occurs in most lines."""
    best_rows = [[line] for line in text.splitlines()]
    best_count = 0
    for _, rows in _cuts(text):
        count = sum(len(row) > 1 for row in rows)
        if count > best_count:
            best_rows = rows
            best_count = count
    return best_rows


def _cuts(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each delimiter that can be used to cut a text, with the rows that result."""
    lines = text.splitlines()
    for delimiter in _DELIMITERS:
        try:
            rows = [*csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
        except csv.Error:
            continue
        yield delimiter, rows


def _table_rows(table: list[list[str]], is_name: IsName) -> Iterator[Row]:
    """Yield the rows of a table.

    The first line has the names of the columns, unless a cell of it names a picture.
    """
    stripped = [[cell.strip() for cell in cells] for cells in table]
    lines = [cells for cells in stripped if any(cells)]
    width = max(map(len, lines), default=0)
    headers = _default_headers(width)
    has_header_line = len(lines) > 1 and not any(map(is_name, lines[0]))
    if has_header_line:
        headers = [name or default for name, default in zip(lines[0], headers, strict=False)]
        lines = lines[1:]
    elif width > 2:  # such as label, position, size, picture; up to two columns are all called "label"
        label_column = _column_of_words(lines, width, is_name)
        if label_column is not None:
            headers[label_column] = "label"
    distinct_headers = _make_distinct(headers)
    for cells in lines:
        yield {header: [cell] for header, cell in zip(distinct_headers, cells, strict=False)}


def _default_headers(width: int) -> list[str]:
    """Return names for the columns of a table without a header."""
    if width <= 2:
        return ["label"] * width
    return [f"column {number}" for number in range(1, width + 1)]


def _make_distinct(headers: Sequence[str]) -> list[str]:
    """Return the headers; a header that is equal to an earlier one has its column's number appended."""
    distinct = []
    for k, header in enumerate(headers):
        is_repeated = headers.index(header) != k
        distinct.append(f"{header} {k + 1}" if is_repeated else header)
    return distinct


def _column_of_words(lines: Iterable[Sequence[str]], width: int, is_name: IsName) -> int | None:
    """Return the index of the only column of words that are no names of pictures.

    None if there is no such column, or more than one.
    """
    full_lines = [cells for cells in lines if len(cells) == width]
    columns_of_words = []
    for number in range(width):
        column = [cells[number] for cells in full_lines]
        if all(map(_is_word, column)) and not any(map(is_name, column)):
            columns_of_words.append(number)
    return columns_of_words[0] if len(columns_of_words) == 1 else None


def _is_word(text: str) -> bool:
    """Whether a text is neither a number nor empty."""
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
    """Return the rows of a text, cut by the best delimiter.

    The best delimiter gives the most rows with a picture's name and another cell. If no delimiter gives such
    a row, each line is a row of one cell.
    """
    best_rows = [[line] for line in text.splitlines()]
    best_count = 0
    for delimiter, rows in _cuts(text):
        naming_rows = [row for row in rows if _names_and_describes(row, is_name)]
        count = len(naming_rows)
        # a space may be part of a sentence: the word "a" of "a note" does not name the picture a.png
        if delimiter == " " and count == 1 and not _has_file_name(naming_rows[0]):
            continue
        if count > best_count:
            best_rows = rows
            best_count = count
    return best_rows


def _names_and_describes(row: Sequence[str], is_name: IsName) -> bool:
    """Whether a row has a picture's name and another cell."""
    return len(row) > 1 and any(is_name(cell.strip()) for cell in row)


def _has_file_name(row: Iterable[str]) -> bool:
    """Whether a cell is a file's name with a picture's suffix."""
    return any(is_picture(PurePosixPath(cell)) for cell in row)


def _sheets(data: bytes) -> list[tuple[str, list[list[str]]]]:
    """Return titles and rows of the sheets of a workbook."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    sheets = []
    for sheet in book.worksheets:
        rows = [[*map(_scalar, cells)] for cells in sheet.iter_rows(values_only=True)]
        sheets.append((sheet.title, rows))
    return sheets


def _scalar(value: object) -> str:
    """Return a single value as a text; an empty text for None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _texts(value: object) -> list[str]:
    """Return the texts of a JSON value: itself, or those of a list.

    An object with a single key, such as {"choices": [...]}, has the texts of the key's value. An object with
    several keys, or none, counts as one empty text.
    """
    content = value
    if isinstance(value, dict):
        content = next(iter(value.values()), None) if len(value) == 1 else None
    items = content if isinstance(content, list) else [content]
    return [_scalar(item) for item in items if not isinstance(item, list | dict)]


def _json_rows(document: object, is_name: IsName) -> Iterator[Row]:
    """Yield the rows of a JSON document.

    The document has one of these forms: a list of records, at the top or within a record; a list of pairs
    (picture, label); records or values by pictures' names; lists of pictures by class.
    """
    if isinstance(document, list):
        for record in document:
            if isinstance(record, dict):
                yield from _json_rows(record, is_name)
            elif isinstance(record, list) and len(record) == 2:
                picture, label = record
                yield {"picture": _texts(picture), "label": _texts(label)}
    elif isinstance(document, dict) and any(map(is_name, document)):
        yield from _rows_by_picture(document)
    elif isinstance(document, dict):
        yield from _rows_of_record(document, is_name)


def _rows_by_picture(records: Mapping[str, object]) -> Iterator[Row]:
    """Yield the rows of an object that has a record or a value for each picture's name."""
    for name, value in records.items():
        if isinstance(value, dict) and len(value) > 1:
            yield {"picture": [name], **_record_row(value)}
        else:
            yield {"picture": [name], "label": _texts(value)}


def _rows_of_record(record: Mapping[str, object], is_name: IsName) -> Iterator[Row]:
    """Yield the rows of a record.

    A record that names exactly one picture is a row itself. Otherwise, if it has lists of pictures, each
    picture is a row with the list's key as its label. Otherwise the lists and records in it are read. A
    record of only simple values is a row, too, although it names no picture.
    """
    row = _record_row(record)
    if len(_pictures_in(row, is_name)) == 1:
        yield row
        return
    lists = {}
    for key, value in record.items():
        if isinstance(value, list) and _name_pictures(value, is_name):
            lists[key] = value
    if lists:
        for label, pictures in lists.items():
            for picture in pictures:
                yield {"picture": [str(picture)], "label": [label]}
        return
    inner_documents = [value for value in record.values() if isinstance(value, list | dict)]
    for document in inner_documents:
        yield from _json_rows(document, is_name)
    if not inner_documents:
        yield row


def _pictures_in(row: Row, is_name: IsName) -> set[str]:
    """Return the names of pictures in a row: those with a picture's suffix if there are any, else all."""
    names = {text for texts in row.values() for text in texts if is_name(text)}
    file_names = {name_of(text) for text in names if is_picture(PurePosixPath(text))}
    return file_names or names


def _name_pictures(values: Sequence[object], is_name: IsName) -> bool:
    """Whether any of the values is a text that names a picture."""
    return any(isinstance(value, str) and is_name(value) for value in values)


def _record_row(record: Mapping[str, object], path: str = "") -> Row:
    """Return the texts in a record; the name of a text is the keys that lead to it, joined by spaces.

    Args:
        record: Record, which may hold further records.
        path: Keys that lead to the record; empty at the top.
    """
    row: Row = {}
    for key, value in record.items():
        header = f"{path} {key}".strip()
        # of a record with one key, `_texts` returns the value's texts
        may_have_texts = not isinstance(value, dict) or len(value) == 1
        if may_have_texts:
            texts = _texts(value)
            if texts:
                row.setdefault(header, []).extend(texts)
                continue
        inner_values = value if isinstance(value, list) else [value]
        for inner_record in inner_values:
            if isinstance(inner_record, dict):
                for name, texts in _record_row(inner_record, header).items():
                    row.setdefault(name, []).extend(texts)
    return row


def picture_texts(header: str, values: Iterable[object]) -> tuple[tuple[str, str], ...]:
    """Return pairs of `header` and text, for all texts in a labelling tool's values on a whole picture."""
    return tuple((header, text) for value in values for text in _texts(value) if text)
