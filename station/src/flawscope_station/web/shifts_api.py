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

MAX_REPORT_DAYS = 400  # longest time of a report

router = api_router()


@router.get(
    "/shifts",
    response_model=list[schemas.Shift],
    responses={200: {"content": {"application/json": {}, CSV: {}}}},
    summary="Ended shifts",
)
def shifts(
    name: str,
    product_id: ProductId,
    records: RecordsDep,
    settings: SettingsDep,
    format: Literal["json", "csv"] = "json",
) -> Response | list[dict[str, str | int]]:
    """List the ended shifts of the last days with their counts, the latest first.

    The list is empty where the settings name no shifts.
    """
    zone = station_zone(settings.shifts)
    shift_facts = list[dict[str, str | int]]()
    for shift in reversed(ended_shifts(settings.shifts, now())):
        with records.turns.take():
            summary = summarize_period(records.store.database, product_id, shift.since, shift.until)
        shift_facts.append({**shift.to_dict(zone), **summary.counts})
    if format == "csv":
        rows: list[list[str | int]] = [[*schemas.Shift.model_fields]]
        rows += [[*facts.values()] for facts in shift_facts]
        return Response(csv_text(rows), media_type=CSV, headers=attachment(f"{name}-shifts.csv"))
    return shift_facts


@router.get(
    "/shift-report",
    response_class=Response,
    responses={200: {"content": {"text/html": {}, CSV: {}, XLSX: {}, "application/json": {}}}},
    summary="Report of a shift",
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

    The report is an HTML file with pictures, a table of hours as CSV or for Excel, or the counts as JSON. Its
    times are in the time zone of `shifts`; so are times in the request that have no offset.
    """
    zone = station_zone(settings.shifts)
    begin = parse_time(since, zone)
    end = parse_time(until, zone)
    if not begin < end <= begin + MAX_REPORT_DAYS * DAY:
        raise InputError(f"until must be later than since, by {MAX_REPORT_DAYS} days at most")
    with records.turns.take():
        summary = summarize_period(records.store.database, product_id, begin, end)
    shift_name = ""  # stays empty if the times are not those of a shift
    for ended_shift in ended_shifts(settings.shifts, now()):
        if (ended_shift.since, ended_shift.until) == (begin, end):
            shift_name = ended_shift.name
            break
    shift = Shift(shift_name, begin, end)
    day = iso(begin)[: len("2026-11-22")]
    stem = f"{name}-{day}-{shift_name}" if shift_name else f"{name}-{day}"
    if format == "csv":
        table = csv_text(hourly_rows(summary, zone))
        return Response(table, media_type=CSV, headers=attachment(f"{stem}.csv"))
    if format == "xlsx":
        with records.turns.take():
            workbook = excel.encode_workbook(hourly_rows(summary, zone))
        return Response(workbook, media_type=XLSX, headers=attachment(f"{stem}.xlsx"))
    if format == "json":
        return JSONResponse(shift_data(name, shift, summary, zone))
    images = report_images(renderer, product_id, summary)
    texts = Page(request, "trends").texts
    document = _render_report(records.store, zone, texts, name, product_id, shift, summary, images)
    return Response(document, media_type="text/html", headers=attachment(f"{stem}.html"))


def _render_report(
    store: Store,
    zone: tzinfo | None,
    texts: pages.Texts,
    product: str,
    product_id: int,
    shift: Shift,
    summary: PeriodSummary,
    images: ReportImages,
) -> str:
    """Render a report as an HTML file.

    Args:
        store: Records of inspections.
        zone: Time zone of the times; None: this machine's.
        texts: Texts in the language of the report.
        product: Name of the product.
        product_id: Number of the product.
        shift: Name, beginning and end of the reported time.
        summary: Counts of that time.
        images: Pictures of the report.
    """

    def local_time(microseconds: int) -> str:
        moment = datetime.fromtimestamp(microseconds / 1e6, UTC)
        return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M")

    return PAGES.render_standalone(
        "shift",
        texts,
        product=product,
        shift=shift,
        found=summary,
        drawn=images,
        local=local_time,
        rows=store.inspections_by_number(product_id, set(summary.worst)),
    )
