"""Refusals: pictures and triggers that were not judged.

Each has a code for programs, is counted, and is sent to the open pages of its product, where it stands in the
place of an earlier part's decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from flawscope.errors import FlawscopeError, InputError
from flawscope.methods import options
from flawscope_station.core.live import EventBroadcaster
from flawscope_station.inspecting.interlock import NotProductionError
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.database import StoreError, now
from flawscope_station.store.records import iso

REFUSAL_EVENT = "refusal"  # on the live stream


def status_and_code(error: BaseException) -> tuple[int, str]:
    """Return the HTTP status of an error, and its code for programs."""
    if isinstance(error, options.ConflictError):
        return 422, "conflict"
    status, code = (422, "invalid") if isinstance(error, InputError) else (503, "failed")
    if isinstance(error, FlawscopeError):
        status = getattr(error, "status", status)
        code = getattr(error, "code", code)
    return status, code


def sender_text(error: BaseException) -> str:
    """Return what the sender of a request reads of its error: no names of this machine."""
    return error.sender_text if isinstance(error, StoreError) else str(error)


class Refusal(TypedDict):
    """Refusal as the pages show it.

    Attributes:
        at: Time in ISO 8601.
        code: For programs.
        part: Its number; None: not known.
        picture: Its name at the sender; None: not known.
        product: Its name.
    """

    at: str
    code: str
    part: str | None
    picture: str | None
    product: str


class Refusals:
    """Refusals of a station's products.

    Attributes:
        on_refused: functions that get the name of a product and a code.
        since: microseconds since 1970 from which on refusals are known.
    """

    def __init__(self, addresses: Addresses, live: EventBroadcaster):
        self.addresses, self.live, self.since = addresses, live, now()
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
            name: of the product, or of an entry that finds it: then each of its products hears of it.
            error: why it was refused.
            part: its number; None: not known.
            code: "": that of the error.
            picture: its name at the sender.
        """
        code = code or status_and_code(error)[1]
        is_known = name in self.addresses
        for tell in self.on_refused:
            tell(name if is_known else "", code)
        if is_known and not isinstance(error, NotProductionError):  # a challenge part is no part of the line
            entry = self.addresses.configured_name(name)
            for product, number in list(self.addresses.products.items()):
                if product == name or self.addresses.configured_name(product) == entry == name:
                    refusal: Refusal = {
                        "at": iso(now()),
                        "code": code,
                        "part": part,
                        "picture": picture or None,
                        "product": product,
                    }
                    self._last[number] = refusal
                    self.live.publish(number, refusal, REFUSAL_EVENT)
        return code

    def last(self, product_id: int) -> Refusal | None:
        """Return a product's last refusal since the start, as the pages show it; None: there was none."""
        return self._last.get(product_id)
