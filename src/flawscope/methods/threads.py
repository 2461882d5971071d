"""Work in fixed blocks, one thread a block: as fast as torch's own threads, or faster.

The result does not depend on the number of threads, because no block is ever divided among them.

torch keeps a number of threads for each thread; a thread that has not used torch yet gets the number that any
thread set last. Here it is set to 1 once, in flawscope's own threads alone: no other thread is affected.
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
    """Function that maps items, several at a time."""

    def __call__(self, work: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """Call `work` for each item, and return its values in the items' order."""


THREAD_NAME = "flawscope"  # of the threads
# of glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
REUSED_BYTES = 1 << 28  # up to which a tensor takes memory that was freed before

_lock = Lock()
_pools: dict[tuple[str, int], ThreadPoolExecutor] = {}
_thread_state = local()  # `in_pool`: this thread is one of a pool's


@contextmanager
def workers(device: torch.device | str = "cpu") -> Iterator[MapBlocks]:
    """Yield `each(work, items) -> [work(item), ...]`, in inference mode.

    On a CPU the items go to a shared pool of as many threads as torch has been given, and torch computes with
    one thread in each. On other devices, and inside such a thread, the items follow one after the other.
    """
    if torch.device(device).type != "cpu" or getattr(_thread_state, "in_pool", False):
        yield _map_serially
        return
    pool = _pool("worker", torch.get_num_threads())

    def spread(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
        futures = [pool.submit(_call_in_inference_mode, work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:  # after an error, nothing goes on behind the caller's back
            for future in futures:
                future.cancel()
            wait(futures)

    yield spread


def run_serially(work: Callable[[], T], device: torch.device | str = "cpu") -> T:
    """Run `work()` in inference mode in one thread: for work between blocks that is too small to divide."""
    if torch.device(device).type != "cpu" or torch.get_num_threads() == 1:
        with torch.inference_mode():
            return work()
    return _pool("alone", 1).submit(torch.inference_mode()(work)).result()


def _map_serially(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    with torch.inference_mode():
        return [work(item) for item in items]


def _call_in_inference_mode(work: Callable[[S], T], item: S) -> T:
    with torch.inference_mode():  # it holds for one thread only
        return work(item)


def _pool(kind: str, count: int) -> ThreadPoolExecutor:
    """Return the pool of this kind with `count` threads. It lives as long as the process."""
    with _lock:
        if (kind, count) not in _pools:
            with ThreadPoolExecutor(1) as fresh:
                _pools[kind, count] = fresh.submit(_start_pool, kind, count).result()
        return _pools[kind, count]


def _start_pool(kind: str, count: int) -> ThreadPoolExecutor:
    """Make a pool and start all its threads. Call this in a thread that has not used torch."""
    before = torch.get_num_threads()  # the number that such threads get, and shall get again
    ready = Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # else the first work would set what was set last
        torch.set_num_threads(1)
        _thread_state.in_pool = kind == "worker"

    pool = ThreadPoolExecutor(count, f"{THREAD_NAME}-{kind}", begin)
    for _ in range(count):
        pool.submit(ready.wait)
    ready.wait()
    torch.set_num_threads(before)
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

    Else each feature map is given back and asked for anew, which is most of a fit's system time.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, REUSED_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * REUSED_BYTES)


def return_freed_memory() -> None:
    """Let glibc give back free pages that lie between used ones, which `reuse_freed_memory` leaves.

    Of pictures that are decoded, reduced and freed, these pages are several times the kept data.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def set_thread_count(count: int | None) -> None:
    """Set the number of torch's threads in the whole process; None leaves it."""
    if count is not None:
        torch.set_num_threads(count)
