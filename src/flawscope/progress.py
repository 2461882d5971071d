"""Telling a person how far a long job is. A job calls `step(stage, done, total)`; what happens then is the
caller's choice: nothing in a library, a line with the remaining time on a terminal. What follows a comma in
the stage may change from call to call, such as a loss: it is still the same stage.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

Step = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """No report."""


class Terminal:
    """Writes to stderr: on a terminal one line that is rewritten, elsewhere one line a stage."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.stage = ""
        self.started = self.shown = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        name = stage.partition(",")[0]
        if name != self.stage:
            self.stage, self.started, self.shown = name, now, 0.0
        finished = done >= total
        if not finished and (not self.live or now - self.shown < 0.2):
            return
        self.shown = now
        spent = now - self.started
        if finished:
            text = f"{stage}: {total} in {duration(spent)}"
        else:
            left = spent / done * (total - done) if done else 0.0
            text = f"{stage}: {done} of {total}" + (f", {duration(left)} left" if done else "")
        if self.live:
            self.stream.write(f"\r\x1b[K{text}" + ("\n" if finished else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()
        if finished:
            self.stage = ""


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
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
