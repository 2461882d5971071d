"""The audit, for programs and as a page. Admins alone see it."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from flawscope.errors import InputError
from flawscope.station.access import audit
from flawscope.station.access.roles import ADMIN
from flawscope.station.store.records import holdable, microseconds
from flawscope.station.store.search import MOST
from flawscope.station.web import schemas
from flawscope.station.web.api import Here, routes
from flawscope.station.web.middleware import check_role
from flawscope.station.web.pages import Shown

PER_PAGE = 100

router = routes(prefix="/api/v1", role=ADMIN)
page = APIRouter(include_in_schema=False)

About = Annotated[str, Query(description=f"one of {', '.join(audit.ABOUT)}; all where it is left out")]
Time = Annotated[str, Query(description="2026-11-22 or 2026-11-22T14:30:00Z")]


@router.get("/audit", response_model=schemas.Audit)
def audit_log(
    station: Here,
    text: Annotated[str, Query(description="part of who, address, kind or text")] = "",
    about: About = "",
    since: Time = "",
    until: Time = "",
    before: Annotated[int | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
) -> Any:
    """Who did what, when and from where, the latest first: sign-ins good and bad, users, tokens, settings,
    versions, verdicts, deletions."""
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
