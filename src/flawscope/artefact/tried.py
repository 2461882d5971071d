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

TRIED = "tried"  # among a model's facts
TRYING = "trying"  # stages of a search's progress begin so
NO_TIME = "no time"  # why a setting was not tried to the end
EQUAL = 1e-3  # share of a score that two of pictures may differ by, and show the same


def auroc(good: NDArray[np.float64], defective: NDArray[np.float64]) -> float:
    """Return the share of pairs of a good and a defective picture in which the defective one scores higher.

    Equal scores count half.

    Args:
        good: Scores [N] of good pictures.
        defective: Scores [M] of defective pictures.
    """
    above = defective[:, None] > good
    equal = defective[:, None] == good
    return float((above + 0.5 * equal).mean())


def auroc_on_carriers(
    good: NDArray[np.float64], defective: NDArray[np.float64], carriers: NDArray[np.intp]
) -> float:
    """Return the AUROC of defects that were put on good pictures, as if each had been on all of them.

    A picture scores like its most unusual place. A defect on another good picture would therefore score the
    same, or like that picture if this is more. A defect that its carrier hides is taken to be hidden on all.
    The result then depends less on which carrier a defect happened to lie on, and how unusual that one is.

    Args:
        good: Scores [N] of good pictures.
        defective: Scores [M] of good pictures with a defect on them.
        carriers: Numbers [M] of these good pictures.
    """
    carrier_scores = good[carriers]
    is_hidden = defective - carrier_scores <= EQUAL * np.abs(carrier_scores)
    defects = np.where(is_hidden, -np.inf, defective)
    on_each = np.maximum(defects[:, None], good)  # [M, N]
    return auroc(good, on_each.ravel())


@dataclass(frozen=True)
class Trial:
    """Result of one setting in several rounds, each of which leaves out other good pictures.

    Attributes:
        flags: Flags of `flawscope fit`; empty: the settings that were given.
        given: AUROC of a person's defects, by round; empty: there were none.
        simulated: AUROC of simulated defects (`auroc_on_carriers`), by round; empty: there were none.
        false_alarms: (number called anomalous, number of all) good pictures, over all rounds.
        found_given: (number found, number of all) of a person's defects, over all rounds.
        found: (number found, number of all) simulated defects, over all rounds.
        seconds: Time to judge a picture.
        fit_seconds: Time of the fit for each picture learnt from.
        note: Reason why the setting was not tried to the end.
        minutes: Minutes that it would take, roughly.
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
        """Whether the setting need not be tried again: it was tried to the end, or cannot be."""
        return self.note != NO_TIME

    def figures(self, rounds: int | None = None) -> tuple[float, ...]:
        """Return the mean AUROC of given defects, if there are any, and of simulated ones, if there are any.

        Args:
            rounds: Number of first rounds that the mean is over; None: all.
        """
        return tuple(float(np.mean(values[:rounds])) for values in (self.given, self.simulated) if values)

    def beside(self, other: Trial) -> tuple[float, ...]:
        """Return the `figures` as if the setting had been tried in all rounds of another one.

        They are the other's figures plus the difference of the two in the rounds that both have; empty where
        they share no round.
        """
        rounds = min(self.rounds, other.rounds)
        if not rounds:
            return ()
        pairs = zip(self.figures(rounds), other.figures(rounds), other.figures(), strict=False)
        return tuple(min(1.0, max(0.0, whole + figure - same)) for figure, same, whole in pairs)

    def separation(self) -> str:
        """Return a phrase with the kinds of defects and their AUROC: "your defects (98.0%) and ..."."""
        kinds = "your defects", "simulated ones" if self.given else "defects"
        phrases = [
            f"{kind} ({np.mean(scores):.1%})"
            for kind, scores in zip(kinds, (self.given, self.simulated), strict=True)
            if scores
        ]
        return " and ".join(phrases)

    def cells(self, has_given: bool, chosen: Trial) -> tuple[str, ...]:
        """Return the cells of a row in a table for a person.

        Args:
            has_given: Whether the table has columns for a person's defects.
            chosen: The setting that was chosen, whose rounds count (`beside`).
        """
        name = self.flags or "as given"
        if not self.rounds:
            about = f": about {pluralize(self.minutes, 'minute')} in all" if self.minutes else ""
            return name, *[""] * (5 if has_given else 3), f"{self.note}{about}"
        counts = [self.false_alarms, *([self.found_given] if has_given else []), self.found]
        shares = [f"{count} of {every}" if every else "" for count, every in counts]
        figures = [f"{figure:.1%}" for figure in self.beside(chosen)]
        apart = [figures.pop(0) if scores else "" for scores in (self.given, self.simulated)]
        return name, *shares, *apart[0 if has_given else 1 :], f"{1000 * self.seconds:.0f} ms"

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Trial:
        """Read the fields that `asdict` gave; earlier searches stored one AUROC for all kinds of defects."""
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
        flags: Flags of the settings that were chosen; empty: the settings that were given.
        reason: Reason for the choice.
        trials: Results of all settings.
        good: Number of left-out good pictures that were judged.
        given: Number of a person's defects that were judged.
        simulated: Number of simulated defects that were judged.
        seconds: Time of the search, with the earlier searches that it resumed.
        digest: Digest of the pictures and options; empty: nothing was tried.
        enough: Minutes in which all settings would be tried, roughly; 0: all were.
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
        """Whether a setting other than the given one was tried to the end."""
        return any(trial.flags and trial.rounds for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, as a model's facts hold them."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Choice | None:
        """Read the choice from a model's facts; None where nothing was tried, or they are damaged."""
        try:
            stored = facts[TRIED]
            by_flags = {
                stored_trial["flags"]: Trial.from_dict(stored_trial) for stored_trial in stored["trials"]
            }
            values = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
            return cls(**{**values, "trials": tuple(by_flags.values())})
        except (KeyError, TypeError):
            return None

    def lines(self) -> list[str]:
        """Return the lines of a table for a person, and the reason for the choice."""
        has_given = any(trial.given for trial in self.trials)
        shown = self.shown()
        rows: list[tuple[str, ...]] = [HEADER_GIVEN if has_given else HEADER]
        rows += [trial.cells(has_given, self._chosen() or trial) for trial in shown]
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
        """Return the trials, the best first; those that were not tried come last."""
        chosen = self._chosen()
        return sorted(self.trials, key=lambda trial: trial.beside(chosen or trial), reverse=True)

    def _chosen(self) -> Trial | None:
        return next((trial for trial in self.trials if trial.flags == self.flags and trial.rounds), None)

    def _basis_lines(self) -> list[str]:
        """Return lines with the pictures that settings were judged by, and the meaning of the numbers."""
        if not self.good:
            return []
        words = [pluralize(self.good, "good picture") + " left out"]
        words += [pluralize(self.given, "defect") + " of yours"] if self.given else []
        words += [f"{self.simulated} simulated"] if self.simulated else []
        judged = f"judged by {', '.join(words)}"
        rounds = max(trial.rounds for trial in self.trials)
        lines = [
            "apart: of pairs of a good and a defective picture, in how many the defective one scores higher"
        ]
        if rounds > 1:
            anew = ", each with defects of yours" if self.given else ""
            judged += f", in up to {rounds} rounds{anew}"
            lines.append("of settings of fewer rounds: by what they differ from the chosen one in these")
        return [judged, *lines]


def tried_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return lines for a person on the settings tried before a fit; empty where none were."""
    choice = Choice.from_facts(facts)
    return [] if choice is None else choice.lines()


def _tuples(value: object) -> object:
    """Return a value with tuples in the place of its lists, at any depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
