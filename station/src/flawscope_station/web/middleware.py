"""Checks of every request before the station's routes: of its host, its origin and its sender.

`Guard` is the outermost middleware. It does not change bodies and streams.
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
REQUEST_ID = "X-Request-Id"  # header with the number of a request
# ends of the command line `flawscope station user`
FIRST_USER = "add NAME --role admin"
NEW_USER = "add NAME --role operator"
NEW_PASSWORD = "password NAME"
NO_USER = "remove NAME"
FAILED_INTERVAL = 1.0  # seconds between two lines of the log about failed requests
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEALTH_PATHS = frozenset({"/healthz", "/readyz"})  # for monitoring, also while the database is away
_SIGNED_OUT_PATHS = frozenset({SIGN_IN, "/language"})
_HOST_PATTERN = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")
_PREFIX_HEADER = "x-forwarded-prefix"  # a proxy that removes a prefix of the path sends it
LOOKUP_SECONDS = 3.0  # longest time for looking up a sender
ARRIVED_KEY = "flawscope.arrived"  # key in a request's scope of its time of arrival by `time.monotonic`
_DEADLINE = re.compile(r"[0-9]{1,6}", re.ASCII)  # deadline of a request, in milliseconds
_LOOKUP_THREADS = 4  # threads for looking up senders alone, as all other threads may wait


@cache
def require_role(role: str) -> Callable[[Request], Awaitable[Person]]:
    """Make a FastAPI dependency that returns the sender of a request.

    It refuses a sender whose role is lower than `role` with 403, and an unknown sender with 401.
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
    """Set the browser's session cookie to `value`. With this cookie the browser is signed in."""
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
    """Return the path `text` to go to after signing in; "/" if `text` is no path of this site."""
    # `//host` and `/\host` would lead to another site
    if text and re.fullmatch(r"/(?![/\\])[^\x00-\x20\\\x7f]*", text):
        return text
    return "/"


def check_listen_address(settings: Settings, access: Access) -> None:
    """Raise InputError where other machines could reach a station that has no users."""
    if not access.is_open or _is_loopback(_strip_brackets(settings.host)):
        return
    raise InputError(
        f"host {settings.host} can be reached from other machines, and this station has no users: add one "
        f"with `{user_command(settings, settings.store)}`, or listen on 127.0.0.1"
    )


def user_command(settings: Settings, store: str, verb: str = FIRST_USER) -> str:
    """Return the command line that adds, changes or removes a user.

    Args:
        settings: Settings of the station.
        store: Folder of the station, in the form that a person types.
        verb: What to do: the words after `flawscope station user`.
    """
    if settings.database is not None:  # the users are in the database that the settings name
        options = " --settings station.yaml"
    elif store == DEFAULT_FOLDER:
        options = ""
    else:
        options = f" --station {store}"
    return f"flawscope station user {verb}{options}"


class Guard:
    """ASGI middleware that finds the sender of each request, and refuses what the sender may not send.

    An unknown sender gets 401 below /api, and elsewhere a redirect to the page to sign in. Answers get
    security headers for browsers, and the number of the request. If the sender has not sent a number, a
    random one is used. The log has the numbers of failed requests.

    Args:
        app: Application that serves the requests.
        access: Users, tokens and sessions.
        settings: Settings of the station.
        say: Writes a line to the log.
    """

    def __init__(
        self, app: ASGIApp, access: Access, settings: Settings, say: Callable[[str], None] = lambda line: None
    ):
        self.app = app
        self.access = access
        self.failed = FailedRequests(say)
        self._public = {_host_and_port(url) for url in settings.public}
        listen_hosts = {_strip_brackets(settings.host)} - WILDCARD_HOSTS
        public_hosts = {_parse_host(host_and_port) for host_and_port in self._public}
        self._hosts = (LOOPBACK_HOSTS | listen_hosts | public_hosts) - {""}
        self._limiter = CapacityLimiter(_LOOKUP_THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # 1008: policy violation
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] = _normalize_path(scope["path"])
        is_stream = path.startswith("/api/") and path.endswith("/live")
        if scope["method"] == "HEAD" and not is_stream:
            # answered as GET, whose body the server leaves out; the body of a stream would not end
            scope = {**scope, "method": "GET"}
        scope[ARRIVED_KEY] = time.monotonic()
        request = HTTPConnection(scope)
        SENDER_ADDRESS.set(client_ip(request))
        send_with_headers = self._with_headers(request, send)
        try:
            redirect = await self._check(request)
        except (RefusedError, ExpiredError, StoreError) as error:
            refusal = error_response(error)
            if not path.startswith("/api/"):
                refusal = PlainTextResponse(f"{error}\n", refusal.status_code, error_headers(error))
            await refusal(scope, receive, send_with_headers)
        else:
            answer = redirect or self.app
            await answer(scope, receive, send_with_headers)

    def _with_headers(self, request: HTTPConnection, send: Send) -> Send:
        """Return a function that sends after adding headers: for security, for the cache, the request's ID.

        Headers that the application has set stay. A failed request is logged.
        """
        scope = request.scope
        path = request.scope["path"]
        is_static = path.startswith("/static/")
        has_hash = bool(scope["query_string"])  # the hash of a static file's content is its query
        sent_id = request.headers.get(REQUEST_ID, "")
        request_id = sent_id if _REQUEST_ID.fullmatch(sent_id) else uuid.uuid4().hex[:16]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                for name, value in PAGES.security_headers.items():
                    headers.setdefault(name, value)
                is_cacheable = is_static and message["status"] in (200, 304)
                if not is_cacheable:
                    caching = "no-store"
                elif has_hash:  # another content has another hash
                    caching = "public, max-age=31536000, immutable"
                else:
                    caching = "no-cache"
                headers.setdefault("Cache-Control", caching)
                headers[REQUEST_ID] = request_id
                if message["status"] >= 500 and path not in _HEALTH_PATHS:
                    self.failed.note(scope["method"], path, message["status"], request_id)
            await send(message)

        return send_with_headers

    async def _check(self, request: HTTPConnection) -> Response | None:
        """Check a request, and note in its scope who sent it.

        Return a redirect to the page to sign in; None: the application may serve the request.

        Raises:
            RefusedError: The request is refused.
            ExpiredError: The sender's token has ended.
            StoreError: The database does not answer, and the sender is unknown.
        """
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
        """Raise RefusedError where a sender may not send this request.

        Args:
            request: HTTP request.
            person: Sender of the request; None: unknown.
        """
        is_safe = request.scope["method"] in _SAFE_METHODS
        has_token = person is not None and person.has_token
        if person == LOCAL_PERSON:
            self._check_local(request)
        if not is_safe and not has_token:
            self._check_origin(request)
        # other requests to the API check the role themselves: a sender of pictures need not be a VIEWER
        is_for_viewers = is_safe or not request.scope["path"].startswith("/api/")
        if person is not None and is_for_viewers:
            check_role(person, VIEWER)

    async def _look_up(self, request: HTTPConnection) -> Person | None:
        """Return the sender of a request from the database; None: unknown.

        If the database does not answer in time, return the person who sent the same cookie or token in the
        last minutes.

        Raises:
            StoreError: The database does not answer, and nobody sent the cookie or token in those minutes.
        """
        look_up = self.access.authenticate
        try:
            with anyio.fail_after(_lookup_seconds(request)):
                return await anyio.to_thread.run_sync(
                    look_up, request, limiter=self._limiter, abandon_on_cancel=True
                )
        except (TimeoutError, StoreError) as error:
            if (earlier_sender := self.access.authenticate_known(request)) is not None:
                return earlier_sender
            if isinstance(error, StoreError):
                raise
            raise silent_error(DATABASE, LOOKUP_SECONDS) from None

    def _check_host(self, request: HTTPConnection) -> None:
        """Raise RefusedError for an unknown host name.

        Without this check, another site could read the pages: its own name would only have to resolve to the
        address of this machine (DNS rebinding).
        """
        host_headers = request.headers.getlist("host")
        if not host_headers and request.scope.get("http_version") == "1.0":  # not a browser
            return
        host = _parse_host(host_headers[0]) if len(host_headers) == 1 else ""
        server_address, *_ = request.scope.get("server") or ("",)
        # the server's IP address is allowed: it is not the name of another site
        if host not in self._hosts and not _is_server_address(host, server_address):
            name = ascii(host_headers[0][:80]) if host_headers else "''"
            text = f"this station is not called {name}: add it to the setting `public`"
            raise RefusedError(421, text, "wrong_host")

    def _check_local(self, request: HTTPConnection) -> None:
        """Raise RefusedError for a request from another machine, or from a proxy on this machine."""
        client = request.client
        server_address, *_ = request.scope.get("server") or (None,)
        has_proxy = any(name in request.headers for name in _PROXY_HEADERS)
        is_local = client is None or client.host == server_address or _is_loopback(client.host)
        if is_local and not has_proxy:
            return
        text = (
            "this station has no users and serves its own machine alone: add one there with "
            "`flawscope station user add NAME --role admin`"
        )
        raise RefusedError(403, text, "no_users")

    def _check_origin(self, request: HTTPConnection) -> None:
        """Raise RefusedError for a request that another site made the browser send.

        If a browser trusts the connection, the header `Sec-Fetch-Site` says from which site the request
        comes; else `Origin` does. Other programs send neither.
        """
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if site is None and origin is not None:  # a browser that does not trust the connection
            scheme = origin.partition("://")[0]
            # A page without TLS may not send a request with TLS. A page with TLS may send one that arrives
            # without TLS, because a proxy may have ended the TLS.
            is_allowed_scheme = scheme == "https" or request.scope["scheme"] == "http"
            station_origins = {_host_and_port(request.headers.get("host", ""), scheme), *self._public}
            is_same_origin = (
                scheme in _DEFAULT_PORTS and is_allowed_scheme and _host_and_port(origin) in station_origins
            )
            site = "same-origin" if is_same_origin else "cross-site"
        if site not in (None, "none", "same-origin"):
            text = "another site made the browser send this: open the page again"
            raise RefusedError(403, text, "foreign_request")


def _normalize_path(path: str) -> str:
    """Return a request's path in the form in which routes have it.

    A slash at the end is removed, because not every program follows a redirect. Only the path of the mounted
    application, `COMPANY_PATH`, keeps it.
    """
    local_part = path
    if path.startswith(("http://", "https://")):  # the client takes the station for a proxy
        _, _, host_and_path = path.partition("://")
        local_part = "/" + host_and_path.partition("/")[2]
    if local_part.endswith("/") and local_part != f"{COMPANY_PATH}/":
        return local_part.rstrip("/") or "/"
    return local_part


def _lookup_seconds(request: HTTPConnection) -> float:
    """Return the time limit in seconds for looking up the sender of a request.

    It is `LOOKUP_SECONDS`, or half of the request's deadline if that is shorter.
    """
    deadline = request.query_params.get("deadline", "")
    if not _DEADLINE.fullmatch(deadline):
        return LOOKUP_SECONDS
    deadline_seconds = int(deadline) / 1000
    return min(LOOKUP_SECONDS, deadline_seconds / 2)


class FailedRequests:
    """Log of failed requests, with at most a line a second, because thousands may fail."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._clock = time.monotonic
        self._reported_at = -math.inf
        self._unreported = 0

    def note(self, method: str, path: str, status: int, request_id: str) -> None:
        """Log a failed request. If the last line is too recent, only count it for the next line.

        Args:
            method: HTTP method.
            path: Path of the request.
            status: HTTP status of the answer.
            request_id: ID of the request.
        """
        time_now = self._clock()
        if time_now - self._reported_at < FAILED_INTERVAL:
            self._unreported += 1
            return
        # the number of requests that failed since the last line
        count_facts = {"more": self._unreported} if self._unreported else {}
        self._reported_at = time_now
        self._unreported = 0
        text = f"{method} {path!r:.200}: {status}"
        self._say(Said(text, "warning", request=request_id, status=status, **count_facts))


def _check_prefix(request: HTTPConnection) -> None:
    """Raise RefusedError for the request of a page if a proxy has removed a prefix of its path."""
    prefix = request.headers.get(_PREFIX_HEADER, "").strip("/")
    if prefix:
        text = f"a proxy has this station below /{prefix[:80]}, and pages have to lie at the top: "
        raise RefusedError(421, f"{text}give it a name or a port of its own there", "wrong_path")


def _to_sign_in(scope: Scope) -> Response:
    """Return the redirect to the page to sign in. After signing in, a person gets back to this page."""
    next_path = "/"
    if scope["method"] == "GET":
        query = scope["query_string"].decode("latin-1")
        next_path = f"{scope['path']}?{query}" if query else scope["path"]
    return RedirectResponse(f"{SIGN_IN}?next={quote(next_path, safe='/')}", 303)


def _not_signed_in() -> RefusedError:
    text = "sign in, or send a token of `flawscope station token add`: Authorization: Bearer fls_..."
    return RefusedError(401, text, "not_signed_in")


def _is_loopback(host: str) -> bool:
    """Return whether a host is localhost or a loopback address."""
    address = _parse_ip(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_server_address(host: str, server: str) -> bool:
    """Return whether the host in a request is the IP address at which the request arrived.

    Args:
        host: Host in the request's header.
        server: Address of the server's socket.
    """
    address = _parse_ip(host)
    return address is not None and not address.is_unspecified and address == _parse_ip(server)


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address of a host, an IPv4-mapped IPv6 address as IPv4; None: the host is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    ipv4 = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return ipv4 or address


def _strip_brackets(host: str) -> str:
    return host.strip("[]").lower()


def _host_and_port(text: str, scheme: str = "") -> str:
    """Return host and port of a URL, without the scheme's default port.

    `https://Name.org:443/x` becomes `name.org`.

    Args:
        text: URL, or host and port without a scheme.
        scheme: Scheme to take where the text has none; "": unknown, so that the port stays.
    """
    url_scheme, separator, after_scheme = text.strip().rpartition("://")
    after_scheme = after_scheme.partition("/")[0].lower()
    default_port = _DEFAULT_PORTS.get(url_scheme.lower() if separator else scheme)
    return after_scheme.removesuffix(f":{default_port}") if default_port else after_scheme


def _parse_host(address: str) -> str:
    """Return the host of an address, without port and brackets; "" where the address is invalid.

    The address of an IPv6 host may lack the brackets, if it has no port.
    """
    if match := _HOST_PATTERN.fullmatch(address.strip().lower()):
        ipv6, name = match.groups()
        return ipv6 or name
    host = _strip_brackets(address)
    is_ipv6 = ":" in address and _parse_ip(host) is not None
    return host if is_ipv6 else ""


def _is_secure(request: HTTPConnection) -> bool:
    """Return whether a request came by TLS; its cookie is then sent by TLS alone."""
    return bool(request.scope["scheme"] == "https")
