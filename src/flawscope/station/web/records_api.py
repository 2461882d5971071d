"""Routes of records: parts in several views, the export of inspections as a table, and the audit, which
admins alone see."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from flawscope.artefact.files import csv_cell
from flawscope.errors import InputError, require_installed
from flawscope.station.access import audit
from flawscope.station.access.roles import ADMIN
from flawscope.station.store.database import Database
from flawscope.station.store.inspection import Inspection
from flawscope.station.store.parts import find_part, search_parts
from flawscope.station.store.records import parse_time, valid_id_or_zero
from flawscope.station.store.search import MAX_PAGE_SIZE, Filters, iterate_inspections
from flawscope.station.web import schemas
from flawscope.station.web.api import Engineer, FiltersDep, StationDep, api_router, attachment
from flawscope.station.web.pages import Page, html_router

PER_PAGE = 100

router = api_router()
audit_router = api_router(prefix="/api/v1", role=ADMIN)
page_router = html_router(ADMIN)

Subject = Annotated[str, Query(description=f"one of {', '.join(audit.SUBJECTS)}; all where it is left out")]
TimeQuery = Annotated[str, Query(description="2026-11-22 or 2026-11-22T14:30:00Z")]
COLUMNS = tuple(Inspection.model_fields)
_PARQUET_TYPES: dict[Any, str] = {
    int: "int64",
    int | None: "int64",
    float: "float64",
    float | None: "float64",
    bool: "bool_",
}  # types of Parquet columns; others are strings
_INT32_COLUMNS = ("width", "height", "triggers")
ROW_GROUP_SIZE = 10_000  # rows
MAX_SHEET_ROWS = 1_048_575  # one less than Excel's limit: a last row says that there are more
CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
BLOCK_BYTES = 1 << 20


class AuditEvent(BaseModel):
    """Event of the audit. who: user, token, `command line`, `station`, or empty where nobody is known.
    address: of the request's sender."""

    id: int
    at: str
    kind: str
    who: str
    address: str | None
    product: str | None
    text: str


class AuditPage(BaseModel):
    entries: list[AuditEvent]
    next: int | None = Field(description="`before` of the next page; null: there is none")


@router.get("/parts", response_model=schemas.Parts)
def find_parts(
    name: str,
    station: StationDep,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 50,
    cursor: Annotated[str, Query(description="`next` of the page before")] = "",
    part: Annotated[str, Query(description="its number")] = "",
    decision: Literal["", "good", "anomalous", "incomplete", "open"] = "",
) -> Any:
    """List parts that are seen in several views, the newest first. `open`: not decided yet."""
    here = station.database, station.product_id(name)
    if "\0" in part:
        raise InputError("part holds a character that no number has")
    found, next_cursor = search_parts(*here, part=part, decision=decision, cursor=cursor, limit=limit)
    return {"parts": found, "next": next_cursor}


@router.get("/parts/{number}", response_model=schemas.PartWithInspections)
def one_part(name: str, number: int, station: StationDep) -> Any:
    """Return a part with its views' inspections, by its id."""
    return find_part(station.database, station.product_id(name), valid_id_or_zero(number))


@router.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {CSV: {}, PARQUET: {}, XLSX: {}}}},
)
def export(
    name: str,
    station: StationDep,
    filters: FiltersDep,
    person: Engineer,
    format: Literal["csv", "parquet", "xlsx"] = "csv",
) -> Response:
    """Export the inspections that a search finds, as a table."""
    product_id = station.product_id(name)
    search, headers = ((station.database, product_id, filters), attachment(f"{name}-inspections.{format}"))
    if format == "csv":
        return StreamingResponse(map(_csv_line, table_rows(*search)), media_type=CSV, headers=headers)
    if format == "xlsx":
        file, media_type = write_workbook(table_rows(*search)), XLSX
    else:
        file, media_type = write_parquet(*search), PARQUET
    return StreamingResponse(read_blocks(file), media_type=media_type, headers=headers)


@audit_router.get("/audit", response_model=AuditPage)
def audit_log(
    station: StationDep,
    text: Annotated[str, Query(description="part of who, address, kind or text")] = "",
    about: Subject = "",
    since: TimeQuery = "",
    until: TimeQuery = "",
    before: Annotated[int | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 50,
) -> Any:
    """List who did what, when and from where, the latest first: sign-ins good and bad, users, tokens,
    settings, versions, verdicts, deletions."""
    ends = {"since": parse_time(since) if since else None, "until": parse_time(until) if until else None}
    last_id = None if before is None else valid_id_or_zero(before)
    found = audit.search(station.database, text=text, about=about, **ends, before=last_id, limit=limit + 1)
    has_more = len(found) > limit
    return {"entries": found[:limit], "next": found[limit - 1]["id"] if has_more else None}


@page_router.get("/-/audit")
def audit_page(request: Request) -> Response:
    page = Page(request, "audit", next(iter(request.app.state.station.products), None))
    names = ("text", "about", "since", "until", "before")
    query = {name: value.strip() for name in names if (value := request.query_params.get(name, "")).strip()}
    error, log = "", dict[str, Any](entries=[], next=None)
    try:
        before = query.pop("before", "")
        if not before.isdecimal() and before:
            raise InputError("before: it is the number of a record")
        log = audit_log(page.station, **query, before=int(before[:20]) if before else None, limit=PER_PAGE)
    except InputError as invalid:
        error = str(invalid)
    older = f"?{urlencode({**query, 'before': log['next']})}" if log["next"] else None
    context = {
        "entries": log["entries"],
        "older": older,
        "kinds": [(subject, page.texts(f"audit.{subject}")) for subject in audit.SUBJECTS],
    }
    return page.render("audit", 422 if error else 200, error=error, **context)


def table_rows(database: Database, product_id: int, filters: Filters) -> Iterator[Sequence[Any]]:
    """Yield the header of a spreadsheet, then a row for each inspection."""
    yield COLUMNS
    for inspection in iterate_inspections(database, product_id, filters):
        yield [_text_cell(name, inspection[name]) for name in COLUMNS]


def write_parquet(database: Database, product_id: int, filters: Filters) -> IO[bytes]:
    """Write Parquet to a temporary file, whose position is its beginning; closing removes it."""
    require_installed("--format parquet", "pyarrow", extras="station")
    import pyarrow as pa
    import pyarrow.parquet as pq

    def column_type(name: str, field: FieldInfo) -> Any:
        type_name = "int32" if name in _INT32_COLUMNS else _PARQUET_TYPES.get(field.annotation, "string")
        return getattr(pa, type_name)()

    schema = pa.schema([(name, column_type(name, field)) for name, field in Inspection.model_fields.items()])
    file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by whoever reads it)
    rows = iterate_inspections(database, product_id, filters)
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, ROW_GROUP_SIZE)):
            columns = {name: [_json_cell(name, inspection[name]) for inspection in group] for name in COLUMNS}
            writer.write_table(pa.table(columns, schema))
    file.seek(0)
    return file


def write_workbook(rows: Iterable[Sequence[Any]]) -> IO[bytes]:
    """Write a workbook of one sheet to a temporary file, whose position is its beginning; closing removes it.
    rows: the header first; texts as `csv_cell` returns them, so that a spreadsheet computes none."""
    require_installed("--format xlsx", "openpyxl", extras="station")
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet("flawscope")
    for number, row in enumerate(rows):
        if number == MAX_SHEET_ROWS:
            sheet.append(["there are more: a sheet holds no more rows; take CSV"])
            break
        sheet.append([ILLEGAL_CHARACTERS_RE.sub("", cell) if isinstance(cell, str) else cell for cell in row])
    file = tempfile.TemporaryFile()  # noqa: SIM115 (who sends it closes it)
    book.save(file)
    file.seek(0)
    return file


def read_blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _json_cell(name: str, value: Any) -> Any:
    is_nested = name in ("regions", "part_pose", "found_parts") and value is not None
    return json.dumps(value) if is_nested else value


def _text_cell(name: str, value: Any) -> Any:
    return "" if value is None else csv_cell(_json_cell(name, value))


def _csv_line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()
