"""Decides on parts that are seen in several views, with a false-alarm rate that holds for parts.

Each view of a part has a score. The part's nonconformity score is the largest of its views' z-scores: (score
- mean) / standard deviation of the view, over all n held-out good parts and the new part itself. The new
part's p-value is (1 + #{good parts with at least its score}) / (n + 1).

The score that is reported is the same z-score over the other parts alone (an externally studentized
residual). It rises with the z-score above and ranks parts alike, has no upper limit, and shows which of two
new parts with the same views lies farther out.

If a good new part is exchangeable with the n others, this p-value is at most alpha with probability at most
alpha, whatever the scores look like and however the views depend on each other: all n + 1 scores come from
one formula that treats the parts alike (full conformal prediction: Vovk, Gammerman & Shafer, Algorithmic
Learning in a Random World, 2005, chapter 2). A threshold for each view would need a multiple-testing
correction, which costs power.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.near_threshold import is_near
from flawscope.calibration.promise import PromiseVerdict, describe_lack, describe_rate, judge_promise
from flawscope.errors import InputError, compile_pattern, join_names, pluralize
from flawscope.pictures.units import PartKey, PartReader, file_stem, group_reader, search_name

MIN_STD = 1e-6  # standard deviation of equal scores, of their size
ROUNDING = 1e-9  # of a rate
MOST_BESIDE = 50  # good parts, evenly drawn, in whose place a picture of another part is tried


class View(NamedTuple):
    """Part that a picture shows, and the view from which it was taken."""

    part: str
    view: str


@dataclass(frozen=True)
class PartPattern:
    """Pattern that reads part and view from the name of a picture's file.

    The text of an expression is that of its groups if it has any, otherwise that of the match. It is searched
    in the file's name, then with its folder's name, and so on; `$` is the end of the name with or without the
    suffix.

    Attributes:
        part: Regular expression of the part.
        view: Regular expression of the view; None: the view is the rest of the file's name.
    """

    part: str
    view: str | None = None

    def __post_init__(self) -> None:
        for flag, pattern in (("--part", self.part), ("--view", "" if self.view is None else self.view)):
            if not isinstance(pattern, str):  # of a damaged file
                raise InputError(f"{flag} is no text: fit anew")
            compile_pattern(flag, pattern)

    @classmethod
    def from_template(cls, template: str) -> PartPattern:
        """Make the pattern of names like `{part}_{light}.png`.

        Raises:
            InputError: The template has other fields than `{part}` and one more.
        """
        pieces = re.split(r"\{(\w+)\}", template)
        fields = pieces[1::2]
        if len(fields) != 2 or fields.count("part") != 1:
            raise InputError(f"{template!r:.60} has to have {{part}} and one more field, such as {{light}}")

        def pattern(field: str) -> str:
            texts = []
            for k, piece in enumerate(pieces):
                if k % 2 == 0:  # between the fields
                    texts.append(re.escape(piece))
                else:
                    texts.append("([^/]+)" if piece == field else "[^/]+")
            return f"{''.join(texts)}$"

        (view_field,) = (field for field in fields if field != "part")
        return cls(part=pattern("part"), view=pattern(view_field))

    def parse(self, name: str) -> View:
        """Read a name, with forward slashes. InputError where a pattern does not match."""
        part = _search_pattern("--part", self.part, name)
        if self.view is None:
            rest = file_stem(name.rpartition("/")[2]).replace(part.group(), "", 1)
            return View(_matched_text(part), rest.strip(" _-.") or "view")
        return View(_matched_text(part), _matched_text(_search_pattern("--view", self.view, name)))

    def parse_part(self, name: str) -> str:
        """Read the part alone, where the view is known. InputError where the pattern does not match."""
        return _matched_text(_search_pattern("--part", self.part, name))

    def part_key(self, name: str) -> PartKey | None:
        """Return the key of the part that a name names, for `units.units_of`; None: it names none."""
        try:
            return (self.parse_part(name),)
        except InputError:
            return None

    def parse_all(self, names: Iterable[str]) -> list[View]:
        """Read the names of good pictures.

        Raises:
            InputError: A pattern does not match, or a part has two pictures of the same view.
        """
        every = [*names]
        self._check_matches(every)
        found: dict[View, str] = {}
        for name in every:
            view = self.parse(name)
            if (other := found.setdefault(view, name)) is not name:
                raise InputError(
                    f"{other} and {name} both show view {view.view} of part {view.part}: correct the pattern"
                )
        return list(found)

    def _check_matches(self, names: Sequence[str]) -> None:
        """Raise an InputError, with the names that match, where a pattern does not match all names."""
        for flag, pattern in (("--part", self.part), ("--view", self.view)):
            if pattern is None:
                continue
            without = [name for name in names if _search(pattern, name) is None]
            if not without:
                continue
            matched = [name for name in names if name not in {*without}]
            if not matched:
                raise InputError(
                    f"{without[0]}: {flag} '{pattern}' matches nothing in this name, nor in any other: "
                    "correct the pattern"
                )
            raise InputError(
                f"{flag} '{pattern}' matches {len(matched)} of {len(names)} names, such as {matched[0]}, and "
                f"nothing in {join_names(without, 3)}: correct the pattern, or take these pictures out"
            )

    def check_parts(self, names: Iterable[str]) -> None:
        """Check that names name several parts, some of which have several pictures.

        Raises:
            InputError: A pattern does not match, a part has two pictures of the same view, all names name a
                single part, or no two names name the same part.
        """
        every = [*names]
        views = self.parse_all(every)
        parts = {view.part for view in views}
        if len(views) < 2:
            return
        if len(parts) == 1:
            raise InputError(
                f"--part '{self.part}' matches the same text in each name, {views[0].part} as in {every[0]}: "
                "the first match counts; write with it what stands beside the part's number, as in '_(\\d+)$'"
            )
        if len(parts) == len(views):
            raise InputError(
                f"--part '{self.part}' matches another text in each name, {views[0].part} in {every[0]} and "
                f"{views[1].part} in {every[1]}: correct it, so that it is the same for the views of a part; "
                "where names have no text that the views of a part share, rename the files"
            )


def name_reader(group: str | None, part: str | None, view: str | None = None) -> PartReader | None:
    """Return the reader of a part's name from a picture's name; None without any pattern.

    Args:
        group: Pattern of `--group`, which counts where `part` is None.
        part: Pattern of `--part`.
        view: Pattern of `--view`.

    Raises:
        InputError: A pattern is not a regular expression.
    """
    return group_reader(group) if part is None else PartPattern(part, view).part_key


def _search(pattern: str, name: str) -> re.Match[str] | None:
    """Search a pattern in a file's name, then with its folder's name, and so on."""
    expression = re.compile(pattern)
    folders = name.split("/")
    for k in reversed(range(len(folders))):
        match = search_name(expression, "/".join(folders[k:]))
        if match is not None:
            return match
    return None


def _search_pattern(flag: str, pattern: str, name: str) -> re.Match[str]:
    match = _search(pattern, name)
    if match is None:
        raise InputError(f"{name}: {flag} '{pattern}' matches nothing in this name: correct the pattern")
    return match


def _matched_text(match: re.Match[str]) -> str:
    return "/".join(text or "" for text in match.groups()) or match.group()


def _over_the_others(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return z-scores [N] over the N - 1 other values from z-scores over all N; the order stays."""
    count = len(z)
    room = np.maximum(1 - z**2 / (count - 1), ROUNDING)
    return np.asarray(z * np.sqrt(count / (count - 1) / room), np.float64)


class PartDecision(NamedTuple):
    """Decision on a part.

    Attributes:
        score: Distance of the part's most unusual view above the good parts' mean, in their standard
            deviations.
        p_value: P-value of the part.
        is_anomalous: Whether the part is called anomalous.
        worst: View with the largest z-score.
        severity: Difference between the score and that of the good part that sets the limit; above 0 exactly
            where the part is anomalous.
        near: Whether the part is called good, near the threshold (`near_threshold`).
    """

    score: float
    p_value: float
    is_anomalous: bool
    worst: str
    severity: float
    near: bool


class _GoodParts(NamedTuple):
    """Good parts with scores for all of some views.

    Attributes:
        found: [n, views], scores of the parts without a lost view.
        lost: Weight of the parts with a lost view, which rank above all: their number, or more where the line
            loses more.
        total: Number of all parts.
    """

    found: NDArray[np.float64]
    lost: float
    total: int

    @property
    def weight(self) -> float:
        """Weight of each found part: `total` together with the lost ones."""
        return (self.total - self.lost) / max(1, len(self.found))

    def allowed(self, rate: float) -> int:
        """Number of found parts that may score at least as high as a new one that is called anomalous."""
        room = (rate + ROUNDING) * (self.total + 1) - 1 - self.lost
        return 0 if room <= 0 else min(len(self.found), int(room / self.weight + ROUNDING))

    def p_value(self, above: int) -> float:
        """Return the p-value of a new part; `above` found parts score at least as high."""
        return (1 + self.lost + self.weight * above) / (self.total + 1)


@dataclass(frozen=True)
class PartCalibration:
    """Scores of good parts that the model left out, and the target false-alarm rate.

    Attributes:
        parts: Names of the parts.
        views: Names of the views.
        scores: [parts, views]; NaN where a picture is missing, infinite where it is lost: its part is not
            found, counted wrong, or lost in some light. Such a part is called anomalous whatever its other
            views score, and ranks above all.
        rate: Target false-alarm rate, 0..1.
        drawn: Names of the parts that were drawn from the line by chance: they give the share of the line's
            parts that are lost.
    """

    parts: tuple[str, ...]
    views: tuple[str, ...]
    scores: NDArray[np.float64]
    rate: float
    drawn: frozenset[str] = frozenset()

    @classmethod
    def from_views(
        cls, views: Sequence[View], scores: Sequence[float], rate: float, drawn: Sequence[bool] = ()
    ) -> PartCalibration:
        """Arrange the scores of pictures; of several pictures of a view the largest score counts.

        Args:
            views: Part and view of each picture.
            scores: Score of each picture.
            rate: Target false-alarm rate, 0..1.
            drawn: Whether each picture was drawn from the line by chance; empty: none was.
        """
        (parts, rows), (names, columns) = (
            np.unique(of, return_inverse=True) for of in ([v.part for v in views], [v.view for v in views])
        )
        table = np.full((len(parts), len(names)), np.nan)
        np.fmax.at(table, (rows, columns), np.asarray(scores, np.float64))
        of_line = frozenset(view.part for view, chosen in zip(views, drawn, strict=False) if chosen)
        return cls(tuple(parts.tolist()), tuple(names.tolist()), table, rate, of_line)

    def count(self, views: Iterable[str]) -> int:
        """Return the number of parts that have a score for all these views."""
        return self._good_parts(list(views)).total

    def _good_parts(self, views: Sequence[str]) -> _GoodParts:
        """Return the good parts that have these views. InputError where a view is unknown."""
        if unknown := [view for view in views if view not in self.views]:
            known = ", ".join(self.views)
            raise InputError(f"the model knows no view {join_names(unknown)}: name one of {known}")
        view_scores = self.scores[:, [self.views.index(view) for view in views]]
        is_whole = ~np.isnan(view_scores).any(axis=1)
        is_lost = np.isinf(view_scores[is_whole]).any(axis=1)
        is_drawn = np.array([part in self.drawn for part in self.parts], np.bool_)[is_whole]
        total = int(np.count_nonzero(is_whole))
        lost = float(np.count_nonzero(is_lost))
        of_line = int(np.count_nonzero(is_drawn))
        if of_line:
            lost = max(lost, total * np.count_nonzero(is_lost & is_drawn) / of_line)
        return _GoodParts(view_scores[is_whole][~is_lost], lost, total)

    def decide(self, scores: Mapping[str, float]) -> PartDecision:
        """Decide on a part by the scores of its views.

        Good parts are compared by the same views alone: the rate holds for a part with missing views, too.

        Raises:
            InputError: There are no views, a view is unknown, or no good part has all of the views.
        """
        good = self._good_parts(list(scores))
        if not scores or not len(good.found):
            raise InputError(f"no good part with the views {', '.join(scores) or '(none)'} is known")
        table = np.vstack([good.found, [*scores.values()]])
        mean = table.mean(axis=0)
        z = (table - mean) / np.maximum(table.std(axis=0), MIN_STD * np.maximum(1.0, np.abs(mean)))
        combined = z.max(axis=1)
        above = int((combined[:-1] >= combined[-1]).sum())
        allowed = good.allowed(self.rate)
        deviations = _over_the_others(combined)
        rank = min(allowed + 1, len(good.found))  # of the good part that sets the limit
        score = float(deviations[-1])
        limit = float(np.sort(deviations[:-1])[-rank])
        worst = [*scores][int(z[-1].argmax())]
        p_value = good.p_value(above)
        is_anomalous = above <= allowed
        near = not is_anomalous and is_near(p_value, good.p_value(allowed))
        return PartDecision(score, p_value, is_anomalous, worst, score - limit, near)

    def known_scores(self, part: str) -> dict[str, float]:
        """Return the scores of a good part of the calibration, by view; empty: the part is unknown."""
        if part not in self.parts:
            return {}
        row = self.scores[self.parts.index(part)]
        return {view: float(score) for view, score in zip(self.views, row, strict=True) if np.isfinite(score)}

    def without(self, part: str) -> PartCalibration:
        """Return the calibration without a part, as if it had never been seen."""
        kept = [k for k, name in enumerate(self.parts) if name != part]
        names = tuple(self.parts[k] for k in kept)
        return PartCalibration(names, self.views, self.scores[kept], self.rate, self.drawn)

    @property
    def complete_count(self) -> int:
        """Number of parts with all views."""
        return self.count(self.views)

    @property
    def lost_count(self) -> int:
        """Number of parts with all views where the part is not found in one or more."""
        good = self._good_parts(self.views)
        return good.total - len(good.found)

    @property
    def expected_rate(self) -> float:
        """Share of new good parts with all views that are expected to be called anomalous."""
        good = self._good_parts(self.views)
        return good.p_value(good.allowed(self.rate))

    def judge(self, alarms: int, good: int) -> PromiseVerdict | None:
        """Judge whether the promise was kept, by `alarms` false alarms among `good` new good parts.

        None where no promise was made.
        """
        known = self.complete_count
        return judge_promise(alarms, good, self.expected_rate, known) if known > 1 else None

    def promise(self) -> str:
        """Return a line for a person: the false alarms expected among parts with all views."""
        count = self.complete_count
        views = f"{pluralize(len(self.views), 'view')} ({', '.join(self.views)})"
        if count < 2:
            return f"parts of {views}: no promise, {pluralize(count, 'good part')} with all views"
        text = (
            f"parts of {views}: {describe_rate(self.expected_rate, count, 'parts')}, from "
            f"{pluralize(count, 'good part')}"
        )
        if self.lost_count:
            text += f"; {self.lost_count} of them for views that are not found, counted wrong or lost"
        return "; ".join(filter(None, (text, describe_lack(self.rate, count, of_parts=True))))


@dataclass(frozen=True)
class KnownParts:
    """Good parts that a model was calibrated on, and the rule by which names name them.

    Attributes:
        calibration: Scores of the good parts.
        view_of: Returns the part and view that a picture's name names; InputError where it names none.
    """

    calibration: PartCalibration
    view_of: Callable[[str], View]

    def is_found(self, name: str, score: float) -> bool:
        """Whether a part is anomalous if a good picture of it gets another score, such as by a defect.

        Where the model was calibrated on other parts since, the picture takes the place of its view's picture
        in some of these parts, and the majority decides.

        Args:
            name: Name of the good picture.
            score: The other score.
        """
        part, view = self.view_of(name)
        known = self.calibration
        beside = [part] if part in known.parts else known.parts[:: math.ceil(len(known.parts) / MOST_BESIDE)]
        several = [{**known.known_scores(other_score), view: score} for other_score in beside]
        found = [known.decide(scores).is_anomalous for scores in several]
        return 2 * sum(found) > len(found)
