"""Keeps a search for settings within its minutes, by the time that fits and judging took up to now."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flawscope.errors import InputError, pluralize
from flawscope.fitting.proposals import Recipe, relative_cost
from flawscope.fitting.trial_pictures import Round
from flawscope.progress import FEATURES, format_duration

RESERVE = 1.25  # factor of a fit's expected time: other programs may slow it down
LATE = 1.1  # factor of the search's minutes, after which a fit may not end
CHECKED = 10 / 9  # factor of the time for learning that a fit takes with its check by simulated defects


class Taken(NamedTuple):
    """Seconds that settings took.

    Attributes:
        fit: Seconds of the fit for each picture learnt from, without the time for reading the network.
        picture: Seconds to judge a picture.
    """

    fit: float
    picture: float = 0.0


class LearningClock:
    """Measures the seconds that a fit takes per picture, from the first features on.

    The time before the first features is left out: then the network is read, which takes the same time for
    any number of pictures. While features are computed, the pictures whose features are done are counted.

    Args:
        now: Returns the time, in seconds.
        pictures: Number of pictures that the fit learns from.
    """

    def __init__(self, now: Callable[[], float], pictures: int):
        self._now = now
        self._pictures = pictures
        self._since = now()  # time from which seconds are counted
        self._pictures_before = 0.0  # pictures whose features were done at that time
        self._pictures_done = 0.0

    def see(self, stage: str, done: int, total: int) -> None:
        """Take note of a step of the fit's progress."""
        if stage != FEATURES:
            return
        self._pictures_done = self._pictures * done / total
        # Seconds are counted from the end of the first step. If this step is also the last, they are counted
        # from the beginning, and divided by all pictures.
        is_first_step = not self._pictures_before and done < total
        if is_first_step:
            self._since = self._now()
            self._pictures_before = self._pictures_done

    def each(self) -> float:
        """Return the seconds per picture up to now; before any features are done, divide by all pictures."""
        counted = self._pictures_done - self._pictures_before
        return (self._now() - self._since) / (counted or self._pictures)


class SearchTime:
    """Time of a search for settings, in seconds of the clock `now`.

    Args:
        seconds: Length of the search, with the fit to all pictures.

    Attributes:
        began: Time of its start.
        until: Time of its end.
        fitted: Flags of the settings whose model is fitted already; None: no model is.
        compared: Seconds for comparing all good pictures, which a fit does, too.
    """

    def __init__(self, seconds: float):
        self.began = self.now()
        self.until = self.began + seconds
        self.fitted: str | None = None
        self.compared = 0.0
        self._taken = dict[str, Taken]()

    @staticmethod
    def now() -> float:
        """Return the time of a clock that is never set back, in seconds."""
        return time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the search began."""
        return self.now() - self.began

    def note(self, flags: str, taken: Taken) -> None:
        """Note the time that settings took; the longest is kept.

        Later fits may be quicker because they find features in memory.
        """
        before = self._taken.get(flags, Taken(0.0))
        self._taken[flags] = Taken(max(before.fit, taken.fit), max(before.picture, taken.picture))

    def _expected(self, recipe: Recipe) -> Taken:
        """Return the time that settings took; if they were not tried, estimate it by their network's cost.

        Judging a picture takes about as long as the network runs. The rest of a fit's time is the same for
        all settings.
        """
        if recipe.flags in self._taken:
            return self._taken[recipe.flags]
        as_given = self._taken.get("", Taken(0.0))  # time of the settings as given
        picture_seconds = relative_cost(recipe) * as_given.picture
        rest_of_fit = as_given.fit - as_given.picture
        return Taken(rest_of_fit + picture_seconds, picture_seconds)

    def trial_seconds(self, recipe: Recipe, tried: Round) -> float:
        """Return about how many seconds settings take in a round; 0: not known."""
        taken = self._expected(recipe)
        return taken.fit * len(tried.learnt) + taken.picture * tried.judged

    def final_seconds(self, recipe: Recipe, pictures: int) -> float:
        """Return about how many seconds the fit to all pictures takes; 0: it is done, or not known."""
        seconds_per_picture = self._expected(recipe).fit
        if recipe.flags == self.fitted or not seconds_per_picture:
            return 0.0
        return self.compared + CHECKED * seconds_per_picture * pictures

    def has_time(self, recipes: Sequence[Recipe], pictures: int, before: float = 0.0) -> bool:
        """Whether the fit to all pictures would end in time with each of the settings.

        Args:
            recipes: The settings.
            pictures: Number of all pictures.
            before: Seconds until the fit begins.
        """
        fit_seconds = max(self.final_seconds(recipe, pictures) for recipe in recipes)
        return self.now() + before + RESERVE * fit_seconds <= self.until

    def is_late(self, each: float, pictures: int) -> bool:
        """Whether a fit to all pictures, begun now, ends too late if it takes `each` seconds per picture."""
        return self.spent + CHECKED * each * pictures > LATE * (self.until - self.began)

    def minutes_for(self, recipes: Sequence[Recipe], tried: Round, chosen: Recipe, pictures: int) -> int:
        """Return the minutes, rounded up, that a search needs to try more settings and fit the model.

        The result is at least one minute more than the search has now.

        Args:
            recipes: Settings that have not been tried to the end.
            tried: The round in which they are tried.
            chosen: The settings that are chosen now.
            pictures: Number of all pictures.
        """
        trial_seconds = sum(self.trial_seconds(recipe, tried) for recipe in recipes)
        fit_seconds = max(self.final_seconds(recipe, pictures) for recipe in (chosen, *recipes))
        needed = math.ceil((self.spent + trial_seconds + RESERVE * fit_seconds) / 60)
        one_more_than_now = math.ceil((self.until - self.began) / 60) + 1
        return max(needed, one_more_than_now)

    def can_end(self, recipe: Recipe, pictures: int) -> bool:
        """Whether the fit to all pictures, begun now, would end before it is too late."""
        return self.spent + self.final_seconds(recipe, pictures) <= LATE * (self.until - self.began)

    def require(self, recipe: Recipe, pictures: int) -> None:
        """Raise InputError where the fit to all pictures would not end in time."""
        if self.can_end(recipe, pictures):
            return
        fit_seconds = self.final_seconds(recipe, pictures)
        minutes = (self.until - self.began) / 60
        expected_minutes = math.ceil((self.spent + RESERVE * fit_seconds) / 60)
        needed = max(expected_minutes, math.ceil(minutes)) + 1
        raise InputError(
            f"{minutes:g} minutes are too few: learning from {pluralize(pictures, 'good picture')} takes "
            f"about {format_duration(fit_seconds)} here, beside {format_duration(self.spent)} of trials; "
            f"give {needed} or more, or learn without trying settings"
        )
