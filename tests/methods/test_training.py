"""The trainer that all methods share, on a network that costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from flawscope.artefact.state_file import pack, read_checkpoint  # noqa: E402
from flawscope.errors import FlawscopeError, InputError  # noqa: E402
from flawscope.methods.settings import TrainingSettings  # noqa: E402
from flawscope.methods.task import Budget  # noqa: E402
from flawscope.methods.training import Trainer, initialise, one_cycle, precision_for  # noqa: E402

CPU = torch.device("cpu")


class Line(Trainer[Tensor]):
    """Learns y = 2 x from numbers that the step decides, and counts how often it was prepared."""

    NETWORKS, LOSSES = ("line",), ("loss",)
    CPU_STEPS = GPU_STEPS = 30

    def __init__(self, step: Callable[[str, int, int], None] = lambda *_: None, **settings: Any):
        config = TrainingSettings(**{"steps": 6, "rate": 0.05, "training": "fp32", **settings})
        super().__init__([nn.Conv2d(1, 1, 1)], config, CPU, lambda line: self.said.append(line), step)
        self.said: list[str] = []
        self.beside = torch.zeros(2)
        self.factor = 1.0
        self.initialise(0)

    def batch(self, step: int) -> Tensor:
        return torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(self.torch_seed(1, step)))

    def losses(self, networks: Any, batch: Tensor, step: int) -> list[Tensor]:
        return [(networks[0](batch) - 2 * batch).square().mean() * self.factor]

    def prepare(self, resumed: bool) -> None:
        if not resumed:
            self.beside += 1

    def measured(self) -> dict[str, float]:
        return {"weight": float(self.networks[0].weight.detach())}

    def state(self) -> dict[str, Tensor]:
        return {"beside": self.beside}

    def weights(self) -> list[float]:
        return torch.cat([v.detach().flatten() for v in self.networks[0].parameters()]).tolist()


def run(trainer: Line, checkpoint: Path | None = None, found: Any = None, **identity: Any) -> Line:
    trainer.learn(Budget(checkpoint=checkpoint, every=0.0), found, identity, None)
    return trainer


def stop_after(count: int) -> Callable[[str, int, int], None]:
    """A `step` that stops the training as Ctrl-C does."""

    def step(stage: str, done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return step


def test_it_learns_and_draws_its_curve() -> None:
    trainer = run(Line(steps=200))
    assert [point["step"] for point in trainer.curve] == list(range(10, 201, 10))
    assert trainer.curve[-1]["loss"] < 0.1 * trainer.curve[0]["loss"]
    assert trainer.curve[-1]["weight"] == pytest.approx(trainer.weights()[0])
    assert not trainer.networks[0].training


def test_the_seed_alone_decides() -> None:
    """Whatever else draws random numbers in the process."""
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        trainer, before = Line(seed=seed), torch.random.get_rng_state()
        found.append(run(trainer).weights())
        assert torch.equal(torch.random.get_rng_state(), before)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    path, whole = tmp_path / "c.safetensors", run(Line())
    with pytest.raises(KeyboardInterrupt):
        run(Line(step=stop_after(stop + 1)), path, seed=0)  # the step that is stopped is lost
    found = read_checkpoint(path)
    assert found[1]["done"] == stop
    resumed = run(Line(), None, found, seed=0)
    assert f"goes on after step {stop} of 6" in resumed.said
    assert resumed.weights() == whole.weights()
    assert resumed.curve == whole.curve
    assert resumed.beside.tolist() == [1.0, 1.0]  # prepared once, and restored
    assert resumed.seconds > 0


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path, identity = tmp_path / "c.safetensors", {"seed": 0, "training set": "a" * 64, "steps": 6}
    with pytest.raises(KeyboardInterrupt):
        run(Line(step=stop_after(2)), path, **identity)
    tensors, facts = read_checkpoint(path)
    other = Line()
    for change, text in (
        ({"seed": 1}, "another seed 0, this one has 1"),
        ({"training set": "b" * 64}, "another training set: give the same, or remove the checkpoint"),
        ({"steps": 4}, "another steps 6, this one has 4"),
        ({"new setting": 1}, "another new setting None, this one has 1"),
    ):
        with pytest.raises(InputError, match=text):
            other.restore(tensors, facts, identity | change)
    for damaged in (
        {},
        *({k: v for k, v in tensors.items() if part not in k} for part in ("bias", "beside")),
    ):
        with pytest.raises(InputError, match="does not fit this version"):
            other.restore(damaged, facts, identity)
    for key in ("identity", "steps", "done", "curve", "total"):
        with pytest.raises(InputError, match="does not fit this version"):
            other.restore(tensors, {k: v for k, v in facts.items() if k != key}, identity)
    other.restore(tensors, facts, identity | {"steps": None})  # --minutes: the number is the checkpoint's
    assert (other.steps, other.done) == (6, 1)
    pack(path, tensors, "teacher", facts)
    with pytest.raises(InputError, match="it is a teacher, not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("steps", [6, 40])  # checked in step 1 and in step 2
def test_a_nan_loss_is_reported_and_never_kept(tmp_path: Path, steps: int) -> None:
    trainer = Line(steps=steps)
    trainer.factor = torch.nan
    with pytest.raises(FlawscopeError, match=r"NaN loss after 1 steps.*lower --set rate"):
        run(trainer, tmp_path / "c.safetensors")
    assert not [*tmp_path.iterdir()]


def test_timed_steps_leave_no_trace() -> None:
    """They are learnt by copies."""
    trainer = Line(steps=None)
    before = trainer.weights()
    trainer.fix_steps(5.0)
    assert trainer.steps is not None
    assert trainer.steps > 1
    assert trainer.weights() == before
    with pytest.raises(InputError, match="the minutes are over before the first step"):
        trainer.fix_steps(0.0)
    trainer.said.clear()
    trainer.fix_steps(None)
    assert trainer.steps == 30
    assert trainer.said[0].startswith("30 steps of ")


def test_in_bf16_the_weights_stay_in_fp32() -> None:
    trainer = Line(training="bf16")
    assert trainer.precision == "bf16"
    with trainer.autocast():
        assert trainer.networks[0](trainer.batch(0)).dtype == torch.bfloat16
    assert {v.dtype for v in run(trainer).networks[0].parameters()} == {torch.float32}


# --------------------------------------------------------------------------------------------- the parts


def test_fresh_weights_come_from_the_generator_and_spread_as_torchs() -> None:
    ours, again, torchs = (nn.Sequential(nn.Conv2d(64, 96, 3), nn.Conv2d(96, 32, 1)) for _ in range(3))
    again.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = torch.random.get_rng_state()
    for network in (ours, again):
        initialise(network, torch.Generator().manual_seed(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, a), c in zip(ours.state_dict().items(), torchs.state_dict().values(), strict=True):
        if name.endswith("weight"):
            assert float(a.std()) == pytest.approx(float(c.std()), rel=0.05), name
        assert float(a.abs().max()) == pytest.approx(float(c.abs().max()), rel=0.1), name
    assert torch.equal(ours[0].bias, again[0].bias)


@pytest.mark.parametrize("steps", [10, 37, 1000])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=steps, cycle_momentum=False)
    for k in range(steps):
        assert one_cycle(k, steps) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimiser.step()
        schedule.step()


def test_one_cycle_of_very_few_steps_is_a_rate() -> None:
    for steps in (1, 2, 3, 4):
        assert all(0 < one_cycle(k, steps) <= 1 for k in range(steps))


def test_a_precision_that_is_asked_for_wins() -> None:
    assert precision_for("fp32", CPU) == "fp32"
    assert precision_for("bf16", CPU) == "bf16"
    assert precision_for("auto", CPU) in ("fp32", "bf16")
