"""Trains one model with several workers: data-parallel, by torch.distributed in Ray actors.

Every worker makes the same fit of the same pictures, which all nodes see under the same paths. While
learning, the workers average their gradients (see `methods.training.Trainer`), so all hold the same networks
after every step. Then the first worker goes on alone, and writes the model. It alone has the checkpoint, the
training log and the TensorBoard.

A lost worker ends them all. As many are started anew, and go on from the checkpoint.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from flawscope._version import __version__
from flawscope.artefact.state_file import checkpoint_path
from flawscope.cluster.connect import (
    RESUME_HINT,
    Node,
    ProgressQueue,
    TaskResources,
    allocate,
    error_of_task,
    last_line,
    list_nodes,
    prepare_node,
)
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope.progress import ProgressCallback, ignore_progress, throttled

MAX_LOST_WORKERS = 3  # lost workers that are replaced
PEER_TIMEOUT = timedelta(days=7)  # of collective operations, long: other means notice dead workers
POLL_INTERVAL = 0.25  # seconds between reads of the workers' queue
ROOM_TIMEOUT = 20.0  # seconds of waiting for nodes after which a person is told
ERROR_TIMEOUT = 5.0  # seconds for the other workers to report their errors
PROCESS_ENDED = "a process or its machine ended, often for want of memory"


class TrainingResult(NamedTuple):
    """The model's file, a line for each unreadable picture, and suspicious pictures with scores."""

    model: Path
    failures: list[str]
    suspects: list[tuple[str, float]]


def fit(
    images: Any,
    *,
    out: str | os.PathLike[str],
    threads: int | None = None,
    gpu: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
    step: ProgressCallback = ignore_progress,
    **options: Any,
) -> TrainingResult:
    """Fits a method that learns in steps by several workers of the cluster that this process is connected to.

    Args:
        images: as `fitting.fit` takes them. Paths may be relative where all nodes have this folder.
        out: model file that the first worker writes, .safetensors; the checkpoint and the training log stand
            beside it, on storage that all nodes share. The checkpoint stays: remove it afterwards.
        threads: cores of each worker; None: as many as there are.
        gpu: whether there is a worker for each GPU, or else for each node; None: if the cluster has any.
        say: gets lines for a person.
        step: gets progress.
        **options: as `fitting.fit` takes them, except `device` and `checkpoint`.

    Raises:
        InputError: the cluster has no room for them, or `fitting.fit` refuses.
        FlawscopeError: workers were lost more often, or `fitting.fit` raises it.
    """
    count, each = plan_workers(list_nodes(), threads, gpu)
    out = Path(os.path.abspath(out))
    say(f"{pluralize(count, 'worker')} of {_describe_worker(each)}")
    workers = WorkerGroup(count, each, say, step)
    for left in reversed(range(MAX_LOST_WORKERS + 1)):
        try:
            return TrainingResult(out, *workers.train(images, out, os.getcwd(), options))
        except _WorkerLost as lost:
            if not left:
                raise FlawscopeError(f"the workers were lost for good: {lost}; {RESUME_HINT}") from None
            say("a worker was lost: others take over from the last checkpoint")
    raise AssertionError


def plan_workers(nodes: list[Node], threads: int | None, gpu: bool | None) -> tuple[int, TaskResources]:
    """Returns the number of workers, one for each GPU or for each node, and the resources of each.
    InputError: there are too few GPUs, or cores."""
    gpus = int(sum(node.gpus for node in nodes))
    on_gpus = gpus > 0 if gpu is None else gpu
    count = max(1, gpus if on_gpus else len(nodes))
    each = allocate(nodes, count, threads, "cuda" if on_gpus else "cpu", min_threads=1)
    if each.max_concurrency() < count:
        room = pluralize(each.max_concurrency(), "worker")
        raise InputError(
            f"the cluster has room for {room} of {_describe_worker(each)}, not for {count}: give fewer "
            "--threads, or add nodes"
        )
    return count, each


def _describe_worker(each: TaskResources) -> str:
    return f"{pluralize(each.threads, 'core')}{' and a GPU' if each.gpus else ''}"


class _WorkerLost(Exception):
    """A process of the training, or its node, ended; the text says why."""


class WorkerGroup:
    """The processes that train together. say, step: get the lines and the progress of the first worker."""

    def __init__(
        self, count: int, resources: TaskResources, say: Callable[[str], None], step: ProgressCallback
    ):
        self.count, self.resources, self.say, self.step = count, resources, say, step
        self.queue = ProgressQueue()

    def train(self, *call: Any) -> tuple[list[str], list[tuple[str, float]]]:
        """Starts the workers, calls `TrainingWorker.train` of each, ends them, and returns the first one's
        result. FlawscopeError: a worker raised it. _WorkerLost: a worker failed otherwise."""
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        cpus, gpus, _ = self.resources
        group = placement_group([{"CPU": cpus, **({"GPU": gpus} if gpus else {})}] * self.count)
        workers: list[Any] = []
        try:
            ready = group.ready()
            if not ray.wait([ready], timeout=ROOM_TIMEOUT)[0]:
                self.say("waits for room on the nodes: the cluster is busy, or has lost nodes")
                ray.get(ready)
            place = PlacementGroupSchedulingStrategy(group)
            actor: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=place)(TrainingWorker)
            workers += [actor.remote(self.count, rank, cpus, gpus > 0) for rank in range(self.count)]
            address = ray.get(workers[0].address.remote())
            call = __version__, address, self.queue, *call
            return self.await_result([worker.train.remote(*call) for worker in workers])
        except ray.exceptions.RayActorError:
            raise _WorkerLost(PROCESS_ENDED) from None
        finally:
            for worker in workers:
                ray.kill(worker)
            remove_placement_group(group)

    def await_result(self, answers: list[Any]) -> tuple[list[str], list[tuple[str, float]]]:
        """Passes on the workers' lines and progress until the first has the model, or one has failed."""
        import ray

        left = answers
        while left:
            ended, left = ray.wait(left, timeout=POLL_INTERVAL)
            for line, progress in self.queue.get():
                if line:
                    self.say(line)
                else:
                    self.step(*progress)
            for one in ended:
                try:
                    if found := ray.get(one):
                        failures, suspects = found
                        return failures, suspects
                except ray.exceptions.RayError:
                    raise _first_cause(answers) from None
        raise _WorkerLost("the workers ended without a model")


def _first_cause(answers: list[Any]) -> Exception:
    """Finds the error that caused the others: a FlawscopeError, else a lost process. Workers that wait for
    one that has ended report a broken connection, or nothing."""
    import ray

    found: list[str] = []
    for one in ray.wait(answers, num_returns=len(answers), timeout=ERROR_TIMEOUT)[0]:
        try:
            ray.get(one)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FlawscopeError | ImportError):
                return error_of_task(error)
            found.append(last_line(error))
        except ray.exceptions.RayError:
            found.insert(0, PROCESS_ENDED)
    return _WorkerLost(found[0])


class TrainingWorker:
    """Ray actor: one of the processes that train."""

    def __init__(self, count: int, rank: int, threads: int, gpu: bool):
        self.count, self.rank, self.threads, self.gpu = count, rank, threads, gpu

    def address(self) -> str:
        """Returns the address where the workers connect; called of the first worker."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def train(
        self,
        version: str,
        address: str,
        queue: ProgressQueue,
        images: Any,
        out: Path,
        folder: str,
        options: dict[str, Any],
    ) -> tuple[list[str], list[tuple[str, float]]] | None:
        """Fits; the first worker saves the model, and returns failures and suspects, the others None."""
        prepare_node(version, folder)
        import torch
        from torch import distributed

        from flawscope import fit
        from flawscope.methods.task import SINGLE_PROCESS, DistributedGroup, WorkerFinished
        from flawscope.methods.threads import set_thread_count

        set_thread_count(self.threads)
        if self.count > 1:
            backend = "cpu:gloo,cuda:nccl" if self.gpu else "gloo"
            distributed.init_process_group(backend, address, PEER_TIMEOUT, self.count, self.rank)
        own: dict[str, Any] = {"checkpoint": None, "tensorboard": None}
        if self.rank == 0:
            own = {
                "checkpoint": checkpoint_path(out),
                "say": lambda line: queue.put(line, ()),
                "step": throttled(lambda *progress: queue.put("", progress)),
            }
        options |= own | {"together": DistributedGroup() if self.count > 1 else SINGLE_PROCESS}
        try:
            predictor = fit(images, **options, device="cuda" if self.gpu else "cpu")
        except WorkerFinished:
            return None
        except (MemoryError, torch.OutOfMemoryError):
            text = "a worker has not enough memory: choose a smaller --size or --set batch"
            raise FlawscopeError(text) from None
        predictor.save(out)
        return predictor.failures, predictor.suspects
