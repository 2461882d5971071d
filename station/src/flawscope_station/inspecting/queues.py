"""Queues of a station: turns of products before the judge, and groups of items to record or announce.

Each queue has a single reader, a thread that is watched (`monitoring.background.GuardedThread`). The queue
knows whether its reader works: from the moment it takes something until it asks again. Places and refusals
are made in `intake`.
"""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

J = TypeVar("J")

TURN_LENGTH = 2  # parts of a product while others wait
REMEMBERED_TIMES = 16  # times of a product that are remembered


class GroupQueue(Generic[J]):
    """Jobs that are taken several at a time, the oldest first. Thread-safe.

    Attributes:
        taken_at: When the reader took its present jobs, as `time.monotonic` counts; None: it waits.
    """

    taken_at: float | None = None

    def __init__(self) -> None:
        self._jobs: SimpleQueue[J] = SimpleQueue()
        self.put = self._jobs.put

    def __len__(self) -> int:
        return self._jobs.qsize()

    def take(self, most: int, seconds: float | None = None) -> list[J]:
        """Wait for a job, for so many seconds at most, and take up to `most` jobs that are there by then."""
        self.taken_at = None
        group = list[J]()
        try:
            group.append(self._jobs.get(timeout=seconds))
            while len(group) < most:
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
        self._waiting: OrderedDict[int, deque[J]] = OrderedDict()  # by product, the next first; none is empty
        self._times: dict[int, deque[float]] = {}

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

    def pop_same_turn(self, product: int, taken: int) -> J | None:
        """Take the product's next job, after `taken` ones in this turn; None: the turn is over."""
        if product not in self._waiting or (len(self._waiting) > 1 and taken >= TURN_LENGTH):
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
        found = [job for jobs in self._waiting.values() for job in jobs if matches(job)]
        for product, jobs in list(self._waiting.items()):
            left = deque(job for job in jobs if not matches(job))
            if left:
                self._waiting[product] = left
            else:
                del self._waiting[product]
        return found

    def _take(self, product: int) -> J:
        self.go_on()
        jobs = self._waiting[product]
        job = jobs.popleft()
        if not jobs:
            del self._waiting[product]
        return job

    # ---- how long it takes

    def add_time(self, product: int, seconds: float) -> None:
        """Note the mean time of a part in a turn."""
        self._times.setdefault(product, deque(maxlen=REMEMBERED_TIMES)).append(seconds)

    def median_seconds(self, product: int) -> float:
        """Return the median of a product's last times: a single long one does not count. 0: not known."""
        known = self._times.get(product)
        return statistics.median(known) if known else 0.0

    def expected_delay(self, product: int, taken: dict[int, int]) -> float:
        """Return the seconds until a further part is judged; 0 where no part waits: then it is not known.

        Args:
            product: Number of the further part's product.
            taken: Number of parts, by product, that are not judged yet.
        """
        product_delay = taken.get(product, 0)
        others = sum(
            min(count, (product_delay // TURN_LENGTH + 1) * TURN_LENGTH) * self.median_seconds(other)
            for other, count in taken.items()
            if other != product
        )
        ahead = product_delay * self.median_seconds(product) + others
        return ahead + self.median_seconds(product) if ahead else 0.0
