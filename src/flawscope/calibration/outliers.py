"""Finds unusual pictures among good ones, for fits, updates, new calibrations and reduced precisions.

Each reason has a name, and leads either to a remark or to a question of the model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.holding_out import min_calibration_size
from flawscope.calibration.power import MIN_DEFECTS, DefectScores, wilson_interval
from flawscope.calibration.rows import scored
from flawscope.calibration.threshold import Calibration, far_severity
from flawscope.errors import InputError, data_checks, join_names, pluralize
from flawscope.pictures.apart import find_apart
from flawscope.pictures.appearance import AppearanceRange, FeatureValues, describe_shifts, is_far
from flawscope.pictures.empty_pictures import NOTHING as SHOWN_NOTHING
from flawscope.pictures.empty_pictures import find_blank_pictures
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.table import DUPLICATE, Picture

# Multiple of `far_severity`, from which on there is a question about pictures that set the threshold without
# others. Good pictures with a severity of up to 14 were seen.
FAR_ALONE = 5.0
# Pictures are a question if they hide more than this share of the clear simulated defects, at 95 % confidence
HIDDEN_SHARE = 0.25
CLEARLY_ABOVE = 1.0  # severity by the earlier calibration, above which a picture is named
MIN_CHANCE = 0.01  # of a lower probability, scores of new pictures are too low for unseen pictures

Who = TypeVar("Who")  # number or name of a picture
NO_CELLS: Mapping[str, NDArray[np.float32] | None] = MappingProxyType({})


# Reasons, each with whether it leads to a question; otherwise it leads to a remark
NOTHING = "nothing"
APART = "apart"
LIKE_DEFECTS = "like_defects"
TOO_FEW = "too_few"
ALONE = "alone"
FLAGGED = "flagged"
UNLIKE = "unlike"
COPIES = "copies"
ASKS: Mapping[str, bool]
ASKS = {NOTHING: True, APART: True, LIKE_DEFECTS: True, TOO_FEW: True} | dict.fromkeys(
    (ALONE, FLAGGED, UNLIKE, COPIES), False
)
HIGH = "high"  # reason of a suspect: nothing but its score
WORDS = {
    NOTHING: "shows nothing beside the others",
    APART: "lies apart from the others",
    LIKE_DEFECTS: "is as far out as defects are",
    ALONE: "decides alone, or with few, from when on a picture is called anomalous",
    FLAGGED: "was called anomalous before",
    UNLIKE: "is unlike those learnt from",
    HIGH: "stands out by its score",
}
SUSPECTS = "suspects"  # key of a model's facts


class Unusual(NamedTuple):
    """Pictures that are unusual for one reason.

    Attributes:
        reason: Reason, a key of `ASKS`.
        line: Line for a person.
        names: Names of the pictures; empty if the reason concerns all pictures together.
    """

    reason: str
    line: str
    names: tuple[str, ...] = ()


class Suspect(NamedTuple):
    """Good picture that deserves a look.

    Attributes:
        name: Name of the picture.
        score: Score of the picture, as if it had not been learnt from; None: not known.
        reason: Reason, a key of `WORDS`.
    """

    name: str
    score: float | None
    reason: str

    def line(self) -> str:
        """Return a line for a person: name, score if known, and the reason in words."""
        score = "" if self.score is None else f"  score {self.score:.4g}"
        return f"{self.name}{score}  {WORDS[self.reason]}"


def find_unusual_looks(looks: Sequence[Look | None], names: Sequence[str]) -> Iterator[Unusual]:
    """Find unusual pictures by nothing but their looks, before anything is learnt from them."""
    blank_names = tuple(names[place] for place in find_blank_pictures(looks))
    if blank_names:
        verb = "shows" if len(blank_names) == 1 else "show"
        line = f"{join_names(blank_names)}: {verb} {SHOWN_NOTHING}"
        yield Unusual(NOTHING, data_checks.SHOWS_NOTHING.coded(line), blank_names)


def suspicious(scores: Iterable[tuple[Who, float]], limit: float | None) -> Iterator[tuple[Who, float]]:
    """Yield the pictures that score above a limit, with their scores, the highest first.

    Args:
        scores: Pairs of a picture learnt from (number or name) and its score as if it had been left out.
        limit: Limit that the model's method gives (`Manifest.suspicious_above`); None: no picture is
            suspicious.
    """
    if limit is None:
        return

    def negative_score(picture_and_score: tuple[Who, float]) -> float:
        _, score = picture_and_score
        return -score

    above_limit = [(picture, score) for picture, score in scores if score > limit]
    yield from sorted(above_limit, key=negative_score)


def list_suspects(
    found: Iterable[Unusual], scores: Mapping[str, float | None], suspicious_scores: Mapping[str, float]
) -> list[Suspect]:
    """List the good pictures that deserve a look, each once: those without a score, then highest first.

    Args:
        found: Unusual pictures. If there are several reasons for a picture, the first reason counts.
        scores: Scores of the model's pictures, by name.
        suspicious_scores: Scores of the pictures that `suspicious` finds, by name. If there is no other
            reason for such a picture, it is listed because of its score.
    """
    reason_by_name = dict.fromkeys(suspicious_scores, HIGH)
    for unusual in reversed([*found]):  # in reverse order, so that the first reason overwrites the others
        reason_by_name.update(dict.fromkeys(unusual.names, unusual.reason))
    suspects = []
    for name, reason in reason_by_name.items():
        score = suspicious_scores.get(name, scores.get(name))
        suspects.append(Suspect(name, score, reason))
    return sorted(suspects, key=lambda suspect: -math.inf if suspect.score is None else -suspect.score)


def refuse(found: Iterable[Unusual], force: bool) -> list[str]:
    """Return the lines of the notes on unusual pictures, or raise the first question as an error.

    Args:
        found: Unusual pictures.
        force: Whether a person says that all pictures are good.

    Raises:
        InputError: There is a question, and `force` is False.
    """
    notes, questions = settle(found, force)
    if questions:
        raise InputError(f"{questions[0]}: remove what is a mishap, or go on with --force")
    return notes


def find_unusual(
    rows: Iterable[Picture],
    calibration: Calibration,
    defects: DefectScores | None = None,
    new: Collection[str] = (),
    *,
    cells: Mapping[str, NDArray[np.float32] | None] = NO_CELLS,
    asks: bool = True,
    before: Calibration | None = None,
    appearance: AppearanceRange | None = None,
    left_out: int = 0,
) -> Iterator[Unusual]:
    """Find unusual pictures among the good ones that a threshold comes from.

    Args:
        rows: Rows of the model.
        calibration: Calibration that these rows give.
        defects: Scores of simulated defects by the same network; None: not known.
        new: Hashes of new good pictures.
        cells: Picture hash -> features [C, D] of the picture's grid cells; None or absent: unknown.
        asks: Whether to ask about pictures that are as far out as defects.
        before: The calibration that `calibration` replaces; None: it is the first.
        appearance: Appearance of the pictures learnt from; None: not known.
        left_out: Number of pictures that cannot calibrate: the model has learnt from them, or they are
            copies.
    """
    all_rows = [*rows]
    names = [row.name for row in scored(all_rows)]
    added = [row for row in all_rows if row.hash in new and row.role != DUPLICATE]
    if before:
        yield from _too_few_questions(calibration, before, left_out)
    yield from find_unusual_looks([row.look for row in added], [row.name for row in added])
    yield from _apart_questions(added, cells)
    if asks:
        question = defect_like_question(calibration, names, defects, before=before)
        if question:
            yield question
    yield from _threshold_notes(calibration, before, names)
    if appearance:
        yield from _unlike_notes(appearance, added)
    if before:
        yield from _learnt_notes(calibration, before)


def _too_few_questions(calibration: Calibration, before: Calibration, left_out: int) -> Iterator[Unusual]:
    """Ask whether too few pictures may calibrate (`too_few_question`)."""
    line = too_few_question(calibration, before, left_out)
    if line:
        yield Unusual(TOO_FEW, data_checks.TOO_FEW.coded(line))


def _learnt_notes(calibration: Calibration, before: Calibration) -> Iterator[Unusual]:
    """Note that new pictures score like copies of pictures learnt from (`learnt_note`)."""
    line = learnt_note(calibration, before)
    if line:
        yield Unusual(COPIES, data_checks.COPIES_OF_LEARNT.coded(line))


def _apart_questions(
    added: Sequence[Picture], cells: Mapping[str, NDArray[np.float32] | None]
) -> Iterator[Unusual]:
    """Ask about new pictures that lie apart from the other new pictures.

    Args:
        added: Rows of the new pictures.
        cells: Picture hash -> features [C, D] of the picture's grid cells; None or absent: unknown.
    """
    features = [cells.get(row.hash) for row in added]
    measured = [row.measured for row in added]
    units = [row.unit for row in added]
    for places in find_apart(features, measured, units):
        verb = "lies" if len(places) == 1 else "lie"
        apart_names = tuple(added[place].name for place in places)
        line = (
            f"{join_names(apart_names)} {verb} apart from the other pictures, like misfires or parts of "
            "another product: new ones of their kind would be called good"
        )
        yield Unusual(APART, data_checks.APART.coded(line), apart_names)


def _threshold_notes(
    calibration: Calibration, before: Calibration | None, names: Sequence[str]
) -> Iterator[Unusual]:
    """Note the pictures that raise the threshold.

    These are pictures that the calibration `before` calls anomalous (`flagged_note`). If there are none, they
    are the pictures without which the threshold would be much lower (`sole_note`).
    """
    note = flagged_note(calibration, before, names) if before else None
    if note is None:
        note = sole_note(calibration, names)
    if note:
        yield note


def _unlike_notes(appearance: AppearanceRange, added: Sequence[Picture]) -> Iterator[Unusual]:
    """Note new pictures that look unlike the pictures learnt from (`unlike_note`)."""
    note = unlike_note(appearance, [row.measured for row in added], [row.name for row in added])
    if note:
        yield note


def settle(found: Iterable[Unusual], force: bool = False) -> tuple[list[str], list[str]]:
    """Return the lines of notes, and the lines of questions.

    Args:
        found: Unusual pictures.
        force: Whether a person says that all pictures are good. Then there are only notes.
    """
    all_unusual = list(found)
    questions = [unusual.line for unusual in all_unusual if ASKS[unusual.reason] and not force]
    notes = [unusual.line for unusual in all_unusual if unusual.line not in questions]
    return notes, questions


def sole_note(calibration: Calibration, names: Sequence[str]) -> Unusual | None:
    """Return a note on the one or few pictures without which the threshold would be much lower; or None.

    Args:
        calibration: The calibration.
        names: Name of the picture of each of the calibration's scores.
    """
    if not calibration.promised:
        return None
    places = calibration.far_out()
    calibration_without = calibration.without_units(places)
    threshold_without = calibration_without.score_threshold
    are_several_units = calibration.unit_count - calibration_without.unit_count > 1
    if not are_several_units or not calibration.is_sole(threshold_without):
        sole = calibration.sole_threshold()
        if sole is None:
            return None
        place, threshold_without = sole
        places = [place]
    far_names = tuple(names[place] for place in places)
    decides, it, it_is = ("decides", "it", "it is") if len(places) == 1 else ("decide", "them", "they are")
    line = (
        f"{join_names(far_names)} alone {decides} from when on a picture is called "
        f"anomalous (score {calibration.score_threshold:.4g}, without {it} "
        f"{threshold_without:.4g}): look whether {it_is} good"
    )
    return Unusual(ALONE, data_checks.DECIDES_ALONE.coded(line), far_names)


def defect_like_question(
    calibration: Calibration,
    names: Sequence[str],
    defects: DefectScores | None,
    *,
    before: Calibration | None = None,
) -> Unusual | None:
    """Return a question about pictures that score as high as defects; None: there are none.

    The question depends on the clear simulated defects of middle and large size:

    1. If these are fewer than `MIN_DEFECTS`, the question is about pictures that are far out and
       without which the threshold would be much lower (`_far_question`).
    2. If the threshold lies above half of these defects, the question is about all pictures that are far out,
       if a threshold without these pictures surely finds more than `HIDDEN_SHARE` of the defects in addition.
       If not, the question is that of case 1.
    3. If after an update most pictures score above most of the defects, the question is about all pictures.
       It is not asked if the earlier model could not distinguish the defects from good pictures.

    Args:
        calibration: The calibration.
        names: Name of the picture of each of the calibration's scores.
        defects: Scores of simulated defects by the same network; None: not known.
        before: The calibration that `calibration` replaces; None: it is the first.
    """
    if not calibration.promised:
        return None
    clear_scores = _clear_defects(defects, calibration.precision)
    if len(clear_scores) < MIN_DEFECTS:
        return _too_few_defects_question(calibration, names, len(clear_scores))
    question = _hiding_question(calibration, names, clear_scores)
    if question or before is None:
        return question
    return _update_question(calibration, before, clear_scores)


def _too_few_defects_question(
    calibration: Calibration, names: Sequence[str], defect_count: int
) -> Unusual | None:
    """Return a question about pictures that set the threshold, if clear simulated defects are too few.

    Args:
        calibration: The calibration.
        names: Name of the picture of each of the calibration's scores.
        defect_count: Number of clear simulated defects.
    """
    reason = f"whether defects are hidden {MIN_DEFECTS} simulated ones would tell, there are {defect_count}"
    return _far_question(calibration, names, reason)


def _hiding_question(
    calibration: Calibration, names: Sequence[str], clear_scores: NDArray[np.float64]
) -> Unusual | None:
    """Return a question about pictures far out, if the threshold is above half of the clear defects.

    None: no picture is far out, or the threshold is lower. If the defects that the pictures hide are too few
    to be sure, the result is that of `_far_question`.

    Args:
        calibration: The calibration.
        names: Name of the picture of each of the calibration's scores.
        clear_scores: Scores of the clear simulated defects.
    """
    median_defect_score = float(np.median(clear_scores))
    threshold = calibration.score_threshold
    places = calibration.far_out()
    if not places or threshold < median_defect_score:
        return None
    threshold_without = calibration.without_units(places).score_threshold
    defect_count = len(clear_scores)
    hidden_count = int(((clear_scores > threshold_without) & (clear_scores <= threshold)).sum())
    lowest_share, _ = wilson_interval(hidden_count, defect_count)
    if lowest_share <= HIDDEN_SHARE:  # the pictures do not surely hide enough defects
        reason = (
            f"half of the {defect_count} clear simulated defects score less than {median_defect_score:.4g}"
        )
        return _far_question(calibration, names, reason)
    far_names = tuple(names[place] for place in places)
    are, them = ("is", "it") if len(places) == 1 else ("are", "them")
    line = (
        f"{join_names(far_names)} {are} as far out as defects are: without {them} the score threshold is "
        f"{threshold_without:.4g} instead of {threshold:.4g}, and {hidden_count} of {defect_count} clear "
        "simulated defects more would be found"
    )
    return Unusual(LIKE_DEFECTS, data_checks.LIKE_DEFECTS.coded(line), far_names)


def _update_question(
    calibration: Calibration, before: Calibration, clear_scores: NDArray[np.float64]
) -> Unusual | None:
    """Return a question about all pictures, if most of them score above most clear defects after an update.

    None: fewer do; or the earlier model could not distinguish the defects from good pictures, so that the
    scores say nothing about the pictures.

    Args:
        calibration: The calibration of the update.
        before: The calibration that `calibration` replaces.
        clear_scores: Scores of the clear simulated defects.
    """
    median_good_score = float(np.median(calibration.scores))
    if not _is_surely_most(clear_scores > before.score_threshold):
        return None
    if not _is_surely_most(clear_scores <= median_good_score):
        return None
    median_defect_score = float(np.median(clear_scores))
    line = (
        "most of the pictures are as far out as defects are: half of the clear simulated ones score less "
        f"than {median_defect_score:.4g}, half of the pictures more than {median_good_score:.4g}"
    )
    return Unusual(LIKE_DEFECTS, data_checks.LIKE_DEFECTS.coded(line))


def _far_question(calibration: Calibration, names: Sequence[str], reason: str) -> Unusual | None:
    """Return a question about pictures that set the threshold, and lie farther out than good pictures do.

    Without these pictures the threshold would be much lower (`Calibration.is_sole`). None: there are no such
    pictures.

    Args:
        calibration: The calibration.
        names: Name of the picture of each of the calibration's scores.
        reason: End of the question's line: why the pictures may hide defects.
    """
    places = calibration.far_out()
    without_far = calibration.without_units(places)
    if not places or not calibration.is_sole(without_far.score_threshold):
        return None
    lowest_far_score = sorted(calibration.scores)[-len(places)]
    # The pictures far out have the highest scores. The lowest of these is compared with the other units:
    # together they are `without_far.unit_count + 1`.
    if float(without_far.severity(lowest_far_score)) < FAR_ALONE * far_severity(without_far.unit_count + 1):
        return None
    far_names = tuple(names[place] for place in places)
    sets, it = ("sets", "it") if len(places) == 1 else ("set", "them")
    line = (
        f"{join_names(far_names)} alone {sets} the score threshold, far out: "
        f"{calibration.score_threshold:.4g}, without {it} {without_far.score_threshold:.4g}; {reason}"
    )
    return Unusual(LIKE_DEFECTS, data_checks.LIKE_DEFECTS.coded(line), far_names)


def _is_surely_most(answers: NDArray[np.bool_]) -> bool:
    """Whether more than half of all such answers are True, at 95 % confidence, by a sample of them."""
    lowest_share, _ = wilson_interval(int(answers.sum()), len(answers))
    return lowest_share > 0.5


def flagged_note(new: Calibration, before: Calibration, names: Sequence[str]) -> Unusual | None:
    """Return a note on pictures that were clearly anomalous before, and now raise the threshold.

    None: there are no such pictures.

    Args:
        new: The new calibration.
        before: The calibration that `new` replaces.
        names: Name of the picture of each of the new calibration's scores.
    """
    if not before.promised:
        return None
    # the highest score first
    places_by_score = np.argsort(-np.asarray(new.scores), kind="stable").tolist()
    places = [place for place in places_by_score if float(before.severity(new.scores[place])) > CLEARLY_ABOVE]
    calibration_without = new.without_units(places)
    if calibration_without.score_threshold >= new.score_threshold:
        return None
    far_names = tuple(names[place] for place in places)
    it, it_is = ("it", "it is") if len(places) == 1 else ("them", "they are")
    line = (
        f"called anomalous before, good from now on: {join_names(far_names)}; without "
        f"{it} the score threshold is {calibration_without.score_threshold:.4g} instead of "
        f"{new.score_threshold:.4g}; look whether {it_is} good"
    )
    return Unusual(FLAGGED, data_checks.ANOMALOUS_BEFORE.coded(line), far_names)


def learnt_note(new: Calibration, before: Calibration) -> str | None:
    """Return a note if the scores of new pictures are so low that the model has probably seen the pictures.

    Copies of pictures learnt from have such low scores. If they were saved in another format, they are not
    recognised by their pixels.

    Args:
        new: The calibration on the new pictures.
        before: The calibration that `new` replaces.

    Returns:
        The note; None: the scores are high enough.
    """
    highest = max(new.scores)
    count_above = int(sum(score > highest for score in before.scores))
    count = len(before.scores)
    new_count = len(new.scores)
    # probability that the `count_above` highest of all scores are earlier ones, if new scores are like these
    chance = math.comb(count, count_above) / math.comb(count + new_count, count_above)
    if not before.promised or chance >= MIN_CHANCE:
        return None
    return (
        f"none scores above {highest:.4g}, as {count_above} of {count} did before: are they copies of "
        "pictures that the model has learnt from? If so, new parts will be called anomalous more often"
    )


def unlike_note(
    appearance: AppearanceRange, measured: Sequence[FeatureValues], names: Sequence[str]
) -> Unusual | None:
    """Return a note on pictures whose appearance is unlike the pictures learnt from; None: none are.

    Args:
        appearance: Appearance of the pictures learnt from.
        measured: Measured features of each picture; pictures without any are left out.
        names: Name of each picture.
    """
    far_shifts = []
    far_names = []
    for features, name in zip(measured, names, strict=True):
        if not features:
            continue
        shifts = appearance.shifts(features)
        if is_far(shifts):
            far_shifts.append(shifts)
            far_names.append(name)
    if not far_names:
        return None
    line = (
        f"unlike the pictures learnt from ({describe_shifts(far_shifts)}), from now on "
        f"expected: {join_names(far_names)}"
    )
    return Unusual(UNLIKE, data_checks.UNLIKE_LEARNT.coded(line), tuple(far_names))


def too_few_question(new: Calibration, before: Calibration, left_out: int) -> str | None:
    """Return a question if a new calibration has too few pictures for the target rate.

    None: there are enough pictures, or at least as many as in the earlier calibration; or the earlier
    calibration promised no rate.

    Args:
        new: The new calibration.
        before: The calibration that `new` replaces.
        left_out: Number of pictures that cannot calibrate: the model has learnt from them, or they are
            copies.
    """
    needed = min_calibration_size(new.rate)
    if not before.promised or new.unit_count >= min(needed, before.unit_count):
        return None
    pictures = new.describe_pictures() if new.has_shared_units else pluralize(new.unit_count, "picture")
    unusable = f", {left_out} others were learnt from or are copies" if left_out else ""
    return (
        f"{pictures} can calibrate{unusable}: {new.rate:.1%} needs {needed}, and only "
        f"{new.effective_rate:.1%} could be promised, before it was {before.effective_rate:.1%}; more good "
        "pictures that the model has not seen would do"
    )


def _clear_defects(defects: DefectScores | None, precision: str) -> NDArray[np.float64]:
    """Return the scores of the clear simulated defects of all sizes but the smallest.

    Empty if none are known, or if they were measured in another precision.

    Args:
        defects: Scores of simulated defects; None: not known.
        precision: Precision of the calibration.
    """
    if defects is None or defects.precision != precision:
        return np.empty(0)
    larger_sizes = [*defects.scores][1:]  # the first size is the smallest
    return np.array([score for size in larger_sizes for score in defects.clear_scores(size)])
