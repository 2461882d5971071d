"""Work in a thread of its own, beside the inspections."""

from __future__ import annotations

import random
import threading

PATIENCE = 30.0  # seconds that the end of a thread is waited for


class Backoff:
    """Pauses before something that failed is tried again, each twice as long as the one before.

    Args:
        shortest, longest: seconds.
        spread: each pause is up to so much longer or shorter, as a share of it, so that not all who wait for
            the same thing come back at the same moment.
    """

    def __init__(self, shortest: float, longest: float, spread: float = 0.0):
        self.shortest, self.longest, self.spread = shortest, longest, spread
        self.reset()

    def reset(self) -> None:
        """Begin with the shortest pause again: it went well."""
        self._next = self.shortest

    def next(self) -> float:
        """Return the seconds of the next pause."""
        pause, self._next = self._next, min(self.longest, 2 * self._next)
        return pause * random.uniform(1 - self.spread, 1 + self.spread)


class Background:
    """Begins, is woken and ends; who derives from it says what it does in between.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str):
        self._ended, self._woken = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._woken.set()

    def end(self) -> None:
        """Begin nothing more."""
        self._ended.set()
        self.wake()

    def stop(self, seconds: float | None = PATIENCE) -> None:
        """Begin nothing more; returns when what was begun is done, or after so long. None: however long."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        """Until it ends."""
        raise NotImplementedError

    def _wait(self, seconds: float | None = None) -> bool:
        """Until there is something to do, or for so long; whether it ends."""
        self._woken.wait(seconds)
        self._woken.clear()
        return self._ended.is_set()
