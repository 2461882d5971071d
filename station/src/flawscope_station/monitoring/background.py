"""Threads of a station: how they are begun again, watched and ended, and pauses between tries.

Every thread of a station is a `GuardedThread`: work that fails is begun again. A `ThreadWatch` reports that
as a problem, and begins a thread anew that is not there any more, whatever ended it.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from queue import Full, Queue
from typing import ParamSpec, Protocol, TypeVar

from typing_extensions import override

from flawscope.errors import message_with_type

T = TypeVar("T")
P = ParamSpec("P")

STOP_TIMEOUT = 30.0  # seconds to wait for the end of a thread
MIN_RESTART_DELAY = 0.1  # seconds before work that failed is begun again
MAX_RESTART_DELAY = 5.0  # seconds before work that failed many times is begun again
SETTLED_SECONDS = 1.0  # seconds without a failure after which work that was begun again counts as running
REPORT_SECONDS = 600.0  # seconds for which a failure is a problem after the work was begun again
STUCK_SECONDS = 300.0  # seconds after which a call that should return soon is taken to hang
WATCH_INTERVAL = 1.0  # seconds between two looks at all threads
MAX_LINES = 1000  # lines of a log that wait to be written; more are dropped


class MonotonicClock:
    """Clock of threads, by which they also wait. Tests give threads a clock that they advance by hand.

    Attributes:
        monotonic: Returns seconds that never go back.
    """

    monotonic: Callable[[], float] = staticmethod(time.monotonic)

    def wait(self, event: threading.Event, seconds: float | None = None) -> bool:
        """Wait for an event, at most for so many seconds (None: no limit); return whether it is set."""
        return event.wait(seconds)


CLOCK = MonotonicClock()


class Backoff:
    """Pauses before something that failed is tried again, each twice as long as the one before.

    Args:
        shortest, longest: Seconds of the first pause, and of the longest.
        spread: Share of a pause by which it is randomly shortened or lengthened, so that waiting clients do
            not all come back at the same moment.
    """

    def __init__(self, shortest: float, longest: float, spread: float = 0.0):
        self.shortest = shortest
        self.longest = longest
        self.spread = spread
        self.reset()

    def reset(self) -> None:
        """Begin with the shortest pause again, after a success."""
        self._next = self.shortest

    def next(self) -> float:
        """Return the seconds of the next pause."""
        pause = self._next
        self._next = min(self.longest, 2 * self._next)
        return pause * random.uniform(1 - self.spread, 1 + self.spread)


class Working(Protocol):
    """Queue that knows since when its reader has worked on its present jobs."""

    @property
    def taken_at(self) -> float | None:
        """Return when the reader took its present work, in seconds of the monotonic clock; None: it waits."""
        ...


class GuardedThread:
    """Thread whose work is begun again when it fails, or ends before it should.

    Args:
        name: Name of the thread.
        work: Function that returns when `ended` is set.
        ended: Set when the work is to end.
        clock: Clock of the pauses before the work is begun again.
        queue: Queue from which the work takes its jobs, each of which should end soon.

    Attributes:
        failure: Why the work ended last; None: it never did.
        failed_at: When the work failed last, as `clock` counts.
        stops_all: Whether nothing is inspected while a call of this thread hangs. False: inspections go on,
            and the thread's owner reports a call that hangs.
    """

    stops_all = True

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        ended: threading.Event,
        clock: MonotonicClock = CLOCK,
        *,
        queue: Working | None = None,
    ):
        self.name = name
        self._work = work
        self._ended = ended
        self._clock = clock
        self._queue = queue
        self.failure: str | None = None
        self.failed_at = -math.inf
        self._called_at: float | None = None  # when a call began, or last made progress; None: no call runs
        self._patience: float | None = None  # seconds that the call may take; None: `STUCK_SECONDS`
        self._begun_at: float | None = None  # when the work began; None: it does not run
        self._backoff = Backoff(MIN_RESTART_DELAY, MAX_RESTART_DELAY)
        self._was_started = False
        self._thread: threading.Thread | None = None  # None: no thread was started yet
        self._starting = threading.Lock()  # held while a thread starts, which is not alive yet

    def start(self) -> None:
        """Start the thread, once; where no thread can be started now, `revive` tries again."""
        with self._starting:
            if not self._was_started:
                self._was_started = True
                self._start_thread()

    def join(self, seconds: float | None = None) -> None:
        """Wait until the thread has ended, at most for so many seconds; None: no limit."""
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def is_down(self) -> bool:
        """Whether the work should run, but does not run, or failed within the last `SETTLED_SECONDS`."""
        if not self._was_started or self._ended.is_set():
            return False
        with self._starting:
            is_alive = self._thread is not None and self._thread.is_alive()
        return self._begun_at is None or not is_alive or self.was_down(SETTLED_SECONDS)

    @contextmanager
    def call(self, patience: float | None = None) -> Iterator[None]:
        """Watch a call, which should return, or show progress with `go_on`, within `patience` seconds.

        Use it for a call into a model, the database, a (network) disk, a plugin or another process.

        Args:
            patience: Seconds that the call may take; None: `STUCK_SECONDS`.
        """
        self._patience = patience
        self._called_at = self._clock.monotonic()
        try:
            yield
        finally:
            self._called_at = self._patience = None

    def go_on(self) -> None:
        """Mark that the present call makes progress: its time begins anew."""
        if self._called_at is not None:
            self._called_at = self._clock.monotonic()

    @property
    def calling_since(self) -> float | None:
        """Return when the present call or job began, or made progress last; None: there is none."""
        called_at = self._called_at
        if called_at is None and self._queue is not None:
            return self._queue.taken_at
        return called_at

    @property
    def is_stuck(self) -> bool:
        """Whether the present call or job takes longer than it may; nothing can end it."""
        since = self.calling_since
        return since is not None and self._clock.monotonic() > since + self.patience

    @property
    def patience(self) -> float:
        """Seconds that a call may take."""
        return STUCK_SECONDS if self._patience is None else self._patience

    def was_down(self, seconds: float) -> bool:
        """Return whether the work failed within the last `seconds`."""
        return self._clock.monotonic() < self.failed_at + seconds

    def revive(self) -> None:
        """Start the thread again if it has ended, although nobody asked its work to end."""
        with self._starting:
            is_alive = self._thread is not None and self._thread.is_alive()
            if self._was_started and not is_alive and not self._ended.is_set():
                if self._thread is not None:  # else it could not be started, which is noted already
                    self._note_failure("the thread was ended")
                self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._begun_at = self._clock.monotonic()
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self._note_failure(message_with_type(error))
        else:
            self._thread = thread

    def _run(self) -> None:
        while not self._ended.is_set():
            self._begun_at = self._clock.monotonic()
            try:
                self._work()
                failure = "it returned"
            except BaseException as error:  # some libraries' errors are no Exception
                failure = message_with_type(error)
                error.__traceback__ = None  # its frames hold pictures
            if self._ended.is_set():
                return
            self._note_failure(failure)
            self._clock.wait(self._ended, self._backoff.next())

    def _note_failure(self, failure: str) -> None:
        last_failed_at = self.failed_at
        self.failed_at = self._clock.monotonic()
        if self.failed_at - last_failed_at > REPORT_SECONDS:
            self._backoff.reset()
        self.failure = failure
        self._begun_at = None


class WatchedCalls(GuardedThread):
    """Calls of a pool of threads, which run at the same time and are watched like those of a single thread.

    It has no thread of its own.

    Attributes:
        begun: When each call began that has not returned.
    """

    def __init__(self, name: str, patience: float, clock: MonotonicClock = CLOCK):
        super().__init__(name, lambda: None, threading.Event(), clock)
        self._patience = patience
        self.begun: dict[object, float] = {}

    @contextmanager
    @override
    def call(self, patience: float | None = None) -> Iterator[None]:
        """Mark a call that runs beside others; the pool's patience holds, and `patience` is not used."""
        call = object()
        self.begun[call] = self._clock.monotonic()
        try:
            yield
        finally:
            del self.begun[call]

    @property
    @override
    def is_stuck(self) -> bool:
        """Whether the oldest call that has not returned takes longer than it may."""
        oldest = min(list(self.begun.values()), default=math.inf)
        return self._clock.monotonic() > oldest + self.patience


class WatchedPool(ThreadPoolExecutor):
    """Pool of threads whose calls are watched.

    Args:
        size: Number of threads.
        name: Beginning of the threads' names.
        patience: Seconds that a call may take.
    """

    def __init__(self, size: int, name: str, patience: float):
        super().__init__(size, name)
        self.calls = WatchedCalls(name, patience)

    @override
    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call as `ThreadPoolExecutor.submit` does, and watch it from its beginning on."""

        def watched() -> T:
            with self.calls.call():
                return function(*args, **kwargs)

        return super().submit(watched)


class BackgroundThread:
    """Thread that can be woken and ended; derived classes define its work.

    Args:
        name: Name of the thread.
        clock: Clock by which the thread waits.
        is_lazy: Whether the thread starts only at the first call of `wake`.
    """

    def __init__(self, name: str, clock: MonotonicClock = CLOCK, *, is_lazy: bool = False):
        self._clock = clock
        self._waits_for_wake = is_lazy
        self._may_run = False
        self._ended, self._woken = threading.Event(), threading.Event()
        self.threads = [GuardedThread(name, self._work, self._ended, clock)]

    def start(self) -> None:
        """Start the thread; a lazy one starts now if `wake` was called, else at the first call of `wake`."""
        self._may_run = True
        if self._woken.is_set() or not self._waits_for_wake:
            self.threads[0].start()

    def wake(self) -> None:
        """Wake the thread, for there is work to do."""
        self._woken.set()
        if self._waits_for_wake and self._may_run and not self._ended.is_set():
            self.threads[0].start()

    def end(self) -> None:
        """Ask the thread to end: it begins nothing more."""
        self._ended.set()
        self.wake()

    def stop(self, seconds: float | None = STOP_TIMEOUT) -> None:
        """End the thread; return when its work is done, or after `seconds`. None: no limit."""
        self.end()
        self.threads[0].join(seconds)

    def _work(self) -> None:
        """Do the thread's work until `_ended` is set."""
        raise NotImplementedError

    def _wait(self, seconds: float | None = None) -> bool:
        """Wait until woken, at most for `seconds`; return whether the thread is to end."""
        self._clock.wait(self._woken, seconds)
        self._woken.clear()
        return self._ended.is_set()

    def _pause(self, seconds: float) -> bool:
        """Wait for `seconds`, even if woken; return whether the thread is to end, which ends the wait."""
        return self._clock.wait(self._ended, seconds)


class ThreadWatch(BackgroundThread):
    """Watch of all threads: it starts a thread anew that has ended, and reports failures.

    Args:
        threads: Returns all threads, each with a flag: whether no picture can be inspected without it.
        failure: Returns why parts fail at the moment, though all threads run; None: they do not fail.
        report: Reports a problem, as `Problems.report`.
        look: Called at each look; it checks facts that have no thread of their own, such as parts that have
            waited too long, and returns at once.
    """

    def __init__(
        self,
        threads: Callable[[], Iterable[tuple[GuardedThread, bool]]],
        failure: Callable[[], str | None],
        report: Callable[..., None],
        look: Callable[[], object] = lambda: None,
    ):
        super().__init__("watch")
        self.list_threads = threads
        self._failure = failure
        self._report = report
        self._look = look
        self._lock = threading.Lock()

    def check(self) -> None:
        """Look at all threads now."""
        with self._lock:
            self._check()

    def _check(self) -> None:
        failed = list[str]()
        stuck = list[str]()
        down = list[str]()
        for thread, is_inspecting in self.list_threads():
            thread.revive()
            text = f"{thread.name}: {thread.failure}"
            if thread.is_down or thread.was_down(REPORT_SECONDS):
                failed.append(text)
            if thread.is_stuck:  # `down` gets this text, too, instead of the failure
                text = f"{thread.name}: what it called has not answered for {_duration(thread.patience)}"
                stuck.append(text)
            if is_inspecting and (thread.is_down or (thread.is_stuck and thread.stops_all)):
                down.append(text)
        self._report_threads(failed, stuck, down)

    def _report_threads(self, failed: Sequence[str], stuck: Sequence[str], down: Sequence[str]) -> None:
        """Report the problems of threads, or that they are over.

        Args:
            failed: Names and failures of threads that failed and were begun again.
            stuck: The same for threads that hang.
            down: The same for those failed or hanging threads without which nothing is inspected.
        """
        failure_text = f"threads that failed were begun again: {'; '.join(failed)}" if failed else None
        if stuck:
            failure_text = f"threads hang; start the station anew: {'; '.join(stuck)}"
        self._report("thread_failed", failure_text)
        waiting_text = f"pictures wait, for a thread failed or hangs: {'; '.join(down)}" if down else None
        self._report("not_inspecting", waiting_text or self._failure(), stops=True)

    @override
    def _work(self) -> None:
        while not self._wait(WATCH_INTERVAL):
            self._look()
            self.check()


def _duration(seconds: float) -> str:
    """Return a time in seconds, from two minutes on in minutes, for people."""
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def stop_all(stops: Sequence[Callable[[], object]], seconds: float = STOP_TIMEOUT) -> None:
    """Call functions that stop something, all at once; return when all have returned, or after `seconds`.

    A function that hangs does not keep the station from ending.
    """
    threads = [threading.Thread(target=stop, name="stop", daemon=True) for stop in stops]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def unfailing(write: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that writes a line as `write` does, and never raises."""

    def write_if_possible(line: str) -> None:
        with suppress(Exception):
            write(line)

    return write_if_possible


class Said(str):
    """Line of the log, with its level and the fields that programs look for.

    Attributes:
        level: info, warning or error.
        fields: Values by name, which `log_line` writes before the text.
    """

    level: str
    fields: dict[str, object]

    def __new__(cls, text: str, level: str = "info", **fields: object) -> Said:
        """Make a string of the text that has the level and the fields."""
        line = super().__new__(cls, text)
        line.level = level
        line.fields = fields
        return line


def log_line(line: str) -> str:
    """Return a line as programs read it: time, level and fields, then the text."""
    level = getattr(line, "level", "info")  # a `Said` has its own level and fields
    fields = getattr(line, "fields", {})
    time_text = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    prefix_fields = {"time": time_text, "level": level, **fields}
    prefix = " ".join(f"{name}={value}" for name, value in prefix_fields.items())
    return f"{prefix} {line}"


class Log:
    """Log that nobody waits for: a thread of its own writes the lines.

    A full pipe that nobody reads would block any other thread that writes.

    Args:
        write: Function that writes a line.
    """

    def __init__(self, write: Callable[[str], None]):
        self._write = unfailing(write)
        self._lines: Queue[str | None] = Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def __call__(self, line: str) -> None:
        """Queue a line to be written; it is dropped where `MAX_LINES` wait."""
        with suppress(Full):
            self._lines.put_nowait(line)

    def close(self, seconds: float = 2.0) -> None:
        """Return when all lines are written, or after so many seconds."""
        with suppress(Full):
            self._lines.put_nowait(None)
            self._thread.join(seconds)

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
