"""Pages to sign in and out, and to choose a language; with a company's account where the setting `openid`
names its provider.

That is OpenID Connect's authorization code flow with PKCE, by Authlib, which makes and checks state, nonce,
code verifier, and the ID token's signature and claims. Keys of the provider are read again where one is new.
"""

from __future__ import annotations

import html
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.station.access.roles import ROLES
from flawscope.station.access.sign_in import SignInError
from flawscope.station.settings.openid import OpenId
from flawscope.station.settings.values import secret, trusting
from flawscope.station.station import Station
from flawscope.station.web.middleware import COMPANY, address_of, drop_cookie, local_path, set_cookie
from flawscope.station.web.pages import Shown
from flawscope.station.web.templates import LANGUAGES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MOST = 600  # seconds for the sign-in at the provider
PATIENCE = 10.0  # seconds that the provider may take for an answer
LEEWAY = 60  # seconds that its clock may be off
_PUBLIC = ("RS", "PS", "ES", "Ed")  # signatures whose key is no secret: nobody else can make one
YEAR = 365 * 86400  # seconds for which the language is kept

page = APIRouter(include_in_schema=False)


@page.get("/sign-in")
def sign_in_page(request: Request, next: str = "/") -> Response:
    asked = Shown(request, "sign-in")
    if asked.person is not None:
        return RedirectResponse(local_path(next), 303)
    return asked.page_of("sign-in", next=local_path(next), error="", name="")


@page.post("/sign-in")
def sign_in(
    request: Request, name: str = Form(""), password: str = Form(""), next: str = Form("/")
) -> Response:
    asked = Shown(request, "sign-in")
    access = asked.station.access
    try:
        cookie = access.sign_in(name, password, address_of(request))
    except SignInError as error:
        t = asked.texts
        often = error.wait
        text = t("signin.often", seconds=often) if often else t("signin.wrong")
        answer = asked.page_of("sign-in", 429 if often else 401, next=local_path(next), error=text, name=name)
        if often:
            answer.headers["Retry-After"] = str(often)
        return answer
    answer = RedirectResponse(local_path(next), 303)
    set_cookie(answer, request, access, cookie)
    return answer


@page.post("/sign-out")
def sign_out(request: Request) -> Response:
    access = Shown(request, "sign-in").station.access
    access.sign_out(request)
    answer = RedirectResponse("/sign-in", 303)
    drop_cookie(answer, request, access)
    return answer


@page.post("/language")
def language(request: Request, language: str = Form(""), next: str = Form("/")) -> Response:
    """Set the language. No secret and no right depends on it: whoever sees a page may choose."""
    answer = RedirectResponse(local_path(next), 303)
    if language in LANGUAGES:
        secure = request.url.scheme == "https"
        answer.set_cookie("language", language, max_age=YEAR, secure=secure, httponly=True, samesite="lax")
    return answer


# ---------------------------------------------------------------------------------------- a company's account


class ProviderError(FlawscopeError):
    """The provider does not answer, or its answer is not valid."""


@dataclass(frozen=True)
class Member:
    """A company's member, as the provider says.

    subject: issuer and ID of the account.
    role: "": no group of the member has one.
    """

    subject: str
    name: str
    role: str


class Provider:
    """An OpenID Connect provider. Methods raise ProviderError."""

    def __init__(self, settings: OpenId):
        from authlib.integrations.starlette_client import OAuth  # of an extra

        self._settings = settings
        try:
            trusted = trusting(settings.ca_file)
        except InputError as error:
            raise InputError(f"openid: ca_file: {error}") from None
        key = None if settings.secret_file is None else secret(settings.secret_file, "openid: secret_file")
        self._client: Any = OAuth().register(
            "company",
            client_id=settings.client,
            client_secret=key,
            server_metadata_url=f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": settings.scope,
                "code_challenge_method": "S256",
                "verify": trusted,
                "timeout": PATIENCE,
            },
        )

    async def begin(self, request: Request, back: str) -> Response:
        """Redirect to the provider, which leads to the address `back`. The request's session keeps state."""
        try:
            await self._load()
            answer: Response = await self._client.authorize_redirect(request, back)
        except Exception as error:  # whatever another side sends
            raise _failed(error) from error
        return answer

    async def end(self, request: Request) -> Member:
        """Return who signed in."""
        settings = self._settings
        options = {
            "iss": {"essential": True, "value": settings.issuer},
            "aud": {"essential": True, "value": settings.client},
        }
        try:
            await self._load()
            told = await self._client.authorize_access_token(request, claims_options=options, leeway=LEEWAY)
            claims = told["userinfo"]
            groups = claims.get(settings.group_claim) or ()
            groups = [groups] if isinstance(groups, str) else list(groups)
            subject, name = f"{settings.issuer} {claims['sub']}", str(claims.get(settings.name_claim) or "")
        except Exception as error:  # whatever another side sends
            raise _failed(error) from error
        roles = [settings.groups[one] for one in groups if one in settings.groups]
        return Member(subject, name, max(roles, key=ROLES.index, default=""))

    async def _load(self) -> None:
        """Read what the provider says of itself, once, and check that it is the one of the settings."""
        told = await self._client.load_server_metadata()
        if told.get("issuer") != self._settings.issuer:
            told.pop("_loaded_at", None)
            raise InputError(f"it calls itself {told.get('issuer')!r:.100}: write that as `issuer`")
        allowed = told.get("id_token_signing_alg_values_supported") or ["RS256"]
        told["id_token_signing_alg_values_supported"] = [one for one in allowed if one.startswith(_PUBLIC)]


def _failed(error: Exception) -> ProviderError:
    return ProviderError(one_line(error) or type(error).__name__)


def company_pages(station: Station, settings: OpenId) -> ASGIApp:
    """Make the pages below `COMPANY` that lead to a company's sign-in and back. Their own cookie, which a
    provider's redirect brings along, keeps state, nonce and code verifier."""
    from starlette.middleware.sessions import SessionMiddleware  # needs itsdangerous, of an extra

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
        await run_in_threadpool(access.note_refused_member, why)
        asked = Shown(request, "sign-in")
        error = asked.texts(text, why=why)
        return asked.page_of("sign-in", status, next="/", error=error, name="")

    made = Starlette(routes=[Route("/", begin), Route("/done", done)])
    made.state.station = station
    cookie, key = f"{access.cookie}_company", secrets.token_urlsafe(32)

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        is_secure = scope["scheme"] == "https"
        kept = SessionMiddleware(made, key, cookie, MOST, path=COMPANY, https_only=is_secure)
        await kept(scope, receive, send)

    return with_state
