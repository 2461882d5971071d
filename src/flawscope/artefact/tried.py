"""Tells what came of settings that were tried on the same left-out pictures, and which was taken.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import pluralize

TRIED = "tried"  # among a model's facts
TRYING = "trying"  # stages of a search's progress begin so
NO_TIME = "no time"  # why a setting was not tried to the end
EQUAL = 1e-3  # share of a score that two of pictures may differ by, and show the same


def auroc(good: NDArray[np.float64], defective: NDArray[np.float64]) -> float:
    """Returns the share of pairs of a good and a defective picture [N], [M] in which the defective one scores
    higher; equal scores count half.
    """
    above = defective[:, None] > good
    equal = defective[:, None] == good
    return float((above + 0.5 * equal).mean())


def auroc_on_carriers(
    good: NDArray[np.float64], defective: NDArray[np.float64], carriers: NDArray[np.intp]
) -> float:
    """Returns the AUROC of defects that were put on good pictures, as if each had been on all of them.

    A picture scores as its most unusual place. So on another good picture a defect would score the same, or
    as that picture does, if this is more; one that its carrier hides is taken to be hidden on all. Whether
    carriers are unusual themselves, and which defects happened to lie on them, then counts less.

    Args:
        good: scores of good pictures [N].
        defective: scores with a defect on one of them [M].
        carriers: its number [M].
    """
    own = good[carriers]
    is_hidden = defective - own <= EQUAL * np.abs(own)
    defects = np.where(is_hidden, -np.inf, defective)
    on_each = np.maximum(defects[:, None], good)  # [M, N]
    return auroc(good, on_each.ravel())


@dataclass(frozen=True)
class Trial:
    """Result of one setting, in each of the rounds that it was tried in: each leaves out other good pictures.

    flags: as `flawscope fit` takes them; empty: as given.
    given, simulated: AUROC of a person's and of simulated defects (`auroc_on_carriers`), by round; empty:
        there were none.
    false_alarms, found_given, found: (how many, of how many) good pictures, given and simulated defects, of
        all rounds.
    seconds: of a picture; fit_seconds: of the fit, for each picture learnt from.
    note: why it was not tried to the end. minutes: that it would take, about.
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
        return max(len(self.given), len(self.simulated))

    @property
    def was_ended(self) -> bool:
        """Whether it need not be tried again: it was tried to the end, or cannot be."""
        return self.note != NO_TIME

    def figures(self, rounds: int | None = None) -> tuple[float, ...]:
        """AUROC of given defects, where there are any, and of simulated ones, in the mean of the first
        rounds; None: of all.
        """
        return tuple(float(np.mean(one[:rounds])) for one in (self.given, self.simulated) if one)

    def beside(self, other: Trial) -> tuple[float, ...]:
        """Its `figures` as if it had been tried in all rounds of another one: by what the two differ in the
        rounds of both. Empty: there is none.
        """
        rounds = min(self.rounds, other.rounds)
        if not rounds:
            return ()
        pairs = zip(self.figures(rounds), other.figures(rounds), other.figures(), strict=False)
        return tuple(min(1.0, max(0.0, whole + own - same)) for own, same, whole in pairs)

    def separation(self) -> str:
        """Phrase with the defects that good pictures are told from, and how well."""
        kinds = "your defects", "simulated ones" if self.given else "defects"
        phrases = [
            f"{kind} ({np.mean(one):.1%})"
            for kind, one in zip(kinds, (self.given, self.simulated), strict=True)
            if one
        ]
        return " and ".join(phrases)

    def cells(self, has_given: bool, chosen: Trial) -> tuple[str, ...]:
        """Cells of a table for a person, beside the setting that was chosen."""
        name = self.flags or "as given"
        if not self.rounds:
            about = f": about {pluralize(self.minutes, 'minute')} in all" if self.minutes else ""
            return name, *[""] * (5 if has_given else 3), f"{self.note}{about}"
        counts = [self.false_alarms, *([self.found_given] if has_given else []), self.found]
        shares = [f"{count} of {every}" if every else "" for count, every in counts]
        figures = [f"{one:.1%}" for one in self.beside(chosen)]
        apart = [figures.pop(0) if one else "" for one in (self.given, self.simulated)]
        return name, *shares, *apart[0 if has_given else 1 :], f"{1000 * self.seconds:.0f} ms"

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Trial:
        """Reads what `asdict` gave; earlier searches stored one AUROC for all kinds of defects."""
        own = {field.name: _tuples(stored[field.name]) for field in fields(cls) if field.name in stored}
        if stored.get("auroc") is not None:
            own["simulated"] = (stored["auroc"],)
        return cls(**own)


# "apart" is the AUROC: the share of pairs of a good and a bad picture in which the bad one scores higher
HEADER = ("settings", "false alarms", "simulated found", "told apart", "a picture")
YOURS = ("yours found", "simulated found", "yours apart", "simulated apart")
HEADER_GIVEN = ("settings", "false alarms", *YOURS, "a picture")


@dataclass(frozen=True)
class Choice:
    """Settings that were tried before a fit, and those that were chosen.

    flags: of the settings that were chosen; empty: those given. reason: why.
    good, given, simulated: pictures that were judged: left-out good ones, and defects. seconds: of the
        search, and of those that it went on with. digest: of the pictures and options; empty: nothing was
        tried.
    enough: minutes in which all would be tried, about; 0: all was.
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
        """Whether other settings than those given were tried to the end."""
        return any(one.flags and one.rounds for one in self.trials)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Choice | None:
        """Reads it from a model's facts; None where nothing was tried, or they are damaged."""
        try:
            stored = facts[TRIED]
            by_flags = {one["flags"]: Trial.from_dict(one) for one in stored["trials"]}
            own = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
            return cls(**{**own, "trials": tuple(by_flags.values())})
        except (KeyError, TypeError):
            return None

    def lines(self) -> list[str]:
        """Lines of a short table for a person, and why."""
        has_given = any(one.given for one in self.trials)
        shown = self.shown()
        rows: list[tuple[str, ...]] = [HEADER_GIVEN if has_given else HEADER]
        rows += [one.cells(has_given, self._chosen() or one) for one in shown]
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
        """Returns the trials, the best first, and last those that were not tried to the end."""
        chosen = self._chosen()
        return sorted(self.trials, key=lambda one: one.beside(chosen or one), reverse=True)

    def _chosen(self) -> Trial | None:
        return next((one for one in self.trials if one.flags == self.flags and one.rounds), None)

    def _basis_lines(self) -> list[str]:
        """Lines with what the settings were judged by, and what the table's numbers mean."""
        if not self.good:
            return []
        words = [pluralize(self.good, "good picture") + " left out"]
        words += [pluralize(self.given, "defect") + " of yours"] if self.given else []
        words += [f"{self.simulated} simulated"] if self.simulated else []
        judged = f"judged by {', '.join(words)}"
        rounds = max(one.rounds for one in self.trials)
        lines = [
            "apart: of pairs of a good and a defective picture, in how many the defective one scores higher"
        ]
        if rounds > 1:
            anew = ", each with defects of yours" if self.given else ""
            judged += f", in up to {rounds} rounds{anew}"
            lines.append("of settings of fewer rounds: by what they differ from the chosen one in these")
        return [judged, *lines]


def tried_lines(facts: Mapping[str, Any]) -> list[str]:
    """Lines on what was tried before a fit, for a person; empty where nothing was."""
    choice = Choice.from_facts(facts)
    return [] if choice is None else choice.lines()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
