"""Keeps a search for settings within its minutes, by what fits and trials take."""

from __future__ import annotations

import math
import time

from flawscope.artefact.tried import Trial
from flawscope.errors import InputError, pluralize
from flawscope.fitting.trial_pictures import Stage
from flawscope.progress import format_duration

FIRST = 0.25  # share of the time for the settings as given: if it takes longer, others are not tried
RESERVE = 1.25  # times the time that a fit is expected to take
LATE = 1.1  # times the minutes, after which no model is ready
MANY = 20  # times the first, small trial: a search with less time tries small ones alone
ALL, ALL_LARGE = 40, 120  # times it that a whole search takes, about; of large pictures tiles are tried, too


class SearchTime:
    """Time of a search.

    Attributes:
        until: its end, on `time.monotonic`'s clock.
        is_cut_short: some setting was not tried for want of time.
        small_seconds: of the first trial.
        fitted: flags of the settings whose model is there already; None: of none.
    """

    def __init__(self, until: float):
        self.began, self.until = time.monotonic(), until
        self.is_cut_short, self.small_seconds = False, 0.0
        self.fitted: str | None = None
        self._fits = dict[str, tuple[float, int]]()  # seconds and pictures of the fit of each setting

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    def knows(self, flags: str) -> bool:
        return flags in self._fits

    def note(self, flags: str, took: float, learnt: int) -> None:
        """Notes the time of a fit: the longest for a picture, later ones find features in memory."""
        times = (took, learnt), self._fits.get(flags, (0.0, 1))
        self._fits[flags] = max(times, key=lambda pair: pair[0] / pair[1])

    def fit_seconds(self, flags: str, pictures: int) -> float:
        """Seconds that a fit to so many pictures takes; 0: nobody knows."""
        took, learnt = self._fits.get(flags, (0.0, 1))
        return took * pictures / learnt

    def final_seconds(self, flags: str, pictures: int) -> float:
        """Seconds that the fit to all pictures takes; 0: it is done, or nobody knows."""
        return 0.0 if flags == self.fitted else self.fit_seconds(flags, pictures)

    def is_short(self, pictures: int) -> bool:
        """Whether there is time for small trials alone."""
        left = self.until - time.monotonic() - RESERVE * self.final_seconds("", pictures)
        return left < MANY * self.small_seconds

    def enough(self, pictures: int, is_large: bool, done: float = 0.0) -> int:
        """Minutes in which all would be tried, rounded up; 0: all was. done: seconds of an earlier search."""
        if not self.is_cut_short:
            return 0
        whole = (ALL_LARGE if is_large else ALL) * self.small_seconds
        needed = whole - done + RESERVE * self.fit_seconds("", pictures)
        return max(math.ceil(needed / 60), math.ceil((self.until - self.began) / 60) + 1)

    def require(self, flags: str, pictures: int) -> None:
        """InputError where the fit to all pictures would end beyond the minutes."""
        final, whole = self.final_seconds(flags, pictures), self.until - self.began
        if self.spent + final <= LATE * whole:
            return
        needed = max(math.ceil((self.spent + RESERVE * final) / 60), math.ceil(whole / 60)) + 1
        raise InputError(
            f"{whole / 60:g} minutes are too few: learning from {pluralize(pictures, 'good picture')} takes "
            f"about {format_duration(final)} here; give {needed} or more, or learn without trying settings"
        )


def trial_seconds(tried: Trial, stage: Stage) -> float:
    """Seconds that a setting takes in a stage; 0: it was not tried to the end."""
    judged = len(stage.left_out) + len(stage.given) + (stage.count if stage.draw is not None else 0)
    return tried.fit_seconds * len(stage.learnt) + tried.seconds * judged
