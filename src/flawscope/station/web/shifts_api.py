"""Routes of the reports of shifts, or of any time: counts, the worst pictures, and where defects lie."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse

from flawscope.errors import InputError
from flawscope.station.shifts import DAY, Shift, ended
from flawscope.station.shifts.reports import images, message, rows, table
from flawscope.station.station import Station
from flawscope.station.store.database import now
from flawscope.station.store.records import iso, microseconds
from flawscope.station.store.search import Summary, summary
from flawscope.station.web import schemas
from flawscope.station.web.api import Here, attachment, routes
from flawscope.station.web.pages import Shown
from flawscope.station.web.records_api import CSV, XLSX, workbook
from flawscope.station.web.templates import DEFAULT, LANGUAGES, Texts, standalone, texts

MOST = 400  # days that a report is of

router = routes()


@router.get("/shifts", response_model=list[schemas.Shift])
def shifts(name: str, station: Here) -> Any:
    """List the shifts that ended in the last days, the latest first; none where the settings name none."""
    station.product_id(name)
    return [one.to_dict() for one in ended(station.settings.shifts, now())[::-1]]


@router.get(
    "/shift-report",
    response_class=Response,
    responses={200: {"content": {"text/html": {}, CSV: {}, XLSX: {}, "application/json": {}}}},
)
def shift_report(
    name: str,
    request: Request,
    station: Here,
    since: Annotated[str, Query(description="2026-11-22T06:00:00Z")],
    until: Annotated[str, Query(description="2026-11-22T14:00:00Z")],
    format: Literal["html", "csv", "xlsx", "json"] = "html",
) -> Response:
    """Return what was inspected between two times: an HTML file with pictures, a table of its hours as CSV or
    for Excel, or the counts as the webhook gets them."""
    number, begin, end = station.product_id(name), microseconds(since), microseconds(until)
    if not begin < end <= begin + MOST * DAY:
        raise InputError(f"until must be later than since, by {MOST} days at most")
    found = summary(station.store.database, number, begin, end)
    known = ended(station.settings.shifts, now())
    called = next((one.name for one in known if one[1:] == (begin, end)), "")
    shift = Shift(called, begin, end)
    file = f"{name}-{iso(begin)[:10]}{called and '-'}{called}"
    if format == "csv":
        return Response(table(found), media_type=CSV, headers=attachment(f"{file}.csv"))
    if format == "xlsx":
        made, headers = workbook(rows(found)).read(), attachment(f"{file}.xlsx")
        return Response(made, media_type=XLSX, headers=headers)
    if format == "json":
        return JSONResponse(message(name, number, shift, found).data)
    drawn = images(station.shown, number, found)
    page = page_of(station, Shown(request, "trends").texts, name, shift, found, drawn)
    return Response(page, media_type="text/html", headers=attachment(f"{file}.html"))


def render_with(station: Station) -> None:
    """Let the station write reports of its shifts by itself."""
    if station.shifts is not None:
        station.shifts.render = lambda language, *given: page_of(
            station, texts(language if language in LANGUAGES else DEFAULT), *given
        )


def page_of(
    station: Station, words: Texts, product: str, shift: Shift, found: Summary, drawn: dict[str, Any]
) -> str:
    """The report as HTML, in one file."""
    settings = station.settings.shifts
    zone = None if settings is None else settings.tz

    def local(at: int) -> str:
        return datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M")

    inspections = station.store.several(station.product_id(product), set(found.worst))
    given = {"product": product, "shift": shift, "found": found, "drawn": drawn}
    return standalone("shift", words, **given, local=local, rows=inspections)
