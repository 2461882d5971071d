"""What names a request, and what names a part.

A sender's key names a request: the same one gets the same answer however often it is sent, and another one
under its key is refused. Number and batch name a part, which may be inspected many times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from flawscope.errors import InputError

SENT = "http:"  # what keys of senders begin with in the store
MOST_FILES = 100  # of a form
UNANSWERED = "request, which is not answered yet"
MOST_LABEL = 100  # characters of a part's number, and of a batch


class KeyUsedError(InputError):
    """A request under a key that names another one."""

    def __init__(self, use: str):
        super().__init__(
            f"this Idempotency-Key was used for another {use}: send a new request under a new key, and the "
            "number of a part as `part`"
        )


class Label(NamedTuple):
    """Of which part a picture is, as its sender calls it: a number, and the batch that it belongs to."""

    part: str | None = None
    batch: str | None = None


def labelled(part: str | None, batch: str | None) -> Label:
    """As it is kept; empty ones are None. InputError where one is too long or cannot be printed."""
    found = Label(*((text or "").strip() or None for text in (part, batch)))
    for name, text in found._asdict().items():
        if text and (len(text) > MOST_LABEL or not text.isprintable()):
            raise InputError(f"{name}={text!r:.60} has not 1 to {MOST_LABEL} characters that can be printed")
    return found


@dataclass(frozen=True)
class Request:
    """What came under a key.

    key: the sender's. hash: SHA-256 of all that was sent. pictures: SHA-256 of each file; none of a trigger.
    """

    key: str
    hash: str
    pictures: tuple[str, ...] = ()
    is_form: bool = False

    def key_of(self, place: int) -> str:
        """Of the picture at this place, as the store has it: no key of a sender looks like that of a form."""
        return f"http/{place}:{self.key}" if self.is_form else f"{SENT}{self.key}"

    def possible_keys(self) -> list[str]:
        """Under which any request with its key may have been recorded."""
        form, places = replace(self, is_form=True), MOST_FILES if self.is_form else 1
        return [replace(self, is_form=False).key_of(0), *map(form.key_of, range(places))]

    def is_of(self, row: Any) -> bool:
        """Whether an inspection that was recorded under the key came from this request."""
        if row.request_hash is not None:
            return bool(row.request_hash == self.hash)
        # of a version that kept no hashes of requests, and a form's keys elsewhere
        same = row.picture in self.pictures if self.pictures else row.source == "camera"
        return bool(same) and not self.is_form


def uploaded(key: str, files: Sequence[bytes], is_form: bool, label: Label) -> Request:
    """A request that brings pictures."""
    pictures = tuple(hashlib.sha256(data).hexdigest() for data in files)
    return Request(key, _hash("form" if is_form else "file", *label, *pictures), pictures, is_form)


def triggered(key: str, camera: int | None, label: Label) -> Request:
    """A request that takes a frame."""
    return Request(key, _hash("trigger", None if camera is None else str(camera), *label))


def _hash(*said: str | None) -> str:
    return hashlib.sha256("\0".join(text or "" for text in said).encode()).hexdigest()
