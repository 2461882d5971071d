"""Routes of records: the export of inspections as a table, and the audit, which admins alone see."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import IO, Annotated, Any, Literal, TypeVar
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from flawscope.artefact import files
from flawscope.errors import InputError
from flawscope_station.access import audit
from flawscope_station.access.roles import ADMIN
from flawscope_station.inspecting.capacity import Turns
from flawscope_station.store.inspection import Inspection, other_fields
from flawscope_station.store.records import parse_time, valid_id_or_zero
from flawscope_station.store.search import MAX_PAGE_SIZE, iterate_pages
from flawscope_station.web.api import Engineer, FiltersDep, api_router, attachment
from flawscope_station.web.components import AddressesDep, DatabaseDep, ProductId, RecordsDep
from flawscope_station.web.pages import Page, html_router

T = TypeVar("T")
R = TypeVar("R")
PER_PAGE = 100

router = api_router()
audit_router = api_router(prefix="/api/v1", role=ADMIN)
page_router = html_router(ADMIN)

Subject = Annotated[str, Query(description=f"one of {', '.join(audit.SUBJECTS)}; all where it is left out")]
TimeQuery = Annotated[str, Query(description="2026-11-22 or 2026-11-22T14:30:00Z")]
COLUMNS = (*Inspection.model_fields, "more")  # the last: what else the library says
MAX_SHEET_ROWS = 1_048_575  # one less than Excel's limit: a last row says that there are more
CSV = "text/csv"
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


@router.get("/export", response_class=Response, responses={200: {"content": {CSV: {}, XLSX: {}}}})
def export(
    name: str,
    product_id: ProductId,
    records: RecordsDep,
    filters: FiltersDep,
    person: Engineer,
    format: Literal["csv", "xlsx"] = "csv",
) -> Response:
    """Export the inspections that a search finds, as a table."""
    pages = iterate_pages(records.store.database, product_id, filters)
    headers, turns = attachment(f"{name}-inspections.{format}"), records.turns
    rows = _table_pages(pages)
    if format == "csv":
        blocks = in_turns(turns, rows, _csv_block)
        # refused before the answer begins, with the mark by which Excel knows UTF-8
        blocks = chain(["\ufeff" + next(blocks)], blocks)
        return StreamingResponse(blocks, media_type=CSV, headers=headers)
    return StreamingResponse(read_blocks(write_workbook(rows, turns)), media_type=XLSX, headers=headers)


@audit_router.get("/audit", response_model=AuditPage)
def audit_log(
    database: DatabaseDep,
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
    found = audit.search(database, text=text, about=about, **ends, before=last_id, limit=limit + 1)
    has_more = len(found) > limit
    return {"entries": found[:limit], "next": found[limit - 1]["id"] if has_more else None}


@page_router.get("/-/audit")
def audit_page(request: Request, addresses: AddressesDep, database: DatabaseDep) -> Response:
    page = Page(request, "audit", next(iter(addresses.products), None))
    names = ("text", "about", "since", "until", "before")
    query = {name: value.strip() for name in names if (value := request.query_params.get(name, "")).strip()}
    error, log = "", dict[str, Any](entries=[], next=None)
    try:
        before = query.pop("before", "")
        if not before.isdecimal() and before:
            raise InputError("before: it is the number of a record")
        log = audit_log(database, **query, before=int(before[:20]) if before else None, limit=PER_PAGE)
    except InputError as invalid:
        error = str(invalid)
    older = f"?{urlencode({**query, 'before': log['next']})}" if log["next"] else None
    context = {
        "entries": log["entries"],
        "older": older,
        "kinds": [(subject, page.texts(f"audit.{subject}")) for subject in audit.SUBJECTS],
    }
    return page.render("audit", 422 if error else 200, error=error, **context)


def in_turns(turns: Turns, items: Iterator[T], work: Callable[[T], R]) -> Iterator[R]:
    """Yield the results of `work`; each item is read and worked on in a turn of its own, so that a long
    export leaves room to others. BusyError before the first one."""
    is_first = True
    while True:
        with turns.take(patient=not is_first):
            item = next(items, None)
            if item is None:
                return
            result = work(item)
        is_first = False
        yield result


def _table_pages(pages: Iterator[list[dict[str, Any]]]) -> Iterator[list[Sequence[Any]]]:
    """Yield the header of a spreadsheet with the rows of the first page, then the rows of each page."""
    header: list[Sequence[Any]] = [COLUMNS]
    for page in pages:
        yield header + [[*map(_text_cell, _cells(inspection))] for inspection in page]
        header = []


def write_workbook(pages: Iterator[list[Sequence[Any]]], turns: Turns) -> IO[bytes]:
    """Write a workbook of one sheet to a temporary file, whose position is its beginning; closing removes it.
    BusyError where too many wait.

    Args:
        pages: rows, the header first; texts as `csv_cell` returns them, so that a spreadsheet computes none.
    """
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet("flawscope")
    left = MAX_SHEET_ROWS

    def append(page: list[Sequence[Any]]) -> int:
        for row in page[:left]:
            clean = (ILLEGAL_CHARACTERS_RE.sub("", cell) if isinstance(cell, str) else cell for cell in row)
            sheet.append(list(clean))
        return len(page)

    for count in in_turns(turns, pages, append):
        left -= count
        if left < 0:
            sheet.append(["there are more: a sheet holds no more rows; take CSV"])
            break
    file = tempfile.TemporaryFile()  # noqa: SIM115 (who sends it closes it)
    with turns.take(patient=True):
        book.save(file)
    file.seek(0)
    return file


def read_blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _cells(inspection: dict[str, Any]) -> list[Any]:
    """Return the values of the columns."""
    return [*map(inspection.get, Inspection.model_fields), other_fields(inspection) or None]


def _text_cell(value: Any) -> Any:
    is_nested = isinstance(value, dict | list)
    return "" if value is None else files.csv_cell(json.dumps(value) if is_nested else value)


def _csv_block(rows: list[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
