"""Routes of the reports of shifts, or of any time: counts, the worst pictures, and where defects lie."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Annotated, Literal

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse

from flawscope import pages
from flawscope.errors import InputError
from flawscope.results import excel
from flawscope_station.settings.shifts import station_zone
from flawscope_station.shifts.reports import ReportImages, csv_text, hourly_rows, report_images, shift_data
from flawscope_station.shifts.shift import Shift, ended_shifts
from flawscope_station.store.database import now
from flawscope_station.store.local_days import DAY
from flawscope_station.store.records import Store, iso, parse_time
from flawscope_station.store.search import PeriodSummary, summarize_period
from flawscope_station.web import schemas
from flawscope_station.web.api import api_router, attachment
from flawscope_station.web.components import ProductId, RecordsDep, RendererDep, SettingsDep
from flawscope_station.web.export_api import CSV, XLSX
from flawscope_station.web.pages import Page
from flawscope_station.web.templates import PAGES

MAX_REPORT_DAYS = 400

router = api_router()


@router.get(
    "/shifts",
    response_model=list[schemas.Shift],
    responses={200: {"content": {"application/json": {}, CSV: {}}}},
)
def shifts(
    name: str,
    product_id: ProductId,
    records: RecordsDep,
    settings: SettingsDep,
    format: Literal["json", "csv"] = "json",
) -> Response | list[dict[str, str | int]]:
    """List the shifts of the last days that have ended, with their counts, the latest first.

    The list is empty where the settings name no shifts.
    """
    zone = station_zone(settings.shifts)
    found = list[dict[str, str | int]]()
    for shift in ended_shifts(settings.shifts, now())[::-1]:
        with records.turns.take():
            summary = summarize_period(records.store.database, product_id, shift.since, shift.until)
        found.append({**shift.to_dict(zone), **summary.counts})
    if format == "csv":
        rows: list[list[str | int]] = [[*schemas.Shift.model_fields]]
        rows += [[*shift_counts.values()] for shift_counts in found]
        return Response(csv_text(rows), media_type=CSV, headers=attachment(f"{name}-shifts.csv"))
    return found


@router.get(
    "/shift-report",
    response_class=Response,
    responses={200: {"content": {"text/html": {}, CSV: {}, XLSX: {}, "application/json": {}}}},
)
def shift_report(
    name: str,
    product_id: ProductId,
    request: Request,
    records: RecordsDep,
    renderer: RendererDep,
    settings: SettingsDep,
    since: Annotated[str, Query(description="2026-11-22T06:00:00Z")],
    until: Annotated[str, Query(description="2026-11-22T14:00:00Z")],
    format: Literal["html", "csv", "xlsx", "json"] = "html",
) -> Response:
    """Report the inspections between two times.

    It is an HTML file with pictures, a table of hours as CSV or for Excel, or the counts as JSON. Times are
    by the clocks of the zone of `shifts`, also those without an offset in the request.
    """
    zone = station_zone(settings.shifts)
    begin, end = parse_time(since, zone), parse_time(until, zone)
    if not begin < end <= begin + MAX_REPORT_DAYS * DAY:
        raise InputError(f"until must be later than since, by {MAX_REPORT_DAYS} days at most")
    with records.turns.take():
        found = summarize_period(records.store.database, product_id, begin, end)
    recent_shifts = ended_shifts(settings.shifts, now())
    same_times = (recent.name for recent in recent_shifts if (recent.since, recent.until) == (begin, end))
    shift_name = next(same_times, "")
    shift = Shift(shift_name, begin, end)
    file = f"{name}-{iso(begin)[:10]}{shift_name and '-'}{shift_name}"
    if format == "csv":
        return Response(csv_text(hourly_rows(found, zone)), media_type=CSV, headers=attachment(f"{file}.csv"))
    if format == "xlsx":
        with records.turns.take():
            workbook = excel.encode_workbook(hourly_rows(found, zone))
        return Response(workbook, media_type=XLSX, headers=attachment(f"{file}.xlsx"))
    if format == "json":
        return JSONResponse(shift_data(name, shift, found, zone))
    drawings = report_images(renderer, product_id, found)
    words = Page(request, "trends").texts
    document = _render_report(records.store, zone, words, name, product_id, shift, found, drawings)
    return Response(document, media_type="text/html", headers=attachment(f"{file}.html"))


def _render_report(
    store: Store,
    zone: tzinfo | None,
    words: pages.Texts,
    product: str,
    product_id: int,
    shift: Shift,
    found: PeriodSummary,
    drawings: ReportImages,
) -> str:
    """Render a report as an HTML file."""

    def local(at: int) -> str:
        return datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M")

    inspections = store.inspections_by_number(product_id, set(found.worst))
    context = {"product": product, "shift": shift, "found": found, "drawn": drawings}
    return PAGES.render_standalone("shift", words, **context, local=local, rows=inspections)
