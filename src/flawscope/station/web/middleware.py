"""Checks of every request before the station sees it: host, address, person.

The guard stands around the whole application and touches neither bodies nor streams.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from flawscope.errors import InputError
from flawscope.station.access.roles import LOCAL_PERSON, PERSON_KEY, VIEWER, Person, has_role
from flawscope.station.access.users import SESSION_SECONDS, Access, ExpiredError
from flawscope.station.settings.station import FOLDER, Settings
from flawscope.station.store.database import StoreError
from flawscope.station.store.records import ADDRESS
from flawscope.station.web.refusals import Refused, headers_of, refused
from flawscope.station.web.templates import HEADERS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SIGN_IN = "/sign-in"
COMPANY = f"{SIGN_IN}/company"  # begins the paths of the sign-in with a company's account
_HERE = frozenset({"127.0.0.1", "localhost", "::1"})
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_HEALTH = frozenset({"/healthz", "/readyz"})  # for monitoring, also when the store is gone
_FOR_ALL = frozenset({SIGN_IN, "/language"})
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")
_PORTS = {"http": "80", "https": "443"}
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
_READERS = 4  # threads that look up people, since those of inspections may all be waiting


@cache
def needs(role: str) -> Callable[[Request], Awaitable[Person]]:
    """Make a FastAPI dependency that returns the person, who has this role or a higher one, else 403."""

    async def person(request: Request) -> Person:
        found: Person | None = request.scope.get(PERSON_KEY)
        if found is None:
            raise _unknown()
        check_role(found, role)
        return found

    return person


def check_role(person: Person, role: str) -> None:
    if not has_role(person, role):
        raise Refused(403, f"{person.name} is {person.role}; this needs {role}", "role_too_small")


def set_cookie(response: Response, request: HTTPConnection, access: Access, value: str) -> None:
    """Sign the browser in."""
    response.set_cookie(access.cookie, value, max_age=SESSION_SECONDS, **_cookie(request))


def drop_cookie(response: Response, request: HTTPConnection, access: Access) -> None:
    response.delete_cookie(access.cookie, **_cookie(request))


def address_of(request: HTTPConnection) -> str:
    """IP address of the sender; "here" where there is none."""
    return request.client.host if request.client else "here"


def local_path(text: str | None) -> str:
    """Path to go to after signing in; "/" in place of another site."""
    return text if text and re.fullmatch(r"/(?![/\\])[^\x00-\x20\\\x7f]*", text) else "/"


def check_bind(settings: Settings, access: Access) -> None:
    """Raise InputError where other machines could reach a station that anybody may use."""
    if _is_here(_bare(settings.host)) or not access.is_open:
        return
    where = f"--station {settings.store}" if settings.database is None else "--settings station.yaml"
    where = "" if where == f"--station {FOLDER}" else f" {where}"
    raise InputError(
        f"host {settings.host} can be reached from other machines, and this station has no users: add one "
        f"with `flawscope station user add NAME --role admin{where}`, or listen on 127.0.0.1"
    )


class Guard:
    """ASGI middleware: refuses requests that are not for the station, finds the person, and sets the headers
    that keep browsers careful.

    Without a person it answers 401 below /api, else redirects to the page that signs in.
    """

    def __init__(self, app: ASGIApp, access: Access, settings: Settings):
        self.app, self.access = app, access
        self._public = {_address(one) for one in settings.public}
        bound = {_bare(settings.host)} - _EVERYWHERE
        self._hosts = (_HERE | bound | {_host(one) for one in self._public}) - {""}
        self._limiter = CapacityLimiter(_READERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = HTTPConnection(scope)
        ADDRESS.set(address_of(request))
        careful = _careful(scope, send)
        try:
            refusal = await self._check(request)
        except (Refused, ExpiredError, StoreError) as error:
            refusal = refused(error)
            if not scope["path"].startswith("/api/"):
                refusal = PlainTextResponse(f"{error}\n", refusal.status_code, headers_of(error))
        await (refusal or self.app)(scope, receive, careful)

    async def _check(self, request: HTTPConnection) -> Response | None:
        """Check a request: raise Refused, return a redirect, or return None to let the request pass."""
        scope = request.scope
        scope[PERSON_KEY] = None
        self._check_host(request)
        if scope["path"] in _HEALTH or scope["path"].startswith("/static/"):
            return None
        person = self.access.authenticate_cached(request)
        if person is None:
            person = await anyio.to_thread.run_sync(self.access.authenticate, request, limiter=self._limiter)
        scope[PERSON_KEY] = person
        if person == LOCAL_PERSON:
            self._check_here(request)
        if scope["method"] not in _READING and not (person is not None and person.has_token):
            self._check_origin(request)
        if person is not None and (scope["method"] in _READING or not scope["path"].startswith("/api/")):
            check_role(person, VIEWER)  # senders read only the answers to their requests
        if person is not None or scope["path"] in _FOR_ALL or scope["path"].startswith(f"{COMPANY}/"):
            return None
        if scope["path"].startswith("/api/") or scope["path"] == "/metrics":
            raise _unknown()
        query = scope["query_string"].decode("latin-1")
        wanted = scope["path"] + (f"?{query}" if query else "") if scope["method"] == "GET" else "/"
        return RedirectResponse(f"{SIGN_IN}?next={quote(wanted, safe='/')}", 303)

    def _check_host(self, request: HTTPConnection) -> None:
        """Refuse unknown host names, which other sites could make lead here (DNS rebinding)."""
        sent = request.headers.getlist("host")
        host = _host(sent[0]) if len(sent) == 1 else ""
        # a bare address is no name: nobody can make it lead elsewhere
        if host not in self._hosts and not _is_same(host, (request.scope.get("server") or ("",))[0]):
            name = ascii(sent[0][:80]) if sent else "''"
            raise Refused(
                421, f"this station is not called {name}: add it to the setting `public`", "wrong_host"
            )

    def _check_here(self, request: HTTPConnection) -> None:
        """Refuse other machines, and proxies on this one."""
        client, server = request.client, request.scope.get("server")
        direct = not any(name in request.headers for name in _FORWARDED)
        own_address = client is not None and server is not None and client.host == server[0]
        if direct and (client is None or own_address or _is_here(client.host)):
            return
        text = "this station has no users and serves its own machine alone: add one there with "
        raise Refused(403, f"{text}`flawscope station user add NAME --role admin`", "no_users")

    def _check_origin(self, request: HTTPConnection) -> None:
        """Refuse a request that another site made the browser send. Browsers name the site by
        `Sec-Fetch-Site` where they trust the connection, else by `Origin`; other programs send neither."""
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site is None and origin is not None:
            scheme = origin.partition("://")[0]
            secure = scheme == "https" or request.scope["scheme"] == "http"  # a proxy may have ended TLS
            own = {_address(request.headers["host"], scheme), *self._public}
            site = "same-origin" if scheme in _PORTS and secure and _address(origin) in own else "cross-site"
        if site not in (None, "none", "same-origin"):
            text = "another site made the browser send this: open the page again"
            raise Refused(403, text, "foreign_request")


def _careful(scope: Scope, send: Send) -> Send:
    """Add the headers that the application did not set itself."""
    is_static, has_hash = scope["path"].startswith("/static/"), bool(scope["query_string"])

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            kept = "public, max-age=31536000, immutable" if has_hash else "no-cache"
            lasting = is_static and message["status"] in (200, 304)
            headers.setdefault("Cache-Control", kept if lasting else "no-store")
        await send(message)

    return sent


def _unknown() -> Refused:
    text = "sign in, or send a token of `flawscope station token add`: Authorization: Bearer fls_..."
    return Refused(401, text, "not_signed_in")


def _is_here(host: str) -> bool:
    address = _parsed(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_same(host: str, server: str) -> bool:
    """Whether the host that a request names is the address at which it arrived."""
    address = _parsed(host)
    return address is not None and not address.is_unspecified and address == _parsed(server)


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _bare(host: str) -> str:
    return host.strip("[]").lower()


def _address(text: str, scheme: str = "") -> str:
    """Host and port of a URL, its default port left out: `https://Name.example:443/x` -> `name.example`."""
    given, found, rest = text.strip().rpartition("://")
    rest = rest.partition("/")[0].lower()
    port = _PORTS.get(given.lower() if found else scheme)
    return rest.removesuffix(f":{port}") if port else rest


def _host(address: str) -> str:
    """Host of an address, without port and brackets; "" where the address is invalid."""
    if found := _HOST.fullmatch(address.strip().lower()):
        return found[1] or found[2]
    return _bare(address) if ":" in address and _parsed(_bare(address)) else ""


def _cookie(request: HTTPConnection) -> dict[str, Any]:
    """Attributes of the cookie: out of reach of scripts and other sites; TLS only, where TLS was used."""
    secure = request.scope["scheme"] == "https"
    return {"path": "/", "httponly": True, "samesite": "strict", "secure": secure}
