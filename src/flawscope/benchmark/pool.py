"""Calls of functions in processes of this machine, a new one for each, which may be killed at any time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from flawscope.errors import FlawscopeError, with_kind

SPAWN = multiprocessing.get_context("spawn")


class Pool(Protocol):
    """Processes, here or on a cluster. most: how many calls are begun before one has ended."""

    most: int

    def start(self, label: str, function: Callable[..., Any], *given: Any) -> None:
        """Have `function(*given, tell)` called. `tell` takes words such as "features 3 of 10"."""

    def ended(self, seconds: float) -> list[tuple[str, Any]]:
        """Wait so long for calls that have ended: their labels, each with the function's value, or with a
        FlawscopeError that says why there is none."""

    def stop(self) -> None:
        """End all calls."""


class Processes:
    """Processes of this machine; they end with this one, however it ends.

    Args:
        most: how many run at a time.
        threads: of each.
        tell: gets a label and where its call is.
    """

    def __init__(self, most: int, threads: int, tell: Callable[[str, str], None]):
        self.most, self.threads, self.tell = most, threads, tell
        self.running: dict[Connection, tuple[str, BaseProcess]] = {}
        self.refused: list[tuple[str, Any]] = []  # calls that no process could be started for

    def start(self, label: str, function: Callable[..., Any], *given: Any) -> None:
        ours, theirs = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=_call, args=(theirs, function, given), name=label)
        try:
            with _started_for(self.threads):
                process.start()
        except OSError as error:  # such as too little memory
            text = f"its process could not be run: {error.strerror or error}; try again"
            self.refused.append((label, FlawscopeError(text)))
            return
        theirs.close()
        self.running[ours] = label, process
        self.tell(label, "starts")

    def ended(self, seconds: float) -> list[tuple[str, Any]]:
        found, self.refused = self.refused, []
        for connection in wait([*self.running], 0 if found else seconds):
            assert isinstance(connection, Connection)
            label, process = self.running[connection]
            try:
                is_over, news = connection.recv()
            except (EOFError, OSError):
                process.join()
                is_over, news = True, FlawscopeError(_why(process.exitcode or 0))
            if is_over:
                del self.running[connection]
                process.join()
                found.append((label, news))
            else:
                self.tell(label, news)
        return found

    def stop(self) -> None:
        for _, process in self.running.values():
            process.kill()
        for _, process in self.running.values():
            process.join()


@contextmanager
def _started_for(threads: int) -> Iterator[None]:
    """Let a process inherit the number of threads, and no Ctrl-C, which comes to this process alone."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    masks = hasattr(signal, "pthread_sigmask")  # Windows has none
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else None
    try:
        yield
    finally:
        if kept is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, kept)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _call(connection: Connection, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    """In the process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    found: Any
    try:
        found = function(*given, lambda text: connection.send((False, text)))
    except FlawscopeError as error:
        found = FlawscopeError(str(error))
    except MemoryError:
        found = FlawscopeError("not enough memory: choose fewer --jobs or a smaller size")
    except Exception as error:
        traceback.print_exc()
        found = FlawscopeError(f"unexpected {with_kind(error)}")
    with suppress(OSError):  # nobody waits any more
        connection.send((True, found))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _why(code: int) -> str:
    """Why a process ended without a word."""
    if code == -9:
        return (
            "its process was killed, as systems do when memory runs out: give fewer --jobs or a smaller size"
        )
    if code < 0:
        return f"its process was ended by signal {signal.Signals(-code).name}: try again"
    return f"its process ended with code {code}: look into its log"
