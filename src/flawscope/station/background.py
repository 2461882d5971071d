"""Threads beside the inspections, and pauses between tries."""

from __future__ import annotations

import random
import threading

STOP_TIMEOUT = 30.0  # seconds to wait for the end of a thread


class Backoff:
    """Pauses before something that failed is tried again, each twice as long as the one before.

    Args:
        shortest, longest: seconds.
        spread: share of a pause by which it is randomly shortened or lengthened, so that waiting clients do
            not all come back at the same moment.
    """

    def __init__(self, shortest: float, longest: float, spread: float = 0.0):
        self.shortest, self.longest, self.spread = shortest, longest, spread
        self.reset()

    def reset(self) -> None:
        """Begin with the shortest pause again, after a success."""
        self._next = self.shortest

    def next(self) -> float:
        """Return the seconds of the next pause."""
        pause, self._next = self._next, min(self.longest, 2 * self._next)
        return pause * random.uniform(1 - self.spread, 1 + self.spread)


class BackgroundThread:
    """Thread that can be woken and ended; derived classes define its work."""

    def __init__(self, name: str):
        self._ended, self._woken = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Tell the thread that there is something to do."""
        self._woken.set()

    def end(self) -> None:
        """Ask the thread to end: it begins nothing more."""
        self._ended.set()
        self.wake()

    def stop(self, seconds: float | None = STOP_TIMEOUT) -> None:
        """End the thread; return when its work is done, or after `seconds`. None: no limit."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        raise NotImplementedError

    def _wait(self, seconds: float | None = None) -> bool:
        """Wait until woken, at most for `seconds`; return whether the thread is to end."""
        self._woken.wait(seconds)
        self._woken.clear()
        return self._ended.is_set()
