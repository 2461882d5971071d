"""What unit and end-to-end tests need: test_station_folder.py, whole/test_station_folder_whole.py."""

import io
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select

from flawscope.errors import InputError
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.monitoring.background import CLOCK
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import Limits
from flawscope_station.sources.folder import FolderSource
from flawscope_station.sources.source import QueueShare, SourceContext
from flawscope_station.store.database import Database
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.records import Store
from flawscope_station.store.schema import inspections
from station_helpers import PATIENCE, ManualClock, add_version, taken

MINUTE = 60.0  # seconds: after it nothing more comes
SIZE = 100  # bytes of a picture


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 2 * shade % 256, 0)).save(buffer, "PNG")
    return buffer.getvalue().ljust(SIZE, b"\0")


def bare_picture(shade: int) -> bytes:
    """Of one length, and with nothing behind its end: a part of it cannot be read."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@dataclass
class Line:
    """A station's parts around the folder: a store, and an inspector that judges nothing."""

    store: Store
    files: Files
    product: int
    version: int
    folder: Path
    problems: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    most: int = 0  # pictures at once
    flying: int = 0
    hurdle: Callable[[Picture], BaseException | None] = lambda one: None
    gate: threading.Event | None = None  # pictures are answered by threads when it is open
    sources: list[FolderSource] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)

    def submit(self, part: Part) -> Future[RecordedInspection]:
        (one,) = part.pictures
        self.tried.append(one.name)
        error = self.hurdle(one)
        if isinstance(error, BusyError):
            raise error
        answer: Future[RecordedInspection] = Future()
        self.flying += 1
        self.most = max(self.most, self.flying)
        if self.gate is None:
            self._answer(part, error, answer)
        else:
            threading.Thread(target=self._answer, args=(part, error, answer), daemon=True).start()
        return answer

    def _answer(self, part: Part, error: BaseException | None, answer: Future[RecordedInspection]) -> None:
        (one,) = part.pictures
        if self.gate is not None:
            self.gate.wait(PATIENCE)
        try:
            Image.open(io.BytesIO(one.data)).load()
        except (OSError, SyntaxError):
            error = error or InputError(f"{one.name}: it is truncated")
        self.flying -= 1
        if error is not None:
            answer.set_exception(error)
            return
        facts = {"name": one.name, "source": part.source, "key": part.key}
        facts["picture"] = self.files.keep(PICTURES, one.data, ".png")
        judged = taken(part.product_id, self.version, **facts)
        ((number, is_new),) = self.store.record([judged])
        answer.set_result(RecordedInspection(number, judged, is_new))

    def report(self, code: str, why: str | None, *, stops: bool = False) -> None:
        code = code.removesuffix(f"_{self.product}")
        if why is None:
            self.problems.pop(code, None)
        elif self.problems.get(code) != why:
            self.problems[code] = why
            self.said.append(why)

    def open(
        self, share: QueueShare | None = None, then: str = "keep", number: int = 1, start: bool = False
    ) -> FolderSource:
        """A source that works when `run` or `until` is called, or by itself."""
        line = SourceContext(
            self.product,
            self.submit,
            self.report,
            self.store,
            share or QueueShare(Limits()),
            lambda error: self.refused.append(str(error)),
        )
        said = FolderSourceSettings(str(self.folder), then)
        source = FolderSource(line, said, number, clock=CLOCK if start else self.clock)
        if start:
            source.start()
        self.sources.append(source)
        return source

    def run(self, seconds: float) -> None:
        """Let the sources work for so long."""
        end = self.clock.monotonic() + seconds
        self.until(lambda: self.clock.monotonic() >= end)

    def until(self, true: Callable[[], Any]) -> Any:
        """What it gives as soon as that is something."""
        for _ in range(2000):
            if found := true():
                return found
            self.clock.advance(min(source.work_once() for source in self.sources))
        raise AssertionError("it did not come true")

    def put(self, name: str, data: bytes, age: float = 0.0) -> Path:
        """A file that appears whole."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.parent / f".{path.name}"
        hidden.write_bytes(data)
        if age:
            os.utime(hidden, (time.time() - age,) * 2)
        hidden.rename(path)
        return path

    def names(self) -> list[str]:
        """What was inspected, in order."""
        query = select(inspections.c.name).order_by(inspections.c.id)
        with self.store.database.reading() as connection:
            return list(connection.execute(query).scalars())

    def texts(self, kind: str) -> list[str]:
        return [row.text for row in self.store.events(kind, self.product)]


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


Way = tuple[list[bytes], dict[str, list[str]]]
FIRST, SECOND = (bare_picture(shade) for shade in (1, 2))


def slowly(line: Line) -> Way:
    with open(line.folder / "a.png", "wb", buffering=0) as file:
        for start in range(0, len(FIRST), 60):  # the last piece holds pixels
            file.write(FIRST[start : start + 60])
            line.run(1)
    return [FIRST], {}


@pytest.fixture(name="line")
def line_fixture(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'station.sqlite'}")
    database.migrate()
    folder = tmp_path / "camera"
    folder.mkdir()
    made = Line(Store(database), Files(tmp_path / "files"), *add_version(database), folder)
    yield made
    if made.gate is not None:
        made.gate.set()
    for source in made.sources:
        source.stop()
        assert source.threads[0]._thread is None or not source.threads[0]._thread.is_alive()
    database.close()
