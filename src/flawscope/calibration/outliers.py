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

FAR_ALONE = 5.0  # times `far_severity`, from which on it is asked; of good ones a severity of 14 was seen
HIDDEN_SHARE = 0.25  # of them: so many, surely, that pictures hide by raising the threshold are a question
CLEARLY_ABOVE = 1.0  # severity by the model before, from which on a picture is named
MIN_CHANCE = 0.01  # with which unseen pictures score so low

Who = TypeVar("Who")  # number or name of a picture
NO_CELLS: Mapping[str, NDArray[np.float32] | None] = MappingProxyType({})


# Reasons, and whether the model asks about the pictures; else it is a remark
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
HIGH = "high"  # reason of a suspect: its score alone
WORDS = {
    NOTHING: "shows nothing beside the others",
    APART: "lies apart from the others",
    LIKE_DEFECTS: "is as far out as defects are",
    ALONE: "decides alone, or with few, from when on a picture is called anomalous",
    FLAGGED: "was called anomalous before",
    UNLIKE: "is unlike those learnt from",
    HIGH: "stands out by its score",
}
SUSPECTS = "suspects"  # among a model's facts


class Unusual(NamedTuple):
    """Pictures that are unusual for one reason.

    Attributes:
        reason: A key of `ASKS`.
        line: Line for a person.
        names: Names of the pictures; empty where the reason concerns all pictures together.
    """

    reason: str
    line: str
    names: tuple[str, ...] = ()


class Suspect(NamedTuple):
    """Good picture that deserves a look.

    Attributes:
        name: Name of the picture.
        score: The picture's score as if it were left out; None: not known.
        reason: A key of `WORDS`.
    """

    name: str
    score: float | None
    reason: str

    def line(self) -> str:
        """Return a line for a person: name, score if known, and the reason in words."""
        score = "" if self.score is None else f"  score {self.score:.4g}"
        return f"{self.name}{score}  {WORDS[self.reason]}"


def find_unusual_looks(looks: Sequence[Look | None], names: Sequence[str]) -> Iterator[Unusual]:
    """Find unusual pictures by their looks alone, before anything is learnt from them."""
    if nothing := find_blank_pictures(looks):
        verb = "shows" if len(nothing) == 1 else "show"
        line = f"{join_names([names[k] for k in nothing])}: {verb} {SHOWN_NOTHING}"
        yield Unusual(NOTHING, data_checks.SHOWS_NOTHING.coded(line), tuple(names[k] for k in nothing))


def suspicious(scores: Iterable[tuple[Who, float]], limit: float | None) -> Iterator[tuple[Who, float]]:
    """Yield the pictures, with their scores, that score above a limit, the highest first.

    Args:
        scores: Picture and score of each picture learnt from, as if it were left out.
        limit: Limit that the model's method gives (`Manifest.suspicious_above`); None: it gives none.
    """
    far = [pair for pair in scores if limit is not None and pair[1] > limit]
    yield from sorted(far, key=lambda pair: -pair[1])


def list_suspects(
    found: Iterable[Unusual], scores: Mapping[str, float | None], far: Mapping[str, float]
) -> list[Suspect]:
    """List the good pictures that deserve a look, each once, highest score first.

    Args:
        found: Unusual pictures. Of several reasons for a picture, the first is listed.
        scores: Scores of the model's pictures, by name.
        far: Scores of the pictures that `suspicious` finds, by name. A score alone is the last reason.
    """
    reasons = dict.fromkeys(far, HIGH) | {
        name: suspect.reason for suspect in reversed([*found]) for name in suspect.names
    }
    listed = [Suspect(name, far.get(name, scores.get(name)), reason) for name, reason in reasons.items()]
    return sorted(listed, key=lambda suspect: -math.inf if suspect.score is None else -suspect.score)


def refuse(found: Iterable[Unusual], force: bool) -> list[str]:
    """Return the notes on unusual pictures. InputError where a question is open and `force` is False."""
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
        cells: Features [C, D] of the cells of a grid on new pictures, by hash, where they are known.
        asks: Whether to ask about pictures that are as far out as defects: new pictures may be.
        before: The calibration that this one replaces, if any.
        appearance: Appearance of the pictures learnt from; None: not known.
        left_out: Number of pictures that the calibration cannot use: learnt from, or copies.
    """
    every = [*rows]
    names = [row.name for row in scored(every)]
    added = [row for row in every if row.hash in new and row.role != DUPLICATE]
    if before:
        yield from _too_few_questions(calibration, before, left_out)
    yield from find_unusual_looks([row.look for row in added], [row.name for row in added])
    yield from _apart_questions(added, cells)
    if asks and (found := defect_like_question(calibration, names, defects, before=before)):
        yield found
    yield from _threshold_notes(calibration, before, names)
    if appearance:
        yield from _unlike_notes(appearance, added)
    if before:
        yield from _learnt_notes(calibration, before)


def _too_few_questions(calibration: Calibration, before: Calibration, left_out: int) -> Iterator[Unusual]:
    line = too_few_question(calibration, before, left_out)
    if line:
        yield Unusual(TOO_FEW, data_checks.TOO_FEW.coded(line))


def _learnt_notes(calibration: Calibration, before: Calibration) -> Iterator[Unusual]:
    line = learnt_note(calibration, before)
    if line:
        yield Unusual(COPIES, data_checks.COPIES_OF_LEARNT.coded(line))


def _apart_questions(
    added: Sequence[Picture], cells: Mapping[str, NDArray[np.float32] | None]
) -> Iterator[Unusual]:
    """Ask about new pictures that lie apart from the others; `cells` are features of some, by hash."""
    features = [cells.get(row.hash) for row in added]
    measured = [row.measured for row in added]
    units = [row.unit for row in added]
    for places in find_apart(features, measured, units):
        verb = "lies" if len(places) == 1 else "lie"
        apart = tuple(added[k].name for k in places)
        line = (
            f"{join_names(apart)} {verb} apart from the other pictures, like misfires or parts of another "
            "product: new ones of their kind would be called good"
        )
        yield Unusual(APART, data_checks.APART.coded(line), apart)


def _threshold_notes(
    calibration: Calibration, before: Calibration | None, names: Sequence[str]
) -> Iterator[Unusual]:
    """Note the pictures that raise the threshold.

    They are those that were called anomalous before; where there are none, those that set it alone.
    """
    flagged = flagged_note(calibration, before, names) if before else None
    found = flagged or sole_note(calibration, names)
    if found:
        yield found


def _unlike_notes(appearance: AppearanceRange, added: Sequence[Picture]) -> Iterator[Unusual]:
    found = unlike_note(appearance, [row.measured for row in added], [row.name for row in added])
    if found:
        yield found


def settle(found: Iterable[Unusual], force: bool = False) -> tuple[list[str], list[str]]:
    """Return notes and questions of a model; `force` turns questions into notes: all pictures are good."""
    every = list(found)
    asked = [finding.line for finding in every if ASKS[finding.reason] and not force]
    return [finding.line for finding in every if finding.line not in asked], asked


def sole_note(calibration: Calibration, names: Sequence[str]) -> Unusual | None:
    """Return a note on the picture, or the few pictures, that alone set the threshold; None: none do.

    Args:
        calibration: The calibration.
        names: Names of its scores' pictures, in their order.
    """
    if not calibration.promised:
        return None
    found = calibration.sole_threshold()
    far = calibration.far_out()
    rest = calibration.without_units(far)
    if calibration.unit_count > 1 + rest.unit_count and calibration.is_sole(rest.score_threshold):
        places = far
        without = rest.score_threshold
    elif found is not None:
        places = [found[0]]
        without = found[1]
    else:
        return None
    far_names = tuple(names[place] for place in places)
    is_sole = len(places) == 1
    decides = "decides" if is_sole else "decide"
    line = (
        f"{join_names(far_names)} alone {decides} from when on a picture is called "
        f"anomalous (score {calibration.score_threshold:.4g}, without {'it' if is_sole else 'them'} "
        f"{without:.4g}): look whether {'it is' if is_sole else 'they are'} good"
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

    The clear simulated defects of middle and large size decide, in three cases:

    1. There are fewer than `MIN_DEFECTS`: the question is about pictures that alone set the threshold, far
       out.
    2. The threshold lies above half of them: the question is about pictures because of which surely more
       than `HIDDEN_SHARE` of the defects are not found. Where the share is smaller, case 1 applies.
    3. An update leaves most pictures above most of the defects, which the earlier model could tell from good
       pictures: the question is about all pictures.

    Args:
        calibration: The calibration.
        names: Names of its scores' pictures, in their order.
        defects: Scores of simulated defects by the same network; None: not known.
        before: The calibration that this one replaces, if any.
    """
    if not calibration.promised:
        return None
    clear = _clear_defects(defects, calibration.precision)
    if len(clear) < MIN_DEFECTS:
        return _too_few_defects_question(calibration, names, len(clear))
    if question := _hiding_question(calibration, names, clear):
        return question
    if before is None:
        return None
    return _update_question(calibration, before, clear)


def _too_few_defects_question(
    calibration: Calibration, names: Sequence[str], defect_count: int
) -> Unusual | None:
    """Return a question about pictures that set the threshold, where clear defects are too few."""
    needed = f"whether defects are hidden {MIN_DEFECTS} simulated ones would tell"
    return _far_question(calibration, names, f"{needed}, there are {defect_count}")


def _hiding_question(
    calibration: Calibration, names: Sequence[str], clear: NDArray[np.float64]
) -> Unusual | None:
    """Return a question about pictures that raise the threshold above half of the clear defects."""
    usual = float(np.median(clear))
    far = calibration.far_out()
    if not far or calibration.score_threshold < usual:
        return None
    threshold = calibration.score_threshold
    without = calibration.without_units(far).score_threshold
    lost = int(((clear > without) & (clear <= threshold)).sum())
    if wilson_interval(lost, len(clear))[0] <= HIDDEN_SHARE:
        hidden = f"half of the {len(clear)} clear simulated defects score less than {usual:.4g}"
        return _far_question(calibration, names, hidden)
    far_names = tuple(names[place] for place in far)
    are, them = _verb(far)
    line = (
        f"{join_names(far_names)} {are} as far out as defects are: without {them} the score threshold is "
        f"{without:.4g} instead of {threshold:.4g}, and {lost} of {len(clear)} clear simulated defects more "
        "would be found"
    )
    return Unusual(LIKE_DEFECTS, data_checks.LIKE_DEFECTS.coded(line), far_names)


def _update_question(
    calibration: Calibration, before: Calibration, clear: NDArray[np.float64]
) -> Unusual | None:
    """Return a question about all pictures, where an update leaves most above most clear defects."""
    middle = float(np.median(calibration.scores))
    # a model that could not tell defects from good pictures before says nothing about the pictures
    could_tell = _surely_most(clear > before.score_threshold)
    if not could_tell or not _surely_most(clear <= middle):
        return None
    usual = float(np.median(clear))
    line = (
        "most of the pictures are as far out as defects are: half of the clear simulated ones score less "
        f"than {usual:.4g}, half of the pictures more than {middle:.4g}"
    )
    return Unusual(LIKE_DEFECTS, data_checks.LIKE_DEFECTS.coded(line))


def _verb(several: Sequence[object]) -> tuple[str, str]:
    return ("is", "it") if len(several) == 1 else ("are", "them")


def _far_question(calibration: Calibration, names: Sequence[str], defects: str) -> Unusual | None:
    """Return a question about pictures that alone set the threshold, farther out than good ones were seen.

    Args:
        calibration: The calibration.
        names: Names of its scores' pictures, in their order.
        defects: Words on the defects that the pictures may hide.
    """
    far = calibration.far_out()
    rest = calibration.without_units(far)
    if not far or not calibration.is_sole(rest.score_threshold):
        return None
    nearest = sorted(calibration.scores)[-len(far)]
    if float(rest.severity(nearest)) < FAR_ALONE * far_severity(rest.unit_count + 1):
        return None
    far_names = tuple(names[place] for place in far)
    sets = "sets" if len(far) == 1 else "set"
    line = (
        f"{join_names(far_names)} alone {sets} the score threshold, far out: "
        f"{calibration.score_threshold:.4g}, without {_verb(far)[1]} {rest.score_threshold:.4g}; {defects}"
    )
    return Unusual(LIKE_DEFECTS, data_checks.LIKE_DEFECTS.coded(line), far_names)


def _surely_most(answers: NDArray[np.bool_]) -> bool:
    return wilson_interval(int(answers.sum()), len(answers))[0] > 0.5


def flagged_note(new: Calibration, before: Calibration, names: Sequence[str]) -> Unusual | None:
    """Return a note on pictures that were clearly anomalous before and raise the threshold now, or None.

    Their number does not matter, nor how near to each other they score.

    Args:
        new: The new calibration.
        before: The calibration that it replaces.
        names: Names of the new scores' pictures, in their order.
    """
    if not before.promised:
        return None
    order = np.argsort(-np.asarray(new.scores), kind="stable").tolist()
    far = [place for place in order if float(before.severity(new.scores[place])) > CLEARLY_ABOVE]
    rest = new.without_units(far)
    if rest.score_threshold >= new.score_threshold:
        return None
    far_names = tuple(names[place] for place in far)
    line = (
        f"called anomalous before, good from now on: {join_names(far_names)}; without "
        f"{_verb(far)[1]} the score threshold is {rest.score_threshold:.4g} instead of "
        f"{new.score_threshold:.4g}; look whether {'it is' if len(far) == 1 else 'they are'} good"
    )
    return Unusual(FLAGGED, data_checks.ANOMALOUS_BEFORE.coded(line), far_names)


def learnt_note(new: Calibration, before: Calibration) -> str | None:
    """Return a note where all scores of new pictures are lower than chance allows for unseen pictures.

    Copies of pictures learnt from score so low. If they are saved anew, their pixels do not reveal them.
    None: the scores are high enough.
    """
    above = int(sum(score > max(new.scores) for score in before.scores))
    count = len(before.scores)
    others = len(new.scores)
    # probability that the `above` highest of both are earlier scores
    chance = math.comb(count, above) / math.comb(count + others, above)
    if not before.promised or chance >= MIN_CHANCE:
        return None
    return (
        f"none scores above {max(new.scores):.4g}, as {above} of {count} did before: are they copies of "
        "pictures that the model has learnt from? If so, new parts will be called anomalous more often"
    )


def unlike_note(
    appearance: AppearanceRange, measured: Sequence[FeatureValues], names: Sequence[str]
) -> Unusual | None:
    """Return a note on pictures whose appearance is unlike the pictures learnt from; None: none are."""
    shifts = [
        (appearance.shifts(measures), name)
        for measures, name in zip(measured, names, strict=True)
        if measures
    ]
    if far := [(shift, name) for shift, name in shifts if is_far(shift)]:
        far_names = tuple(name for _, name in far)
        line = (
            f"unlike the pictures learnt from ({describe_shifts([shift for shift, _ in far])}), from now on "
            f"expected: {join_names(far_names)}"
        )
        return Unusual(UNLIKE, data_checks.UNLIKE_LEARNT.coded(line), far_names)
    return None


def too_few_question(new: Calibration, before: Calibration, left_out: int) -> str | None:
    """Return a question where too few pictures calibrate: neither the rate nor the earlier promise holds.

    Args:
        new: The new calibration.
        before: The calibration that it replaces.
        left_out: Number of pictures that the model had learnt from, and of copies.
    """
    needed = min_calibration_size(new.rate)
    if not before.promised or new.unit_count >= min(needed, before.unit_count):
        return None
    parts = pluralize(new.unit_count, "picture") if not new.has_shared_units else new.describe_pictures()
    learnt = f", {left_out} others were learnt from or are copies" if left_out else ""
    return (
        f"{parts} can calibrate{learnt}: {new.rate:.1%} needs {needed}, and only "
        f"{new.effective_rate:.1%} could be promised, before it was {before.effective_rate:.1%}; more good "
        "pictures that the model has not seen would do"
    )


def _clear_defects(defects: DefectScores | None, precision: str) -> NDArray[np.float64]:
    """Return the scores of clear simulated defects, without the smallest size; empty: none are known."""
    if defects is None or defects.precision != precision:
        return np.empty(0)
    return np.array([score for size in [*defects.scores][1:] for score in defects.clear_scores(size)])
