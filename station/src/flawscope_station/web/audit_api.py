"""Audit events over the API and as a page, which admins alone see."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from flawscope.errors import InputError
from flawscope_station.access import audit
from flawscope_station.access.roles import ADMIN
from flawscope_station.settings.shifts import station_zone
from flawscope_station.store.records import parse_time, valid_id_or_zero
from flawscope_station.store.search import MAX_PAGE_SIZE
from flawscope_station.web.api import api_router
from flawscope_station.web.components import AddressesDep, DatabaseDep, SettingsDep
from flawscope_station.web.pages import Page, html_router

PER_PAGE = 100  # events of a page
MAX_DIGITS = 20  # digits of a record's number that are read; the store refuses numbers that are too large

router = api_router(prefix="/api/v1", role=ADMIN)
page_router = html_router(ADMIN)

Subject = Annotated[
    str, Query(description=f"subject of the events: {', '.join(audit.SUBJECTS)}; left out: all")
]
TimeQuery = Annotated[str, Query(description="2026-11-22 or 2026-11-22T14:30:00Z")]


class AuditPage(TypedDict):
    """Page of audit events, the latest first."""

    entries: list[audit.AuditEvent]
    next: Annotated[int | None, Field(description="`before` of the next page; null: there is none")]


@router.get("/audit", summary="Audit events")
def audit_log(
    database: DatabaseDep,
    settings: SettingsDep,
    text: Annotated[str, Query(description="text to find in the events: person, address, kind or text")] = "",
    about: Subject = "",
    since: TimeQuery = "",
    until: TimeQuery = "",
    before: Annotated[int | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 50,
) -> AuditPage:
    """List audit events, the latest first: who did what, when and from where.

    They are sign-ins, successful or not, users, tokens, settings, versions, verdicts and deletions.
    """
    zone = station_zone(settings.shifts)
    begin = parse_time(since, zone) if since else None
    end = parse_time(until, zone) if until else None
    last_id = None if before is None else valid_id_or_zero(before)
    # one event more than the page has: if it is there, there is another page
    events = audit.search(
        database, text=text, about=about, since=begin, until=end, before=last_id, limit=limit + 1
    )
    has_next_page = len(events) > limit
    next_before = events[limit - 1]["id"] if has_next_page else None
    return {"entries": events[:limit], "next": next_before}


@page_router.get("/-/audit")
def audit_page(
    request: Request, addresses: AddressesDep, database: DatabaseDep, settings: SettingsDep
) -> Response:
    """Show a page of the audit events that match the filters in the query."""
    first_product = next(iter(addresses.products), None)  # for the menu
    page = Page(request, "audit", first_product)
    query = {}
    for name in ("text", "about", "since", "until"):
        text = request.query_params.get(name, "").strip()
        if text:
            query[name] = text
    before = request.query_params.get("before", "").strip()
    error = ""
    log = AuditPage(entries=[], next=None)
    try:
        if before and not before.isdecimal():
            raise InputError("before: it is the number of a record")
        before_number = int(before[:MAX_DIGITS]) if before else None  # no record's number is longer
        log = audit_log(database, settings, **query, before=before_number, limit=PER_PAGE)
    except InputError as filter_error:
        error = str(filter_error)
    older_query: dict[str, object] = {**query, "before": log["next"]}
    older_url = f"?{urlencode(older_query)}" if log["next"] else None
    kinds = [(subject, page.texts(f"audit.{subject}")) for subject in audit.SUBJECTS]
    status = 422 if error else 200
    return page.render("audit", status, error=error, entries=log["entries"], older=older_url, kinds=kinds)
