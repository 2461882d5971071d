"""Routes of records: the export of inspections as a table, and the audit, which admins alone see."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO, Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic.fields import FieldInfo

from flawscope.artefact.files import csv_cell
from flawscope.errors import InputError, require_installed
from flawscope.station.access import audit
from flawscope.station.access.roles import ADMIN
from flawscope.station.store.database import Database
from flawscope.station.store.inspection import Inspection
from flawscope.station.store.records import holdable, microseconds
from flawscope.station.store.search import MOST, Filters, every
from flawscope.station.web import schemas
from flawscope.station.web.api import Engineer, Here, Wanted, attachment, routes
from flawscope.station.web.middleware import check_role
from flawscope.station.web.pages import Shown
from flawscope.station.web.workbook import MEDIA_TYPE, workbook

PER_PAGE = 100

export_router = routes()
audit_router = routes(prefix="/api/v1", role=ADMIN)
page = APIRouter(include_in_schema=False)

About = Annotated[str, Query(description=f"one of {', '.join(audit.ABOUT)}; all where it is left out")]
Time = Annotated[str, Query(description="2026-11-22 or 2026-11-22T14:30:00Z")]
COLUMNS = tuple(Inspection.model_fields)
_KINDS: dict[Any, str] = {
    int: "int64",
    int | None: "int64",
    float: "float64",
    float | None: "float64",
    bool: "bool_",
}  # types of Parquet columns; others are strings
_SMALL = ("width", "height", "triggers")  # int32
ROWS = 10_000  # of a row group
BLOCK = 1 << 20


@export_router.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}, "application/vnd.apache.parquet": {}, MEDIA_TYPE: {}}}},
)
def export(
    name: str,
    station: Here,
    wanted: Wanted,
    person: Engineer,
    format: Literal["csv", "parquet", "xlsx"] = "csv",
) -> Response:
    """Export the inspections that a search finds, as a table."""
    product_id = station.product_id(name)
    file = f"{name}-inspections.{format}"
    if format == "csv":
        return StreamingResponse(
            csv_lines(station.database, product_id, wanted),
            media_type="text/csv; charset=utf-8",
            headers=attachment(file),
        )
    if format == "xlsx":
        made = workbook(rows(station.database, product_id, wanted))
        return StreamingResponse(blocks(made), media_type=MEDIA_TYPE, headers=attachment(file))
    made = parquet(station.database, product_id, wanted)
    return StreamingResponse(
        blocks(made), media_type="application/vnd.apache.parquet", headers=attachment(file)
    )


@audit_router.get("/audit", response_model=schemas.Audit)
def audit_log(
    station: Here,
    text: Annotated[str, Query(description="part of who, address, kind or text")] = "",
    about: About = "",
    since: Time = "",
    until: Time = "",
    before: Annotated[int | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
) -> Any:
    """List who did what, when and from where, the latest first: sign-ins good and bad, users, tokens,
    settings, versions, verdicts, deletions."""
    ends = {"since": microseconds(since) if since else None, "until": microseconds(until) if until else None}
    number = None if before is None else holdable(before)
    found = audit.search(station.database, text=text, about=about, **ends, before=number, limit=limit + 1)
    more = len(found) > limit
    return {"entries": found[:limit], "next": found[limit - 1]["id"] if more else None}


@page.get("/-/audit")
def audit_page(request: Request) -> Response:
    asked = Shown(request, "audit", next(iter(request.app.state.station.products), None))
    assert asked.person is not None, "the guard lets nobody else in"
    check_role(asked.person, ADMIN)
    names = ("text", "about", "since", "until", "before")
    given = {name: sent.strip() for name in names if (sent := request.query_params.get(name, "")).strip()}
    error, found = "", dict[str, Any](entries=[], next=None)
    try:
        before = given.pop("before", "")
        if not before.isdecimal() and before:
            raise InputError("before: it is the number of a record")
        found = audit_log(asked.station, **given, before=int(before[:20]) if before else None, limit=PER_PAGE)
    except InputError as wrong:
        error = str(wrong)
    older = f"?{urlencode({**given, 'before': found['next']})}" if found["next"] else None
    more = {
        "entries": found["entries"],
        "older": older,
        "kinds": [(one, asked.texts(f"audit.{one}")) for one in audit.ABOUT],
    }
    return asked.page_of("audit", 422 if error else 200, error=error, **more)


def rows(database: Database, product_id: int, filters: Filters) -> Iterator[Sequence[Any]]:
    """Rows for a spreadsheet: the header, then one for each inspection."""
    yield COLUMNS
    for one in every(database, product_id, filters):
        yield [_cell(name, one[name]) for name in COLUMNS]


def csv_lines(database: Database, product_id: int, filters: Filters) -> Iterator[str]:
    """CSV lines: the header, then a line for each inspection."""
    yield from map(_line, rows(database, product_id, filters))


def parquet(database: Database, product_id: int, filters: Filters) -> IO[bytes]:
    """Parquet in a temporary file, at its beginning; closing the file removes it."""
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
    return (
        json.dumps(value) if name in ("regions", "part_pose", "found_parts") and value is not None else value
    )


def _cell(name: str, value: Any) -> Any:
    return "" if value is None else csv_cell(_flat(name, value))


def _line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()
