"""Telling a person how far a long job is. A job calls `step(stage, done, total)`; what happens then is the
caller's choice: nothing in a library, a line with the remaining time on a terminal. What follows a comma in
the stage may change from call to call, such as a loss: it is still the same stage.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

LIVE_EVERY, LOG_EVERY = 0.2, 30.0  # seconds between two lines: on a terminal, in a file

Step = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """No report."""


def clear_line(stream: TextIO | None = None) -> None:
    """Remove a line of progress from a terminal, so that something else may be written there."""
    stream = stream or sys.stderr
    if stream.isatty():
        stream.write("\r\x1b[K")


class Terminal:
    """Writes to stderr: on a terminal one line that is rewritten, elsewhere one line a stage, and one every
    `LOG_EVERY` seconds of a long one."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.stage = ""
        self.started = self.shown = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        name = stage.partition(",")[0]
        if name != self.stage:
            self.stage, self.started, self.shown = name, now, 0.0 if self.live else now
        finished = done >= total
        if not finished and now - self.shown < (LIVE_EVERY if self.live else LOG_EVERY):
            return
        self.shown = now
        spent = now - self.started
        text = f"{stage}: done in {duration(spent)}" if finished else _so_far(stage, done, total, spent)
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\x1b[K{text[:width]}" + ("\n" if finished else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()
        if finished:
            self.stage = ""


def _so_far(stage: str, done: int, total: int, spent: float) -> str:
    """How many are done, and from the first one on how long the others will take."""
    left = spent / done * (total - done) if done else 0.0
    return f"{stage}: {done:,} of {total:,}" + (f", {duration(left)} left" if left >= 1 else "")


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
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


def counted(number: int, thing: str) -> str:
    """1 picture, 2 pictures, 1,000 pictures."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def some(names: Sequence[str], most: int = 5) -> str:
    """a, b, c and 12 more."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
