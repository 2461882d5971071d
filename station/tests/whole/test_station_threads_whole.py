"""Threads of a station: what fails is begun again and told, and `/readyz` says what is true."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from flawscope.errors import FlawscopeError
from flawscope_station.core.station import Station
from flawscope_station.drift.assembly import Drift
from flawscope_station.inspecting import inspector as inspector_module
from flawscope_station.learning.jobs import JobQueue
from flawscope_station.store import files as store_files
from flawscope_station.store.database import StoreError
from station_helpers import delayed, everything, failing, until
from threads_helpers import (
    BUG,
    EXIT,
    PANIC,
    asked_fixture,  # noqa: F401
    folder,
    status,
    work_fixture,  # noqa: F401
)


def fill(pipe: int) -> None:
    """Fill a pipe, so that whoever writes into it waits."""
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    os.set_blocking(pipe, True)


@pytest.mark.parametrize("stderr", ["its reader is gone", "nobody reads", "closed at the start"])
def test_a_served_station_goes_on_whatever_becomes_of_its_log(served, parts, tmp_path, stderr):
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    command = [sys.executable, "-m", "flawscope", "serve", *served.words, "--folder", str(incoming)]
    command += ["--port", str(served.port)]
    read, write = os.pipe()
    if stderr == "nobody reads":
        fill(write)
    words = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command] if stderr == "closed at the start" else command
    served.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=write)
    os.close(write)
    if stderr == "its reader is gone":
        os.close(read)
    until(lambda: status(f"{served.url}/readyz") == 200)
    for number in range(3):  # each unreadable file is a problem, and a line
        (incoming / f"bad{number}.png").write_bytes(b"no picture" * number)
        (incoming / f"good{number}.png").write_bytes(parts[number])
    names = {f"good{number}.png" for number in range(3)}
    until(lambda: names <= {one["name"] for one in everything(served.url)})
    until(lambda: "folder_unreadable_1" in httpx.get(f"{served.url}/api/v1/status", timeout=30).text)
    assert status(f"{served.url}/readyz") == 200
    assert served.kill(signal.SIGTERM) == 0


def put(tmp_path: Path, data: bytes, name: str) -> None:
    """Put a picture into the watched folder, as a camera's program does."""
    (tmp_path / f"{name}.part").write_bytes(data)
    (tmp_path / f"{name}.part").rename(tmp_path / "incoming" / name)


Break = Callable[[Station, pytest.MonkeyPatch], None]


def _session(station: Station) -> Any:
    return station.versions.active(1)[1].session


def _set(
    find: Callable[[Station], Any], name: str, fault: Any, wake: bool = False, times: int = 10**9
) -> Break:
    """Let a method of a part of a station fail, so many times, or put something else in its place; and wake
    its thread."""

    def break_it(station: Station, patch: pytest.MonkeyPatch) -> None:
        part = find(station)
        is_error = isinstance(fault, BaseException)
        patch.setattr(part, name, failing(fault, times, getattr(part, name)) if is_error else fault)
        if wake:
            part.wake()

    return break_it


def watched(station: Station) -> Any:
    return folder(station).folders[0]


def _failure_of_a_report(station: Station, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_session(station), "run", failing(RuntimeError("out of memory")))
    patch.setattr(station.judge, "report_error", failing(BrokenPipeError(32, "Broken pipe")))


def _folder_gone(station: Station, patch: pytest.MonkeyPatch) -> None:
    folder = watched(station).folder
    folder.rename(folder.with_name("away"))
    patch.setattr(station, "_healed", lambda: folder.with_name("away").rename(folder), raising=False)


def judge(station: Station) -> Any:
    return station.judge


def recorder(station: Station) -> Any:
    return station.recorder


AWAY = StoreError("the database is away", "store_unreachable")
FULL = OSError(28, "No space left")
READ_ONLY = SimpleNamespace(begin=failing(OperationalError("BEGIN", {}, Exception("a readonly database"))))
# What fails, and the kind of the problem that a person reads of it; "": the sender alone is told.
FAULTS: dict[str, tuple[Break, str]] = {
    "the model fails once": (_set(_session, "run", BUG, times=1), "model_failed"),
    "the model fails": (_set(_session, "run", BUG), "model_failed"),
    "the model's library panics": (_set(_session, "run", PANIC), "model_failed"),
    "the model returns nonsense": (_set(_session, "run", lambda images: None), "model_failed"),
    "the model fails, and telling it, too": (_failure_of_a_report, "not_inspecting"),
    "the judge's turn panics": (_set(judge, "_next_ticket", PANIC), "not_inspecting"),
    "the judge ends": (_set(judge, "_judge_next", EXIT), "not_inspecting"),
    "judging has a bug": (_set(judge, "_judge", BUG), "model_failed"),
    "the database refuses records": (_set(lambda one: one.store, "record", AWAY), ""),
    "recording has a bug": (_set(lambda one: one.store, "record", BUG), "not_inspecting"),
    "recording panics": (_set(lambda one: one.store, "record", PANIC), "not_inspecting"),
    "the recorder ends": (_set(recorder, "_record_next", EXIT), "not_inspecting"),
    "nobody can be told of an inspection": (_set(recorder, "announce", BUG), ""),
    "a page cannot be told": (_set(lambda one: one.live, "publish", BUG), ""),
    "the disk is full": (_set(lambda one: one.files, "free_bytes", lambda: 0), "disk_full"),
    "the station's folder is gone": (
        _set(lambda one: one.files, "free_bytes", FileNotFoundError(2, "No such file")),
        "disk_full",
    ),
    # no inode, no quota: the disk has room
    "no file can be written": (_set(lambda one: store_files.files, "replace_file", FULL), "disk_full"),
    "keeping a picture panics": (_set(lambda one: one.files, "keep", PANIC), "not_inspecting"),
    "no thread can be started": (
        _set(lambda one: one.inspector._pool, "submit", RuntimeError("can't start new thread")),
        "not_inspecting",
    ),
    "checking pictures has a bug": (
        _set(lambda one: inspector_module, "check_picture", BUG),
        "not_inspecting",
    ),
    "the database is away": (_set(lambda one: one.database, "check_answers", AWAY), "store_unreachable"),
    "the database is read only": (_set(lambda one: one.database, "_writer", READ_ONLY), "store_unreachable"),
    "the folder's round has a bug": (_set(watched, "look", BUG), "folder_waits"),
    "the folder's round panics": (_set(watched, "look", PANIC), "not_inspecting"),
    "the folder's thread ends": (_set(watched, "finish_round", EXIT), "not_inspecting"),
    "the folder is away": (_folder_gone, "folder_away"),
    "the folder cannot ask the store": (_set(lambda one: one.store, "known_files", BUG), "folder_waits"),
    "a sink is away": (
        _set(lambda one: one.sinks.deliveries[0].sink, "send", OSError(113, "No route")),
        "sink",
    ),
    "the station cannot check itself": (
        _set(lambda one: one.inspector.intake, "late_products", BUG),
        "not_inspecting",
    ),
    "the watch itself panics": (
        _set(lambda one: one.health.watch, "_wait", PANIC, wake=True),
        "thread_failed",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_picture_is_inspected_or_told_and_readyz_says_what_is_true(
    asked, parts, tmp_path, monkeypatch, fault
):
    """Nobody reads stderr meanwhile."""
    break_it, kind = FAULTS[fault]
    station = asked.station
    outcomes: dict[str, Any] = {}
    assert asked.inspect(parts[0], "before")
    assert asked.is_ready
    with monkeypatch.context() as patch:
        asked.told.clear()
        break_it(station, patch)
        for turn in range(3):
            taken = folder(station).state.taken
            put(tmp_path, parts[turn], f"file{turn}.png") if (tmp_path / "incoming").is_dir() else None
            name = f"sent{turn}"
            try:
                outcomes[name] = asked.submit(parts[turn], name)
            except FlawscopeError as error:
                outcomes[name] = error
            if not was_inspected(outcomes[name], 0.5) and kind != "":
                until(  # unless the file was inspected since
                    lambda taken=taken: not asked.is_ready or folder(station).state.taken > taken,
                    f"{name} was not inspected, and the station says it is ready",
                )
        if kind:
            until(lambda: asked.was_told(kind), f"{kind} was not told")
        if hasattr(station, "_healed"):
            station._healed()
    until(lambda: asked.inspect(parts[0], "after"))
    until(lambda: asked.is_ready, "it works again, and says that it is not ready")
    for name, outcome in outcomes.items():
        assert isinstance(outcome, Exception) or outcome.exception(30) is not None or name in asked.names()
    files = {f"file{turn}.png" for turn in range(3)} if fault != "the folder is away" else set()
    until(lambda: files <= set(asked.names()), "a file was not inspected")
    assert asked.inspect(parts[1], "last")
    assert asked.is_ready


BESIDE = {  # threads that do not inspect: what they call, which fails
    "drift": (lambda one: one.components[Drift].monitor, "update", PANIC),
    "housekeeping": (lambda one: one.housekeeping, "check_clock", PANIC),
    "sink-folder": (lambda one: one.sinks.deliveries[0], "_deliver_pages", PANIC),
    "learning": (lambda one: one.components[JobQueue], "_make_all", EXIT),
}


def test_threads_beside_the_inspection_are_told_and_begun_again(asked, parts, monkeypatch):
    with monkeypatch.context() as patch:
        for find, name, error in BESIDE.values():
            _set(find, name, error, wake=True)(asked.station, patch)
        for turn in range(3):
            assert asked.inspect(parts[turn], f"sent{turn}")
        for name in BESIDE:
            until(lambda name=name: f"{name}: " in asked.problem("thread_failed"), f"{name} was not told")
    assert asked.inspect(parts[0], "after")
    until(lambda: not any(thread.is_down for thread, _ in asked.station._threads()))
    assert asked.is_ready


def _hang_in(find: Callable[[Station], Any], name: str) -> Callable[..., Callable[[], None]]:
    def hang(station: Station, patch: pytest.MonkeyPatch) -> Callable[[], None]:
        part, go_on = find(station), threading.Event()
        patch.setattr(part, name, delayed(getattr(part, name), go_on))
        return go_on.set

    return hang


# What does not return, and whether pictures cannot be inspected meanwhile
HANGS = {
    "the model": (_hang_in(_session, "run"), True),
    "the disk": (_hang_in(lambda one: one.files, "keep"), True),
    "the database": (_hang_in(lambda one: one.store, "record"), True),
    "a share that is watched": (_hang_in(lambda one: folder(one).folders[0]._arrivals, "scan"), True),
    "a sink": (_hang_in(lambda one: one.sinks.deliveries[0].sink, "send"), False),
}


@pytest.mark.parametrize("what", HANGS)
def test_what_hangs_is_told(asked, parts, monkeypatch, what):
    """Nothing can end it; whoever watches `/readyz` starts the station anew."""
    until(lambda: folder(asked.station).folders[0]._arrivals is not None)
    hang, inspects = HANGS[what]
    with monkeypatch.context() as patch:
        go_on = hang(asked.station, patch)
        patch.setattr("flawscope_station.monitoring.background.STUCK_SECONDS", 0.5)
        answer = asked.submit(parts[0], "slow")
        until(lambda: asked.is_ready is not inspects and asked.was_told("thread_failed: threads hang"))
        go_on()
        answer.result(120)
    until(lambda: asked.is_ready and "thread_failed" not in [one.code for one in asked.station.problems()])


def was_inspected(outcome: Any, seconds: float) -> bool:
    """Whether a picture was inspected within so many seconds; not where it waits, or was refused."""
    if isinstance(outcome, Exception):
        return False
    try:
        return outcome.exception(seconds) is None
    except TimeoutError:
        return False
