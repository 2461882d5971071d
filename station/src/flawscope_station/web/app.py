"""The application and its HTTP server, and a page for the time that the disk is full."""

from __future__ import annotations

import asyncio
import html
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from flawscope import __version__
from flawscope.errors import InputError
from flawscope_station.core.station import Station
from flawscope_station.settings.station import Settings
from flawscope_station.store.files import RESERVED_BYTES
from flawscope_station.web import (
    accounts_api,
    api,
    audit_api,
    export_api,
    inspect_api,
    pages,
    review_api,
    sign_in_pages,
)
from flawscope_station.web.components import HealthDep, MetricsDep
from flawscope_station.web.connections import KEEP_ALIVE_SECONDS, ClientConnection, RequestTracker
from flawscope_station.web.errors import install_error_handler
from flawscope_station.web.middleware import COMPANY_PATH, Guard, check_listen_address
from flawscope_station.web.templates import PAGES
from flawscope_station.web.uploads import BodyLimiter

ACCEPT_BATCH = 64  # new connections that are accepted before the open ones are served again
LISTEN_BACKLOG = 1024  # new connections that the system keeps until they are accepted
MAX_CONNECTIONS = 1000  # also where the process may open more files
SHUTDOWN_SECONDS = 30  # in which requests may end when the station stops
DISK_FULL = "disk_full"  # code of the problem
CLOCK_KINDS = ("clock", "clock_jumped")  # of problems that hinder nothing
HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'", "Retry-After": "10"}


def max_connections() -> int:
    """Return half of the number of files that the process may open, `MAX_CONNECTIONS` at most."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, files // 2))


def create_app(station: Station) -> ASGIApp:
    """Make the ASGI application of a station that was started."""
    app = FastAPI(
        title="flawscope station",
        version=__version__,
        description="Pictures in, decisions out. Errors are one line with a code.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # their scripts come from other servers
        redoc_url=None,
        separate_input_output_schemas=False,
        redirect_slashes=False,  # `Guard` takes the slash at an end away
    )
    app.state.components = station.components
    install_error_handler(app, pages.error_page)
    routers = [api.router, review_api.router, inspect_api.router, export_api.router, audit_api.router]
    routers += [accounts_api.router, *station.routers, sign_in_pages.page_router]
    routers += [audit_api.page_router, pages.page_router]
    for router in routers:
        app.include_router(router)
    _add_health_routes(app)
    if station.settings.openid is not None:
        app.mount(
            COMPANY_PATH, sign_in_pages.company_sign_in_app(station.components, station.settings.openid)
        )
    limited = BodyLimiter(app, lambda: station.settings.limits)
    return Guard(limited, station.access, station.settings, station.say)


def _add_health_routes(app: FastAPI) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        """Answer that the process runs."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    async def readyz(health: HealthDep) -> Response:  # no thread: all may wait for a store that hangs
        """Answer whether pictures can be inspected, and whether the clock jumped, which hinders nothing.

        The sender is unknown: problems have their kinds and times, not their texts, which name parts and
        people.
        """
        problems = [problem for problem in health.problems() if problem.stops or problem.kind in CLOCK_KINDS]
        ready = health.is_ready()
        oldest = round(health.oldest_seconds(), 1)  # how long a part has waited for its answer
        body = {"ready": ready, "problems": [problem.without_text() for problem in problems]}
        body["oldest_waiting_seconds"] = oldest
        return JSONResponse(body, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(metrics: MetricsDep) -> Response:
        text = await metrics.scrape()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


class ServerOptions(TypedDict, total=False):
    """Options of uvicorn that differ between the station's server and the one for a full disk."""

    http: Literal["h11"]
    interface: Literal["asgi3"]
    backlog: int
    limit_concurrency: int
    proxy_headers: bool
    forwarded_allow_ips: str
    timeout_keep_alive: int
    timeout_graceful_shutdown: int


class HttpServer(uvicorn.Server):
    """HTTP server at the host and port of the settings.

    Raises:
        InputError: when it starts, and another program listens there.
    """

    def __init__(self, settings: Settings, app: ASGIApp, **options: Unpack[ServerOptions]):
        self.settings = settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                log_level="error",  # clients cause warnings, as many as they like
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                **options,
            )
        )

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen at the host and port.

        Raises:
            InputError: the address cannot be used.
        """
        try:
            await super().startup(sockets)
        except SystemExit:  # how uvicorn says that the port is taken
            listen_address = f"{self.settings.host}:{self.settings.port}"
            reason = "another program may listen there; choose another --port"
            raise InputError(f"{listen_address} cannot be used: {reason}") from None


class StationServer(HttpServer):
    """HTTP server of a station, whose shutdown also ends requests that would go on for long or for ever.

    Args:
        station: Station that answers.
        started: Called with the URL when the server listens.
        ending: Called when the shutdown begins.
    """

    def __init__(
        self,
        station: Station,
        started: Callable[[str], None] = lambda url: None,
        ending: Callable[[], object] = lambda: None,
    ):
        settings = station.settings
        check_listen_address(settings, station.access)
        super().__init__(
            settings,
            RequestTracker(create_app(station)),
            http="h11",
            backlog=ACCEPT_BATCH,
            proxy_headers=settings.proxy,
            forwarded_allow_ips="127.0.0.1,::1",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        self.station = station
        self._on_started = started
        self._on_ending = ending
        self.connections: set[ClientConnection] = set()
        self._limit_connections(max_connections())

    def _limit_connections(self, max_count: int) -> None:
        """Put a `ClientConnection` before the HTTP protocol that uvicorn has chosen."""
        self.config.load()
        protocol: Any = self.config.http_protocol_class

        def connect(app_state: dict[str, object], **given: object) -> ClientConnection:
            def make_protocol(state: dict[str, object]) -> asyncio.Protocol:
                made: asyncio.Protocol = protocol(app_state=app_state | state, **given)
                return made

            return ClientConnection(make_protocol, self.connections, max_count, self._stall_seconds)

        self.config.http_protocol_class = connect  # type: ignore[assignment]

    def _stall_seconds(self) -> float:
        return self.station.settings.limits.stalled

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen with room for `LISTEN_BACKLOG` new connections, and report the URL."""
        await super().startup(sockets)
        for listener in self.servers[0].sockets:  # asyncio took its batch for the backlog, too
            with socket.fromfd(listener.fileno(), listener.family, listener.type) as duplicate:
                duplicate.listen(LISTEN_BACKLOG)
        if self.started:
            self._on_started(self.url)

    @property
    def url(self) -> str:
        """URL at which the server listens."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @override
    async def on_tick(self, counter: int) -> bool:
        """Close connections that keep the station waiting, twice a second; return whether to stop."""
        if counter % 5 == 0:  # ten are a second
            for connection in list(self.connections):
                connection.close_if_stalled()
        return await super().on_tick(counter)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the station's requests, then close the server."""
        self._on_ending()
        self.station.end_requests()
        await super().shutdown(sockets)


def wait_for_disk_space(settings: Settings, say: Callable[[str], None]) -> None:
    """Wait until the disk has room for a station to start.

    Raises:
        KeyboardInterrupt: a person or a service manager ends the wait.
        InputError: the host or port cannot be used.
    """
    if has_disk_space(settings):
        return
    say(f"{disk_full_text(settings)}; the station starts when there is room")
    DiskFullServer(settings).run()
    if not has_disk_space(settings):
        raise KeyboardInterrupt
    say("there is room: the station starts")


def has_disk_space(settings: Settings) -> bool:
    """Return whether the disk of the store has the bytes free that a station needs to start."""
    folder = Path(settings.store).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(existing).free >= RESERVED_BYTES


def disk_full_text(settings: Settings) -> str:
    """Return the line that says how much must be free, and where."""
    return (
        f"less than {RESERVED_BYTES // 1024**2} MB are free on the disk of {settings.store}; free some space"
    )


class DiskFullServer(HttpServer):
    """HTTP server in place of the station's, until the disk has room."""

    def __init__(self, settings: Settings):
        super().__init__(
            settings,
            self.serve_request,
            interface="asgi3",
            limit_concurrency=50,
            timeout_keep_alive=1,
            timeout_graceful_shutdown=1,
        )

    @override
    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop: the disk has room (looked at once a second), or uvicorn says so."""
        is_over = counter % 10 == 0 and has_disk_space(self.settings)  # ten are a second
        return is_over or await super().on_tick(counter)

    async def serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI). Its sender is unknown, so answers say nothing of the machine."""
        await self._respond(Request(scope))(scope, receive, send)

    def _respond(self, request: Request) -> Response:
        path = request.url.path
        text = "the disk is full; free some space"
        if path == "/healthz":
            return PlainTextResponse("ok\n")
        if path == "/readyz":
            problem = {"code": DISK_FULL, "kind": DISK_FULL, "text": text}
            return JSONResponse({"ready": False, "problems": [problem]}, 503, HEADERS)
        if path.startswith("/api/"):
            return JSONResponse({"error": text, "code": DISK_FULL}, 507, HEADERS)
        accept_language = request.headers.get("accept-language", "")
        t = PAGES.texts_for(request.cookies.get("language"), accept_language)
        title = html.escape(t(f"wrong.{DISK_FULL}"))
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in t(f"remedy.{DISK_FULL}").splitlines())
        page = (
            f'<!doctype html><html lang="{t.language}"><meta name="viewport" content="width=device-width">'
            f'<meta http-equiv="refresh" content="5"><title>{title}</title><h1>{title}</h1>{lines}</html>'
        )
        return HTMLResponse(page, 507, HEADERS)
