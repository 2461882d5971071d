"""Refusals: pictures and triggers that were not judged.

Each refusal has a code for programs, is counted, and is sent to the open pages of its product, where it
replaces the decision on an earlier part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from flawscope_station.core.error_status import status_and_code
from flawscope_station.core.event_broadcaster import EventBroadcaster
from flawscope_station.inspecting.interlock import NotProductionError
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.database import now
from flawscope_station.store.records import iso

REFUSAL_EVENT = "refusal"  # kind of a message on the live stream


class Refusal(TypedDict):
    """Refusal as the pages show it.

    Attributes:
        at: Time in ISO 8601.
        code: Code for programs.
        part: Number of the part; None: not known.
        picture: Name of the picture at the sender; None: not known.
        product: Name of the product.
    """

    at: str
    code: str
    part: str | None
    picture: str | None
    product: str


class Refusals:
    """Refusals of a station's products.

    Attributes:
        on_refused: Functions that get the name of a product and a code.
        since: Microseconds since 1970 from which on refusals are known.
    """

    def __init__(self, addresses: Addresses, live: EventBroadcaster):
        self.addresses = addresses
        self.live = live
        self.since = now()
        self.on_refused: list[Callable[[str, str], object]] = []
        self._last: dict[int, Refusal] = {}  # by product

    def note(
        self,
        name: str,
        error: BaseException,
        part: str | None = None,
        code: str = "",
        *,
        picture: str | None = None,
    ) -> str:
        """Note that a picture or trigger was refused, and return its code.

        Args:
            name: Name of the product, or of an entry that finds it: then the refusal counts for each of the
                entry's products.
            error: Reason of the refusal.
            part: Number of the part; None: not known.
            code: Code of the refusal; "": the code of the error.
            picture: Name of the picture at the sender; None: not known.
        """
        if not code:
            _, code = status_and_code(error)
        is_registered = name in self.addresses
        for on_refused in self.on_refused:
            on_refused(name if is_registered else "", code)  # "": the name is unknown
        is_challenge_part = isinstance(error, NotProductionError)  # it is no part of the line
        if not is_registered or is_challenge_part:
            return code
        # The settings of a product stand under its own name, or under the name of the entry that finds it.
        has_own_settings = self.addresses.configured_name(name) == name
        for product, product_id in list(self.addresses.products.items()):
            is_found_by_entry = has_own_settings and self.addresses.configured_name(product) == name
            if product == name or is_found_by_entry:
                refusal: Refusal = {
                    "at": iso(now()),
                    "code": code,
                    "part": part,
                    "picture": picture or None,
                    "product": product,
                }
                self._last[product_id] = refusal
                self.live.publish(product_id, refusal, REFUSAL_EVENT)
        return code

    def last(self, product_id: int) -> Refusal | None:
        """Return a product's last refusal since the start, as the pages show it; None: there was none."""
        return self._last.get(product_id)
