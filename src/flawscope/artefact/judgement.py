"""Judgement of the next model beside the one that judges now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from flawscope.calibration.power import wilson_interval

# Lists of a judgement that name pictures, whose order says nothing
PICTURE_LISTS = (
    "learnt",
    "unsure",
    "contradictory",
    "unreadable",
    "inside",
    "gone",
    "gained",
    "alarms",
    "lost",
    "found",
    "weaker",
)


@dataclass(frozen=True)
class DecisionCounts:
    """Number of pictures, and number called anomalous by each of two models, each as [count, low, high] with
    the 95 % interval (Wilson) of its share.
    """

    count: int
    before: list[float]
    after: list[float]

    @classmethod
    def of(cls, count: int, before: int, after: int) -> DecisionCounts:
        """Counts of so many pictures, and of those that each model calls anomalous."""

        def with_interval(several: int) -> list[float]:
            return [several, *(round(end, 4) for end in wilson_interval(several, count))]

        return cls(count, with_interval(before), with_interval(after))

    def __add__(self, other: DecisionCounts) -> DecisionCounts:
        before, after = self.before[0] + other.before[0], self.after[0] + other.after[0]
        return self.of(self.count + other.count, int(before), int(after))


@dataclass(frozen=True)
class ScoreChange:
    """Score and threshold before and after."""

    before: list[float]
    after: list[float]


@dataclass(frozen=True)
class MissedDefect:
    """Known defect that is not found. rate: the least false-alarm rate at which it would be found."""

    id: int
    rate: float


@dataclass(frozen=True)
class Judgement:
    """Judgement of the next model beside the one that judges now, on reviewed pictures, each judged as if
    neither had learnt from it. Lists are numbers of inspections.

    how: it was made.
    learnt: learnt from. unsure: "good" ones that look like known defects, and were not learnt from: say it
    again. contradictory: the same pixels were called good and a defect. unreadable: cannot be used.
    inside: defects that the model has learnt from as good parts. gone: their pictures were removed.
    drawn: number of the line's good pictures that the threshold comes from, too. kept: the threshold stayed
    as it was: else more defects would be lost.
    good, defects: how many are called anomalous.
    gained: false alarms that would pass. alarms: good ones that would newly be called anomalous.
    lost: known defects that would no longer be found. found: missed defects that would be found.
    weaker: known defects that would stand out less than half as much, and no more than odd good pictures do
    (where that is not known, the half alone counts). missed: known defects that are not found.
    scores: by number, of the pictures in these lists. cross_fitted: number of pictures that were left out for
    it.
    simulated: defects as [found before, found after, how many]; None: not measured.
    questions: open ones about the pictures.
    refused: `known`, `simulated`: fewer than 98 % of the defects found before would be found; `threshold`: it
    would not mean the same. responsible: the corrections by which these are lost, farthest out first.
    """

    how: Literal["extended", "recalibrated", "retrained"]
    learnt: list[int]
    good: DecisionCounts
    defects: DecisionCounts
    unsure: list[int] = field(default_factory=list)
    contradictory: list[int] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    drawn: int = 0
    kept: bool = False
    gained: list[int] = field(default_factory=list)
    alarms: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    found: list[int] = field(default_factory=list)
    weaker: list[int] = field(default_factory=list)
    missed: list[MissedDefect] = field(default_factory=list)
    scores: dict[str, ScoreChange] = field(default_factory=dict)
    cross_fitted: int = 0
    simulated: list[int] | None = None
    questions: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    responsible: list[int] = field(default_factory=list)

    @classmethod
    def joined(cls, several: Sequence[Judgement]) -> Judgement:
        """Judgement of the models of several views, made in one way, of which each has its own pictures."""
        first, *others = several
        for other in others:
            first = first._with(other)
        return first

    def _with(self, other: Judgement) -> Judgement:
        """Judgement of the pictures of both."""
        own = {name: sorted({*getattr(self, name), *getattr(other, name)}) for name in PICTURE_LISTS}
        counts = [one.simulated for one in (self, other) if one.simulated is not None]
        simulated = None
        if counts:
            simulated = [sum(numbers) for numbers in zip(*counts, strict=True)]
        questions = dict.fromkeys(self.questions + other.questions)
        refused = dict.fromkeys(self.refused + other.refused)
        return Judgement(
            self.how,
            good=self.good + other.good,
            defects=self.defects + other.defects,
            drawn=self.drawn + other.drawn,
            kept=self.kept or other.kept,
            missed=self.missed + other.missed,
            scores=self.scores | other.scores,
            cross_fitted=self.cross_fitted + other.cross_fitted,
            simulated=simulated,
            questions=list(questions),
            refused=list(refused),
            responsible=self.responsible + other.responsible,
            **own,
        )

    @property
    def at_risk(self) -> list[int]:
        """Inspections to look at before the model is used: known defects that it loses, and corrections that
        make it lose simulated ones.
        """
        return [*self.lost, *(self.responsible if "simulated" in self.refused else [])]
