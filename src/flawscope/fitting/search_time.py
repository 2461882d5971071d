"""Keeps a search for settings within its minutes, by what fits and trials take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flawscope.artefact.tried import Trial
from flawscope.errors import InputError, pluralize
from flawscope.fitting.trial_pictures import Stage
from flawscope.progress import format_duration

RESERVE = 1.1  # times the time that a fit is expected to take: other programs may come
MEASURED = 1.0  # seconds of the processor from which on work tells its speed: less may have waited by chance
LATE = 1.1  # times the minutes, after which no model is ready
CHECKED = 10 / 9  # times the learning that a fit takes with its check by simulated defects
MANY = 20  # times the first, small trial: a search with less time tries small ones alone
ALL, ALL_LARGE = 40, 120  # times it that a whole search takes, about; of large pictures tiles are tried, too


class SearchTime:
    """Time of a search. What work takes is measured in seconds of the processor, and expected to take them at
    the speed of the work before: other programs may want the processor, too.

    Attributes:
        until: its end, on `now`'s clock.
        is_cut_short: some setting was not tried for want of time.
        small_seconds: of the first trial.
        fitted: flags of the settings whose model is there already; None: of none.
        compared: seconds of the processor for comparing all good pictures, as a fit does, too.
    """

    def __init__(self, seconds: float):
        self.began = self.now()
        self.until = self.began + seconds
        self.is_cut_short, self.small_seconds, self.compared = False, 0.0, 0.0
        self.fitted: str | None = None
        self._pace = 1.0  # seconds of the clock for one of the processor
        # seconds of the processor and pictures of the fit of each setting
        self._fits = dict[str, tuple[float, int]]()

    @staticmethod
    def now() -> float:
        return time.monotonic()

    @property
    def spent(self) -> float:
        return self.now() - self.began

    def knows(self, flags: str) -> bool:
        return flags in self._fits

    @contextmanager
    def measured(self) -> Iterator[Callable[[], float]]:
        """Measures work, whose speed is the present one; gives what says its seconds of the processor."""
        began, before = self.now(), time.process_time()

        def used() -> float:
            seconds = time.process_time() - before
            if seconds >= MEASURED:
                self._pace = (self.now() - began) / seconds
            return seconds

        try:
            yield used
        finally:
            used()

    def note(self, flags: str, used: float, learnt: int) -> None:
        """Notes the processor's seconds of a fit, or of what is done of it: the longest for a picture, later
        ones find features in memory."""
        times = (used, learnt), self._fits.get(flags, (0.0, 1))
        self._fits[flags] = max(times, key=lambda pair: pair[0] / pair[1])

    def used_for(self, flags: str, pictures: int) -> float:
        """Seconds of the processor that a fit to so many pictures takes; 0: nobody knows."""
        used, learnt = self._fits.get(flags, (0.0, 1))
        return used * pictures / learnt

    def fit_seconds(self, flags: str, pictures: int) -> float:
        """Seconds that a fit to so many pictures takes now; 0: nobody knows."""
        return self._pace * self.used_for(flags, pictures)

    def final_seconds(self, flags: str, pictures: int, so_far: tuple[float, int] = (0.0, 1)) -> float:
        """Seconds that the fit to all pictures takes now; 0: it is done, or nobody knows. so_far: seconds of
        the processor, and pictures, of a fit that goes on: it takes as long at least."""
        used = max(self.used_for(flags, pictures), so_far[0] * pictures / so_far[1])
        if flags == self.fitted or not used:
            return 0.0
        return self._pace * (self.compared + CHECKED * used)

    def trial_seconds(self, tried: Trial, stage: Stage) -> float:
        """Seconds that a setting takes now in a stage; 0: it was not tried to the end."""
        judged = len(stage.left_out) + len(stage.given) + (stage.count if stage.draw is not None else 0)
        return self._pace * tried.fit_seconds * len(stage.learnt) + tried.seconds * judged

    def is_short(self, pictures: int) -> bool:
        """Whether there is time for small trials alone."""
        left = self.until - self.now() - RESERVE * self.final_seconds("", pictures)
        return left < MANY * self.small_seconds

    def can_fit(self, flags: str, pictures: int, so_far: tuple[float, int] = (0.0, 1)) -> bool:
        """Whether the fit to all pictures would end in time, were it begun now. No others stand in for the
        settings as given: with them it may be `LATE`. so_far: as for `final_seconds`."""
        until = self.until if flags else self.began + LATE * (self.until - self.began)
        return self.now() + self.final_seconds(flags, pictures, so_far) <= until

    def enough(self, pictures: int, is_large: bool, done: float = 0.0) -> int:
        """Minutes in which all would be tried, rounded up; 0: all was. done: seconds of an earlier search."""
        if not self.is_cut_short:
            return 0
        whole = (ALL_LARGE if is_large else ALL) * self.small_seconds
        needed = whole - done + RESERVE * self.final_seconds("", pictures)
        return max(math.ceil(needed / 60), math.ceil((self.until - self.began) / 60) + 1)

    def require(self, flags: str, pictures: int) -> None:
        """InputError where the fit to all pictures would end beyond the minutes."""
        final, whole = self.final_seconds(flags, pictures), self.until - self.began
        if self.spent + final <= LATE * whole:
            return
        needed = max(math.ceil((self.spent + RESERVE * final) / 60), math.ceil(whole / 60)) + 1
        raise InputError(
            f"{whole / 60:g} minutes are too few: learning from {pluralize(pictures, 'good picture')} takes "
            f"about {format_duration(final)} here, beside {format_duration(self.spent)} of trials; give "
            f"{needed} or more, or learn without trying settings"
        )
