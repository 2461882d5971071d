"""Shows a person the progress of a long job.

The job calls `step(stage, done, total)`, and the caller decides on the output: none in a library, a line with
the remaining time on a terminal. The text after a comma in the stage, such as a loss, may change from call to
call: the stage is the same. `defer_interrupts` handles Ctrl-C for work that must not be cut in two.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, TextIO

Say = Callable[[str], None]  # gets a line for a person
ProgressCallback = Callable[[str, int, int], None]

FEATURES = "features"  # the stage in which a network sees the pictures to learn from, once it is read
# seconds between two lines: on a terminal, in a file
LIVE_INTERVAL = 0.2
LOG_INTERVAL = 30.0
MESSAGE_INTERVAL = 0.5  # seconds between two messages of a child process
SHORT = 3.0  # seconds: a stage that took less leaves no line behind
HEARTBEAT_INTERVAL = 1.0  # seconds without a call after which a terminal's line is rewritten
JOBS_LOG_INTERVAL = 60.0  # seconds between two lines in a file, of jobs that run side by side
CLEAR_LINE = "\r\x1b[K"  # back to the line's beginning, and clear it
_WRITE_LOCK = threading.RLock()


class Plan(NamedTuple):
    """Stages of a command in their order, which give its progress a single total.

    Attributes:
        name: Name of the command, for a person.
        shares: Beginning of each stage's name, and its usual share of the time; they need not add up to 1.
    """

    name: str
    shares: Sequence[tuple[str, float]]

    def done(self, stage: str, done: int, total: int) -> float | None:
        """Return the share of the command, 0..1, that is done; None: the stage is not in the plan.

        Args:
            stage: Name of the present stage.
            done: Number of the stage's steps that are done.
            total: Number of the stage's steps; 0: the stage is done.
        """
        before = 0.0
        for name, share in self.shares:
            if stage.startswith(name):
                stage_share = share * done / total if total else share
                return (before + stage_share) / sum(every for _, every in self.shares)
            before += share
        return None


class Detail(str):
    """Line of a job that a person needs only to find a cause: commands print it with `--verbose`."""


class ProgressCounter:
    """Counter of a stage's finished steps, which reports each; it may be called from any thread."""

    def __init__(self, step: ProgressCallback, stage: str, total: int):
        self.step = step
        self.stage = stage
        self.total = total
        self.done = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Count a finished step and report the progress."""
        with self._lock:
            self.done += 1
            self.step(self.stage, self.done, self.total)


def discard(line: str) -> None:
    """Drop a line for a person: a library prints nothing."""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Ignore a call of `step`: no progress is shown."""


def throttled(step: ProgressCallback) -> ProgressCallback:
    """Return a `step` with fewer calls: a stage's first and last, and one per `MESSAGE_INTERVAL` seconds."""
    last_stage = ""
    last_time = 0.0

    def throttled_step(stage: str, done: int, total: int) -> None:
        nonlocal last_stage, last_time
        name = stage.partition(",")[0]
        now = time.monotonic()
        if name != last_stage or done == total or now - last_time >= MESSAGE_INTERVAL:
            last_stage = name
            last_time = now
            step(stage, done, total)

    return throttled_step


def write_line(line: str, stream: TextIO | None = None) -> None:
    """Write a line, to stderr unless `stream` is given, in place of a terminal's line of progress."""
    with _WRITE_LOCK:
        if stream is None:
            _write_remark(f"{CLEAR_LINE if _is_terminal(sys.stderr) else ''}{line}\n", sys.stderr)
        else:
            print(f"{CLEAR_LINE}{line}" if stream.isatty() else line, file=stream, flush=True)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; False for a closed one, and for None, to which `2>&-` sets stderr."""
    with suppress(OSError, ValueError):
        return stream is not None and stream.isatty()
    return False


def _write_remark(text: str, stream: TextIO | None) -> None:
    """Write a text for a person; an error in writing is ignored: the work goes on."""
    if stream is None:
        return
    with suppress(OSError, ValueError):  # a broken pipe, a full disk; a closed stream, letters it has not
        stream.write(text)
        stream.flush()


class TerminalProgress:
    """Display of progress: on a terminal one line that is rewritten, elsewhere lines in a stream.

    Elsewhere there is a line every `LOG_INTERVAL` seconds. Each stage that took longer than `SHORT` leaves a
    line at its end.

    Args:
        stream: Stream for the lines; None: stderr.
        alive: Whether to rewrite a terminal's line every second, also between stages and before the first
            one, until `stop`.
        plan: Plan of the command: lines begin with its total, and with the remaining time of the whole
            command.
    """

    def __init__(self, stream: TextIO | None = None, *, alive: bool = False, plan: Plan | None = None):
        self.plan = plan
        self.share_done = 0.0  # of the plan
        self.has_total = False  # the stage is in the plan, which is not done
        self.stream = stream or sys.stderr
        self.is_terminal = _is_terminal(self.stream)
        self.stage = ""
        self.text = "starting"  # of the last call, without the time that is left
        self.started = self.stage_started = self.last_written = self.last_called = time.monotonic()
        self.seconds_left = 0.0  # at the last call
        self.ended = threading.Event()
        if self.is_terminal and alive:
            threading.Thread(target=self._keep_alive, daemon=True).start()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a stage: `done` of `total` steps."""
        with _WRITE_LOCK:
            now = time.monotonic()
            name = stage.partition(",")[0]
            if name != self.stage:
                self.stage = name
                self.stage_started = now
                self.last_written = 0.0 if self.is_terminal else now
            self._update_total(name, done, total)
            finished = done >= total
            interval = LIVE_INTERVAL if self.is_terminal else LOG_INTERVAL
            if not finished and now - self.last_written < interval:
                return
            self.last_called = now
            spent = now - self.stage_started
            self.seconds_left = self._estimate_left(done, total, spent)
            rate = _rate_text(done, spent)
            self.text = f"{stage}: {done:,} of {total:,}{rate}"
            if finished and spent < SHORT:
                if self.is_terminal:
                    _write_remark(CLEAR_LINE, self.stream)
                self.stage = ""
                self.text = "working"
            elif finished:
                self._write(f"{stage}: done in {format_duration(spent)}{rate}", now, end=True)
                self.stage = ""
                self.text = "working"
            else:
                self._write(self._progress_text(now), now)

    def _update_total(self, name: str, done: int, total: int) -> None:
        """Note the share of the plan that is done. It never falls: a stage may run once for each size."""
        share = None if self.plan is None else self.plan.done(name, done, total)
        self.has_total = share is not None and self.share_done < 1
        if share is not None:
            self.share_done = max(self.share_done, share)

    def _estimate_left(self, done: int, total: int, spent: float) -> float:
        """Return the remaining seconds of the plan, or of a stage that is not in it; 0: not known."""
        if self.has_total:
            so_long = self.last_called - self.started
            return so_long / self.share_done * (1 - self.share_done) if self.share_done else 0.0
        return spent / done * (total - done) if done else 0.0

    def stop(self) -> None:
        """End the rewriting of a terminal's line, and clear the line."""
        with _WRITE_LOCK:
            if self.is_terminal and not self.ended.is_set():
                _write_remark(CLEAR_LINE, self.stream)
            self.ended.set()

    def _keep_alive(self) -> None:
        while not self.ended.wait(HEARTBEAT_INTERVAL / 2):
            with _WRITE_LOCK:
                now = time.monotonic()
                if not self.ended.is_set() and now - self.last_written >= HEARTBEAT_INTERVAL:
                    self._write(self._progress_text(now), now)

    def _progress_text(self, now: float) -> str:
        if not self.stage:
            return f"{self.text}, {format_duration(max(now - self.last_called, 1.0))}"
        left = self.seconds_left - (now - self.last_called)
        time_left = f", {format_duration(left)} left" if left >= 1 else ""
        if self.plan is None or not self.has_total:
            return self.text + time_left
        about = time_left.replace(", ", ", about ", 1)
        return f"{self.plan.name} {self.share_done:.0%}{about}; {self.text}"

    def _write(self, text: str, now: float, *, end: bool = False) -> None:
        self.last_written = now
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            _write_remark(f"{CLEAR_LINE}{text[:width]}" + ("\n" if end else ""), self.stream)
        else:
            _write_remark(text + "\n", self.stream)


class JobsProgress:
    """Display of the progress of several jobs that run side by side.

    On a terminal it is one line that is rewritten, elsewhere a line every `JOBS_LOG_INTERVAL` seconds.

    Args:
        say: Gets lines that may be left out.
        warn: Gets lines that may not be left out.
        terminal: Whether stderr is a terminal.
    """

    def __init__(self, say: Say, warn: Say, terminal: bool):
        self.say = say
        self.warn = warn
        self.terminal = terminal
        self.job_stages: dict[str, str] = {}  # stage and counts, by the job's label
        self.last_written = time.monotonic()

    def step(self, label: str, stage: str, done: int, total: int) -> None:
        """Note the progress of a job."""
        self.job_stages[label] = f"{stage} {done} of {total}"

    def show(self) -> None:
        """Write the progress of all jobs; in a file only when `JOBS_LOG_INTERVAL` is over."""
        text = "; ".join(f"{label}: {where}" for label, where in self.job_stages.items())
        if text and self.terminal:
            _write_remark(f"{CLEAR_LINE}{text[: shutil.get_terminal_size().columns - 1]}", sys.stderr)
        elif text and time.monotonic() - self.last_written >= JOBS_LOG_INTERVAL:
            self.last_written = time.monotonic()
            self.say(f"      {text}")

    def print_line(self, text: str, *, failed: bool = False) -> None:
        """Write a line that is not overwritten."""
        if self.terminal:
            _write_remark(CLEAR_LINE, sys.stderr)
        self.last_written = time.monotonic()
        (self.warn if failed else self.say)(text)


def _rate_text(done: int, seconds: float) -> str:
    """Return the number of steps a second in words; empty where it is below one."""
    rate = done / seconds if seconds >= 1 else 0.0
    return "" if rate < 1 else f", {rate:.1f} a second" if rate < 9.95 else f", {rate:,.0f} a second"


def format_duration(seconds: float) -> str:
    """Format seconds: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 0.05:
        return "less than 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def defer_interrupts(said: str = "stops after this step, and keeps it") -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets instead of raising KeyboardInterrupt; the second Ctrl-C raises it.

    It changes nothing outside of the main thread, and where SIGINT has another handler.

    Args:
        said: Line that a terminal shows at the first Ctrl-C; empty: none.
    """
    interrupted = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        with suppress(OSError, ValueError):
            if said and sys.stderr.isatty():  # not by way of a stream that may be writing right now
                os.write(sys.stderr.fileno(), f"\r\x1b[K{said}\n".encode())

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupted
        return
    signal.signal(signal.SIGINT, on_signal)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
