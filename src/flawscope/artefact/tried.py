"""Results of settings that were tried on the same left-out pictures, and the choice among them.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import pluralize
from flawscope.types import Json

TRIED = "tried"  # key of a model's facts
TRYING = "trying"  # first word of the stages of a search's progress
NO_TIME = "no time"  # `Trial.note` of a setting for whose end the time was too short
HIDDEN_CHANGE = 1e-3  # share of a score; a defect that changes the score by no more is hidden


def auroc(good: NDArray[np.float64], defective: NDArray[np.float64]) -> float:
    """Return the AUROC: the share of pairs (good, defective) in which the defective picture scores higher.

    Pairs with equal scores count half.

    Args:
        good: Scores [N] of good pictures.
        defective: Scores [M] of defective pictures.
    """
    is_higher = defective[:, None] > good  # [M, N]
    is_equal = defective[:, None] == good
    return float((is_higher + 0.5 * is_equal).mean())


def auroc_on_carriers(
    good: NDArray[np.float64], defective: NDArray[np.float64], carriers: NDArray[np.intp]
) -> float:
    """Return the AUROC of defects that were put on good pictures, as if each had been put on all of them.

    So the result depends less on the good picture (the carrier) that a defect happened to be put on. The
    score of a defect on another good picture is estimated:

    - A picture's score is that of its most unusual place. So the estimate is the larger of two scores: that
      of the carrier with the defect, and that of the other picture.
    - A defect that does not change the score of its carrier counts as hidden on all pictures.

    Args:
        good: Scores [N] of good pictures.
        defective: Scores [M] of good pictures with a defect on them.
        carriers: Indices [M] in `good` of the pictures that carry the defects.
    """
    carrier_scores = good[carriers]
    is_hidden = defective - carrier_scores <= HIDDEN_CHANGE * np.abs(carrier_scores)
    defect_scores = np.where(is_hidden, -np.inf, defective)
    scores_on_all_pictures = np.maximum(defect_scores[:, None], good)  # [M, N]
    return auroc(good, scores_on_all_pictures.ravel())


@dataclass(frozen=True)
class Trial:
    """Result of one setting in several rounds, each of which leaves out other good pictures.

    Attributes:
        flags: Flags of `flawscope fit` for the setting; empty: the settings of the user's call.
        given: AUROC of the user's own defects in each round; empty: there were no such defects.
        simulated: AUROC of simulated defects (`auroc_on_carriers`) in each round; empty: there were no such
            defects.
        false_alarms: (number called anomalous, number of all) good pictures, over all rounds.
        found_given: (number found, number of all) of the user's own defects, over all rounds.
        found: (number found, number of all) simulated defects, over all rounds.
        seconds: Time to judge a picture.
        fit_seconds: Time of the fit for each picture learnt from.
        note: Reason why the setting was not tried to the end.
        minutes: Minutes that the whole trial would take, roughly.
    """

    flags: str
    given: tuple[float, ...] = ()
    simulated: tuple[float, ...] = ()
    false_alarms: tuple[int, int] = (0, 0)
    found_given: tuple[int, int] = (0, 0)
    found: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    fit_seconds: float = 0.0
    note: str = ""
    minutes: int = 0

    @property
    def rounds(self) -> int:
        """Number of rounds that the setting was tried in."""
        return max(len(self.given), len(self.simulated))

    @property
    def was_ended(self) -> bool:
        """Whether a resumed search skips the setting: it was tried to the end, or cannot be tried."""
        return self.note != NO_TIME

    def figures(self, rounds: int | None = None) -> tuple[float, ...]:
        """Return (mean AUROC of the user's own defects, mean AUROC of simulated defects).

        Defects that were not tried are left out, so that the tuple may have one number or none.

        Args:
            rounds: Number of rounds over which the mean is taken, from the first on; None: all rounds.
        """
        return tuple(float(np.mean(aurocs[:rounds])) for aurocs in (self.given, self.simulated) if aurocs)

    def beside(self, other: Trial) -> tuple[float, ...]:
        """Estimate the `figures` that the setting would have had in all rounds of another trial.

        In the rounds that both trials have, this trial's figure differs from the other's. An estimate is the
        other trial's figure over all its rounds plus this difference. Empty if no round is in both trials.
        """
        shared_rounds = min(self.rounds, other.rounds)
        if not shared_rounds:
            return ()
        estimates = []
        for figure, other_shared_figure, other_figure in zip(
            self.figures(shared_rounds), other.figures(shared_rounds), other.figures(), strict=False
        ):
            estimate = other_figure + figure - other_shared_figure
            estimates.append(min(1.0, max(0.0, estimate)))
        return tuple(estimates)

    def separation(self) -> str:
        """Return the mean AUROCs in words: "your defects (98.0%) and simulated ones (97.0%)"."""
        phrases = []
        if self.given:
            phrases.append(f"your defects ({np.mean(self.given):.1%})")
        if self.simulated:
            noun = "simulated ones" if self.given else "defects"
            phrases.append(f"{noun} ({np.mean(self.simulated):.1%})")
        return " and ".join(phrases)

    def cells(self, has_given: bool, chosen: Trial) -> tuple[str, ...]:
        """Return the cells of a row in a table for a person.

        Args:
            has_given: Whether the table has columns for the user's own defects.
            chosen: Trial of the chosen setting; all settings are compared in its rounds (`beside`).
        """
        name = self.flags or "as given"
        if not self.rounds:
            duration = f": about {pluralize(self.minutes, 'minute')} in all" if self.minutes else ""
            empty_cells = [""] * (5 if has_given else 3)  # of all columns between the name and the last
            return name, *empty_cells, f"{self.note}{duration}"
        # pairs of a count and the number that it is of
        counts = [self.false_alarms, self.found_given, self.found]
        false_alarms, found_given, found = (f"{count} of {total}" if total else "" for count, total in counts)
        figures = iter(self.beside(chosen))  # of given, then of simulated defects, without those not tried
        given_figure = f"{next(figures):.1%}" if self.given else ""
        simulated_figure = f"{next(figures):.1%}" if self.simulated else ""
        time = f"{1000 * self.seconds:.0f} ms"
        if has_given:
            return name, false_alarms, found_given, found, given_figure, simulated_figure, time
        return name, false_alarms, found, simulated_figure, time

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Trial:
        """Read the fields that `asdict` returned.

        Earlier versions stored a single AUROC, "auroc", which becomes that of simulated defects.
        """
        values: Json = {
            field.name: _tuples(stored[field.name]) for field in fields(cls) if field.name in stored
        }
        if stored.get("auroc") is not None:
            values["simulated"] = (stored["auroc"],)
        return cls(**values)


# "apart" is the AUROC: the share of pairs of a good and a bad picture in which the bad one scores higher
HEADER = ("settings", "false alarms", "simulated found", "told apart", "a picture")
YOURS = ("yours found", "simulated found", "yours apart", "simulated apart")
HEADER_GIVEN = ("settings", "false alarms", *YOURS, "a picture")


@dataclass(frozen=True)
class Choice:
    """Settings that were tried before a fit, and those that were chosen.

    Attributes:
        flags: Flags of the settings that were chosen; empty: the settings of the user's call.
        reason: Reason for the choice.
        trials: Results of all settings.
        good: Number of left-out good pictures that were judged.
        given: Number of the user's own defects that were judged.
        simulated: Number of simulated defects that were judged.
        seconds: Time of the search, including the earlier searches that it resumed.
        digest: Digest of the pictures and options; empty: nothing was tried.
        enough: Rough number of minutes that would suffice to try all settings; 0: all were tried.
    """

    flags: str
    reason: str
    trials: tuple[Trial, ...] = ()
    good: int = 0
    given: int = 0
    simulated: int = 0
    seconds: float = 0.0
    digest: str = ""
    enough: int = 0

    @property
    def has_tried(self) -> bool:
        """Whether any setting other than that of the user's call was tried in a round."""
        return any(trial.flags and trial.rounds for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, as a model's facts hold them."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Choice | None:
        """Read the choice from a model's facts; None where nothing was tried, or they are damaged."""
        try:
            stored = facts[TRIED]
            # of two trials with the same flags the later counts
            trial_by_flags = {trial["flags"]: Trial.from_dict(trial) for trial in stored["trials"]}
            values = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
            values["trials"] = tuple(trial_by_flags.values())
            return cls(**values)
        except (KeyError, TypeError):
            return None

    def lines(self) -> list[str]:
        """Return the lines of a table for a person, and the reason for the choice."""
        has_given = any(trial.given for trial in self.trials)
        chosen = self._chosen_trial()
        rows: list[tuple[str, ...]] = [HEADER_GIVEN if has_given else HEADER]
        # without a chosen trial, each trial shows the figures of its own rounds
        rows += [trial.cells(has_given, chosen=chosen or trial) for trial in self.shown()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            table.append("  ".join(cells).rstrip())
        lines = [*table, *self._basis_lines()] if len(rows) > 1 else []
        lines.append(f"chosen: {self.flags or 'as given'}, since {self.reason}")
        if self.enough:
            minutes = pluralize(self.enough, "minute")
            lines.append(f"about {minutes} would do for all; the same call with --resume goes on")
        return lines

    def shown(self) -> list[Trial]:
        """Return the trials as a table lists them: the best first, those without a round last."""
        chosen = self._chosen_trial()
        return sorted(self.trials, key=lambda trial: trial.beside(chosen or trial), reverse=True)

    def _chosen_trial(self) -> Trial | None:
        """Return the trial of the chosen setting; None where it was not tried."""
        for trial in self.trials:
            if trial.flags == self.flags and trial.rounds:
                return trial
        return None

    def _basis_lines(self) -> list[str]:
        """Return lines that state by which pictures the settings were judged, and what the numbers mean."""
        if not self.good:
            return []
        counts = [f"{pluralize(self.good, 'good picture')} left out"]
        if self.given:
            counts.append(f"{pluralize(self.given, 'defect')} of yours")
        if self.simulated:
            counts.append(f"{self.simulated} simulated")
        basis = f"judged by {', '.join(counts)}"
        explanations = [
            "apart: of pairs of a good and a defective picture, in how many the defective one scores higher"
        ]
        rounds = max(trial.rounds for trial in self.trials)
        if rounds > 1:
            basis += f", in up to {rounds} rounds"
            if self.given:
                basis += ", each with defects of yours"
            explanations.append(
                "of settings of fewer rounds: by what they differ from the chosen one in these"
            )
        return [basis, *explanations]


def tried_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return lines for a person on the settings tried before a fit; empty where none were."""
    choice = Choice.from_facts(facts)
    return [] if choice is None else choice.lines()


def _tuples(value: object) -> object:
    """Return a value with tuples in the place of its lists, at any depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
