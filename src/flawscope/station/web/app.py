"""The application: API, pages, health, and what stands around them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from flawscope._version import __version__
from flawscope.station.station import Station
from flawscope.station.web import api, audit_api, error_handlers, inspect_api, models_api, pages
from flawscope.station.web.bodies import Bodies
from flawscope.station.web.connections import BATCH, KEEP_ALIVE, QUEUE, Connection, most_connections
from flawscope.station.web.middleware import Guard, Refused, answer_refused, check_bind
from flawscope.station.web.waiting import taken

GRACE = 30  # seconds that requests may take to end when the station stops
UNFIT = ("store_unreachable", "no_model", "disk_full")  # problems with which nothing can be inspected


def create_app(station: Station) -> Any:
    """The ASGI application of a station that was started."""
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
    error_handlers.install(app, pages.problem_page)
    app.add_exception_handler(Refused, answer_refused)
    for module in (api, inspect_api, models_api, audit_api):
        app.include_router(module.router)
    _health(app, station)
    app.include_router(audit_api.page)
    app.include_router(pages.router)
    return Guard(Bodies(app, station.settings.limits), station.access, station.settings)


def _health(app: FastAPI, station: Station) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        """The process answers."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> Response:
        """Pictures can be inspected; and a clock that jumped, which does not hinder it."""
        problems = [one for one in station.problems() if one.code in (*UNFIT, "clock")]
        ready = all(one.code == "clock" for one in problems)
        said = {"ready": ready, "problems": [one.to_dict() for one in problems]}
        return JSONResponse(said, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        return Response(station.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


class Server(uvicorn.Server):
    """Ends the streams of open pages first: they would go on for ever."""

    def __init__(self, station: Station, started: Callable[[str], None] = lambda url: None):
        settings = station.settings
        check_bind(settings, station.access)
        config = uvicorn.Config(
            create_app(station),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=settings.proxy,
            forwarded_allow_ips="127.0.0.1,::1",
            timeout_keep_alive=KEEP_ALIVE,
            backlog=BATCH,
            http=partial(Connection, most=most_connections(), patience=settings.limits.stalled),  # type: ignore[arg-type]
            timeout_graceful_shutdown=GRACE,
            lifespan="off",
            ws="none",
        )
        super().__init__(config)
        self.station, self._tell = station, started

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn's word for a port that is taken
            raise taken(self.station.settings) from None
        for one in self.servers[0].sockets:  # asyncio accepts as many at once as it lets the system hold
            with socket.fromfd(one.fileno(), one.family, one.type) as same:
                same.listen(QUEUE)
        if self.started:
            self._tell(self.url)

    @property
    def url(self) -> str:
        """Where it listens."""
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
