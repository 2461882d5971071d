"""Intake: one place that says whether a part may be taken, for all who hand one in; and who waits for one."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from flawscope_station.core.station import Station
from flawscope_station.inspecting.answers import Asking, SentPictures, wait_for_inspection
from flawscope_station.inspecting.interlock import NotReadyError
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.picture import Picture
from flawscope_station.inspecting.ticket import LateError, OverdueError, State, Waiter
from flawscope_station.monitoring.machine import MAX_AGE
from flawscope_station.monitoring.problems import Standstill
from flawscope_station.settings.station import Limits
from flawscope_station.store.database import SILENT, StoreError
from flawscope_station.store.files import PICTURES
from flawscope_station.store.inspection import Label
from flawscope_station.store.open_models import ActiveModels, NoModelError
from flawscope_station.store.schema import ABANDONED
from station_helpers import NAME, failing, held, one_part, post, recorded, started, until


@pytest.fixture
def quiet(station: Station, monkeypatch: pytest.MonkeyPatch) -> Station:
    """A station whose disk and database nobody may ask."""
    asked = failing(AssertionError("it asks the disk or the database"))
    for part, name in (
        (station.files, "free_bytes"),
        (station.files, "check_writable"),
        (station.database, "reading"),
        (station.database, "writing"),
    ):
        monkeypatch.setattr(part, name, asked)
    return station


def refused(station: Station, kind: type[Exception], data: bytes, **of_part: Any) -> Exception:
    """Why a part is refused: the same before its picture is read and when it is handed in."""
    intake, number = station.inspector.intake, station.products[NAME]
    with pytest.raises(kind) as before:
        intake.check(number, of_part.get("number"), of_part.get("due", math.inf))
    with pytest.raises(kind) as taken:
        station.inspector.submit(one_part(number, data, **of_part))
    assert str(taken.value) == str(before.value)
    assert station.inspector.backlog() == 0
    return before.value


def test_it_asks_neither_disk_nor_data_base(quiet):
    intake, number = quiet.inspector.intake, quiet.products[NAME]
    intake.check(number, "4711", time.monotonic() + 60)
    assert intake.standstill(number) is None


def test_a_disk_that_hangs_refuses_at_once(station, parts, monkeypatch):
    machine = station.inspector.intake.machine
    old = replace(machine.state, at=machine.state.at - MAX_AGE - 60)
    monkeypatch.setattr(machine, "_started_at", 0.0)
    monkeypatch.setattr(machine, "measure", lambda: old)
    machine.state = old
    begun = time.monotonic()
    error = refused(station, StoreError, parts[0])
    assert isinstance(error, StoreError)
    assert error.code == SILENT
    assert time.monotonic() - begun < 5


def test_a_full_disk_no_model_and_an_interlock_refuse(station, parts, monkeypatch):
    number = station.products[NAME]

    def check(product_id: int, part: str | None) -> None:
        if part != "known":
            raise NotReadyError("challenge parts have not passed")

    station.interlocks.add(intake=[SimpleNamespace(products={number}, check=check)])
    refused(station, NotReadyError, parts[0], number="4711")
    assert station.inspector.intake.standstill(number, "known") is None
    with monkeypatch.context() as patch:
        patch.setattr(station.versions.models, "active", ActiveModels())
        refused(station, NoModelError, parts[0], number="known")
        full = Standstill("disk_full", StoreError("the disk is full", "disk_full"))
        patch.setattr(station.inspector.intake.machine, "fault", lambda: full)
        assert str(refused(station, StoreError, parts[0])) == "the disk is full", "it is asked first"


def test_no_part_asks_the_disk_how_much_is_free(running, parts, monkeypatch):
    files, asked = running.station.files, list[int]()
    free_bytes = files.free_bytes
    assert post(running.url, parts[0]).status_code == 201
    monkeypatch.setattr(running.station.health.watch, "_look", lambda: None)  # it asks each second
    monkeypatch.setattr(files, "free_bytes", lambda: asked.append(1) or free_bytes())
    assert post(running.url, parts[1]).status_code == 201
    assert asked == []
    files.measure()
    assert asked == [1]


def test_no_place_and_no_time_refuse(station, parts, monkeypatch):
    intake = station.inspector.intake
    late = station.products[NAME], None, time.monotonic() - 1
    with pytest.raises(LateError):
        intake.check(*late)
    assert intake.late_products(60) == [station.products[NAME]]
    monkeypatch.setattr(intake, "limits", SimpleNamespace(queue=0, upload=intake.limits.upload))
    refused(station, BusyError, parts[0])
    monkeypatch.setattr(intake, "limits", Limits())
    intake.is_ending = True
    refused(station, BusyError, parts[0])


# -------------------------------------------------------------------------------- two who wait for one part


def test_a_client_that_leaves_ends_no_other_ones_wait(station, parts):
    """A retry under its key, after a client's time-out: it has the answer, and the record says so."""
    sent = one_part(station.products[NAME], parts[0], key="http:k")
    with held(station):
        first, second = (station.inspector.submit(sent) for _ in range(2))
        assert first.ticket is second.ticket
        assert first.leave(ABANDONED)
    assert second.result(60).inspection.unanswered is None
    assert [one["unanswered"] for one in recorded(station)] == [None]


def test_a_client_that_leaves_before_its_part_is_taken_has_left(station, parts, monkeypatch):
    """Its key is being looked up meanwhile. What it sent is judged, and the record says who did not wait."""
    find, going, begun = station.store.find_answers, threading.Event(), threading.Event()

    def look_up(*args: Any) -> Any:
        begun.set()
        assert going.wait(60)
        return find(*args)

    monkeypatch.setattr(station.store, "find_answers", look_up)
    picture, address = Picture(parts[0], "a.png"), station.addresses.find(NAME)
    asking = Asking(station.context, SentPictures(address, (picture,), False, Label(), "k", math.inf))

    async def leave_early() -> list[Any]:
        answers = asyncio.create_task(asking.answers())
        assert await asyncio.to_thread(begun.wait, 60)
        asking.leave(ABANDONED)
        going.set()
        return await answers

    (answer,) = asyncio.run(leave_early())
    assert (answer.is_new, answer.error) == (True, None)
    assert [one["unanswered"] for one in recorded(station)] == [ABANDONED]


def test_a_deadline_ends_its_own_wait(station, parts):
    number = station.products[NAME]
    first, second = None, None

    async def wait(waiter: Waiter) -> Any:
        return await wait_for_inspection(station, waiter)

    with held(station):
        soon = time.monotonic() + 0.3
        first = station.inspector.submit(one_part(number, parts[0], key="http:k", due=soon))
        second = station.inspector.submit(one_part(number, parts[0], key="http:k"))
        with pytest.raises(LateError):
            asyncio.run(wait(first))
        assert station.inspector.backlog() == 1
    assert asyncio.run(wait(second)).inspection.unanswered is None


def test_one_who_asks_when_all_have_left_is_answered(station, parts, monkeypatch):
    """The record says that it was not answered, and a retry comes before its ticket has ended."""
    sent, late = one_part(station.products[NAME], parts[0], key="http:k"), list[Waiter]()
    mark = station.store.set_unanswered

    def marked(number: int, why: str | None) -> None:
        if why is not None:  # it is decided, and not answered yet
            late.append(station.inspector.submit(sent))
        mark(number, why)

    monkeypatch.setattr(station.store, "set_unanswered", marked)
    record = station.store.record

    def leave(several: Any) -> Any:
        assert first.leave(ABANDONED)
        return record(several)

    with held(station):
        first = station.inspector.submit(sent)
        monkeypatch.setattr(station.store, "record", leave)
    until(lambda: late)
    found = asyncio.run(wait_for_inspection(station, late[0]))
    assert found.inspection.unanswered is None
    assert [one["unanswered"] for one in recorded(station)] == [None]


# ------------------------------------------------------------------------------------------- what it holds


@pytest.fixture
def impatient(settings) -> Iterator[Station]:
    """A part has half a second for its answer."""
    station = started(replace(settings, limits=Limits(wait=0.5)))
    yield station
    station.close()


def test_the_picture_of_a_record_stays_though_its_wait_ended(impatient, parts, monkeypatch):
    """The transaction waits for another writer for longer than its sender may wait."""
    monkeypatch.setattr("flawscope_station.inspecting.inspector.RECORDING_SECONDS", 0.1)
    station, going, record = impatient, threading.Event(), impatient.store.record

    def wait(several: Any) -> Any:
        assert going.wait(60)
        return record(several)

    monkeypatch.setattr(station.store, "record", wait)
    waiter = station.inspector.submit(one_part(station.products[NAME], parts[0]))
    with pytest.raises(OverdueError):
        waiter.result(60)
    assert waiter.ticket.state is State.RECORDING
    going.set()
    until(lambda: waiter.ticket.state is State.DONE)
    (found,) = recorded(station)
    assert found["unanswered"] == "late"
    until(lambda: not station.files.held_bytes())
    assert station.files.path(PICTURES, found["picture"], ".png").is_file()


def test_parts_that_a_hung_disk_holds_up_keep_no_pictures_when_they_have_failed(
    impatient, parts, monkeypatch
):
    """The pool's threads hang for hours, and so do the parts behind them in its queue."""
    station, going = impatient, threading.Event()
    monkeypatch.setattr(station.files, "keep", lambda *a, **given: going.wait(60) and failing(OSError())())
    number = station.products[NAME]
    waiters = [station.inspector.submit(one_part(number, parts[k % len(parts)])) for k in range(16)]
    try:
        for one in waiters:
            with pytest.raises(OverdueError):
                one.result(60)
        assert station.inspector.backlog() == 0
        assert [one.ticket.part.size for one in waiters] == [0] * 16
        assert [len(one.ticket.views) for one in waiters] == [0] * 16
    finally:
        going.set()
