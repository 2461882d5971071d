"""Progress of a training, also of one that ends at a time whatever the machine's speed, and the learning rate
that follows from the progress."""

from __future__ import annotations

import math
import time

WARM_UP, FIRST_SHARE, LAST_SHARE = 0.3, 1 / 25, 1 / 25 / 1e4  # of one cycle's steps, and of its largest rate
DROP_AT, DROP = 0.95, 0.1  # Batzner et al., A.1


class Pace:
    """The share of a training's time that is used, and whether it is over. The work after the training is
    counted in steps: a machine that becomes slower takes longer for both.

    Attributes:
        share: of the time of the training that is used, 0..1.
        per_step: seconds of a step, the mean of this run's.
    """

    def __init__(self, until: float, after: float, per_step: float, used: float = 0.0):
        """
        Args:
            until: when all must be done, on `time.monotonic`'s clock.
            after: seconds of the work after the training, at the present speed.
            per_step: seconds of a step, at the present speed.
            used: seconds of training in earlier runs.
        """
        self.deadline, self.spent, self.per_step = until, used, per_step
        self.steps_after = after / per_step
        self.begin()

    def begin(self) -> None:
        """Start the clock of the first step."""
        self.begun, self.steps = time.monotonic(), 0
        self.share = self.spent / (self.spent + max(self.seconds_left(), self.per_step))

    def seconds_left(self) -> float:
        """Seconds of training that are left; below 0 where it should have ended."""
        return self.deadline - time.monotonic() - self.steps_after * self.per_step

    def tick(self) -> None:
        """Count a step that has been done."""
        self.steps += 1
        self.per_step = (time.monotonic() - self.begun) / self.steps
        state = self.state()
        self.share = state["used"] / (state["used"] + state["left"])

    @property
    def is_over(self) -> bool:
        """Whether the time is nearer without another step than with one."""
        return self.seconds_left() < self.per_step / 2

    def state(self) -> dict[str, float]:
        """Seconds of training so far and to come, for a checkpoint."""
        return {"used": self.spent + time.monotonic() - self.begun, "left": max(self.seconds_left(), 0.0)}


def one_cycle(step: int, steps: int) -> float:
    """The share of the largest learning rate in step 0, 1, ... of `steps`: torch's `OneCycleLR`, a cosine up
    over 30 % of the steps and one down. Adam's momentum is left alone."""
    top, last = WARM_UP * steps - 1, steps - 1

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    if step <= top:
        return between(FIRST_SHARE, 1.0, step / top if top else 1.0)
    return between(1.0, LAST_SHARE, (step - top) / (last - top) if last > top else 1.0)


def learning_rate_share(schedule: str, step: int, steps: int) -> float:
    """The share of the largest learning rate in a step. `drop`: a tenth after 95 % of the steps."""
    if schedule == "one_cycle":
        return one_cycle(step, steps)
    return DROP if schedule == "drop" and step >= DROP_AT * steps else 1.0
