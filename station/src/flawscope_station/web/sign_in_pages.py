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
from flawscope_station.access.roles import ROLES
from flawscope_station.access.sign_in_throttle import SignInError
from flawscope_station.settings.openid import OpenIdSettings
from flawscope_station.settings.proxies import find_proxy
from flawscope_station.settings.values import secret, tls_context
from flawscope_station.web.components import AccessDep
from flawscope_station.web.middleware import COMPANY_PATH, client_ip, delete_cookie, local_path, set_cookie
from flawscope_station.web.pages import Page
from flawscope_station.web.templates import PAGES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

SIGN_IN_SECONDS = 600  # longest time between leaving for the provider and coming back
PROVIDER_TIMEOUT = 10.0  # seconds until the provider must answer
LEEWAY = 60  # seconds that the provider's clock may be wrong
# prefixes of algorithms with a public key; with any other algorithm, a key that verifies can also sign
_PUBLIC_KEY_ALGORITHMS = ("RS", "PS", "ES", "Ed")
YEAR_SECONDS = 365 * 86400

page_router = APIRouter(include_in_schema=False)


@page_router.get("/sign-in")
def sign_in_page(request: Request, next: str = "/") -> Response:
    """Show the page to sign in. A person who is signed in already is redirected to the path `next`."""
    page = Page(request, "sign-in")
    if page.person is not None:
        return RedirectResponse(local_path(next), 303)
    return page.render("sign-in", next=local_path(next), error="", name="")


@page_router.post("/sign-in")
def sign_in(
    request: Request, access: AccessDep, name: str = Form(""), password: str = Form(""), next: str = Form("/")
) -> Response:
    """Sign a person in with name and password. If that fails, show the page again with the reason."""
    page = Page(request, "sign-in")
    try:
        cookie = access.sign_in(name, password, client_ip(request))
    except SignInError as error:
        if error.wait:  # after too many tries: seconds until the next try is allowed
            message = page.texts.count("signin.often", error.wait)
            status = 429
        else:
            message = page.texts("signin.wrong")
            status = 401
        page_response = page.render("sign-in", status, next=local_path(next), error=message, name=name)
        if error.wait:
            page_response.headers["Retry-After"] = str(error.wait)
        return page_response
    response = RedirectResponse(local_path(next), 303)
    set_cookie(response, request, access, cookie)
    return response


@page_router.post("/sign-out")
def sign_out(request: Request, access: AccessDep) -> Response:
    """End the session, and redirect to the page to sign in."""
    access.sign_out(request)
    response = RedirectResponse("/sign-in", 303)
    delete_cookie(response, request, access)
    return response


@page_router.post("/language")
def language(request: Request, language: str = Form(""), next: str = Form("/")) -> Response:
    """Set the language of the pages.

    Anybody who sees a page may choose it, because no secret and no right depends on it.
    """
    response = RedirectResponse(local_path(next), 303)
    if language in PAGES.texts:
        is_https = request.url.scheme == "https"
        response.set_cookie(
            "language",
            language,
            max_age=YEAR_SECONDS,
            secure=is_https,
            httponly=True,
            samesite="lax",
        )
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
        from authlib.integrations.starlette_client import OAuth  # of the extra `openid`

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
        """Return the redirect to the provider, and store state, nonce and code verifier in the session.

        Args:
            request: HTTP request.
            return_url: URL to which the provider redirects the browser after the sign-in.
        """
        try:
            await self._load_metadata()
            response: Response = await self._client.authorize_redirect(request, return_url)
        except Exception as error:  # of any kind, as the provider may answer anything
            raise _to_provider_error(error) from error
        return response

    async def read_member(self, request: Request) -> CompanyMember:
        """Return the member who has signed in at the provider, from the request of the returning browser."""
        settings = self._settings
        options = {
            "iss": {"essential": True, "value": settings.issuer},
            "aud": {"essential": True, "value": settings.client},
        }
        try:
            await self._load_metadata()
            tokens = await self._client.authorize_access_token(request, claims_options=options, leeway=LEEWAY)
            claims = tokens["userinfo"]
            group_claim = claims.get(settings.group_claim) or ()
            # a single group may be a text instead of a list
            groups = [group_claim] if isinstance(group_claim, str) else list(group_claim)
            subject = f"{settings.issuer} {claims['sub']}"
            name = str(claims.get(settings.name_claim) or "")
        except Exception as error:  # of any kind, as the provider may answer anything
            raise _to_provider_error(error) from error
        roles = [settings.groups[group] for group in groups if group in settings.groups]
        # roles are listed from the lowest to the highest
        highest_role = max(roles, key=ROLES.index, default="")
        return CompanyMember(subject, name, highest_role)

    async def _load_metadata(self) -> None:
        """Read the provider's metadata once, and allow only algorithms with a public key.

        Raises:
            InputError: The provider's issuer is not that of the settings.
        """
        metadata = await self._client.load_server_metadata()  # Authlib keeps and returns this dictionary
        if metadata.get("issuer") != self._settings.issuer:
            metadata.pop("_loaded_at", None)  # so that the next call reads the metadata again
            raise InputError(f"it calls itself {metadata.get('issuer')!r:.100}: write that as `issuer`")
        supported = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        allowed = [algorithm for algorithm in supported if algorithm.startswith(_PUBLIC_KEY_ALGORITHMS)]
        metadata["id_token_signing_alg_values_supported"] = allowed


def _to_provider_error(error: Exception) -> ProviderError:
    """Return any error of a request to the provider as a ProviderError."""
    return ProviderError(one_line_message(error) or type(error).__name__)


def company_sign_in_app(components: Mapping[type, object], settings: OpenIdSettings) -> ASGIApp:
    """Make the application for sign-in through a company; its pages lie below `COMPANY_PATH`.

    The application has its own cookie for state, nonce and code verifier, because the browser does not send
    the station's session cookie when the provider redirects it back to the station.
    """
    from starlette.middleware.sessions import SessionMiddleware  # needs itsdangerous, of the extra `openid`

    access = components[Access]
    assert isinstance(access, Access)
    pages = _CompanyPages(OpenIdProvider(settings), access)
    app = Starlette(routes=[Route("/", pages.begin), Route("/done", pages.finish)])
    app.state.components = components
    cookie_name = f"{access.cookie}_company"
    key = secrets.token_urlsafe(32)

    async def app_with_session(scope: Scope, receive: Receive, send: Send) -> None:
        is_secure = scope["scheme"] == "https"
        # made for each request, because its option `https_only` follows the request
        middleware = SessionMiddleware(
            app,
            secret_key=key,
            session_cookie=cookie_name,
            max_age=SIGN_IN_SECONDS,
            path=COMPANY_PATH,
            https_only=is_secure,
        )
        await middleware(scope, receive, send)

    return app_with_session


class _CompanyPages:
    """Pages that lead to a company's sign-in and back.

    Args:
        provider: The company's provider.
        access: Users, tokens and sessions.
    """

    def __init__(self, provider: OpenIdProvider, access: Access) -> None:
        self.provider = provider
        self.access = access

    async def begin(self, request: Request) -> Response:
        """Redirect to the provider. If that fails, show the page to sign in with the reason."""
        request.session["next"] = local_path(request.query_params.get("next"))
        try:
            base_url = str(request.base_url).rstrip("/")
            return await self.provider.redirect(request, f"{base_url}{COMPANY_PATH}/done")
        except ProviderError as error:
            try:
                # each failure counts as a try, so that nobody can make the station ask the provider endlessly
                self.access.count_member_try(client_ip(request))
            except SignInError as sign_in_error:  # too many tries
                return self._wait_page(request, sign_in_error)
            return await self._refusal_page(request, "signin.company_failed", 502, str(error))

    async def finish(self, request: Request) -> Response:
        """Sign in the member who comes back from the provider, or show the reason why not."""
        next_path = local_path(request.session.pop("next", "/"))
        address = client_ip(request)
        try:
            self.access.count_member_try(address)
        except SignInError as error:  # too many tries
            return self._wait_page(request, error)
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
        # no redirect: on a redirect from another site, the browser would not send the station's cookie
        refresh = f'<meta http-equiv="refresh" content="0;url={html.escape(next_path)}">'
        response = HTMLResponse(f"<!doctype html><title>flawscope</title>{refresh}")
        set_cookie(response, request, self.access, session)
        return response

    def _wait_page(self, request: Request, sign_in_error: SignInError) -> Response:
        """Make the page that says how long to wait.

        No event is recorded, because anybody could fill the audit log by requesting this page.
        """
        page = Page(request, "sign-in")
        text = page.texts.count("signin.often", sign_in_error.wait)
        response = page.render("sign-in", 429, next="/", error=text, name="")
        response.headers["Retry-After"] = str(sign_in_error.wait)
        return response

    async def _refusal_page(self, request: Request, text_key: str, status: int, reason: str) -> Response:
        """Record that a member was refused, and make the page to sign in with the reason.

        Args:
            request: HTTP request.
            text_key: Key of the page's text, which has a place for the reason.
            status: HTTP status.
            reason: Reason for the refusal.
        """
        await run_in_threadpool(self.access.note_refused_member, reason)
        page = Page(request, "sign-in")
        error = page.texts(text_key, why=reason)
        return page.render("sign-in", status, next="/", error=error, name="")
