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
MAX_UPLOADS_HELD = 4  # times `limits: upload` that pictures of all unanswered parts may take together


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
        self._tickets: dict[Ticket, None] = {}  # tickets that have a place, the oldest first
        self._by_key: dict[tuple[int, str], Ticket] = {}  # tickets of `_tickets`, by product and key
        self._counts: Counter[int] = Counter()  # number of tickets in `_tickets`, by product
        self._bytes = 0  # bytes of the pictures of all tickets in `_tickets`
        # both as `time.monotonic` counts, by product
        self._answer_times: dict[int, deque[float]] = {}  # when the product's last parts were answered
        self._late_times: dict[int, float] = {}  # when the product's last late part was late
        self._last_moment = 0  # moment of the last part, microseconds since 1970

    # ---- whether one may be taken

    def standstill(self, product_id: int, number: str | None = None) -> Standstill | None:
        """Return why parts are refused now; None: they are not.

        The parts are those of a product or entry, or only the part with the number `number`. Room in the
        queue and time until a deadline are not checked.
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
            StoreError, NoModelError, NotReadyError: No part of the product, or of this number, is judged.
            BusyError: There is no room.
            LateError: It cannot be judged in time.
        """
        self.check_standstill(product_id, number)
        self._check_room(product_id, due, count=1, byte_count=0)

    def _check_room(self, product_id: int, due: float, count: int, byte_count: int) -> None:
        """Raise BusyError if there is no place for parts that come together, LateError if there is no time.

        Args:
            product_id: Number of the product or entry.
            due: Deadline of the parts, as `time.monotonic` counts.
            count: Number of parts.
            byte_count: Bytes of their pictures.
        """
        with self.changed:
            # a request that comes while no part is held is never too large here; uploads have their own limit
            holds_pictures = self._bytes > 0
            is_too_large = self._bytes + byte_count > MAX_UPLOADS_HELD * self.limits.upload
            if self.is_ending or (holds_pictures and is_too_large) or self._is_full(product_id, count):
                raise BusyError(self._retry_seconds())
            self._check_time(product_id, due)

    def _is_full(self, product_id: int, count: int) -> bool:
        """Return whether `count` more parts would take places that are reserved for other products."""
        # `_products` has numbers by name: those of the products, and those of the entries; `list` copies them
        # at once, because another thread may change them
        product_ids = [number for numbers in self._products for number in list(numbers.values())]
        # half of all places are divided among the products
        share = self.limits.queue // (2 * len(product_ids)) if len(product_ids) > 1 else 0
        other_products = [number for number in product_ids if number != product_id]
        # places that other products have not taken yet of their shares
        reserved = sum(max(0, share - self._counts[number]) for number in other_products)
        return self._counts.total() + count + reserved > self.limits.queue

    def _check_time(self, product_id: int, due: float) -> None:
        """Raise LateError where a part cannot be judged before its deadline."""
        if due == math.inf:  # there is no deadline
            return
        delay = self._judge.expected_delay(product_id, self._counts)
        seconds_left = max(0.0, due - time.monotonic())
        if seconds_left <= delay:
            self.note_late(product_id)
            raise LateError(f"it would take {delay:.1f} s, and {seconds_left:.1f} s are left")

    def _retry_seconds(self) -> float:
        """Estimate the seconds until half of the queue is done, from the last minute's rate: 1 to 60."""
        parts_per_second = sum(map(self.rate, list(self._answer_times))) or 1.0
        return min(60.0, max(1.0, self.backlog() / 2 / parts_per_second))

    # ---- places

    def take(
        self, parts: Sequence[Part], on_end: Callable[[Ticket, Outcome], object]
    ) -> tuple[list[Waiter], list[Ticket]]:
        """Give a place to each part of a request, or to none of them.

        Args:
            parts: Parts of a request.
            on_end: Called at the end of each ticket, as in `Ticket`.

        Returns:
            The waiter of each part, and the tickets of the new parts. If a part with the same key is under
            way, the part joins its ticket, and is not new.

        Raises:
            InputError: The pictures are not all views of a part.
            KeyUsedError: Another request under the same key is not answered yet.
            FlawscopeError: Errors of `check`.
        """
        self.machine.check_room(self.limits.upload)
        for product_id in {part.product_id for part in parts}:
            self._check_model(product_id)
        parts = [self._judge.parts.named(part) for part in parts]
        new_tickets: list[Ticket] = []
        with self.changed:
            if self.is_ending:
                raise BusyError(self._retry_seconds())
            self._check_keys(parts)
            new_parts = [part for part in parts if (part.product_id, part.key or "") not in self._by_key]
            self._check_new_parts(new_parts)
            waiters = []
            for part in parts:
                waiter = self._join(part)
                if waiter is None:
                    waiter = self._place(part, on_end, new_tickets)  # appends to `new_tickets`
                waiters.append(waiter)
        return waiters, new_tickets

    def _check_new_parts(self, parts: Sequence[Part]) -> None:
        """Raise an error where interlocks, room or time refuse these parts, which came together."""
        byte_count = sum(part.size for part in parts)
        for part in parts:
            self.interlocks.check(part.product_id, part.number)
            self._check_room(part.product_id, part.due, count=len(parts), byte_count=byte_count)

    def _check_keys(self, parts: Sequence[Part]) -> None:
        """Raise KeyUsedError if a part's key belongs to another request that is not answered yet."""
        for ticket in self._by_key.values():
            for part in parts:
                if part.product_id == ticket.part.product_id and _is_other_request(part, ticket.part):
                    raise KeyUsedError(UNANSWERED_REQUEST)

    def _join(self, part: Part) -> Waiter | None:
        """Return a further waiter for the part under way with the same key; None: there is none."""
        ticket = self._by_key.get((part.product_id, part.key)) if part.key else None
        return None if ticket is None else ticket.join(part.due)

    def _place(
        self, part: Part, on_end: Callable[[Ticket, Outcome], object], new_tickets: list[Ticket]
    ) -> Waiter:
        """Give a part a place: append its ticket to `new_tickets`, and return its first waiter."""
        ticket = Ticket(part, self._next_moment(), on_end)
        waiter = ticket.join(part.due)
        assert waiter is not None, "it has just begun"
        self._tickets[ticket] = None
        self._bytes += ticket.size
        self._counts[part.product_id] += 1
        if part.key:
            self._by_key[part.product_id, part.key] = ticket
        new_tickets.append(ticket)
        return waiter

    def _next_moment(self) -> int:
        """Return the present time, microseconds since 1970, or a later time that no other part has.

        Moment, product and picture identify a part.
        """
        moment = now()
        microseconds_ahead = self._last_moment - moment
        # if the last moment is ahead by `BURST` or more, the clock was set back: then the clock is right
        if 0 <= microseconds_ahead < BURST:
            moment = self._last_moment + 1
        self._last_moment = moment
        return moment

    def release(self, ticket: Ticket) -> bool:
        """Give back the place of a part; return False where the part has no place any more."""
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
        earliest = time.monotonic() - seconds
        late_times = list(self._late_times.items())
        return [product_id for product_id, late_time in late_times if late_time >= earliest]

    def rate(self, product_id: int) -> float:
        """Return the parts a second that were answered in the last minute."""
        earliest = time.monotonic() - RATE_SECONDS
        with self.changed:
            answer_times = self._answer_times.get(product_id, ())
            return sum(answer_time >= earliest for answer_time in answer_times) / RATE_SECONDS


def _is_other_request(part: Part, under_way: Part) -> bool:
    """Return whether a part came by another request than the part under way, under the same key."""
    if part.request is None or under_way.request is None:
        return False
    return part.request.key == under_way.request.key and part.request != under_way.request
