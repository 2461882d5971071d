"""Writes tables of results: as CSV, or as an Excel workbook, which opens alike in every language."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flawscope.artefact.files import CSV_ENCODING, atomic_write
from flawscope.errors import require_installed
from flawscope.results.prediction import Prediction
from flawscope.results.table import (
    EXCEL_SUFFIX,
    ResultRow,
    TableWriter,
    Unjudged,
    csv_cell,
    csv_line,
    table_columns,
)

NUMBER_FORMAT = "0.0000"  # of numbers that are not whole; the cell holds all digits


def require_excel() -> None:
    """InputError where workbooks cannot be written here."""
    require_installed("a table .xlsx", "openpyxl", extras="report")


def write_workbook(path: str | os.PathLike[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a workbook with one sheet of these rows, the header first, whole or not at all.

    Raises:
        FlawscopeError: the file cannot be written.
    """
    require_excel()
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet("results")
    sheet.freeze_panes = "A2"

    def cell(value: Any) -> Any:
        if isinstance(value, str):
            text = value.encode("utf-8", "backslashreplace").decode()  # a name that is not UTF-8
            return csv_cell(ILLEGAL_CHARACTERS_RE.sub("", text))
        made = WriteOnlyCell(sheet, value=value)
        if isinstance(value, float):
            made.number_format = NUMBER_FORMAT
        return made

    for row in rows:
        sheet.append([cell(value) for value in row])
    with atomic_write(Path(path)) as file:
        book.save(file)


class ExcelTable:
    """A table to write, .xlsx, when it is closed; rows and columns are those of `TableWriter`."""

    def __init__(self, path: str | os.PathLike[str], **columns: bool):
        require_excel()
        self.path, self.columns = Path(path), table_columns(**columns)
        self.rows: list[Sequence[Any]] = [self.columns]

    def add_result(self, result: Prediction | Unjudged) -> None:
        """Adds the row of an input, and one for each of several parts in it."""
        self.rows += ([getattr(row, name) for name in self.columns] for row in ResultRow.rows(result))

    def close(self) -> None:
        write_workbook(self.path, self.rows)


def open_table(path: str, *, decimal_comma: bool, **columns: bool) -> TableWriter | ExcelTable:
    """Opens a table of results, .csv or .xlsx, which has no decimal commas of its own."""
    if path.lower().endswith(EXCEL_SUFFIX):
        return ExcelTable(path, **columns)
    return TableWriter(path, decimal_comma=decimal_comma, **columns)


def write_table(path: Path, rows: Iterable[Sequence[Any]], *, decimal_comma: bool = False) -> None:
    """Writes a table, .csv or .xlsx, whole or not at all."""
    if path.suffix.lower() == EXCEL_SUFFIX:
        write_workbook(path, rows)
        return
    text = "".join(csv_line(row, decimal_comma=decimal_comma) for row in rows)
    with atomic_write(path) as file:
        file.write(text.encode(CSV_ENCODING, "backslashreplace"))
