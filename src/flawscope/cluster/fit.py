"""A fit whose parts are worked on by the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flawscope._version import __version__
from flawscope.cluster.connect import nodes, require_version
from flawscope.cluster.jobs import cause_of
from flawscope.errors import InputError
from flawscope.machine import GIB
from flawscope.progress import counted

RETRIES = 20  # of a part whose node was lost


class Nodes:
    """`fitting.fit`'s pool: the nodes of the cluster that this process is connected to.

    Args:
        threads: of a worker; None: all cores of the smallest node, so that each node has one worker.

    Attributes:
        count: workers that the nodes have room for.
        memory: bytes that each may take.
    """

    def __init__(self, threads: int | None = None):
        found = nodes()
        if not found:
            raise InputError("the cluster has no node that takes tasks: add one with a core at least")
        self.threads = threads or max(1, min(int(node.cpus) for node in found))
        room = [int(node.cpus // self.threads) for node in found]
        self.count = sum(room)
        if not self.count:
            most = max(int(node.cpus) for node in found)
            raise InputError(f"no node has {counted(self.threads, 'core')}: give --threads {most} or fewer")
        self.memory: int | None = min(node.memory // n for node, n in zip(found, room, strict=True) if n)
        self.largest = max(node.memory for node in found)

    def keep(self, data: bytes) -> Any:
        import ray

        return ray.put(data)

    def submit(self, work: Callable[..., Any], held: Any, *values: Any, peak: int | None) -> Any:
        import ray

        if peak is not None and peak > self.largest:
            raise InputError(
                f"a part takes {peak / GIB:.1f} GiB and no node has more than {self.largest / GIB:.1f}: give "
                "a smaller --set memory=GiB"
            )
        asked = {"num_cpus": self.threads, "max_retries": RETRIES}
        if peak is not None:
            asked["memory"] = peak
        return ray.remote(_run).options(**asked).remote(held, work, values, self.threads, __version__)

    def answers(self, asked: Sequence[Any], done: Callable[[], None]) -> Iterator[Any]:
        import ray

        waiting, there = list(asked), set()
        for one in asked:
            while one not in there:
                ready, waiting = ray.wait(waiting)
                there.update(ready)
                done()
            try:
                yield ray.get(one)
            except ray.exceptions.RayTaskError as error:
                cause = cause_of(error)
                raise cause from (None if cause is error.cause else error)


def _run(held: bytes, work: Callable[..., Any], values: tuple[Any, ...], threads: int, version: str) -> Any:
    """In a worker."""
    require_version(version)
    from flawscope.runtime.torch import use_threads

    use_threads(threads)
    return work(held, *values)
