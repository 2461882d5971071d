"""What the station knows of its computer: measured by one thread, read by everybody without waiting."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import InternalError, ProgrammingError

from flawscope.artefact import files as library_files
from flawscope_station.core.metrics import Metrics
from flawscope_station.monitoring.background import WatchedCalls, WatchedPool
from flawscope_station.monitoring.machine import CLOCK_JUMP, MAX_AGE, ClockJumps, MachineWatch
from flawscope_station.store.database import SILENT, Database, StoreError
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.postgres import Connection, SilentServerError
from station_helpers import ManualClock, failing, until

SIZE = 1000
HOUR = 3600.0


class Computer:
    """A station's disk, database and clock, and what is told of them."""

    def __init__(self, folder: Path):
        self.files, self.database = Files(folder), Database(f"sqlite:///{folder / 'station.sqlite'}")
        self.database.migrate()
        self.told: dict[str, str | None] = {}
        self.clock = ManualClock()
        self.watch = MachineWatch(self.database, self.files, self._report, self.clock)

    def _report(self, code: str, why: str | None, *more: object) -> None:
        self.told[code] = why

    def stop(self) -> None:
        threading.Thread(target=self.clock.advance, args=(10.0,)).start()  # which lets it end
        self.watch.stop(5.0)
        self.database.close()


@pytest.fixture
def computer(tmp_path) -> Iterator[Computer]:
    made = Computer(tmp_path / "store")
    yield made
    made.stop()


@pytest.mark.parametrize(("where", "word"), [("disk", "the disk"), ("database", "the database")])
def test_what_hangs_is_a_standstill_that_names_it(computer, monkeypatch, where, word):
    watch, going, hangs = computer.watch, threading.Event(), threading.Event()
    part, name = (computer.files, "measure") if where == "disk" else (computer.database, "check_answers")
    measure = getattr(part, name)

    def hang() -> Any:
        hangs.set()
        assert going.wait(60)
        return measure()

    monkeypatch.setattr(part, name, hang)
    watch.start()
    assert hangs.wait(60)
    assert watch.standstill(SIZE) is None, "it is young enough"
    computer.clock.advance(MAX_AGE + 0.1)
    stop = watch.standstill(SIZE)
    assert stop is not None
    assert stop.kind == SILENT
    assert str(stop.error).startswith(f"{word} has not answered for 5 s")
    with pytest.raises(StoreError, match=word):
        watch.check_room(SIZE)
    begun = time.monotonic()
    with pytest.raises(StoreError, match="has not answered"), computer.database.reading():
        pass
    with pytest.raises(StoreError, match="has not answered"), computer.database.writing():
        pass
    assert time.monotonic() - begun < 1, "nobody more waits for it: SQLite's file lies on the disk"
    with monkeypatch.context() as patch:
        patch.setattr(Database, "is_sqlite", False)  # a server's does not
        assert (watch.database_silence() is None) == (where == "disk")
    going.set()
    until(lambda: watch.standstill(SIZE) is None, "it answers again")


def test_a_station_that_was_not_started_or_has_ended_knows_of_no_silence(computer):
    computer.clock.advance(100)
    assert computer.watch.standstill(SIZE) is None
    computer.watch.start()
    computer.watch.end()
    computer.clock.advance(100)
    assert computer.watch.silence() is None


def test_room_on_a_disk_that_was_full_is_found_by_itself(computer):
    """Nobody asks for problems, and nobody else writes."""
    computer.database.full = "the disk is full; free some space"
    computer.database.failure = computer.database.full
    assert computer.watch.standstill(SIZE).kind == "disk_full"
    computer.watch.measure()
    assert (computer.database.full, computer.database.failure) == ("", "")
    assert computer.watch.standstill(SIZE) is None


def test_a_data_base_that_stays_full_is_said_to_be(computer, monkeypatch):
    computer.database.full = computer.database.failure = "the disk is full"
    monkeypatch.setattr(computer.database, "try_write", lambda: None)
    computer.watch.measure()
    with pytest.raises(StoreError, match="full") as refused:
        computer.watch.check_room(SIZE)
    assert refused.value.status == 507


def test_what_was_written_since_the_disk_was_measured_counts(computer, monkeypatch):
    monkeypatch.setattr("flawscope_station.store.files.RESERVED_BYTES", 0)
    monkeypatch.setattr(computer.files, "free_bytes", lambda: 100)
    computer.watch.measure()
    assert computer.watch.standstill(100) is None
    computer.files.keep(PICTURES, b"x" * 30, ".png")
    assert computer.watch.standstill(70) is None
    assert computer.watch.standstill(71).kind == "disk_full"


def test_nobody_but_the_thread_asks_the_disk(computer, monkeypatch):
    computer.watch.measure()
    for name in ("free_bytes", "check_writable"):
        monkeypatch.setattr(computer.files, name, failing(AssertionError("the disk was asked")))
    assert computer.watch.standstill(SIZE) is None
    computer.files.check_free_space(SIZE)


def test_a_folder_that_is_gone_is_told_without_its_path_to_senders(computer, monkeypatch):
    monkeypatch.setattr(computer.files, "free_bytes", failing(FileNotFoundError(2, "No such file")))
    computer.watch.measure()
    error = computer.watch.standstill(SIZE).error
    assert str(computer.files.folder) in str(error)
    assert error.sender_text == "the station's folder is not there: No such file"


# ------------------------------------------------------------------------------------------------- its clock


class Wall:
    """A clock that is set, and one that never jumps."""

    def __init__(self) -> None:
        self.elapsed, self.ahead = 1000.0, 0.0

    def wall(self) -> int:
        return round((1_800_000_000 + self.elapsed + self.ahead) * 1e6)

    def jumps(self) -> ClockJumps:
        return ClockJumps(self.wall, lambda: self.elapsed)


def test_a_clock_that_jumps_is_told_at_once_with_its_span():
    there = Wall()
    jumps = there.jumps()
    there.elapsed += 1
    assert not jumps.look()
    assert jumps.text() == ""
    there.ahead = 5 * HOUR
    assert jumps.look(), "at the next look"
    assert "jumped 5 hours ahead at 2027-01-15T08:16:41.000Z, to 2027-01-15T13:16:41.000Z" in jumps.text()
    there.elapsed += 30
    there.ahead = 0.0
    assert jumps.look()
    assert ", then 5 hours back at 2027-01-15T13:17:11.000Z" in jumps.text()
    assert "5 hours back" in jumps.last()
    there.elapsed += 25 * HOUR
    assert not jumps.look()
    assert jumps.text() == "", "it is long ago"


def test_a_clock_that_is_corrected_a_little_has_not_jumped():
    there = Wall()
    jumps = there.jumps()
    for _ in range(10):
        there.ahead += CLOCK_JUMP - 1
        assert not jumps.look()
    there.ahead += 2 * HOUR
    assert jumps.look()
    jumps.confirm()
    assert jumps.text() == ""


def test_a_jump_is_a_problem_from_the_next_measurement_on(computer, monkeypatch):
    there, checked = Wall(), list[bool]()
    computer.watch.jumps = there.jumps()
    computer.watch.on_clock_jump.append(lambda: checked.append(True))
    computer.watch.measure()
    assert computer.told["clock_jumped"] is None
    there.ahead = -26 * HOUR
    computer.watch.measure()
    assert "26 hours back" in str(computer.told["clock_jumped"])
    assert checked == [True]


# ----------------------------------------------------------------------------------------------- databases


@pytest.fixture(scope="module")
def postgres_database() -> Iterator[Database]:
    """Nobody connects to it."""
    made = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("kind", "error", "remedy"),
    [
        (
            InternalError,
            errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"),
            "primary",
        ),
        (
            ProgrammingError,
            errors.InsufficientPrivilege("permission denied for table inspections"),
            "`database`",
        ),
        (InternalError, errors.DataCorrupted("invalid page in block 3"), "`database`"),
    ],
)
def test_a_data_base_that_refuses_is_a_store_that_is_away(postgres_database, kind, error, remedy):
    """So that senders try again: a failover ends."""
    with pytest.raises(StoreError, match=remedy) as refused, postgres_database._translated_errors():
        raise kind("INSERT", {}, error)
    assert (refused.value.status, refused.value.code) == (503, "store_unreachable")
    assert "127.0.0.1" not in refused.value.sender_text


def test_a_wrong_statement_is_no_store_that_is_away(postgres_database):
    with pytest.raises(ProgrammingError), postgres_database._translated_errors():
        raise ProgrammingError("SELECT", {}, errors.UndefinedColumn("column x does not exist"))


def test_a_server_that_says_nothing_is_told_apart_from_one_that_refuses(postgres_database):
    with pytest.raises(StoreError) as silent, postgres_database._translated_errors():
        raise InternalError("SELECT", {}, SilentServerError("the server has not answered for 12 s"))
    assert silent.value.code == SILENT


def test_a_wait_for_an_answer_ends():
    closed = list[bool]()
    connection: Any = SimpleNamespace(pgconn=SimpleNamespace(finish=lambda: closed.append(True)))

    def silent() -> Any:
        while True:
            yield 1

    waiting = Connection._in_time(connection, silent(), 0.0)
    next(waiting)
    with pytest.raises(psycopg.OperationalError, match="has not answered"):
        until(lambda: waiting.send(0) is None)  # nothing came
    assert closed == [True]


def test_an_answer_that_comes_is_passed_on():
    connection: Any = SimpleNamespace(pgconn=None)

    def answers() -> Any:
        got = yield 1
        return got

    waiting = Connection._in_time(connection, answers(), 60.0)
    assert next(waiting) == 1
    with pytest.raises(StopIteration) as done:
        waiting.send(2)
    assert done.value.value == 2


def test_an_error_while_committing_leaves_in_doubt_what_stands(computer, monkeypatch):
    from sqlalchemy.exc import OperationalError

    engine = computer.database._writer
    with pytest.raises(StoreError) as before, computer.database.writing():
        raise OperationalError("INSERT", {}, Exception("gone"))
    assert not before.value.is_in_doubt
    lost = failing(OperationalError("COMMIT", {}, Exception("gone")))
    monkeypatch.setattr(engine.dialect, "do_commit", lost)
    with pytest.raises(StoreError) as during, computer.database.writing():
        pass
    assert during.value.is_in_doubt


# ------------------------------------------------------------------------------------------- the rest


def test_unfinished_files_of_others_go_whatever_the_clock_says(tmp_path):
    """A clock that was ahead wrote files of the future; what this process writes stays."""
    station = Files(tmp_path / "store")
    folder = station.folder / PICTURES / "abc"
    folder.mkdir()
    left, own = folder / ".a.png.01234567.part", folder / library_files.partial_name("b.png")
    fit = folder / ".plate.safetensors.89abcdef.part"  # a process beside the station writes it just now
    model = station.temporary_path("model.onnx")
    model.parent.mkdir()
    for path in (left, own, fit, model):
        path.write_bytes(b"x")
    ahead = time.time() + 1000 * HOUR
    os.utime(left, (ahead, ahead))
    os.utime(own, (1.0, 1.0))
    station.sweep()
    assert [path.exists() for path in (left, own, fit, model)] == [False, True, True, True]


def test_calls_of_a_pool_are_watched():
    clock = ManualClock()
    calls = WatchedCalls("upload", 60.0, clock)
    with calls.call():
        clock.advance(50)
        with calls.call():
            clock.advance(11)
            assert calls.is_stuck
    assert not calls.is_stuck
    assert not calls.is_down


def test_a_pool_marks_each_call_and_its_end():
    pool = WatchedPool(1, "request", 60.0)
    assert pool.submit(lambda: len(pool.calls.begun)).result(60) == 1
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(60)
    assert not pool.calls.begun
    pool.shutdown()


def test_metrics_come_in_time_whatever_the_store_does(monkeypatch):
    monkeypatch.setattr("flawscope_station.core.metrics.SCRAPE_SECONDS", 0.05)
    metrics, going = Metrics(), threading.Event()
    metrics.gauges.append(lambda: {"backlog": ("Parts.", {"": 3.0})})
    metrics.store_gauges.append(lambda: {"waiting": ("Pictures.", {"": 1.0 + going.wait(60)})})
    try:
        begun = time.monotonic()
        text = asyncio.run(metrics.scrape())
        assert time.monotonic() - begun < 5
        assert b"flawscope_backlog 3.0" in text
        assert b"flawscope_waiting" not in text
    finally:
        going.set()
    until(lambda: b"flawscope_waiting 2.0" in asyncio.run(metrics.scrape()))


def test_metrics_leave_out_what_fails():
    metrics = Metrics()
    metrics.store_gauges += [failing(OSError("gone")), lambda: {"waiting": ("Pictures.", {"": 1.0})}]
    assert b"flawscope_waiting 1.0" in metrics.text()
