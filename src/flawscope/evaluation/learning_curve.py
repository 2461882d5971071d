"""Says how many good pictures are enough: models of fewer ones judge the same test pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.tried import auroc
from flawscope.datasets import Item
from flawscope.errors import InputError
from flawscope.pictures.table import learnt_units
from flawscope.predictor import Predictor
from flawscope.progress import ProgressCallback, ProgressCounter
from flawscope.results.prediction import Prediction

RESAMPLES = 1000
TAILS = (0.025, 0.975)


class Scored(NamedTuple):
    """Scores of good [N] and defective pictures [M] by one model, higher is more anomalous."""

    good: NDArray[np.float64]
    defective: NDArray[np.float64]

    def auroc(self) -> float:
        """AUROC of defective against good pictures, 0..1."""
        return auroc(self.good, self.defective)

    def gain_over(self, other: Scored, seed: int) -> tuple[float, float, float]:
        """Return the AUROC less that of another model on the same pictures, with its 95 % interval.

        The interval comes from a paired bootstrap over good and over defective pictures.
        """
        rng = np.random.default_rng(seed)
        times = [
            rng.multinomial(scores.size, np.full(scores.size, 1 / scores.size), RESAMPLES) for scores in self
        ]
        gains = self._resampled(*times) - other._resampled(*times)
        low, high = np.quantile(gains, TAILS)
        return self.auroc() - other.auroc(), float(low), float(high)

    def _resampled(self, good_times: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the AUROC in each resample [R].

        Args:
            good_times: [R, N], how often the resample draws each good picture.
            times: [R, M], how often it draws each defective picture.
        """
        above = self.defective[:, None] > self.good
        wins = above + 0.5 * (self.defective[:, None] == self.good)  # [M, N]
        won = ((times @ wins) * good_times).sum(1)
        return np.asarray(won / (self.good.size * self.defective.size))


def enough(scored: Mapping[int, Scored], seed: int = 0) -> int | None:
    """Return the smallest number of pictures from which no larger number is surely better.

    Surely better means that the 95 % interval of the gain lies above zero. None: the largest number is surely
    better than all others, and more may be better still.

    Args:
        scored: Scores of the same pictures, by the number of pictures learnt from.
        seed: Seed of the bootstrap.
    """
    numbers = sorted(scored)
    for k, number in enumerate(numbers[:-1]):
        if all(scored[more].gain_over(scored[number], seed)[1] <= 0 for more in numbers[k + 1 :]):
            return number
    return None


@dataclass(frozen=True)
class LearningCurve:
    """AUROC by the number of units learnt from, which shows how much more good pictures help.

    Near-duplicates are one unit.

    Attributes:
        figures: AUROC by that number, smallest number first.
        enough: Number that is enough (`enough`); None: more may do better still.
    """

    figures: Mapping[int, float]
    enough: int | None

    @classmethod
    def of(cls, compared: Mapping[int, Scored]) -> LearningCurve:
        """Compare models, by the number of units that each has learnt from."""
        figures = {number: compared[number].auroc() for number in sorted(compared)}
        return cls(figures, enough(compared))


def learning_curve(
    model: Predictor,
    fewer: Sequence[Predictor],
    judged: Sequence[tuple[Item, Prediction]],
    step: ProgressCallback,
) -> LearningCurve | None:
    """Return the image AUROC of a model, and of models of fewer good pictures.

    None: there are none, or no test pictures of both kinds that all of them can judge.

    Args:
        model: The model.
        fewer: Models like it of fewer good pictures.
        judged: Test pictures with the model's predictions.
        step: Called with the progress.
    """
    advance = ProgressCounter(step, "learning curve", len(judged) * len(fewer))
    scores = {}
    for count in fewer:
        scores[_number_learnt(count)] = _score(count, [item.path for item, _ in judged], advance)
    scores[_number_learnt(model)] = np.array([prediction.score for _, prediction in judged])
    is_judged = ~np.isnan([*scores.values()]).any(axis=0)
    is_defective = np.array([item.anomalous for item, _ in judged])
    good = is_judged & ~is_defective
    defective = is_judged & is_defective
    if len(scores) < 2 or not good.any() or not defective.any():
        return None
    compared = {n: Scored(score[good], score[defective]) for n, score in scores.items()}
    return LearningCurve.of(compared)


def _score(model: Predictor, paths: Sequence[Path], advance: Callable[[], None]) -> NDArray[np.float64]:
    """Scores of pictures; NaN where one cannot be judged."""
    scores = []
    for _, result in model.stream(paths):
        scores.append(np.nan if isinstance(result, InputError) else result.score)
        advance()
    return np.array(scores)


def describe(curve: LearningCurve) -> str:
    """Return a line for a person: how many good pictures are enough, and the AUROC by their number."""
    every = max(curve.figures)
    summary = f"{curve.enough} good pictures of different parts do as well as {every}"
    if curve.enough is None:
        summary = f"more good pictures of different parts may do better still than {every}"
    areas = ", ".join(f"{area:.3f} with {number}" for number, area in curve.figures.items())
    return f"{summary}, by these test pictures: image AUROC {areas}"


def _number_learnt(model: Predictor) -> int:
    return len({*learnt_units(model.manifest.pictures).values()})
