"""Comparison of the next model with the present model, on reviewed pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from flawscope.calibration.power import wilson_interval

# Fields of a judgement that list pictures in no particular order
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
        before: [number, low, high] of the earlier model: number of pictures called anomalous, and the 95 %
            interval (Wilson) of their share, 0..1.
        after: [number, low, high] of the next model.
    """

    count: int
    before: list[float]
    after: list[float]

    @classmethod
    def of(cls, count: int, before: int, after: int) -> DecisionCounts:
        """Make the counts, with their intervals, from numbers of pictures.

        Args:
            count: Number of pictures.
            before: Number that the earlier model calls anomalous.
            after: Number that the next model calls anomalous.
        """

        def with_interval(anomalous_count: int) -> list[float]:
            low, high = wilson_interval(anomalous_count, count)
            return [anomalous_count, round(low, 4), round(high, 4)]

        return cls(count, with_interval(before), with_interval(after))

    def __add__(self, other: DecisionCounts) -> DecisionCounts:
        before = int(self.before[0] + other.before[0])
        after = int(self.after[0] + other.after[0])
        return self.of(self.count + other.count, before, after)


@dataclass(frozen=True)
class ScoreChange:
    """Change of a picture's score.

    Attributes:
        before: [score, threshold] by the present model.
        after: [score, threshold] by the next model.
    """

    before: list[float]
    after: list[float]


@dataclass(frozen=True)
class MissedDefect:
    """Known defect that the next model misses.

    Attributes:
        id: Number of the defect's inspection.
        rate: Smallest false-alarm rate at which the defect would be found.
    """

    id: int
    rate: float


@dataclass(frozen=True)
class Judgement:
    """Comparison of the next model with the present model, on reviewed pictures.

    Each picture is judged as if neither model had learnt from it. Lists hold numbers of inspections.

    Attributes:
        how: How the next model was made.
        learnt: Pictures that the next model has learnt from.
        good: Number of good pictures that each model calls anomalous.
        defects: Number of known defects that each model calls anomalous.
        unsure: Pictures reviewed as good that look like known defects. They were not learnt from; a person is
            to review them again.
        contradictory: Pictures whose pixels were called both good and a defect.
        unreadable: Pictures that cannot be used.
        inside: Defects that the model has learnt from as good parts.
        gone: Inspections whose pictures were removed.
        drawn: Number of the line's good pictures that the threshold also comes from.
        kept: Whether the threshold was left unchanged, because a new one would lose more defects.
        gained: False alarms of the present model that the next model would call good.
        alarms: Good pictures that would newly be called anomalous.
        lost: Known defects that would no longer be found.
        found: Missed defects that would be found.
        weaker: Known defects that would stand out less than half as much as now, and not more than unusual
            good pictures do (the latter only where it is known).
        missed: Known defects that the next model misses.
        scores: Scores of the pictures in these lists, by inspection number.
        cross_fitted: Number of pictures that were left out for the judgement.
        simulated: Simulated defects as [found before, found after, number of all]; None: not measured.
        questions: Open questions about the pictures.
        refused: Reasons against the next model. `known` and `simulated`: of the known or simulated defects
            that are found now, fewer than 98 % would be found. `threshold`: the threshold would change its
            meaning.
        responsible: The corrections because of which simulated defects would be lost, farthest out first.
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
    def joined(cls, judgements: Sequence[Judgement]) -> Judgement:
        """Join the judgements of the models of several views.

        Args:
            judgements: Judgements, one of each view's model on the pictures of that view. They have the same
                `how`, because the next models of all views were made in the same way.
        """
        joined_judgement = judgements[0]
        for judgement in judgements[1:]:
            joined_judgement = joined_judgement._joined_with(judgement)
        return joined_judgement

    def _joined_with(self, other: Judgement) -> Judgement:
        """Return one judgement on the pictures of this and another judgement."""
        joined_lists = {}
        for name in PICTURE_LISTS:
            pictures = {*getattr(self, name), *getattr(other, name)}
            joined_lists[name] = sorted(pictures)
        simulated_counts = [
            judgement.simulated for judgement in (self, other) if judgement.simulated is not None
        ]
        simulated = None
        if simulated_counts:
            simulated = [sum(counts) for counts in zip(*simulated_counts, strict=True)]
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

        They are the known defects that the next model loses. If the model is refused because it
        loses simulated defects, the corrections that cause this follow.
        """
        if "simulated" not in self.refused:
            return [*self.lost]
        return [*self.lost, *self.responsible]
