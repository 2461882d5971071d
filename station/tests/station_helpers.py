"""What the tests and `bench/station.py` share: a PostgreSQL of one's own, stations in processes of their own,
clients that load them, broken pictures. Knows nothing of pytest."""

from __future__ import annotations

import glob
import hashlib
import io
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import psycopg
from anyio.from_thread import start_blocking_portal
from PIL import Image
from sqlalchemy import update

from flawscope_station.assembly import open_station
from flawscope_station.core.station import Station
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.monitoring.background import MonotonicClock
from flawscope_station.settings.station import Settings
from flawscope_station.store.clock import Clock
from flawscope_station.store.database import Database, now
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.insert import NewInspection, SeenPicture
from flawscope_station.store.records import Store
from flawscope_station.store.schema import HOUR, hours, inspections, versions
from flawscope_station.store.search import Filters
from flawscope_station.web.app import StationServer, create_app

NAME = "plate"  # the product
INSPECTIONS = f"products/{NAME}/inspections"
PATIENCE = 240.0  # seconds that a test waits: a busy machine needs them, others do not
NOISE = np.random.default_rng(0)
_numbers = count()


def until(true: Callable[[], Any], what: str | Callable[[], object] = "it did not come true in time") -> Any:
    """What it gives as soon as that is something. what: said, or called to say what is there instead."""
    end, pause = time.monotonic() + PATIENCE, 0.01
    while not (found := true()):
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(pause)
        pause = min(1.3 * pause, 0.1)  # asking may cost more than what is waited for
    return found


def failing(error: BaseException, times: int = 10**9, then: Callable[..., Any] | None = None) -> Any:
    """A function that fails so many times."""
    left = [times]

    def fail(*args: Any, **keywords: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            return then(*args, **keywords)
        raise error

    return fail


def delayed(call: Callable[..., Any], event: threading.Event) -> Callable[..., Any]:
    """The same, as soon as something has happened."""

    def wait(*args: Any, **keywords: Any) -> Any:
        assert event.wait(PATIENCE)
        return call(*args, **keywords)

    return wait


class ManualClock(MonotonicClock):
    """Stands still until a test advances it."""

    def __init__(self) -> None:
        self._now, self._advanced = time.monotonic(), threading.Condition()

    def monotonic(self) -> float:
        return self._now

    def wait(self, event: threading.Event, seconds: float | None = None) -> bool:
        end = math.inf if seconds is None else self._now + seconds
        with self._advanced:
            while not event.is_set() and self._now < end:
                self._advanced.wait(0.005)  # nobody tells it of the event
        return event.is_set()

    def advance(self, seconds: float) -> None:
        with self._advanced:
            self._now += seconds
            self._advanced.notify_all()


class Unavailable(Exception):
    """No PostgreSQL can be started here; why."""


# ------------------------------------------------------------------------------------------------- PostgreSQL


@dataclass
class Postgres:
    """A cluster of its own, reached through a socket in its folder.

    user: whom root becomes, who may not run it. durable: as others run it; else nothing is flushed, and it
    survives the end of its processes, but no power cut.
    """

    programs: Path
    folder: Path
    user: str = ""
    durable: bool = False

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c max_connections=200"
        options += "" if self.durable else " -c fsync=off -c full_page_writes=off"
        self._call("pg_ctl", "-w", "-s", "-D", self.data, "-l", self.folder / "log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._call("pg_ctl", "-w", "-s", "-D", self.data, "-m", mode, "stop")

    def make(self) -> None:
        words = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]
        words += [] if self.durable else ["--wal-segsize=1"]
        if int(self.programs.parent.name if self.programs.parent.name.isdigit() else 0) >= 15:
            # letters in a dictionary's order, as on most servers: not in that of their codes
            words += ["--locale-provider=icu", "--icu-locale=en-US"]
        self._call("initdb", "-D", self.data, *words)

    @contextmanager
    def database(self, letters: str | None = None) -> Iterator[str]:
        """A new one, with this encoding or the server's; its URL as a settings file has it."""
        how = f" ENCODING '{letters}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0" if letters else ""
        name = f"station_{next(_numbers)}"
        self._say(f"CREATE DATABASE {name}{how}")
        yield self.url(name)
        self._say(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def _say(self, sql: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _call(self, program: str, *words: str | Path) -> None:
        command = [str(self.programs / program), *map(str, words)]
        if self.user:
            command = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--init-groups", *command]
        # pg_ctl hands its pipes on to the server, which keeps them open
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(command, stdout=said, stderr=said, cwd=self.folder, timeout=120)
            said.seek(0)
            assert done.returncode == 0, f"{program}: {said.read().decode(errors='replace')}"


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL that is installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = [Path(one).parent for one in glob.glob("/usr/lib/postgresql/*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """Raises Unavailable where that cannot be."""
    programs = postgres_programs()
    if programs is None:
        raise Unavailable("PostgreSQL is not installed: apt-get install postgresql")
    user = ""
    if os.geteuid() == 0:
        user = "postgres"
        if not shutil.which("setpriv"):
            raise Unavailable("PostgreSQL does not run as root: apt-get install util-linux")
    # short, for a socket's path, and below no folder that another user cannot enter
    folder = Path(tempfile.mkdtemp(prefix="flawscope-pg-"))
    try:
        if user:
            try:
                shutil.chown(folder, user, user)
            except LookupError:
                raise Unavailable(f"no user {user} for PostgreSQL: apt-get install postgresql") from None
        cluster = Postgres(programs, folder, user, durable)
        cluster.make()
        cluster.start()
        try:
            yield cluster
        finally:
            with suppress(AssertionError):  # a test may have stopped it
                cluster.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------ stations to kill


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Served:
    """`flawscope serve` in a process of its own. environment: beside that of this process."""

    words: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    log: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, patience: float = PATIENCE) -> None:
        """Returns when it is ready for pictures."""
        self.begin()
        assert self.process is not None
        begun = time.monotonic()
        while time.monotonic() - begun < patience:
            assert self.process.poll() is None, f"it ended: {self.said()}"
            try:
                told = {one["kind"] for one in httpx.get(f"{self.url}/readyz", timeout=2).json()["problems"]}
                if told <= {"clock", "challenge", "camera_away"}:  # it runs, and waits for people
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"not ready after {patience} s: {self.said()}")

    def begin(self) -> None:
        """Returns at once."""
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this)
        command = [sys.executable, "-m", "flawscope", "serve", *self.words, "--port", str(self.port)]
        environment = {**os.environ, **self.environment}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)

    def said(self) -> str:
        self.log.seek(0)
        return str(self.log.read().decode(errors="replace"))

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def kill(self, how: int = signal.SIGKILL) -> int:
        """Its exit code."""
        assert self.process is not None, "it was not started"
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)


class Load:
    """Clients that send pictures of different names, again and again until each is taken."""

    def __init__(self, url: str, parts: list[bytes], clients: int = 4):
        self.url, self.parts = url, parts
        self.taken: dict[str, tuple[int, str]] = {}  # name -> number and hash of the picture
        self.odd: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _send(self, number: int) -> None:
        with httpx.Client(base_url=f"{self.url}/api/v1/", timeout=30) as client:
            count = 0
            while not self._ended.is_set():
                name = f"{number}-{count}"
                data = self.parts[count % len(self.parts)] + name.encode()  # what follows a PNG is not read
                headers = {"Idempotency-Key": name, "Content-Type": "image/png"}
                try:
                    answer = client.post(INSPECTIONS, params={"name": name}, content=data, headers=headers)
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue  # the same one again
                if answer.status_code in (200, 201):
                    self.taken[name] = answer.json()["id"], hashlib.sha256(data).hexdigest()
                    count += 1
                elif answer.status_code != 503:
                    self.odd.append(f"{answer.status_code} {answer.text}")


def post(
    url: str, data: bytes, product: str = NAME, *, key: str = "", name: str = "a.png", **query: Any
) -> httpx.Response:
    """Ask a station to inspect a picture."""
    there, headers = f"{url}/api/v1/products/{product}/inspections", {"Idempotency-Key": key} if key else {}
    return httpx.post(there, params={"name": name, **query}, content=data, headers=headers, timeout=60)


def inspected(http: httpx.Client, data: bytes, name: str = "part.png") -> dict[str, Any]:
    """What a station's API says of a picture that is sent to it."""
    headers = {"Content-Type": "image/png"}
    answer = http.post(f"/api/v1/{INSPECTIONS}", params={"name": name}, content=data, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def problems(url: str) -> dict[str, str]:
    """Texts of a station's problems by code."""
    found = httpx.get(f"{url}/api/v1/status", timeout=30).json()["problems"]
    return {one["code"]: one["text"] for one in found}


def everything(url: str) -> list[dict[str, Any]]:
    """All inspections of a station."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    with httpx.Client(base_url=f"{url}/api/v1/", timeout=60) as client:
        while cursor is not None:
            page = client.get(INSPECTIONS, params={"limit": 500, "cursor": cursor}).json()
            found, cursor = found + page["inspections"], page["next"]
    return found


def missing(url: str, load: Load) -> tuple[list[str], int]:
    """Names of pictures that were acknowledged and are not in the store as they were, and how many are there
    twice."""
    found = everything(url)
    there = {one["id"]: (one["name"], one["picture"]) for one in found}
    lost = [name for name, (number, digest) in load.taken.items() if there.get(number) != (name, digest)]
    return lost, len(found) - len({one["name"] for one in found})


def taken(product: int, version: int, **given: Any) -> NewInspection:
    """An inspection to record, of a good part; `given` says what is otherwise."""
    usual = {"picture": "0" * 64, "suffix": ".png", "bytes": 1, "width": 4, "height": 4, "at": 0}
    usual |= {"name": "part.png", "source": "http", "score": 1.0, "p_value": 0.5, "severity": -1.0}
    usual |= {"score_threshold": 2.0, "anomalous": False, "near": False}
    columns = {one.name for one in fields(NewInspection)}
    record = {"regions": [], **{name: given.pop(name) for name in [*given] if name not in columns}}
    record |= {"findings": [one.to_dict() for one in record.get("findings", ())]}
    return NewInspection(**{"product_id": product, "version_id": version, "record": record, **usual, **given})


def taken_view(**given: Any) -> SeenPicture:
    """A view of a part to record, of a good one; `given` says what is otherwise."""
    usual = vars(taken(0, 0, **{"view": "top", **given}))
    return SeenPicture(**{one.name: usual[one.name] for one in fields(SeenPicture)})


def taken_part(
    product: int, version: int, views: Sequence[SeenPicture], worst: str, **given: Any
) -> NewInspection:
    """A part in several views to record, of which one is the most unusual."""
    shown = vars(next(one for one in views if one.view == worst))
    return taken(product, version, **{**shown, "views": tuple(views), **given})


def taken_file(files: Files, product: int, version: int, data: bytes, at: int, **given: Any) -> NewInspection:
    """An inspection to record, whose picture is kept."""
    return taken(
        product, version, picture=files.keep(PICTURES, data, ".png"), bytes=len(data), at=at, **given
    )


def add_version(
    database: Database, product: str = NAME, content: str = "0" * 64, state: str = "ready"
) -> tuple[int, int]:
    """A product and a version of it that has no file: their numbers."""
    number = Store(database).add_product(product)
    row = {"product_id": number, "hash": content, "file": "none", "origin": "", "created_at": 0}
    row["state"] = state
    row["facts"] = '{"score_threshold": 1.0}'
    with database.writing() as connection:
        new = versions.insert().values(**row).returning(versions.c.id)
        return number, int(connection.execute(new).scalar_one())


def aged(database: Database) -> Clock:
    """The clock of a station, two hours after all that it has was recorded."""
    clock = Clock(database, lambda: now() + 2 * HOUR)
    clock.check()
    return clock


# --------------------------------------------------------------------------------------------------- pictures


def png(picture: Image.Image | np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, "PNG")
    return buffer.getvalue()


def again(data: bytes) -> bytes:
    """A new picture of the same part: hardly another one, and not the same."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB")).copy()
    pixels[: next(_numbers) % 4 + 1, -4:] ^= NOISE.integers(0, 8, 3, np.uint8)
    return png(pixels)


def originals(parts: list[bytes]) -> list[bytes]:
    found = list(parts)
    with Image.open(io.BytesIO(parts[-1])) as image:
        picture = image.convert("RGB")
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("JPEG2000", {}),
        ("AVIF", {}),
    ):
        buffer = io.BytesIO()
        try:
            picture.save(buffer, kind, **options)
        except (KeyError, OSError, ValueError):  # this Pillow cannot write it
            continue
        found.append(buffer.getvalue())
    return found


def broken(rng: random.Random, data: bytes) -> bytes:
    """Cut, with bytes that differ, doubled or left out, most often in the header."""
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(min(len(made), 200) if rng.random() < 0.6 else len(made)) if made else 0
        act = rng.choice(["cut", "flip", "flip", "large", "insert", "drop", "double"])
        if act == "cut":
            del made[place:]
        elif act == "flip":
            for _ in range(rng.choice([1, 3, 20])):
                if made:
                    made[rng.randrange(len(made)) if rng.random() < 0.5 else min(place, len(made) - 1)] ^= (
                        1 << rng.randrange(8)
                    )
        elif act == "large":
            made[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"])
        elif act == "insert":
            made[place:place] = rng.randbytes(rng.choice([1, 8, 500]))
        elif act == "drop":
            del made[place : place + rng.choice([1, 4, 100])]
        else:
            made[place:place] = made[place : place + 1000]
    return bytes(made)


# --------------------------------------------------------------------------------- stations of this process


class Listening:
    """A station's real server, in a thread of its own."""

    def __init__(self, station: Station):
        self.server = StationServer(station)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        until(lambda: self.server.started or not self._thread.is_alive(), "the server did not start in time")
        assert self.server.started, "the server did not start"
        self.url = str(self.server.url)

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not end"


class InProcess:
    """A station's application without a server: what httpx sends to `url` in this process comes to it. An
    answer is given when it is whole, so that streams need `Listening`."""

    _all: ClassVar[dict[str, InProcess]] = {}  # by URL

    def __init__(self, station: Station):
        self._application = httpx.ASGITransport(create_app(station), raise_app_exceptions=False)
        self._portal_context = start_blocking_portal()
        self._portal = self._portal_context.__enter__()
        self.url = f"http://127.0.0.1:{1000 - next(_numbers) % 1000}"  # where nobody else listens
        self._all[self.url] = self

    def close(self) -> None:
        del self._all[self.url]
        self._portal_context.__exit__(None, None, None)

    @classmethod
    def answer(cls, transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        """In place of `httpx.HTTPTransport.handle_request`."""
        there = cls._all.get(f"{request.url.scheme}://{request.url.netloc.decode()}")
        if there is None:
            return _send_through_socket(transport, request)
        answer = there._portal.start_task_soon(there._answer, request)
        try:
            return answer.result(PATIENCE)  # whatever the client's limit: a busy machine is slow
        except TimeoutError:
            answer.cancel()
            raise AssertionError(f"{request.url.path}: no end; mark the test `listens`") from None

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        whole = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        answer = await self._application.handle_async_request(whole)
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        body = b"".join([part async for part in answer.stream])
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=httpx.ByteStream(body), request=request
        )


_send_through_socket = httpx.HTTPTransport.handle_request


class Running:
    """A station in this process, and where it answers."""

    def __init__(self, station: Station, place: Listening | InProcess):
        self.station, self.place, self.is_open = station, place, True

    @property
    def url(self) -> str:
        return self.place.url

    @property
    def server(self) -> Any:
        """Of one that listens."""
        assert isinstance(self.place, Listening), "mark the test `listens`"
        return self.place.server

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.place.close()
            self.station.close()


def started(settings: Settings, say: Callable[[str], None] = lambda line: None) -> Station:
    """A station that nobody reaches by HTTP."""
    station = open_station(settings, say)
    try:
        station.start()
    except BaseException:
        station.close()
        raise
    return station


def opened(settings: Settings, place: type[Listening | InProcess] = InProcess, **how: Any) -> Running:
    """Starts one, and returns when it answers."""
    station = started(settings, **how)
    try:
        return Running(station, place(station))
    except BaseException:
        station.close()
        raise


def inspect(station: Station, data: bytes, name: str = "a.png") -> int:
    """Number of the inspection of a picture that nobody sent by HTTP."""
    return station.inspector.submit(one_part(station.products[NAME], data, name)).result(60).number


def one_part(
    product: int, data: bytes, name: str = "a.png", view: str | None = None, hash: str = "", **more: Any
) -> Part:
    """A part of one picture, as it came by HTTP unless `more` says otherwise."""
    return Part(product, (Picture(data, name, view, hash=hash),), **{"source": "http", **more})


def recorded(station: Station, product: str = NAME) -> list[dict[str, Any]]:
    """Inspections of a product, the newest first."""
    return station.records.search(station.products[product], Filters(limit=500)).inspections


@contextmanager
def held(station: Station) -> Iterator[None]:
    """The thread of the model does nothing meanwhile."""
    going, begun = threading.Event(), threading.Event()
    station.inspector.judge.run_between(lambda: (begun.set(), going.wait(60)))
    assert begun.wait(60)
    try:
        yield
    finally:
        going.set()


def make_older(database: Database, days: float) -> None:
    """Makes all inspections so many days older."""
    with database.writing() as connection:
        connection.execute(update(inspections).values(at=inspections.c.at - round(24 * HOUR * days)))
        connection.execute(update(hours).values(hour=hours.c.hour - round(24 * days)))
