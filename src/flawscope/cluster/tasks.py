"""Functions as tasks of the cluster: whole fits and benchmark cells, each in a process of its own, and the
parts of one fit.

Ray decides where and when, and begins a task again whose node was lost. A task writes its files to a folder
that all nodes see, each whole or not at all, so that a process that lives on for a while on a node that was
given up does no harm.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from flawscope._version import __version__
from flawscope.cluster.connect import (
    News,
    Node,
    last_line,
    nodes,
    require_shared,
    require_shared_folder,
    require_threads,
    require_version,
    value_of,
)
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope.machine import FIT_MEMORY, FIT_THREADS, GIB
from flawscope.methods import registry
from flawscope.progress import Running

RETRIES = 5  # of a task whose node or process was lost
PART_RETRIES = 20  # of a fit's part
EVERY = 1.0  # seconds between two messages of a task
STEP = 256 * 2**20  # bytes: tasks that ask for the same are begun in their order
PATIENCE = 30.0  # seconds for tasks that were stopped to save a checkpoint


# ------------------------------------------------------------------------------------------ room on the nodes


@dataclass(frozen=True)
class Share:
    """Resources of one task, threads with a core each and graphics cards; and the nodes that have as many."""

    threads: int
    gpus: int
    nodes: tuple[Node, ...]

    @property
    def most(self) -> int:
        """Bytes of memory that a task can ask for."""
        return max(node.memory for node in self.nodes)

    def at_once(self, peak: int = 0) -> int:
        """Number of tasks of `peak` bytes that fit on the nodes."""
        return sum(node.room(self.threads, self.gpus, min(peak, self.most)) for node in self.nodes)


def share(found: Sequence[Node], count: int, threads: int | None, device: str) -> Share:
    """Divides the nodes among `count` tasks.

    Args:
        found: the nodes that take tasks.
        threads: None: as many as there are cores for when all tasks run at once, `FIT_THREADS` at least.
        device: a graphics card goes to each task where it may be one, and some node has one.

    Raises:
        InputError: no node has that.
    """
    gpus = int(device.startswith("cuda") or (device == "auto" and any(node.gpus >= 1 for node in found)))
    usable = [node for node in found if node.gpus >= gpus]
    if not usable:
        raise InputError(f"--device {device}: no node of the cluster has a graphics card; give --device cpu")
    if threads is None:
        most = max(1, max(int(node.cpus) for node in usable))
        more = (n for n in range(most, FIT_THREADS, -1) if sum(o.room(n, gpus) for o in usable) >= count)
        threads = next(more, min(FIT_THREADS, most))
    require_threads(usable, threads)
    return Share(threads, gpus, tuple(node for node in usable if node.room(threads, gpus)))


def predicted_memory(fits: Sequence[Mapping[str, Any]], each: Share) -> list[int]:
    """Bytes that each fit takes, as its method predicts it (`Method.peak`). A task computes them, so that
    this process needs no torch. `FIT_MEMORY` where a method predicts nothing, where a fit cannot be begun,
    and on graphics cards, whose own memory is the predicted one.

    Args:
        fits: arguments of `preparation.predicted_peak`.
    """
    import ray

    if each.gpus or not any(registry.method(fit["method"]).peak for fit in fits):
        return [FIT_MEMORY] * len(fits)
    task = ray.remote(max_calls=1)(_predicted).options(num_cpus=each.threads)
    with suppress(ray.exceptions.RayTaskError, ray.exceptions.WorkerCrashedError):
        memory: list[int] = ray.get(task.remote([dict(fit) for fit in fits]))
        return memory
    return [FIT_MEMORY] * len(fits)


def _predicted(fits: Sequence[Mapping[str, Any]]) -> list[int]:
    from flawscope.fitting.preparation import predicted_peak

    found: list[int] = []
    for fit in fits:
        peak = None
        with suppress(Exception):  # the fit itself reports it
            peak = predicted_peak(**fit)
        found.append(peak or FIT_MEMORY)
    return found


# ---------------------------------------------------------------------------------------- fits and cells


@contextmanager
def tasks_for(
    thing: str,
    fits: Mapping[str, Mapping[str, Any]],
    data: str,
    out: str,
    live: Running,
    most: int,
    threads: int | None,
    device: str,
) -> Iterator[Tasks]:
    """Calls on the nodes of the cluster that this process is connected to; they end with the block.

    Args:
        thing: a call, for a person: "cell".
        fits: by the calls' labels, as `predicted_memory` takes them.
        data, out: folders that all nodes have to see, with the pictures and for the results.
        most: calls at a time.

    Raises:
        InputError: no node can work on a call, or not all see the folders.
    """
    each = share(nodes(), len(fits), threads, device)
    require_shared(data, "put the pictures where every node sees them under this path")
    require_shared_folder(out)
    memory = predicted_memory([*fits.values()], each)
    pool = Tasks(each, dict(zip(fits, memory, strict=True)), live, most)
    low, high = (f"{peak / GIB:.1f}" for peak in (min(memory), max(memory)))
    size = f"{high} GiB" if low == high else f"{low} to {high} GiB"
    more = f", and no node has more than {each.most / GIB:.1f}" if max(memory) > each.most else ""
    live.say(
        f"{pluralize(pool.at_once, thing)} at a time on {pluralize(len(each.nodes), 'node')}, "
        f"{pluralize(each.threads, 'thread')} each, {size}{more} each"
    )
    try:
        yield pool
    finally:
        pool.stop()


class Tasks:
    """Calls of functions, each in a new process on some node. Made by `tasks_for`.

    most: calls that are begun before one has ended. at_once: those that the nodes have room for.

    Args:
        memory: bytes of each call, by its label; where no node has so many it gets a node of its own.
        live: shows where the calls are.
    """

    def __init__(self, each: Share, memory: Mapping[str, int], live: Running, most: int):
        import ray

        self.share, self.memory, self.live, self.most = each, memory, live, most
        self.at_once = max(1, min(most, each.at_once(max(memory.values()))))
        self.news = News()
        self.task: Any = ray.remote(max_calls=1)(_work)
        self.running: dict[Any, str] = {}
        self.begun: set[str] = set()

    def start(self, label: str, function: Callable[..., Any], *given: Any) -> None:
        """Has `function(*given, tell)` called. `tell` takes texts such as "features 3 of 10"."""
        task = self.task.options(
            name=label,
            num_cpus=self.share.threads,
            num_gpus=self.share.gpus,
            memory=min(-(-self.memory[label] // STEP) * STEP, self.share.most),
            max_retries=RETRIES,
        )
        self.running[task.remote(function, given, label, self.news, __version__, os.getcwd())] = label

    def ended(self, seconds: float) -> list[tuple[str, Any]]:
        """Waits so many seconds for calls to end. Returns their labels, each with the value, or with the
        FlawscopeError that it raised or was lost by."""
        import ray

        ready, _ = ray.wait([*self.running], timeout=seconds)
        for label, address, text in self.news.get():
            if text == "starts":
                if label in self.begun:
                    self.live.line(f"{label}: its node or its process was lost; begins again on {address}")
                self.begun.add(label)
            if label in self.running.values():
                self.live.tell(label, f"{text} ({address})")
        return [(self.running.pop(ref), self._result(ref)) for ref in ready]

    def _result(self, ref: Any) -> Any:
        import ray

        try:
            return value_of(ref)
        except FlawscopeError as error:
            return error
        except ray.exceptions.OutOfMemoryError:
            return FlawscopeError(
                "its node ran out of memory: choose a smaller size, or give nodes with more"
            )
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            text = f"its process was lost {RETRIES + 1} times: {last_line(error)}; try again"
            return FlawscopeError(text)

    def stop(self) -> None:
        """Interrupts all calls, which may save a checkpoint, and ends their processes."""
        import ray

        if not (refs := [*self.running]):
            return
        with suppress(ray.exceptions.RayError, ConnectionError):  # where the cluster itself is gone
            for ref in refs:
                ray.cancel(ref)
            ray.wait(refs, num_returns=len(refs), timeout=PATIENCE)
            for ref in refs:
                ray.cancel(ref, force=True)


def _work(
    function: Callable[..., Any], given: tuple[Any, ...], label: str, news: News, version: str, folder: str
) -> Any:
    """Runs a task on a node."""
    import ray

    require_version(version)
    with suppress(OSError):  # paths may be relative; where the folder is not there, absolute ones are enough
        os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # how Ray cancels; Python may ignore it
    address = ray.util.get_node_ip_address()
    news.put(label, address, "starts")
    told = time.monotonic()

    def tell(text: str) -> None:
        nonlocal told
        if time.monotonic() - told >= EVERY:
            told = time.monotonic()
            news.put(label, address, text)

    return function(*given, tell)


# --------------------------------------------------------------------------------------------- parts of a fit


class PartWorkers:
    """`fitting.fit`'s pool: processes on the nodes of the cluster that this process is connected to.

    Args:
        threads: of a worker; None: all cores of the smallest node, so that each node has one worker.

    Attributes:
        count: workers that the nodes have room for.
        memory: bytes that each may take.
    """

    def __init__(self, threads: int | None = None):
        found = nodes()
        self.threads = threads or max(1, min(int(node.cpus) for node in found))
        require_threads(found, self.threads)
        room = [node.room(self.threads) for node in found]
        self.count = sum(room)
        self.memory: int | None = min(node.memory // n for node, n in zip(found, room, strict=True) if n)
        self.largest = max(node.memory for node in found)

    def map(
        self, work: Callable[..., Any], held: bytes, parts: Sequence[Any], peak: int | None = None
    ) -> Iterator[Any]:
        """Calls `work(held, part)` for every part, all at once, and yields the answers in order.

        Args:
            held: sent to each node once. peak: bytes that a part takes at most.
        """
        import ray

        if peak is not None and peak > self.largest:
            raise InputError(
                f"a part takes {peak / GIB:.1f} GiB and no node has more than {self.largest / GIB:.1f}: give "
                "a smaller --set memory=GiB"
            )
        task = ray.remote(_work_on_part).options(
            num_cpus=self.threads, max_retries=PART_RETRIES, **({} if peak is None else {"memory": peak})
        )
        ref = ray.put(held)
        for answer in [task.remote(work, ref, part, self.threads, __version__) for part in parts]:
            yield value_of(answer)


def _work_on_part(work: Callable[..., Any], held: bytes, part: Any, threads: int, version: str) -> Any:
    """Works on a part of a fit on a node."""
    require_version(version)
    from flawscope.methods.threads import use_threads

    use_threads(threads)
    return work(held, part)
