"""Pages to sign in and out, and to choose a language.

Where the setting `openid` names a company's provider, people sign in with a company's account: OpenID
Connect's authorization code flow with PKCE, by Authlib, which makes and checks state, nonce, code verifier,
and the ID token's signature and claims. A new key of the provider is read when it first signs a token.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from flawscope.errors import FlawscopeError, InputError, one_line_message
from flawscope_station.access.authenticator import Access
from flawscope_station.access.passwords import SignInError
from flawscope_station.access.roles import ROLES
from flawscope_station.settings.openid import OpenIdSettings
from flawscope_station.settings.proxies import find_proxy
from flawscope_station.settings.values import secret, tls_context
from flawscope_station.web.components import AccessDep
from flawscope_station.web.middleware import COMPANY_PATH, client_ip, delete_cookie, local_path, set_cookie
from flawscope_station.web.pages import Page
from flawscope_station.web.templates import PAGES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

SIGN_IN_SECONDS = 600  # at the provider
PROVIDER_TIMEOUT = 10.0  # seconds until the provider must answer
LEEWAY = 60  # seconds that the provider's clock may be off
_PUBLIC_KEY_ALGORITHMS = ("RS", "PS", "ES", "Ed")  # prefixes; with others, who can verify can also sign
YEAR = 365 * 86400  # seconds

page_router = APIRouter(include_in_schema=False)


@page_router.get("/sign-in")
def sign_in_page(request: Request, next: str = "/") -> Response:
    """Show the page to sign in; a person who is signed in is led on."""
    page = Page(request, "sign-in")
    if page.person is not None:
        return RedirectResponse(local_path(next), 303)
    return page.render("sign-in", next=local_path(next), error="", name="")


@page_router.post("/sign-in")
def sign_in(
    request: Request, access: AccessDep, name: str = Form(""), password: str = Form(""), next: str = Form("/")
) -> Response:
    """Sign a person in with name and password, else show the page with the reason."""
    page = Page(request, "sign-in")
    try:
        cookie = access.sign_in(name, password, client_ip(request))
    except SignInError as error:
        t = page.texts
        wait = error.wait
        message = t.count("signin.often", wait) if wait else t("signin.wrong")
        status = 429 if wait else 401
        path = local_path(next)
        response = page.render("sign-in", status, next=path, error=message, name=name)
        if wait:
            response.headers["Retry-After"] = str(wait)
        return response
    response = RedirectResponse(local_path(next), 303)
    set_cookie(response, request, access, cookie)
    return response


@page_router.post("/sign-out")
def sign_out(request: Request, access: AccessDep) -> Response:
    """End the session, and lead to the page to sign in."""
    access.sign_out(request)
    response = RedirectResponse("/sign-in", 303)
    delete_cookie(response, request, access)
    return response


@page_router.post("/language")
def language(request: Request, language: str = Form(""), next: str = Form("/")) -> Response:
    """Set the language of the pages.

    No secret and no right depends on it: whoever sees a page may choose.
    """
    response = RedirectResponse(local_path(next), 303)
    if language in PAGES.texts:
        secure = request.url.scheme == "https"
        response.set_cookie("language", language, YEAR, secure=secure, httponly=True, samesite="lax")
    return response


# ---------------------------------------------------------------------------------------- a company's account


class ProviderError(FlawscopeError):
    """The provider does not answer, or its answer is not valid."""


@dataclass(frozen=True)
class CompanyMember:
    """Member of a company, as its provider describes the account.

    Attributes:
        subject: Issuer and ID of the account.
        name: Name of the person.
        role: Highest role of the member's groups; "" where none has a role.
    """

    subject: str
    name: str
    role: str


class OpenIdProvider:
    """OpenID Connect provider. Methods raise ProviderError."""

    def __init__(self, settings: OpenIdSettings):
        from authlib.integrations.starlette_client import OAuth  # of an extra

        self._settings = settings
        try:
            certificates = tls_context(settings.ca_file)
        except InputError as error:
            raise InputError(f"openid: ca_file: {error}") from None
        file = settings.secret_file
        client_secret = None if file is None else secret(file, "openid: secret_file")
        self._client: Any = OAuth().register(
            "company",
            client_id=settings.client,
            client_secret=client_secret,
            server_metadata_url=f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": settings.scope,
                "code_challenge_method": "S256",
                "verify": certificates,
                "trust_env": False,
                "proxy": find_proxy(settings.issuer),
                "timeout": PROVIDER_TIMEOUT,
            },
        )

    async def redirect(self, request: Request, return_url: str) -> Response:
        """Return the redirect to the provider, which leads back to `return_url`; the session keeps state."""
        try:
            await self._load_metadata()
            response: Response = await self._client.authorize_redirect(request, return_url)
        except Exception as error:  # whatever another side sends
            raise _to_provider_error(error) from error
        return response

    async def read_member(self, request: Request) -> CompanyMember:
        """Return the member who has signed in at the provider."""
        settings = self._settings
        options = {
            "iss": {"essential": True, "value": settings.issuer},
            "aud": {"essential": True, "value": settings.client},
        }
        try:
            await self._load_metadata()
            tokens = await self._client.authorize_access_token(request, claims_options=options, leeway=LEEWAY)
            claims = tokens["userinfo"]
            groups = claims.get(settings.group_claim) or ()
            groups = [groups] if isinstance(groups, str) else list(groups)
            subject = f"{settings.issuer} {claims['sub']}"
            name = str(claims.get(settings.name_claim) or "")
        except Exception as error:  # whatever another side sends
            raise _to_provider_error(error) from error
        roles = [settings.groups[group] for group in groups if group in settings.groups]
        return CompanyMember(subject, name, max(roles, key=ROLES.index, default=""))

    async def _load_metadata(self) -> None:
        """Read the provider's metadata once.

        Raises:
            InputError: its issuer is not that of the settings.
        """
        metadata = await self._client.load_server_metadata()
        if metadata.get("issuer") != self._settings.issuer:
            metadata.pop("_loaded_at", None)
            raise InputError(f"it calls itself {metadata.get('issuer')!r:.100}: write that as `issuer`")
        allowed = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        allowed = [algorithm for algorithm in allowed if algorithm.startswith(_PUBLIC_KEY_ALGORITHMS)]
        metadata["id_token_signing_alg_values_supported"] = allowed


def _to_provider_error(error: Exception) -> ProviderError:
    return ProviderError(one_line_message(error) or type(error).__name__)


def company_sign_in_app(components: Mapping[type, object], settings: OpenIdSettings) -> ASGIApp:
    """Make the pages below `COMPANY_PATH` that lead to a company's sign-in and back.

    A cookie of their own, which comes along with a provider's redirect, keeps state, nonce and code verifier.
    """
    from starlette.middleware.sessions import SessionMiddleware  # needs itsdangerous, of an extra

    access = components[Access]
    assert isinstance(access, Access)
    pages = _CompanyPages(OpenIdProvider(settings), access)
    app = Starlette(routes=[Route("/", pages.begin), Route("/done", pages.finish)])
    app.state.components = components
    cookie = f"{access.cookie}_company"
    key = secrets.token_urlsafe(32)

    async def app_with_session(scope: Scope, receive: Receive, send: Send) -> None:
        is_secure = scope["scheme"] == "https"
        inner = SessionMiddleware(app, key, cookie, SIGN_IN_SECONDS, path=COMPANY_PATH, https_only=is_secure)
        await inner(scope, receive, send)

    return app_with_session


class _CompanyPages:
    """Pages that lead to a company's sign-in and back."""

    def __init__(self, provider: OpenIdProvider, access: Access) -> None:
        self.provider = provider
        self.access = access

    async def begin(self, request: Request) -> Response:
        request.session["next"] = local_path(request.query_params.get("next"))
        try:
            base_url = str(request.base_url).rstrip("/")
            return await self.provider.redirect(request, f"{base_url}{COMPANY_PATH}/done")
        except ProviderError as error:
            try:
                # so that a provider that is away cannot be tried endlessly
                self.access.count_member_try(client_ip(request))
            except SignInError as too_often:
                return self._wait_page(request, too_often)
            return await self._refusal_page(request, "signin.company_failed", 502, str(error))

    async def finish(self, request: Request) -> Response:
        next_path = local_path(request.session.pop("next", "/"))
        address = client_ip(request)
        try:
            self.access.count_member_try(address)
        except SignInError as too_often:
            return self._wait_page(request, too_often)
        try:
            member = await self.provider.read_member(request)
        except ProviderError as error:
            return await self._refusal_page(request, "signin.company_failed", 401, str(error))
        if not member.role:
            reason = f"{member.name} is in none of the groups"
            return await self._refusal_page(request, "signin.company_group", 403, reason)
        try:
            session = await run_in_threadpool(
                self.access.sign_in_member, member.subject, member.name, member.role, address
            )
        except InputError as error:
            return await self._refusal_page(request, "signin.company_failed", 403, str(error))
        # no redirect: a browser that comes from another site would not bring the station's cookie along
        refresh = f'<meta http-equiv="refresh" content="0;url={html.escape(next_path)}">'
        response = HTMLResponse(f"<!doctype html><title>flawscope</title>{refresh}")
        set_cookie(response, request, self.access, session)
        return response

    def _wait_page(self, request: Request, too_often: SignInError) -> Response:
        """Make the page that says how long to wait. It writes nothing: anybody can ask for it."""
        page = Page(request, "sign-in")
        text = page.texts.count("signin.often", too_often.wait)
        response = page.render("sign-in", 429, next="/", error=text, name="")
        response.headers["Retry-After"] = str(too_often.wait)
        return response

    async def _refusal_page(self, request: Request, text_key: str, status: int, reason: str) -> Response:
        await run_in_threadpool(self.access.note_refused_member, reason)
        page = Page(request, "sign-in")
        error = page.texts(text_key, why=reason)
        return page.render("sign-in", status, next="/", error=error, name="")
