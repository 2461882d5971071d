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
    """Number of pictures that each of two models calls anomalous.

    Attributes:
        count: Number of pictures.
        before: [number, low, high] of the earlier model: pictures called anomalous, and the 95 % interval
            (Wilson) of their share, 0..1.
        after: The same of the next model.
    """

    count: int
    before: list[float]
    after: list[float]

    @classmethod
    def of(cls, count: int, before: int, after: int) -> DecisionCounts:
        """Add the intervals to the number of pictures that each model calls anomalous.

        Args:
            count: Number of pictures.
            before: Number that the earlier model calls anomalous.
            after: Number that the next model calls anomalous.
        """

        def with_interval(several: int) -> list[float]:
            return [several, *(round(end, 4) for end in wilson_interval(several, count))]

        return cls(count, with_interval(before), with_interval(after))

    def __add__(self, other: DecisionCounts) -> DecisionCounts:
        before, after = self.before[0] + other.before[0], self.after[0] + other.after[0]
        return self.of(self.count + other.count, int(before), int(after))


@dataclass(frozen=True)
class ScoreChange:
    """Score and threshold of a picture, as [score, threshold], by the model before and the next model."""

    before: list[float]
    after: list[float]


@dataclass(frozen=True)
class MissedDefect:
    """Known defect that is not found.

    Attributes:
        id: Number of its inspection.
        rate: Smallest false-alarm rate at which it would be found.
    """

    id: int
    rate: float


@dataclass(frozen=True)
class Judgement:
    """Judgement of the next model beside the one that judges now, on reviewed pictures.

    Each picture is judged as if neither model had learnt from it. Lists hold numbers of inspections.

    Attributes:
        how: How the next model was made.
        learnt: Pictures that it has learnt from.
        good: Number of good pictures that each model calls anomalous.
        defects: Number of known defects that each model calls anomalous.
        unsure: Pictures reviewed as good that look like known defects. They were not learnt from; a person is
            to review them again.
        contradictory: Pictures whose pixels were called both good and a defect.
        unreadable: Pictures that cannot be used.
        inside: Defects that the model has learnt from as good parts.
        gone: Inspections whose pictures were removed.
        drawn: Number of the line's good pictures that the threshold comes from, too.
        kept: Whether the threshold stayed unchanged, because more defects would be lost otherwise.
        gained: False alarms that would pass.
        alarms: Good pictures that would newly be called anomalous.
        lost: Known defects that would no longer be found.
        found: Missed defects that would be found.
        weaker: Known defects that would stand out less than half as much, and no more than unusual good
            pictures (where that is not known, the half alone counts).
        missed: Known defects that are not found.
        scores: Scores of the pictures in these lists, by inspection number.
        cross_fitted: Number of pictures that were left out for the judgement.
        simulated: Simulated defects as [found before, found after, number of all]; None: not measured.
        questions: Open questions about the pictures.
        refused: Reasons against the next model. `known`, `simulated`: fewer than 98 % of the defects found
            before would be found; `threshold`: the threshold would change its meaning.
        responsible: The corrections by which simulated defects are lost, farthest out first.
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
        """Join the judgements of the models of several views, each on its own pictures, all made alike."""
        first, *others = several
        for other in others:
            first = first._with(other)
        return first

    def _with(self, other: Judgement) -> Judgement:
        """Return the judgement on the pictures of both."""
        joined_lists = {name: sorted({*getattr(self, name), *getattr(other, name)}) for name in PICTURE_LISTS}
        counts = [judgement.simulated for judgement in (self, other) if judgement.simulated is not None]
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
            **joined_lists,
        )

    @property
    def at_risk(self) -> list[int]:
        """Inspections to look at before the next model is used.

        They are known defects that it loses, and corrections that make it lose simulated defects.
        """
        return [*self.lost, *(self.responsible if "simulated" in self.refused else [])]
