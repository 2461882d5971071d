"""Pictures that go along with a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flawscope.station.inspecting.renderings import Shown
from flawscope.station.sinks.outbox import Message
from flawscope.station.store.database import StoreError
from flawscope.station.store.records import NotFoundError

T = TypeVar("T")

SIDE = 1280  # pixels of the longer side


class Pictures:
    """None where there is no picture, or nothing was found on it: `lack` says why."""

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
        if not _stands_out(message):
            return None
        return _there(lambda: self.shown.overlay(message.product_id, message.number, SIDE))


def lack(message: Message, found: dict[str, Any]) -> dict[str, Any]:
    """What a message says of pictures that do not go along: nothing where all of them do.

    Args:
        found: picture and overlay, as far as they are wanted; None: there is none.
    """
    if None not in found.values():
        return {}
    if ("picture" in found and found["picture"] is None) or _stands_out(message):
        return {"picture": None, "missing": "the picture was removed, as `keep` says"}
    return {"missing": "nothing stands out on the picture"}


def _stands_out(message: Message) -> bool:
    return message.data["decision"] == "anomalous" or bool(message.data["near"])


def _there(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except NotFoundError:
        return None
    except StoreError as error:
        if error.code == "file_missing":
            return None
        raise
