"""Intake of parts: whether one may be taken now, and the places of those that are not answered yet.

Whoever hands a part in, a client, a PLC, a folder or a camera, does so by `Intake.take`. All that may refuse
a part before it has a place is asked here, in one order: the disk and the data base, the model, interlocks,
room and time. Nothing of it asks disk or data base: `MachineWatch` has measured them. Who asks before a
picture is read (`check`) gets the same answer, and there alone whether the disk has room for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from flawscope_station.inspecting.interlock import PAUSED, Interlocks, NotReadyError, PausedError
from flawscope_station.inspecting.judge import Judge
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import LateError, Outcome, Ticket, Waiter
from flawscope_station.monitoring.machine import MachineWatch
from flawscope_station.monitoring.problems import Standstill
from flawscope_station.settings.station import Limits
from flawscope_station.store.database import StoreError, now
from flawscope_station.store.inspection import UNANSWERED_REQUEST, KeyUsedError
from flawscope_station.store.open_models import NoModelError

RATE_SECONDS = 60.0  # seconds over which a rate is counted
BURST = 1000  # microseconds by which the times of parts that come at once may lie ahead of the clock


class Intake:
    """Places of the parts that are not answered yet, and all checks before one is given.

    Args:
        judge: knows the models, how they see parts in views, and how long parts take.
        machine: knows whether the disk and the data base can keep them.
        products: numbers by name of those that are inspected, and of entries; they may change.

    Attributes:
        changed: told when a part has left. Held by whoever looks at several facts at once.
        is_ending: nothing more is taken.
        interlocks: may hold parts back.
    """

    is_ending = False

    def __init__(
        self, judge: Judge, machine: MachineWatch, limits: Limits, products: Sequence[Mapping[str, int]]
    ):
        self._judge, self.machine, self.limits, self._products = judge, machine, limits, products
        self.interlocks: Interlocks = judge.interlocks
        self.changed = threading.Condition()
        self._tickets: dict[Ticket, None] = {}  # that have a place, the oldest first
        self._by_key: dict[tuple[int, str], Ticket] = {}  # of these
        self._counts: Counter[int] = Counter()  # of these, by product
        self._bytes = 0  # of their pictures
        self._answer_times: dict[int, deque[float]] = {}  # when, by product
        self._late_times: dict[int, float] = {}  # when, by product
        self._last_moment = 0  # of the last part

    # ---- whether one may be taken

    def standstill(self, product_id: int, number: str | None = None) -> Standstill | None:
        """Return why no part of a product or entry is taken, or not the part with this number; None: nothing
        but room and time may hold it up.
        """
        try:
            self.check_standstill(product_id, number)
        except StoreError as error:
            return Standstill(error.code, error)
        except NoModelError as error:
            return Standstill("no_model", error)
        except PausedError as error:
            return Standstill(PAUSED, error)
        except NotReadyError as error:
            return Standstill("challenge", error)
        return None

    def check_standstill(self, product_id: int, number: str | None = None) -> None:
        """Raise what `standstill` says: StoreError, NoModelError or NotReadyError."""
        self.machine.check_room(self.limits.upload)
        self._check_model(product_id)
        self.interlocks.check(product_id, number)

    def _check_model(self, product_id: int) -> None:
        """Check whether anything of a product or entry can be judged."""
        if product_id not in self._judge.versions.models.active:
            raise NoModelError

    def check(self, product_id: int, number: str | None = None, due: float = math.inf) -> None:
        """Raise why a part could not be taken now.

        Args:
            number: of the part; some pass an interlock. due: its deadline, as `time.monotonic` counts.

        Raises:
            StoreError, NoModelError, NotReadyError: nothing of the product, or of this number, is judged.
            BusyError: there is no room.
            LateError: it cannot be judged in time.
        """
        self.check_standstill(product_id, number)
        self._check_room(product_id, due, 1, 0)

    def _check_room(self, product_id: int, due: float, count: int, size: int) -> None:
        """Check whether there is a place and time for parts that come together."""
        with self.changed:
            is_too_large = 0 < self._bytes > 4 * self.limits.upload - size
            if self.is_ending or is_too_large or self._is_full(product_id, count):
                raise BusyError(self._retry_seconds())
            self._check_time(product_id, due)

    def _is_full(self, product_id: int, count: int) -> bool:
        """Whether `count` more parts would take places that are reserved for other products."""
        products = [number for numbers in self._products for number in list(numbers.values())]
        # half of all places are divided among the products
        own = self.limits.queue // (2 * len(products)) if len(products) > 1 else 0
        kept = sum(max(0, own - self._counts[one]) for one in products if one != product_id)
        return self._counts.total() + count + kept > self.limits.queue

    def _check_time(self, product_id: int, due: float) -> None:
        if due == math.inf:
            return
        delay = self._judge.expected_delay(product_id, self._counts)
        left = max(0.0, due - time.monotonic())
        if left <= delay:
            self.note_late(product_id)
            raise LateError(f"it would take {delay:.1f} s, and {left:.1f} s are left")

    def _retry_seconds(self) -> float:
        """Return the seconds until half of the queue is done, at the rate of the last minute."""
        rate = sum(map(self.rate, list(self._answer_times))) or 1.0
        return min(60.0, max(1.0, self.backlog() / 2 / rate))

    # ---- places

    def take(
        self, parts: Sequence[Part], ended: Callable[[Ticket, Outcome], object]
    ) -> tuple[list[Waiter], list[Ticket]]:
        """Give parts that came together a place each, all or none; return who waits for each, and the tickets
        of those that are not under way already.

        Args:
            ended: as of `Ticket`.

        Raises:
            InputError: the pictures are not all views of one part.
            KeyUsedError: another request under the same key is not answered yet.
            FlawscopeError: as of `check`.
        """
        self.machine.check_room(self.limits.upload)
        for product_id in {one.product_id for one in parts}:
            self._check_model(product_id)
        parts = [self._judge.parts.named(one) for one in parts]
        taken: list[Ticket] = []
        with self.changed:
            if self.is_ending:
                raise BusyError(self._retry_seconds())
            self._check_keys(parts)
            self._check_new([one for one in parts if (one.product_id, one.key or "") not in self._by_key])
            waiters = [self._join(one) or self._place(one, ended, taken) for one in parts]
        return waiters, taken

    def _check_new(self, parts: Sequence[Part]) -> None:
        """Check whether interlocks, room and time let these parts be taken, which came together."""
        size = sum(one.size for one in parts)
        for one in parts:
            self.interlocks.check(one.product_id, one.number)
            self._check_room(one.product_id, one.due, len(parts), size)

    def _check_keys(self, parts: Sequence[Part]) -> None:
        """Raise KeyUsedError where another request under a key is not answered yet."""
        for ticket in self._by_key.values():
            for one in parts:
                if one.product_id == ticket.part.product_id and _is_other_request(one, ticket.part):
                    raise KeyUsedError(UNANSWERED_REQUEST)

    def _join(self, part: Part) -> Waiter | None:
        """Wait with others for a part that came under the same key; None: it did not, or has its answer."""
        ticket = self._by_key.get((part.product_id, part.key)) if part.key else None
        return None if ticket is None else ticket.join(part.due)

    def _place(self, part: Part, ended: Callable[[Ticket, Outcome], object], taken: list[Ticket]) -> Waiter:
        ticket = Ticket(part, self._moment(), ended)
        waiter = ticket.join(part.due)
        assert waiter is not None, "it has just begun"
        self._tickets[ticket] = None
        self._bytes += ticket.size
        self._counts[part.product_id] += 1
        if part.key:
            self._by_key[part.product_id, part.key] = ticket
        taken.append(ticket)
        return waiter

    def _moment(self) -> int:
        """Return the present time, microseconds since 1970, which no other part has: by it, its product and
        its picture a part is known.
        """
        at = now()
        if 0 <= self._last_moment - at < BURST:
            at = self._last_moment + 1
        self._last_moment = at
        return at

    def release(self, ticket: Ticket) -> bool:
        """Give back the place of a part; return False where it has none any more."""
        with self.changed:
            if ticket not in self._tickets:
                return False
            del self._tickets[ticket]
            product_id, key = ticket.part.product_id, ticket.part.key or ""
            self._bytes -= ticket.size
            self._counts[product_id] -= 1
            if self._by_key.get((product_id, key)) is ticket:
                del self._by_key[product_id, key]
            self.changed.notify_all()
            return True

    def tickets(self) -> list[Ticket]:
        """The parts that have a place, the oldest first."""
        with self.changed:
            return list(self._tickets)

    def oldest(self) -> Ticket | None:
        """The part that has waited longest for its answer; None: none waits."""
        with self.changed:
            return next(iter(self._tickets), None)

    def backlog(self, product_id: int | None = None) -> int:
        """Number of parts that are not answered yet."""
        return self._counts.total() if product_id is None else self._counts[product_id]

    def wait_idle(self, seconds: float) -> None:
        """Return when all parts are answered, or after so many seconds."""
        with self.changed:
            self.changed.wait_for(lambda: not self.backlog(), seconds)

    # ---- how it goes

    def note_answer(self, product_id: int) -> None:
        """Note that a part has its answer."""
        with self.changed:
            self._answer_times.setdefault(product_id, deque(maxlen=10_000)).append(time.monotonic())

    def note_late(self, product_id: int) -> None:
        """Note that a part was, or would be, too late."""
        self._late_times[product_id] = time.monotonic()

    def late_products(self, seconds: float) -> list[int]:
        """Return the products of which a part was not judged in time within the last seconds."""
        since = time.monotonic() - seconds
        return [product for product, at in list(self._late_times.items()) if at >= since]

    def rate(self, product_id: int) -> float:
        """Parts a second that were answered in the last minute."""
        since = time.monotonic() - RATE_SECONDS
        with self.changed:
            return sum(at >= since for at in self._answer_times.get(product_id, ())) / RATE_SECONDS


def _is_other_request(part: Part, under_way: Part) -> bool:
    """Whether a part came by another request under the same key."""
    if part.request is None or under_way.request is None:
        return False
    return part.request.key == under_way.request.key and part.request != under_way.request
