"""Pauses: a person wants nothing of a product inspected for a while, such as on a line that is set up.

A paused product is no fault: its senders are refused with a code, a PLC sees it as not ready, and the station
counts as ready all the same. A pause is kept in the audit: the latest event of a product shows whether it is
paused, also after a start.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ScalarSelect, func, select

from flawscope_station.core.metrics import Gauges
from flawscope_station.inspecting.interlock import PausedError
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.store.database import now
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.records import PAUSED_EVENT, RESUMED_EVENT, Store, iso
from flawscope_station.store.schema import events, products


@dataclass(frozen=True)
class Pause:
    """Pause of a product.

    Attributes:
        by: Name of the person who paused the product.
        at: Time of the pause, microseconds since 1970.
        reason: Reason in that person's words.
    """

    by: str
    at: int
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Return the pause as the API shows it."""
        return {"by": self.by, "at": iso(self.at), "reason": self.reason}


class Pauses:
    """Interlock of the products that are paused.

    Args:
        store: Records of the station.
        names: Names of all products by number; products may be added.

    Attributes:
        products: Pauses of the paused products, by number.
    """

    def __init__(self, store: Store, names: Mapping[int, str]):
        self.store = store
        self.names = names
        self.products: dict[int, Pause] = {}
        self._lock = threading.Lock()  # held for changes; readers need no lock
        self._load()

    def _load(self) -> None:
        """Read the pauses from the events: a product is paused if it was paused after its last resumption."""
        pause_number = _latest_event(PAUSED_EVENT)
        resumption_number = _latest_event(RESUMED_EVENT)
        query = select(pause_number.label("paused"), resumption_number.label("resumed")).select_from(products)
        rows = self.store.database.rows(query)
        # the later of two events has the greater number
        pause_numbers = [row.paused for row in rows if (row.paused or 0) > (row.resumed or 0)]
        for row in self.store.database.rows(select(events).where(events.c.id.in_(pause_numbers))):
            self.products[row.product_id] = Pause(row.who, row.at, row.text)

    def of(self, product_id: int) -> Pause | None:
        """Return the pause of a product; None: it is not paused."""
        return self.products.get(product_id)

    def pause(self, product_id: int, who: str, reason: str) -> None:
        """Take no parts of a product until `resume`.

        Raises:
            StoreError: The event cannot be recorded; the product is not paused.
        """
        with self._lock:
            self.store.note_event(PAUSED_EVENT, who, reason, product_id)
            self.products[product_id] = Pause(who, now(), reason)

    def resume(self, product_id: int, who: str) -> None:
        """Take parts of a product again.

        Raises:
            StoreError: The event cannot be recorded; the product stays paused.
        """
        with self._lock:
            if product_id in self.products:
                self.store.note_event(RESUMED_EVENT, who, "", product_id)
                del self.products[product_id]

    def gauges(self) -> Gauges:
        """Return a metric of the paused products."""
        values = {self.names[number]: 1.0 for number in list(self.products) if number in self.names}
        return {"paused": ("1 where a person paused the product.", values)}

    # ---- interlock

    def check(self, product_id: int, number: str | None) -> None:
        """Raise PausedError where the product is paused."""
        pause = self.products.get(product_id)
        if pause is not None:
            raise PausedError(f"{self.names[product_id]} was paused by {pause.by}: send it when it goes on")

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        """Return the record unchanged: a part that was taken before the pause is answered.

        Raises:
            PausedError: A joint model found the part's product, and that product is paused.
        """
        if record.product_id != part.product_id:
            self.check(record.product_id, record.part)
        return record

    def recorded(self, inspection: RecordedInspection) -> None:
        """Hold nothing back: each recorded part is answered."""


def _latest_event(kind: str) -> ScalarSelect[int]:
    """Return a subquery of the latest event's number, of a kind and of the product in the outer query."""
    query = select(func.max(events.c.id)).where(events.c.product_id == products.c.id, events.c.kind == kind)
    return query.scalar_subquery()
