"""How far a training is that ends at a time, whatever the machine's speed does meanwhile."""

from __future__ import annotations

import time
from collections import deque

RECENT = 8  # steps whose time says how fast the machine is now


class Pace:
    """The share of the time that is used, and whether it is over. What comes after the training is counted in
    steps: a machine that becomes slower takes longer for both.

    Attributes:
        share: of the time of the training that is used, 0..1. It never falls.
    """

    def __init__(self, until: float, after: float, per_step: float, used: float = 0.0):
        """
        Args:
            until: when all must be done, on `time.monotonic`'s clock.
            after: seconds that what comes after the training takes at the speed of now.
            per_step: seconds of a step, as far as that is known.
            used: seconds of training in earlier runs.
        """
        self.until, self.after, self.first, self.used = until, after, per_step, used
        self.begin()

    def begin(self) -> None:
        """The first step begins now."""
        self.begun = time.monotonic()
        self.ends = deque([self.begun], maxlen=RECENT + 1)  # of the last steps
        self.done = 0  # steps, as far as `RECENT`
        self.share = self.used / (self.used + max(self.left(), self.per_step))

    @property
    def per_step(self) -> float:
        """Seconds of a step, by the last ones."""
        if len(self.ends) < 2:
            return self.first
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)

    def left(self) -> float:
        """Seconds of training that are left; below 0 where it should have ended."""
        return self.until - time.monotonic() - self.after * self.per_step / self.first

    def tick(self) -> None:
        """A step has been done."""
        self.ends.append(time.monotonic())
        if self.done < RECENT:  # the first ones know better than what was measured beforehand
            self.done += 1
            self.first = self.per_step
        used = self.state()["used"]
        self.share = max(self.share, used / (used + max(self.left(), 0.0)))

    @property
    def over(self) -> bool:
        """Whether the time is nearer without another step than with one."""
        return self.left() < self.per_step / 2

    def state(self) -> dict[str, float]:
        """For a checkpoint: seconds of training, so far and to come."""
        return {"used": self.used + time.monotonic() - self.begun, "left": max(self.left(), 0.0)}
