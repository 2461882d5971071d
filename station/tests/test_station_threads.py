"""Threads of a station: what fails is begun again and told, and `/readyz` says what is true."""

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flawscope import progress
from flawscope_station.assembly import open_station
from flawscope_station.core import extension
from flawscope_station.drift.assembly import Drift
from flawscope_station.monitoring import background
from flawscope_station.monitoring.background import (
    MIN_RESTART_DELAY,
    REPORT_SECONDS,
    SETTLED_SECONDS,
    Backoff,
    GuardedThread,
    Log,
    stop_all,
)
from flawscope_station.monitoring.problems import Problems
from station_helpers import PATIENCE, ManualClock, failing, one_part, recorded, until
from threads_helpers import (
    PANIC,
    Broken,
    Panic,
    asked_fixture,  # noqa: F401
    watched,
    work_fixture,  # noqa: F401
)

UNREAD = [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left"), ValueError("closed file")]


@pytest.mark.parametrize("stderr", [*map(Broken, UNREAD), None])
def test_a_remark_that_nobody_reads_ends_nothing(stderr, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr)
    progress.write_line("a remark")
    step = progress.TerminalProgress()
    step("fitting", 1, 2)
    step("fitting", 2, 2)
    step.stop()
    jobs = progress.JobsProgress(progress.write_line, progress.write_line, terminal=True)
    jobs.step("a", "fitting", 1, 2)
    jobs.show()
    jobs.print_line("done")


def test_results_that_nobody_reads_are_an_error():
    """They are no remarks: `flawscope predict | head` ends."""
    with pytest.raises(BrokenPipeError):
        progress.write_line("a result", Broken(UNREAD[0]))


def test_a_log_waits_for_nobody():
    """A pipe that is full blocks its writer, and whoever says something goes on."""
    read, write = os.pipe()
    pipe = os.fdopen(write, "w")
    log = Log(lambda line: progress.write_line(line, pipe))
    for _ in range(5000):
        log("x" * 100)
    os.close(read)  # else its thread would wait until the end of the tests
    log.close()
    said: list[str] = []
    log = Log(said.append)
    for number in range(50):
        log(f"{number}")
    log.close()
    assert said == [f"{number}" for number in range(50)]


def test_a_problem_is_told_whatever_becomes_of_its_line():
    def say(line: str) -> None:
        raise BrokenPipeError

    problems = Problems(say)
    problems.report("disk_full", "it is full")
    assert [one.code for one in problems.all()] == ["disk_full"]


@pytest.mark.parametrize(
    "error", [ValueError("a\nb"), Panic("gone"), SystemExit(1), MemoryError(), OSError(28)]
)
def test_work_that_fails_is_begun_again_and_told_for_a_while(work, error):
    thread, told, watch = watched(work, clock := ManualClock())
    watch.check()
    assert set(told.values()) == {None}, "it was not started"
    thread.start()
    watch.check()
    assert set(told.values()) == {None}
    work.error = error
    until(lambda: thread.failure)
    clock.advance(MIN_RESTART_DELAY)
    until(lambda: work.begun == 2)
    watch.check()
    assert told["not_inspecting"] is not None
    assert "\n" not in told["not_inspecting"]
    assert type(error).__name__ in told["not_inspecting"]
    clock.advance(SETTLED_SECONDS)
    watch.check()
    assert told["not_inspecting"] is None
    assert "work: " in str(told["thread_failed"])
    clock.advance(REPORT_SECONDS)
    watch.check()
    assert told["thread_failed"] is None
    work.ended.set()
    thread.join(PATIENCE)
    watch.check()
    assert work.begun == 2
    assert set(told.values()) == {None}, "it was told to end"


def test_a_thread_that_is_gone_is_started_anew(work, monkeypatch):
    """Whatever ended it: here the guard itself fails."""
    thread, told, watch = watched(work)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda args: None)
        patch.setattr(thread, "_note_failure", lambda failure: 1 / 0)
        thread.start()
        work.error = ValueError("a")
        until(lambda: not thread._thread.is_alive())
    watch.check()
    assert told["not_inspecting"] is not None
    until(lambda: work.begun == 2)


def test_a_thread_being_started_is_not_begun_twice(work, monkeypatch):
    """Whatever looks meanwhile: a busy computer takes its time to start one."""
    thread, told, watch = watched(work)
    start, looked, starting = threading.Thread.start, threading.Event(), threading.Event()

    def start_slowly(one: threading.Thread) -> None:
        if one.name == "work":
            starting.set()
            looked.wait(0.5)
        start(one)

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    starter = threading.Thread(target=thread.start)
    start(starter)
    assert starting.wait(60)
    watch.check()
    looked.set()
    starter.join(60)
    until(lambda: work.begun)
    watch.check()
    assert set(told.values()) == {None}
    assert work.begun == 1


def test_a_thread_that_cannot_start_is_started_later(work, monkeypatch):
    thread, told, watch = watched(work)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", failing(RuntimeError("can't start new thread")))
        thread.start()
        watch.check()
    assert "can't start new thread" in str(told["not_inspecting"])
    watch.check()
    until(lambda: work.begun == 1)


def test_work_that_returns_too_early_is_begun_again():
    ended, begun = threading.Event(), list[int]()
    thread = GuardedThread("work", lambda: begun.append(1), ended)
    thread.start()
    until(lambda: len(begun) >= 2)
    ended.set()
    thread.join(PATIENCE)


def test_pauses_double_up_to_the_longest_and_begin_anew_after_success():
    pauses = Backoff(1.0, 5.0)
    assert [pauses.next() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    pauses.reset()
    assert pauses.next() == 1.0
    several = [Backoff(1.0, 8.0, 0.25).next() for _ in range(200)]
    assert 0.75 <= min(several) < 1.0 < max(several) <= 1.25, "spread"


@pytest.mark.parametrize("where", ["the model", "the disk", "the database"])
def test_an_error_of_one_picture_harms_no_other(asked, parts, monkeypatch, where):
    """Though they are judged in one turn, and recorded in one transaction."""
    station, bad = asked.station, b"this one"
    model = station.versions.models.active[asked.number].model
    run, keep, record = model.stream, station.files.keep, station.store.record

    def stream(pictures: Any) -> Iterator[Any]:
        together = [*pictures]
        if any(bad in one.data for one in together):
            raise PANIC
        yield from run(together)

    def keep_others(kind: str, data: bytes, *args: Any, **given: Any) -> str:
        if bad in data:
            raise PANIC
        return keep(kind, data, *args, **given)

    def record_others(several: Any) -> Any:
        if any(one.name == "bad" for one in several):
            raise PANIC
        return record(several)

    monkeypatch.setattr(
        *{
            "the model": (type(model), "stream", lambda self, pictures: stream(pictures)),
            "the disk": (station.files, "keep", keep_others),
            "the database": (station.store, "record", record_others),
        }[where]
    )
    names = [f"{number}" for number in range(12)]
    names[5] = "bad"
    sent = [
        one_part(asked.number, parts[0] + (bad if name == "bad" else name.encode()), name) for name in names
    ]
    errors = [answer.exception(120) for answer in station.inspector.submit_all(sent)]
    assert [error is not None for error in errors] == [name == "bad" for name in names]
    assert set(names) - {"bad"} == set(asked.names())


def test_the_smallest_station_has_few_threads(settings, monkeypatch):
    """No sinks, no shifts, nothing that is learnt."""
    pools, begin = list[ThreadPoolExecutor](), ThreadPoolExecutor.__init__

    def counted(pool: ThreadPoolExecutor, *args: Any, **given: Any) -> None:
        pools.append(pool)
        begin(pool, *args, **given)

    monkeypatch.setattr(ThreadPoolExecutor, "__init__", counted)
    station = open_station(settings)
    try:
        station.start()
        running = {thread.name for thread in threading.enumerate()}
        watched = [thread.name for thread, _ in station._threads() if thread.name in running]
        assert "watch" in watched
        assert len(watched) <= 8, f"{watched}"
        assert len(pools) <= 4  # for requests, uploads, large pictures and metrics
    finally:
        station.close()


def test_an_observer_that_fails_harms_nobody_and_is_told_until_it_works(asked, parts, monkeypatch):
    station, heard = asked.station, list[int]()
    drift = station.components[Drift]
    station.observers.append(lambda recorded: heard.append(recorded.number))
    with monkeypatch.context() as patch:
        patch.setattr(drift.monitor, "mark_new", failing(ValueError("a bug")))
        assert asked.inspect(parts[0], "first")
        until(lambda: "Drift.observe: ValueError: a bug" in asked.get("/api/v1/status").text)
        assert len(heard) == 1
        assert asked.is_ready
    assert asked.inspect(parts[1], "second")
    until(lambda: "observer_failed" not in asked.get("/api/v1/status").text)
    assert len(heard) == 2


def test_an_observer_that_hangs_stops_no_record(asked, parts, monkeypatch):
    """Answers and records go on; whoever hangs is told of, and what passed meanwhile when it goes on."""
    station, going, begun = asked.station, threading.Event(), threading.Event()
    monkeypatch.setattr(extension, "MAX_UNHEARD", 1)
    monkeypatch.setattr(background, "STUCK_SECONDS", 0.0)

    def hang(recorded: object) -> None:
        begun.set()
        assert going.wait(60)

    station.observers.append(hang)
    assert asked.inspect(parts[0], "first")
    assert begun.wait(60)
    assert asked.inspect(parts[1], "second")
    assert asked.inspect(parts[2], "third")
    assert [one["name"] for one in recorded(station)] == ["third", "second", "first"]
    until(lambda: "observers: what it called has not answered" in asked.get("/api/v1/status").text)
    going.set()
    until(lambda: any("one hung, and 1 inspections passed meanwhile" in line for line in asked.told))
    until(lambda: "observer_failed" not in asked.get("/api/v1/status").text)


def test_a_source_that_does_not_end_keeps_no_other_from_ending(work):
    ended: list[int] = []
    stop_all([lambda: work.ended.wait(60), lambda: ended.append(1), lambda: sys.exit(1)], seconds=0.5)
    assert ended == [1]
