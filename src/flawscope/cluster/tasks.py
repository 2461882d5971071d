"""Functions as tasks of the cluster: whole fits and benchmark cells, each in a process of its own.

Ray chooses the node and the time, and begins a task again if its node was lost. A task writes its files to a
folder that all nodes see, each whole or not at all: a process that lives on for a while on an abandoned node
does no harm.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope._version import __version__
from flawscope.cluster import connect
from flawscope.cluster.connect import ProgressQueue, TaskResources, prepare_node, task_result
from flawscope.errors import FlawscopeError, pluralize
from flawscope.machine import FIT_MEMORY_LIMIT, GIB
from flawscope.progress import JobsProgress, throttled

if TYPE_CHECKING:
    from ray import ObjectRef

TASK_RETRIES = 5  # of a task whose node or process was lost
MEMORY_STEP = 256 * 2**20  # bytes that requests are rounded up to: tasks with equal requests begin in order
STOP_TIMEOUT = 30.0  # seconds for tasks that were stopped to save a checkpoint


@contextmanager
def task_pool(
    noun: str,
    fits: Mapping[str, Mapping[str, object]],
    predict: Callable[[Mapping[str, object]], int | None],
    data: str,
    out: str,
    live: JobsProgress,
    most: int,
    threads: int | None,
    device: str,
) -> Iterator[TaskPool]:
    """Open a pool of tasks on the cluster to which this process is connected; they end with the block.

    Args:
        noun: People's word for a task, such as "cell".
        fits: Arguments of `predict` for each task, by the task's label.
        predict: Predicts the bytes of a fit; it returns None where they are unknown. It is called on a node.
        data: Folder of the pictures, which all nodes must see.
        out: Folder of the results, which all nodes must see.
        live: Shows the progress of the tasks.
        most: Largest number of tasks that are started and not ended.
        threads: Threads of a task; None: as many as let all tasks run at once (`connect.allocate`).
        device: auto, cpu or cuda, as for `connect.allocate`.

    Raises:
        InputError: No node has the resources of a task, or some node does not see a folder.
    """
    resources = connect.allocate(connect.list_nodes(), len(fits), threads, device)
    connect.require_shared(data, "put the pictures where every node sees them under this path")
    connect.require_shared_folder(out)
    pool = TaskPool(resources, _fit_memory(fits, predict, resources), live, most)
    low, high = (f"{peak / GIB:.1f}" for peak in (min(pool.memory.values()), max(pool.memory.values())))
    live.say(
        f"{pluralize(pool.max_concurrency, noun)} at a time on {pluralize(len(resources.nodes), 'node')}, "
        f"{pluralize(resources.threads, 'thread')} each, "
        f"{high if low == high else f'{low} to {high}'} GiB each"
    )
    try:
        yield pool
    finally:
        pool.stop()


def _fit_memory(
    fits: Mapping[str, Mapping[str, object]],
    predict: Callable[[Mapping[str, object]], int | None],
    resources: TaskResources,
) -> dict[str, int]:
    """Predict the bytes of each fit by a task: this process needs no torch.

    They are `FIT_MEMORY_LIMIT` without a prediction, and on GPUs, whose own memory would be predicted.
    """
    import ray

    found = dict.fromkeys(fits, FIT_MEMORY_LIMIT)
    if not resources.gpus:
        task = ray.remote(max_calls=1)(_predict_each).options(num_cpus=resources.threads)
        with suppress(ray.exceptions.RayTaskError, ray.exceptions.WorkerCrashedError):
            memory: dict[str, int] = ray.get(task.remote(predict, dict(fits)))
            found |= memory
    return found


def _predict_each(
    predict: Callable[[Mapping[str, object]], int | None], fits: Mapping[str, Mapping[str, object]]
) -> dict[str, int]:
    found = {}
    for label, fit in fits.items():
        with suppress(Exception):  # the fit itself reports it
            found[label] = predict(fit) or FIT_MEMORY_LIMIT
    return found


class TaskPool:
    """Pool that calls functions, each in a new process on one of the nodes. `task_pool` makes it.

    Args:
        resources: Resources of a call, and the nodes.
        memory: Bytes of each call, by its label; a call that needs more than any node has gets all the
            memory of a node.
        live: Shows the progress of the calls.
        most: Largest number of calls that are started and not ended.

    Attributes:
        max_concurrency: Number of calls that run at once on the nodes, at most `most`.
    """

    def __init__(self, resources: TaskResources, memory: Mapping[str, int], live: JobsProgress, most: int):
        import ray

        self.resources = resources
        self.memory = memory
        self.live = live
        self.most = most
        self.max_concurrency = max(1, min(most, resources.max_concurrency(max(memory.values()))))
        self.queue = ProgressQueue()
        self.task = ray.remote(max_calls=1)(_run_task)
        self.running: dict[ObjectRef, str] = {}

    def start(self, label: str, function: Callable[..., object], *args: object) -> None:
        """Start a call of `function(*args, step)` on a node."""
        task = self.task.options(
            name=label,
            num_cpus=self.resources.threads,
            num_gpus=self.resources.gpus,
            memory=min(-(-self.memory[label] // MEMORY_STEP) * MEMORY_STEP, self.resources.max_memory),
            max_retries=TASK_RETRIES,
        )
        self.running[task.remote(function, args, label, self.queue, __version__, str(Path.cwd()))] = label

    def ended(self, seconds: float) -> list[tuple[str, object]]:
        """Wait until a call ends, or for at most this many seconds.

        Returns:
            The labels of the calls that ended, each with its value or a FlawscopeError: the error that the
            call raised, or that its process was lost.
        """
        import ray

        ready, _ = ray.wait([*self.running], timeout=seconds)
        for label, stage, done, total in self.queue.get():
            if label in self.running.values():
                self.live.step(label, stage, done, total)
        return [(self.running.pop(ref), self._result(ref)) for ref in ready]

    def _result(self, ref: ObjectRef) -> object:
        import ray

        try:
            return task_result(ref)
        except FlawscopeError as error:
            return error
        except ray.exceptions.RayError as error:
            lost = f"its process was lost {TASK_RETRIES + 1} times: {connect.last_line(error)}"
            return FlawscopeError(f"{lost}; try again, with a smaller size or on nodes with more memory")

    def stop(self) -> None:
        """Interrupt all calls, which may save a checkpoint, and end their processes."""
        import ray

        if not (refs := [*self.running]):
            return
        with suppress(ray.exceptions.RayError, ConnectionError):  # where the cluster itself is gone
            for ref in refs:
                ray.cancel(ref)
            ray.wait(refs, num_returns=len(refs), timeout=STOP_TIMEOUT)
            for ref in refs:
                ray.cancel(ref, force=True)


def _run_task(
    function: Callable[..., object],
    args: tuple[object, ...],
    label: str,
    queue: ProgressQueue,
    version: str,
    folder: str,
) -> object:
    prepare_node(version, folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # how Ray cancels; Python may ignore it

    def report(*progress: object) -> None:
        queue.put(label, *progress)

    return function(*args, throttled(report))
