"""So that a process runs for months: what is free goes back to the system, and errors hold no pictures."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from flawscope.errors import FlawscopeError
from flawscope.pictures.decoding import Header, header

E = TypeVar("E", bound=BaseException)

MIB = 1 << 20
PATIENCE = 5.0  # seconds for which somebody waits who wants to see a picture
LARGE = 8_000_000  # pixels; smaller ones are decoded as they come, a few at a time
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # numbers of malloc.h


def give_back() -> bool:
    """Let glibc keep little of what is free; False where there is no glibc, or its environment says how.

    By default it has up to eight heaps for each core, each of which keeps up to 64 MiB once a large picture
    was decoded there: every thread that does so adds its share, and memory grows for days. To be called
    before threads are started.
    """
    asked = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    if sys.platform != "linux" or asked:
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    # fixed, they do not grow with what was freed; smaller ones cost time, which the system needs to clear;
    # Pillow's blocks of a large picture, a little less than 16 MiB, go back at once
    wanted = {_ARENA_MAX: 2, _MMAP_THRESHOLD: 12 * MIB, _TRIM_THRESHOLD: 32 * MIB}
    return all(libc.mallopt(name, value) for name, value in wanted.items())


class BusyError(FlawscopeError):
    """There is no room: nothing was taken.

    Attributes:
        seconds: after which there should be room.
    """

    def __init__(self, seconds: float, why: str = "the queue is full"):
        super().__init__(f"{why}; try again in {seconds:.0f} s")
        self.seconds = seconds


class Memory:
    """Bytes for decoding large pictures, all together. Where too little is left a picture waits for its turn,
    in the order in which they came. One that needs more than all of it is decoded alone.

    Args:
        most: bytes.
    """

    def __init__(self, most: int):
        self.most, self.used = most, 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def take(self, count: int, seconds: float | None = None) -> bool:
        """Wait until there is room; then they are to be given back. False where there is none in so many
        seconds."""
        mine = object()
        with self._changed:
            self._waiting.append(mine)
            has_room = self._changed.wait_for(
                lambda: self._waiting[0] is mine and self.used + count <= max(self.most, count), seconds
            )
            self._waiting.remove(mine)
            self.used += count if has_room else 0
            self._changed.notify_all()
            return has_room

    def give(self, count: int) -> None:
        with self._changed:
            self.used -= count
            self._changed.notify_all()

    @contextmanager
    def hold(self, data: bytes, name: str) -> Iterator[None]:
        """While an encoded picture is decoded. Small ones do not wait. BusyError where it would take long."""
        count = large(header(data, name))
        if not count:
            yield
            return
        if not self.take(count, PATIENCE):
            raise BusyError(PATIENCE, "other large pictures are being decoded")
        try:
            yield
        finally:
            self.give(count)


def large(picture: Header) -> int:
    """The bytes that it takes to decode a picture that is large; 0: it is not."""
    return picture.memory if picture.height * picture.width > LARGE else 0


def light(error: E) -> E:
    """The error without the frames that it came through, to be kept: they hold the picture, and often what
    holds the error, and Python looks for such circles only now and then, thousands of pictures later."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
