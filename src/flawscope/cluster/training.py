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
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from flawscope._version import __version__
from flawscope.artefact.state_file import checkpoint_of
from flawscope.cluster.connect import REPEAT, News, Node, cause_of, last_line, nodes, require_version
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope.progress import Step, silent

FAILURES = 3  # lost workers that are replaced
WAIT = timedelta(days=7)  # that a worker waits for the others: a death is noticed at once, otherwise
LOOK = 0.25  # seconds between looks at the workers' news
OFTEN = 0.5  # seconds between two lines of progress of a worker
SHORT = 20.0  # seconds until a person is told that the cluster has no room
GRACE = 5.0  # seconds for the others to say why they ended, too
DIED = "a process or its machine ended, often for want of memory"


class Division(NamedTuple):
    """Number of workers and of each one's cores; `gpu`: each has a GPU."""

    workers: int
    threads: int
    gpu: bool

    def __str__(self) -> str:
        each = f"{pluralize(self.threads, 'core')}{' and a GPU' if self.gpu else ''}"
        return f"{pluralize(self.workers, 'worker')} of {each}"


class Trained(NamedTuple):
    """The model's file; pictures that could not be read, a line each; those that do not look good, with their
    scores."""

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
    step: Step = silent,
    **options: Any,
) -> Trained:
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
    division, news = divided(nodes(), threads, gpu), News()
    out = Path(os.path.abspath(out))
    say(str(division))
    for left in reversed(range(FAILURES + 1)):
        try:
            return Trained(out, *_together(division, news, (images, out, os.getcwd(), options), say, step))
        except _WorkerLost as lost:
            if not left:
                raise FlawscopeError(f"the workers were lost for good: {lost}; {REPEAT}") from None
            say("a worker was lost: others take over from the last checkpoint")
    raise AssertionError


def divided(found: Sequence[Node], threads: int | None, gpu: bool | None) -> Division:
    """A worker for each GPU, or for each of these nodes, with as many cores each as there are.

    Raises:
        InputError: there are too few GPUs, or cores.
    """
    gpus = int(sum(node.gpus for node in found))
    gpu = gpus > 0 if gpu is None else gpu
    count = gpus if gpu else len(found)
    least, most = threads or 1, threads or int(max((node.cpus for node in found), default=0))
    for each in range(most, least - 1, -1):
        if count and sum(node.room(each, gpu) for node in found) >= count:
            return Division(count, each, gpu)
    room = Division(sum(node.room(least, gpu) for node in found), least, gpu)
    raise InputError(
        f"the cluster has room for {room}, not for {max(count, 1)}: give fewer --threads, or add nodes"
    )


# ---------------------------------------------------------------------------------------------- the workers


class _WorkerLost(Exception):
    """A process of the training, or its node, ended; the text says why."""


def _together(
    division: Division,
    news: News,
    call: tuple[Any, Path, str, dict[str, Any]],
    say: Callable[[str], None],
    step: Step,
) -> tuple[list[str], list[tuple[str, float]]]:
    """Runs the workers, ends them, and returns the first one's answer."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    workers, threads, gpu = division
    room = placement_group([{"CPU": threads, **({"GPU": 1} if gpu else {})}] * workers)
    try:
        ready = room.ready()
        if not ray.wait([ready], timeout=SHORT)[0]:
            say(f"waits for {division}: the cluster is busy, or has lost nodes")
            ray.get(ready)
        actor: Any = ray.remote(Worker)
        there = PlacementGroupSchedulingStrategy(room)
        options = {"num_cpus": threads, "num_gpus": int(gpu), "scheduling_strategy": there}
        every = [actor.options(**options).remote(division, rank, __version__) for rank in range(workers)]
        try:
            address = ray.get(every[0].address.remote())
            answers = [worker.learn.remote(address, *call, news) for worker in every]
            return _answer(answers, news, say, step)
        finally:
            for worker in every:
                ray.kill(worker)
    except ray.exceptions.RayActorError:
        raise _WorkerLost(DIED) from None
    finally:
        remove_placement_group(room)


def _answer(
    answers: list[Any], news: News, say: Callable[[str], None], step: Step
) -> tuple[list[str], list[tuple[str, float]]]:
    """Passes on the workers' news until the first of them has the model, or one has failed.

    Raises:
        FlawscopeError: one has refused. _WorkerLost: one has failed.
    """
    import ray

    left, found = answers, None
    while left and not found:
        ended, left = ray.wait(left, timeout=LOOK)
        for one in ended:
            try:
                found = ray.get(one) or found
            except ray.exceptions.RayError:
                raise _failure(answers) from None
        for line, progress in news.get():
            if line:
                say(line)
            else:
                step(*progress)
    if found is None:
        raise _WorkerLost("the workers ended without a model")
    failures, suspects = found
    return failures, suspects


def _failure(answers: list[Any]) -> Exception:
    """Error that explains the others: a refusal, else a lost process. Workers that wait for a worker that has
    ended see a broken connection, or see nothing."""
    import ray

    found: list[str] = []
    for one in ray.wait(answers, num_returns=len(answers), timeout=GRACE)[0]:
        try:
            ray.get(one)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FlawscopeError | ImportError):
                return cause_of(error)
            found.append(last_line(error))
        except ray.exceptions.RayError:
            found.insert(0, DIED)
    return _WorkerLost(found[0])


class Worker:
    """Actor: one of the processes that learn."""

    def __init__(self, division: Division, rank: int, version: str):
        self.division, self.rank, self.version = division, rank, version

    def address(self) -> str:
        """Address where the workers meet, if this is the first one."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def learn(
        self, address: str, images: Any, out: Path, folder: str, options: dict[str, Any], news: News
    ) -> tuple[list[str], list[tuple[str, float]]] | None:
        """Fits; the first worker also saves the model, and returns the unreadable pictures and the suspects.
        The others return None."""
        import torch
        from torch import distributed

        from flawscope import fit
        from flawscope.methods.task import ALONE, Group, Left
        from flawscope.methods.threads import use_threads

        require_version(self.version)
        workers, threads, gpu = self.division
        with suppress(OSError):  # absolute paths are enough
            os.chdir(folder)
        use_threads(threads)
        if workers > 1:
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if gpu else "gloo", address, WAIT, workers, self.rank
            )
        own: dict[str, Any] = {"checkpoint": None, "tensorboard": None}
        if self.rank == 0:
            own = {
                "checkpoint": checkpoint_of(out),
                "say": lambda line: news.put(line, None),
                "step": _at_times(lambda *progress: news.put("", progress)),
            }
        try:
            predictor = fit(
                images,
                **{**options, **own},
                together=Group() if workers > 1 else ALONE,
                device="cuda" if gpu else "cpu",
            )
        except Left:
            return None
        except (MemoryError, torch.OutOfMemoryError):
            text = "a worker has not enough memory: choose a smaller --size or --set batch"
            raise FlawscopeError(text) from None
        predictor.save(out)
        return predictor.failures, predictor.suspects


def _at_times(step: Step) -> Step:
    """Passes on only some steps: a stage's first and last, and one every `OFTEN` seconds."""
    shown, last = "", 0.0

    def told(stage: str, done: int, total: int) -> None:
        nonlocal shown, last
        name, now = stage.partition(",")[0], time.monotonic()
        if name != shown or done == total or now - last >= OFTEN:
            shown, last = name, now
            step(stage, done, total)

    return told
