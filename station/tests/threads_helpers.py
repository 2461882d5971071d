"""What unit and end-to-end tests need: test_station_threads.py, whole/test_station_threads_whole.py."""

import io
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from flawscope_station.core.station import Station
from flawscope_station.monitoring.background import (
    GuardedThread,
    ThreadWatch,
)
from flawscope_station.settings.shifts import ShiftSettings
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import LearningSettings
from sink_helpers import make_sink
from station_helpers import NAME, ManualClock, Running, everything, one_part, opened


class Broken(io.StringIO):
    """A stream that nobody reads any more."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def isatty(self) -> bool:
        raise self.error


class Panic(BaseException):
    """As some libraries raise it: no Exception."""


@dataclass
class Work:
    """Work that fails as it is told to. begun: how often."""

    ended: threading.Event
    error: BaseException | None = None
    begun: int = 0

    def __call__(self) -> None:
        self.begun += 1
        while not self.ended.wait(0.005):
            if (error := self.error) is not None:
                self.error = None
                raise error


def watched(work: Work, *clock: ManualClock) -> tuple[GuardedThread, dict[str, str | None], ThreadWatch]:
    """Its thread, what is told of it, and who watches it."""
    thread, told = GuardedThread("work", work, work.ended, *clock), dict[str, str | None]()
    report = lambda code, why, **_: told.update({code: why})  # noqa: E731
    return thread, told, ThreadWatch(lambda: [(thread, True)], lambda: None, report)


def status(url: str) -> int:
    try:
        return httpx.get(url, timeout=30).status_code
    except httpx.TransportError:
        return 0


class Asked:
    """A station, and what it has told. Nobody reads its log."""

    def __init__(self, running: Running, told: list[str]):
        self.station, self.url, self.told = running.station, running.url, told
        self.number = running.station.products[NAME]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=60)

    @property
    def is_ready(self) -> bool:
        answer = self.get("/readyz")
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200

    def was_told(self, kind: str) -> bool:
        """Whether a person was told of such a problem, though it may be over by now."""
        assert self.get("/readyz").status_code in (200, 503)  # the station checks itself
        return any(line.startswith(kind) and not line.endswith(": over") for line in self.told)

    def problem(self, kind: str) -> str:
        """The text of such a problem; "": there is none."""
        return next((one.text for one in self.station.problems() if one.kind == kind), "")

    def submit(self, data: bytes, name: str) -> Future[Any]:
        return self.station.inspector.submit(one_part(self.number, data, name))

    def inspect(self, data: bytes, name: str, seconds: float = 120.0) -> bool:
        """Whether a picture was inspected; False where whoever sent it was told that it was not."""
        try:
            self.submit(data, name).result(seconds)
        except TimeoutError:
            raise AssertionError(f"nobody was told anything of {name}") from None
        except BaseException:
            return False
        return True

    def names(self) -> list[str]:
        return [one["name"] for one in everything(self.url)]


def folder(station: Station) -> Any:
    return station.sources[NAME][0]


BUG, PANIC, EXIT = RuntimeError("a bug"), Panic("a library's"), SystemExit(3)


@pytest.fixture(name="work")
def work_fixture():
    made = Work(threading.Event())
    yield made
    made.ended.set()


@pytest.fixture(name="asked")
def asked_fixture(settings, tmp_path, monkeypatch):
    """With a folder, a sink, learning and shifts: every thread that a station can have."""
    monkeypatch.setattr("flawscope_station.monitoring.machine.INTERVAL", 0.05)
    (tmp_path / "incoming").mkdir()
    product = replace(
        settings.products[NAME],
        sources=(FolderSourceSettings(str(tmp_path / "incoming")),),
        sinks=(make_sink(folder=str(tmp_path / "found")),),
        learn=LearningSettings(),
    )
    shifts = ShiftSettings(begin={"day": "00:00"})
    told: list[str] = []

    def nobody_reads(line: str) -> None:
        told.append(line)
        raise BrokenPipeError(32, "Broken pipe")

    running = opened(replace(settings, products={NAME: product}, shifts=shifts), say=nobody_reads)
    yield Asked(running, told)
    running.close()
