"""Pictures that go along with a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flawscope.station.database import StoreError
from flawscope.station.shown import Shown
from flawscope.station.sinks.outbox import Message
from flawscope.station.store import NotFoundError

T = TypeVar("T")

SIDE = 1280  # pixels of the longer side


class Pictures:
    """None where there is no picture, or nothing was found on it: `missing` says why."""

    def __init__(self, shown: Shown):
        self.shown = shown

    def original(self, message: Message) -> tuple[bytes, str] | None:
        """The file as it came, and its ending."""
        found = _there(lambda: self.shown.picture(message.product_id, message.number))
        return None if found is None else found[:2]

    def view(self, message: Message) -> bytes | None:
        """WebP."""
        return _there(lambda: self.shown.view(message.product_id, message.number, SIDE))

    def overlay(self, message: Message) -> bytes | None:
        """WebP with heat map and outlines. Of what stands out alone: maps of others are not kept, and to
        compute them again would hold up inspections."""
        if message.data["decision"] != "anomalous" and not message.data["near"]:
            return None
        return _there(lambda: self.shown.overlay(message.product_id, message.number, SIDE))


def missing(message: Message) -> str:
    """Why there is none."""
    if message.data["picture"] is None:
        return "the picture was removed, as `keep` says"
    return "nothing stands out on the picture"


def _there(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except NotFoundError:
        return None
    except StoreError as error:
        if error.code == "file_missing":
            return None
        raise
