"""Functions as tasks of the cluster: whole fits and benchmark cells, each in a process of its own.

Ray chooses the node and the time, and starts a task again if its node is lost. A task writes its files to a
folder that all nodes see, each completely or not at all. So nothing is damaged if Ray gives up a node and
starts its task again elsewhere, while the old process still runs.
"""

from __future__ import annotations

import math
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

TASK_RETRIES = 5  # for a task whose node or process was lost
MEMORY_STEP = 256 * 2**20  # bytes: requests are rounded up, as tasks with equal requests begin in order
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
    """Open a pool of tasks on the cluster to which this process is connected; all tasks end with the block.

    Args:
        noun: Word for a task in messages, such as "cell".
        fits: Arguments of the fit in each task, by the task's label, as `predict` takes them.
        predict: Returns the memory in bytes that a fit with these arguments takes; None: it is unknown. The
            function is called on a node.
        data: Folder of the pictures, which all nodes must see.
        out: Folder of the results, which all nodes must see.
        live: Shows the progress of the tasks.
        most: Largest number of tasks that run at a time.
        threads: Threads of a task; None: as many as let all tasks run at once (`connect.allocate`).
        device: auto, cpu or cuda, as for `connect.allocate`.

    Raises:
        InputError: No node has the resources of a task, or some node does not see a folder.
    """
    resources = connect.allocate(connect.list_nodes(), len(fits), threads, device)
    connect.require_shared(data, "put the pictures where every node sees them under this path")
    connect.require_shared_folder(out)
    pool = TaskPool(resources, _fit_memory(fits, predict, resources), live, most)
    least_memory = f"{min(pool.memory_by_label.values()) / GIB:.1f}"
    most_memory = f"{max(pool.memory_by_label.values()) / GIB:.1f}"
    memory = most_memory if least_memory == most_memory else f"{least_memory} to {most_memory}"
    live.say(
        f"{pluralize(pool.max_concurrency, noun)} at a time on {pluralize(len(resources.nodes), 'node')}, "
        f"{pluralize(resources.threads, 'thread')} each, {memory} GiB each"
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
    """Return the memory of each fit in bytes, by the fit's label.

    A task predicts the memory, since this process need not have torch. The memory is `FIT_MEMORY_LIMIT` if
    the task fails, or if fits run on GPUs: the GPU's memory would be predicted then.
    """
    import ray

    memory_by_label = dict.fromkeys(fits, FIT_MEMORY_LIMIT)
    if resources.gpus:
        return memory_by_label
    task = ray.remote(max_calls=1)(_predict_all).options(num_cpus=resources.threads)
    with suppress(ray.exceptions.RayTaskError, ray.exceptions.WorkerCrashedError):
        predictions: dict[str, int] = ray.get(task.remote(predict, dict(fits)))
        memory_by_label |= predictions
    return memory_by_label


def _predict_all(
    predict: Callable[[Mapping[str, object]], int | None], fits: Mapping[str, Mapping[str, object]]
) -> dict[str, int]:
    """Return the predicted memory in bytes by the fit's label, `FIT_MEMORY_LIMIT` where it is unknown.

    Fits for which `predict` fails are left out.
    """
    memory_by_label = {}
    for label, fit in fits.items():
        with suppress(Exception):  # the fit meets the same error, and reports it
            memory_by_label[label] = predict(fit) or FIT_MEMORY_LIMIT  # None: unknown
    return memory_by_label


class TaskPool:
    """Pool that calls functions, each in a new process on one of the nodes. `task_pool` makes it.

    Args:
        resources: Resources of a call, and the nodes.
        memory_by_label: Memory of each call in bytes, by the call's label. A call that needs more than any
            node has gets as much as the largest node has.
        live: Shows the progress of the calls.
        most: Largest number of calls that run at a time.

    Attributes:
        max_concurrency: Number of calls that run at once on the nodes, at most `most`.
    """

    def __init__(
        self, resources: TaskResources, memory_by_label: Mapping[str, int], live: JobsProgress, most: int
    ):
        import ray

        self.resources = resources
        self.memory_by_label = memory_by_label
        self.live = live
        self.most = most
        largest_memory = max(memory_by_label.values())
        self.max_concurrency = max(1, min(most, resources.max_concurrency(largest_memory)))
        self.queue = ProgressQueue()
        self.task = ray.remote(max_calls=1)(_run_task)
        self.running: dict[ObjectRef, str] = {}  # label of each running call

    def start(self, label: str, function: Callable[..., object], *args: object) -> None:
        """Start a call of `function(*args, step)` on a node; `step` is a progress callback."""
        rounded_memory = math.ceil(self.memory_by_label[label] / MEMORY_STEP) * MEMORY_STEP
        task = self.task.options(
            name=label,
            num_cpus=self.resources.threads,
            num_gpus=self.resources.gpus,
            memory=min(rounded_memory, self.resources.max_memory),
            max_retries=TASK_RETRIES,
        )
        ref = task.remote(function, args, label, self.queue, __version__, str(Path.cwd()))
        self.running[ref] = label

    def ended(self, seconds: float) -> list[tuple[str, object]]:
        """Wait until a call ends, but at most this many seconds; show the progress of all calls.

        Returns:
            For each call that ended, its label and its result. The result is the function's value, or a
            FlawscopeError if the function raised an error or its process was lost.
        """
        import ray

        ended_refs, _ = ray.wait([*self.running], timeout=seconds)
        for label, stage, done, total in self.queue.get():
            if label in self.running.values():
                self.live.step(label, stage, done, total)
        ended_calls = []
        for ref in ended_refs:
            label = self.running.pop(ref)
            ended_calls.append((label, self._result(ref)))
        return ended_calls

    def _result(self, ref: ObjectRef) -> object:
        """Return the value of an ended call; if it failed or its process was lost, a FlawscopeError."""
        import ray

        try:
            return task_result(ref)
        except FlawscopeError as error:
            return error
        except ray.exceptions.RayError as error:
            loss = f"its process was lost {TASK_RETRIES + 1} times: {connect.last_line(error)}"
            return FlawscopeError(f"{loss}; try again, with a smaller size or on nodes with more memory")

    def stop(self) -> None:
        """Interrupt all calls, wait while they may save checkpoints, then end their processes."""
        import ray

        refs = [*self.running]
        if not refs:
            return
        with suppress(ray.exceptions.RayError, ConnectionError):  # the cluster may be gone
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
    """Call a function in a process on a node, and send its progress.

    Args:
        function: Function to call with `args` and a progress callback.
        args: Its arguments.
        label: Label of the call.
        queue: Gets the progress.
        version: Version of flawscope that the command has.
        folder: Folder of the command, where relative paths begin.
    """
    prepare_node(version, folder)
    # Ray cancels a task by SIGINT, which a process may have inherited as ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def report(*progress: object) -> None:
        """Send stage, done and total with the label."""
        queue.put(label, *progress)

    return function(*args, throttled(report))
