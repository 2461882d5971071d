"""Writes workbooks of Excel, which open alike in every language: sheets with widths, a filter and colours."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from flawscope.artefact.files import CSV_ENCODING, atomic_write, is_computed
from flawscope.results.table import EXCEL_SUFFIX, csv_line

if TYPE_CHECKING:
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.worksheet._write_only import WriteOnlyWorksheet

NUMBER_FORMAT = "0.0000"  # of numbers that are not whole; the cell holds all digits
TIME_FORMAT = "yyyy-mm-dd hh:mm:ss"
MAX_ROWS = 1_048_575  # below the heading; Excel takes one more, which may say that there are more
MAX_LINKS = 65_530  # of a sheet; Excel reports a sheet with more as damaged
SHEET = "results"  # name of the sheet in a workbook with a single sheet
MEASURED_ROWS = 200  # first rows, whose texts decide how wide a column is
MAX_WIDTH = 60  # characters of a column
COLUMN_PADDING = 3  # characters beside the longest text
# Excel's own styles, by the verdict in a cell
VERDICT_STYLES = {
    "good": "Good",
    "anomalous": "Bad",
    "within tolerance": "Neutral",
    "incomplete": "Neutral",
    "not judged": "Note",
}


class Column(NamedTuple):
    """Column of a sheet.

    Attributes:
        heading: Text of its first cell.
        width: Width in characters.
        number_format: Excel's format of numbers and times in it.
    """

    heading: str
    width: float
    number_format: str = ""


class Link(NamedTuple):
    """Cell that opens a file or an address.

    Attributes:
        text: Text of the cell.
        target: Path relative to the workbook, with forward slashes, or an address.
    """

    text: str
    target: str


def _cell_content(value: object) -> object:
    """Return the value as a cell can hold it: texts without control characters, NaN and infinity as texts."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        return value
    # file names with bytes that are no UTF-8 have characters that cannot be encoded
    valid_text = value.encode("utf-8", "backslashreplace").decode()
    return ILLEGAL_CHARACTERS_RE.sub("", valid_text)


class Workbook:
    """A workbook that is written row by row. Texts are never formulas, and verdicts are coloured.

    Args:
        sheets: Columns by the name of the sheet. Each sheet has a heading that stays in view, and a filter.
    """

    def __init__(self, sheets: Mapping[str, Sequence[Column]]):
        from openpyxl import Workbook as Book

        self._book = Book(write_only=True)
        self._columns: dict[str, Sequence[Column]] = {}
        self._row_counts = Counter[str]()
        self._link_counts = Counter[str]()
        for name, columns in sheets.items():
            self.add_sheet(name, columns)

    def add_sheet(self, name: str, columns: Sequence[Column], place: int | None = None) -> None:
        """Add a sheet at the index `place`; None: at the end."""
        from openpyxl.styles import Font
        from openpyxl.utils import get_column_letter

        self._columns[name] = columns
        sheet = self._book.create_sheet(name, place)
        sheet.freeze_panes = "A2"
        for number, column in enumerate(columns, start=1):
            sheet.column_dimensions[get_column_letter(number)].width = column.width
        cells = [self._cell(sheet, column.heading) for column in columns]
        for cell in cells:
            cell.font = Font(bold=True)
        sheet.append(cells)

    def add(self, name: str, values: Sequence[object]) -> None:
        """Add a row to a sheet.

        The last row that fits into the sheet is a remark that there are more; later rows are left out.
        """
        if self.is_full(name):
            return
        self._row_counts[name] += 1
        sheet = self._book[name]
        cell_values = values
        if self.is_full(name):  # this row is the last that fits
            cell_values = ["there are more: a sheet holds no more rows; take CSV"]
        cells = []
        for value, column in zip(cell_values, self._columns[name], strict=False):  # a remark has one cell
            cells.append(self._cell(sheet, value, column.number_format))
        sheet.append(cells)

    def is_full(self, name: str) -> bool:
        """Return whether a sheet takes no more rows."""
        return self._row_counts[name] > MAX_ROWS

    def save(self, file: IO[bytes]) -> None:
        """Write the workbook; a second call is an error."""
        from openpyxl.utils import get_column_letter

        for name, columns in self._columns.items():
            last_column = get_column_letter(len(columns))
            last_row = self._row_counts[name] + 1  # + 1: the heading
            self._book[name].auto_filter.ref = f"A1:{last_column}{last_row}"
        # save in memory first: an archive whose file cannot be written raises errors again when Python ends
        archive = io.BytesIO()
        self._book.save(archive)
        file.write(archive.getbuffer())

    def _cell(self, sheet: WriteOnlyWorksheet, value: object, number_format: str = "") -> WriteOnlyCell:
        """Return the cell of a value, with its link, colour and number format."""
        from openpyxl.cell import WriteOnlyCell

        link = value.target if isinstance(value, Link) else ""
        content = _cell_content(value.text if isinstance(value, Link) else value)
        cell = WriteOnlyCell(sheet, value=content)
        if isinstance(content, str):
            cell.data_type = "s"  # openpyxl takes a text that begins with = for a formula
        if link and self._link_counts[sheet.title] < MAX_LINKS:
            self._link_counts[sheet.title] += 1
            cell.hyperlink = link
            cell.style = "Hyperlink"
        else:
            _format_cell(cell, content, number_format)
        if isinstance(content, str) and is_computed(content):
            cell.quotePrefix = True  # Excel would compute it when somebody edits the cell
        return cell


def _format_cell(cell: WriteOnlyCell, content: object, number_format: str) -> None:
    """Give a verdict its colour, and a number or time its format; empty `number_format`: the default."""
    if isinstance(content, str):
        if content in VERDICT_STYLES:
            cell.style = VERDICT_STYLES[content]
    elif number_format:
        cell.number_format = number_format
    elif isinstance(content, float):
        cell.number_format = NUMBER_FORMAT


def fitting_columns(rows: Sequence[Sequence[object]]) -> list[Column]:
    """Return columns as wide as their texts, up to `MAX_WIDTH`; the first row is the heading."""
    heading, *content_rows = rows[:MEASURED_ROWS]
    columns = []
    for index, title in enumerate(heading):
        texts = [str(title)]
        texts += [_cell_text(row[index]) for row in content_rows if index < len(row)]
        width = max(map(len, texts)) + COLUMN_PADDING
        columns.append(Column(str(title), min(width, MAX_WIDTH)))
    return columns


def _cell_text(value: object) -> str:
    """Return the text that Excel shows for a value."""
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def encode_workbook(rows: Sequence[Sequence[object]]) -> bytes:
    """Encode a workbook with one sheet of these rows, the heading first."""
    book = Workbook({SHEET: fitting_columns(rows)})  # the columns have the heading
    file = io.BytesIO()
    for row in rows[1:]:
        book.add(SHEET, row)
    book.save(file)
    return file.getvalue()


def write_table(path: Path, rows: Iterable[Sequence[object]], *, decimal_comma: bool = False) -> None:
    """Write a table, .csv or .xlsx, completely or not at all."""
    if path.suffix.lower() == EXCEL_SUFFIX:
        data = encode_workbook([*rows])
    else:
        text = "".join(csv_line(row, decimal_comma=decimal_comma) for row in rows)
        data = text.encode(CSV_ENCODING, "backslashreplace")
    with atomic_write(path) as file:
        file.write(data)
