"""Judges the next model beside the one that judges now, on people's pictures and simulated defects.

Each model judges the pictures as if it had never learnt from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from flawscope.artefact.detection import finder
from flawscope.artefact.judgement import DecisionCounts, Judgement, MissedDefect, ScoreChange
from flawscope.artefact.model_facts import ONE, ModelFacts
from flawscope.calibration.parts import KnownParts, View
from flawscope.calibration.power import describe_blindness
from flawscope.calibration.rows import scored
from flawscope.calibration.threshold import Calibration
from flawscope.errors import InputError, pluralize
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import PictureSource
from flawscope.predictor import Predictor
from flawscope.predictor.decoded_pictures import predict_decoded
from flawscope.progress import ProgressCallback, ignore_progress

CORRECTIONS = "corrections"  # key among a model's facts
WEAKER_SHARE = 0.5  # share of a known defect's severity, below which the defect is reported to stand out less
# Share of the defects found by the model before that the next model must find; else the update has lost power
MIN_KEPT_SHARE = 0.98
SPARE_SIMULATED = 1  # simulated defects that may be lost beyond that: chance decides on a faint one
SIGNIFICANCE = 0.01  # level of the test whether a sample is as fair as the calibration pictures
KNOWN = "known"
SIMULATED = "simulated"
THRESHOLD = "threshold"


@dataclass(frozen=True)
class ReviewedPicture:
    """Picture with a person's judgement.

    Attributes:
        number: Number of the inspection.
        source: The picture's file.
        good: Whether it is good.
        name: Name that its sender gave it, for groups.
        learn: Whether it is a false alarm, from which the model is to learn.
        sure: Whether it was looked at twice.
        drawn: Whether it is one of the line's good pictures, drawn by chance, whatever the model's decision.
        judged: Whether a person judged it; else it is only drawn.
        mask: File that marks the defect, for methods that learn from defects; None: there is none.
        before: The active model's score; None: the score is computed.
        digest: Hash of its decoded pixels, which an update sets.
        view: View that it shows, where the part is not known; empty: its name states part and view.
    """

    number: int
    source: PictureSource
    good: bool
    name: str = ""
    learn: bool = False
    sure: bool = False
    drawn: bool = False
    judged: bool = True
    mask: str | None = None
    before: float | None = None
    digest: str = ""
    view: str = ""

    def shown(self, parts: KnownParts) -> View:
        """Return the part and view that the picture shows.

        With a `view` of its own, the picture counts as the only one of its part.

        Raises:
            InputError: The picture's name states no part or view.
        """
        if self.view:
            return View(f"picture {self.number}", self.view)
        return parts.view_of(self.name)


class Score(NamedTuple):
    """Score of a picture as if the model had never learnt from it.

    Attributes:
        score: The score.
        threshold: Threshold that the other pictures give.
        p_value: Least false-alarm rate at which the picture is called anomalous; where the model decides on
            parts, its part.
        severity: Severity of the score.
        learnt: Whether the picture was left out for this score.
        anomalous: Whether the picture is called anomalous; where the model decides on parts, its part.
    """

    score: float
    threshold: float
    p_value: float
    severity: float
    learnt: bool = False
    anomalous: bool = False

    @classmethod
    def of(cls, calibration: Calibration, score: float, learnt: bool = False) -> Score:
        """Return a score with the threshold, p-value, severity and decision that a calibration gives it."""
        p_value = float(calibration.p_values(score))
        severity = float(calibration.severity(score))
        anomalous = not score <= calibration.score_threshold  # NaN is anomalous
        return cls(float(score), calibration.score_threshold, p_value, severity, learnt, anomalous)


def score_pictures(
    predictor: Predictor,
    pictures: Sequence[ReviewedPicture],
    places: Mapping[str, int],
    decoded: DecodedPictures,
    known: dict[str, float],
    whole: ModelFacts,
    step: ProgressCallback = ignore_progress,
) -> dict[int, Score]:
    """Return scores of pictures by their numbers, each as if the model had never learnt from the picture.

    A picture has no score if it cannot be judged, or if the model has learnt from it and cannot leave it out.

    Args:
        predictor: The model.
        pictures: The pictures.
        places: Place of each picture in `decoded`, by hash.
        decoded: The decoded pictures.
        known: Scores that the network gave before, by hash; new ones are added to this dictionary.
        whole: Facts of the whole model: of all views that decide together.
        step: Gets progress.
    """
    calibration = predictor.calibration
    rows = predictor.manifest.pictures
    # pictures that decide the threshold: hash -> place of the score in `calibration.scores`
    place_by_counted_hash = {row.hash: place for place, row in enumerate(scored(rows))}
    # other pictures with a score: hash -> score
    uncounted_scores = {row.hash: row.score for row in rows if row.score is not None and not row.counted}
    learnt_hashes = {row.hash for row in rows if row.learnt}
    needs_no_network = {*place_by_counted_hash, *uncounted_scores, *learnt_hashes, *known}
    digest_by_place = {
        places[picture.digest]: picture.digest
        for picture in pictures
        if picture.digest not in needs_no_network
    }
    predictions = predict_decoded(predictor, decoded, [*digest_by_place])
    for done, (place, prediction) in enumerate(predictions, start=1):
        step("judging", done, len(digest_by_place))
        if not isinstance(prediction, InputError):
            known[digest_by_place[place]] = prediction.score
    scores: dict[int, Score] = {}
    for picture in pictures:
        if picture.digest in place_by_counted_hash:
            place = place_by_counted_hash[picture.digest]
            without_picture = calibration.without_units([place])
            score = calibration.scores[place]
            scores[picture.number] = Score.of(without_picture, score, learnt=True)
        elif picture.digest in uncounted_scores:
            scores[picture.number] = Score.of(calibration, uncounted_scores[picture.digest], learnt=True)
        elif picture.digest not in learnt_hashes and picture.digest in known:
            scores[picture.number] = Score.of(calibration, known[picture.digest])
    parts_of_product = whole.known_parts().get(ONE)
    if parts_of_product is None:  # the model decides on single pictures
        return scores
    return _decide_parts(scores, pictures, parts_of_product)


def _decide_parts(
    scores: dict[int, Score], pictures: Sequence[ReviewedPicture], parts: KnownParts
) -> dict[int, Score]:
    """Return the scores with p-values and decisions of the parts that the pictures show.

    A view of a part that the pictures lack gets its score from the model, if the model has one. A part is
    compared only with other parts.

    Args:
        scores: Scores of the pictures, by number.
        pictures: The pictures.
        parts: Good parts that the model knows.
    """
    # name of a part -> the parts with that name, each as view -> number of the picture
    parts_by_name = dict[str, list[dict[str, int]]]()
    for picture in pictures:
        if picture.number not in scores:
            continue
        try:
            name, view = picture.shown(parts)
        except InputError:
            continue  # the picture's name states no part: the decision on the picture stays
        if view not in parts.calibration.views:
            continue  # the picture is of another version of the product
        parts_of_name = parts_by_name.setdefault(name, [{}])
        if view in parts_of_name[-1]:  # the view is there already: this is another part of the same name
            parts_of_name.append({})
        parts_of_name[-1][view] = picture.number
    decided = dict(scores)
    for name, parts_of_name in parts_by_name.items():
        calibration = parts.calibration.without(name)
        known_scores = parts.calibration.known_scores(name)
        for numbers in parts_of_name:
            new_scores = {view: scores[number].score for view, number in numbers.items()}
            decision = calibration.decide({**known_scores, **new_scores})
            for number in numbers.values():
                decided[number] = scores[number]._replace(
                    p_value=decision.p_value, anomalous=decision.is_anomalous
                )
    return decided


@dataclass(frozen=True)
class Comparison:
    """The next model beside the one that judges now. Pictures are named by their numbers.

    Attributes:
        predictor: The next model.
        active: Calibration of the model that judges now.
        pictures: Pictures that people judged, copies once.
        before: Scores of the judged pictures by the model that judges now.
        after: Scores of the judged pictures by the next model.
        simulated: Scores of simulated defects before and after, by the defect's number.
        whole_before: Facts of the model that judges now, or of all views that decide with it.
        whole_after: Facts of the next model, or of all views that decide with it.
        unlike: Whether a fair sample raises the threshold by more than chance does.
        carriers: Names of the pictures with the simulated defects, by the defect's number.
    """

    predictor: Predictor
    active: Calibration
    pictures: Sequence[ReviewedPicture]
    before: dict[int, Score]
    after: dict[int, Score]
    simulated: dict[int, tuple[float, ...]]
    whole_before: ModelFacts
    whole_after: ModelFacts
    unlike: bool = False
    carriers: Mapping[int, str] = field(default_factory=dict)

    @property
    def good(self) -> list[int]:
        """Good pictures that both models have judged."""
        return [picture.number for picture in self.pictures if picture.good and picture.number in self.after]

    @property
    def defects(self) -> list[int]:
        """Known defects that both models have judged."""
        return [
            picture.number for picture in self.pictures if not picture.good and picture.number in self.after
        ]

    def changed(self, numbers: Sequence[int], *, before: bool, after: bool) -> list[int]:
        """Return the numbers of the pictures on which both models decide as given.

        Args:
            numbers: Numbers of the pictures to choose from.
            before: Decision of the model that judges now; True: anomalous.
            after: Decision of the next model; True: anomalous.
        """
        return [
            number
            for number in numbers
            if self.before[number].anomalous == before and self.after[number].anomalous == after
        ]

    @property
    def lost(self) -> list[int]:
        """Known defects that are no longer found."""
        return self.changed(self.defects, before=True, after=False)

    @property
    def lost_simulated(self) -> list[int]:
        """Numbers of the simulated defects that are no longer found."""
        decisions = sorted(self._simulated_decisions.items())
        return [number for number, (before, after) in decisions if before and not after]

    @cached_property
    def _simulated_decisions(self) -> dict[int, tuple[bool, bool]]:
        """Whether each simulated defect is found before and after the update, by the defect's number."""
        is_found_before = finder(self.whole_before)
        is_found_after = finder(self.whole_after)
        decisions = {}  # number of a defect -> (found before, found after)
        for number, (score_before, score_after) in self.simulated.items():
            carrier = self.carriers.get(number, "")
            decisions[number] = is_found_before(carrier, score_before), is_found_after(carrier, score_after)
        return decisions

    @property
    def found(self) -> dict[str, list[int]]:
        """Counts of defects [found before, found after, all], by `KNOWN` or `SIMULATED`.

        A kind without measured defects is left out.
        """
        counts: dict[str, list[int]] = {}
        if self.simulated:
            is_found_before, is_found_after = zip(*self._simulated_decisions.values(), strict=True)
            counts[SIMULATED] = [sum(is_found_before), sum(is_found_after), len(is_found_before)]
        if self.defects:
            found_before = sum(self.before[number].anomalous for number in self.defects)
            found_after = sum(self.after[number].anomalous for number in self.defects)
            counts[KNOWN] = [found_before, found_after, len(self.defects)]
        return counts

    @property
    def refused(self) -> list[str]:
        """Losses for which the update is refused: `KNOWN` or `SIMULATED` defects, or the `THRESHOLD`."""
        counts = self.found
        losses = []
        for name, allowed_loss in ((KNOWN, 0), (SIMULATED, SPARE_SIMULATED)):
            if name not in counts:
                continue
            found_before, found_after, _ = counts[name]
            if found_after + allowed_loss < MIN_KEPT_SHARE * found_before:
                losses.append(name)
        if self.unlike:
            losses.append(THRESHOLD)
        return losses

    @property
    def loss(self) -> int:
        """Number of the lost defects; simulated ones count only if the update is refused because of them."""
        simulated_loss = len(self.lost_simulated) if SIMULATED in self.refused else 0
        return len(self.lost) + simulated_loss

    def refusal(self) -> str:
        """Return the reason why the update is refused, in a sentence without a full stop."""
        reasons = []
        for name in self.refused:
            if name == THRESHOLD:
                reasons.append("these are no fair sample of pictures like those that it was calibrated on")
            else:
                found_before, found_after, count = self.found[name]
                reasons.append(
                    f"it would find {found_after} instead of {found_before} of {count} {name} defects"
                )
        return " and ".join(reasons)

    def is_weaker(self, number: int, clear: float | None) -> bool:
        """Whether a known defect's severity is much lower than before the update, and not above `clear`.

        Much lower is below the share `WEAKER_SHARE` of the severity before.

        Args:
            number: Number of the picture.
            clear: Severity above which a picture is farther out than good ones are; None: not known.
        """
        severity = self.after[number].severity
        is_clear = clear is not None and severity > clear
        has_dropped = severity < WEAKER_SHARE * self.before[number].severity
        return has_dropped and not is_clear

    def counts(self, numbers: Sequence[int]) -> DecisionCounts:
        """Return the number of these pictures, and how many of them each model calls anomalous."""
        before = sum(self.before[number].anomalous for number in numbers)
        after = sum(self.after[number].anomalous for number in numbers)
        return DecisionCounts.of(len(numbers), before, after)


@dataclass(frozen=True)
class Update:
    """The next model, beside the one that judges now, and the pictures that it has learnt from.

    Lists hold numbers of pictures.

    Attributes:
        comparison: Comparison of both models.
        how: Way in which it was made: extended, recalibrated or retrained.
        learnt: Pictures learnt from.
        unsure: Pictures called good that look like known defects; the model did not learn from them.
        contradictory: Pictures whose pixels another picture has, with another verdict.
        unreadable: Why a picture cannot be used, by its number.
        rests: Whether there was nothing new to learn from, and the model stays unchanged.
        inside: Defects that the model has learnt from as good pictures; only a new fit takes them out.
        drawn: Number of drawn pictures that decide the threshold, beside the earlier calibration pictures.
        kept: Whether the threshold stayed as it was, because with the drawn pictures more known defects would
            be lost.
        clear: Severity above which a picture is farther out than good ones are (the fence of `fit`, as the
            model before was calibrated); None: not known.
        responsible: Corrections that cause losses, farthest out first.
    """

    comparison: Comparison
    how: str
    learnt: list[int]
    unsure: list[int]
    contradictory: list[int]
    unreadable: dict[int, str]
    rests: bool
    inside: list[int]
    drawn: int
    kept: bool
    clear: float | None
    responsible: list[int]

    @property
    def predictor(self) -> Predictor:
        """The next model."""
        return self.comparison.predictor

    def lines(self) -> list[str]:
        """Return lines for a person: pictures called anomalous and defects found before and after."""
        comparison = self.comparison
        # pictures learnt from that both models have judged
        learnt = [
            number for number in self.learnt if number in comparison.before and number in comparison.after
        ]
        alarms_before = sum(comparison.before[number].anomalous for number in learnt)
        alarms_after = sum(comparison.after[number].anomalous for number in learnt)
        old_threshold = comparison.active.score_threshold
        new_threshold = self.predictor.calibration.score_threshold
        lines = [
            f"called anomalous of the {pluralize(len(learnt), 'picture')} learnt: {alarms_before} before, "
            f"{alarms_after} after, each by a model that has not learnt it",
            f"score threshold: {old_threshold:.4g} before, {new_threshold:.4g} after",
        ]
        found = comparison.found
        for name in (SIMULATED, KNOWN):
            if name not in found:
                continue
            found_before, found_after, count = found[name]
            line = f"{name} defects found: {found_before} of {count} before, {found_after} of {count} after"
            blindness = describe_blindness(found_after, count) if name == SIMULATED else None
            lines.append(f"{line}; {blindness}" if blindness else line)
        return lines

    def judgement(self) -> Judgement:
        """Return the judgement of the update, for people."""
        comparison = self.comparison
        before = comparison.before
        after = comparison.after
        good = comparison.good
        defects = comparison.defects
        found_by_both = comparison.changed(defects, before=True, after=True)
        numbers_by_field: dict[str, Any] = {
            "gained": comparison.changed(good, before=True, after=False),
            "alarms": comparison.changed(good, before=False, after=True),
            "lost": comparison.lost,
            "found": comparison.changed(defects, before=False, after=True),
            "weaker": [number for number in found_by_both if comparison.is_weaker(number, self.clear)],
        }
        listed_numbers = sorted({number for numbers in numbers_by_field.values() for number in numbers})
        scores = {}  # number of a picture, as text -> change of the score
        for number in listed_numbers:
            old, new = before[number], after[number]
            scores[str(number)] = ScoreChange([old.score, old.threshold], [new.score, new.threshold])
        same_fields = "how", "learnt", "unsure", "contradictory", "inside", "drawn", "kept", "responsible"
        return Judgement(
            **{name: getattr(self, name) for name in same_fields},
            unreadable=sorted(self.unreadable),
            questions=list(self.predictor.questions),
            good=comparison.counts(good),
            defects=comparison.counts(defects),
            **numbers_by_field,
            missed=[
                MissedDefect(number, after[number].p_value)
                for number in defects
                if not after[number].anomalous
            ],
            scores=scores,
            cross_fitted=sum(score.learnt for score in after.values()),
            simulated=comparison.found.get(SIMULATED),
            refused=comparison.refused,
        )
