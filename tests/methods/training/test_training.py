"""The trainer that all methods share, on a network that costs nothing."""

import signal

import pytest
import torch
from torch import Tensor, nn

from flawscope.calibration.streams import Stream
from flawscope.errors import CheckpointError, FlawscopeError, InputError
from flawscope.methods.settings import TrainingSettings
from flawscope.methods.task import Budget
from flawscope.methods.training.state import initialise, learning_rate_share, one_cycle
from flawscope.methods.training.state_file import (
    checkpoint_progress,
    load_checkpoint,
    read_checkpoint,
    write_state,
)
from flawscope.methods.training.trainer import Trainer

CPU = torch.device("cpu")


class Line(Trainer[Tensor]):
    """Learns y = 2 x from numbers that the step decides, and counts how often it was prepared."""

    NETWORKS, LOSSES = ("line",), ("loss",)
    CPU_STEPS = GPU_STEPS = 30

    def __init__(self, step=lambda *_: None, **settings):
        config = TrainingSettings(**{"steps": 6, "rate": 0.05, "training": "fp32", **settings})
        super().__init__([nn.Conv2d(1, 1, 1)], config, CPU, lambda line: self.said.append(line), step)
        self.said: list[str] = []
        self.beside = torch.zeros(2)
        self.factor = 1.0
        self.initialise(Stream.EFFICIENTAD_WEIGHTS)

    def batch(self, step):
        generator = torch.Generator().manual_seed(self.torch_seed(Stream.EFFICIENTAD_STEP, step))
        return torch.rand(4, 1, 2, 2, generator=generator)

    def losses(self, networks, batch, step):
        return [(networks[0](batch) - 2 * batch).square().mean() * self.factor]

    def prepare(self, resumed):
        if not resumed:
            self.beside += 1

    def measurements(self):
        return {"weight": float(self.networks[0].weight.detach())}

    def state(self):
        return {"beside": self.beside}

    def weights(self):
        return torch.cat([v.detach().flatten() for v in self.networks[0].parameters()]).tolist()


def run(trainer, checkpoint=None, found=None, **identity):
    trainer.learn(Budget(checkpoint=checkpoint, checkpoint_interval=0.0), found, identity)
    return trainer


def stop_after(count):
    """A `step` that stops the training as Ctrl-C does."""

    def step(stage, done, total):
        if done == count:
            raise KeyboardInterrupt

    return step


class Normed(Line):
    """Its network has running means, which are no parameters."""

    def __init__(self, step=lambda *_: None):
        super().__init__(step)
        self.networks = (nn.Sequential(*self.networks, nn.BatchNorm2d(1)),)
        self.optimiser = self._make_adam(self.networks)

    def measurements(self):
        return {}


class Dormant(Normed):
    """A layer of its network gets no gradient in the first steps."""

    def __init__(self, step=lambda *_: None):
        super().__init__(step)
        self.networks = (nn.Sequential(self.networks[0][0], nn.Conv2d(1, 1, 1)),)
        self.optimiser = self._make_adam(self.networks)
        self.initialise(Stream.EFFICIENTAD_WEIGHTS)

    def losses(self, networks, batch, step):
        used = networks[0] if step >= 4 else networks[0][0]
        return [(used(batch) - 2 * batch).square().mean()]


@pytest.mark.parametrize(
    ("kind", "stop"), [(Line, 1), (Line, 4), (Normed, 3), (Dormant, 2), (Dormant, 5)], ids=str
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, kind, stop):
    path = tmp_path / "c.safetensors"
    torch.manual_seed(1)  # which decides nothing
    whole = run(kind())
    with pytest.raises(KeyboardInterrupt):
        run(kind(step=stop_after(stop + 1)), path, seed=0)  # the step that is stopped is lost
    found = read_checkpoint(path)
    assert found[1]["done"] == stop
    torch.manual_seed(2)
    resumed = run(kind(), None, found, seed=0)
    assert f"goes on after step {stop} of 6" in resumed.said
    for name, values in whole.networks[0].state_dict().items():
        assert torch.equal(resumed.networks[0].state_dict()[name], values), name
    assert resumed.curve == whole.curve
    assert resumed.curve[-1]["step"] == 6
    assert resumed.beside.tolist() == [1.0, 1.0]  # prepared once, and restored
    assert resumed.seconds > 0


def test_it_learns_and_draws_its_curve():
    trainer = run(Line(steps=200))
    assert [point["step"] for point in trainer.curve] == list(range(10, 201, 10))
    assert trainer.curve[-1]["loss"] < 0.1 * trainer.curve[0]["loss"]
    assert trainer.curve[-1]["weight"] == pytest.approx(trainer.weights()[0])
    assert not trainer.networks[0].training


class Grouped(Line):
    """Its bias learns at a rate of its own."""

    def groups(self, networks):
        return [{"params": [networks[0].weight]}, {"params": [networks[0].bias], "lr": 0.01}]

    def losses(self, networks, batch, step):
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        return super().losses(networks, batch, step)


def test_each_group_follows_the_schedule_at_its_own_rate():
    trainer = run(Grouped(schedule="drop", steps=40))
    assert trainer.rates == pytest.approx([0.005, 0.001])


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
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
    write_state(path, tensors, "teacher", facts)
    with pytest.raises(InputError, match="it is a teacher, not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("steps", [6, 40])  # checked in step 1 and in step 2
def test_a_nan_loss_is_reported_and_never_kept(tmp_path, steps):
    trainer = Line(steps=steps)
    trainer.factor = torch.nan
    with pytest.raises(FlawscopeError, match=r"NaN loss after 1 step: .*lower --set rate"):
        run(trainer, tmp_path / "c.safetensors")
    assert not [*tmp_path.glob("*.safetensors")]


def test_timed_steps_leave_no_trace():
    """They are learnt by copies."""
    trainer = Line(steps=None)
    before = trainer.weights()
    assert trainer.measure_step_time() > 0
    assert trainer.weights() == before
    with pytest.raises(InputError, match="the minutes are over before the first step"):
        Line(steps=None).learn(Budget(minutes=1e-9), None, {})
    assert run(trainer).steps == 30  # without minutes
    assert trainer.said[0].startswith("30 steps of ")


def test_in_bf16_the_weights_stay_in_fp32():
    trainer = Line(training="bf16")
    assert trainer.precision == "bf16"
    with trainer.autocast():
        assert trainer.networks[0](trainer.batch(0)).dtype == torch.bfloat16
    assert {v.dtype for v in run(trainer).networks[0].parameters()} == {torch.float32}


STEP = 0.5  # seconds at speed 1


class Clock:
    """Instead of the time module: a machine whose speed changes."""

    def __init__(self, *speeds):
        """`speeds`: from which second on it is so fast."""
        self.now, self.speeds = 0.0, speeds

    def monotonic(self):
        return self.now

    def work(self, seconds):
        """What takes so long at speed 1."""
        while seconds > 1e-9:
            speed = next(speed for since, speed in reversed(self.speeds) if self.now >= since)
            ends = min((since for since, _ in self.speeds if since > self.now), default=float("inf"))
            done = min(seconds, (ends - self.now) * speed)
            self.now += done / speed
            seconds -= done


class Timed(Line):
    """A step takes half a second, what comes after the training 4 s."""

    def __init__(self, clock, **settings):
        super().__init__(**{"steps": None, **settings})
        self.clock = clock
        self.rates: list[tuple[float, float]] = []  # when a step began, and its learning rate

    def losses(self, networks, batch, step):
        if networks is self.networks:  # not a copy, which is timed beforehand
            self.rates.append((self.clock.now, self.optimiser.param_groups[0]["lr"]))
        self.clock.work(STEP)
        return super().losses(networks, batch, step)

    def after(self):
        """A tenth is done to measure it; and 6 s aside."""
        before = self.clock.now
        self.clock.work(0.4)
        return 10 * (self.clock.now - before), 6.0


@pytest.fixture
def clock_of(monkeypatch):
    def use(*speeds):
        clock = Clock(*speeds)
        for module in ("trainer", "state"):
            monkeypatch.setattr(f"flawscope.methods.training.{module}.time", clock)
        return clock

    return use


def trained(clock, found=None, checkpoint=None, **settings):
    trainer = Timed(clock, **settings)
    trainer.learn(
        Budget(2.0, checkpoint, checkpoint_interval=0.0, started=clock.now), found, {}, trainer.after
    )
    return trainer


SPEEDS = {
    "steady": [(0.0, 1.0)],
    "slower": [(0.0, 1.0), (60.0, 0.25)],
    "faster": [(0.0, 1.0), (60.0, 4.0)],
    "busy at first": [(0.0, 0.25), (30.0, 1.0)],
    "in between": [(0.0, 1.0), (40.0, 0.25), (80.0, 1.0)],
    "late": [(0.0, 1.0), (100.0, 0.25)],
}


@pytest.mark.parametrize("name", SPEEDS)
def test_minutes_are_kept_whatever_the_speed_does(clock_of, name):
    """And the learning rate follows the share of the time that is used."""
    clock = clock_of(*SPEEDS[name])
    trainer = trained(clock)
    clock.work(4.0)
    clock.now = max(clock.now, min(clock.now + 6.0, 120.0))  # what was set aside, as far as it is there
    assert clock.now == pytest.approx(120, rel=0.05)
    assert trainer.steps == trainer.done == len(trainer.rates)
    possible = sum(
        speed * (end - begin) / STEP
        for (begin, speed), end in zip(SPEEDS[name], [b for b, _ in SPEEDS[name][1:]] + [120.0], strict=True)
    )
    assert 0.8 * possible < trainer.done <= possible  # the rest is what comes before and after
    assert [point["step"] for point in trainer.curve] == sorted({p["step"] for p in trainer.curve})
    assert trainer.curve[-1]["step"] == trainer.done
    assert len(trainer.curve) == pytest.approx(trainer.checks, abs=1)
    if name == "late":  # nobody knows beforehand
        return
    (begin, _), (end, last) = trainer.rates[0], trainer.rates[-1]
    top, largest = max(trainer.rates, key=lambda pair: pair[1])
    assert (top - begin) / (end - begin) == pytest.approx(0.3, abs=0.06)
    assert largest == pytest.approx(0.05, rel=0.01)
    assert last < 0.01 * largest
    dropped = trained(clock_of(*SPEEDS[name]), schedule="drop").rates
    shares = [(at - dropped[0][0]) / (dropped[-1][0] - dropped[0][0]) for at, rate in dropped if rate < 0.01]
    assert shares[0] == pytest.approx(0.95, abs=0.04)


def test_a_resumed_training_takes_the_time_that_it_had_left(clock_of, tmp_path):
    path, clock = tmp_path / "c.safetensors", clock_of(*SPEEDS["slower"])
    learn = Timed._optimise

    def stopping(self, *given):
        if self.clock.now > 50:
            raise KeyboardInterrupt
        return learn(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timed, "_optimise", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(clock, checkpoint=path)
    found = read_checkpoint(path)
    clock.now = 1000.0
    resumed = trained(clock, found)
    assert resumed.seconds == pytest.approx(120 - 6 - 4 - 2, rel=0.05)  # less what is done before and after
    before = found[1]["pace"]["used"]
    assert resumed.rates[0][0] + resumed.seconds - before == pytest.approx(clock.now, rel=0.01)
    (_, first), (_, last) = resumed.rates[0], resumed.rates[-1]
    expected = one_cycle(round(1000 * before / resumed.seconds), 1000) * 0.05
    assert first == pytest.approx(expected, rel=0.05)
    assert last < 0.01 * 0.05
    assert resumed.minutes == 2.0
    with pytest.raises(InputError, match=r"another minutes 2.0, this one has 3.0: give the same"):
        Timed(clock).learn(Budget(3.0, started=clock.now), found, {})
    alone = Timed(clock)
    alone.learn(Budget(started=clock.now), found, {})  # --resume alone goes on as it began
    assert alone.minutes == 2.0
    assert alone.seconds == pytest.approx(resumed.seconds, rel=0.05)


def test_fresh_weights_come_from_the_generator_and_spread_as_torchs():
    ours, again, torchs = (nn.Sequential(nn.Conv2d(64, 96, 3), nn.Conv2d(96, 32, 1)) for _ in range(3))
    again.to(memory_format=torch.channels_last)
    before = torch.random.get_rng_state()
    for network in (ours, again):
        initialise(network, torch.Generator().manual_seed(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, a), c in zip(ours.state_dict().items(), torchs.state_dict().values(), strict=True):
        if name.endswith("weight"):
            assert float(a.std()) == pytest.approx(float(c.std()), rel=0.05), name
        assert float(a.abs().max()) == pytest.approx(float(c.abs().max()), rel=0.1), name
    assert torch.equal(ours[0].bias, again[0].bias)


def test_no_layer_keeps_the_weights_that_the_process_drew():
    """Of any kind; a module that is not known says how, or is refused by its name."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(4))

    class Known(Scaled):
        def initialise(self, generator):
            self.scale.data.uniform_(generator=generator)

    def drawn(seed):
        torch.manual_seed(seed)
        layers = nn.Linear(4, 4), nn.ConvTranspose2d(4, 4, 2), nn.Conv1d(4, 4, 3), nn.BatchNorm2d(4)
        network = nn.Sequential(*layers, nn.GroupNorm(2, 4), Known())
        for values in network[3:5].parameters():
            values.data.uniform_()
        initialise(network, torch.Generator().manual_seed(3))
        return network

    with torch.random.fork_rng():
        one, other = (drawn(seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(values, other[name]) for name, values in one.items())
    with pytest.raises(TypeError, match=r"no fresh weights for 1 \(Scaled\)"):
        initialise(nn.Sequential(nn.Linear(2, 2), Scaled()), torch.Generator())


@pytest.mark.parametrize("steps", [10, 37, 1000])
def test_one_cycle_is_torchs(steps):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=steps, cycle_momentum=False)
    for k in range(steps):
        assert one_cycle(k, steps) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimiser.step()
        schedule.step()
    assert [learning_rate_share("drop", k, steps) for k in range(steps)].count(0.1) == steps // 20


def test_schedules_of_very_few_steps_are_rates():
    assert all(0 < one_cycle(k, steps) <= 1 for steps in (1, 2, 3, 4) for k in range(steps))
    assert {learning_rate_share("constant", step, 9) for step in range(9)} == {1.0}


def press_at(count):
    """A `step` during which Ctrl-C is pressed."""

    def step(stage, done, total):
        if done == count:
            signal.raise_signal(signal.SIGINT)

    return step


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_ctrl_c_keeps_every_step_that_is_done(tmp_path, stop):
    """However long ago the last checkpoint was written, and after the last step, too."""
    path, whole = tmp_path / "c.checkpoint.safetensors", run(Line())
    budget = Budget(checkpoint=path, checkpoint_interval=1e9)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=f"step {stop} of 6 is kept"):
        Line(step=press_at(stop)).learn(budget, None, {"seed": 0})
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint_progress(path) == (stop, 6)
    again = Line()
    again.learn(budget, read_checkpoint(path), {"seed": 0})  # going on is not asked for
    assert (
        again.said[0] == f"goes on after step {stop} of 6 of an unfinished run; remove {path} to begin anew"
    )
    assert again.weights() == whole.weights()
    assert again.curve == whole.curve


def test_the_second_ctrl_c_ends_at_once(tmp_path):
    def twice(stage, done, total):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Line(step=twice).learn(Budget(checkpoint=path, checkpoint_interval=1e9), None, {})
    assert not path.exists()


def test_a_training_that_ended_at_a_time_is_over_when_it_goes_on(tmp_path):
    path = tmp_path / "c.safetensors"
    first = Line(steps=None)
    first.learn(Budget(minutes=0.005, checkpoint=path), None, {"seed": 0})
    second = Line(steps=None)
    second.learn(Budget(minutes=0.005, checkpoint=path, resume=True), read_checkpoint(path), {"seed": 0})
    assert second.steps == first.steps
    assert second.planned_steps == first.planned_steps
    assert second.weights() == first.weights()


def test_an_unfinished_run_of_other_settings_is_put_aside(tmp_path):
    path = tmp_path / "c.checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Line(step=press_at(2)).learn(Budget(checkpoint=path), None, {"seed": 0})
    held = path.read_bytes()
    other = Line()
    other.learn(Budget(checkpoint=path), read_checkpoint(path), {"seed": 1})
    assert other.said[0] == (
        "there is an unfinished run with another seed 0, this one has 1; begins at the first step, and keeps "
        "it as c.earlier.safetensors"
    )
    assert (tmp_path / "c.earlier.safetensors").read_bytes() == held
    assert other.weights() == run(Line()).weights()


def test_a_checkpoint_that_cannot_be_read_stops_only_who_asked_for_it(tmp_path):
    path = tmp_path / "c.checkpoint.safetensors"
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, True, pytest.fail)
    said = []
    assert load_checkpoint(path, False, said.append) is None
    assert said[0].endswith("begins at the first step, and keeps it as c.earlier.safetensors")
    assert load_checkpoint(path, True, said.append) is None
    assert said[1] == f"there is no {path.name} to go on from: begins at the first step"
    assert checkpoint_progress(tmp_path / "c.earlier.safetensors") is None
