"""The training loop of all methods: steps that fit into a time, checkpoints, several processes."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from flawscope.artefact.state_file import Arrays, set_aside_checkpoint
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope.methods.task import SINGLE_PROCESS, Budget, ProcessGroup
from flawscope.methods.time_budget import Pace, learning_rate_share
from flawscope.methods.training_log import TrainingLog
from flawscope.methods.training_state import WORKERS_KEY, TrainingState, describe_difference
from flawscope.progress import ProgressCallback, defer_interrupts, format_duration

CURVE_POINTS = 20  # of the loss curve
TIMED_STEPS = 3  # of which the last one's time counts
B = TypeVar("B")


class Trainer(TrainingState, ABC, Generic[B]):
    """Trains networks for a number of steps. Each use of random numbers has an RNG stream of its own, made
    of the seed, its purpose and numbers such as the step's: so a resumed run needs no generator's state,
    and batches are made ahead.

    Several processes can learn together (`Budget.process_group`), W of them. In each step every one learns
    from samples of its own, the gradients are averaged, and all take the same step. The method declares which
    samples these are:

    - `DIVIDES_BATCHES`: a step's batch is divided among them, process r has its samples r, r + W, ... The
      average is weighted by the number of samples, or of pixels that count. So W processes learn what one
      process learns, but for rounding.
    - else: in step s process r has batch number s W + r. So W processes learn what one would learn if the
      loss of its step were the mean over W batches, those that it would have seen one after the other: a
      step sees W times as many samples, and steps and learning rate are what was set.
    """

    MEASUREMENTS: ClassVar[tuple[str, ...]] = ()  # names of what `measurements` gives
    CPU_STEPS: ClassVar[int]  # the devices' defaults
    GPU_STEPS: ClassVar[int]
    STAGE: ClassVar[str] = "training"  # in the progress
    DIVIDES_BATCHES: ClassVar[bool | None] = None  # how processes learn together; None: they cannot

    checks = CURVE_POINTS
    together: ProcessGroup = SINGLE_PROCESS

    def __init__(
        self,
        networks: Sequence[nn.Module],
        settings: Any,
        device: torch.device,
        say: Callable[[str], None],
        step: ProgressCallback,
    ):
        super().__init__(networks, settings, device)
        self.say, self.step = say, step

    # ---- what a training is

    @abstractmethod
    def batch(self, step: int) -> B:
        """The batch of a step, or this process's samples of it (`mine`). Called ahead, by another thread."""

    @abstractmethod
    def losses(self, networks: Sequence[nn.Module], batch: B, step: int) -> list[Tensor]:
        """The losses named in `LOSSES`, which have the same weight."""

    def weight(self, batch: B) -> float:
        """Weight of a batch among those of other processes: the number of items that its losses average."""
        return 1.0

    def prepare(self, resumed: bool) -> None:
        """Prepare the first step. Called once, after a checkpoint has been restored."""

    def measurements(self) -> dict[str, float]:
        """Values for the curve, measured at every check."""
        return {}

    # ---- their tools

    def autocast(self) -> torch.autocast:
        """Context in which networks compute in the precision of training."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def own_samples(self, size: int) -> range:
        """The samples of a step's batch that are this process's, where batches are divided."""
        return range(self.together.rank, size, self.together.world)

    # ---- how many steps

    def measure_step_time(self) -> float:
        """Seconds of a step, measured on copies of the networks."""
        networks = copy.deepcopy(self.networks)
        optimiser, begun = self._make_adam(networks), 0.0
        for k in range(TIMED_STEPS):
            begun = time.monotonic()
            self._optimise(networks, optimiser, self._own_batch(k), k).sum().item()
        return time.monotonic() - begun

    def _plan_steps(
        self, budget: Budget, kept: dict[str, float] | None, after: Callable[[], tuple[float, float]]
    ) -> None:
        """Set the number of steps: the device's default; with minutes, as many as fit into them, or into the
        time `kept` of an earlier run, by the time of a few, planned again while the training runs."""
        tried = self.measure_step_time()  # all make the same steps
        per_step = self.together.on_first_process(lambda: tried)
        if kept is None and budget.until is None:
            self.steps = self.CPU_STEPS if self.device.type == "cpu" else self.GPU_STEPS
            steps = pluralize(self.steps, "step")
            self.say(f"{steps} of {per_step:.2f} s: about {format_duration(self.steps * per_step)}")
            return
        later, aside = after()
        until, used = (budget.until or 0) - aside, 0.0
        if kept is not None:
            until, used = time.monotonic() + kept["left"] + later, kept["used"]
        self.pace = Pace(until, later, per_step, used)
        left = self.together.on_first_process(self.pace.seconds_left)
        if left < per_step and not self.done:
            raise InputError("the minutes are over before the first step: give more --minutes, or --steps")
        fitting = int(left / per_step)
        planned = f"{pluralize(fitting, 'step')} of {per_step:.2f} s"
        self.say(f"about {planned} in {format_duration(max(left, 0))}, planned again while it runs")
        if self.planned_steps is None:
            self.steps = self.planned_steps = fitting

    def plan(self) -> str:
        """Description of the coming training, in one line."""
        where = {"cpu": "this processor", "cuda": "the graphics card"}.get(self.device.type, "this device")
        batch, world = str(self.settings.batch), self.together.world
        if world > 1:
            where = f"{world} workers, {self.device.type}"
            batch = batch if self.DIVIDES_BATCHES else f"{world} x {batch}"
        return (
            f"{'' if self.pace is None else 'about '}{pluralize(self.steps or 0, 'step')} of "
            f"{batch} on {where}, {self.precision}; --steps and --minutes change that"
        )

    # ---- training

    def learn(
        self,
        budget: Budget,
        found: tuple[Arrays, dict[str, Any]] | None,
        identity: dict[str, Any],
        after: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
    ) -> None:
        """Run the whole training.

        Args:
            budget: its end fixes a number of steps that is open. A resumed training takes the time that it
                had left, whenever that is.
            found: the checkpoint to go on from.
            identity: facts that decide the result: a checkpoint of another run is refused.
            after: measures the seconds that the work after the training takes, and gives those that are set
                aside for work that can take any time.

        Raises:
            InputError: a checkpoint of another run, no time for a step, or a training that cannot be divided.
            FlawscopeError: NaN loss, or workers that do not learn from the same.
        """
        self.minutes, kept, self.together = budget.minutes, None, budget.process_group
        identity = {**identity, WORKERS_KEY: self.together.world}
        self._check_processes(identity)
        known = {**identity, "minutes": budget.minutes}
        unasked = None if budget.resume else budget.checkpoint
        if found is not None and unasked and (other := describe_difference(found[1], known)):
            set_aside_checkpoint(unasked, f"there is an unfinished run with {other}", self.say)
            found = None
        found = self.together.on_first_process(lambda: found)
        if found is not None:
            kept = self.restore(*found, known)
            anew = f" of an unfinished run; remove {unasked} to begin anew" if unasked else ""
            self.say(f"goes on after step {self.done:,} of {self._expected():,}{anew}")
        self.prepare(found is not None)
        if kept is not None or self.steps is None:
            self._plan_steps(budget, kept, after)
        self.say(self.plan())
        self._run(budget, {**identity, "steps": self.steps, "minutes": self.minutes})

    def _run(self, budget: Budget, identity: dict[str, Any]) -> None:
        """Go on from step `done` to the last one."""
        first, saved = self.done, time.monotonic()
        self.seconds -= saved
        for network in self.networks:
            network.train()
        names = (self.LOSSES, self.MEASUREMENTS, budget.tensorboard)
        self.log = TrainingLog(budget.log, *names, known=self.log.losses, done=self.done)
        with defer_interrupts() as interrupted, ThreadPoolExecutor(1) as ahead, closing(self.log):
            waiting = ahead.submit(self._own_batch, self.done)
            if self.pace is not None:
                waiting.result()  # what the first one takes says nothing about the others
                self.pace.begin()
            over = self._is_over()
            while not over:
                batch = waiting.result()
                if self.pace is not None or self.done + 1 < self._expected():
                    waiting = ahead.submit(self._own_batch, self.done + 1)
                over = self._step(batch)
                if self.device.type == "cpu" or self.done % 64 == 0 or over:
                    expected = self.done if over else self._expected()
                    self.step(f"{self.STAGE}{self._loss_text()}", self.done - first, expected - first)
                late = time.monotonic() - saved >= budget.checkpoint_interval
                # after the last step, too: what comes then may be interrupted
                if budget.checkpoint and (late or over or interrupted.is_set()):
                    self.save(budget.checkpoint, identity, over=over)
                    saved = time.monotonic()
                if interrupted.is_set():
                    so_far = f"step {self.done:,} of {self._expected():,}"
                    if budget.checkpoint is None:
                        raise KeyboardInterrupt(f"{so_far} is lost: there is no checkpoint")
                    raise KeyboardInterrupt(
                        f"{so_far} is kept in {budget.checkpoint}; the same call goes on from there"
                    )
        self.steps = self.done
        for network in self.networks:
            network.eval()
        self.seconds += time.monotonic()

    def _step(self, batch: B) -> bool:
        """Learn from a batch, log its losses, and return whether it was the last one."""
        share = learning_rate_share(self.settings.schedule, self.done, self._expected())
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * share
        losses = self._optimise(self.networks, self.optimiser, batch, self.done)
        self.loss_sums += losses
        before = int(self._share_done() * self.checks)
        self.done, self.steps_since_check = self.done + 1, self.steps_since_check + 1
        self.log.add(self.done, losses, self.settings.rate * share, self.seconds + time.monotonic())
        if self.pace is not None:
            self.pace.tick()
        over = self._is_over()
        if over or int(self._share_done() * self.checks) > before:
            self._record_check()
        return over

    def _is_over(self) -> bool:
        """Whether the last step is done; of a training that ends at a time, by the first process's clock."""
        pace = self.pace
        if pace is None:
            return self.done >= self._expected()
        pace.share, over = self.together.on_first_process(lambda: (pace.share, pace.is_over))
        return over

    def _share_done(self) -> Fraction | float:
        """The share of the training that is done."""
        return Fraction(self.done, self._expected()) if self.pace is None else self.pace.share

    def _expected(self) -> int:
        """Steps in all, as far as that is known: the learning rate follows the share of them that is done, in
        a training that ends at a time the share of the time."""
        assert self.steps is not None
        if self.pace is None or not self.done or not self.pace.share:
            return self.steps
        return max(self.done + 1, round(self.done / self.pace.share))

    def _optimise(
        self, networks: Sequence[nn.Module], optimiser: torch.optim.Optimizer, batch: B, step: int
    ) -> Tensor:
        """Make one step, and return its losses, those of `LOSSES`."""
        losses = torch.stack(self.losses(networks, batch, self._batch_number(step)))
        optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        losses = losses.detach()
        if self.together.world > 1:
            learnt = [v for network in networks for v in network.parameters() if v.requires_grad]
            for values in learnt:
                if values.grad is None:  # this process's samples give none
                    values.grad = torch.zeros_like(values)
            gradients = [values.grad for values in learnt if values.grad is not None]
            self.together.average([*gradients, losses], self.weight(batch))
        optimiser.step()
        return losses

    # ---- several processes

    def _check_processes(self, identity: dict[str, Any]) -> None:
        """Check that all processes learn from the same and in the same way."""
        if self.together.world == 1:
            return
        if self.DIVIDES_BATCHES is None:
            raise InputError("this training cannot be divided among workers: take one")
        if self.DIVIDES_BATCHES and self.settings.batch < self.together.world:
            raise InputError(
                f"a batch of {self.settings.batch} cannot be divided among {self.together.world} workers: "
                "take fewer, or give a larger --set batch"
            )
        if other := describe_difference(
            {"identity": self.together.on_first_process(lambda: identity)}, identity
        ):
            raise FlawscopeError(
                f"the first worker has {other}: all need the same pictures, and machines of one kind"
            )

    def _batch_number(self, step: int) -> int:
        """Number of the batch that this process learns from in a step, in whole or in part."""
        return step if self.DIVIDES_BATCHES else step * self.together.world + self.together.rank

    def _own_batch(self, step: int) -> B:
        return self.batch(self._batch_number(step))

    # ---- what was learnt

    def _record_check(self) -> None:
        means = dict(zip(self.LOSSES, (self.loss_sums / self.steps_since_check).tolist(), strict=True))
        found = {**self.measurements(), **means}
        self._check_finite(found.values())
        self.curve.append({"step": self.done, **found})
        self.log.measure({name: found[name] for name in self.MEASUREMENTS})
        self.loss_sums.zero_()
        self.steps_since_check = 0

    def _loss_text(self) -> str:
        if self.device.type == "cpu" and self.steps_since_check:
            return f", loss {float(self.loss_sums.sum()) / self.steps_since_check:.3f}"
        return f", loss {sum(self.curve[-1][k] for k in self.LOSSES):.3f}" if self.curve else ""
