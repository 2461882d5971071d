"""Queues of a station: turns of products before the judge, and groups of items to record or announce.

Each queue has a single reader, a thread that is watched (`monitoring.background.GuardedThread`). The queue
knows whether its reader works: from the moment it takes a job until it asks for the next. `intake` gives
parts their places, and refuses them.
"""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

J = TypeVar("J")

TURN_LENGTH = 2  # parts of a product that are judged in a row while parts of other products wait
REMEMBERED_TIMES = 16  # number of a product's last jobs whose times are remembered


class GroupQueue(Generic[J]):
    """Jobs that are taken in groups, the oldest first. Thread-safe.

    Attributes:
        taken_at: When the reader took its present jobs, as `time.monotonic` counts; None: it waits.
    """

    taken_at: float | None = None

    def __init__(self) -> None:
        self._jobs: SimpleQueue[J] = SimpleQueue()
        self.put = self._jobs.put

    def __len__(self) -> int:
        return self._jobs.qsize()

    def take(self, max_count: int, seconds: float | None = None) -> list[J]:
        """Wait for a job, and take it with those that wait behind it, up to `max_count` jobs.

        The list is empty if no job came within `seconds`. Where `seconds` is None, wait without a limit.
        """
        self.taken_at = None
        group = list[J]()
        try:
            group.append(self._jobs.get(timeout=seconds))
            while len(group) < max_count:
                group.append(self._jobs.get_nowait())
        except Empty:
            pass
        self.taken_at = time.monotonic()
        return group


class FairQueue(Generic[J]):
    """Jobs by product, taken in turns (round robin), and the time that each takes. Not thread-safe.

    Attributes:
        taken_at: When the reader took its job, or went on last, as `time.monotonic` counts; None: it waits.
    """

    taken_at: float | None = None

    def __init__(self) -> None:
        # waiting jobs by product, the product whose turn is next first; no product has an empty deque
        self._waiting: OrderedDict[int, deque[J]] = OrderedDict()
        self._times: dict[int, deque[float]] = {}  # seconds of the last jobs, by product

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, product: int, job: J) -> None:
        """Add a job of a product."""
        self._waiting.setdefault(product, deque()).append(job)

    def pop(self) -> J:
        """Take the oldest job of the product whose turn it is; the turn passes to the next product."""
        product = next(iter(self._waiting))
        self._waiting.move_to_end(product)
        return self._take(product)

    def pop_same_turn(self, product: int, taken_count: int) -> J | None:
        """Take the product's next job, after `taken_count` jobs in this turn; None: the turn is over."""
        if product not in self._waiting or (len(self._waiting) > 1 and taken_count >= TURN_LENGTH):
            return None
        return self._take(product)

    def rest(self) -> None:
        """Note that the reader waits: its last job is done."""
        self.taken_at = None

    def go_on(self) -> None:
        """Note that the reader has taken a job, or made progress."""
        self.taken_at = time.monotonic()

    def remove(self, matches: Callable[[J], bool]) -> list[J]:
        """Remove and return the jobs that match."""
        removed_jobs = [job for jobs in self._waiting.values() for job in jobs if matches(job)]
        for product, jobs in list(self._waiting.items()):
            kept_jobs = deque(job for job in jobs if not matches(job))
            if kept_jobs:
                self._waiting[product] = kept_jobs
            else:
                del self._waiting[product]
        return removed_jobs

    def _take(self, product: int) -> J:
        self.go_on()
        jobs = self._waiting[product]
        job = jobs.popleft()
        if not jobs:
            del self._waiting[product]
        return job

    # ---- how long it takes

    def add_time(self, product: int, seconds: float) -> None:
        """Note the mean seconds of a part in a turn of a product."""
        self._times.setdefault(product, deque(maxlen=REMEMBERED_TIMES)).append(seconds)

    def median_seconds(self, product: int) -> float:
        """Return the median seconds of a product's last jobs, 0 where none is known.

        A single long job does not change the median much.
        """
        recent_times = self._times.get(product)
        return statistics.median(recent_times) if recent_times else 0.0

    def expected_delay(self, product: int, waiting_counts: dict[int, int]) -> float:
        """Estimate the seconds until a new part is judged; 0: no part is ahead of it, or no time is known.

        Args:
            product: Number of the new part's product.
            waiting_counts: Number of parts, by product, that are not judged yet.
        """
        own_count = waiting_counts.get(product, 0)
        own_seconds = self.median_seconds(product)
        # the new part is judged in its product's turn of this number; others have as many turns meanwhile
        turns = own_count // TURN_LENGTH + 1
        other_seconds = sum(
            min(count, turns * TURN_LENGTH) * self.median_seconds(other)
            for other, count in waiting_counts.items()
            if other != product
        )
        seconds_ahead = own_count * own_seconds + other_seconds
        return seconds_ahead + own_seconds if seconds_ahead else 0.0
