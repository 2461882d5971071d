"""Refusals: each source goes on, and none takes one for a full queue or a bad picture."""

import importlib
import inspect
import io
import pkgutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

from flawscope.errors import FlawscopeError, InputError
from flawscope_station import inspecting, plugins, sources, web
from flawscope_station.core.error_status import status_and_code
from flawscope_station.inspecting.interlock import FrozenError, NotProductionError, NotReadyError
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.picture import Part, TooLargeError
from flawscope_station.settings.sources import CameraSourceSettings, FolderSourceSettings
from flawscope_station.settings.station import Limits
from flawscope_station.sources.camera import FfmpegCamera, LiveCamera, Shot
from flawscope_station.sources.folder import SHOWN, UNREADABLE, FolderSource, WatchedFolder
from flawscope_station.sources.source import QueueShare, SourceContext
from flawscope_station.store.database import Database
from flawscope_station.store.inspection import RefusalError
from flawscope_station.store.records import Store
from flawscope_station.store.schema import MISSED
from flawscope_station.web.errors import error_headers
from station_helpers import ManualClock, add_version

ERRORS = [NotReadyError, NotProductionError]  # of interlocks


class Floor:
    """A station that refuses pictures of all parts but "shown"; places: check, submit, answer."""

    def __init__(self, folder: Path, error: RefusalError, place: str):
        self.database = Database(f"sqlite:///{folder / 'station.sqlite'}")
        self.database.migrate()
        self.store, self.error, self.place, self.is_held = Store(self.database), error, place, True
        self.product = add_version(self.database)[0]
        self.folder, self.taken, self.clock = folder / "incoming", list[Part](), ManualClock()
        self.folder.mkdir()
        self.share = QueueShare(Limits())
        self.line = SourceContext(
            self.product, self.submit, self.report, self.store, self.share, check=self.check
        )

    def report(self, code: str, why: str | None, **more: Any) -> None:
        pass

    def refuse(self, part: str | None, place: str) -> None:
        if self.is_held and part != "shown" and place == self.place:
            raise self.error

    def check(self, part: str | None) -> None:
        self.refuse(part, "check")

    def submit(self, part: Part) -> Future[Any]:
        answer = Future[Any]()
        self.refuse(part.number, "submit")
        try:
            self.refuse(part.number, "answer")
        except RefusalError as error:
            answer.set_exception(error)
        else:
            self.taken.append(part)
            answer.set_result(None)
        return answer


PLACES = ("check", "submit", "answer")


@pytest.fixture(params=PLACES)
def floors(request, tmp_path) -> Iterator[Callable[[RefusalError], Floor]]:
    made: list[Floor] = []

    def one(error: RefusalError) -> Floor:
        made.append(Floor(tmp_path, error, request.param))
        return made[-1]

    yield one
    for floor in made:
        floor.database.close()


def folder_of(floor: Floor) -> tuple[FolderSource, Callable[[float], None]]:
    """A folder of three pictures, and what lets it run for seconds."""
    settings = FolderSourceSettings(str(floor.folder), "keep", r"(?P<part>\w+)\.png")
    source = FolderSource(floor.line, settings, 1, clock=floor.clock)

    def run(seconds: float) -> None:
        end = floor.clock.monotonic() + seconds
        while floor.clock.monotonic() < end:
            floor.clock.advance(source.work_once())

    for name in ("a", "b", "shown"):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (40 + len(name), ord(name[0]), 0)).save(buffer, "PNG")
        (floor.folder / f"{name}.png").write_bytes(buffer.getvalue())
    return source, run


def run_folder(floor: Floor) -> None:
    source, run = folder_of(floor)
    run(5)
    assert [one.number for one in floor.taken] == ["shown"], "it is behind the others"
    run(120)
    floor.is_held = False
    run(5)
    wanted = {"shown", "a", "b"} if isinstance(floor.error, NotReadyError) else {"shown"}
    assert {one.number for one in floor.taken} == wanted
    assert len(floor.taken) == len(wanted)
    assert not floor.store.events(UNREADABLE, floor.product)
    done = floor.store.events(SHOWN, floor.product)
    assert len(done) == (0 if isinstance(floor.error, NotReadyError) else 2)
    source.stop()


def run_camera(floor: Floor) -> None:
    source = FfmpegCamera(floor.line, CameraSourceSettings("rtsp://192.0.2.1/", "1 s"), 1)
    pixels = np.zeros((16, 16, 3), np.uint8)
    for held in (True, True, False):
        floor.is_held = held
        source._pending.append(Shot(VideoFrame.from_ndarray(pixels, "rgb24"), len(floor.taken) + 1))
        source._in_flight += 1
        source._submit_in_flight(1)
    assert (source.state.broken, source.state.taken, source._in_flight) == (2, 1, 0)
    assert floor.share._count == 0, "its room is free again"
    assert len(floor.taken) == 1


RUNS: dict[type[Any], Callable[[Floor], None]] = {FolderSource: run_folder, FfmpegCamera: run_camera}


def source_classes() -> set[type[Any]]:
    """The classes of all sources of the station itself."""
    found, own = set[type[Any]](), sources.__name__
    for module in pkgutil.iter_modules(sources.__path__):
        inside = vars(importlib.import_module(f"{own}.{module.name}")).values()
        for kind in filter(inspect.isclass, inside):
            is_own = kind.__module__.startswith(own) and hasattr(kind, "stop")
            parameters = [*inspect.signature(kind).parameters] if is_own else []
            if parameters[:2] == ["line", "settings"] and kind not in (LiveCamera, WatchedFolder):
                found.add(kind)
    return found


def test_every_source_is_among_them():
    assert source_classes() == set(RUNS)


@pytest.mark.parametrize("source", RUNS)
@pytest.mark.parametrize(
    ("error", "floors"),
    # of judged pictures alone it says that they are not the production's
    [
        (one, place)
        for one in ERRORS
        for place in PLACES
        if one is not NotProductionError or place == "answer"
    ],
    indirect=["floors"],
)
def test_a_source_goes_on(source, error, floors):
    RUNS[source](floors(error("held")))


def kinds(above: type[Any]) -> Iterator[type[Any]]:
    for kind in above.__subclasses__():
        yield kind
        yield from kinds(kind)


def refusals() -> list[type[RefusalError]]:
    """All kinds of refusals, also those that no module of the station has imported yet."""
    for package in (inspecting, sources, web):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return [*kinds(RefusalError)]


def test_no_refusal_is_bad_input_or_means_that_others_wait():
    every = refusals()
    assert {*ERRORS, BusyError, TooLargeError, plugins.CameraLostError, plugins.StoreError} <= {*every}
    assert not [kind for kind in every if issubclass(kind, InputError)]
    assert not [*kinds(BusyError)]
    rooms = inspecting.__name__, sources.__name__
    assert not [
        kind for kind in kinds(FlawscopeError) if kind.__module__.startswith(rooms) and kind not in every
    ]


@pytest.mark.parametrize("kind", [one for one in refusals() if one not in (*ERRORS, BusyError)])
def test_a_folder_gives_up_no_picture_for_a_refusal_unless_it_is_too_large_or_repeated(tmp_path, kind):
    floor = Floor(tmp_path, kind.__new__(kind, "why"), "answer")
    try:
        source, run = folder_of(floor)
        run(120)
        floor.is_held = False
        run(600)
        given_up = [
            one.kind for what in (UNREADABLE, MISSED) for one in floor.store.events(what, floor.product)
        ]
        assert given_up == 2 * {TooLargeError: [UNREADABLE], FrozenError: [MISSED]}.get(kind, [])
        assert len({one.number for one in floor.taken}) == len(floor.taken) == 3 - len(given_up)
        source.stop()
    finally:
        floor.database.close()


@pytest.mark.parametrize("error", ERRORS)
def test_a_refusal_of_an_interlock_has_a_code_of_its_own(error):
    assert status_and_code(error("x")) in [(503, "not_ready"), (409, "not_production")]
    assert ("Retry-After" in error_headers(error("x"))) is (error is NotReadyError)
