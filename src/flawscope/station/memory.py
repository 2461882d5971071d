"""So that a process runs for months: what is free goes back to the system, and errors hold no pictures."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TypeVar

E = TypeVar("E", bound=BaseException)

MIB = 1 << 20
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
    # fixed, they do not grow with what was freed; smaller ones cost time, for the system clears what it gives
    wanted = {_ARENA_MAX: 2, _MMAP_THRESHOLD: 16 * MIB, _TRIM_THRESHOLD: 32 * MIB}
    return all(libc.mallopt(name, value) for name, value in wanted.items())


def light(error: E) -> E:
    """The error without the frames that it came through, to be kept: they hold the picture, and often what
    holds the error, and Python looks for such circles only now and then, thousands of pictures later."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
