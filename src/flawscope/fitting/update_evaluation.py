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

CORRECTIONS = "corrections"  # among a model's facts
WEAKER_SHARE = 0.5  # of a known defect's severity: with less, it is said that it stands out less
MIN_KEPT_SHARE = 0.98  # of the defects that the model before finds: with less, the update has lost power
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
        before: The active model's score, where it is known; None: it is computed.
        digest: Hash of its decoded pixels, which `update` finds.
        view: View of a part that it shows, where it alone is known; empty: its name states part and view.
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
        """Return the part and view that it shows.

        Raises:
            InputError: Its name states none.
        """
        if self.view:
            return View(f"picture {self.number}", self.view)
        return parts.view_of(self.name)


class Score(NamedTuple):
    """Score of a picture as if the model had never learnt from it.

    Attributes:
        score: The score.
        threshold: Threshold that the other pictures give.
        p_value: Least false-alarm rate at which it is called anomalous; of its part, where the model decides
            on parts.
        severity: Severity of the score.
        learnt: Whether the picture was left out for this score.
        anomalous: Decision on it, or on the part that it shows, where the model decides on parts.
    """

    score: float
    threshold: float
    p_value: float
    severity: float
    learnt: bool = False
    anomalous: bool = False

    @classmethod
    def of(cls, calibration: Calibration, score: float, learnt: bool = False) -> Score:
        """Return the score with a calibration's threshold, p-value, severity and decision on the picture."""
        p_value = float(calibration.p_values(score))
        severity = float(calibration.severity(score))
        anomalous = not score <= calibration.score_threshold
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
    """Return scores of pictures by their numbers, each as if the model had never learnt from it.

    A picture has no score where it cannot be judged, or where the model has learnt from it and cannot leave
    it out.

    Args:
        predictor: The model.
        pictures: The pictures.
        places: Place of each picture among the decoded ones, by hash.
        decoded: The decoded pictures.
        known: Scores by hash that the network gave before; new ones are added.
        whole: Facts of the model, or of all views that decide with it.
        step: Gets progress.
    """
    calibration = predictor.calibration
    rows = predictor.manifest.pictures
    counted = {row.hash: number for number, row in enumerate(scored(rows))}
    uncounted = {row.hash: row.score for row in rows if row.score is not None and not row.counted}
    learnt = {row.hash for row in rows if row.learnt}
    needs_no_network = {*counted, *uncounted, *learnt, *known}
    digest_at = {
        places[picture.digest]: picture.digest
        for picture in pictures
        if picture.digest not in needs_no_network
    }
    for done, (place, found) in enumerate(predict_decoded(predictor, decoded, [*digest_at]), start=1):
        step("judging", done, len(digest_at))
        if not isinstance(found, InputError):
            known[digest_at[place]] = found.score
    scores: dict[int, Score] = {}
    for picture in pictures:
        if picture.digest in counted:
            number = counted[picture.digest]
            others = calibration.without_units([number])
            score = calibration.scores[number]
            scores[picture.number] = Score.of(others, score, learnt=True)
        elif picture.digest in uncounted:
            scores[picture.number] = Score.of(calibration, uncounted[picture.digest], learnt=True)
        elif picture.digest not in learnt and picture.digest in known:
            scores[picture.number] = Score.of(calibration, known[picture.digest])
    parts_of_product = whole.known_parts().get(ONE)  # None where single pictures are judged
    return scores if parts_of_product is None else _decide_parts(scores, pictures, parts_of_product)


def _decide_parts(
    scores: dict[int, Score], pictures: Sequence[ReviewedPicture], parts: KnownParts
) -> dict[int, Score]:
    """Return the scores with the decisions on the parts that the pictures show.

    A view of a part that is not among the pictures has its known score, if there is one. A part is compared
    with the others alone.
    """
    # by the part's name: numbers of its pictures by view; of several parts of one name, each by itself
    groups = dict[str, list[dict[str, int]]]()
    for picture in pictures:
        if picture.number not in scores:
            continue
        try:
            part, view = picture.shown(parts)
        except InputError:  # its name states no part: it stands alone
            continue
        if view not in parts.calibration.views:  # another version judged it
            continue
        several = groups.setdefault(part, [{}])
        if view in several[-1]:  # another part with the number of an earlier one
            several.append({})
        several[-1][view] = picture.number
    decided = dict(scores)
    for part, several in groups.items():
        others = parts.calibration.without(part)
        known = parts.calibration.known_scores(part)
        for numbers in several:
            seen = {view: scores[number].score for view, number in numbers.items()}
            decision = others.decide({**known, **seen})
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
        """Return the pictures that the models call anomalous, or not, as `before` and `after` say."""
        verdicts = before, after
        return [n for n in numbers if (self.before[n].anomalous, self.after[n].anomalous) == verdicts]

    @property
    def lost(self) -> list[int]:
        """Known defects that are no longer found."""
        return self.changed(self.defects, before=True, after=False)

    @property
    def lost_simulated(self) -> list[int]:
        """Numbers of the simulated defects that are no longer found."""
        return [number for number, found in sorted(self._simulated_found.items()) if found == (True, False)]

    @cached_property
    def _simulated_found(self) -> dict[int, tuple[bool, bool]]:
        """Whether each simulated defect is found before and after, by its number."""
        before, after = finder(self.whole_before), finder(self.whole_after)
        return {
            number: (before(self.carriers.get(number, ""), was), after(self.carriers.get(number, ""), now))
            for number, (was, now) in self.simulated.items()
        }

    @property
    def found(self) -> dict[str, list[int]]:
        """Number of defects found before, found after, and in all, by kind.

        Kinds that were not measured are left out.
        """
        counts: dict[str, list[int]] = {}
        if self.simulated:
            was, now = zip(*self._simulated_found.values(), strict=True)
            counts[SIMULATED] = [sum(was), sum(now), len(was)]
        if self.defects:
            several = (sum(scores[n].anomalous for n in self.defects) for scores in (self.before, self.after))
            counts[KNOWN] = [*several, len(self.defects)]
        return counts

    @property
    def refused(self) -> list[str]:
        """Losses for which it is refused, by name: known or simulated defects, the threshold's meaning."""
        counts = self.found
        lost = [name for name in (KNOWN, SIMULATED) if name in counts]
        spare = {KNOWN: 0, SIMULATED: 1}  # chance decides on a faint one near the threshold
        lost = [name for name in lost if counts[name][1] + spare[name] < MIN_KEPT_SHARE * counts[name][0]]
        return [*lost, *([THRESHOLD] if self.unlike else [])]

    @property
    def loss(self) -> int:
        """Number of the defects that are lost; of simulated ones a few do not count."""
        return len(self.lost) + (len(self.lost_simulated) if SIMULATED in self.refused else 0)

    def refusal(self) -> str:
        """Return the reason why the update is refused, in a sentence without a full stop."""
        said = []
        for name in self.refused:
            if name == THRESHOLD:
                said.append("these are no fair sample of pictures like those that it was calibrated on")
            else:
                before, after, count = self.found[name]
                said.append(f"it would find {after} instead of {before} of {count} {name} defects")
        return " and ".join(said)

    def is_weaker(self, number: int, clear: float | None) -> bool:
        """Whether a known defect stands out less than half as much, and no more than `clear`."""
        severity = self.after[number].severity
        is_clear = clear is not None and severity > clear
        return severity < WEAKER_SHARE * self.before[number].severity and not is_clear

    def counts(self, numbers: Sequence[int]) -> DecisionCounts:
        """Return how many of these pictures there are, and how many each model calls anomalous."""
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
        unsure: "Good" pictures that look like known defects, not learnt from.
        contradictory: Pictures of which others have the same pixels and another verdict.
        unreadable: Why pictures cannot be used, by number.
        rests: Whether there was nothing new to learn from, and the model is as it was.
        inside: Defects that the model has learnt from as good ones; only a new fit takes them out.
        drawn: How many good pictures of the line the threshold comes from, beside the earlier ones.
        kept: Whether the threshold stayed as it was, because with the drawn ones more known defects would be
            lost.
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
        of = self.comparison
        found = self.comparison.found
        learnt = [n for n in self.learnt if n in of.before and n in of.after]
        was, now = (sum(scores[n].anomalous for n in learnt) for scores in (of.before, of.after))
        thresholds = of.active.score_threshold, self.predictor.calibration.score_threshold
        said = [
            f"called anomalous of the {pluralize(len(learnt), 'picture')} learnt: {was} before, {now} after, "
            "each by a model that has not learnt it",
            "score threshold: {:.4g} before, {:.4g} after".format(*thresholds),
        ]
        for name in (SIMULATED, KNOWN):
            if name in found:
                before, after, count = found[name]
                line = f"{name} defects found: {before} of {count} before, {after} of {count} after"
                blind = name == SIMULATED and describe_blindness(after, count)
                said.append(f"{line}; {blind}" if blind else line)
        return said

    def judgement(self) -> Judgement:
        """Return the judgement of the update, for people."""
        of = self.comparison
        lists: dict[str, Any] = {
            "gained": of.changed(of.good, before=True, after=False),
            "alarms": of.changed(of.good, before=False, after=True),
            "lost": of.lost,
            "found": of.changed(of.defects, before=False, after=True),
            "weaker": [
                n for n in of.changed(of.defects, before=True, after=True) if of.is_weaker(n, self.clear)
            ],
        }
        shown = sorted({number for several in lists.values() for number in several})
        missed = [MissedDefect(n, of.after[n].p_value) for n in of.defects if not of.after[n].anomalous]
        scores = {str(n): ScoreChange([*of.before[n][:2]], [*of.after[n][:2]]) for n in shown}
        plain = "how", "learnt", "unsure", "contradictory", "inside", "drawn", "kept", "responsible"
        return Judgement(
            **{name: getattr(self, name) for name in plain},
            unreadable=sorted(self.unreadable),
            questions=list(self.predictor.questions),
            good=of.counts(of.good),
            defects=of.counts(of.defects),
            **lists,
            missed=missed,
            scores=scores,
            cross_fitted=sum(score.learnt for score in of.after.values()),
            simulated=of.found.get(SIMULATED),
            refused=of.refused,
        )
