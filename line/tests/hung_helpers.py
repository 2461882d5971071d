"""Disks and databases that stop answering, and a station process that meets them: whole/test_hung.py and
`bench/hung.py`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
from emulated_line.plc import Plc

from plc_helpers import WIRES, plc_at
from plugin_helpers import LINE
from station_helpers import NAME, PATIENCE, Postgres, Served, Unavailable, free_port, until

API = f"/api/v1/products/{NAME}/inspections"
READY_SECONDS = 6.0  # after which a PLC reads that the station is not ready
WAIT = 10.0  # `limits: wait`
DEADLINE = 0.8  # seconds that some senders allow


class Hanging(Protocol):
    """Something that stops answering."""

    def hang(self) -> None: ...

    def go_on(self) -> None: ...


class StoppedProcesses:
    """Processes that are stopped, so that whoever asks them waits."""

    def __init__(self, find: Callable[[], list[int]]):
        self.find = find
        self._stopped: list[int] = []

    def hang(self) -> None:
        self._stopped = self.find()
        for process in self._stopped:
            os.kill(process, signal.SIGSTOP)

    def go_on(self) -> None:
        for process in reversed(self._stopped):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        self._stopped = []


@contextmanager
def hanging_disk(folder: Path) -> Iterator[tuple[Path, Hanging]]:
    """A file system below `folder` whose server can be stopped: each call of the kernel for it then waits.
    Unavailable where that cannot be."""
    if not shutil.which("bindfs") or not os.access("/dev/fuse", os.W_OK):
        raise Unavailable("a disk that hangs needs FUSE: apt-get install bindfs")
    (real := folder / "real").mkdir()
    (mounted := folder / "disk").mkdir()
    process = subprocess.Popen(["bindfs", "-f", real, mounted], stderr=subprocess.DEVNULL)
    try:
        until(lambda: mounted.is_mount() or process.poll() is not None, "it is not mounted")
        if process.poll() is not None:
            raise Unavailable("bindfs cannot mount here")
        yield mounted, StoppedProcesses(lambda: [process.pid])
    finally:
        process.kill()  # whoever still waits gets an error
        process.wait(PATIENCE)
        subprocess.run(["umount", "-l", mounted], stderr=subprocess.DEVNULL)


def hanging_postgres(cluster: Postgres) -> Hanging:
    """All processes of a cluster: the kernel goes on taking what is sent to them."""

    def find() -> list[int]:
        first = int((cluster.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    return StoppedProcesses(find)


@dataclass
class Asked:
    """Request and its answer. seconds: until it came; status: 0 where there was none."""

    what: str
    begun: float
    seconds: float = 0.0
    status: int = 0
    text: str = ""


def ask(http: httpx.Client, what: str, *words: str, limit: float, **given: Any) -> Asked:
    """Ask once, and wait no longer than so many seconds."""
    asked = Asked(what, time.monotonic())
    with suppress(httpx.TransportError):
        answer = http.request(*words, timeout=limit, **given)
        asked.status, asked.text = answer.status_code, answer.text
    asked.seconds = time.monotonic() - asked.begun
    return asked


@dataclass
class Line:
    """A station in a process of its own with a watched folder, a camera, PLCs and senders.

    Attributes:
        asked: of the senders. answered: number of the inspection by part. not_ready: seconds from the hang
            until each PLC read it. faults: parts of PLCs that had no result.
    """

    served: Served
    incoming: Path
    plcs: dict[str, Plc]
    pictures: list[bytes]
    asked: list[Asked] = field(default_factory=list)
    answered: dict[str, int] = field(default_factory=dict)
    not_ready: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.served.url

    def start(self) -> None:
        """Let two senders send from now on, one of which allows each part little time."""
        for name, deadline in (("patient", None), ("hurried", DEADLINE)):
            thread = threading.Thread(target=self._send, args=(name, deadline), daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """Let each sender have its last answer."""
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a sender has no answer"

    def _send(self, name: str, deadline: float | None) -> None:
        """Send parts under keys, each again until it is answered."""
        with httpx.Client(base_url=self.url) as http:
            count = 0
            while not self._ended.is_set():
                part = f"{name}{count}"
                data = self.pictures[count % len(self.pictures)] + part.encode()
                while not self._send_once(http, part, data, deadline):
                    time.sleep(0.3)
                count += 1
                time.sleep(0.2)

    def _send_once(self, http: httpx.Client, part: str, data: bytes, deadline: float | None) -> bool:
        query = {"part": part, "name": f"{part}.png"}
        if deadline is not None:
            query["deadline"] = f"{1000 * deadline:.0f}"
        headers = {"Idempotency-Key": part, "Content-Type": "image/png"}
        given = {"params": query, "headers": headers, "content": data}
        asked = ask(http, part, "POST", API, limit=60, **given)
        self.asked.append(asked)
        if asked.status not in (200, 201):
            return False
        self.answered[part] = json.loads(asked.text)["id"]
        return True

    def put_file(self, part: str) -> None:
        """Let the watched folder get a picture."""
        (hidden := self.incoming / f".{part}").write_bytes(self.pictures[0] + part.encode())
        hidden.rename(self.incoming / f"{part}.png")

    def inspect(self, wire: str, part: str, seconds: float = 10.0) -> str:
        self.outcomes[part], _ = self.plcs[wire].inspect(part, seconds)
        return self.outcomes[part]

    def watch_ready(self, begun: float) -> None:
        """Note when each PLC reads that the station is not ready, or nothing any more."""

        def watch(wire: str) -> None:
            while time.monotonic() - begun < 4 * READY_SECONDS:
                with suppress(Exception):
                    if not self.plcs[wire].wire.read("ready")["ready"]:
                        self.not_ready[wire] = time.monotonic() - begun
                        return
                time.sleep(0.02)

        for wire in self.plcs:
            thread = threading.Thread(target=watch, args=(wire,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def look(self, path: str, limit: float = 10.0) -> Asked:
        with httpx.Client(base_url=self.url) as http:
            return ask(http, path, "GET", path, limit=limit)


@contextmanager
def running_line(
    home: Path, disk: Path, model: Path, pictures: list[bytes], plugins: str, database: str | None = None
) -> Iterator[Line]:
    """A station whose store and watched folder lie on `disk`, with a PLC over each wire."""
    (incoming := disk / "incoming").mkdir()
    (reel := home / "reel").mkdir()
    (reel / "0.png").write_bytes(pictures[0])
    ports = {wire: free_port() for wire in WIRES}
    connections = []
    for wire, port in ports.items():
        place = "connect" if wire == "modbus-client" else "listen"
        given = {place: f"127.0.0.1:{port}", "recipes": {1: NAME}, "watchdog": "10 s", "deadline": "5 s"}
        connections.append({wire.partition("-")[0]: given})
    sources = [{"folder": str(incoming), "then": str(disk / "done")}, {"reel": str(reel)}]
    product = {"model": str(model), "camera_checks": False, "sources": sources}
    settings: dict[str, Any] = {"products": {NAME: product}, "store": str(disk / "store"), "threads": 1}
    settings |= {"device": "cpu", "limits": {"wait": f"{WAIT:.0f} s"}, "connections": connections}
    settings |= {"database": database} if database else {}
    (path := home / "station.yaml").write_text(json.dumps(settings))
    there = os.pathsep.join((plugins, str(LINE), os.environ.get("PYTHONPATH", "")))
    served, plcs = Served([str(path)], free_port(), {"PYTHONPATH": there}), dict[str, Plc]()
    try:
        plcs["modbus-client"] = plc_at("modbus-client", ports["modbus-client"])
        served.start()
        for wire in WIRES:
            plcs.setdefault(wire, plc_at(wire, ports[wire]) if wire not in plcs else plcs[wire])
            assert plcs[wire].ready(1) is not None, wire
        yield Line(served, incoming, plcs, pictures)
    finally:
        for plc in plcs.values():
            with suppress(Exception):
                plc.close()
        served.close()


@dataclass
class Trial:
    """What a hang showed. looks: pages and checks that were asked while it lasted."""

    line: Line
    looks: list[Asked]
    told_after: float
    ready_again: float

    def late(self) -> list[Asked]:
        """Requests that were not answered within their deadline, with a second for the way."""
        limits = {"hurried": DEADLINE + 1.0, "patient": WAIT + 10.0}
        return [one for one in self.line.asked if one.seconds > limits[one.what.rstrip("0123456789")]]

    def recorded(self) -> Counter[str]:
        """How often each part is in the records."""
        return Counter(str(one["part"]) for one in everything_of(self.line.url))


def everything_of(url: str) -> list[dict[str, Any]]:
    """All inspections of the product."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    with httpx.Client(base_url=url, timeout=60) as http:
        while cursor is not None:
            page = http.get(API, params={"limit": 500, "cursor": cursor}).json()
            found, cursor = found + page["inspections"], page["next"]
    return found


def run_hang(line: Line, what: Hanging, seconds: float) -> Trial:
    """Let it hang for so many seconds while all send, and go on; return when all is as before."""
    line.start()
    for wire in WIRES:
        assert line.inspect(wire, f"before-{wire}") == "ok"
        assert line.plcs[wire].ready(1) is not None
    line.put_file("file-before")
    until(lambda: "file-before" in {one["name"].partition(".")[0] for one in everything_of(line.url)})
    what.hang()
    begun = time.monotonic()
    looks, told_after = [], 0.0
    try:
        line.watch_ready(begun)
        # what was triggered just then has an end, too
        triggered = threading.Thread(target=line.inspect, args=("opcua", "during-opcua"))
        triggered.start()
        while time.monotonic() - begun < seconds:
            looks += [line.look(path) for path in ("/healthz", "/readyz", "/metrics", "/api/v1/status")]
            if not told_after and "store_silent" in looks[-1].text:
                told_after = time.monotonic() - begun
            time.sleep(0.5)
        looks += [line.look(path) for path in (f"/{NAME}/live", f"/{NAME}/problems", "/metrics")]
        triggered.join(PATIENCE)
    finally:
        what.go_on()
    back = time.monotonic()
    for wire in WIRES:
        assert line.plcs[wire].ready(1, 60.0) is not None, f"{wire} is not ready again"
    ready_again = time.monotonic() - back
    line.put_file("file-after")
    for wire in WIRES:
        assert line.inspect(wire, f"after-{wire}") == "ok"
        assert line.plcs[wire].ready(1) is not None
    until(lambda: not any(line.incoming.glob("*.png")), "files are left")
    line.end()
    return Trial(line, looks, told_after, ready_again)
