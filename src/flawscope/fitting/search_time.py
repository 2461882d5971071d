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

RESERVE = 1.25  # times the time that a fit is expected to take: other programs may come
LATE = 1.1  # times the minutes, after which no model is ready
CHECKED = 10 / 9  # times the learning that a fit takes with its check by simulated defects


class Taken(NamedTuple):
    """Seconds that settings took.

    Attributes:
        fit: Seconds of the fit for each picture learnt from, without the time until the network is read.
        picture: Seconds to judge a picture.
    """

    fit: float
    picture: float = 0.0


class LearningClock:
    """Counts the seconds that a fit takes for each picture, from the first features on.

    Before them the network is read, which takes as long for many pictures. While features are computed, these
    count alone.

    Args:
        now: Returns the time, in seconds.
        pictures: Number of pictures that the fit learns from.
    """

    def __init__(self, now: Callable[[], float], pictures: int):
        self._now = now
        self._pictures = pictures
        # when it was counted from, and the pictures until then
        self._since = now()
        self._before = 0.0
        self._seen = 0.0

    def see(self, stage: str, done: int, total: int) -> None:
        """Take a step of the fit's progress."""
        if stage != FEATURES:
            return
        self._seen = self._pictures * done / total
        if not self._before and done < total:
            self._since = self._now()
            self._before = self._seen

    def each(self) -> float:
        """Return the seconds for each picture, up to now."""
        counted = self._seen - self._before
        return (self._now() - self._since) / (counted or self._pictures)


class SearchTime:
    """Time of a search, in seconds of the clock.

    Attributes:
        until: Its end, on `now`'s clock.
        fitted: Flags of the settings whose model is there already; None: of none.
        compared: Seconds for comparing all good pictures, as a fit does, too.
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
        """Note the time that settings took: the most of each, since later fits find features in memory."""
        before = self._taken.get(flags, Taken(0.0))
        self._taken[flags] = Taken(max(before.fit, taken.fit), max(before.picture, taken.picture))

    def _expected(self, recipe: Recipe) -> Taken:
        """Return the time that settings take: as noted, else by their network's relative cost.

        The network is nearly all of the time of judging; the rest of a fit takes as long with any settings.
        """
        if recipe.flags in self._taken:
            return self._taken[recipe.flags]
        as_given = self._taken.get("", Taken(0.0))
        picture = relative_cost(recipe) * as_given.picture
        return Taken(as_given.fit - as_given.picture + picture, picture)

    def trial_seconds(self, recipe: Recipe, tried: Round) -> float:
        """Return the seconds that settings take in a round, about; 0: not known."""
        taken = self._expected(recipe)
        return taken.fit * len(tried.learnt) + taken.picture * tried.judged

    def final_seconds(self, recipe: Recipe, pictures: int) -> float:
        """Return the seconds that the fit to all pictures takes, about; 0: it is done, or not known."""
        each = self._expected(recipe).fit
        if recipe.flags == self.fitted or not each:
            return 0.0
        return self.compared + CHECKED * each * pictures

    def has_time(self, recipes: Sequence[Recipe], pictures: int, before: float = 0.0) -> bool:
        """Whether the fit to all pictures by any of some settings would end in time.

        Args:
            recipes: The settings.
            pictures: Number of all pictures.
            before: Seconds until the fit begins.
        """
        final = max(self.final_seconds(recipe, pictures) for recipe in recipes)
        return self.now() + before + RESERVE * final <= self.until

    def is_late(self, each: float, pictures: int) -> bool:
        """Whether a fit to all pictures, begun now, would end too late at `each` seconds for a picture."""
        return self.spent + CHECKED * each * pictures > LATE * (self.until - self.began)

    def minutes_for(self, recipes: Sequence[Recipe], tried: Round, chosen: Recipe, pictures: int) -> int:
        """Return the minutes in which more settings would be tried, and the model fitted, rounded up."""
        more = sum(self.trial_seconds(recipe, tried) for recipe in recipes)
        final = max(self.final_seconds(recipe, pictures) for recipe in (chosen, *recipes))
        whole = self.until - self.began
        return max(math.ceil((self.spent + more + RESERVE * final) / 60), math.ceil(whole / 60) + 1)

    def can_end(self, recipe: Recipe, pictures: int) -> bool:
        """Whether the fit to all pictures, begun now, would end before it is too late."""
        return self.spent + self.final_seconds(recipe, pictures) <= LATE * (self.until - self.began)

    def require(self, recipe: Recipe, pictures: int) -> None:
        """Raise InputError where the fit to all pictures would end beyond the minutes."""
        if self.can_end(recipe, pictures):
            return
        final = self.final_seconds(recipe, pictures)
        whole = self.until - self.began
        needed = max(math.ceil((self.spent + RESERVE * final) / 60), math.ceil(whole / 60)) + 1
        raise InputError(
            f"{whole / 60:g} minutes are too few: learning from {pluralize(pictures, 'good picture')} takes "
            f"about {format_duration(final)} here, beside {format_duration(self.spent)} of trials; give "
            f"{needed} or more, or learn without trying settings"
        )
