"""Shows a person the progress of a long job.

The job calls `step(stage, done, total)`, and the caller decides on the output: none in a library, a line with
the remaining time on a terminal. The text after a comma in `stage`, such as a loss, is not part of the
stage's name and may change from call to call. `defer_interrupts` handles Ctrl-C for work that must not be cut
in two.
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

FEATURES = "features"  # name of the stage in which the network gets the pictures to learn from
LIVE_INTERVAL = 0.2  # seconds between two lines on a terminal
LOG_INTERVAL = 30.0  # seconds between two lines in a file
MESSAGE_INTERVAL = 0.5  # seconds between two messages of a child process
SHORT = 3.0  # seconds; a stage that took less leaves no line at its end
HEARTBEAT_INTERVAL = 1.0  # seconds; after so long without a call, a terminal's line is rewritten
JOBS_LOG_INTERVAL = 60.0  # seconds between two lines in a file, of jobs that run side by side
CLEAR_LINE = "\r\x1b[K"  # moves to the beginning of the line, and clears it
_WRITE_LOCK = threading.RLock()


class Plan(NamedTuple):
    """Stages of a command in their order, from which the progress of the whole command is computed.

    Attributes:
        name: Name of the command, for a person.
        shares: For each stage, the beginning of its name, and its usual share of the time. The shares need
            not add up to 1.
    """

    name: str
    shares: Sequence[tuple[str, float]]

    def done(self, stage: str, done: int, total: int) -> float | None:
        """Return the share of the command, 0..1, that is done; None for a stage that is not in the plan.

        Args:
            stage: Name of the current stage.
            done: Number of the stage's steps that are done.
            total: Number of the stage's steps; 0: the stage is done.
        """
        total_share = sum(share for _, share in self.shares)
        earlier_share = 0.0
        for name, share in self.shares:
            if stage.startswith(name):
                stage_share = share * done / total if total else share
                return (earlier_share + stage_share) / total_share
            earlier_share += share
        return None


class Detail(str):
    """Line that helps a person only to find the cause of a problem; commands print it with `--verbose`."""


class ProgressCounter:
    """Counts a stage's finished steps and reports each; it may be called from any thread."""

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
    """Return a `step` that passes on fewer calls.

    It passes on the first and the last call of a stage, and between them one in `MESSAGE_INTERVAL` seconds.
    """
    last_stage = ""
    last_time = 0.0

    def throttled_step(stage: str, done: int, total: int) -> None:
        """Pass the call on, or drop it if it comes too soon after the one that was passed on last."""
        nonlocal last_stage, last_time
        name = _stage_name(stage)
        now = time.monotonic()
        is_first = name != last_stage
        is_last = done == total
        if is_first or is_last or now - last_time >= MESSAGE_INTERVAL:
            last_stage = name
            last_time = now
            step(stage, done, total)

    return throttled_step


def _stage_name(stage: str) -> str:
    """Return the name of a stage, without the text after a comma, which may change from call to call."""
    return stage.partition(",")[0]


def write_line(line: str, stream: TextIO | None = None) -> None:
    """Write a line; on a terminal, it replaces the line of progress.

    Args:
        line: The line.
        stream: Stream to write to, which may raise an error; None: stderr, whose errors are ignored.
    """
    with _WRITE_LOCK:
        if stream is None:
            clear = CLEAR_LINE if _is_terminal(sys.stderr) else ""
            _write_remark(f"{clear}{line}\n", sys.stderr)
        else:
            clear = CLEAR_LINE if stream.isatty() else ""
            print(f"{clear}{line}", file=stream, flush=True)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; False for a closed stream and for None.

    `sys.stderr` is None if a shell closed it with `2>&-`.
    """
    with suppress(OSError, ValueError):
        return stream is not None and stream.isatty()
    return False


def _write_remark(text: str, stream: TextIO | None) -> None:
    """Write a text for a person; errors in writing are ignored, so that the work goes on."""
    if stream is None:
        return
    # OSError: a broken pipe, a full disk; ValueError: a closed stream, letters that its encoding lacks
    with suppress(OSError, ValueError):
        stream.write(text)
        stream.flush()


class TerminalProgress:
    """Display of progress: on a terminal one line that is rewritten, elsewhere lines in a stream.

    Elsewhere there is a line every `LOG_INTERVAL` seconds. Each stage that took longer than `SHORT` leaves a
    line at its end.

    Args:
        stream: Stream for the lines; None: stderr.
        alive: Whether to rewrite a terminal's line every second until `stop`, even between stages and before
            the first stage.
        plan: Plan of the command; with it, lines begin with the share of the command that is done, and with
            its remaining time.
    """

    def __init__(self, stream: TextIO | None = None, *, alive: bool = False, plan: Plan | None = None):
        self.plan = plan
        self.share_done = 0.0  # share of the plan that is done, 0..1
        self.has_total = False  # whether the current stage is in the plan, and the plan is not done
        self.stream = stream or sys.stderr
        self.is_terminal = _is_terminal(self.stream)
        self.stage = ""
        self.text = "starting"  # text of the last call, without the remaining time
        now = time.monotonic()
        self.started = now
        self.stage_started = now
        self.last_written = now
        self.last_called = now
        self.seconds_left = 0.0  # remaining time at the last call
        self.ended = threading.Event()
        if self.is_terminal and alive:
            threading.Thread(target=self._keep_alive, daemon=True).start()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a stage: `done` of `total` steps are finished."""
        with _WRITE_LOCK:
            now = time.monotonic()
            name = _stage_name(stage)
            if name != self.stage:
                self.stage = name
                self.stage_started = now
                # a terminal shows a new stage at once, a file only after the first interval
                self.last_written = 0.0 if self.is_terminal else now
            self._update_total(name, done, total)
            is_finished = done >= total
            interval = LIVE_INTERVAL if self.is_terminal else LOG_INTERVAL
            if not is_finished and now - self.last_written < interval:
                return
            self.last_called = now
            stage_seconds = now - self.stage_started
            self.seconds_left = self._estimate_left(done, total, stage_seconds)
            rate = _rate_text(done, stage_seconds)
            self.text = f"{stage}: {done:,} of {total:,}{rate}"
            if not is_finished:
                self._write(self._progress_text(now), now)
                return
            if stage_seconds >= SHORT:
                self._write(f"{stage}: done in {format_duration(stage_seconds)}{rate}", now, end=True)
            elif self.is_terminal:
                _write_remark(CLEAR_LINE, self.stream)
            self.stage = ""  # until the next stage begins
            self.text = "working"

    def _update_total(self, name: str, done: int, total: int) -> None:
        """Update the share of the plan that is done; it never falls, even if a stage runs again."""
        share = None if self.plan is None else self.plan.done(name, done, total)
        self.has_total = share is not None and self.share_done < 1
        if share is not None:
            self.share_done = max(self.share_done, share)

    def _estimate_left(self, done: int, total: int, stage_seconds: float) -> float:
        """Return the seconds that the plan still takes, or the stage if it is not in the plan; 0: unknown.

        Args:
            done: Number of finished steps of the stage.
            total: Number of steps of the stage.
            stage_seconds: Seconds since the stage began.
        """
        if self.has_total:
            if not self.share_done:
                return 0.0
            elapsed = self.last_called - self.started
            total_seconds = elapsed / self.share_done
            return total_seconds * (1 - self.share_done)
        if not done:
            return 0.0
        seconds_per_step = stage_seconds / done
        return seconds_per_step * (total - done)

    def stop(self) -> None:
        """Stop rewriting a terminal's line, and clear it."""
        with _WRITE_LOCK:
            if self.is_terminal and not self.ended.is_set():
                _write_remark(CLEAR_LINE, self.stream)
            self.ended.set()

    def _keep_alive(self) -> None:
        """Rewrite the terminal's line every `HEARTBEAT_INTERVAL` seconds without a call, until `stop`."""
        while not self.ended.wait(HEARTBEAT_INTERVAL / 2):
            with _WRITE_LOCK:
                now = time.monotonic()
                if not self.ended.is_set() and now - self.last_written >= HEARTBEAT_INTERVAL:
                    self._write(self._progress_text(now), now)

    def _progress_text(self, now: float) -> str:
        """Return the line of progress with the remaining time.

        Between stages, the line has the time since the last call in place of the remaining time.
        """
        seconds_since_call = now - self.last_called
        if not self.stage:
            return f"{self.text}, {format_duration(max(seconds_since_call, 1.0))}"
        seconds_left = self.seconds_left - seconds_since_call
        time_left = f"{format_duration(seconds_left)} left" if seconds_left >= 1 else ""
        if self.plan is None or not self.has_total:
            return f"{self.text}, {time_left}" if time_left else self.text
        remaining = f", about {time_left}" if time_left else ""
        return f"{self.plan.name} {self.share_done:.0%}{remaining}; {self.text}"

    def _write(self, text: str, now: float, *, end: bool = False) -> None:
        """Write a line; on a terminal, the next call overwrites it unless `end` is True."""
        self.last_written = now
        if not self.is_terminal:
            _write_remark(f"{text}\n", self.stream)
            return
        width = shutil.get_terminal_size().columns - 1
        newline = "\n" if end else ""
        _write_remark(f"{CLEAR_LINE}{text[:width]}{newline}", self.stream)


class JobsProgress:
    """Display of the progress of several jobs that run side by side.

    On a terminal it is one line that is rewritten, elsewhere a line every `JOBS_LOG_INTERVAL` seconds.

    Args:
        say: Called with ordinary lines, which a user may switch off.
        warn: Called with lines on failures.
        terminal: Whether stderr is a terminal.
    """

    def __init__(self, say: Say, warn: Say, terminal: bool):
        self.say = say
        self.warn = warn
        self.terminal = terminal
        self.job_stages: dict[str, str] = {}  # stage and counts, by the job's label
        self.last_written = time.monotonic()

    def step(self, label: str, stage: str, done: int, total: int) -> None:
        """Store the progress of a job, for `show`."""
        self.job_stages[label] = f"{stage} {done} of {total}"

    def show(self) -> None:
        """Write the progress of all jobs; in a file only every `JOBS_LOG_INTERVAL` seconds."""
        if not self.job_stages:
            return
        text = "; ".join(f"{label}: {stage}" for label, stage in self.job_stages.items())
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            _write_remark(f"{CLEAR_LINE}{text[:width]}", sys.stderr)
        elif time.monotonic() - self.last_written >= JOBS_LOG_INTERVAL:
            self.last_written = time.monotonic()
            self.say(f"      {text}")

    def print_line(self, text: str, *, failed: bool = False) -> None:
        """Write a line that the line of progress does not replace.

        Args:
            text: The line.
            failed: Whether the line is about a failure.
        """
        if self.terminal:
            _write_remark(CLEAR_LINE, sys.stderr)
        self.last_written = time.monotonic()
        if failed:
            self.warn(text)
        else:
            self.say(text)


def _rate_text(done: int, seconds: float) -> str:
    """Return the number of steps per second in words; empty in the first second, and if it is below one."""
    rate = done / seconds if seconds >= 1 else 0.0
    if rate < 1:
        return ""
    number = f"{rate:.1f}" if rate < 9.95 else f"{rate:,.0f}"
    return f", {number} a second"


def format_duration(seconds: float) -> str:
    """Format seconds: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 0.05:
        return "less than 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole_seconds = round(seconds)
    minutes, seconds_left = divmod(whole_seconds, 60)
    hours, minutes_left = divmod(minutes, 60)
    if minutes == 0:
        return f"{whole_seconds} s"
    if hours == 0:
        return f"{minutes} min {seconds_left:02d} s"
    return f"{hours} h {minutes_left:02d} min"


@contextmanager
def defer_interrupts(shown_line: str = "stops after this step, and keeps it") -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; only the second Ctrl-C raises KeyboardInterrupt.

    Outside of the main thread, or if SIGINT has another handler than Python's, Ctrl-C works as before, and
    the event is never set.

    Args:
        shown_line: Line that a terminal shows at the first Ctrl-C; empty for no line.
    """
    interrupted = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        """Set the event at the first Ctrl-C, and show the line; raise at the second."""
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        with suppress(OSError, ValueError):
            if shown_line and sys.stderr.isatty():
                # not through the stream, because the signal may have interrupted it while it was writing
                os.write(sys.stderr.fileno(), f"{CLEAR_LINE}{shown_line}\n".encode())

    is_main_thread = threading.current_thread() is threading.main_thread()
    has_default_handler = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_main_thread or not has_default_handler:
        yield interrupted
        return
    signal.signal(signal.SIGINT, on_signal)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
