"""Excel workbooks of tables."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, Any

from flawscope.errors import require_installed

MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
MOST_ROWS = 1_048_575  # of a sheet, less one that says that there are more


def workbook(rows: Iterable[Sequence[Any]]) -> IO[bytes]:
    """Workbook with one sheet in a temporary file, at its beginning; closing the file removes it.

    Args:
        rows: the header first; texts as `csv_cell` returns them, so that a spreadsheet computes none.
    """
    require_installed("--format xlsx", "openpyxl", extras="station")
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    made = Workbook(write_only=True)
    sheet = made.create_sheet("flawscope")
    for number, row in enumerate(rows):
        if number == MOST_ROWS:
            sheet.append(["there are more: a sheet holds no more rows; take CSV"])
            break
        sheet.append([ILLEGAL_CHARACTERS_RE.sub("", one) if isinstance(one, str) else one for one in row])
    file = tempfile.TemporaryFile()  # noqa: SIM115 (who sends it closes it)
    made.save(file)
    file.seek(0)
    return file
