"""The training loop of all methods: steps that fit into a time, checkpoints."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from flawscope.errors import InputError, pluralize
from flawscope.methods.settings import TrainingFields
from flawscope.methods.task import Budget
from flawscope.methods.training.log import TrainingLog
from flawscope.methods.training.state import Pace, TrainingState, describe_difference, learning_rate_share
from flawscope.methods.training.state_file import Arrays, set_aside_checkpoint
from flawscope.progress import ProgressCallback, Say, defer_interrupts, format_duration

if TYPE_CHECKING:
    from flawscope.types import Json

CURVE_POINTS = 20  # of the loss curve
TIMED_STEPS = 3  # of which the last one's time counts
B = TypeVar("B")


class Trainer(TrainingState, ABC, Generic[B]):
    """Trainer of networks, for a number of steps.

    Each use of random numbers has its own RNG stream, made of the seed, its purpose and numbers such as the
    step's. A resumed run therefore needs no generator's state, and batches can be made ahead.
    """

    MEASUREMENTS: ClassVar[tuple[str, ...]] = ()  # names of the values of `measurements`
    CPU_STEPS: ClassVar[int]  # the devices' defaults
    GPU_STEPS: ClassVar[int]
    STAGE: ClassVar[str] = "training"  # in the progress

    checks = CURVE_POINTS

    def __init__(
        self,
        networks: Sequence[nn.Module],
        settings: TrainingFields,
        device: torch.device,
        say: Say,
        step: ProgressCallback,
    ):
        super().__init__(networks, settings, device)
        self.say = say
        self.step = step

    # ---- what a training is

    @abstractmethod
    def batch(self, step: int) -> B:
        """Make the batch of a step. It is called ahead, by another thread."""

    @abstractmethod
    def losses(self, networks: Sequence[nn.Module], batch: B, step: int) -> list[Tensor]:
        """Return the losses that `LOSSES` names; all have the same weight."""

    def prepare(self, resumed: bool) -> None:
        """Prepare the first step. It is called once, after a checkpoint has been restored."""

    def measurements(self) -> dict[str, float]:
        """Return values for the curve, measured at every check, by the names of `MEASUREMENTS`."""
        return {}

    # ---- their tools

    def autocast(self) -> torch.autocast:
        """Return a context in which networks compute in the precision of training."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    # ---- how many steps

    def measure_step_time(self) -> float:
        """Return the seconds of a step, measured on copies of the networks."""
        networks = copy.deepcopy(self.networks)
        optimiser = self._make_adam(networks)
        begun = 0.0
        for k in range(TIMED_STEPS):
            begun = time.monotonic()
            self._optimise(networks, optimiser, self.batch(k), k).sum().item()
        return time.monotonic() - begun

    def _plan_steps(
        self, budget: Budget, kept: dict[str, float] | None, after: Callable[[], tuple[float, float]]
    ) -> None:
        """Set the number of steps.

        It is the device's default. With minutes, it is the number that fits into them, or into the rest of an
        earlier run's time, by the time of a few steps; it is planned again while the training runs.

        Args:
            budget: Minutes of the training.
            kept: Seconds of training that an earlier run has used and left; None: there is no such run.
            after: Measures the seconds of the work after the training, and of work set aside (`learn`).
        """
        per_step = self.measure_step_time()
        if kept is None and budget.until is None:
            self.steps = self.CPU_STEPS if self.device.type == "cpu" else self.GPU_STEPS
            steps = pluralize(self.steps, "step")
            self.say(f"{steps} of {per_step:.2f} s: about {format_duration(self.steps * per_step)}")
            return
        later, aside = after()
        until = (budget.until or 0) - aside
        used = 0.0
        if kept is not None:
            until = time.monotonic() + kept["left"] + later
            used = kept["used"]
        self.pace = Pace(until, later, per_step, used)
        left = self.pace.seconds_left()
        if left < per_step and not self.done:
            raise InputError("the minutes are over before the first step: give more --minutes, or --steps")
        fitting = int(left / per_step)
        planned = f"{pluralize(fitting, 'step')} of {per_step:.2f} s"
        self.say(f"about {planned} in {format_duration(max(left, 0))}, planned again while it runs")
        if self.planned_steps is None:
            self.steps = self.planned_steps = fitting

    def plan(self) -> str:
        """Describe the coming training in one line."""
        where = {"cpu": "this processor", "cuda": "the graphics card"}.get(self.device.type, "this device")
        return (
            f"{'' if self.pace is None else 'about '}{pluralize(self.steps or 0, 'step')} of "
            f"{self.settings.batch} on {where}, {self.precision}; --steps and --minutes change that"
        )

    # ---- training

    def learn(
        self,
        budget: Budget,
        found: tuple[Arrays, Json] | None,
        identity: Json,
        after: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
    ) -> None:
        """Run the whole training.

        Args:
            budget: Its end decides the number of steps where the settings do not. A resumed training takes
                the time that it had left, whenever it is resumed.
            found: The checkpoint from which to continue; None: there is none.
            identity: Facts that decide the result: a checkpoint with other facts is refused.
            after: Measures the seconds of the work after the training; returns them with the seconds that are
                set aside for work that can take any time.

        Raises:
            InputError: The checkpoint is of another run, or there is no time for a step.
            FlawscopeError: The loss is NaN.
        """
        self.minutes = budget.minutes
        kept = None
        known = {**identity, "minutes": budget.minutes}
        unasked = None if budget.resume else budget.checkpoint
        if found is not None and unasked and (other := describe_difference(found[1], known)):
            set_aside_checkpoint(unasked, f"there is an unfinished run with {other}", self.say)
            found = None
        if found is not None:
            kept = self.restore(*found, known)
            anew = f" of an unfinished run; remove {unasked} to begin anew" if unasked else ""
            self.say(f"goes on after step {self.done:,} of {self._expected():,}{anew}")
        self.prepare(found is not None)
        if kept is not None or self.steps is None:
            self._plan_steps(budget, kept, after)
        self.say(self.plan())
        self._run(budget, {**identity, "steps": self.steps, "minutes": self.minutes})

    def _run(self, budget: Budget, identity: Json) -> None:
        """Continue from step `done` to the last step."""
        first = self.done
        saved = time.monotonic()
        self.seconds -= saved
        for network in self.networks:
            network.train()
        names = (self.LOSSES, self.MEASUREMENTS)
        self.log = TrainingLog(budget.log, *names, done=self.done)
        with defer_interrupts() as interrupted, ThreadPoolExecutor(1) as ahead, closing(self.log):
            waiting = ahead.submit(self.batch, self.done)
            if self.pace is not None:
                waiting.result()  # what the first one takes says nothing about the others
                self.pace.begin()
            over = self._is_over()
            while not over:
                batch = waiting.result()
                if self.pace is not None or self.done + 1 < self._expected():
                    waiting = ahead.submit(self.batch, self.done + 1)
                over = self._step(batch)
                self._show_progress(first, over)
                late = time.monotonic() - saved >= budget.checkpoint_interval
                # after the last step, too: what comes then may be interrupted
                if budget.checkpoint and (late or over or interrupted.is_set()):
                    self.save(budget.checkpoint, identity, over=over)
                    saved = time.monotonic()
                if interrupted.is_set():
                    raise self._interrupt(budget.checkpoint)
        self.steps = self.done
        for network in self.networks:
            network.eval()
        self.seconds += time.monotonic()

    def _show_progress(self, first: int, over: bool) -> None:
        """Show the progress of a training that began with step `first`.

        It is shown after each step on a CPU, and at times on other devices, which would wait for it.
        """
        if self.device.type == "cpu" or self.done % 64 == 0 or over:
            expected = self.done if over else self._expected()
            self.step(f"{self.STAGE}{self._loss_text()}", self.done - first, expected - first)

    def _interrupt(self, checkpoint: Path | None) -> KeyboardInterrupt:
        """Return the interrupt that ends the training; its message names the checkpoint, if there is one."""
        steps = f"step {self.done:,} of {self._expected():,}"
        if checkpoint is None:
            return KeyboardInterrupt(f"{steps} is lost: there is no checkpoint")
        return KeyboardInterrupt(f"{steps} is kept in {checkpoint}; the same call goes on from there")

    def _step(self, batch: B) -> bool:
        """Learn from a batch, log its losses, and return whether it was the last batch."""
        share = learning_rate_share(self.settings.schedule, self.done, self._expected())
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * share
        losses = self._optimise(self.networks, self.optimiser, batch, self.done)
        self.loss_sums += losses
        before = int(self._share_done() * self.checks)
        self.done = self.done + 1
        self.steps_since_check = self.steps_since_check + 1
        self.log.add(self.done, losses, self.settings.rate * share, self.seconds + time.monotonic())
        if self.pace is not None:
            self.pace.tick()
        over = self._is_over()
        if over or int(self._share_done() * self.checks) > before:
            self._record_check()
        return over

    def _is_over(self) -> bool:
        """Whether the last step is done."""
        return self.done >= self._expected() if self.pace is None else self.pace.is_over

    def _share_done(self) -> Fraction | float:
        return Fraction(self.done, self._expected()) if self.pace is None else self.pace.share

    def _expected(self) -> int:
        """Return the expected number of all steps.

        The learning rate follows the share of these steps that is done; in a training that ends at a given
        time, this is the share of the time.
        """
        assert self.steps is not None
        if self.pace is None or not self.done or not self.pace.share:
            return self.steps
        return max(self.done + 1, round(self.done / self.pace.share))

    def _optimise(
        self, networks: Sequence[nn.Module], optimiser: torch.optim.Optimizer, batch: B, step: int
    ) -> Tensor:
        """Make a step, and return its losses in the order of `LOSSES`."""
        losses = torch.stack(self.losses(networks, batch, step))
        optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        losses = losses.detach()
        optimiser.step()
        return losses

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
