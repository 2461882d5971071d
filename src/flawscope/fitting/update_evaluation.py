"""Measures an updated model's gains and losses: on simulated defects, and on pictures that people judged, as
if the model had never learnt from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flawscope.artefact.model_file import Artefact
from flawscope.calibration.power import wilson
from flawscope.calibration.threshold import Calibration
from flawscope.datasets import group_numbers
from flawscope.errors import InputError, some
from flawscope.pictures.decoding import Source
from flawscope.predictor import Predictor

KEY = "corrections"  # among a model's facts
STAYS = 0.5  # of a known defect's severity: with less, it is said that it stands out less
KEPT = 0.98  # of the defects that the model before finds: with less, the update has lost power
CHANCE = 0.01  # of a fair sample: with fewer chances, its pictures are not like those of the calibration
KNOWN, SIMULATED, THRESHOLD = "known", "simulated", "threshold"


@dataclass(frozen=True)
class Reviewed:
    """Picture with a person's judgement.

    number: of the inspection. source: the picture's file. name: as its sender calls it, for groups.
    learn: a false alarm, from which the model is to learn. sure: it was looked at twice.
    drawn: one of the line's good pictures, drawn by chance, whatever the model said of them.
    judged: a person judged it; else it is only drawn.
    mask: a file that marks the defect; for methods that learn from defects.
    before: score and threshold of the active model, where it has said so; None: it is asked.
    digest: hash of its decoded pixels, which `update` finds.
    """

    number: int
    source: Source
    good: bool
    name: str = ""
    learn: bool = False
    sure: bool = False
    drawn: bool = False
    judged: bool = True
    mask: str | None = None
    before: tuple[float, float] | None = None
    digest: str = ""


def parts(old: Artefact, pictures: Sequence[Reviewed]) -> tuple[str | None, list[int]]:
    """Pattern of the model for pictures that show one part, None where it does not fit all names; and a
    number for each picture, the same for all pictures of a part."""
    names, group = [one.name for one in pictures], old.manifest.facts.get("group")
    try:
        return group, group_numbers(names, group)
    except InputError:
        return None, group_numbers(names, None)


@dataclass(frozen=True)
class Score:
    """Score of a picture as if the model had never learnt from it, and the threshold that the other pictures
    give. p_value: the least false-alarm rate at which it is called anomalous. learnt: it was left out."""

    score: float
    threshold: float
    p_value: float
    severity: float
    learnt: bool = False

    @classmethod
    def of(cls, calibration: Calibration, score: float, learnt: bool = False) -> Score:
        p_value, severity = float(calibration.p_values(score)), float(calibration.severity(score))
        return cls(float(score), calibration.score_threshold, p_value, severity, learnt)

    @property
    def anomalous(self) -> bool:
        return not self.score <= self.threshold


class Judge:
    """Judges pictures by a model as if it had never learnt from them.

    A picture of the calibration is compared with the threshold that the others give.

    Args:
        known: scores by hash that the network gave before; new ones are added.
    """

    def __init__(self, predictor: Predictor, known: dict[str, float] | None = None):
        self.predictor, self.known = predictor, {} if known is None else known
        manifest = predictor.manifest
        listed = manifest.facts.get("calibration_pictures", ())
        self._places = {digest: place for place, digest in enumerate(listed)}
        self._kept = manifest.facts.get(KEY, {}).get("left_out", {})
        self._inside = {picture.hash for picture in manifest.pictures if picture.role != "calibration"}

    def __call__(self, one: Reviewed) -> Score | None:
        """Returns the picture's score, or None where the model has learnt from it and cannot leave it out."""
        calibration, digest = self.predictor.calibration, one.digest
        if (at := self._places.get(digest)) is not None and at < calibration.count:
            return Score.of(_without(calibration, at), calibration.scores[at], learnt=True)
        if digest in self._kept:
            return Score.of(calibration, self._kept[digest][0], learnt=True)
        if digest in self._inside:
            return None
        if digest not in self.known:
            self.known[digest] = self.predictor.predict(one.source).score
        return Score.of(calibration, self.known[digest])

    def when_it_came(self, one: Reviewed) -> Score | None:
        """Returns the score from when the picture came, where it is known and the model has not learnt from
        the picture since, else the score now; None for a picture that nobody judged."""
        if not one.judged:
            return None
        if one.before is None or one.digest in self._inside:
            return self(one)
        score, threshold = one.before
        return replace(Score.of(self.predictor.calibration, score), threshold=threshold)


def _without(calibration: Calibration, place: int) -> Calibration:
    """Calibration without the picture at `place`; unchanged where there is no other picture."""
    if calibration.count == 1:
        return calibration
    scores, maxima = (
        values[:place] + values[place + 1 :] for values in (calibration.scores, calibration.map_maxima)
    )
    return replace(calibration, scores=scores, map_maxima=maxima)


# ------------------------------------------------------------------------------------------ before and after


class PowerLostError(InputError):
    """An updated model would find fewer defects, or seems to be about to learn from defects.

    Attributes:
        pictures: names of the pictures that are responsible, the farthest out first.
    """

    def __init__(self, why: str, pictures: Sequence[str], remedy: str):
        super().__init__(f"{why}: {some(pictures)}; {remedy}")
        self.pictures = list(pictures)


@dataclass(frozen=True)
class Power:
    """Defects found before and after an update.

    known, simulated: defects as (found before, found after, how many); None: not measured.
    thresholds: of scores, before and after.
    unlike: a fair sample raises the threshold by more than chance does.
    """

    known: tuple[int, int, int]
    simulated: tuple[int, int, int] | None
    thresholds: tuple[float, float]
    unlike: bool = False

    @property
    def lost(self) -> list[str]:
        """Names the losses: known defects, simulated defects, the threshold's meaning."""
        found = {KNOWN: self.known, SIMULATED: self.simulated}
        lost = [name for name, of in found.items() if of is not None and of[1] < KEPT * of[0]]
        return [*lost, *([THRESHOLD] if self.unlike else [])]

    def lines(self) -> list[str]:
        """Lines for a person: defects found before and after."""
        before, after = self.thresholds
        found = [f"score threshold: {before:.4g} before, {after:.4g} after"]
        for name, of in ((SIMULATED, self.simulated), (KNOWN, self.known)):
            measured = of is not None and of[2]
            said = (
                f"{of[0]} of {of[2]} before, {of[1]} of {of[2]} after" if of and measured else "not measured"
            )
            found.append(f"{name} defects found: {said}")
        return found

    def why(self) -> str:
        """Reason why the update is refused, in a sentence without a full stop."""
        said = [
            f"it would find {of[1]} instead of {of[0]} of {of[2]} {name} defects"
            for name, of in ((KNOWN, self.known), (SIMULATED, self.simulated))
            if name in self.lost and of is not None
        ]
        if self.unlike:
            said.append("these are no fair sample of pictures like those that it was calibrated on")
        return " and ".join(said)


@dataclass
class Update:
    """The next model, and the findings on the way; numbers are those of the pictures.

    before, after: scores of the judged pictures by the active model and by the next one.
    power: defects found before and after. responsible: corrections that cause losses, farthest out first.
    learnt: pictures learnt from. unsure: "good" pictures that look like known defects, not learnt from.
    contradictory: others have the same pixels and another verdict. unreadable: their pictures cannot be used.
    inside: defects that the model has learnt from as good ones, which only a new fit takes out.
    drawn: how many good pictures of the line the threshold comes from, beside the earlier ones.
    kept: the threshold stayed as it was, for with the drawn ones more known defects would be lost.
    clear: the severity above which a picture is farther out than good ones are (the fence of `fit`, as the
    model before was calibrated); None: not known.
    """

    predictor: Predictor
    how: str
    power: Power
    before: dict[int, Score]
    after: dict[int, Score]
    learnt: list[int]
    unsure: list[int]
    contradictory: list[int]
    unreadable: list[int]
    inside: list[int]
    drawn: int
    kept: bool
    clear: float | None
    responsible: list[int] = field(default_factory=list)


def is_unlike(before: Calibration, scores: Sequence[float]) -> bool:
    """Whether more scores of a sample lie above the threshold than chance allows for a fair sample.

    If the sample is as the calibration pictures are, the share of it above the k-th largest of n scores has
    the distribution Beta(k, n + 1 - k), so that their number is beta-binomial.
    """
    from scipy.stats import betabinom

    rank = round(before.expected_rate * (before.count + 1))
    above = sum(bool(before.is_anomalous(score)) for score in scores)
    return float(betabinom(len(scores), rank, before.count + 1 - rank).sf(above - 1)) < CHANCE


def judgement(pictures: Sequence[Reviewed], made: Update) -> dict[str, Any]:
    """Returns the judgement of an update as JSON values; lists are numbers of inspections.

    good, defects: number judged, and number called anomalous by each of the two models as [count, low, high],
    with the 95 % interval (Wilson) of their share. gained: false alarms that would pass. alarms: good
    pictures that would newly be called anomalous. lost: known defects that would no longer be found. found:
    missed defects that would be found. weaker: known defects that stand out less than half as much, and are
    no longer farther out than good pictures are (`Update.clear`; where that is not known, the half alone
    counts). missed: known defects that are not found, and the false-alarm rate that would find them. scores:
    of the pictures in these lists, before and after, each as [score, threshold]. simulated: defects as [found
    before, after, how many]. refused: the losses (`Power.lost`), and their cause, `responsible`.
    """
    before, after = made.before, made.after
    good = [one.number for one in pictures if one.good and one.number in after]
    defects = [one.number for one in pictures if not one.good and one.number in after]

    def those(of: Sequence[int], *verdicts: bool) -> list[int]:
        return [n for n in of if (before[n].anomalous, after[n].anomalous) == verdicts]

    lists = {
        "gained": those(good, True, False),
        "alarms": those(good, False, True),
        "lost": those(defects, True, False),
        "found": those(defects, False, True),
        "weaker": [
            n
            for n in those(defects, True, True)
            if after[n].severity < STAYS * before[n].severity
            and (made.clear is None or after[n].severity <= made.clear)
        ],
    }

    def pair(score: Score) -> list[float]:
        return [score.score, score.threshold]

    changed = sorted({number for several in lists.values() for number in several})
    named = (
        "how",
        "learnt",
        "unsure",
        "contradictory",
        "unreadable",
        "inside",
        "drawn",
        "kept",
        "responsible",
    )
    return {
        **{name: getattr(made, name) for name in named},
        "good": _counts(good, made),
        "defects": _counts(defects, made),
        **lists,
        "missed": [{"id": n, "rate": after[n].p_value} for n in defects if not after[n].anomalous],
        "scores": {str(n): {"before": pair(before[n]), "after": pair(after[n])} for n in changed},
        "cross_fitted": sum(score.learnt for score in after.values()),
        "simulated": made.power.simulated,
        "refused": made.power.lost,
    }


def _counts(of: Sequence[int], made: Update) -> dict[str, Any]:
    found: dict[str, Any] = {"count": len(of)}
    for when, scores in (("before", made.before), ("after", made.after)):
        anomalous = sum(scores[number].anomalous for number in of)
        found[when] = [anomalous, *(round(end, 4) for end in wilson(anomalous, len(of)))]
    return found
