"""Connections and bodies that never end: they are let go, and keep nobody else out."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from flawscope_station.access.roles import PERSON_KEY
from flawscope_station.settings.station import Limits
from flawscope_station.web import app as app_module
from flawscope_station.web.uploads import BodyLimiter
from station_helpers import INSPECTIONS, Running, until

pytestmark = pytest.mark.listens

HALF = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "
BODY = b"POST /%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nx"


@contextmanager
def sent(running: Running, *data: bytes) -> Iterator[list[socket.socket]]:
    """Connections, each of which sends something and no more."""
    with ExitStack() as several:
        found = []
        for one in data:
            made = socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])))
            found.append(several.enter_context(made))
            made.settimeout(30)
            made.sendall(one)
        yield found


def closed(one: socket.socket) -> bytes:
    """What came until the other end closed it."""
    said = b""
    try:
        while more := one.recv(65536):
            said += more
    except ConnectionResetError:
        pass
    return said


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HALF,
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + HALF,  # the second one of a connection
        BODY % b"healthz",  # nobody reads it
    ],
)
def test_a_request_that_never_ends_is_let_go(open_station, data):
    running = open_station(limits=Limits(stalled=0.3))
    with sent(running, data) as (one,):
        begun = time.monotonic()
        closed(one)
        assert time.monotonic() - begun < 20


def test_an_answer_that_nobody_reads_is_let_go(open_station, parts):
    running = open_station(limits=Limits(stalled=0.3, upload="20 MB"))
    large = parts[0] + bytes(15 << 20)  # what follows a PNG is not read
    there = f"{running.url}/api/v1/{INSPECTIONS}"
    number = httpx.post(there, content=large, timeout=60).json()["id"]
    asked = f"GET /api/v1/{INSPECTIONS}/{number}/picture HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with sent(running, asked.encode()):
        until(lambda: not running.server.connections)


def test_connections_that_wait_make_room_for_those_that_ask(open_station, monkeypatch, parts):
    """The oldest ones go first, and of signed-in people none."""
    monkeypatch.setattr(app_module, "max_connections", lambda: 8)
    running = open_station()
    with httpx.Client(base_url=running.url, timeout=60) as person, sent(running, *([HALF] * 30)) as several:
        for _ in range(3):
            assert person.get("/api/v1/status").status_code == 200
            assert httpx.get(f"{running.url}/readyz", timeout=60).status_code == 200
        posted = person.post(f"/api/v1/{INSPECTIONS}", content=parts[0])
        assert posted.status_code == 201
        assert len(running.server.connections) <= 8
        for one in several[:20]:
            closed(one)


def test_bodies_are_bounded_together_and_an_ordinary_one_finds_room(open_station, parts):
    """limits: upload is 1 MB here: 4 MB for all, 3 MB for those of more than 256 KB."""
    running = open_station(limits=Limits(upload="1 MB", stalled=20))
    head = f"POST /api/v1/{INSPECTIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
    half = f"{head}Content-Length: {1 << 20}\r\n\r\n".encode() + bytes(3 << 18)
    bodies = running.server.config.app.app.app
    with sent(running, *([half] * 3)) as several:
        until(lambda: bodies.bytes_in_memory >= 3 * (3 << 18))
        with sent(running, half) as (further,):
            assert b" 503 " in further.recv(4096).split(b"\r\n")[0], "it was told when it began"
        assert httpx.post(f"{running.url}/api/v1/{INSPECTIONS}", content=parts[0]).status_code == 201
        for one in several:
            one.close()
    until(lambda: bodies.bytes_in_memory == 0)


def test_a_body_that_trickles_is_let_go(open_station):
    """Something comes all the time, and too little."""
    running = open_station(limits=Limits(stalled=0.5))
    with sent(running, BODY % f"api/v1/{INSPECTIONS}".encode()) as (one,):
        one.setblocking(False)
        answer, begun = b"", time.monotonic()
        while not answer and time.monotonic() - begun < 30:
            time.sleep(0.05)
            one.send(b"x")
            try:
                answer = one.recv(4096)
            except BlockingIOError:
                continue
        assert b" 408 " in answer.split(b"\r\n")[0]


def test_a_client_is_not_blamed_for_what_held_up_the_station():
    """The event loop is blocked for longer than a client may be silent, while the client's bytes wait."""

    calls = []

    async def receive() -> dict[str, Any]:
        calls.append(True)
        if len(calls) == 1:
            asyncio.get_running_loop().call_later(0.01, time.sleep, 0.5)  # blocks the loop
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"whole"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"whole"

    bodies = BodyLimiter(app, lambda: Limits(stalled=0.1))
    scope = {"type": "http", "headers": [], PERSON_KEY: "inspect"}
    asyncio.run(bodies(scope, receive, None))
    assert len(calls) == 2


def test_who_has_not_signed_in_sends_little(running):
    running.station.access.users.add("anna", "a long password", "admin")
    with httpx.Client(base_url=running.url, headers={"Origin": running.url}, timeout=60) as stranger:
        for password, status in {"x" * 100_000: 413, "x": 401}.items():
            sent = stranger.post("/sign-in", data={"name": "anna", "password": password})
            assert sent.status_code == status
