"""Routes of the reports of shifts, or of any time: counts, the worst pictures, and where defects lie."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse

from flawscope.errors import InputError
from flawscope.station.shifts import DAY, Shift, ended_shifts
from flawscope.station.shifts.reports import hourly_csv, hourly_rows, report_images, shift_message
from flawscope.station.station import Station
from flawscope.station.store.database import now
from flawscope.station.store.records import iso, parse_time
from flawscope.station.store.search import PeriodSummary, summarize_period
from flawscope.station.web import schemas
from flawscope.station.web.api import StationDep, api_router, attachment
from flawscope.station.web.pages import Page
from flawscope.station.web.records_api import CSV, XLSX, write_workbook
from flawscope.station.web.templates import DEFAULT_LANGUAGE, LANGUAGES, Texts, render_standalone, texts

MAX_REPORT_DAYS = 400

router = api_router()


@router.get("/shifts", response_model=list[schemas.Shift])
def shifts(name: str, station: StationDep) -> Any:
    """List the shifts that ended in the last days, the latest first; none where the settings name none."""
    station.product_id(name)
    return [shift.to_dict() for shift in ended_shifts(station.settings.shifts, now())[::-1]]


@router.get(
    "/shift-report",
    response_class=Response,
    responses={200: {"content": {"text/html": {}, CSV: {}, XLSX: {}, "application/json": {}}}},
)
def shift_report(
    name: str,
    request: Request,
    station: StationDep,
    since: Annotated[str, Query(description="2026-11-22T06:00:00Z")],
    until: Annotated[str, Query(description="2026-11-22T14:00:00Z")],
    format: Literal["html", "csv", "xlsx", "json"] = "html",
) -> Response:
    """Return what was inspected between two times: an HTML file with pictures, a table of its hours as CSV or
    for Excel, or the counts as the webhook gets them."""
    product_id, begin, end = station.product_id(name), parse_time(since), parse_time(until)
    if not begin < end <= begin + MAX_REPORT_DAYS * DAY:
        raise InputError(f"until must be later than since, by {MAX_REPORT_DAYS} days at most")
    found = summarize_period(station.store.database, product_id, begin, end)
    recent_shifts = ended_shifts(station.settings.shifts, now())
    shift_name = next((recent.name for recent in recent_shifts if recent[1:] == (begin, end)), "")
    shift = Shift(shift_name, begin, end)
    file = f"{name}-{iso(begin)[:10]}{shift_name and '-'}{shift_name}"
    if format == "csv":
        return Response(hourly_csv(found), media_type=CSV, headers=attachment(f"{file}.csv"))
    if format == "xlsx":
        content, headers = write_workbook(hourly_rows(found)).read(), attachment(f"{file}.xlsx")
        return Response(content, media_type=XLSX, headers=headers)
    if format == "json":
        return JSONResponse(shift_message(name, product_id, shift, found).data)
    drawings = report_images(station.renderer, product_id, found)
    document = render_report(station, Page(request, "trends").texts, name, shift, found, drawings)
    return Response(document, media_type="text/html", headers=attachment(f"{file}.html"))


def install_report_renderer(station: Station) -> None:
    """Give the station the function that renders the reports of its shifts."""
    if station.shifts is not None:
        station.shifts.render = lambda language, *given: render_report(
            station, texts(language if language in LANGUAGES else DEFAULT_LANGUAGE), *given
        )


def render_report(
    station: Station, words: Texts, product: str, shift: Shift, found: PeriodSummary, drawings: dict[str, Any]
) -> str:
    """Render a report as one HTML file."""
    settings = station.settings.shifts
    zone = None if settings is None else settings.tz

    def local(at: int) -> str:
        return datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M")

    inspections = station.store.inspections_by_number(station.product_id(product), set(found.worst))
    context = {"product": product, "shift": shift, "found": found, "drawn": drawings}
    return render_standalone("shift", words, **context, local=local, rows=inspections)
