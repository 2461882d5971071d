"""The queue of what waits to be judged: products take turns, and how long each takes is known.

Not safe by itself where several threads use it.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

J = TypeVar("J")

TURN = 2  # pictures of a product while others wait
LATELY = 16  # turns whose times are remembered


class FairQueue(Generic[J]):
    """Jobs by product, judged in turns (round robin)."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, deque[J]] = OrderedDict()  # the next product first; none is empty
        self._seconds: dict[int, deque[float]] = {}
        self._latencies: dict[int, deque[float]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, product: int, job: J) -> None:
        self._waiting.setdefault(product, deque()).append(job)

    def pop(self) -> J:
        """The oldest one of the product whose turn it is; then it is the next one's."""
        product = next(iter(self._waiting))
        self._waiting.move_to_end(product)
        return self._take(product)

    def pop_of(self, product: int, taken: int) -> J | None:
        """The next one of the same turn, of which so many were taken; None: it is over."""
        if product not in self._waiting or (len(self._waiting) > 1 and taken >= TURN):
            return None
        return self._take(product)

    def remove(self, matches: Callable[[J], bool]) -> list[J]:
        """Take out what nobody waits for any more."""
        found = [job for jobs in self._waiting.values() for job in jobs if matches(job)]
        for product, jobs in list(self._waiting.items()):
            left = deque(job for job in jobs if not matches(job))
            if left:
                self._waiting[product] = left
            else:
                del self._waiting[product]
        return found

    def _take(self, product: int) -> J:
        jobs = self._waiting[product]
        job = jobs.popleft()
        if not jobs:
            del self._waiting[product]
        return job

    # ---- how long it takes

    def took(self, product: int, seconds: float) -> None:
        """A picture of a turn, on average."""
        self._seconds.setdefault(product, deque(maxlen=LATELY)).append(seconds)

    def seconds(self, product: int) -> float:
        """That a picture takes: the median of late, so that a single long one counts for nothing; 0: nobody
        knows yet."""
        known = self._seconds.get(product)
        return statistics.median(known) if known else 0.0

    def answered(self, product: int, seconds: float) -> None:
        """A picture, from its turn until its answer was recorded."""
        self._latencies.setdefault(product, deque(maxlen=LATELY)).append(seconds)

    def latency(self, product: int) -> float:
        """Seconds from a picture's turn to its answer: the longest of late, for several are on their way at
        once; 0: nobody knows yet."""
        return max(tuple(self._latencies.get(product, ())), default=0.0)

    def delay(self, product: int, taken: dict[int, int]) -> float:
        """Seconds until a further picture is judged; taken: pictures by product that are not judged yet. 0
        where none is: then only trying shows how long it takes."""
        own = taken.get(product, 0)
        others = sum(
            min(count, (own // TURN + 1) * TURN) * self.seconds(other)
            for other, count in taken.items()
            if other != product
        )
        ahead = own * self.seconds(product) + others
        return ahead + self.seconds(product) if ahead else 0.0


def share(places: int, products: Collection[int]) -> int:
    """The places that are each product's own, whoever floods the others: half of them, divided."""
    return places // (2 * len(products)) if len(products) > 1 else 0
