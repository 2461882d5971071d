"""The station's web application and its HTTP server, and another server while the disk is full."""

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
from flawscope_station.web.field_descriptions import DescribedApp
from flawscope_station.web.middleware import COMPANY_PATH, Guard, check_listen_address
from flawscope_station.web.templates import PAGES
from flawscope_station.web.uploads import BodyLimiter

ACCEPT_BATCH = 64  # new connections that are accepted before the open connections are served again
LISTEN_BACKLOG = 1024  # new connections that the system keeps until they are accepted
MAX_CONNECTIONS = 1000  # open connections, even where the process may open more files
SHUTDOWN_SECONDS = 30  # time in which requests may end when the station stops
DISK_FULL = "disk_full"  # code of the problem
CLOCK_KINDS = ("clock", "clock_jumped")  # kinds of problems that `/readyz` names though they stop nothing
HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'", "Retry-After": "10"}


def max_connections() -> int:
    """Return the largest number of open connections.

    It is half the number of files that the process may open, but at most `MAX_CONNECTIONS`.
    """
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    max_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if max_files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, max_files // 2))


def create_app(station: Station) -> ASGIApp:
    """Make the ASGI application of a station that was started."""
    app = DescribedApp(
        title="flawscope station",
        version=__version__,
        description="Pictures in, decisions out. Errors are one line with a code.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # the scripts of these pages come from other servers
        redoc_url=None,
        separate_input_output_schemas=False,
        redirect_slashes=False,  # `Guard` removes a slash at the end
    )
    app.state.components = station.components
    install_error_handler(app, pages.error_page)
    routers = [
        api.router,
        review_api.router,
        inspect_api.router,
        export_api.router,
        audit_api.router,
        accounts_api.router,
        *station.routers,
        sign_in_pages.page_router,
        audit_api.page_router,
        pages.page_router,
    ]
    for router in routers:
        app.include_router(router)
    _add_health_routes(app)
    if station.settings.openid is not None:
        company_app = sign_in_pages.company_sign_in_app(station.components, station.settings.openid)
        app.mount(COMPANY_PATH, company_app)
    limited_app = BodyLimiter(app, lambda: station.settings.limits)
    return Guard(limited_app, station.access, station.settings, station.say)


def _add_health_routes(app: FastAPI) -> None:
    """Add the routes for monitoring: `/healthz`, `/readyz` and `/metrics`."""

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        """Answer that the process runs."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    async def readyz(health: HealthDep) -> Response:  # async: all threads may wait for a store that hangs
        """Answer whether pictures can be inspected.

        The answer lists the problems that stop inspections, and problems of the clock. Anybody may request
        it: problems are listed without their texts, because these name parts and people.
        """
        problems = [problem for problem in health.problems() if problem.stops or problem.kind in CLOCK_KINDS]
        is_ready = health.is_ready()
        body = {
            "ready": is_ready,
            "problems": [problem.without_text() for problem in problems],
            "oldest_waiting_seconds": round(health.oldest_seconds(), 1),
        }
        return JSONResponse(body, 200 if is_ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(metrics: MetricsDep) -> Response:
        """Return the station's metrics for Prometheus."""
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

    Args:
        settings: Settings of the station.
        app: Application that answers the requests.
        options: Further options of uvicorn.
    """

    def __init__(self, settings: Settings, app: ASGIApp, **options: Unpack[ServerOptions]):
        self.settings = settings
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                log_level="error",  # any client could fill the log with warnings
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
            InputError: The address cannot be used.
        """
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn raises it where the port is in use
            listen_address = f"{self.settings.host}:{self.settings.port}"
            reason = "another program may listen there; choose another --port"
            raise InputError(f"{listen_address} cannot be used: {reason}") from None


class StationServer(HttpServer):
    """HTTP server of a station. Its shutdown also ends requests that would go on for long, or forever.

    Args:
        station: Station that answers.
        started: Called with the server's URL when the server listens.
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
        """Let uvicorn make a `ClientConnection` for each connection, around its own HTTP protocol.

        uvicorn calls `http_protocol_class` for each connection, with the application's state as the keyword
        `app_state`.

        Args:
            max_count: Largest number of open connections.
        """
        self.config.load()
        protocol_class: Any = self.config.http_protocol_class

        def make_connection(app_state: dict[str, object], **arguments: object) -> ClientConnection:
            # requests get one state, with the values of the application's and of their connection's state
            def make_protocol(connection_state: dict[str, object]) -> asyncio.Protocol:
                all_state = app_state | connection_state
                protocol: asyncio.Protocol = protocol_class(app_state=all_state, **arguments)
                return protocol

            return ClientConnection(make_protocol, self.connections, max_count, self._stall_seconds)

        self.config.http_protocol_class = make_connection  # type: ignore[assignment]

    def _stall_seconds(self) -> float:
        return self.station.settings.limits.stalled

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen with room for `LISTEN_BACKLOG` new connections, and report the URL."""
        await super().startup(sockets)
        # asyncio uses one number both for the connections that it accepts at a time and for the backlog.
        # A second call of `listen` changes only the backlog.
        for listener in self.servers[0].sockets:
            with socket.fromfd(listener.fileno(), listener.family, listener.type) as duplicate:
                duplicate.listen(LISTEN_BACKLOG)
        if self.started:
            self._on_started(self.url)

    @property
    def url(self) -> str:
        """URL at which the server listens."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        is_ipv6 = ":" in host
        return f"http://[{host}]:{port}" if is_ipv6 else f"http://{host}:{port}"

    @override
    async def on_tick(self, counter: int) -> bool:
        """Close connections that keep the station waiting; return whether the server is to stop.

        uvicorn calls this ten times a second, with a counter; connections are checked twice a second.
        """
        if counter % 5 == 0:
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
        KeyboardInterrupt: A person or a service manager ends the wait.
        InputError: The host or port cannot be used.
    """
    if has_disk_space(settings):
        return
    say(f"{disk_full_text(settings)}; the station starts when there is room")
    DiskFullServer(settings).run()
    if not has_disk_space(settings):  # the server ended for another reason: a person or a manager ended it
        raise KeyboardInterrupt
    say("there is room: the station starts")


def has_disk_space(settings: Settings) -> bool:
    """Return whether the disk of the store has enough free space for a station to start."""
    folder = Path(settings.store).absolute()
    # the store's folder, or the nearest folder above it that exists
    existing_folder = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(existing_folder).free >= RESERVED_BYTES


def disk_full_text(settings: Settings) -> str:
    """Return a message for people: the disk is full."""
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
        """Return whether the server is to stop: because the disk has room, or because uvicorn ends.

        uvicorn calls this ten times a second, with a counter; the disk is checked once a second.
        """
        if counter % 10 == 0 and has_disk_space(self.settings):
            return True
        return await super().on_tick(counter)

    async def serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI). The sender may be anybody: answers only say that the disk is full."""
        response = self._make_response(Request(scope))
        await response(scope, receive, send)

    def _make_response(self, request: Request) -> Response:
        """Return the answer that the disk is full: JSON for programs, or a page that reloads itself."""
        path = request.url.path
        text = "the disk is full; free some space"
        if path == "/healthz":  # the process lives: a restart would not help
            return PlainTextResponse("ok\n")
        if path == "/readyz":
            problem = {"code": DISK_FULL, "kind": DISK_FULL, "text": text}
            return JSONResponse({"ready": False, "problems": [problem]}, 503, HEADERS)
        if path.startswith("/api/"):
            return JSONResponse({"error": text, "code": DISK_FULL}, 507, HEADERS)
        accept_language = request.headers.get("accept-language", "")
        texts = PAGES.texts_for(request.cookies.get("language"), accept_language)
        title = html.escape(texts(f"wrong.{DISK_FULL}"))
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in texts(f"remedy.{DISK_FULL}").splitlines())
        page = (
            f'<!doctype html><html lang="{texts.language}">'
            '<meta name="viewport" content="width=device-width">'
            f'<meta http-equiv="refresh" content="5"><title>{title}</title><h1>{title}</h1>{lines}</html>'
        )
        return HTMLResponse(page, 507, HEADERS)
