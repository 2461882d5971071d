"""In the place of a station whose disk is too full to start: a page that says so, until there is room."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from flawscope.errors import InputError
from flawscope.station.settings.station import Settings
from flawscope.station.store.files import ROOM
from flawscope.station.web.texts import chosen, texts

FULL = "disk_full"  # code of the problem
HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'", "Retry-After": "10"}


def wait_for_room(settings: Settings, say: Callable[[str], None]) -> None:
    """Return when there is room for a station to start, at once where there is.

    Raises:
        KeyboardInterrupt: a person, or a service manager, ends it.
        InputError: nobody can listen there.
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


class Waiting(uvicorn.Server):
    """Listens where the station will, until there is room."""

    def __init__(self, settings: Settings):
        self.settings = settings
        super().__init__(
            uvicorn.Config(
                self.answer,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                interface="asgi3",
                server_header=False,
                limit_concurrency=50,
                timeout_keep_alive=1,
                timeout_graceful_shutdown=1,
            )
        )

    async def on_tick(self, counter: int) -> bool:
        enough = counter % 10 == 0 and has_room(self.settings)  # ten are a second
        return enough or await super().on_tick(counter)

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:
            raise taken(self.settings) from None

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application. Who asks is not known: nothing is told of the machine."""
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


def taken(settings: Settings) -> InputError:
    """The address is another program's."""
    return InputError(
        f"{settings.host}:{settings.port} cannot be used: another program may listen there; choose "
        "another --port"
    )
