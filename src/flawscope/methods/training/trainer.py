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

CURVE_POINTS = 20  # number of points of the loss curve
TIMED_STEPS = 3  # number of steps to measure the time of a step, which is that of the last one
B = TypeVar("B")


class Trainer(TrainingState, ABC, Generic[B]):
    """Trainer of networks, for a number of steps.

    Each use of random numbers has a generator of its own, made of the seed, its purpose and numbers such as
    the step's. A resumed run therefore needs no generator's state, and batches can be made ahead.

    Attributes:
        MEASUREMENTS: Names of the values of `measurements`.
        CPU_STEPS: Default number of steps on a CPU.
        GPU_STEPS: Default number of steps on other devices.
        STAGE: Name of the stage in the progress.
        checks: Number of checks, which are the points of the loss curve.
    """

    MEASUREMENTS: ClassVar[tuple[str, ...]] = ()
    CPU_STEPS: ClassVar[int]
    GPU_STEPS: ClassVar[int]
    STAGE: ClassVar[str] = "training"

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

    # ---- methods for a subclass to write

    @abstractmethod
    def batch(self, step: int) -> B:
        """Make the batch of a step. Another thread calls this while the step before runs."""

    @abstractmethod
    def losses(self, networks: Sequence[nn.Module], batch: B, step: int) -> list[Tensor]:
        """Return the losses that `LOSSES` names; their sum is minimised.

        Args:
            networks: The networks, or copies of them while the time of a step is measured.
            batch: The batch of the step.
            step: Number of the step, from 0.
        """

    def prepare(self, resumed: bool) -> None:
        """Prepare the first step. It is called once, after a checkpoint was restored if `resumed`."""

    def measurements(self) -> dict[str, float]:
        """Return values for the curve by the names of `MEASUREMENTS`. It is called at every check."""
        return {}

    # ---- methods for a subclass to use

    def autocast(self) -> torch.autocast:
        """Return a context in which networks compute in the precision of training."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    # ---- how many steps

    def measure_step_time(self) -> float:
        """Return the seconds of a step, measured on copies of the networks."""
        networks = copy.deepcopy(self.networks)
        optimiser = self._make_adam(networks)
        start = 0.0
        for step in range(TIMED_STEPS):
            start = time.monotonic()
            losses = self._optimise(networks, optimiser, self.batch(step), step)
            losses.sum().item()  # wait until the device has done the step
        return time.monotonic() - start  # of the last step: the first ones take longer

    def _plan_steps(
        self, budget: Budget, pace_state: dict[str, float] | None, after: Callable[[], tuple[float, float]]
    ) -> None:
        """Set the number of steps, and the pace of a training that ends at a given time.

        Without minutes, the number is the device's default. With minutes, it is the number of steps that fit
        into them, or into the rest of an earlier run's time. The pace corrects it while the training runs.

        Args:
            budget: Minutes of the training.
            pace_state: Seconds of training that an earlier run has used and left (`Pace.state`); None: there
                is no such run.
            after: Measures the work after the training; returns its seconds, and seconds to set aside, as for
                `learn`.

        Raises:
            InputError: There is no time for a step.
        """
        step_seconds = self.measure_step_time()
        if pace_state is None and budget.until is None:
            self.steps = self.CPU_STEPS if self.device.type == "cpu" else self.GPU_STEPS
            steps = pluralize(self.steps, "step")
            duration = format_duration(self.steps * step_seconds)
            self.say(f"{steps} of {step_seconds:.2f} s: about {duration}")
            return
        later_seconds, reserved_seconds = after()
        if pace_state is None:
            until = (budget.until or 0) - reserved_seconds
            used_seconds = 0.0
        else:
            until = time.monotonic() + pace_state["left"] + later_seconds
            used_seconds = pace_state["used"]
        self.pace = Pace(until, after=later_seconds, per_step=step_seconds, used=used_seconds)
        seconds_left = self.pace.seconds_left()
        if seconds_left < step_seconds and not self.done:
            raise InputError("the minutes are over before the first step: give more --minutes, or --steps")
        step_count = int(seconds_left / step_seconds)
        steps = f"{pluralize(step_count, 'step')} of {step_seconds:.2f} s"
        self.say(f"about {steps} in {format_duration(max(seconds_left, 0))}, planned again while it runs")
        if self.planned_steps is None:
            self.steps = self.planned_steps = step_count

    def plan(self) -> str:
        """Describe the coming training in one line."""
        device = {"cpu": "this processor", "cuda": "the graphics card"}.get(self.device.type, "this device")
        about = "" if self.pace is None else "about "
        return (
            f"{about}{pluralize(self.steps or 0, 'step')} of {self.settings.batch} on {device}, "
            f"{self.precision}; --steps and --minutes change that"
        )

    # ---- training

    def learn(
        self,
        budget: Budget,
        checkpoint: tuple[Arrays, Json] | None,
        identity: Json,
        after: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
    ) -> None:
        """Run the whole training.

        Args:
            budget: Time of the training, which decides the number of steps where the settings do not. A
                resumed training takes the time that its earlier run had left.
            checkpoint: Tensors and facts of the checkpoint from which to continue; None: there is none.
            identity: Facts that decide the result: a checkpoint with other facts is refused.
            after: Measures the work after the training. It returns the seconds of this work, and the seconds
                to set aside for further work that uses the remaining time, however short.

        Raises:
            InputError: The checkpoint is of another run, or there is no time for a step.
            FlawscopeError: The loss is NaN.
        """
        self.minutes = budget.minutes
        pace_state = None
        run_identity = {**identity, "minutes": budget.minutes}
        # Without `resume`, a run uses the checkpoint if it fits, and sets it aside if it does not
        unrequested = None if budget.resume else budget.checkpoint
        if checkpoint is not None and unrequested:
            _, facts = checkpoint
            difference = describe_difference(facts, run_identity)
            if difference:
                reason = f"there is an unfinished run with {difference}"
                set_aside_checkpoint(unrequested, reason, self.say)
                checkpoint = None
        if checkpoint is not None:
            arrays, facts = checkpoint
            pace_state = self.restore(arrays, facts, run_identity)
            hint = f" of an unfinished run; remove {unrequested} to begin anew" if unrequested else ""
            self.say(f"goes on after step {self.done:,} of {self._expected():,}{hint}")
        self.prepare(resumed=checkpoint is not None)
        if pace_state is not None or self.steps is None:
            self._plan_steps(budget, pace_state, after)
        self.say(self.plan())
        self._run(budget, {**identity, "steps": self.steps, "minutes": self.minutes})

    def _run(self, budget: Budget, identity: Json) -> None:
        """Continue from step `done` to the last step."""
        first_step = self.done
        save_time = time.monotonic()
        # `seconds` plus the clock's time is now the time of the training; the end of this function adds it
        self.seconds -= save_time
        for network in self.networks:
            network.train()
        self.log = TrainingLog(budget.log, self.LOSSES, self.MEASUREMENTS, done=self.done)
        with defer_interrupts() as interrupted, ThreadPoolExecutor(1) as batch_thread, closing(self.log):
            next_batch = batch_thread.submit(self.batch, self.done)
            if self.pace is not None:
                next_batch.result()  # the clock starts after it: the first batch takes longer than others
                self.pace.begin()
            is_over = self._is_over()
            while not is_over:
                batch = next_batch.result()
                if self.pace is not None or self.done + 1 < self._expected():
                    next_batch = batch_thread.submit(self.batch, self.done + 1)
                is_over = self._step(batch)
                self._show_progress(first_step, is_over)
                is_due = time.monotonic() - save_time >= budget.checkpoint_interval
                # also after the last step: the work after the training may be interrupted
                if budget.checkpoint and (is_due or is_over or interrupted.is_set()):
                    self.save(budget.checkpoint, identity, over=is_over)
                    save_time = time.monotonic()
                if interrupted.is_set():
                    raise self._interrupt(budget.checkpoint)
        self.steps = self.done
        for network in self.networks:
            network.eval()
        self.seconds += time.monotonic()

    def _show_progress(self, first_step: int, is_over: bool) -> None:
        """Show the progress of the training.

        It is shown after each step on a CPU, and after every 64th on other devices, which would wait for it.

        Args:
            first_step: Number of steps done when this run began.
            is_over: Whether the last step is done.
        """
        if self.device.type == "cpu" or self.done % 64 == 0 or is_over:
            expected = self.done if is_over else self._expected()
            self.step(f"{self.STAGE}{self._loss_text()}", self.done - first_step, expected - first_step)

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
        check_count = int(self._share_done() * self.checks)  # number of checks due before this step
        self.done = self.done + 1
        self.steps_since_check = self.steps_since_check + 1
        self.log.add(self.done, losses, self.settings.rate * share, self.seconds + time.monotonic())
        if self.pace is not None:
            self.pace.tick()
        is_over = self._is_over()
        is_check_due = is_over or int(self._share_done() * self.checks) > check_count
        if is_check_due:
            self._record_check()
        return is_over

    def _is_over(self) -> bool:
        """Whether the last step is done."""
        if self.pace is not None:
            return self.pace.is_over
        return self.done >= self._expected()

    def _share_done(self) -> Fraction | float:
        """Return the share of the training that is done: of its steps, or of its time."""
        if self.pace is not None:
            return self.pace.share
        return Fraction(self.done, self._expected())

    def _expected(self) -> int:
        """Return the expected number of all steps.

        For a training that ends at a given time, it is `done` divided by the share of the time that is used.
        The learning rate follows the share of these steps that is done.
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

    # ---- checks

    def _record_check(self) -> None:
        """Add the mean losses since the last check, and measurements, to the curve."""
        means = dict(zip(self.LOSSES, (self.loss_sums / self.steps_since_check).tolist(), strict=True))
        values = {**self.measurements(), **means}
        self._check_finite(values.values())
        self.curve.append({"step": self.done, **values})
        self.log.measure({name: values[name] for name in self.MEASUREMENTS})
        self.loss_sums.zero_()
        self.steps_since_check = 0

    def _loss_text(self) -> str:
        """Return the mean loss since the last check as text.

        Other devices than a CPU would wait for this mean: there, the text has the loss of the last check, and
        is empty before the first check.
        """
        if self.device.type == "cpu" and self.steps_since_check:
            return f", loss {float(self.loss_sums.sum()) / self.steps_since_check:.3f}"
        if not self.curve:
            return ""
        last_point = self.curve[-1]
        return f", loss {sum(last_point[name] for name in self.LOSSES):.3f}"
