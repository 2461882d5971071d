"""Several workers learn one model: what their step computes, that all hold the same, and that they go on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ray = pytest.importorskip("ray")
torch = pytest.importorskip("torch")
pytest.importorskip("psutil")

from torch import Tensor, nn  # noqa: E402

from flawscope._version import __version__  # noqa: E402
from flawscope.artefact import model_file  # noqa: E402
from flawscope.artefact.state_file import checkpoint_path, checkpoint_progress, read_checkpoint  # noqa: E402
from flawscope.cluster import training  # noqa: E402
from flawscope.cluster.connect import Node, cluster_connection  # noqa: E402
from flawscope.errors import FlawscopeError, InputError  # noqa: E402
from flawscope.fitting import fitting  # noqa: E402
from flawscope.methods.good_pictures import GoodPictures  # noqa: E402
from flawscope.methods.settings import TrainingSettings  # noqa: E402
from flawscope.methods.task import SINGLE_PROCESS, Budget, DistributedGroup, Task, WorkerFinished  # noqa: E402  # noqa: E402
from flawscope.methods.training import Trainer  # noqa: E402
from flawscope.methods.training_state import network_digest  # noqa: E402
from flawscope.progress import ignore_progress  # noqa: E402
from flawscope.synthesis.demo.dataset import draw_picture  # noqa: E402

CLOSE = 1e-5  # of the largest gradient of a parameter: rounding of fp32 sums in another order
PLENTY = 2**30
STEPS, STOP = 24, 3
PRN = {"method": "prnet", "size": "64", "width": 0.25, "batch": 4, "training": "fp32", "steps": STEPS}
REST = {"samples": 0, "check": False}
Named = dict[str, Any]


@pytest.fixture(scope="module")
def joined(cluster: Any) -> Iterator[Any]:
    """The cluster, while this process is connected to it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not know this folder
    with cluster_connection(cluster.address):
        yield cluster


# ----------------------------------------------------------------------------- two processes of our own


class Process:
    """One of two that learn together, as an actor."""

    def __init__(self, rank: int, meeting: Path):
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
        self.together = DistributedGroup()

    def learn(self, make: Callable[[], Trainer[Any]], late: float = 0.0, **budget: Any) -> Named:
        """What a training of some steps leaves behind. late: seconds by which this process's clock is."""
        trainer, budget = make(), Budget(process_group=self.together, **budget)
        object.__setattr__(budget, "started", budget.started - late * self.together.rank)
        trainer.learn(budget, None, {})
        return left_by(trainer)

    def fit(self, images: Path, out: Path, stop: int = 0, **options: Any) -> str:
        """A whole fit. stop: step after which it is stopped, as by Ctrl-C; gives what is said then."""

        def press(stage: str, done: int, total: int) -> None:
            if stage.startswith("training") and done == stop:
                signal.getsignal(signal.SIGINT)(signal.SIGINT, None)  # type: ignore[operator,misc]

        signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray's workers have another
        options["checkpoint"] = None if self.together.rank else checkpoint_path(out)
        try:
            made = fitting.fit(images, device="cpu", step=press, together=self.together, **options)
        except KeyboardInterrupt as error:
            return str(error)
        except WorkerFinished:
            return "left"
        made.save(out)
        return "made"


@pytest.fixture(scope="module")
def pair(joined: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Any]]]:
    """`pair("learn", ...)` calls the method in both processes, and gives both answers."""
    meeting = tmp_path_factory.mktemp("meeting") / "store"
    actor = ray.remote(num_cpus=0)(Process)  # so that there is room for others
    both = [actor.remote(rank, meeting) for rank in range(2)]
    yield lambda name, *args, **more: ray.get([getattr(p, name).remote(*args, **more) for p in both])
    for process in both:
        ray.kill(process)


def left_by(trainer: Trainer[Any]) -> Named:
    values = [(k, v) for k, v in trainer._parameters() if v.grad is not None]
    return {
        "gradients": {k: v.grad.numpy().copy() for k, v in values},
        "weights": [network_digest(network) for network in trainer.networks],
        "curve": trainer.curve,
        "steps": trainer.steps,
    }


def assert_close(found: Named, wanted: Named) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert np.abs(values).max() > 0, name
        assert np.abs(found[name] - values).max() <= CLOSE * np.abs(values).max(), name


def shots(count: int, size: int) -> list[Tensor]:
    """Pictures [3, size, size] float32 of parts."""
    drawn = [draw_picture("plate", np.random.default_rng([7, k]), size=size)[0] for k in range(count)]
    return [torch.from_numpy(p).permute(2, 0, 1).float() / 255 for p in drawn]


def efficientad_trainer(teacher: str, **settings: Any) -> Trainer[Any]:
    from flawscope.methods.efficientad import Config
    from flawscope.methods.efficientad.model import create
    from flawscope.methods.efficientad.trainer import Trainer
    from flawscope.methods.efficientad.training_pictures import TeacherOutputs, natural_pictures

    found = shots(3, 256)
    model, _ = create(Config(**{"teacher": teacher, "window": 41, "training": "fp32", **settings}))
    images = GoodPictures(found.__getitem__, len(found), PLENTY)
    taught = TeacherOutputs(model, images, images.read(ignore_progress), PLENTY)
    taught.measure(ignore_progress)
    task = Task(images.load, len(found), rate=0.05)
    return Trainer(model, images, taught, natural_pictures(model.config.natural), task)


def prnet_trainer(**settings: Any) -> Trainer[Any]:
    """Of pictures that are padded, each in another way: pixels count where pictures do not."""
    from flawscope.methods.prnet import Config
    from flawscope.methods.prnet.fit import find_prototypes
    from flawscope.methods.prnet.model import create
    from flawscope.methods.prnet.trainer import Trainer
    from flawscope.methods.prnet.training_pictures import ScaleFeatureCache, TrainingPictures

    found = shots(6, 64)
    for k, image in enumerate(found):
        image[:, : 6 * k] = -1 - image[:, : 6 * k]
    own = {"size": "64", "width": 0.25, "training": "fp32", "keep_aspect": True, "batch": 5}
    model, _ = create(Config(**{**own, **settings}))
    images = GoodPictures(found.__getitem__, len(found), PLENTY)
    pictures = TrainingPictures(model.config, images, images.read(ignore_progress), [])
    features = ScaleFeatureCache(model, images, pictures.learnt, PLENTY)
    features.measure(ignore_progress)
    clusters = find_prototypes(model.config, features, ignore_progress)
    for scale, one in zip(model.scales, clusters, strict=True):
        scale.prototypes = one.prototypes
    return Trainer(model, pictures, features, clusters, Task(images.load, len(found), rate=0.05))


def test_prnets_workers_compute_the_gradient_of_the_whole_batch(pair: Callable[..., list[Any]]) -> None:
    """Five pictures, of which one worker has three, and of which other shares count."""
    first, second = pair("learn", partial(prnet_trainer, steps=1))
    alone = prnet_trainer(steps=1)
    alone.learn(Budget(), None, {})
    wanted = left_by(alone)
    assert_close(first["gradients"], wanted["gradients"])
    assert first["curve"][0]["loss"] == pytest.approx(wanted["curve"][0]["loss"], rel=1e-5)
    assert first["curve"] == second["curve"]


def test_efficientads_workers_compute_the_mean_gradient_of_two_batches(
    pair: Callable[..., list[Any]], teacher_path: Path
) -> None:
    make = partial(efficientad_trainer, str(teacher_path), steps=1)
    first, second = pair("learn", make)
    alone = make()
    for network in alone.networks:
        network.train()
    losses = torch.stack([torch.stack(alone.losses(alone.networks, alone.batch(k), k)) for k in range(2)])
    assert not torch.allclose(losses[0], losses[1], rtol=1e-3)
    mean = losses.mean(0)
    mean.sum().backward()
    assert_close(first["gradients"], left_by(alone)["gradients"])
    shown = [first["curve"][0][name] for name in alone.LOSSES]
    assert shown == pytest.approx(mean.tolist(), rel=1e-5)
    assert first["curve"] == second["curve"]


@pytest.mark.parametrize("method", ["prnet", "efficientad"])
def test_all_hold_the_same_after_every_step(
    method: str, pair: Callable[..., list[Any]], teacher_path: Path
) -> None:
    own = {"prnet": prnet_trainer, "efficientad": partial(efficientad_trainer, str(teacher_path), batch=2)}
    found = [pair("learn", partial(own[method], steps=steps)) for steps in (1, 4)]
    for first, second in found:
        assert first["weights"] == second["weights"]
    assert found[0][0]["weights"] != found[1][0]["weights"]


# ------------------------------------------------------------------------------ a training that costs nothing


class Line(Trainer[Tensor]):
    """Learns y = 2 x, from four numbers in each step."""

    NETWORKS, LOSSES = ("line",), ("loss",)
    CPU_STEPS = GPU_STEPS = 30
    DIVIDES_BATCHES = True

    def __init__(self, **settings: Any):
        config = TrainingSettings(**{"steps": 6, "rate": 0.05, "training": "fp32", "batch": 4, **settings})
        super().__init__(
            [nn.Conv2d(1, 1, 1)], config, torch.device("cpu"), lambda line: None, ignore_progress
        )
        self.initialise(0)

    def batch(self, step: int) -> Tensor:
        return torch.from_numpy(self.rng(1, step).random((4, 1, 2, 2), np.float32))[list(self.own_samples(4))]

    def losses(self, networks: Any, batch: Tensor, step: int) -> list[Tensor]:
        return [(networks[0](batch) - 2 * batch).square().mean()]


class Whole(Line):
    DIVIDES_BATCHES = None


@dataclass
class Second:
    """The second of two processes, as far as it gets by what the first one says."""

    said: list[Any]
    rank: int = 1
    world: int = 2

    def on_first_process(self, make: Callable[[], Any]) -> Any:
        return self.said.pop(0)

    def average(self, tensors: Any, weight: float) -> None:
        raise AssertionError

    end_other_processes = DistributedGroup.end_other_processes


def test_the_first_ones_clock_is_everybodys(pair: Callable[..., list[Any]]) -> None:
    """By the other one's the time is long over."""
    first, second = pair("learn", partial(Line, steps=None), minutes=0.03, late=1000.0)
    assert first["steps"] == second["steps"] >= 1
    assert first["weights"] == second["weights"]


def test_what_weighs_nothing_changes_nothing(pair: Callable[..., list[Any]]) -> None:
    """Though it is NaN."""
    first, second = pair("learn", partial(Hollow, steps=2))
    assert first["weights"] == second["weights"]
    assert np.isfinite(first["curve"][-1]["loss"])


class Hollow(Line):
    """Nothing counts in what the second process has."""

    def weight(self, batch: Tensor) -> float:
        return 1.0 - self.together.rank

    def losses(self, networks: Any, batch: Tensor, step: int) -> list[Tensor]:
        return super().losses(networks, batch[: 4 * (1 - self.together.rank)], step)


def test_what_workers_cannot_learn_together_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "line.checkpoint.safetensors"
    Line().learn(Budget(checkpoint=path), None, {})
    two = {"number of workers": 2, "minutes": None, "steps": None}
    resumed, first = [two, read_checkpoint(path)], {"training set": "a", "number of workers": 2}
    for make, said, resume, wrong in (
        (Line, [first], False, "the first worker has another training set a, this one has b"),
        (partial(Line, batch=1), [], False, "a batch of 1 cannot be divided among 2 workers"),
        (Whole, [], False, "cannot be divided among workers"),
        (Line, resumed, True, "another number of workers 1, this one has 2"),
    ):
        facts = {"training set": "b"} if said and not resume else {}
        with pytest.raises(FlawscopeError, match=wrong):
            make().learn(Budget(resume=resume, process_group=Second(said)), None, facts)


def test_only_the_first_one_goes_on() -> None:
    with pytest.raises(WorkerFinished):
        Second([]).end_other_processes()
    assert SINGLE_PROCESS.on_first_process(lambda: 3) == 3
    SINGLE_PROCESS.end_other_processes()


# ------------------------------------------------------------------------------------------- on the cluster


def test_workers_get_what_the_nodes_have() -> None:
    nodes = [Node("a", 8.0, 2.0, 0), Node("b", 8.0, 2.0, 0), Node("c", 8.0, 0.0, 0)]
    for threads, gpu, found in ((None, None, (4, 4, 1)), (None, False, (3, 8, 0)), (2, None, (4, 2, 1))):
        count, each = training.plan_workers(nodes, threads, gpu)
        assert (count, each.threads, each.gpus) == found
    with pytest.raises(InputError, match="room for 2 workers of 8 cores and a GPU, not for 4"):
        training.plan_workers(nodes, 8, None)
    with pytest.raises(InputError, match="no node of the cluster has a graphics card"):
        training.plan_workers(nodes[2:], None, True)


def tensors_of(path: Path) -> Named:
    return model_file.read(path).tensors


def assert_same(a: Named, b: Named) -> None:
    assert list(a) == list(b)
    for name, values in a.items():
        assert np.array_equal(values, b[name]), name


def alone(version: str = __version__) -> Callable[..., Any]:
    """The work of the only worker, in this process."""
    worker = training.TrainingWorker(1, 0, 1, False)
    unheard: Any = SimpleNamespace(put=lambda *news: None)
    return lambda images, out, **options: worker.train(version, "", unheard, images, out, ".", options)


def test_one_worker_makes_the_model_of_a_plain_fit(
    drawn: Path, tmp_path: Path, efficientad_path: Path, quick_settings: Named
) -> None:
    out = tmp_path / "plate.safetensors"
    assert alone()(drawn, out, method="efficientad", samples=2, **quick_settings) == ([], [])
    assert_same(tensors_of(out), tensors_of(efficientad_path))
    mine, plain = (model_file.read(path).manifest for path in (out, efficientad_path))
    assert mine.calibration == plain.calibration
    assert mine.facts["curve"] == plain.facts["curve"]
    assert "workers" not in mine.facts


def test_a_worker_refuses_wrong_settings_and_another_version(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch must be at least 2"):
        alone()(drawn, tmp_path / "m.safetensors", **{**PRN, **REST, "batch": 1})
    with pytest.raises(InputError, match="this command 0: install the same there"):
        alone("0")(drawn, tmp_path / "m.safetensors", **PRN)


def late(seconds: float, error: Exception | None) -> None:
    time.sleep(seconds)
    if error:
        raise error
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_error_that_explains_the_others_is_told(joined: Any) -> None:
    """Workers that wait for one that has ended see a broken connection, or see nothing."""
    task = ray.remote(num_cpus=0, max_retries=0)(late)
    resources = training.allocate([Node("a", 1, 0, 0)], 3, 1, "cpu")
    workers = training.WorkerGroup(3, resources, pytest.fail, ignore_progress)
    for third, expected in ((InputError("no batch"), InputError), (None, training._WorkerLost)):
        others = [(0.0, RuntimeError("connection closed")), (1000.0, RuntimeError())]
        asked = [task.remote(*given) for given in [*others, (1.0, third)]]
        with pytest.raises(expected, match="no batch" if third else training.PROCESS_ENDED):
            workers.await_result(asked)
        ray.cancel(asked[1], force=True)


@pytest.mark.slow
def test_a_killed_worker_costs_time_alone(
    joined: Any, pair: Callable[..., list[Any]], drawn: Path, tmp_path: Path
) -> None:
    """A run that is stopped, goes on on the cluster and loses a worker makes the model of one that nothing
    happens to."""
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    options = {**PRN, **REST}
    assert pair("fit", drawn, whole, **options) == ["made", "left"]
    stopped, _ = pair("fit", drawn, broken, stop=STOP, **options)
    assert f"step {STOP} of {STEPS} is kept" in stopped
    assert checkpoint_progress(checkpoint_path(broken)) == (STOP, STEPS)

    said: list[str] = []
    killed: list[int] = []

    def kill(stage: str, done: int, total: int) -> None:
        if stage.startswith("training") and not killed:
            killed.append(joined.processes("ray::TrainingWorker.train")[-1])
            os.kill(killed[0], signal.SIGKILL)

    made = training.fit(drawn, out=broken, resume=True, say=said.append, step=kill, **options)
    assert made == (broken, [], [])
    assert killed
    assert said[0] == "2 workers of 1 core"
    assert said.count(f"goes on after step {STOP} of {STEPS}") == 2
    assert sum("a worker was lost" in line for line in said) == 1
    assert any(f"{STEPS} steps of 4 on 2 workers, cpu" in line for line in said)
    assert_same(tensors_of(broken), tensors_of(whole))
    assert model_file.read(broken).manifest.facts["workers"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {  # nothing of Ray's
        f"{name}.{kind}"
        for name in ("whole", "broken")
        for kind in ("safetensors", "checkpoint.safetensors", "training.csv")
    }
