"""What the threads beside the inspections do to each other: drift, camera checks, and a person; and pauses
between tries."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flawscope.pictures.levels import Levels
from flawscope_station.background import Backoff
from flawscope_station.drift.camera_faults import REFERENCE
from flawscope_station.drift.camera_monitor import CameraMonitor
from flawscope_station.drift.monitor import DriftMonitor
from flawscope_station.drift.sequential_tests import Change, DriftTests
from flawscope_station.inspecting.capacity import MemoryBudget
from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.store.database import StoreError
from flawscope_station.store.files import Files
from station_helpers import PATIENCE, png

Told = list[tuple[str, str | None]]


def drifts_of(bounds: dict[int, float | None], told: Told) -> DriftMonitor:
    """Whose store is empty."""
    store: Any = SimpleNamespace(database=None, events=lambda *asked: [], note_event=lambda *event: None)
    versions: Any = SimpleNamespace(active=lambda product_id: (1, None))
    names = {number: f"product {number}" for number in bounds}
    files: Any = SimpleNamespace(folder=Path("nowhere"), write=lambda *told, **how: None)
    made = DriftMonitor(store, versions, names, lambda *report: told.append(report), files)
    for number, bound in bounds.items():
        made.add_product(number, bound, light=False)
    made._first_after = lambda product_id, version: 0
    made._read_rows = lambda product_id, run: []
    return made


def test_an_alarm_that_is_acknowledged_while_it_is_told_does_not_come_again():
    told: Told = []
    drifts = drifts_of({1: 0.01}, told)
    run = drifts._tests[1] = drifts._new_tests(1, 1, 0)
    run.alarm = Change(0, 5, 0, 1, 3, "higher", 0.5, 0.9)
    tell, person = drifts._note_changes, threading.Thread(target=drifts.acknowledge, args=(1, "anna"))

    def meanwhile(product_id: int, run: DriftTests) -> None:
        tell(product_id, run)
        person.start()
        person.join(0.2)  # a person does not get in between; where one does, it is over by now

    drifts._note_changes = meanwhile
    drifts.update(1)
    person.join(PATIENCE)
    alarms = [why for code, why in told if code == "drift_1"]
    assert alarms[0] is not None
    assert alarms[1:] == [None]


def test_an_alarm_that_was_acknowledged_before_it_is_told_is_not_told():
    told: Told = []
    drifts = drifts_of({1: 0.01}, told)
    run = drifts._tests[1] = drifts._new_tests(1, 1, 0)
    run.alarm = Change(0, 5, 0, 1, 3, "higher", 0.5, 0.9)
    free, events = drifts._lock, []

    class Lock:
        """A person is quicker."""

        def __enter__(self) -> None:
            drifts._lock = free
            drifts.acknowledge(1, "anna")
            events.append("acknowledged")
            free.acquire()

        def __exit__(self, *error: Any) -> None:
            free.release()

    drifts._lock = Lock()
    drifts.update(1)
    drifts._lock = free
    assert [why for code, why in told if code == "drift_1"] == [None]
    assert events == ["acknowledged"]
    assert 1 in drifts._dirty, "what came since is counted at the next look"


def test_the_trouble_of_one_product_is_not_the_others():
    told: Told = []
    drifts = drifts_of({1: 0.01, 2: 0.01}, told)

    def follow(product_id: int) -> None:
        drifts._dirty.discard(product_id)
        if product_id == 1:
            raise StoreError("it is away", "store_unreachable")

    drifts.update = follow
    waits = iter([False])
    drifts._wait = lambda seconds=None: next(waits, True)
    drifts.pause = 0.0
    drifts._work()
    assert drifts._dirty == {1}
    assert told == [("drift_unknown", "drift is not followed: it is away")]


class Camera:
    """One product whose pictures lie in memory; 7 is the one that was removed."""

    def __init__(self, levels: Levels | None = None):
        self.told: Told = []
        self.pictures: dict[int, bytes] = {}
        files: Any = SimpleNamespace(read=self.read, folder=Path("nowhere"))
        run: Any = SimpleNamespace(version=1, after=0)
        given: Any = files, lambda product_id: run, lambda *told: self.told.append(told)
        self.looks = CameraMonitor(*given, MemoryBudget(0), lambda product_id: levels)
        self.looks.names[1] = "plate"

    def read(self, kind: str, picture: int, suffix: str) -> bytes:
        if picture not in self.pictures:
            raise StoreError("cannot read it: no such file", "file_missing")
        return self.pictures[picture]

    def show(self, number: int, data: bytes | None) -> None:
        if data is not None:
            self.pictures[number] = data
        taken: Any = SimpleNamespace(
            product_id=1, version_id=1, picture=number, suffix=".png", at=number, anomalous=False
        )
        self.looks._check(1, RecordedInspection(number, taken, True))

    @property
    def unknown(self) -> str | None:
        return [why for code, why in self.told if code == "camera_unknown_1"][-1]


GOOD = png(np.random.default_rng(1).integers(0, 255, (40, 40)).astype(np.uint8))


def test_what_hinders_the_camera_checks_is_said_until_it_is_over():
    camera = Camera()
    camera.show(0, b"no picture")
    assert str(camera.unknown).startswith("plate: the camera is not checked: cannot read picture")
    camera.show(1, GOOD)
    assert camera.unknown is None
    camera.show(7, None)
    assert camera.unknown is None, "a picture that was removed meanwhile is nobody's trouble"


def test_a_reference_is_the_same_after_a_restart(tmp_path):
    camera, rng = Camera(), np.random.default_rng(2)
    files: Any = SimpleNamespace(read=camera.read, folder=tmp_path, write=Files(tmp_path).write)
    camera.looks.files = files
    for number in range(10, 10 + REFERENCE):
        camera.show(number, png(rng.integers(0, 255, (40, 40)).astype(np.uint8)))
    known, kept = camera.looks._checks[1][1].reference, camera.looks._load_reference(1, (1, 0))
    assert (kept.mean == known.mean).all()
    assert kept.least[:-1] == known.least[:-1]
    assert (kept.is_still, kept.max_shift) == (known.is_still, known.max_shift)
    assert camera.looks._load_reference(1, (1, 5)) is None, "of another beginning"


def test_deep_pictures_are_as_bright_as_the_model_sees_them():
    """A camera of 12 bits in files of 16."""
    camera = Camera(Levels(0, 4095))
    rng = np.random.default_rng(0)
    for number in range(10, 20):
        camera.show(number, png(rng.integers(300, 2500, (60, 60)).astype(np.uint16)))
    watch = camera.looks._checks[1][1]
    assert watch.faults == {}
    assert watch.first_pictures[0].brightness == pytest.approx(1400 / 4095, abs=0.01)


def test_pauses_double_up_to_the_longest_and_begin_anew_after_success():
    pauses = Backoff(1.0, 5.0)
    assert [pauses.next() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    pauses.reset()
    assert pauses.next() == 1.0
    several = [Backoff(1.0, 8.0, 0.25).next() for _ in range(200)]
    assert 0.75 <= min(several) < 1.0 < max(several) <= 1.25, "spread"
