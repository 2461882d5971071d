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
from flawscope.station.store.parts import part_of, search_parts
from flawscope.station.store.records import holdable, microseconds
from flawscope.station.store.search import MOST, Filters, every
from flawscope.station.web import schemas
from flawscope.station.web.api import Engineer, Here, Wanted, attachment, routes
from flawscope.station.web.pages import Shown, pages_for

PER_PAGE = 100

router = routes()
audits = routes(prefix="/api/v1", role=ADMIN)
page = pages_for(ADMIN)

About = Annotated[str, Query(description=f"one of {', '.join(audit.SUBJECTS)}; all where it is left out")]
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
MOST_ROWS = 1_048_575  # of a sheet, less one that says that there are more
CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
BLOCK = 1 << 20


class Noted(BaseModel):
    """Event of the audit. who: user, token, `command line`, `station`, or empty where nobody is known.
    address: of the request's sender."""

    id: int
    at: str
    kind: str
    who: str
    address: str | None
    product: str | None
    text: str


class Audit(BaseModel):
    entries: list[Noted]
    next: int | None = Field(description="`before` of the next page; null: there is none")


@router.get("/parts", response_model=schemas.Parts)
def find_parts(
    name: str,
    station: Here,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
    cursor: Annotated[str, Query(description="`next` of the page before")] = "",
    part: Annotated[str, Query(description="its number")] = "",
    decision: Literal["", "good", "anomalous", "incomplete", "open"] = "",
) -> Any:
    """List parts that are seen in several views, the newest first. `open`: not decided yet."""
    here = station.database, station.product_id(name)
    if "\0" in part:
        raise InputError("part holds a character that no number has")
    found, more = search_parts(*here, part=part, decision=decision, cursor=cursor, limit=limit)
    return {"parts": found, "next": more}


@router.get("/parts/{number}", response_model=schemas.WholePart)
def one_part(name: str, number: int, station: Here) -> Any:
    """Return a part with its views' inspections, by its id."""
    return part_of(station.database, station.product_id(name), holdable(number))


@router.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {CSV: {}, PARQUET: {}, XLSX: {}}}},
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
    here, headers = (station.database, product_id, wanted), attachment(f"{name}-inspections.{format}")
    if format == "csv":
        return StreamingResponse(map(_line, rows(*here)), media_type=CSV, headers=headers)
    if format == "xlsx":
        return StreamingResponse(blocks(workbook(rows(*here))), media_type=XLSX, headers=headers)
    return StreamingResponse(blocks(parquet(*here)), media_type=PARQUET, headers=headers)


@audits.get("/audit", response_model=Audit)
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
        "kinds": [(one, asked.texts(f"audit.{one}")) for one in audit.SUBJECTS],
    }
    return asked.page_of("audit", 422 if error else 200, error=error, **more)


def rows(database: Database, product_id: int, filters: Filters) -> Iterator[Sequence[Any]]:
    """Rows for a spreadsheet: the header, then one for each inspection."""
    yield COLUMNS
    for one in every(database, product_id, filters):
        yield [_cell(name, one[name]) for name in COLUMNS]


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
