"""Work in fixed blocks, one thread a block: as fast as torch's own threads or faster, and the result does
not depend on how many there are, because no block is ever divided among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Each = Callable[[Callable[[Any], T], Iterable[Any]], list[T]]


@contextmanager
def workers(device: torch.device | str = "cpu") -> Iterator[Each[Any]]:
    """Gives `each(work, items) -> [work(item), ...]`, in inference mode.

    On a CPU the items are spread over as many threads as torch has been given, and inside each thread
    torch computes with one. On other devices they run one after the other.
    """
    if torch.device(device).type != "cpu":

        def serial(work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
            with torch.inference_mode():
                return [work(item) for item in items]

        yield serial
        return
    count = _enter()
    try:
        with ThreadPoolExecutor(count) as pool:

            def spread(work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
                def guarded(item: Any) -> T:
                    with torch.inference_mode():  # it holds for one thread only
                        return work(item)

                return list(pool.map(guarded, items))

            yield spread
    finally:
        _leave()


# torch's number of threads belongs to the process: the first to come lowers it, the last to go restores it.
_lock = Lock()
_inside, _threads = 0, 1


def _enter() -> int:
    global _inside, _threads
    with _lock:
        if _inside == 0:
            _threads = torch.get_num_threads()
            torch.set_num_threads(1)
        _inside += 1
        return _threads


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            torch.set_num_threads(_threads)
