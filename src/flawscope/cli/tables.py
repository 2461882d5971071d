"""Writes the tables that `--out` names: CSV, or an Excel workbook."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flawscope.results.excel import ExcelTable
    from flawscope.results.table import TableWriter


def open_table(args: argparse.Namespace, **columns: bool) -> TableWriter | ExcelTable:
    """Opens the table alone that `--out` names."""
    from flawscope.results.excel import ExcelTable
    from flawscope.results.table import EXCEL_SUFFIX, TableWriter

    if args.out.lower().endswith(EXCEL_SUFFIX):
        return ExcelTable(args.out, **columns)
    return TableWriter(args.out, decimal_comma=args.decimal_comma, **columns)


def write_table(path: Path, rows: Iterable[Sequence[Any]], *, decimal_comma: bool = False) -> None:
    """Writes a table, .csv or .xlsx, whole or not at all."""
    from flawscope.artefact.files import CSV_ENCODING, atomic_write
    from flawscope.results.excel import write_workbook
    from flawscope.results.table import EXCEL_SUFFIX, csv_line

    if path.suffix.lower() == EXCEL_SUFFIX:
        write_workbook(path, rows)
        return
    text = "".join(csv_line(row, decimal_comma=decimal_comma) for row in rows)
    with atomic_write(path) as file:
        file.write(text.encode(CSV_ENCODING, "backslashreplace"))
