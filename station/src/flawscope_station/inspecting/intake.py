"""Intake of parts: the checks before a part is taken, and the places of parts that are not answered yet.

A client, a PLC, a folder and a camera hand a part in by `Intake.take`. All reasons to refuse a part before it
has a place are checked here, in the same order: the disk and the database, the model, interlocks, room and
time. No check asks disk or database: `MachineWatch` has measured them. A caller may ask before it reads a
picture (`check`) and gets the same answer; only there the room on the disk for the picture is checked.
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
    """Places of the parts that are not answered yet, and all checks before a part gets a place.

    Args:
        judge: Knows the models, how they see parts in views, and how long parts take.
        machine: Knows whether the disk and the database can keep parts.
        limits: Limits of the settings.
        products: Numbers by name of inspected products, and of entries; they may change.

    Attributes:
        changed: Notified when a part has left; held while several facts are read together.
        is_ending: Whether no more parts are taken.
        interlocks: May hold parts back.
    """

    is_ending = False

    def __init__(
        self, judge: Judge, machine: MachineWatch, limits: Limits, products: Sequence[Mapping[str, int]]
    ):
        self._judge = judge
        self.machine = machine
        self.limits = limits
        self._products = products
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
        """Return why no part of a product or entry is taken, or not the part with this number.

        None: only room and time may still refuse it.
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
        """Raise the error of `standstill`: StoreError, NoModelError or NotReadyError."""
        self.machine.check_room(self.limits.upload)
        self._check_model(product_id)
        self.interlocks.check(product_id, number)

    def _check_model(self, product_id: int) -> None:
        """Raise NoModelError where no model judges a product or entry."""
        if product_id not in self._judge.versions.models.active:
            raise NoModelError

    def check(self, product_id: int, number: str | None = None, due: float = math.inf) -> None:
        """Raise the reason why a part could not be taken now.

        Args:
            product_id: Number of the product or entry.
            number: Number of the part, which may pass an interlock; None: not known.
            due: Deadline of the part, as `time.monotonic` counts.

        Raises:
            StoreError, NoModelError, NotReadyError: no part of the product, or of this number, is judged.
            BusyError: there is no room.
            LateError: it cannot be judged in time.
        """
        self.check_standstill(product_id, number)
        self._check_room(product_id, due, 1, 0)

    def _check_room(self, product_id: int, due: float, count: int, size: int) -> None:
        """Raise BusyError or LateError where parts that come together have no place, or no time."""
        with self.changed:
            is_too_large = 0 < self._bytes > 4 * self.limits.upload - size
            if self.is_ending or is_too_large or self._is_full(product_id, count):
                raise BusyError(self._retry_seconds())
            self._check_time(product_id, due)

    def _is_full(self, product_id: int, count: int) -> bool:
        """Return whether `count` more parts would take places that are reserved for other products."""
        products = [number for numbers in self._products for number in list(numbers.values())]
        # half of all places are divided among the products
        share = self.limits.queue // (2 * len(products)) if len(products) > 1 else 0
        reserved = sum(max(0, share - self._counts[number]) for number in products if number != product_id)
        return self._counts.total() + count + reserved > self.limits.queue

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
        self, parts: Sequence[Part], on_end: Callable[[Ticket, Outcome], object]
    ) -> tuple[list[Waiter], list[Ticket]]:
        """Give parts that came together a place each, all or none.

        Args:
            parts: Parts of a request.
            on_end: Called at the end of each ticket, as in `Ticket`.

        Returns:
            The waiter of each part, and the tickets of the parts that were not under way already.

        Raises:
            InputError: the pictures are not all views of a part.
            KeyUsedError: another request under the same key is not answered yet.
            FlawscopeError: errors of `check`.
        """
        self.machine.check_room(self.limits.upload)
        for product_id in {part.product_id for part in parts}:
            self._check_model(product_id)
        parts = [self._judge.parts.named(part) for part in parts]
        taken: list[Ticket] = []
        with self.changed:
            if self.is_ending:
                raise BusyError(self._retry_seconds())
            self._check_keys(parts)
            self._check_new([part for part in parts if (part.product_id, part.key or "") not in self._by_key])
            waiters = [self._join(part) or self._place(part, on_end, taken) for part in parts]
        return waiters, taken

    def _check_new(self, parts: Sequence[Part]) -> None:
        """Raise an error where interlocks, room or time refuse these parts, which came together."""
        size = sum(part.size for part in parts)
        for part in parts:
            self.interlocks.check(part.product_id, part.number)
            self._check_room(part.product_id, part.due, len(parts), size)

    def _check_keys(self, parts: Sequence[Part]) -> None:
        """Raise KeyUsedError where another request under a key is not answered yet."""
        for ticket in self._by_key.values():
            for part in parts:
                if part.product_id == ticket.part.product_id and _is_other_request(part, ticket.part):
                    raise KeyUsedError(UNANSWERED_REQUEST)

    def _join(self, part: Part) -> Waiter | None:
        """Return a further waiter for the part under way with the same key; None: there is none."""
        ticket = self._by_key.get((part.product_id, part.key)) if part.key else None
        return None if ticket is None else ticket.join(part.due)

    def _place(self, part: Part, on_end: Callable[[Ticket, Outcome], object], taken: list[Ticket]) -> Waiter:
        ticket = Ticket(part, self._moment(), on_end)
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
        """Return the present time, microseconds since 1970, that no other part has.

        A part is known by it, its product and its picture.
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
            product_id = ticket.part.product_id
            key = ticket.part.key or ""
            self._bytes -= ticket.size
            self._counts[product_id] -= 1
            if self._by_key.get((product_id, key)) is ticket:
                del self._by_key[product_id, key]
            self.changed.notify_all()
            return True

    def tickets(self) -> list[Ticket]:
        """Return the parts that have a place, the oldest first."""
        with self.changed:
            return list(self._tickets)

    def oldest(self) -> Ticket | None:
        """Return the part that has waited longest for its answer; None: no part waits."""
        with self.changed:
            return next(iter(self._tickets), None)

    def backlog(self, product_id: int | None = None) -> int:
        """Return the number of parts that are not answered yet, of a product or of all (None)."""
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
        """Return the products with a part that was not judged in time within the last seconds."""
        since = time.monotonic() - seconds
        return [product for product, at in list(self._late_times.items()) if at >= since]

    def rate(self, product_id: int) -> float:
        """Return the parts a second that were answered in the last minute."""
        since = time.monotonic() - RATE_SECONDS
        with self.changed:
            return sum(at >= since for at in self._answer_times.get(product_id, ())) / RATE_SECONDS


def _is_other_request(part: Part, under_way: Part) -> bool:
    """Return whether a part came by another request under the same key."""
    if part.request is None or under_way.request is None:
        return False
    return part.request.key == under_way.request.key and part.request != under_way.request
