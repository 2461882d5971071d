"""Memory for decoding pictures, and turns for work that people wait for. `intake` gives parts places."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from flawscope import machine
from flawscope.pictures import decoding
from flawscope_station.store.inspection import RefusalError

E = TypeVar("E", bound=BaseException)

MIB = 1 << 20
MEMORY_TIMEOUT = 5.0  # seconds that `MemoryBudget.hold` waits
LOOK_INTERVAL = 0.5  # seconds between two looks at whether memory is still wanted
LARGE_PIXELS = 8_000_000  # pixels; smaller pictures are decoded as they come, a few at a time
# numbers of malloc.h
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8


def limit_malloc() -> bool:
    """Let glibc keep little free memory; return False without glibc, or where the environment configures it.

    By default glibc has up to eight heaps for each core. Each heap keeps up to 64 MiB after a large picture
    was decoded in it. Every decoding thread adds its share, so that memory grows for days.

    Call this function before threads are started.
    """
    is_configured = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    if sys.platform != "linux" or is_configured:
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    # A threshold that is set does not grow with freed blocks, as the default does. With these two thresholds,
    # Pillow's blocks of a large picture, a little less than 16 MiB, go back at once. Smaller thresholds would
    # cost time for clearing memory.
    value_by_option = {_ARENA_MAX: 2, _MMAP_THRESHOLD: 12 * MIB, _TRIM_THRESHOLD: 32 * MIB}
    return all(libc.mallopt(name, value) for name, value in value_by_option.items())


class BusyError(RefusalError):
    """The queue or the memory is full: nothing was taken.

    Attributes:
        seconds: Time until there should be room.
    """

    code = "busy"

    def __init__(self, seconds: float, why: str = "the queue is full"):
        super().__init__(f"{why}; try again in {seconds:.0f} s")
        self.seconds = seconds


class MemoryBudget:
    """Bytes for decoding large pictures, all together.

    A caller claims all bytes that it needs at once, and holds none while it waits. Callers are served in the
    order in which they came. A picture that needs more than `most` bytes is decoded alone.

    Args:
        most: Bytes of all pictures together.
        turns: Turns of callers that decode pictures for people.

    Attributes:
        limit: Most bytes of all pictures together.
        used: Bytes that are claimed.
        turns: Turns of callers that decode pictures for people.
    """

    def __init__(self, most: int, turns: Turns | None = None):
        self.limit = most
        self.used = 0
        self.turns = turns or Turns()
        self._claims: deque[object] = deque()  # claims of the waiting callers, the oldest first
        self._changed = threading.Condition()

    def acquire(
        self, count: int, seconds: float = math.inf, is_over: Callable[[], bool] = lambda: False
    ) -> bool:
        """Wait for memory and claim it; `release` gives it back.

        Args:
            count: Number of bytes.
            seconds: Longest wait.
            is_over: Returns whether the memory is not wanted any more.

        Returns:
            Whether the memory is claimed; False where there was none in time, or `is_over` returned True.
        """
        claim = object()
        deadline = time.monotonic() + seconds
        with self._changed:
            self._claims.append(claim)
            try:
                # wait until this claim is the first, and there is room; a claim above the limit has room when
                # nothing else is claimed
                while self._claims[0] is not claim or self.used + count > max(self.limit, count):
                    seconds_left = deadline - time.monotonic()
                    if seconds_left <= 0 or is_over():
                        return False
                    self._changed.wait(min(seconds_left, LOOK_INTERVAL))
                self.used += count
                return True
            finally:
                self._claims.remove(claim)
                self._changed.notify_all()

    def release(self, count: int) -> None:
        """Give back claimed bytes."""
        with self._changed:
            self.used -= count
            self._changed.notify_all()

    @contextmanager
    def hold(self, data: bytes, name: str, seconds: float = MEMORY_TIMEOUT) -> Iterator[None]:
        """Hold the memory to decode a picture; a small picture needs none.

        Raises:
            BusyError: There is no memory in time.
        """
        byte_count = decoding_bytes(decoding.read_picture_header(data, name))
        if not byte_count:
            yield
            return
        if not self.acquire(byte_count, seconds):
            raise BusyError(MEMORY_TIMEOUT, "other large pictures are being decoded")
        try:
            yield
        finally:
            self.release(byte_count)


# ------------------------------------------------------------------------------------- what people look at

MAX_WAITING = 24  # requests that may wait for a turn; each blocks one of the server's 40 threads for people
TURN_TIMEOUT = 30.0  # seconds to wait for a turn
YIELD_SECONDS = 0.25  # seconds for which a turn waits until all pictures are answered


class Turns:
    """Turns for drawing, decoding and counting for people, which take few cores from inspections.

    A turn begins when all pictures of the line are answered, but waits `YIELD_SECONDS` for that at most:
    people see something even if the line never rests.

    Args:
        most: Most turns at the same time; None: one for every four cores.
        most_waiting: Callers that may wait for a turn; further ones are refused at once.
        wait_idle: Function that waits until all pictures are answered, at most for the seconds that it gets.
    """

    def __init__(
        self,
        most: int | None = None,
        most_waiting: int = MAX_WAITING,
        wait_idle: Callable[[float], object] = lambda seconds: None,
    ):
        self.most = most or max(1, machine.usable_cores() // 4)
        self.most_waiting = most_waiting
        self.wait_idle = wait_idle
        self._taken_count = 0
        self._waiting_count = 0
        self._changed = threading.Condition()

    @contextmanager
    def take(self, *, patient: bool = False) -> Iterator[None]:
        """Hold a turn while the block runs.

        Args:
            patient: Wait without a limit of time, however many others wait.

        Raises:
            BusyError: Too many wait, or no turn comes in time.
        """
        with self._changed:
            if not patient and self._waiting_count >= self.most_waiting:
                raise BusyError(1.0, "too many wait to see something")
            self._waiting_count += 1
            try:
                timeout = None if patient else TURN_TIMEOUT
                if not self._changed.wait_for(lambda: self._taken_count < self.most, timeout):
                    raise BusyError(1.0, "the pictures of the line go first")
                self._taken_count += 1
            finally:
                self._waiting_count -= 1
        try:
            self.wait_idle(YIELD_SECONDS)  # the pictures of the line go first
            yield
        finally:
            with self._changed:
                self._taken_count -= 1
                self._changed.notify()


def decoding_bytes(picture: decoding.Header) -> int:
    """Return the bytes needed to decode a picture, if it is large; else 0."""
    return picture.memory if picture.height * picture.width > LARGE_PIXELS else 0


def without_traceback(error: E) -> E:
    """Drop the error's frames and causes, and return the error, which may then be kept.

    Frames hold the picture, and often the object that keeps the error. Python frees such circles only now
    and then, thousands of pictures later.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
