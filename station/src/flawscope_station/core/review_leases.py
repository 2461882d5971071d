"""Pictures that are leased to reviewers, so that no two people review the same one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LEASE_SECONDS = 300.0  # seconds for which a picture is leased to a reader
MAX_LEASES = 5000  # largest number of leases; if there are more, the oldest ones end


class ReviewLeases:
    """Pictures that are leased to reviewers, so that no two judge the same one.

    Thread-safe. A reader is an open page: a person may have two. A lease ends with a verdict, when its reader
    goes, and some minutes after the reader's last verdict.
    """

    def __init__(self) -> None:
        self._clock = time.monotonic
        self._lock = threading.RLock()
        # by number of the picture: reader and time of the lease, the oldest first
        self._leases: dict[int, tuple[str, float]] = {}

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """Hold the leases while a reader chooses and leases pictures, so that no other chooses the same."""
        with self._lock:
            yield

    def leased_to_others(self, reader: str) -> list[int]:
        """Return the pictures that are leased to other readers."""
        with self._lock:
            self._drop_expired()
            return [number for number, (leaseholder, _) in self._leases.items() if leaseholder != reader]

    def leased_to(self, reader: str) -> set[int]:
        """Return the pictures that are leased to a reader."""
        with self._lock:
            self._drop_expired()
            return {number for number, (leaseholder, _) in self._leases.items() if leaseholder == reader}

    def end(self, number: int) -> None:
        """End the lease of a picture that has its verdict."""
        with self._lock:
            self._leases.pop(number, None)

    def release(self, reader: str) -> None:
        """End all leases of a reader that goes."""
        with self._lock:
            for number in self.leased_to(reader):
                del self._leases[number]

    def renew(self, reader: str) -> None:
        """Begin the time of a reader's leases again."""
        with self._lock:
            self.lease(reader, self.leased_to(reader))

    def lease(self, reader: str, numbers: Iterable[int]) -> None:
        """Lease pictures to a reader from now on."""
        with self._lock:
            for number in numbers:
                self._leases.pop(number, None)
                self._leases[number] = reader, self._clock()
            self._drop_expired()

    def _drop_expired(self) -> None:
        """End leases that are too old, or above `MAX_LEASES`; the caller holds the lock."""
        earliest_valid = self._clock() - LEASE_SECONDS
        for number, (_, leased_at) in list(self._leases.items()):
            if leased_at >= earliest_valid and len(self._leases) <= MAX_LEASES:
                return  # all further leases are younger
            del self._leases[number]
