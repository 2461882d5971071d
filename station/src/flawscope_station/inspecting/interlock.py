"""Interlocks hold the answers of a station back, though it could inspect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flawscope_station.inspecting.picture import Picture
from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import RefusalError

RETRY_SECONDS = 10.0  # after which a picture that was held back may be sent again


class NotReadyError(RefusalError):
    """An interlock holds: the picture was not taken, or is not answered. The same picture may be sent again,
    and pictures of other parts may be taken meanwhile.

    Attributes:
        seconds: after which it may be sent again.
    """

    code, seconds = "not_ready", RETRY_SECONDS


class FrozenError(NotReadyError):
    """A sender's camera repeats a picture: it is not answered, also not when it is sent again."""

    code = "camera_frozen"


class NotProductionError(RefusalError):
    """The picture was judged for an interlock and recorded with another purpose than production: its decision
    is not answered. It is done with, and not sent again."""

    status, code = 409, "not_production"


class Interlock(Protocol):
    """Holds answers back. Called from any thread, also with locks of the inspector held."""

    def check(self, product_id: int, part: str | None) -> None:
        """Raise NotReadyError where a picture of this product or entry, of this part, may not be taken now.
        Waits for nothing."""

    def release(self, picture: Picture, record: NewInspection) -> NewInspection:
        """Return a judged picture as it is to be recorded, maybe with another purpose than production; raise
        NotReadyError where it may not be."""

    def recorded(self, several: Sequence[RecordedInspection]) -> None:
        """Raise NotProductionError in the place of the answer to a picture, or to the views of a part, which
        were recorded with another purpose than production."""


class Interlocks(list[Interlock]):
    """Interlocks of a station: each may hold a picture back."""

    def check(self, product_id: int, part: str | None) -> None:
        for interlock in self:
            interlock.check(product_id, part)

    def release(self, picture: Picture, record: NewInspection) -> NewInspection:
        for interlock in self:
            record = interlock.release(picture, record)
        return record

    def recorded(self, several: Sequence[RecordedInspection]) -> None:
        for interlock in self:
            interlock.recorded(several)
