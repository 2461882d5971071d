"""The application and its HTTP server, limits on connections, and a page for the time that the disk is full.

uvicorn closes connections that are idle between two requests. It waits for ever for the head of a request and
for a client that does not read its answer, and accepts connections until the process has no files left;
`Connection` ends these. Bodies are timed where they are read (`uploads`).
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
from flawscope.station.store.files import ROOM
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
from flawscope.station.web.middleware import COMPANY, Guard, check_bind
from flawscope.station.web.refusals import install
from flawscope.station.web.templates import chosen, texts
from flawscope.station.web.uploads import Bodies

KEEP_ALIVE = 75  # seconds between two requests of a connection
BATCH = 64  # connections that are accepted before the open ones are served again
QUEUE = 1024  # connections that the system holds until they are accepted; further ones retry after seconds
MOST = 1000  # connections, however many files the process may open
GRACE = 30  # seconds that requests may take to end when the station stops
UNFIT = ("store_unreachable", "no_model", "disk_full")  # problems with which nothing can be inspected
FULL = "disk_full"  # code of the problem
HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'", "Retry-After": "10"}


def most_connections() -> int:
    """Number of connections: half of the files that the process may open, up to `MOST`."""
    if sys.platform == "win32":
        return MOST
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if files == resource.RLIM_INFINITY else max(1, min(MOST, files // 2))


class Connection(H11Protocol):
    """A client's connection. Where there are too many, the one that has kept the station waiting for the
    longest time is closed, those of signed-in people last; never one whose request is being answered.

    Args:
        most: connections that may be open.
        patience: returns the seconds for the head of a request, for a body that nobody reads, and for a
            client to go on reading its answer.
    """

    def __init__(self, *args: Any, most: int, patience: Callable[[], float], **named: Any):
        super().__init__(*args, **named)
        self.most, self.patience = most, patience
        self.is_idle = False  # between two requests
        self.since = self.loop.time()  # when the present wait began

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_signed_in(self) -> bool:
        """Whether the last request came from a person or program that the station knows."""
        return self.scope is not None and self.scope.get(PERSON_KEY) is not None

    @property
    def _may_go(self) -> bool:
        waits = not self.is_busy or self.flow.write_paused
        return waits or (self.cycle.more_body and not self.is_signed_in)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._make_room()

    def _make_room(self) -> None:
        """Close up to an eighth at once: under a flood, a search for each new connection takes too long."""
        waiting = [one for one in self.connections if isinstance(one, Connection) and one._may_go]
        waiting.sort(key=lambda one: (one is self, one.is_signed_in, one.since))
        strangers = (one for one in waiting[1 : self.most // 8] if not (one is self or one.is_signed_in))
        for last in (waiting[0], *strangers):
            last.transport.abort()
            self.connections.discard(last)  # at once: asyncio accepts others before it removes this one

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self.is_idle:
            self.is_idle, self.since = False, self.loop.time()
        super().data_received(data)
        if self.cycle is not before:
            self.since = self.loop.time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.since = self.loop.time()
        state = self.conn.their_state.__name__
        self.is_idle = not self.is_busy and state == "IDLE" and not self.conn.trailing_data[0]

    def pause_writing(self) -> None:
        super().pause_writing()
        self.since = self.loop.time()

    def expire(self) -> None:
        """Close the connection if it has kept the station waiting for too long."""
        waited = self.loop.time() - self.since
        if (self.is_busy and not self.flow.write_paused) or waited < self._limit:
            return
        if self.transport.is_closing():
            self.transport.abort()  # nobody reads the rest of the answer
        else:
            self.transport.close()
            self.since = self.loop.time()

    @property
    def _limit(self) -> float:
        is_idle = self.is_idle and not self.flow.write_paused  # the client has read the last answer
        return KEEP_ALIVE if is_idle else self.patience()


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
    install(app, pages.problem_page)
    for module in (api, inspect_api, records_api, models_api, shifts_api, setup_api, settings_api):
        app.include_router(module.router)
    app.include_router(records_api.audits)
    shifts_api.render_with(station)
    _health(app, station)
    if station.settings.openid is not None:
        app.mount(COMPANY, sign_in_pages.company_pages(station, station.settings.openid))
    for pages_of in (sign_in_pages, records_api, setup_api, settings_api, pages):
        app.include_router(pages_of.page)
    return Guard(Bodies(app, lambda: station.settings.limits), station.access, station.settings)


def _health(app: FastAPI, station: Station) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        """Answer that the process runs."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> Response:
        """Answer whether pictures can be inspected, and whether the clock jumped, which hinders nothing."""
        problems = [one for one in station.problems() if one.code in (*UNFIT, "clock")]
        ready = all(one.code == "clock" for one in problems)
        said = {"ready": ready, "problems": [one.to_dict() for one in problems]}
        return JSONResponse(said, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        return Response(station.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


class Listener(uvicorn.Server):
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
        except SystemExit:  # uvicorn's word for a port that is taken
            there = f"{self.settings.host}:{self.settings.port}"
            why = "another program may listen there; choose another --port"
            raise InputError(f"{there} cannot be used: {why}") from None


class Server(Listener):
    """HTTP server of a station. Shutdown ends the streams of open pages, which would go on for ever."""

    def __init__(self, station: Station, started: Callable[[str], None] = lambda url: None):
        settings = station.settings
        check_bind(settings, station.access)
        connection = partial(
            Connection, most=most_connections(), patience=lambda: station.settings.limits.stalled
        )
        proxy = {"proxy_headers": settings.proxy, "forwarded_allow_ips": "127.0.0.1,::1"}
        ends = {"timeout_keep_alive": KEEP_ALIVE, "timeout_graceful_shutdown": GRACE}
        super().__init__(settings, create_app(station), http=connection, backlog=BATCH, **proxy, **ends)
        self.station, self._tell = station, started

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for one in self.servers[0].sockets:  # asyncio accepts as many at once as it lets the system hold
            with socket.fromfd(one.fileno(), one.family, one.type) as same:
                same.listen(QUEUE)
        if self.started:
            self._tell(self.url)

    @property
    def url(self) -> str:
        """URL at which the server listens."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def on_tick(self, counter: int) -> bool:
        if counter % 5 == 0:  # ten are a second
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.expire()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: Any = None) -> None:
        self.station.live.close()
        await super().shutdown(sockets)


def wait_for_room(settings: Settings, say: Callable[[str], None]) -> None:
    """Wait until the disk has room for a station to start.

    Raises:
        KeyboardInterrupt: a person or a service manager ends the wait.
        InputError: the host or port cannot be used.
    """
    if has_room(settings):
        return
    say(f"{why(settings)}; the station starts when there is room")
    Waiting(settings).run()
    if not has_room(settings):
        raise KeyboardInterrupt
    say("there is room: the station starts")


def has_room(settings: Settings) -> bool:
    folder = Path(settings.store).absolute()
    there = next(one for one in (folder, *folder.parents) if one.is_dir())
    return shutil.disk_usage(there).free >= ROOM


def why(settings: Settings) -> str:
    return f"less than {ROOM // 1024**2} MB are free on the disk of {settings.store}; free some space"


class Waiting(Listener):
    """HTTP server in place of the station's, until there is room."""

    def __init__(self, settings: Settings):
        ends = {"timeout_keep_alive": 1, "timeout_graceful_shutdown": 1}
        super().__init__(settings, self.answer, interface="asgi3", limit_concurrency=50, **ends)

    async def on_tick(self, counter: int) -> bool:
        enough = counter % 10 == 0 and has_room(self.settings)  # ten are a second
        return enough or await super().on_tick(counter)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI application. The sender is not known, so answers tell nothing of the machine."""
        await self._answer(Request(scope))(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        path, text = request.url.path, "the disk is full; free some space"
        if path == "/healthz":
            return PlainTextResponse("ok\n")
        if path == "/readyz":
            problem = {"code": FULL, "kind": FULL, "text": text}
            return JSONResponse({"ready": False, "problems": [problem]}, 503, HEADERS)
        if path.startswith("/api/"):
            return JSONResponse({"error": text, "code": FULL}, 507, HEADERS)
        t = texts(chosen(request.cookies.get("language"), request.headers.get("accept-language", "")))
        title = html.escape(t(f"wrong.{FULL}"))
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in t(f"remedy.{FULL}").splitlines())
        page = (
            f'<!doctype html><html lang="{t.language}"><meta name="viewport" content="width=device-width">'
            f'<meta http-equiv="refresh" content="5"><title>{title}</title><h1>{title}</h1>{lines}</html>'
        )
        return HTMLResponse(page, 507, HEADERS)
