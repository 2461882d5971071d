"""What was read lately, so that not every request asks the data base."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from flawscope.station.store.database import StoreError

T = TypeVar("T")

FRESH = 3.0  # seconds that something is taken for true without another look
STALE = (
    600.0  # seconds that it still is while the data base cannot be asked: nobody can change it there, either
)
MOST = 4096


class Recall(Generic[T]):
    """Thread-safe. Only what was found is kept: guesses take no room."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[T, float]] = {}
        self._cleared = 0  # times

    def at_hand(self, key: tuple[str, str]) -> T:
        """KeyError where it has to be read."""
        return self._younger(FRESH, key)

    def ask(self, key: tuple[str, str], read: Callable[[], T | None]) -> T | None:
        """From memory, else what `read` finds.

        Raises:
            StoreError: of `read`, where nothing is known from before.
        """
        try:
            return self._younger(FRESH, key)
        except KeyError:
            before = self._cleared
        try:
            found = read()
        except StoreError:
            try:
                return self._younger(STALE, key)
            except KeyError:
                pass
            raise
        with self._lock:
            self._known.pop(key, None)
            if found is not None and before == self._cleared:  # else it may be what was there before a change
                while len(self._known) >= MOST:
                    del self._known[next(iter(self._known))]
                self._known[key] = found, self._clock()
        return found

    def clear(self) -> None:
        with self._lock:
            self._known.clear()
            self._cleared += 1

    def _younger(self, seconds: float, key: tuple[str, str]) -> T:
        with self._lock:
            value, at = self._known[key]
        if self._clock() - at > seconds:
            raise KeyError(key)
        return value
