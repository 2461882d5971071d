"""One training by several workers: data-parallel, with Ray Train.

Every worker makes the same fit of the same pictures, which all nodes see under the same paths. While it
learns the workers average their gradients (`methods.training.Trainer` says what that computes), and so all of
them hold the same networks after every step. Then the first one goes on alone, and writes the model. It is
also the one that has the checkpoint, the training log and the TensorBoard.

A lost worker ends them all. Ray Train starts as many anew, and they go on from the checkpoint.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flawscope._version import __version__
from flawscope.artefact.state_file import checkpoint_of
from flawscope.cluster.connect import REPEAT, Node, last_line, nodes, require_version
from flawscope.errors import FlawscopeError, InputError
from flawscope.progress import Step, counted, silent

FAILURES = 3  # lost workers that are replaced
WAIT = 7 * 24 * 3600  # seconds that a worker waits for the others: who dies is noticed at once, otherwise
LOOK = 0.25  # seconds between looks for what the workers say
OFTEN = 0.5  # seconds between two lines of progress of a worker
SHORT = 20.0  # seconds between looks whether something keeps the workers from going on
OF_TRAIN = {  # seconds
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # instead of 2: small trainings take no longer
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # instead of 60: busy machines import torch slowly
}


class Division(NamedTuple):
    """Who learns: so many workers with so many cores each; `gpu`: and a GPU."""

    workers: int
    threads: int
    gpu: bool


class Trained(NamedTuple):
    """What was made: the model's file; pictures that could not be read, a line each; those that do not look
    good, with their scores."""

    model: Path
    failures: list[str]
    suspects: list[tuple[str, float]]


def fit(
    images: Any,
    *,
    out: str | os.PathLike[str],
    workers: int | None = None,
    threads: int | None = None,
    gpu: bool | None = None,
    tries: int = FAILURES,
    say: Callable[[str], None] = lambda line: None,
    step: Step = silent,
    **options: Any,
) -> Trained:
    """Fit a method that learns in steps by several workers of the cluster that this process is connected to.

    Args:
        images: as `fitting.fit` takes them. Paths may be relative where all nodes have this folder.
        out: model file that the first worker writes, .safetensors; the checkpoint and the training log stand
            beside it, on storage that all nodes share. The checkpoint stays: remove it afterwards.
        workers: how many; None: one for each GPU, or for each node where there are none.
        threads: cores of each worker; None: as many as there are for so many workers.
        gpu: one for each worker; None: if the cluster has any.
        tries: workers that may be lost.
        say: gets lines for a person.
        step: gets progress.
        **options: what `fitting.fit` takes else, except `device` and `checkpoint`.

    Raises:
        InputError: the cluster has no room for them, or what `fitting.fit` refuses.
        FlawscopeError: workers were lost more often, or what `fitting.fit` raises.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    division = divided(nodes(), workers, threads, gpu)
    out = Path(os.path.abspath(out))
    # with this connection, and not on a node that may be lost
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote  # its annotations want a class with methods of its own
    desk = remote(num_cpus=0, scheduling_strategy=here)(Desk).remote()
    call = Call(images, out, out.with_name(f".{out.stem}.ray"), division, os.getcwd(), desk, options)
    say(f"{counted(division.workers, 'worker')} of {_each(division)}")
    # in a process of the cluster: Ray Train takes no connection by ray://, and takes Ctrl-C away
    drive = remote(num_cpus=0, max_retries=tries, scheduling_strategy=here)(_drive)
    running = drive.remote(call, tries)
    try:
        _listen(running, desk, division, say, step)
        error, made = ray.get(desk.outcome.remote())
        if error is None:
            ray.get(running)  # of one that has ended
    except ray.exceptions.RayTaskError as lost:
        raise FlawscopeError(f"the workers were lost for good: {_cause(lost)}; {REPEAT}") from None
    finally:
        with suppress(Exception):  # who has ended cannot be stopped
            ray.cancel(running, force=True)
        ray.kill(desk)
        shutil.rmtree(call.storage, ignore_errors=True)
    if error is not None:
        raise error
    if made is None:
        raise FlawscopeError(f"the workers ended without a model; {REPEAT}")
    return Trained(out, *made)


# ------------------------------------------------------------------------------------------------- who learns


def divided(found: Sequence[Node], workers: int | None, threads: int | None, gpu: bool | None) -> Division:
    """The workers that these nodes have room for, with as many cores each as there are.

    Raises:
        InputError: there are too few GPUs, or cores.
    """
    gpus = int(sum(node.gpus for node in found))
    gpu = gpus > 0 if gpu is None else gpu
    count = workers or (gpus if gpu else len(found))
    least, most = threads or 1, threads or int(max((node.cpus for node in found), default=0))
    for each in range(most, least - 1, -1):
        if count and _room(found, each, gpu) >= count:
            return Division(count, each, gpu)
    room, one = _room(found, least, gpu), _each(Division(1, least, gpu))
    raise InputError(
        f"the cluster has room for {counted(room, 'worker')} of {one}, not for {max(count, 1)}: take fewer, "
        "with fewer threads, or add nodes"
    )


def _room(found: Sequence[Node], threads: int, gpu: bool) -> int:
    """Workers that the nodes have room for."""
    return sum(int(min(node.cpus // threads, node.gpus if gpu else node.cpus)) for node in found)


def _each(division: Division) -> str:
    return f"{counted(division.threads, 'core')}{' and a GPU' if division.gpu else ''}"


# ---------------------------------------------------------------------------------------------- what they say


class News(NamedTuple):
    """Lines and progress since the last time; whether the workers have begun, and whether one has refused."""

    lines: list[str]
    stage: tuple[str, int, int] | None
    begun: bool
    refused: bool


class Desk:
    """An actor where the workers leave what the caller is to know."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stage: tuple[str, int, int] | None = None
        self.error: FlawscopeError | None = None
        self.made: tuple[list[str], list[tuple[str, float]]] | None = None
        self.begun = 0

    def begin(self) -> None:
        """The first worker is there, perhaps not for the first time."""
        self.begun += 1
        if self.begun > 1:
            self.lines.append("a worker was lost: others take over from the last checkpoint")

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, stage: str, done: int, total: int) -> None:
        self.stage = stage, done, total

    def news(self) -> News:
        found = News(self.lines, self.stage, self.begun > 0, self.error is not None)
        self.lines, self.stage = [], None
        return found

    def refuse(self, error: FlawscopeError) -> None:
        """Nothing becomes better by another try."""
        self.error = self.error or error

    def finish(self, failures: list[str], suspects: list[tuple[str, float]]) -> None:
        self.made = failures, suspects

    def outcome(self) -> tuple[FlawscopeError | None, tuple[list[str], list[tuple[str, float]]] | None]:
        return self.error, self.made


def _listen(running: Any, desk: Any, division: Division, say: Callable[[str], None], step: Step) -> None:
    """Pass on what the workers say until they have ended, or one has refused."""
    import ray

    over, looked, trouble = False, time.monotonic(), ""
    while not over:
        ended = bool(ray.wait([running], timeout=LOOK)[0])
        news: News = ray.get(desk.news.remote())
        over = ended or news.refused
        for line in news.lines:
            say(line)
        if news.stage is not None:
            step(*news.stage)
        if time.monotonic() - looked > SHORT:
            looked, before = time.monotonic(), trouble
            trouble = _trouble(division, news.begun)
            if trouble and trouble != before:
                say(trouble)


def _trouble(division: Division, begun: bool) -> str:
    """Why nothing goes on, if so."""
    wanted = f"{counted(division.workers, 'worker')} of {_each(division)}"
    if _room(nodes(), division.threads, division.gpu) < division.workers:
        return f"the cluster has lost nodes, and has no room for {wanted}: waits for others"
    return "" if begun else f"waits for {wanted}: the cluster is busy, or slow to start them"


class Told:
    """Progress of a worker, on its way to the desk: not every step."""

    def __init__(self, desk: Any):
        self.desk, self.stage, self.last = desk, "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        name, now = stage.partition(",")[0], time.monotonic()
        if name != self.stage or done == total or now - self.last >= OFTEN:
            self.stage, self.last = name, now
            self.desk.step.remote(stage, done, total)


# --------------------------------------------------------------------------------------------- on the cluster


@dataclass(frozen=True)
class Call:
    """What every worker is told."""

    images: Any
    out: Path
    storage: Path  # a folder that Ray Train wants all to see; nothing of ours goes into it
    division: Division
    folder: str  # that paths are relative to
    desk: Any
    options: dict[str, Any]
    version: str = __version__


def _drive(call: Call, tries: int) -> None:
    """Ray Train's part, in a process of its own."""
    for name, value in OF_TRAIN.items():
        os.environ.setdefault(name, value)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers, threads, gpu = call.division
    shutil.rmtree(call.storage, ignore_errors=True)  # a stopped run's
    try:
        TorchTrainer(
            _work,
            train_loop_config={"call": call},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo", timeout_s=WAIT),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": threads, **({"GPU": 1} if gpu else {})},
            ),
            run_config=RunConfig(
                name="training",
                storage_path=str(call.storage),
                failure_config=FailureConfig(max_failures=tries),
            ),
        ).fit()
    finally:
        shutil.rmtree(call.storage, ignore_errors=True)


def _work(config: dict[str, Any]) -> None:
    """A worker."""
    import ray
    import torch

    from flawscope.fitting import fitting
    from flawscope.methods.distributed import ALONE, Group, Left
    from flawscope.runtime.torch import use_threads

    call: Call = config["call"]
    workers, threads, gpu = call.division
    with suppress(OSError):  # Ray Train has put us elsewhere
        os.chdir(call.folder)
    use_threads(threads)
    together = Group() if workers > 1 else ALONE
    first = together.rank == 0
    if first:
        call.desk.begin.remote()
    own: dict[str, Any] = {"checkpoint": None, "tensorboard": None}
    if first:
        own = {"checkpoint": checkpoint_of(call.out), "say": call.desk.say.remote, "step": Told(call.desk)}
    try:
        require_version(call.version)
        predictor = fitting.fit(
            call.images,
            **{**call.options, **own},
            together=together,
            device="cuda" if gpu else "cpu",
        )
        if first:
            predictor.save(call.out)
            ray.get(call.desk.finish.remote(predictor.failures, predictor.suspects))
    except Left:
        return
    except FlawscopeError as error:
        ray.get(call.desk.refuse.remote(_plain(error)))
        raise
    except (MemoryError, torch.OutOfMemoryError):
        text = "a worker has not enough memory: choose a smaller --size or --set batch"
        ray.get(call.desk.refuse.remote(FlawscopeError(text)))
        raise


def _plain(error: FlawscopeError) -> FlawscopeError:
    """As it can be sent."""
    kind = InputError if isinstance(error, InputError) else FlawscopeError
    return kind(str(error))


def _cause(error: Any) -> str:
    """Why Ray Train gave up."""
    import ray

    lost = getattr(getattr(error, "cause", None), "worker_failures", {})
    found = [getattr(one, "health_check_failure", one) for one in lost.values()]
    if any(isinstance(one, ray.exceptions.RayActorError) for one in found):
        return "a process or its machine ended, often for want of memory"
    return last_line(next(iter(found), error))
