"""Inspections as a table, row by row."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

from pydantic.fields import FieldInfo

from flawscope.artefact.files import csv_cell
from flawscope.errors import require_installed
from flawscope.station.store.database import Database
from flawscope.station.store.inspection import Inspection
from flawscope.station.store.search import Filters, every

COLUMNS = tuple(Inspection.model_fields)
_KINDS: dict[Any, str] = {
    int: "int64",
    float: "float64",
    bool: "bool_",
}  # of Parquet's columns; others are texts
_SMALL = ("width", "height", "triggers")  # int32
ROWS = 10_000  # of a row group
BLOCK = 1 << 20


def csv_lines(database: Database, product_id: int, filters: Filters) -> Iterator[str]:
    """The header, then a line for each inspection."""
    yield _line(COLUMNS)
    for one in every(database, product_id, filters):
        yield _line([_cell(name, one[name]) for name in COLUMNS])


def parquet(database: Database, product_id: int, filters: Filters) -> IO[bytes]:
    """A file without a name, at its beginning; closing it removes it."""
    require_installed("--format parquet", "pyarrow", extras="station")
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(name: str, field: FieldInfo) -> Any:
        known = "int32" if name in _SMALL else _KINDS.get(field.annotation, "string")
        return getattr(pa, known)()

    schema = pa.schema([(name, kind(name, field)) for name, field in Inspection.model_fields.items()])
    file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by whoever reads it)
    rows = every(database, product_id, filters)
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, ROWS)):
            columns = {n: [_flat(n, one[n]) for one in group] for n in COLUMNS}
            writer.write_table(pa.table(columns, schema))
    file.seek(0)
    return file


def blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(BLOCK):
            yield block


def _flat(name: str, value: Any) -> Any:
    return json.dumps(value) if name == "regions" else value


def _cell(name: str, value: Any) -> Any:
    return "" if value is None else csv_cell(_flat(name, value))


def _line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()
