"""Which pictures reviewers have before them, so that two do not judge the same ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

LATELY = 300.0  # seconds for which a picture that somebody was given is left to them
MOST = 5000  # pictures that are remembered


class Handed:
    """Thread-safe. A reader is a page that is open: somebody may have two."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._given: dict[int, tuple[str, float]] = {}  # number -> reader and time, the oldest first

    def to_others(self, reader: str) -> list[int]:
        """What other readers were given lately."""
        with self._lock:
            self._forget()
            return [number for number, (who, _) in self._given.items() if who != reader]

    def note(self, reader: str, numbers: Iterable[int]) -> None:
        """They were given to a reader now."""
        with self._lock:
            for number in numbers:
                self._given.pop(number, None)
                self._given[number] = reader, self._clock()
            self._forget()

    def _forget(self) -> None:
        since = self._clock() - LATELY
        for number, (_, at) in list(self._given.items()):
            if at >= since and len(self._given) <= MOST:
                return
            del self._given[number]
