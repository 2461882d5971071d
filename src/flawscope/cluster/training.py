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
from flawscope.artefact.state_file import checkpoint_of
from flawscope.cluster.connect import (
    REPEAT,
    News,
    Node,
    Share,
    begin_on_node,
    cause_of,
    last_line,
    nodes,
    share,
)
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope.progress import Step, at_times, silent

FAILURES = 3  # lost workers that are replaced
WAIT = timedelta(days=7)  # that a worker waits for the others: a death is noticed at once, otherwise
LOOK = 0.25  # seconds between looks at the workers' news
SHORT = 20.0  # seconds until a person is told that the cluster has no room
GRACE = 5.0  # seconds for the others to say why they ended, too
DIED = "a process or its machine ended, often for want of memory"


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
    count, each = divided(nodes(), threads, gpu)
    out = Path(os.path.abspath(out))
    say(f"{pluralize(count, 'worker')} of {_words(each)}")
    workers = Workers(count, each, say, step)
    for left in reversed(range(FAILURES + 1)):
        try:
            return Trained(out, *workers.learn(images, out, os.getcwd(), options))
        except _WorkerLost as lost:
            if not left:
                raise FlawscopeError(f"the workers were lost for good: {lost}; {REPEAT}") from None
            say("a worker was lost: others take over from the last checkpoint")
    raise AssertionError


def divided(found: list[Node], threads: int | None, gpu: bool | None) -> tuple[int, Share]:
    """The number of workers, one for each GPU or for each of these nodes, and what each has. InputError:
    there are too few GPUs, or cores."""
    gpus = int(sum(node.gpus for node in found))
    on_gpus = gpus > 0 if gpu is None else gpu
    count = max(1, gpus if on_gpus else len(found))
    each = share(found, count, threads, "cuda" if on_gpus else "cpu", least=1)
    if each.at_once() < count:
        room = pluralize(each.at_once(), "worker")
        raise InputError(
            f"the cluster has room for {room} of {_words(each)}, not for {count}: give fewer --threads, or "
            "add nodes"
        )
    return count, each


def _words(each: Share) -> str:
    return f"{pluralize(each.threads, 'core')}{' and a GPU' if each.gpus else ''}"


class _WorkerLost(Exception):
    """A process of the training, or its node, ended; the text says why."""


class Workers:
    """The processes that learn together. say, step: get the first one's."""

    def __init__(self, count: int, each: Share, say: Callable[[str], None], step: Step):
        self.count, self.each, self.say, self.step = count, each, say, step
        self.news = News()

    def learn(self, *call: Any) -> tuple[list[str], list[tuple[str, float]]]:
        """Starts them, has all make `Worker.learn`'s call, ends them, and returns the first one's answer.
        FlawscopeError: one has refused. _WorkerLost: one has failed."""
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        cpus, gpus, _ = self.each
        room = placement_group([{"CPU": cpus, **({"GPU": gpus} if gpus else {})}] * self.count)
        every: list[Any] = []
        try:
            ready = room.ready()
            if not ray.wait([ready], timeout=SHORT)[0]:
                self.say("waits for room on the nodes: the cluster is busy, or has lost nodes")
                ray.get(ready)
            there = PlacementGroupSchedulingStrategy(room)
            actor: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=there)(Worker)
            every += [actor.remote(self.count, rank, cpus, gpus > 0) for rank in range(self.count)]
            address = ray.get(every[0].address.remote())
            return self.answer([one.learn.remote(__version__, address, self.news, *call) for one in every])
        except ray.exceptions.RayActorError:
            raise _WorkerLost(DIED) from None
        finally:
            for worker in every:
                ray.kill(worker)
            remove_placement_group(room)

    def answer(self, answers: list[Any]) -> tuple[list[str], list[tuple[str, float]]]:
        """Passes on the workers' news until the first of them has the model, or one has failed."""
        import ray

        left = answers
        while left:
            ended, left = ray.wait(left, timeout=LOOK)
            for line, progress in self.news.get():
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
                    raise _failure(answers) from None
        raise _WorkerLost("the workers ended without a model")


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

    def __init__(self, count: int, rank: int, threads: int, gpu: bool):
        self.count, self.rank, self.threads, self.gpu = count, rank, threads, gpu

    def address(self) -> str:
        """Address where the workers meet, if this is the first one."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def learn(
        self,
        version: str,
        address: str,
        news: News,
        images: Any,
        out: Path,
        folder: str,
        options: dict[str, Any],
    ) -> tuple[list[str], list[tuple[str, float]]] | None:
        """Fits; the first worker also saves the model, and returns the unreadable pictures and the suspects.
        The others return None."""
        begin_on_node(version, folder)
        import torch
        from torch import distributed

        from flawscope import fit
        from flawscope.methods.task import ALONE, Group, Left
        from flawscope.methods.threads import use_threads

        use_threads(self.threads)
        if self.count > 1:
            kind = "cpu:gloo,cuda:nccl" if self.gpu else "gloo"
            distributed.init_process_group(kind, address, WAIT, self.count, self.rank)
        own: dict[str, Any] = {"checkpoint": None, "tensorboard": None}
        if self.rank == 0:
            own = {
                "checkpoint": checkpoint_of(out),
                "say": lambda line: news.put(line, ()),
                "step": at_times(lambda *progress: news.put("", progress)),
            }
        options |= own | {"together": Group() if self.count > 1 else ALONE}
        try:
            predictor = fit(images, **options, device="cuda" if self.gpu else "cpu")
        except Left:
            return None
        except (MemoryError, torch.OutOfMemoryError):
            text = "a worker has not enough memory: choose a smaller --size or --set batch"
            raise FlawscopeError(text) from None
        predictor.save(out)
        return predictor.failures, predictor.suspects
