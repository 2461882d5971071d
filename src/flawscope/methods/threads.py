"""Work in fixed blocks, one thread a block: as fast as torch's own threads, or faster.

The result does not depend on the number of threads, because no block is ever divided among threads.

For every thread of Python, torch keeps the number of threads that its operators may use. A Python thread that
has not used torch yet gets the number that any thread set last. Threads of these pools set it to 1 when they
start; no other thread is affected.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from threading import Barrier, Lock, local
from typing import Protocol, TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


class MapBlocks(Protocol):
    """Function that calls another function for each item, for several items at a time."""

    def __call__(self, work: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """Call `work` for each item, and return its results in the items' order."""


THREAD_NAME = "flawscope"  # beginning of the names of the pools' threads
# Parameters of `mallopt`, from glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
REUSED_BYTES = 1 << 28  # largest tensor for which freed memory is used again

_lock = Lock()
_pools: dict[tuple[str, int], ThreadPoolExecutor] = {}  # by kind and number of threads
_thread_state = local()  # its attribute `in_pool`: whether this thread is a worker of a pool


@contextmanager
def workers(device: torch.device | str = "cpu") -> Iterator[MapBlocks]:
    """Yield a function that calls `work(item)` for each of many items, in inference mode.

    On a CPU the items go to a shared pool with as many threads as torch may use here; in each of them torch
    computes with one thread. On other devices, and inside a worker of such a pool, the items follow one after
    the other.

    Args:
        device: Device on which the work computes.
    """
    is_worker = getattr(_thread_state, "in_pool", False)
    if torch.device(device).type != "cpu" or is_worker:
        yield _map_serially
        return
    pool = _open_pool("worker", torch.get_num_threads())

    def map_in_pool(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
        futures = [pool.submit(_call_in_inference_mode, work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:  # after an error, no item is worked on once this function has returned
            for future in futures:
                future.cancel()
            wait(futures)

    yield map_in_pool


def run_serially(work: Callable[[], T], device: torch.device | str = "cpu") -> T:
    """Run `work()` in inference mode with one thread of torch, for work that is too small to divide.

    Args:
        work: The work.
        device: Device on which it computes.
    """
    if torch.device(device).type != "cpu" or torch.get_num_threads() == 1:
        with torch.inference_mode():
            return work()
    # decorated, because the mode holds only in the thread that enters it
    return _open_pool("alone", 1).submit(torch.inference_mode()(work)).result()


def _map_serially(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    with torch.inference_mode():
        return [work(item) for item in items]


def _call_in_inference_mode(work: Callable[[S], T], item: S) -> T:
    with torch.inference_mode():  # the mode belongs to a thread: the caller's does not reach here
        return work(item)


def _open_pool(kind: str, thread_count: int) -> ThreadPoolExecutor:
    """Return the pool of a kind and size, and make it at the first call. It lives as long as the process."""
    with _lock:
        if (kind, thread_count) not in _pools:
            with ThreadPoolExecutor(1) as new_thread:
                _pools[kind, thread_count] = new_thread.submit(_start_pool, kind, thread_count).result()
        return _pools[kind, thread_count]


def _start_pool(kind: str, thread_count: int) -> ThreadPoolExecutor:
    """Make a pool and start all its threads. Call this in a thread that has not used torch."""
    default_count = torch.get_num_threads()  # torch's number for new threads, which is restored below
    all_started = Barrier(thread_count + 1)

    def initialize_thread() -> None:
        torch.get_num_threads()  # the first use of torch in a thread would overwrite a number set before
        torch.set_num_threads(1)
        _thread_state.in_pool = kind == "worker"

    pool = ThreadPoolExecutor(thread_count, f"{THREAD_NAME}-{kind}", initialize_thread)
    for _ in range(thread_count):
        pool.submit(all_started.wait)  # each job starts a thread, because the earlier threads are waiting
    all_started.wait()
    torch.set_num_threads(default_count)
    return pool


def _drop_pools() -> None:
    """Drop the pools: a forked process has none of their threads."""
    global _lock
    _lock = Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_pools)


def reuse_freed_memory() -> None:
    """Let this process keep freed memory for the next tensors, where glibc allocates it.

    By default glibc returns the memory of each feature map to the system, and allocates it anew for the next
    one: this is most of a fit's system time.
    """
    with suppress(OSError, AttributeError):  # a C library without `mallopt`
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, REUSED_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * REUSED_BYTES)


def return_freed_memory() -> None:
    """Let glibc return free pages that lie between used pages, and those that `reuse_freed_memory` kept.

    After many pictures were decoded, reduced and freed, these pages are several times the data in use.
    """
    with suppress(OSError, AttributeError):  # a C library without `malloc_trim`
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def set_thread_count(count: int | None) -> None:
    """Set the number of torch's threads in the whole process; None: it does not change."""
    if count is not None:
        torch.set_num_threads(count)
