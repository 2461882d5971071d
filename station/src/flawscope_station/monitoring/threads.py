"""Threads of a station as its engineers see them: what each of them waits for."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterable
from typing import TypedDict

from flawscope_station.monitoring.background import GuardedThread


class ThreadFacts(TypedDict):
    """State of a thread.

    Attributes:
        name: Name of the thread.
        inspects: Whether pictures cannot be inspected without it.
        state: `running`, `failed` or `hangs`.
        failure: Why its work ended last; None: it never did.
        calling_seconds: Seconds since the thread began its present call or job, which should end soon; None:
            it has none.
    """

    name: str
    inspects: bool
    state: str
    failure: str | None
    calling_seconds: float | None


class ThreadStack(TypedDict):
    """Calls that a thread is in, the innermost last."""

    name: str
    stack: list[str]


def describe_threads(threads: Iterable[tuple[GuardedThread, bool]]) -> list[ThreadFacts]:
    """Return the state of threads, each with whether pictures cannot be inspected without it."""
    return [_describe(thread, is_inspecting) for thread, is_inspecting in threads]


def _describe(thread: GuardedThread, is_inspecting: bool) -> ThreadFacts:
    state = "running"
    if thread.is_down:
        state = "failed"
    if thread.is_stuck:
        state = "hangs"
    since = thread.calling_since
    return {
        "name": thread.name,
        "inspects": is_inspecting,
        "state": state,
        "failure": thread.failure,
        "calling_seconds": None if since is None else round(max(0.0, time.monotonic() - since), 3),
    }


def thread_stacks() -> list[ThreadStack]:
    """Return the present calls of each thread of the process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks: list[ThreadStack] = []
    for thread_id, frame in sys._current_frames().items():
        lines = [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in traceback.extract_stack(frame)]
        stacks.append({"name": names.get(thread_id, "thread of a library"), "stack": lines})
    return stacks
