"""The application and its HTTP server, limits on connections, and a page for the time that the disk is full.

uvicorn closes connections that are idle between two requests. It waits for ever for the head of a request and
for a client that does not read its answer, and accepts connections until the process has no files left;
`ClientConnection` closes these. Bodies are timed where they are read (`uploads`).
"""

from __future__ import annotations

import html
import shutil
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from flawscope._version import __version__
from flawscope.errors import InputError
from flawscope.station.access.roles import PERSON_KEY
from flawscope.station.settings.station import Settings
from flawscope.station.station import Station
from flawscope.station.store.files import RESERVED_BYTES
from flawscope.station.web import (
    api,
    inspect_api,
    models_api,
    pages,
    records_api,
    settings_api,
    setup_api,
    shifts_api,
    sign_in_pages,
)
from flawscope.station.web.middleware import COMPANY_PATH, Guard, check_listen_address
from flawscope.station.web.refusals import install_error_handler
from flawscope.station.web.templates import choose_language, texts
from flawscope.station.web.uploads import BodyLimiter

KEEP_ALIVE_SECONDS = 75  # between two requests of a connection
ACCEPT_BATCH = 64  # new connections that are accepted before the open ones are served again
LISTEN_BACKLOG = 1024  # new connections that the system keeps until they are accepted
MAX_CONNECTIONS = 1000  # also where the process may open more files
SHUTDOWN_SECONDS = 30  # in which requests may end when the station stops
DISK_FULL = "disk_full"  # code of the problem
UNREADY_CODES = ("store_unreachable", "no_model", DISK_FULL)  # problems that make inspecting impossible
HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'", "Retry-After": "10"}


def max_connections() -> int:
    """Return half of the number of files that the process may open, `MAX_CONNECTIONS` at most."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, files // 2))


class ClientConnection(H11Protocol):
    """A client's connection. Where there are too many, the one that has kept the station waiting for the
    longest time is closed, those of signed-in people last; never one whose request is being answered.

    Args:
        max_count: connections that may be open.
        timeout: returns the seconds in which the head of a request must come, a body that nobody reads
            must end, and a client must go on reading its answer.
    """

    def __init__(self, *args: Any, max_count: int, timeout: Callable[[], float], **keywords: Any):
        super().__init__(*args, **keywords)
        self.max_count, self.timeout = max_count, timeout
        self.is_idle = False  # between two requests
        self.waiting_since = self.loop.time()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_signed_in(self) -> bool:
        """Whether the last request came from a person or program that the station knows."""
        return self.scope is not None and self.scope.get(PERSON_KEY) is not None

    @property
    def _is_closable(self) -> bool:
        waits = not self.is_busy or self.flow.write_paused
        return waits or (self.cycle.more_body and not self.is_signed_in)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.max_count:
            self._close_longest_waiting()

    def _close_longest_waiting(self) -> None:
        """Close up to an eighth at once: searching for each new connection is too slow under a flood."""
        waiting = [c for c in self.connections if isinstance(c, ClientConnection) and c._is_closable]
        waiting.sort(key=lambda c: (c is self, c.is_signed_in, c.waiting_since))
        strangers = (c for c in waiting[1 : self.max_count // 8] if not (c is self or c.is_signed_in))
        for closed in (waiting[0], *strangers):
            closed.transport.abort()
            self.connections.discard(closed)  # at once: asyncio accepts others before it removes this one

    def data_received(self, data: bytes) -> None:
        previous_cycle = self.cycle
        if self.is_idle:
            self.is_idle, self.waiting_since = False, self.loop.time()
        super().data_received(data)
        if self.cycle is not previous_cycle:
            self.waiting_since = self.loop.time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.waiting_since = self.loop.time()
        state = self.conn.their_state.__name__
        self.is_idle = not self.is_busy and state == "IDLE" and not self.conn.trailing_data[0]

    def pause_writing(self) -> None:
        super().pause_writing()
        self.waiting_since = self.loop.time()

    def close_if_stalled(self) -> None:
        """Close the connection if it has kept the station waiting for too long."""
        waited = self.loop.time() - self.waiting_since
        if (self.is_busy and not self.flow.write_paused) or waited < self._timeout:
            return
        if self.transport.is_closing():
            self.transport.abort()  # nobody reads the rest of the answer
        else:
            self.transport.close()
            self.waiting_since = self.loop.time()

    @property
    def _timeout(self) -> float:
        is_idle = self.is_idle and not self.flow.write_paused  # the client has read the last answer
        return KEEP_ALIVE_SECONDS if is_idle else self.timeout()


def create_app(station: Station) -> Any:
    """Make the ASGI application of a station that was started."""
    app = FastAPI(
        title="flawscope station",
        version=__version__,
        description="Pictures in, decisions out. Errors are one line with a code.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # their scripts come from other servers
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.station = station
    install_error_handler(app, pages.error_page)
    for module in (api, inspect_api, records_api, models_api, shifts_api, setup_api, settings_api):
        app.include_router(module.router)
    app.include_router(records_api.audit_router)
    shifts_api.install_report_renderer(station)
    _add_health_routes(app, station)
    if station.settings.openid is not None:
        app.mount(COMPANY_PATH, sign_in_pages.company_sign_in_app(station, station.settings.openid))
    for pages_of in (sign_in_pages, records_api, setup_api, settings_api, pages):
        app.include_router(pages_of.page_router)
    return Guard(BodyLimiter(app, lambda: station.settings.limits), station.access, station.settings)


def _add_health_routes(app: FastAPI, station: Station) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        """Answer that the process runs."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> Response:
        """Answer whether pictures can be inspected, and whether the clock jumped, which hinders nothing."""
        problems = [problem for problem in station.problems() if problem.code in (*UNREADY_CODES, "clock")]
        ready = all(problem.code == "clock" for problem in problems)
        body = {"ready": ready, "problems": [problem.to_dict() for problem in problems]}
        return JSONResponse(body, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        return Response(station.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


class HttpServer(uvicorn.Server):
    """HTTP server at the settings' host and port. InputError where another program listens there."""

    def __init__(self, settings: Settings, app: Any, **more: Any):
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
                **more,
            )
        )

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # how uvicorn says that the port is taken
            listen_address = f"{self.settings.host}:{self.settings.port}"
            reason = "another program may listen there; choose another --port"
            raise InputError(f"{listen_address} cannot be used: {reason}") from None


class StationServer(HttpServer):
    """HTTP server of a station. Shutdown ends the streams of open pages, which would go on for ever."""

    def __init__(self, station: Station, started: Callable[[str], None] = lambda url: None):
        settings = station.settings
        check_listen_address(settings, station.access)
        connection = partial(
            ClientConnection, max_count=max_connections(), timeout=lambda: station.settings.limits.stalled
        )
        proxy = {"proxy_headers": settings.proxy, "forwarded_allow_ips": "127.0.0.1,::1"}
        timeouts = {"timeout_keep_alive": KEEP_ALIVE_SECONDS, "timeout_graceful_shutdown": SHUTDOWN_SECONDS}
        options = {**proxy, **timeouts}
        super().__init__(settings, create_app(station), http=connection, backlog=ACCEPT_BATCH, **options)
        self.station, self._on_started = station, started

    async def startup(self, sockets: Any = None) -> None:
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

    async def on_tick(self, counter: int) -> bool:
        if counter % 5 == 0:  # ten are a second
            for connection in list(self.server_state.connections):
                assert isinstance(connection, ClientConnection)
                connection.close_if_stalled()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: Any = None) -> None:
        self.station.live.close()
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
    folder = Path(settings.store).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(existing).free >= RESERVED_BYTES


def disk_full_text(settings: Settings) -> str:
    return (
        f"less than {RESERVED_BYTES // 1024**2} MB are free on the disk of {settings.store}; free some space"
    )


class DiskFullServer(HttpServer):
    """HTTP server in place of the station's, until the disk has room."""

    def __init__(self, settings: Settings):
        timeouts = {"timeout_keep_alive": 1, "timeout_graceful_shutdown": 1}
        super().__init__(settings, self.serve_request, interface="asgi3", limit_concurrency=50, **timeouts)

    async def on_tick(self, counter: int) -> bool:
        is_over = counter % 10 == 0 and has_disk_space(self.settings)  # ten are a second
        return is_over or await super().on_tick(counter)

    async def serve_request(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request (ASGI). Its sender is unknown, so answers say nothing of the machine."""
        await self._respond(Request(scope))(scope, receive, send)

    def _respond(self, request: Request) -> Response:
        path, text = request.url.path, "the disk is full; free some space"
        if path == "/healthz":
            return PlainTextResponse("ok\n")
        if path == "/readyz":
            problem = {"code": DISK_FULL, "kind": DISK_FULL, "text": text}
            return JSONResponse({"ready": False, "problems": [problem]}, 503, HEADERS)
        if path.startswith("/api/"):
            return JSONResponse({"error": text, "code": DISK_FULL}, 507, HEADERS)
        accept_language = request.headers.get("accept-language", "")
        t = texts(choose_language(request.cookies.get("language"), accept_language))
        title = html.escape(t(f"wrong.{DISK_FULL}"))
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in t(f"remedy.{DISK_FULL}").splitlines())
        page = (
            f'<!doctype html><html lang="{t.language}"><meta name="viewport" content="width=device-width">'
            f'<meta http-equiv="refresh" content="5"><title>{title}</title><h1>{title}</h1>{lines}</html>'
        )
        return HTMLResponse(page, 507, HEADERS)
