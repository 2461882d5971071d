"""How much of the queue is for pictures from folders."""

from __future__ import annotations

import threading

from flawscope.station.settings.station import Limits


class Share:
    """What pictures from all folders may take of the queue together: half of it. So folders never make the
    station refuse those who send pictures themselves."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._most, self._most_bytes = max(1, limits.queue // 2), 2 * limits.upload_bytes
        self._count = self._bytes = 0
        self._changed = threading.Condition()

    def take(self, size: int, ended: threading.Event) -> bool:
        """Wait until there is room for a picture of so many bytes; False where all ends before."""
        with self._changed:
            while self._count >= self._most or (self._count and self._bytes + size > self._most_bytes):
                if ended.is_set():
                    return False
                self._changed.wait(0.2)
            self._count, self._bytes = self._count + 1, self._bytes + size
            return True

    def give(self, size: int) -> None:
        """It was answered."""
        with self._changed:
            self._count, self._bytes = self._count - 1, self._bytes - size
            self._changed.notify_all()
