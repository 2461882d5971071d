"""Functions as tasks of the cluster: whole fits and benchmark cells, each in a process of its own, and the
parts of one fit.

Ray decides where and when, and begins a task again whose node was lost. A task writes its files to a folder
that all nodes see, each whole or not at all, so that a process that lives on for a while on a node that was
given up does no harm.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from flawscope._version import __version__
from flawscope.cluster import connect
from flawscope.cluster.connect import News, Share, begin_on_node, last_line, nodes, share, value_of
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope.machine import FIT_MEMORY, GIB
from flawscope.methods import registry
from flawscope.progress import Running, at_times

RETRIES = 5  # of a task whose node or process was lost
PART_RETRIES = 20  # of a fit's part
STEP = 256 * 2**20  # bytes: tasks that ask for the same are begun in their order
PATIENCE = 30.0  # seconds for tasks that were stopped to save a checkpoint


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
        fits: by the calls' labels, as `_predicted` takes them.
        data, out: folders that all nodes have to see, with the pictures and for the results.
        most: calls at a time.

    Raises:
        InputError: no node can work on a call, or not all see the folders.
    """
    each = share(nodes(), len(fits), threads, device)
    connect.require_shared(data, "put the pictures where every node sees them under this path")
    connect.require_shared_folder(out)
    pool = Tasks(each, _memory(fits, each), live, most)
    low, high = (f"{peak / GIB:.1f}" for peak in (min(pool.memory.values()), max(pool.memory.values())))
    live.say(
        f"{pluralize(pool.at_once, thing)} at a time on {pluralize(len(each.nodes), 'node')}, "
        f"{pluralize(each.threads, 'thread')} each, {high if low == high else f'{low} to {high}'} GiB each"
    )
    try:
        yield pool
    finally:
        pool.stop()


def _memory(fits: Mapping[str, Mapping[str, Any]], each: Share) -> dict[str, int]:
    """Bytes that each fit takes, as its method predicts it (`Method.peak`). A task computes them, so that
    this process needs no torch. `FIT_MEMORY` where nothing is predicted, and on graphics cards, whose own
    memory is the predicted one."""
    import ray

    found = dict.fromkeys(fits, FIT_MEMORY)
    if not each.gpus and any(registry.method(fit["method"]).peak for fit in fits.values()):
        task = ray.remote(max_calls=1)(_predicted).options(num_cpus=each.threads)
        with suppress(ray.exceptions.RayTaskError, ray.exceptions.WorkerCrashedError):
            memory: dict[str, int] = ray.get(task.remote(dict(fits)))
            found |= memory
    return found


def _predicted(fits: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Predicts the memory of fits, given as arguments of `preparation.predicted_peak`."""
    from flawscope.fitting.preparation import predicted_peak

    found = {}
    for label, fit in fits.items():
        with suppress(Exception):  # the fit itself reports it
            found[label] = predicted_peak(**fit) or FIT_MEMORY
    return found


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

    def start(self, label: str, function: Callable[..., Any], *given: Any) -> None:
        """Has `function(*given, step)` called."""
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
        for label, *progress in self.news.get():
            if label in self.running.values():
                self.live.step(label, *progress)
        return [(self.running.pop(ref), self._result(ref)) for ref in ready]

    def _result(self, ref: Any) -> Any:
        import ray

        try:
            return value_of(ref)
        except FlawscopeError as error:
            return error
        except ray.exceptions.RayError as error:
            lost = f"its process was lost {RETRIES + 1} times: {last_line(error)}"
            return FlawscopeError(f"{lost}; try again, with a smaller size or on nodes with more memory")

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
    begin_on_node(version, folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # how Ray cancels; Python may ignore it
    return function(*given, at_times(lambda *progress: news.put(label, *progress)))


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
        self.share = share(found, 1, threads or max(1, min(int(node.cpus) for node in found)), "cpu")
        room = [node.room(self.share.threads) for node in self.share.nodes]
        self.count = sum(room)
        self.memory: int | None = min(
            node.memory // n for node, n in zip(self.share.nodes, room, strict=True)
        )

    def map(
        self, work: Callable[..., Any], held: bytes, parts: Sequence[Any], peak: int | None = None
    ) -> Iterator[Any]:
        """Calls `work(held, part)` for every part, all at once, and yields the answers in order.

        Args:
            held: sent to each node once. peak: bytes that a part takes at most.
        """
        import ray

        if peak is not None and peak > self.share.most:
            raise InputError(
                f"a part takes {peak / GIB:.1f} GiB and no node has more than {self.share.most / GIB:.1f}: "
                "give a smaller --set memory=GiB"
            )
        threads = self.share.threads
        task = ray.remote(_work_on_part).options(
            num_cpus=threads, max_retries=PART_RETRIES, **({} if peak is None else {"memory": peak})
        )
        ref = ray.put(held)
        for answer in [task.remote(work, ref, part, threads, __version__, os.getcwd()) for part in parts]:
            yield value_of(answer)


def _work_on_part(
    work: Callable[..., Any], held: bytes, part: Any, threads: int, version: str, folder: str
) -> Any:
    """Works on a part of a fit on a node."""
    from flawscope.methods.threads import use_threads

    begin_on_node(version, folder)
    use_threads(threads)
    return work(held, part)
