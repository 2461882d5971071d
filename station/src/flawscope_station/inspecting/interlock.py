"""Interlocks hold the answers of a station back, though it could inspect."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import RefusalError
from flawscope_station.store.purposes import TRIAL

RETRY_SECONDS = 10.0  # after which a picture that was held back may be sent again


class NotReadyError(RefusalError):
    """An interlock holds: the part was not taken, or is not answered.

    The same part may be sent again, and others may be taken meanwhile.

    Attributes:
        seconds: after which it may be sent again.
    """

    code, seconds = "not_ready", RETRY_SECONDS


class FrozenError(NotReadyError):
    """A sender's camera repeats a picture: it is not answered, also not when it is sent again."""

    code = "camera_frozen"


PAUSED = "paused"  # code of the refusal, and kind of the standstill


class PausedError(NotReadyError):
    """A person paused the product, which is no fault: nobody is told of a problem."""

    code = PAUSED


class NotProductionError(RefusalError):
    """The part was judged for an interlock and recorded with another purpose than production: its decision is
    not answered. It is done with, and not sent again.
    """

    status, code = 409, "not_production"


class Interlock(Protocol):
    """Holds answers back. Called from any thread, also with locks of the inspector held."""

    @property
    def products(self) -> Container[int]:
        """Numbers of the products of which it may hold parts back at the moment; of others it is not
        asked.
        """

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        """Return a judged part as it is to be recorded, maybe with another purpose than production; raise
        NotReadyError where it may not be.
        """

    def recorded(self, found: RecordedInspection) -> None:
        """Raise NotProductionError in the place of the answer to a part that was recorded with another
        purpose than production.
        """


class Gate(Protocol):
    """Knows before a part is taken that it may not be. Waits for nothing."""

    @property
    def products(self) -> Container[int]:
        """Numbers of the products and entries of which it may refuse parts at the moment."""

    def check(self, product_id: int, number: str | None) -> None:
        """Raise NotReadyError where a part of this product or entry, of this number, may not be taken now."""


class Interlocks:
    """Interlocks of a station: each may hold a part back, before it is taken or before it is answered."""

    def __init__(self) -> None:
        self._answers: list[Interlock] = []
        self._intake: list[Gate] = []

    def add(self, *, answers: Sequence[Interlock] = (), intake: Sequence[Gate] = ()) -> None:
        """Ask further interlocks from now on, after the earlier ones.

        Args:
            answers: before a judged part is recorded and answered.
            intake: before a part is taken.
        """
        self._answers += answers
        self._intake += intake

    def check(self, product_id: int, number: str | None) -> None:
        for gate in self._intake:
            if product_id in gate.products:
                gate.check(product_id, number)

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        if part.purpose == TRIAL:  # no part of the line waits for it, and it shows nothing of its camera
            return record
        for interlock in self._answers:
            if record.product_id in interlock.products:
                record = interlock.release(part, record)
        return record

    def recorded(self, found: RecordedInspection) -> None:
        for interlock in self._answers:
            interlock.recorded(found)
