"""Compares settings that were tried on the same left-out pictures, and tells what came of it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import pluralize

TRIED = "tried"  # among a model's facts
RESAMPLES = 1000
TAILS = (0.025, 0.975)
# AUROC that must be gained: simulated defects are no real ones, and a smaller gain on them says little
MIN_GAIN = 0.02
FAR_BETTER = 0.1  # least gain, by the lower end of the interval, that a small trial is believed
TRYING = "trying"  # stages of a search's progress begin so
NO_TIME = "no time"  # why a setting was not tried to the end
GIVEN = -1  # carrier of a defect that lies on none of the good pictures


class Scored(NamedTuple):
    """Scores of left-out pictures by one model, higher is more anomalous.

    good: [N]. defective: [M]. carriers: [M], the good picture that a simulated defect was put on, or `GIVEN`.
    """

    good: NDArray[np.float64]
    defective: NDArray[np.float64]
    carriers: NDArray[np.int64]

    @classmethod
    def of_lists(cls, stored: Sequence[Sequence[float]]) -> Scored | None:
        """Reads what `to_lists` gave; None where nothing is stored."""
        if len(stored) != 3:
            return None
        good, defective, carriers = stored
        return cls(np.array(good, float), np.array(defective, float), np.array(carriers, np.int64))

    def to_lists(self) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(one.tolist()) for one in self)

    def auroc(self) -> float:
        """AUROC of defective against good pictures, 0..1; of given and of simulated ones the mean."""
        return float(self._aurocs(np.ones((1, self.good.size)), np.ones((1, self.carriers.size)))[0])

    def _aurocs(self, times: NDArray[np.float64], given_times: NDArray[np.float64]) -> NDArray[np.float64]:
        """AUROC in each resample [R]. times [R, N], given_times [R, M]: how often it draws each picture."""
        above = self.defective[:, None] > self.good
        wins = above + 0.5 * (self.defective[:, None] == self.good)  # [M, N]
        is_given = self.carriers == GIVEN
        found = []
        for those, weights in (
            (is_given, given_times[:, is_given]),
            (~is_given, times[:, self.carriers[~is_given]]),
        ):
            if those.any():
                pairs = weights.sum(1) * times.sum(1)
                won = ((weights @ wins[those]) * times).sum(1)
                found.append(won / np.maximum(pairs, 1e-12))
        return np.asarray(np.mean(found, axis=0))

    def gain_over(self, other: Scored, seed: int) -> tuple[float, float, float]:
        """AUROC less that of other settings on the same pictures, with its 95 % interval: a bootstrap over
        good pictures, each with the defects put on it, and over given defects."""
        rng = np.random.default_rng(seed)
        is_given = self.carriers == GIVEN
        times, every = (np.ones((RESAMPLES, count)) for count in (self.good.size, is_given.size))
        for weights, those in ((times, slice(None)), (every, is_given)):
            if count := weights[:, those].shape[1]:
                weights[:, those] = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        gains = self._aurocs(times, every) - other._aurocs(times, every)
        low, high = np.quantile(gains, TAILS)
        return self.auroc() - other.auroc(), float(low), float(high)


def enough(scored: Mapping[int, Scored], seed: int = 0) -> int | None:
    """Smallest number of pictures from which no larger number is surely better, by its 95 % interval; None:
    the largest number is surely better than all others, and more may be better still.

    Args:
        scored: by the number learnt from, scores of the same pictures.
    """
    numbers = sorted(scored)
    for k, number in enumerate(numbers[:-1]):
        if all(scored[more].gain_over(scored[number], seed)[1] <= 0 for more in numbers[k + 1 :]):
            return number
    return None


@dataclass(frozen=True)
class LearningCurve:
    """AUROC that tells what more good pictures bring, by the number of units learnt from; near-duplicates are
    one.

    figures: by that number, smallest first. enough: as `enough` tells it; None: more may do better still.
    """

    figures: Mapping[int, float]
    enough: int | None

    @classmethod
    def of(cls, compared: Mapping[int, Scored]) -> LearningCurve:
        """Compares models, by the number of units that each has learnt from."""
        figures = {number: compared[number].auroc() for number in sorted(compared)}
        return cls(figures, enough(compared))


@dataclass(frozen=True)
class Trial:
    """Result of one setting.

    flags: as `flawscope fit` takes them. stage: 1, all on few pictures; 2, the best anew, on others.
    auroc, gain: the latter over the settings as given, (gain, low, high) of its 95 % interval.
    false_alarms, found: (how many, of how many) good and defective pictures.
    seconds: of a picture; fit_seconds: of the fit, for each picture learnt from.
    note: why it was not tried to the end.
    judged: scores by the settings as given, with which those of others are compared (`Scored.to_lists`).
    """

    flags: str
    stage: int
    auroc: float | None = None
    gain: tuple[float, float, float] | None = None
    false_alarms: tuple[int, int] = (0, 0)
    found: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    note: str = ""
    fit_seconds: float = 0.0
    judged: tuple[tuple[float, ...], ...] = ()

    @property
    def was_ended(self) -> bool:
        """Whether it need not be tried again: it was tried to the end, or cannot be."""
        return self.note != NO_TIME

    @property
    def has_gained(self) -> bool:
        return self.gain is not None and self.gain[0] >= MIN_GAIN

    @property
    def is_better(self) -> bool:
        """Whether it gained beyond its interval."""
        return self.gain is not None and self.has_gained and self.gain[1] > 0

    @property
    def is_far_better(self) -> bool:
        return self.gain is not None and self.gain[1] >= FAR_BETTER

    def cells(self) -> tuple[str, ...]:
        """Cells of a table for a person."""
        name = self.flags or "as given"
        if self.auroc is None:
            return name, "", "", "", "", self.note
        gain = "" if self.gain is None else "{:+.1%} ({:+.1%} to {:+.1%})".format(*self.gain)
        return (
            name,
            f"{self.false_alarms[0]} of {self.false_alarms[1]}",
            f"{self.found[0]} of {self.found[1]}",
            f"{self.auroc:.1%}",
            f"{1000 * self.seconds:.0f} ms",
            gain or self.note,
        )


def surely_better(trials: Sequence[Trial], stage: int) -> list[Trial]:
    """Returns the trials of a stage that gained beyond their interval, or that gained again after they had
    been far better in the first stage: few good pictures have wide intervals."""
    far = {one.flags for one in trials if one.stage == 1 and one.is_far_better}
    return [
        one
        for one in trials
        if one.stage == stage and (one.is_better or (one.has_gained and one.flags in far))
    ]


# "told apart" is the AUROC: the share of pairs of a good and a bad picture in which the bad one scores higher
HEADER = ("settings", "false alarms", "found", "told apart", "a picture", "gain (95 % interval)")


@dataclass(frozen=True)
class Choice:
    """Settings that were tried before a fit, and those that were chosen.

    flags: of the settings that were chosen; empty: those given. reason: why.
    given, simulated: defective pictures that were judged. seconds: of the search, and of those that it went
        on with. digest: of the pictures and options; empty: nothing was tried. first: number of the sizes
        of its first stage. enough: minutes in which all would be tried, about; 0: all was.
    """

    flags: str
    reason: str
    trials: tuple[Trial, ...] = ()
    given: int = 0
    simulated: int = 0
    seconds: float = 0.0
    digest: str = ""
    first: int = 0
    enough: int = 0

    @property
    def has_tried(self) -> bool:
        """Whether other settings than those given were tried to the end."""
        return any(one.flags and one.was_ended for one in self.trials)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Choice | None:
        """Reads it from a model's facts; None where nothing was tried, or they are damaged."""
        try:
            stored = facts[TRIED]
            trials = tuple(
                Trial(
                    **{field.name: _tuples(one[field.name]) for field in fields(Trial) if field.name in one}
                )
                for one in stored["trials"]
            )
            own = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
            return cls(**{**own, "trials": trials})
        except (KeyError, TypeError):
            return None

    def lines(self) -> list[str]:
        """Lines of a short table for a person, and why."""
        rows = [HEADER, *(one.cells() for one in self.shown())]
        widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        again = sum(one.stage == 2 for one in self.shown())
        told = f"the first {again} were tried twice: this is the second time, on other pictures"
        lines = [
            *(table if len(rows) > 1 else []),
            *([told] if again else []),
            f"chosen: {self.flags or 'as given'}, since {self.reason}",
        ]
        if self.enough:
            minutes = pluralize(self.enough, "minute")
            lines.append(f"about {minutes} would do for all; the same call with --resume goes on")
        return lines

    def shown(self) -> Sequence[Trial]:
        """Returns the last trial of each setting that was ended: by its pictures nothing was chosen before.
        Where none was, the one that had no time. A second one as given needs another one beside it."""
        twice = any(one.flags and one.stage == 2 and one.was_ended for one in self.trials)
        told = [one for one in self.trials if twice or one.stage == 1]
        last: dict[str, Trial] = {}
        for one in sorted(told, key=lambda one: (one.was_ended, one.stage)):
            last[one.flags] = one
        return sorted(last.values(), key=lambda one: (-one.stage, -(one.auroc or -1)))

    def basis(self) -> str:
        """Phrase with what the settings were judged by."""
        words = [pluralize(self.given, "given defect")] if self.given else []
        words += [pluralize(self.simulated, "simulated defect")] if self.simulated else []
        return " and ".join(words)


def tried_lines(facts: Mapping[str, Any]) -> list[str]:
    """Lines on what was tried before a fit, for a person; empty where nothing was."""
    choice = Choice.from_facts(facts)
    return [] if choice is None else choice.lines()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
