"""Ctrl-C during what must not be cut in two: a training's step, or what is written of a picture."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def noted_interrupts(said: str = "stops after this step, and keeps it") -> Iterator[threading.Event]:
    """An event that Ctrl-C sets instead of raising KeyboardInterrupt; the second one raises it. Nothing is
    changed in other threads than the main one, and where somebody else handles Ctrl-C.

    Args:
        said: on a terminal; empty: nothing.
    """
    noted = threading.Event()

    def note(number: int, frame: object) -> None:
        if noted.is_set():
            raise KeyboardInterrupt
        noted.set()
        with suppress(OSError, ValueError):
            if said and sys.stderr.isatty():  # not by way of a stream that may be writing right now
                os.write(sys.stderr.fileno(), f"\r\x1b[K{said}\n".encode())

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
