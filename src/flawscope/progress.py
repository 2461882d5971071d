"""Tells a person the progress of a long job. A job calls `step(stage, done, total)`; the caller decides what
happens then: no output in a library, a line with the remaining time on a terminal. The text after a comma in
the stage may change from call to call, such as a loss: it is still the same stage. `noted_interrupts` handles
Ctrl-C for work that must not be cut in two."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

Step = Callable[[str, int, int], None]

LIVE_EVERY, LOG_EVERY = 0.2, 30.0  # seconds between two lines: on a terminal, in a file
SENT_EVERY = 0.5  # seconds between two messages of a process
ALIVE_EVERY = 1.0  # seconds of silence on a terminal
QUIET = 60.0  # seconds of silence elsewhere, of jobs that run side by side
CLEAR = "\r\x1b[K"  # back to the line's beginning, and clear it
_WRITING = threading.RLock()


class Advance:
    """Reports that one more of a stage is done, from any thread."""

    def __init__(self, step: Step, stage: str, total: int):
        self.step, self.stage, self.total, self.done = step, stage, total, 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.done += 1
            self.step(self.stage, self.done, self.total)


def silent(stage: str, done: int, total: int) -> None:
    """Reports no progress."""


def at_times(step: Step) -> Step:
    """Passes on only some steps: a stage's first and last, and one every `SENT_EVERY` seconds."""
    shown, last = "", 0.0

    def told(stage: str, done: int, total: int) -> None:
        nonlocal shown, last
        name, now = stage.partition(",")[0], time.monotonic()
        if name != shown or done == total or now - last >= SENT_EVERY:
            shown, last = name, now
            step(stage, done, total)

    return told


def write_line(line: str, stream: TextIO | None = None) -> None:
    """Writes a line to stderr, in the place of a line of progress that stands there."""
    with _WRITING:
        stream = stream or sys.stderr
        print(f"{CLEAR}{line}" if stream.isatty() else line, file=stream, flush=True)


class Terminal:
    """Writes to stderr: on a terminal one line that is rewritten, elsewhere one line a stage, and one every
    `LOG_EVERY` seconds of a long one.

    Args:
        alive: on a terminal, say every second that work goes on, also between two stages and before the first
            one, until `stop`.
    """

    def __init__(self, stream: TextIO | None = None, *, alive: bool = False):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.stage = ""
        self.text = "starting"  # of the last call, without the time that is left
        self.started = self.shown = self.called = time.monotonic()
        self.left = 0.0  # seconds, when it was called
        self.ended = threading.Event()
        if self.live and alive:
            threading.Thread(target=self._keep_alive, daemon=True).start()

    def __call__(self, stage: str, done: int, total: int) -> None:
        with _WRITING:
            now = time.monotonic()
            name = stage.partition(",")[0]
            if name != self.stage:
                self.stage, self.started = name, now
                self.shown = 0.0 if self.live else now
            finished = done >= total
            if not finished and now - self.shown < (LIVE_EVERY if self.live else LOG_EVERY):
                return
            self.called, spent = now, now - self.started
            self.left = spent / done * (total - done) if done else 0.0  # from the first one on
            rate = _rate(done, spent)
            self.text = f"{stage}: {done:,} of {total:,}{rate}"
            if finished:
                self._write(f"{stage}: done in {duration(spent)}{rate}", now, end=True)
                self.stage, self.text = "", "working"
            else:
                self._write(self._so_far(now), now)

    def stop(self) -> None:
        """Ends the live display: nothing more is written of it."""
        with _WRITING:
            if self.live and not self.ended.is_set():
                self.stream.write(CLEAR)
                self.stream.flush()
            self.ended.set()

    def _keep_alive(self) -> None:
        while not self.ended.wait(ALIVE_EVERY / 2):
            with _WRITING:
                now = time.monotonic()
                if not self.ended.is_set() and now - self.shown >= ALIVE_EVERY:
                    self._write(self._so_far(now), now)

    def _so_far(self, now: float) -> str:
        if not self.stage:
            return f"{self.text}, {duration(max(now - self.called, 1.0))}"
        left = self.left - (now - self.called)
        return self.text + (f", {duration(left)} left" if left >= 1 else "")

    def _write(self, text: str, now: float, *, end: bool = False) -> None:
        self.shown = now
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"{CLEAR}{text[:width]}" + ("\n" if end else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()


class Running:
    """Shows the progress of several jobs that run side by side: on a terminal one line that is rewritten,
    elsewhere a line every `QUIET` seconds.

    Args:
        say: gets lines that may be left out. warn: gets those that may not.
    """

    def __init__(self, say: Callable[[str], None], warn: Callable[[str], None], terminal: bool):
        self.say, self.warn, self.terminal = say, warn, terminal
        self.jobs: dict[str, str] = {}  # where each is, by its label
        self.said = time.monotonic()

    def step(self, label: str, stage: str, done: int, total: int) -> None:
        """Notes the progress of a job."""
        self.jobs[label] = f"{stage} {done} of {total}"

    def show(self) -> None:
        """Writes the progress of all jobs, if it is time."""
        text = "; ".join(f"{label}: {where}" for label, where in self.jobs.items())
        if text and self.terminal:
            sys.stderr.write(f"{CLEAR}{text[: shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()
        elif text and time.monotonic() - self.said >= QUIET:
            self.said = time.monotonic()
            self.say(f"      {text}")

    def line(self, text: str, *, failed: bool = False) -> None:
        """Writes a line that stays."""
        if self.terminal:
            sys.stderr.write(CLEAR)
        self.said = time.monotonic()
        (self.warn if failed else self.say)(text)


def _rate(done: int, seconds: float) -> str:
    """Text with the number a second, where it is at least one; else empty."""
    rate = done / seconds if seconds >= 1 else 0.0
    return "" if rate < 1 else f", {rate:.1f} a second" if rate < 9.95 else f", {rate:,.0f} a second"


def duration(seconds: float) -> str:
    """Formats seconds: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
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
def noted_interrupts(said: str = "stops after this step, and keeps it") -> Iterator[threading.Event]:
    """Event that Ctrl-C sets instead of raising KeyboardInterrupt; the second Ctrl-C raises it. Other threads
    than the main one are left alone, and so is a Ctrl-C that somebody else handles.

    Args:
        said: line for a terminal; empty: none.
    """
    noted = threading.Event()

    def note(number: int, frame: object) -> None:
        if noted.is_set():
            raise KeyboardInterrupt
        noted.set()
        with suppress(OSError, ValueError):
            if said and sys.stderr.isatty():  # not by way of a stream that may be writing right now
                os.write(sys.stderr.fileno(), f"\r\x1b[K{said}\n".encode())

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
