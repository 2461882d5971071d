"""Checks of every request before the station sees it: host, address, person.

The guard is the outermost middleware. It leaves bodies and streams as they are.
"""

from __future__ import annotations

import ipaddress
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from flawscope.errors import InputError
from flawscope_station.access.authenticator import Access, ExpiredError
from flawscope_station.access.roles import LOCAL_PERSON, PERSON_KEY, VIEWER, Person, has_role
from flawscope_station.access.sessions import SESSION_SECONDS
from flawscope_station.monitoring.background import Said
from flawscope_station.monitoring.machine import DATABASE, silent_error
from flawscope_station.settings.station import DEFAULT_FOLDER, Settings
from flawscope_station.settings.values import LOOPBACK_HOSTS, WILDCARD_HOSTS
from flawscope_station.store.database import StoreError
from flawscope_station.store.records import SENDER_ADDRESS
from flawscope_station.web.errors import RefusedError, error_headers, error_response
from flawscope_station.web.templates import PAGES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SIGN_IN = "/sign-in"
COMPANY_PATH = f"{SIGN_IN}/company"  # prefix of the paths to sign in with a company's account
REQUEST_ID = "X-Request-Id"  # header: number of a request
FIRST_USER = "add NAME --role admin"
NEW_USER = "add NAME --role operator"
NEW_PASSWORD = "password NAME"
NO_USER = "remove NAME"
FAILED_INTERVAL = 1.0  # seconds between two lines of the log about requests that failed
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEALTH_PATHS = frozenset({"/healthz", "/readyz"})  # for monitoring, also when the store is gone
_SIGNED_OUT_PATHS = frozenset({SIGN_IN, "/language"})
_HOST_PATTERN = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")
_PREFIX_HEADER = "x-forwarded-prefix"  # of a proxy that takes a path away
LOOKUP_SECONDS = 3.0  # in which a sender is looked up
ARRIVED_KEY = "flawscope.arrived"  # in a request's scope: when it came, as `time.monotonic` counts
_DEADLINE = re.compile(r"[0-9]{1,6}", re.ASCII)  # of a request, in milliseconds
_LOOKUP_THREADS = 4  # for looking up people, since the threads of inspections may all be waiting


@cache
def require_role(role: str) -> Callable[[Request], Awaitable[Person]]:
    """Make a FastAPI dependency that returns the sender of a request, who has this role or a higher one.

    It refuses a sender whose role is lower with 403, and unknown senders with 401.
    """

    async def person(request: Request) -> Person:
        sender: Person | None = request.scope.get(PERSON_KEY)
        if sender is None:
            raise _not_signed_in()
        check_role(sender, role)
        return sender

    return person


def check_role(person: Person, role: str) -> None:
    """Raise RefusedError (403) where a person's role is lower than `role`."""
    if not has_role(person, role):
        raise RefusedError(403, f"{person.name} is {person.role}; this needs {role}", "role_too_small")


def set_cookie(response: Response, request: HTTPConnection, access: Access, value: str) -> None:
    """Set the browser's session cookie to `value`, which signs it in."""
    is_secure = _is_secure(request)
    response.set_cookie(
        access.cookie, value, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=is_secure
    )


def delete_cookie(response: Response, request: HTTPConnection, access: Access) -> None:
    """Delete the browser's session cookie."""
    response.delete_cookie(access.cookie, httponly=True, samesite="strict", secure=_is_secure(request))


def client_ip(request: HTTPConnection) -> str:
    """Return the sender's IP address, or "here" where there is none."""
    return request.client.host if request.client else "here"


def local_path(text: str | None) -> str:
    """Return the path to go to after signing in; "/" where the text is no path of this site."""
    return text if text and re.fullmatch(r"/(?![/\\])[^\x00-\x20\\\x7f]*", text) else "/"


def check_listen_address(settings: Settings, access: Access) -> None:
    """Raise InputError where other machines could reach a station that anybody may use."""
    if _is_loopback(_strip_brackets(settings.host)) or not access.is_open:
        return
    raise InputError(
        f"host {settings.host} can be reached from other machines, and this station has no users: add one "
        f"with `{user_command(settings, settings.store)}`, or listen on 127.0.0.1"
    )


def user_command(settings: Settings, store: str, verb: str = FIRST_USER) -> str:
    """Return the command line that keeps users.

    Args:
        settings: Settings of the station.
        store: Folder of the station, as it is typed.
        verb: Words after `flawscope station user`.
    """
    options = f"--station {store}" if settings.database is None else "--settings station.yaml"
    options = "" if options == f"--station {DEFAULT_FOLDER}" else f" {options}"
    return f"flawscope station user {verb}{options}"


class Guard:
    """ASGI middleware that refuses requests not meant for the station, and finds the person who sent each.

    It also sets the headers that keep browsers careful. Without a person it answers 401 below /api, else
    redirects to the page that signs in. Each answer has the request's number, from its sender or new; the log
    names a failed request by it.

    Args:
        app: Application behind it.
        access: Users, tokens and sessions.
        settings: Settings of the station.
        say: Gets a line for the log.
    """

    def __init__(
        self, app: ASGIApp, access: Access, settings: Settings, say: Callable[[str], None] = lambda line: None
    ):
        self.app, self.access, self.failed = app, access, FailedRequests(say)
        self._public = {_host_and_port(url) for url in settings.public}
        own_host = {_strip_brackets(settings.host)} - WILDCARD_HOSTS
        self._hosts = (LOOPBACK_HOSTS | own_host | {_parse_host(url) for url in self._public}) - {""}
        self._limiter = CapacityLimiter(_LOOKUP_THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"] = _normalize_path(scope["path"])
        if scope["method"] == "HEAD" and not (path.startswith("/api/") and path.endswith("/live")):
            scope = {**scope, "method": "GET"}  # the server leaves the body away; a stream would not end
        scope[ARRIVED_KEY] = time.monotonic()
        request = HTTPConnection(scope)
        SENDER_ADDRESS.set(client_ip(request))
        send_with_headers = self._with_headers(request, send)
        try:
            refusal = await self._check(request)  # None lets it pass
        except (RefusedError, ExpiredError, StoreError) as error:
            refusal = error_response(error)
            if not scope["path"].startswith("/api/"):
                refusal = PlainTextResponse(f"{error}\n", refusal.status_code, error_headers(error))
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _with_headers(self, request: HTTPConnection, send: Send) -> Send:
        """Wrap `send`: add the headers that the application did not set itself, and the request's number."""
        scope = request.scope
        path = request.scope["path"]
        is_static = path.startswith("/static/")
        has_hash = bool(scope["query_string"])
        number = request.headers.get(REQUEST_ID, "")
        number = number if _REQUEST_ID.fullmatch(number) else uuid.uuid4().hex[:16]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                for name, value in PAGES.security_headers.items():
                    headers.setdefault(name, value)
                caching = "public, max-age=31536000, immutable" if has_hash else "no-cache"
                is_cacheable = is_static and message["status"] in (200, 304)
                headers.setdefault("Cache-Control", caching if is_cacheable else "no-store")
                headers[REQUEST_ID] = number
                if message["status"] >= 500 and path not in _HEALTH_PATHS:
                    self.failed.note(scope["method"], path, message["status"], number)
            await send(message)

        return send_with_headers

    async def _check(self, request: HTTPConnection) -> Response | None:
        """Check a request: raise RefusedError, return a redirect, or return None to let it pass."""
        scope = request.scope
        path = request.scope["path"]
        scope[PERSON_KEY] = None
        self._check_host(request)
        if path in _HEALTH_PATHS or path.startswith("/static/"):
            return None
        if not path.startswith("/api/"):
            _check_prefix(request)
        person = self.access.authenticate_cached(request)
        if person is None:
            person = await self._look_up(request)
        scope[PERSON_KEY] = person
        self._check_sender(request, person)
        if person is not None or path in _SIGNED_OUT_PATHS or path.startswith(f"{COMPANY_PATH}/"):
            return None
        if path.startswith("/api/") or path == "/metrics":
            raise _not_signed_in()
        return _to_sign_in(scope)

    def _check_sender(self, request: HTTPConnection, person: Person | None) -> None:
        """Raise RefusedError where a sender may not send this request from there.

        Args:
            request: HTTP request.
            person: Person who sent it; None: unknown.
        """
        is_safe = request.scope["method"] in _SAFE_METHODS
        has_token = person is not None and person.has_token
        if person == LOCAL_PERSON:
            self._check_local(request)
        if not is_safe and not has_token:
            self._check_origin(request)
        if person is not None and (is_safe or not request.scope["path"].startswith("/api/")):
            check_role(person, VIEWER)  # senders read only the answers to their requests

    async def _look_up(self, request: HTTPConnection) -> Person | None:
        """Look the sender up in the database.

        Where the database does not answer in time, return the person who sent with the same cookie or token
        within the last minutes.

        Raises:
            StoreError: the database does not answer, and the sender is not known from before.
        """
        look_up = self.access.authenticate
        try:
            with anyio.fail_after(_lookup_seconds(request)):
                return await anyio.to_thread.run_sync(
                    look_up, request, limiter=self._limiter, abandon_on_cancel=True
                )
        except (TimeoutError, StoreError) as error:
            if (known := self.access.authenticate_known(request)) is not None:
                return known
            if isinstance(error, StoreError):
                raise
            raise silent_error(DATABASE, LOOKUP_SECONDS) from None

    def _check_host(self, request: HTTPConnection) -> None:
        """Refuse unknown host names, which other sites could make lead here (DNS rebinding)."""
        sent = request.headers.getlist("host")
        if not sent and request.scope.get("http_version") == "1.0":  # a machine: no browser leaves it out
            return
        host = _parse_host(sent[0]) if len(sent) == 1 else ""
        # a bare address is no name: nobody can make it lead elsewhere
        server = (request.scope.get("server") or ("",))[0]
        if host not in self._hosts and not _is_server_address(host, server):
            name = ascii(sent[0][:80]) if sent else "''"
            text = f"this station is not called {name}: add it to the setting `public`"
            raise RefusedError(421, text, "wrong_host")

    def _check_local(self, request: HTTPConnection) -> None:
        """Refuse other machines, and proxies on this one."""
        client = request.client
        server = request.scope.get("server")
        is_direct = not any(name in request.headers for name in _PROXY_HEADERS)
        is_own_address = client is not None and server is not None and client.host == server[0]
        if is_direct and (client is None or is_own_address or _is_loopback(client.host)):
            return
        text = "this station has no users and serves its own machine alone: add one there with "
        raise RefusedError(403, f"{text}`flawscope station user add NAME --role admin`", "no_users")

    def _check_origin(self, request: HTTPConnection) -> None:
        """Refuse a request that another site made the browser send.

        Browsers name the site by `Sec-Fetch-Site` where they trust the connection, else by `Origin`; other
        programs send neither.
        """
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if site is None and origin is not None:
            scheme = origin.partition("://")[0]
            is_secure = scheme == "https" or request.scope["scheme"] == "http"  # a proxy may have ended TLS
            own_origins = {_host_and_port(request.headers.get("host", ""), scheme), *self._public}
            is_own = scheme in _DEFAULT_PORTS and is_secure and _host_and_port(origin) in own_origins
            site = "same-origin" if is_own else "cross-site"
        if site not in (None, "none", "same-origin"):
            text = "another site made the browser send this: open the page again"
            raise RefusedError(403, text, "foreign_request")


def _normalize_path(path: str) -> str:
    """Return the path by which routes know a request."""
    if path.startswith(("http://", "https://")):  # of a client that takes the station for a proxy
        path = f"/{path.partition('://')[2].partition('/')[2]}"
    # With a slash behind it is the same address, for not every program follows a redirect; but that of the
    # mounted application to sign in ends with one
    if path.endswith("/") and path != f"{COMPANY_PATH}/":
        path = path.rstrip("/") or "/"
    return path


def _lookup_seconds(request: HTTPConnection) -> float:
    """Return how long the sender of a request may be looked up: not beyond the request's own deadline."""
    deadline = request.query_params.get("deadline", "")
    return min(LOOKUP_SECONDS, int(deadline) / 2000) if _DEADLINE.fullmatch(deadline) else LOOKUP_SECONDS


class FailedRequests:
    """Log of failed requests, with a line a second at most: thousands may fail."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._clock = time.monotonic
        self._reported_at = -math.inf
        self._unreported = 0

    def note(self, method: str, path: str, status: int, number: str) -> None:
        """Log a request that failed, or count it for the next line."""
        at = self._clock()
        if at - self._reported_at < FAILED_INTERVAL:
            self._unreported += 1
            return
        more = {"more": self._unreported} if self._unreported else {}
        self._reported_at = at
        self._unreported = 0
        text = f"{method} {path!r:.200}: {status}"
        self._say(Said(text, "warning", request=number, status=status, **more))


def _check_prefix(request: HTTPConnection) -> None:
    """Refuse a page's request that a proxy has passed on from a path below its top."""
    prefix = request.headers.get(_PREFIX_HEADER, "").strip("/")
    if prefix:
        text = f"a proxy has this station below /{prefix[:80]}, and pages have to lie at the top: "
        raise RefusedError(421, f"{text}give it a name or a port of its own there", "wrong_path")


def _to_sign_in(scope: Scope) -> Response:
    """Return the redirect to the page to sign in, which leads back."""
    next_path = "/"
    if scope["method"] == "GET":
        query = scope["query_string"].decode("latin-1")
        next_path = f"{scope['path']}?{query}" if query else scope["path"]
    return RedirectResponse(f"{SIGN_IN}?next={quote(next_path, safe='/')}", 303)


def _not_signed_in() -> RefusedError:
    text = "sign in, or send a token of `flawscope station token add`: Authorization: Bearer fls_..."
    return RefusedError(401, text, "not_signed_in")


def _is_loopback(host: str) -> bool:
    address = _parse_ip(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_server_address(host: str, server: str) -> bool:
    """Return whether the host in a request is the IP address at which it arrived."""
    address = _parse_ip(host)
    return address is not None and not address.is_unspecified and address == _parse_ip(server)


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    ipv4 = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return ipv4 or address


def _strip_brackets(host: str) -> str:
    return host.strip("[]").lower()


def _host_and_port(text: str, scheme: str = "") -> str:
    """Return host and port of a URL, without a default port: `https://Name.org:443/x` -> `name.org`."""
    url_scheme, separator, host_and_path = text.strip().rpartition("://")
    host_and_path = host_and_path.partition("/")[0].lower()
    port = _DEFAULT_PORTS.get(url_scheme.lower() if separator else scheme)
    return host_and_path.removesuffix(f":{port}") if port else host_and_path


def _parse_host(address: str) -> str:
    """Return the host of an address, without port and brackets; "" where the address is invalid."""
    if match := _HOST_PATTERN.fullmatch(address.strip().lower()):
        return match[1] or match[2]
    return _strip_brackets(address) if ":" in address and _parse_ip(_strip_brackets(address)) else ""


def _is_secure(request: HTTPConnection) -> bool:
    """Return whether a request came by TLS; its cookie then comes back by TLS alone."""
    return bool(request.scope["scheme"] == "https")
