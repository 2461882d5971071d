"""Searches for settings of `fit --auto` by the processor's clock, and shorter ones from a long one's record.

A search's minutes are here of the processor: on a machine that other programs share, the clock's would
measure them. One thread has one minute in each, where a user's two cores have nearly two. How good and
defective pictures are split does not depend on the minutes, so a shorter search that tries the same settings
in the same rounds sees the same scores: it takes them and their time from the record, and tries itself what
is not there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from flawscope.artefact.tried import Choice, Trial, auroc_on_carriers
from flawscope.errors import InputError
from flawscope.fitting import auto_choice, auto_search
from flawscope.fitting.auto_search import Judged, Search
from flawscope.fitting.proposals import Recipe
from flawscope.fitting.search_time import SearchTime, Taken
from flawscope.fitting.trial_pictures import Round
from flawscope.progress import discard, ignore_progress

SLICES = 20  # of a trial from the record, between which its time is checked
TrialKey = tuple[str, int]  # flags, number of the round


class ProcessorTime(SearchTime):
    """Time of a search in seconds of this process. skipped: of trials that came from a record. notes: what a
    trial took, with the time when it was noted."""

    def __init__(self, seconds: float):
        self.skipped = 0.0
        self.notes = list[tuple[float, Taken]]()
        super().__init__(seconds)

    def now(self) -> float:  # type: ignore[override]
        return time.process_time() + self.skipped

    def note(self, flags: str, taken: Taken) -> None:
        self.notes.append((self.now(), taken))
        super().note(flags, taken)


class OneTrial(NamedTuple):
    """A setting in one round: seconds of the fit and of judging, its trial, and the scores of good, given and
    simulated pictures. error: why it cannot be tried; None: it was."""

    flags: str
    round: int
    learning: float
    judging: float
    trial: Trial
    scores: tuple[str, ...]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "trial": asdict(self.trial)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> OneTrial:
        """The AUROC is today's, by the scores."""
        trial = Trial.from_dict(stored["trial"])
        if stored["error"] is None and trial.simulated:
            good, _, simulated = (np.array(one.split(), float) for one in stored["scores"])
            carriers = np.arange(len(simulated)) % len(good)  # as `Round` puts them
            trial = replace(trial, simulated=(round(auroc_on_carriers(good, simulated, carriers), 4),))
        return cls(**{**stored, "trial": trial, "scores": tuple(stored["scores"])})


class RecordedSearch(Search):
    """Tries what the record lacks, and takes the rest from it.

    run: what was tried here.
    """

    def __init__(
        self,
        pictures: Sequence[Any],
        seen: Sequence[Any],
        options: dict[str, Any],
        minutes: float,
        record: Sequence[OneTrial] = (),
    ):
        clock = ProcessorTime(60 * minutes)
        super().__init__(
            list(pictures), list(seen), [], options, clock, None, discard, ignore_progress, False
        )
        self.clock = clock
        self.record = {(one.flags, one.round): one for one in record}
        self.run_here = list[OneTrial]()
        self._scores = list[str]()

    def _try(self, recipe: Recipe, tried: Round, before: Trial) -> Trial:
        known = self.record.get((recipe.flags, tried.number))
        if known is None:
            known = self._try_here(recipe, tried)
        else:
            self._pass_time(recipe, tried, known)
        if known.error is not None:
            raise InputError(known.error)
        return _merged(before, known.trial)

    def _try_here(self, recipe: Recipe, tried: Round) -> OneTrial:
        self._scores, self.clock.notes = [], []
        began = self.clock.now()
        error, trial = None, Trial(recipe.flags)
        try:
            trial = super()._try(recipe, tried, trial)
        except InputError as caught:
            error = str(caught)
        learnt, judged = self.clock.notes[0][0], self.clock.notes[-1][0]
        made = OneTrial(
            recipe.flags,
            tried.number,
            round(learnt - began, 2),
            round(judged - learnt, 2),
            trial,
            tuple(self._scores),
            error,
        )
        self.run_here.append(made)
        return made

    def _pass_time(self, recipe: Recipe, tried: Round, known: OneTrial) -> None:
        """Lets the time of a trial pass, and ends it where the trial would have ended for want of time."""
        every = len(self.sources)
        each = known.trial.fit_seconds or known.learning / len(tried.learnt)
        best = auto_choice.best_of(self._eligible_trials())
        others = [] if best is None else [Recipe.from_flags(best.flags)]
        for k in range(SLICES):
            taken = each * k / SLICES
            is_late = self.clock.is_late(taken, every)
            if is_late or (others and not self.clock.has_time(others, every)):
                self.clock.note(recipe.flags, Taken(taken))
                raise auto_search._TimeIsUpError
            self.clock.skipped += known.learning / SLICES
        self.clock.note(recipe.flags, Taken(each))
        if not self.clock.has_time([recipe], every):
            raise auto_search._TimeIsUpError
        for _ in range(SLICES):
            if others and not self.clock.has_time(others, every):
                raise auto_search._TimeIsUpError
            self.clock.skipped += known.judging / SLICES
        self.clock.note(recipe.flags, Taken(each, known.judging / tried.judged))
        if not self.clock.has_time([recipe], every):
            raise auto_search._TimeIsUpError

    def _judge(self, model: Any, pictures: Sequence[Any], step: Callable[[int], None], place: int) -> Judged:
        judged = super()._judge(model, pictures, step, place)
        self._scores.append(" ".join(f"{score:.5g}" for score in judged.scores))
        return judged


def _merged(before: Trial, own: Trial) -> Trial:
    """Adds a trial of one round to those before."""

    def added(name: str) -> tuple[int, int]:
        many, every = getattr(before, name)
        more, of = getattr(own, name)
        return many + more, every + of

    return replace(
        own,
        given=(*before.given, *own.given),
        simulated=(*before.simulated, *own.simulated),
        false_alarms=added("false_alarms"),
        found_given=added("found_given"),
        found=added("found"),
        seconds=min(before.seconds or own.seconds, own.seconds),
        fit_seconds=max(before.fit_seconds, own.fit_seconds),
    )


def told(
    choice: Choice, done: RecordedSearch, final: float, known: Sequence[OneTrial] = ()
) -> dict[str, Any]:
    """A search's choice for a results file.

    Args:
        final: seconds that the fit to all pictures takes, expected.
        known: trials of the record that stay in it.
    """
    return {
        "chosen": choice.flags or "as given",
        "reason": choice.reason,
        "tried": [one.flags for one in choice.trials if one.rounds],
        "untried": [one.flags for one in choice.trials if not one.rounds],
        "table": choice.lines(),
        "search_seconds": round(done.clock.spent, 1),
        "fit_seconds": round(final, 1),
        "trials": [one.to_dict() for one in (*known, *done.run_here)],
    }
