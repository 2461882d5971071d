"""Nothing waits for ever: what holds a part up ends in an answer that frees what it held."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from flawscope_station.core.station import Station
from flawscope_station.inspecting import inspector as inspector_module
from flawscope_station.inspecting import memory
from flawscope_station.inspecting.memory import BusyError, MemoryBudget
from flawscope_station.inspecting.picture import Picture, TooLargeError
from flawscope_station.inspecting.ticket import EndingError, OverdueError
from flawscope_station.settings.station import Limits
from flawscope_station.store.schema import MISSED
from station_helpers import NAME, held, one_part, recorded, started, until

PLACES = ["the model", "the disk", "the database", "memory"]


@pytest.fixture
def impatient(settings, monkeypatch) -> Iterator[Station]:
    """A part has a second for its answer, and the recorder no more for its transaction."""
    monkeypatch.setattr(inspector_module, "RECORDING_SECONDS", 0.5)
    station = started(replace(settings, limits=Limits(wait=1.0)))
    yield station
    station.close()


@pytest.fixture
def hang(monkeypatch) -> Iterator[Any]:
    """`hang(station, where)` lets the next part wait there until the test ends."""
    going = threading.Event()

    def hung(station: Station, where: str) -> None:
        def wait(*args: Any, **given: Any) -> None:
            going.wait(60)
            raise OSError("it hung")

        if where == "the model":
            model = station.versions.active(station.products[NAME])[1]
            monkeypatch.setattr(type(model), "stream", lambda self, given: iter(wait, None))
        elif where == "the disk":
            monkeypatch.setattr(station.files, "keep", wait)
        elif where == "the database":
            monkeypatch.setattr(station.store, "record", wait)
        else:
            monkeypatch.setattr(memory, "LARGE_PIXELS", 0)
            assert station.inspector.memory.acquire(station.inspector.memory.limit)

    yield hung
    going.set()


@pytest.mark.parametrize("where", PLACES)
def test_a_part_that_is_held_up_fails_in_its_time(impatient, hang, parts, where):
    station, number = impatient, impatient.products[NAME]
    hang(station, where)
    begun, answer = time.monotonic(), station.inspector.submit(one_part(number, parts[0], number="4711"))
    used = station.inspector.memory.limit if where == "memory" else 0
    with pytest.raises(OverdueError, match="not answered for 1 s"):
        answer.result(30)
    assert time.monotonic() - begun < 20
    until(lambda: (station.inspector.backlog(), station.inspector.intake.oldest()) == (0, None))
    until(lambda: station.inspector.memory.used == used, "its memory is free again")
    until(lambda: [event.text for event in station.store.events(MISSED, number)])
    (event,) = station.store.events(MISSED, number)
    assert event.text == "part 4711: it was not answered in time"
    assert "overdue" not in station.problems()[0].code
    assert any(problem.kind == "not_inspecting" for problem in station.problems())


def test_the_age_of_the_oldest_part_is_told(station, parts, monkeypatch):
    monkeypatch.setattr("flawscope_station.core.health.WAITING_SECONDS", 0.05)
    with held(station):
        answer = station.inspector.submit(one_part(station.products[NAME], parts[0]))
        until(lambda: station.health.oldest_seconds() > 0.1)
        assert "waiting" in {problem.kind for problem in station.problems()}
        told = re.search(rb"flawscope_oldest_waiting_seconds ([0-9.]+)\n", station.metrics.text())
        assert told is not None
        assert float(told[1]) > 0.1
    answer.result(60)
    assert station.health.oldest_seconds() == 0
    assert "waiting" not in {problem.kind for problem in station.problems()}


@pytest.mark.parametrize("where", PLACES)
def test_a_station_ends_in_its_time_whatever_hangs(settings, hang, parts, monkeypatch, where):
    monkeypatch.setattr(inspector_module, "END_SECONDS", 0.5)
    monkeypatch.setattr(inspector_module, "FAILED_SECONDS", 0.5)
    monkeypatch.setattr(inspector_module, "RECORDING_SECONDS", 0.1)
    monkeypatch.setattr("flawscope_station.inspecting.recorder.STOP_TIMEOUT", 0.5)
    station = started(settings)
    hang(station, where)
    answer = station.inspector.submit(one_part(station.products[NAME], parts[0]))
    time.sleep(0.2)
    begun = time.monotonic()
    station.close()
    assert time.monotonic() - begun < 15
    assert isinstance(answer.exception(0), EndingError)
    with pytest.raises(BusyError):
        station.inspector.submit(one_part(1, parts[0]))


def test_a_key_that_comes_again_while_it_is_answered_is_answered(station, parts, monkeypatch):
    """At each moment: nothing of it stays behind."""
    inspector, again, number = station.inspector, list[Future[Any]](), station.products[NAME]
    record, announce = station.store.record, station.recorder.announce
    sent = one_part(number, parts[0], key="http:k")
    monkeypatch.setattr(
        station.store, "record", lambda new: (again.append(inspector.submit(sent)), record(new))[1]
    )
    monkeypatch.setattr(
        station.recorder, "announce", lambda one: (again.append(inspector.submit(sent)), announce(one))[1]
    )
    first = inspector.submit(sent)
    first.add_done_callback(lambda _: again.append(inspector.submit(sent)))
    found = {first.result(60).number}
    until(lambda: inspector.backlog() == 0)
    monkeypatch.undo()
    assert len(again) >= 3
    assert found == {one.result(60).number for one in again}
    assert inspector.intake._by_key == {}
    assert len(recorded(station)) == 1


def test_memory_is_claimed_at_once_or_not_at_all():
    """Two who need more than half of it each: neither holds what the other waits for."""
    memory, done = MemoryBudget(100), list[int]()

    def claim(number: int) -> None:
        for _ in range(20):
            assert memory.acquire(60)
            done.append(number)
            memory.release(60)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(done), memory.used) == (80, 0)
    assert memory.acquire(60)
    assert not memory.acquire(60, 0.01)
    assert not memory.acquire(60, is_over=lambda: True)
    assert memory.used == 60


def test_pictures_that_never_fit_together_are_refused_in_a_line(station, parts, monkeypatch):
    monkeypatch.setattr(memory, "LARGE_PIXELS", 0)
    monkeypatch.setattr(station.inspector.memory, "limit", 1000)
    part = one_part(station.products[NAME], parts[0])
    assert station.inspector.submit(part).result(60).number, "a single one is decoded alone"
    monkeypatch.setattr(station.inspector.judge.parts, "named", lambda part: part)
    two = replace(part, pictures=(*part.pictures, Picture(parts[1], "b.png")))
    error = station.inspector.submit(two).exception(60)
    assert isinstance(error, TooLargeError)
    assert "the 2 pictures of part" in str(error)
    assert "\n" not in str(error)
