"""Progress of a training, also of one that ends at a time whatever the machine's speed, and the learning rate
that follows from the progress."""

from __future__ import annotations

import math
import time
from bisect import bisect_left

WARM_UP, FIRST, LAST = 0.3, 1 / 25, 1 / 25 / 1e4  # one cycle: share of the steps, and of the largest rate
DROP_AT, DROP = 0.95, 0.1  # Batzner et al., A.1
RECENT = 8  # steps, at least, that say how fast the machine is


class Pace:
    """The share of the time that is used, and whether it is over. What comes after the training is counted in
    steps: a machine that becomes slower takes longer for both.

    Attributes:
        share: of the time of the training that is used, 0..1.
    """

    def __init__(self, until: float, after: float, per_step: float, used: float = 0.0):
        """
        Args:
            until: when all must be done, on `time.monotonic`'s clock.
            after: seconds that what comes after the training takes, at the speed of now.
            per_step: seconds of a step, at the speed of now.
            used: seconds of training in earlier runs.
        """
        self.until, self.after, self.first, self.used = until, after, per_step, used
        self.begin()

    def begin(self) -> None:
        """Start the clock of the first step."""
        self.begun = time.monotonic()
        self.ends = [self.begun]  # of the steps
        self.share = self.used / (self.used + max(self.left(), self.first))

    @property
    def per_step(self) -> float:
        """Seconds of a step, over as many of the last seconds as are left, so that a load that comes and goes
        long before the end does not count as one that stays."""
        if len(self.ends) == 1:
            return self.first
        now = self.ends[-1]
        since = min(bisect_left(self.ends, 2 * now - self.until), len(self.ends) - 1 - RECENT)
        since = max(since, 0)
        return (now - self.ends[since]) / (len(self.ends) - 1 - since)

    def left(self) -> float:
        """Seconds of training that are left; below 0 where it should have ended."""
        return self.until - time.monotonic() - self.after * self.per_step / self.first

    def tick(self) -> None:
        """Count a step that has been done."""
        self.ends.append(time.monotonic())
        state = self.state()
        self.share = state["used"] / (state["used"] + state["left"])

    @property
    def over(self) -> bool:
        """Whether the time is nearer without another step than with one."""
        return self.left() < self.per_step / 2

    def state(self) -> dict[str, float]:
        """Seconds of training so far and to come, for a checkpoint."""
        return {"used": self.used + time.monotonic() - self.begun, "left": max(self.left(), 0.0)}


def pace_until(
    until: float | None, after: float, aside: float, per_step: float, kept: dict[str, float] | None
) -> Pace:
    """Pace of a training that ends at `until`; of a resumed one, with the time that it had left."""
    if kept is None:
        assert until is not None
        return Pace(until - aside, after, per_step)
    return Pace(time.monotonic() + kept["left"] + after, after, per_step, kept["used"])


def one_cycle(step: int, steps: int) -> float:
    """The share of the largest learning rate in step 0, 1, ... of `steps`: torch's `OneCycleLR`, a cosine up
    over 30 % of the steps and one down. Adam's momentum is left alone."""
    top, last = WARM_UP * steps - 1, steps - 1

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    if step <= top:
        return between(FIRST, 1.0, step / top if top else 1.0)
    return between(1.0, LAST, (step - top) / (last - top) if last > top else 1.0)


def rate_share(schedule: str, step: int, steps: int) -> float:
    """The share of the largest learning rate in a step: `one_cycle`, `drop` (a tenth after 95 %) or
    `constant`."""
    if schedule == "one_cycle":
        return one_cycle(step, steps)
    return DROP if schedule == "drop" and step >= DROP_AT * steps else 1.0
