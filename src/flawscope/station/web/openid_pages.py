"""Pages that lead to a company's sign-in and back. They are there where the setting `openid` names one."""

from __future__ import annotations

import html
import secrets

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from flawscope.errors import InputError
from flawscope.station.access.openid import Provider, ProviderError
from flawscope.station.settings.openid import OpenId
from flawscope.station.station import Station
from flawscope.station.web.middleware import COMPANY, local_path, set_cookie
from flawscope.station.web.pages import Shown

MOST = 600  # seconds for the sign-in at the provider


def company_pages(station: Station, settings: OpenId) -> Starlette:
    """Make the application below `COMPANY`. Its own cookie, which a provider's redirect brings along, keeps
    state, nonce and code verifier."""
    provider, access = Provider(settings), station.access

    async def begin(request: Request) -> Response:
        request.session["next"] = local_path(request.query_params.get("next"))
        try:
            return await provider.begin(request, f"{str(request.base_url).rstrip('/')}{COMPANY}/done")
        except ProviderError as error:
            return await refused(request, "signin.company_failed", 502, str(error))

    async def done(request: Request) -> Response:
        wanted = local_path(request.session.pop("next", "/"))
        try:
            member = await provider.end(request)
        except ProviderError as error:
            return await refused(request, "signin.company_failed", 401, str(error))
        if not member.role:
            return await refused(
                request, "signin.company_group", 403, f"{member.name} is in none of the groups"
            )
        try:
            session = await run_in_threadpool(access.sign_in_member, member.subject, member.name, member.role)
        except InputError as error:
            return await refused(request, "signin.company_failed", 403, str(error))
        # no redirect: a browser that comes from another site would not bring the station's cookie along
        refresh = f'<meta http-equiv="refresh" content="0;url={html.escape(wanted)}">'
        answer = HTMLResponse(f"<!doctype html><title>flawscope</title>{refresh}")
        set_cookie(answer, request, access, session)
        return answer

    async def refused(request: Request, text: str, status: int, why: str) -> Response:
        await run_in_threadpool(access.note_refused, why)
        asked = Shown(request, "sign-in")
        error = asked.texts(text, why=why)
        return asked.page_of("sign-in", status, next="/", error=error, name="")

    state = Middleware(
        SessionMiddleware,
        secret_key=secrets.token_urlsafe(32),
        session_cookie=f"{access.cookie}_company",
        max_age=MOST,
        path=COMPANY,
    )
    made = Starlette(routes=[Route("/", begin), Route("/done", done)], middleware=[state])
    made.state.station = station
    return made
