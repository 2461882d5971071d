"""Threads of a station: what fails is begun again and told, and `/readyz` says what is true."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from flawscope import progress
from flawscope.errors import FlawscopeError
from flawscope_station.assembly import open_station
from flawscope_station.background import (
    MIN_RESTART_DELAY,
    SETTLED_SECONDS,
    TOLD_SECONDS,
    Backoff,
    GuardedThread,
    Log,
    ThreadWatch,
    stop_all,
)
from flawscope_station.drift.drift import Drift
from flawscope_station.inspecting import admission
from flawscope_station.inspecting.picture import Picture
from flawscope_station.learning.activation import Learning
from flawscope_station.problems import Problems
from flawscope_station.settings.shifts import ShiftSettings
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import LearningSettings
from flawscope_station.setup.drafts import Drafts
from flawscope_station.shifts.reports import ShiftReporter
from flawscope_station.station import Station
from flawscope_station.store import files as store_files
from flawscope_station.store.database import StoreError
from sink_helpers import make_sink
from station_helpers import NAME, PATIENCE, ManualClock, Running, delayed, everything, failing, opened, until


class Broken(io.StringIO):
    """A stream that nobody reads any more."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def isatty(self) -> bool:
        raise self.error


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


@pytest.fixture(name="work")
def work_fixture():
    made = Work(threading.Event())
    yield made
    made.ended.set()


def watched(work: Work, *clock: ManualClock) -> tuple[GuardedThread, dict[str, str | None], ThreadWatch]:
    """Its thread, what is told of it, and who watches it."""
    thread, told = GuardedThread("work", work, work.ended, *clock), dict[str, str | None]()
    report = lambda code, why, **_: told.update({code: why})  # noqa: E731
    return thread, told, ThreadWatch(lambda: [(thread, True)], lambda: None, report)


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
    clock.advance(TOLD_SECONDS)
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


def fill(pipe: int) -> None:
    """Fill a pipe, so that whoever writes into it waits."""
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    os.set_blocking(pipe, True)


@pytest.mark.slow
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
        (answer,) = self.station.inspector.submit([Picture(self.number, data, name, "http")])
        return answer

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


@pytest.fixture(name="asked")
def asked_fixture(settings, tmp_path, monkeypatch):
    """With a folder, a sink, learning and shifts: every thread that a station can have."""
    monkeypatch.setattr("flawscope_station.health.CHECK_INTERVAL", 0.0)
    (tmp_path / "incoming").mkdir()
    product = replace(
        settings.products[NAME],
        sources=(FolderSourceSettings(str(tmp_path / "incoming")),),
        sinks=(make_sink(folder=str(tmp_path / "found")),),
        learn=LearningSettings(),
    )
    shifts = ShiftSettings(folder=str(tmp_path / "reports"), begin={"day": "00:00"})
    told: list[str] = []

    def nobody_reads(line: str) -> None:
        told.append(line)
        raise BrokenPipeError(32, "Broken pipe")

    running = opened(replace(settings, products={NAME: product}, shifts=shifts), say=nobody_reads)
    yield Asked(running, told)
    running.close()


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


def _failure_of_a_report(station: Station, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_session(station), "run", failing(RuntimeError("out of memory")))
    patch.setattr(station.judge, "report_error", failing(BrokenPipeError(32, "Broken pipe")))


def _folder_gone(station: Station, patch: pytest.MonkeyPatch) -> None:
    folder = station.sources[NAME][0].folder
    folder.rename(folder.with_name("away"))
    patch.setattr(station, "_healed", lambda: folder.with_name("away").rename(folder), raising=False)


def _product_added(station: Station, patch: pytest.MonkeyPatch) -> None:
    """While the shifts are reported, as each report takes its time."""
    from flawscope_station.page_products import MADE_ON_PAGES
    from flawscope_station.settings.station import ProductSettings

    model = station.settings.products[NAME].model
    station.addresses.add_product("second", ProductSettings(model), MADE_ON_PAGES, "test")
    shifts = station.parts[ShiftReporter]
    patch.setattr(shifts, "report_ended", failing(RuntimeError("dictionary changed size")))
    shifts.wake()


def folder(station: Station) -> Any:
    return station.sources[NAME][0]


def judge(station: Station) -> Any:
    return station.judge


def recorder(station: Station) -> Any:
    return station.recorder


AWAY = StoreError("the data base is away", "store_unreachable")
BUG, PANIC, EXIT = RuntimeError("a bug"), Panic("a library's"), SystemExit(3)
FULL = OSError(28, "No space left")
READ_ONLY = SimpleNamespace(begin=failing(OperationalError("BEGIN", {}, Exception("a readonly database"))))
# What fails, and the kind of the problem that a person reads of it; "": the sender alone is told.
FAULTS: dict[str, tuple[Break, str]] = {
    "the model fails once": (_set(_session, "run", BUG, times=1), "model_failed"),
    "the model fails": (_set(_session, "run", BUG), "model_failed"),
    "the model's library panics": (_set(_session, "run", PANIC), "model_failed"),
    "the model returns nonsense": (_set(_session, "run", lambda images: None), "model_failed"),
    "the model fails, and telling it, too": (_failure_of_a_report, "not_inspecting"),
    "the judge's turn panics": (_set(judge, "_next_job", PANIC), "not_inspecting"),
    "the judge ends": (_set(judge, "_judge_next", EXIT), "not_inspecting"),
    "judging has a bug": (_set(judge, "_judge", BUG), "model_failed"),
    "the data base refuses records": (_set(lambda one: one.store, "record", AWAY), ""),
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
    "no file can be written": (
        _set(lambda one: store_files.files, "replace_file", FULL),
        "store_unreachable",
    ),
    "keeping a picture panics": (_set(lambda one: one.files, "keep", PANIC), "not_inspecting"),
    "no thread can be started": (
        _set(lambda one: one.inspector._pool, "submit", RuntimeError("can't start new thread")),
        "not_inspecting",
    ),
    "checking pictures has a bug": (_set(lambda one: admission, "check_picture", BUG), "not_inspecting"),
    "the data base is away": (_set(lambda one: one.database, "reading", AWAY), "store_unreachable"),
    "the data base is read only": (_set(lambda one: one.database, "_writer", READ_ONLY), "store_unreachable"),
    "the folder's round has a bug": (_set(folder, "_scan", BUG), "folder_waits"),
    "the folder's round panics": (_set(folder, "_scan", PANIC), "not_inspecting"),
    "the folder's thread ends": (_set(folder, "_report", EXIT), "not_inspecting"),
    "the folder is away": (_folder_gone, "folder_away"),
    "the folder cannot ask the store": (_set(lambda one: one.store, "known_files", BUG), "folder_waits"),
    "a sink is away": (
        _set(lambda one: one.sinks.deliveries[0].sink, "send", OSError(113, "No route")),
        "sink",
    ),
    "a product comes, and shifts fail": (_product_added, "thread_failed"),
    "the station cannot check itself": (
        _set(lambda one: one.inspector, "late_products", BUG),
        "not_inspecting",
    ),
    "the watch itself panics": (
        _set(lambda one: one.health.watch, "_wait", PANIC, wake=True),
        "thread_failed",
    ),
}


@pytest.mark.slow
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
    assert asked.inspect(parts[0], "after")
    until(lambda: asked.is_ready, "it works again, and says that it is not ready")
    for name, outcome in outcomes.items():
        assert isinstance(outcome, Exception) or outcome.exception(30) is not None or name in asked.names()
    files = {f"file{turn}.png" for turn in range(3)} if fault != "the folder is away" else set()
    until(lambda: files <= set(asked.names()), "a file was not inspected")
    assert asked.inspect(parts[1], "last")
    assert asked.is_ready


BESIDE = {  # threads that do not inspect: what they call, which fails
    "drift": (lambda one: one.parts[Drift].monitor, "update", PANIC),
    "housekeeping": (lambda one: one.housekeeping, "check_clock", PANIC),
    "sink-folder": (lambda one: one.sinks.deliveries[0], "_deliver_pages", PANIC),
    "learning": (lambda one: one.parts[Learning], "_queue_if_enough", PANIC),
    "new products": (lambda one: one.parts[Drafts], "_next_job", EXIT),
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


@pytest.mark.parametrize("where", ["the model", "the disk", "the data base"])
def test_an_error_of_one_picture_harms_no_other(asked, parts, monkeypatch, where):
    """Though they are judged in one turn, and recorded in one transaction."""
    station, bad = asked.station, b"this one"
    model = station.versions.models.model_of(asked.number).model
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
            "the data base": (station.store, "record", record_others),
        }[where]
    )
    names = [f"{number}" for number in range(12)]
    names[5] = "bad"
    pictures = [
        Picture(asked.number, parts[0] + (bad if name == "bad" else name.encode()), name, "http")
        for name in names
    ]
    errors = [answer.exception(120) for answer in station.inspector.submit(pictures)]
    assert [error is not None for error in errors] == [name == "bad" for name in names]
    assert set(names) - {"bad"} == set(asked.names())


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
    "the data base": (_hang_in(lambda one: one.store, "record"), True),
    "a share that is watched": (_hang_in(lambda one: folder(one)._arrivals, "scan"), True),
    "a sink": (_hang_in(lambda one: one.sinks.deliveries[0].sink, "send"), False),
}


@pytest.mark.parametrize("what", HANGS)
def test_what_hangs_is_told(asked, parts, monkeypatch, what):
    """Nothing can end it; whoever watches `/readyz` starts the station anew."""
    until(lambda: folder(asked.station)._arrivals is not None)
    hang, inspects = HANGS[what]
    with monkeypatch.context() as patch:
        go_on = hang(asked.station, patch)
        patch.setattr("flawscope_station.background.STUCK_SECONDS", 0.5)
        answer = asked.submit(parts[0], "slow")
        until(lambda: asked.is_ready is not inspects and asked.was_told("thread_failed: threads hang"))
        go_on()
        answer.result(120)
    until(lambda: asked.is_ready and "thread_failed" not in [one.code for one in asked.station.problems()])


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
        assert len(watched) + 1 <= 8, f"{watched} and the watch"
        assert len(pools) <= 3
    finally:
        station.close()


def test_an_observer_that_fails_harms_nobody_and_is_told_until_it_works(asked, parts, monkeypatch):
    station, heard = asked.station, list[int]()
    drift = station.parts[Drift]
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


def test_a_source_that_does_not_end_keeps_no_other_from_ending(work):
    ended: list[int] = []
    stop_all([lambda: work.ended.wait(60), lambda: ended.append(1), lambda: sys.exit(1)], seconds=0.5)
    assert ended == [1]


def was_inspected(outcome: Any, seconds: float) -> bool:
    """Whether a picture was inspected within so many seconds; not where it waits, or was refused."""
    if isinstance(outcome, Exception):
        return False
    try:
        return outcome.exception(seconds) is None
    except TimeoutError:
        return False
