"""What an updated model gains and loses, beside the model before.

It is judged on reviewed pictures as if it had not learnt from them, and on simulated defects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flawscope.calibration.decision import Calibration
from flawscope.calibration.simulated import wilson
from flawscope.errors import InputError
from flawscope.fitting.reviewed import Reviewed, Score
from flawscope.predictor import Predictor
from flawscope.progress import some

STAYS = 0.5  # of a known defect's severity: with less, it is said that it stands out less
KEPT = 0.98  # of the defects that the model before finds: with less, the update has lost power
CHANCE = 0.01  # of a fair sample: with fewer chances, its pictures are not like those of the calibration
KNOWN, SIMULATED, THRESHOLD = "known", "simulated", "threshold"


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
    """What is found before and after an update.

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
        """What is lost: known or simulated defects, or the threshold's meaning."""
        found = {KNOWN: self.known, SIMULATED: self.simulated}
        lost = [name for name, of in found.items() if of is not None and of[1] < KEPT * of[0]]
        return [*lost, *([THRESHOLD] if self.unlike else [])]

    def lines(self) -> list[str]:
        """Before and after, for a person."""
        before, after = self.thresholds
        found = [f"score threshold: {before:.4g} before, {after:.4g} after"]
        for name, of in ((SIMULATED, self.simulated), (KNOWN, self.known)):
            if of is None or not of[2]:
                found.append(f"{name} defects found: not measured")
            else:
                found.append(f"{name} defects found: {of[0]} of {of[2]} before, {of[1]} of {of[2]} after")
        return found

    def why(self) -> str:
        """Why it is refused, in a sentence without an end."""
        parts = []
        for name, of in ((KNOWN, self.known), (SIMULATED, self.simulated)):
            if name in self.lost and of is not None:
                parts.append(f"it would find {of[1]} instead of {of[0]} of {of[2]} {name} defects")
        if self.unlike:
            parts.append("these are no fair sample of pictures like those that it was calibrated on")
        return " and ".join(parts)


@dataclass
class Update:
    """The next model, and what was found on the way; numbers are those of the pictures.

    before, after: what the active model and the next one say of the pictures that were judged.
    power: what is found before and after. responsible: corrections by which some is lost, farthest out first.
    learnt: what the model learnt from. unsure: "good" ones that look like known defects, not learnt from.
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
    before: dict[int, Score] = field(default_factory=dict)
    after: dict[int, Score] = field(default_factory=dict)
    responsible: list[int] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)
    unsure: list[int] = field(default_factory=list)
    contradictory: list[int] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)
    drawn: int = 0
    kept: bool = False
    clear: float | None = None


def is_unlike(before: Calibration, scores: Sequence[float]) -> bool:
    """Whether more of a sample's scores lie above the threshold than chance lets a fair one have.

    If the sample is as the calibration pictures are, the share of it above the k-th largest of n scores has
    the distribution Beta(k, n + 1 - k), so that their number is beta-binomial.
    """
    from scipy.stats import betabinom

    rank = round(before.expected_rate * (before.count + 1))
    above = sum(bool(before.is_anomalous(score)) for score in scores)
    return float(betabinom(len(scores), rank, before.count + 1 - rank).sf(above - 1)) < CHANCE


def judgement(pictures: Sequence[Reviewed], made: Update) -> dict[str, Any]:
    """As JSON; lists are numbers of inspections.

    good, defects: how many were judged, what the model before and the next one say of them as [count, low,
    high], with the 95 % interval (Wilson) of their share. gained: false alarms that would pass. alarms: good
    ones that would be called anomalous and were not. lost: known defects that would not be found any more.
    found: missed ones that would be found. weaker: known defects that stand out less than half as much, and
    are no longer farther out than good pictures are (`Update.clear`; where it is not known, the half alone
    counts). missed: known defects that are not found, and the false-alarm rate that would find them. scores:
    of all that changed, before and after, each as [score, threshold]. simulated: defects as [found before,
    after, how many]. refused: what is lost (`Power.lost`), by what is `responsible`.
    """
    good = [one for one in pictures if one.good and one.number in made.after]
    defects = [one for one in pictures if not one.good and one.number in made.after]

    def those(of: Sequence[Reviewed], was: bool, becomes: bool) -> list[int]:
        return [
            one.number
            for one in of
            if (made.before[one.number].anomalous, made.after[one.number].anomalous) == (was, becomes)
        ]

    lists = {
        "gained": those(good, True, False),
        "alarms": those(good, False, True),
        "lost": those(defects, True, False),
        "found": those(defects, False, True),
        "weaker": [
            number
            for number in those(defects, True, True)
            if made.after[number].severity < STAYS * made.before[number].severity
            and (made.clear is None or made.after[number].severity <= made.clear)
        ],
    }
    changed = sorted({number for several in lists.values() for number in several})
    return {
        "how": made.how,
        "good": _counts(good, made),
        "defects": _counts(defects, made),
        **lists,
        "missed": [
            {"id": one.number, "rate": made.after[one.number].p_value}
            for one in defects
            if not made.after[one.number].anomalous
        ],
        "scores": {
            str(number): {"before": _pair(made.before[number]), "after": _pair(made.after[number])}
            for number in changed
        },
        "cross_fitted": sum(score.learnt for score in made.after.values()),
        "learnt": made.learnt,
        "unsure": made.unsure,
        "contradictory": made.contradictory,
        "unreadable": made.unreadable,
        "inside": made.inside,
        "drawn": made.drawn,
        "kept": made.kept,
        "simulated": made.power.simulated,
        "refused": made.power.lost,
        "responsible": made.responsible,
    }


def _counts(of: Sequence[Reviewed], made: Update) -> dict[str, Any]:
    found: dict[str, Any] = {"count": len(of)}
    for when, scores in (("before", made.before), ("after", made.after)):
        anomalous = sum(scores[one.number].anomalous for one in of)
        found[when] = [anomalous, *(round(end, 4) for end in wilson(anomalous, len(of)))]
    return found


def _pair(score: Score) -> list[float]:
    return [score.score, score.threshold]
