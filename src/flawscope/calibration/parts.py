"""Decides on parts that are seen in several views, with a false-alarm rate that holds for parts.

Each view of a part has a score. The part's nonconformity score is the largest of its views' z-scores: (score
- mean) / standard deviation of the view, over all n held-out good parts and the new part itself. The new
part's p-value is (1 + #{good parts with at least its score}) / (n + 1).

The score that is reported is the z-score by mean and deviation of the other parts (an externally studentized
residual). It rises with the z-score above, so that it ranks parts in the same order. It has no upper limit,
and shows which of two new parts with the same views lies farther out.

If a good new part is exchangeable with the n others, this p-value is at most alpha with probability at most
alpha, whatever the scores look like and however the views depend on each other: all n + 1 scores come from
a formula that treats all parts the same (full conformal prediction: Vovk, Gammerman & Shafer, Algorithmic
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

MIN_STD = 1e-6  # standard deviation that equal scores get, as a share of their mean or of 1, if that is more
ROUNDING = 1e-9  # by which rates and numbers of parts may be off
MAX_CARRIER_PARTS = 50  # number of good parts, about, in which a picture of another part is tried


class View(NamedTuple):
    """Part that a picture shows, and the view from which it was taken."""

    part: str
    view: str


@dataclass(frozen=True)
class PartPattern:
    """Pattern that reads part and view from the name of a picture's file.

    Each regular expression is searched in the file's name, then in the name with its folder, and so on. The
    part (or view) is the text of the expression's groups, or of the whole match if it has no groups. `$` is
    the end of the name, with or without the suffix.

    Attributes:
        part: Regular expression of the part.
        view: Regular expression of the view; None: the view is the rest of the file's name.
    """

    part: str
    view: str | None = None

    def __post_init__(self) -> None:
        for flag, pattern in (("--part", self.part), ("--view", "" if self.view is None else self.view)):
            if not isinstance(pattern, str):  # a damaged file may hold anything
                raise InputError(f"{flag} is no text: fit anew")
            compile_pattern(flag, pattern)

    @classmethod
    def from_template(cls, template: str) -> PartPattern:
        """Make the pattern for names that follow a template such as `{part}_{light}.png`.

        The template has the field `{part}` and one more field, whose text is the view.

        Raises:
            InputError: The template has other fields.
        """
        texts_and_fields = re.split(r"\{(\w+)\}", template)  # text, field, text, field, text
        fields = texts_and_fields[1::2]
        if len(fields) != 2 or fields.count("part") != 1:
            raise InputError(f"{template!r:.60} has to have {{part}} and one more field, such as {{light}}")
        before, between, behind = (re.escape(text) for text in texts_and_fields[::2])

        def pattern_of(field: str) -> str:
            """Return an expression for the whole name, whose only group is the text of a field."""
            first, second = ("([^/]+)" if name == field else "[^/]+" for name in fields)
            return f"{before}{first}{between}{second}{behind}$"

        (view_field,) = (field for field in fields if field != "part")
        return cls(part=pattern_of("part"), view=pattern_of(view_field))

    def parse(self, name: str) -> View:
        """Read part and view from a name with forward slashes.

        A pattern without `view` takes the rest of the file's name as the view; "view" if nothing is left.

        Raises:
            InputError: A pattern does not match.
        """
        part_match = _match_pattern("--part", self.part, name)
        part = _matched_text(part_match)
        if self.view is not None:
            return View(part, _matched_text(_match_pattern("--view", self.view, name)))
        _, _, file_name = name.rpartition("/")
        rest = file_stem(file_name).replace(part_match.group(), "", 1)  # without the part's text
        return View(part, rest.strip(" _-.") or "view")

    def parse_part(self, name: str) -> str:
        """Read only the part, from a name whose view is known. InputError: the pattern does not match."""
        return _matched_text(_match_pattern("--part", self.part, name))

    def part_key(self, name: str) -> PartKey | None:
        """Return the part that a name states, in the form for `units.units_of`; None: it states none."""
        try:
            return (self.parse_part(name),)
        except InputError:
            return None

    def parse_all(self, names: Iterable[str]) -> list[View]:
        """Read part and view from the names of good pictures, in their order.

        Raises:
            InputError: A pattern does not match, or a part has two pictures of the same view.
        """
        all_names = [*names]
        self._check_matches(all_names)
        name_by_view: dict[View, str] = {}
        for name in all_names:
            view = self.parse(name)
            earlier_name = name_by_view.setdefault(view, name)
            if earlier_name is not name:  # `is not`, since two pictures may have equal names
                raise InputError(
                    f"{earlier_name} and {name} both show view {view.view} of part {view.part}: correct the "
                    "pattern"
                )
        return list(name_by_view)

    def _check_matches(self, names: Sequence[str]) -> None:
        """Raise an InputError if a pattern does not match all names.

        The error names examples: a name that matches, and names that do not match.
        """
        for flag, pattern in (("--part", self.part), ("--view", self.view)):
            if pattern is None:
                continue
            unmatched = [name for name in names if _search(pattern, name) is None]
            if not unmatched:
                continue
            matched = [name for name in names if name not in {*unmatched}]
            if not matched:
                raise InputError(
                    f"{unmatched[0]}: {flag} '{pattern}' matches nothing in this name, nor in any other: "
                    "correct the pattern"
                )
            raise InputError(
                f"{flag} '{pattern}' matches {len(matched)} of {len(names)} names, such as {matched[0]}, and "
                f"nothing in {join_names(unmatched, 3)}: correct the pattern, or take these pictures out"
            )

    def check_parts(self, names: Iterable[str]) -> None:
        """Check that names state several parts, and that at least one part has several pictures.

        A single name is accepted.

        Raises:
            InputError: A pattern does not match, or a part has two pictures of the same view. Or all names
                state the same part, or each name another part.
        """
        all_names = [*names]
        views = self.parse_all(all_names)
        parts = {view.part for view in views}
        if len(views) < 2:
            return
        if len(parts) == 1:
            raise InputError(
                f"--part '{self.part}' matches the same text in each name, {views[0].part} as in "
                f"{all_names[0]}: the first match counts; write with it what stands beside the part's "
                "number, as in '_(\\d+)$'"
            )
        if len(parts) == len(views):
            raise InputError(
                f"--part '{self.part}' matches another text in each name, {views[0].part} in {all_names[0]} "
                f"and {views[1].part} in {all_names[1]}: correct it, so that it is the same for the views of "
                "a part; where names have no text that the views of a part share, rename the files"
            )


def name_reader(group: str | None, part: str | None, view: str | None = None) -> PartReader | None:
    """Return the function that reads the part from a picture's name; None if there is no pattern.

    Args:
        group: Pattern of `--group`, which is used if `part` is None.
        part: Pattern of `--part`.
        view: Pattern of `--view`.

    Raises:
        InputError: A pattern is not a regular expression.
    """
    return group_reader(group) if part is None else PartPattern(part, view).part_key


def _search(pattern: str, name: str) -> re.Match[str] | None:
    """Search a pattern in a file's name, then in the name with its folder, and so on, until it matches."""
    expression = re.compile(pattern)
    path_parts = name.split("/")
    for start in reversed(range(len(path_parts))):
        name_end = "/".join(path_parts[start:])
        match = search_name(expression, name_end)
        if match is not None:
            return match
    return None


def _match_pattern(flag: str, pattern: str, name: str) -> re.Match[str]:
    """Return the match of a flag's pattern in a name. InputError where it does not match."""
    match = _search(pattern, name)
    if match is None:
        raise InputError(f"{name}: {flag} '{pattern}' matches nothing in this name: correct the pattern")
    return match


def _matched_text(match: re.Match[str]) -> str:
    """Return the texts of a match's groups, joined by slashes.

    If there are no groups, or the only group is empty, it is the text of the whole match.
    """
    return "/".join(text or "" for text in match.groups()) or match.group()


def _leave_one_out_z_scores(z_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each of N values its z-score by mean and deviation of the other values.

    For a z-score z by all N values, it is z * sqrt(N / (N - 1) / (1 - z^2 / (N - 1))). This rises with z, so
    that the order of the values stays the same.

    Args:
        z_scores: Z-scores [N] by mean and deviation of all values.
    """
    count = len(z_scores)
    variance_share = np.maximum(1 - z_scores**2 / (count - 1), ROUNDING)  # of the others' variance
    return np.asarray(z_scores * np.sqrt(count / (count - 1) / variance_share), np.float64)


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
        near: Whether the part is called good, but is near the threshold (`near_threshold`).
    """

    score: float
    p_value: float
    is_anomalous: bool
    worst: str
    severity: float
    near: bool


class _GoodParts(NamedTuple):
    """Good parts that have pictures of given views.

    Attributes:
        scores: Scores [n, views] of the parts without a lost view.
        lost_weight: Weight of all parts with a lost view, which rank above all scores. It is their number, or
            more if a larger share of parts is lost on the line.
        total: Number of all parts, which is also the weight of all parts together.
    """

    scores: NDArray[np.float64]
    lost_weight: float
    total: int

    @property
    def weight(self) -> float:
        """Weight of each part with scores."""
        return (self.total - self.lost_weight) / max(1, len(self.scores))

    def max_above(self, rate: float) -> int:
        """Return how many parts may score at least as high as a new part that is called anomalous.

        The result is the largest number for which the `p_value` of the new part is at most the rate.

        Args:
            rate: Target false-alarm rate, 0..1.
        """
        # `p_value` is the rate if the parts that score at least as high have this weight together
        weight_above = (rate + ROUNDING) * (self.total + 1) - 1 - self.lost_weight
        if weight_above <= 0:
            return 0
        return min(len(self.scores), int(weight_above / self.weight + ROUNDING))

    def p_value(self, above: int) -> float:
        """Return the p-value of a new part.

        Args:
            above: Number of the parts with scores that score at least as high as the new part.
        """
        return (1 + self.lost_weight + self.weight * above) / (self.total + 1)


@dataclass(frozen=True)
class PartCalibration:
    """Scores of good parts that the model left out, and the target false-alarm rate.

    Attributes:
        parts: Names of the parts.
        views: Names of the views.
        scores: Scores [parts, views]. NaN: the picture is missing. Infinite: the picture is lost, because its
            part is not found, counted wrong, or lost in some light. A part with a lost picture is called
            anomalous whatever its other views score, and ranks above all others.
        rate: Target false-alarm rate, 0..1.
        drawn: Names of the parts that were drawn from the line by chance, from which the share of lost parts
            on the line is estimated.
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
        """Make the calibration from scores of pictures.

        If several pictures show the same view of a part, their largest score counts.

        Args:
            views: Part and view of each picture.
            scores: Score of each picture.
            rate: Target false-alarm rate, 0..1.
            drawn: Whether each picture was drawn from the line by chance; empty: none was.
        """
        part_names, rows = np.unique([view.part for view in views], return_inverse=True)
        view_names, columns = np.unique([view.view for view in views], return_inverse=True)
        table = np.full((len(part_names), len(view_names)), np.nan)
        # fmax ignores NaN, so that an empty cell takes its first score
        np.fmax.at(table, (rows, columns), np.asarray(scores, np.float64))
        # strict=False, because `drawn` may be empty
        drawn_parts = frozenset(view.part for view, is_drawn in zip(views, drawn, strict=False) if is_drawn)
        return cls(
            parts=tuple(part_names.tolist()),
            views=tuple(view_names.tolist()),
            scores=table,
            rate=rate,
            drawn=drawn_parts,
        )

    def count(self, views: Iterable[str]) -> int:
        """Return the number of parts that have a score for all these views."""
        return self._good_parts(list(views)).total

    def _good_parts(self, views: Sequence[str]) -> _GoodParts:
        """Return the good parts that have pictures of all of these views.

        Raises:
            InputError: A view is unknown.
        """
        unknown_views = [view for view in views if view not in self.views]
        if unknown_views:
            known_views = ", ".join(self.views)
            raise InputError(
                f"the model knows no view {join_names(unknown_views)}: name one of {known_views}"
            )
        view_scores = self.scores[:, [self.views.index(view) for view in views]]
        has_all_views = ~np.isnan(view_scores).any(axis=1)
        # from here on only parts that have all these views
        part_scores = view_scores[has_all_views]
        is_drawn = np.array([part in self.drawn for part in self.parts], np.bool_)[has_all_views]
        is_lost = np.isinf(part_scores).any(axis=1)  # a lost picture has an infinite score
        total = len(part_scores)
        lost_weight = float(np.count_nonzero(is_lost))
        drawn_count = int(np.count_nonzero(is_drawn))
        if drawn_count:  # if a larger share of parts is lost on the line, this share counts
            lost_weight_on_line = total * np.count_nonzero(is_lost & is_drawn) / drawn_count
            lost_weight = max(lost_weight, lost_weight_on_line)
        return _GoodParts(part_scores[~is_lost], lost_weight, total)

    def decide(self, scores: Mapping[str, float]) -> PartDecision:
        """Decide on a part by the scores of its views.

        The part is compared with good parts by these views only, so that the rate also holds for a part with
        missing views.

        Args:
            scores: Score of each view of the part.

        Raises:
            InputError: There are no views, a view is unknown, or no good part has all of the views.
        """
        good = self._good_parts(list(scores))
        if not scores or not len(good.scores):
            raise InputError(f"no good part with the views {', '.join(scores) or '(none)'} is known")
        table = np.vstack([good.scores, [*scores.values()]])  # the new part is the last row
        mean = table.mean(axis=0)
        std = np.maximum(table.std(axis=0), MIN_STD * np.maximum(1.0, np.abs(mean)))
        view_z_scores = (table - mean) / std
        part_z_scores = view_z_scores.max(axis=1)
        good_z_scores = part_z_scores[:-1]
        above = int((good_z_scores >= part_z_scores[-1]).sum())  # number of good parts
        max_above = good.max_above(self.rate)
        p_value = good.p_value(above)
        is_anomalous = above <= max_above
        reported_scores = _leave_one_out_z_scores(part_z_scores)  # they rank the parts in the same order
        score = float(reported_scores[-1])
        # an anomalous part has at most `max_above` good parts above it, so it scores above the next one
        limit_rank = min(max_above + 1, len(good.scores))
        limit = float(np.sort(reported_scores[:-1])[-limit_rank])
        return PartDecision(
            score=score,
            p_value=p_value,
            is_anomalous=is_anomalous,
            worst=[*scores][int(view_z_scores[-1].argmax())],
            severity=score - limit,
            near=not is_anomalous and is_near(p_value, good.p_value(max_above)),
        )

    def known_scores(self, part: str) -> dict[str, float]:
        """Return the scores of a good part of the calibration, by view; empty where the part is unknown.

        Views whose picture is missing or lost are left out.
        """
        if part not in self.parts:
            return {}
        row = self.scores[self.parts.index(part)]
        return {view: float(score) for view, score in zip(self.views, row, strict=True) if np.isfinite(score)}

    def without(self, part: str) -> PartCalibration:
        """Return the calibration without a part, as if it had never been seen."""
        rows = [row for row, name in enumerate(self.parts) if name != part]
        names = tuple(self.parts[row] for row in rows)
        return PartCalibration(names, self.views, self.scores[rows], self.rate, self.drawn)

    @property
    def complete_count(self) -> int:
        """Number of parts with all views."""
        return self.count(self.views)

    @property
    def lost_count(self) -> int:
        """Number of parts with pictures of all views, at least one of which is lost."""
        good = self._good_parts(self.views)
        return good.total - len(good.scores)

    @property
    def expected_rate(self) -> float:
        """Share of new good parts with all views that are expected to be called anomalous."""
        good = self._good_parts(self.views)
        return good.p_value(good.max_above(self.rate))

    def judge(self, alarms: int, good: int) -> PromiseVerdict | None:
        """Judge whether the expected rate was kept on new good parts; None where no rate was promised.

        Args:
            alarms: Number of the new good parts that were called anomalous.
            good: Number of the new good parts.
        """
        count = self.complete_count
        return judge_promise(alarms, good, self.expected_rate, count) if count > 1 else None

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
        lack = describe_lack(self.rate, count, of_parts=True)
        return f"{text}; {lack}" if lack else text


@dataclass(frozen=True)
class KnownParts:
    """Good parts that a model was calibrated on, and the rule by which names name them.

    Attributes:
        calibration: Scores of the good parts.
        view_of: Function that reads part and view from a picture's name; InputError: the name states none.
    """

    calibration: PartCalibration
    view_of: Callable[[str], View]

    def is_found(self, name: str, score: float) -> bool:
        """Whether a good part would be called anomalous, if one of its pictures had the score of a defect.

        If the calibration does not know the part, the picture is tried in the place of the same view of
        several known parts, and the majority of the decisions counts.

        Args:
            name: Name of the good picture.
            score: Score of the picture with the defect.
        """
        part, view = self.view_of(name)
        calibration = self.calibration
        if part in calibration.parts:
            carrier_parts: Sequence[str] = [part]
        else:
            step = math.ceil(len(calibration.parts) / MAX_CARRIER_PARTS)
            carrier_parts = calibration.parts[::step]
        anomalous_count = 0
        for carrier_part in carrier_parts:
            scores = {**calibration.known_scores(carrier_part), view: score}
            anomalous_count += calibration.decide(scores).is_anomalous
        return 2 * anomalous_count > len(carrier_parts)
