"""Interlocks: they hold the answers of a station back, though it could inspect."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import RefusalError
from flawscope_station.store.purposes import TRIAL

RETRY_SECONDS = 10.0  # time after which a picture that was held back may be sent again


class NotReadyError(RefusalError):
    """An interlock holds the part back: it was not taken, or is not answered.

    The same part may be sent again, and other parts may be taken meanwhile.

    Attributes:
        seconds: Seconds after which the part may be sent again.
    """

    code = "not_ready"
    seconds = RETRY_SECONDS


class FrozenError(NotReadyError):
    """A sender's camera repeats a picture: the part is not answered, even if it is sent again."""

    code = "camera_frozen"


PAUSED = "paused"  # code of the refusal, and kind of the standstill


class PausedError(NotReadyError):
    """A person paused the product; no problem is reported."""

    code = PAUSED


class NotProductionError(RefusalError):
    """The part was judged for an interlock, and recorded with another purpose than production.

    The sender does not get the decision, and must not send the part again.
    """

    status = 409
    code = "not_production"


class Interlock(Protocol):
    """Holds answers back. It is called from any thread, also while the inspector holds its locks."""

    @property
    def products(self) -> Container[int]:
        """Numbers of the products whose parts it may hold back now; it is not asked about other products."""

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        """Return a judged part as it is to be recorded, perhaps with another purpose than production.

        Raises:
            NotReadyError: It may not be recorded.
        """

    def recorded(self, inspection: RecordedInspection) -> None:
        """Raise NotProductionError as the answer to a part recorded with another purpose than production."""


class Gate(Protocol):
    """Refuses parts before they are taken. Its check returns at once."""

    @property
    def products(self) -> Container[int]:
        """Numbers of the products and entries whose parts it may refuse now."""

    def check(self, product_id: int, number: str | None) -> None:
        """Raise NotReadyError where the part with this number may not be taken now."""


class Interlocks:
    """Interlocks of a station: each may hold a part back, before it is taken or before it is answered."""

    def __init__(self) -> None:
        self._answer_interlocks: list[Interlock] = []
        self._intake_gates: list[Gate] = []

    def add(self, *, answers: Sequence[Interlock] = (), intake: Sequence[Gate] = ()) -> None:
        """Add interlocks, which are asked after the earlier ones.

        Args:
            answers: Asked before a judged part is recorded and answered.
            intake: Asked before a part is taken.
        """
        self._answer_interlocks += answers
        self._intake_gates += intake

    def check(self, product_id: int, number: str | None) -> None:
        """Raise NotReadyError where a part of this product or entry may not be taken now."""
        for gate in self._intake_gates:
            if product_id in gate.products:
                gate.check(product_id, number)

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        """Return a judged part as it is to be recorded; raise NotReadyError where an interlock holds it back.

        A trial always passes: the line does not wait for it, and its pictures say nothing about the line's
        camera.
        """
        if part.purpose == TRIAL:
            return record
        for interlock in self._answer_interlocks:
            if record.product_id in interlock.products:
                record = interlock.release(part, record)
        return record

    def recorded(self, inspection: RecordedInspection) -> None:
        """Raise NotProductionError where an interlock keeps the recorded decision from the sender."""
        for interlock in self._answer_interlocks:
            interlock.recorded(inspection)
