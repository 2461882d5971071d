"""Measures how many good pictures are enough: models of fewer good pictures judge the same test pictures."""

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
TAILS = (0.025, 0.975)  # quantiles that bound a 95 % interval


class Scored(NamedTuple):
    """Scores of good [N] and defective pictures [M] by one model, higher is more anomalous."""

    good: NDArray[np.float64]
    defective: NDArray[np.float64]

    def auroc(self) -> float:
        """AUROC of defective against good pictures, 0..1."""
        return auroc(self.good, self.defective)

    def gain_over(self, other: Scored, seed: int) -> tuple[float, float, float]:
        """Return the AUROC less the AUROC of another model on the same pictures, with an interval.

        Returns:
            The difference, and the lower and upper end of its 95 % interval, from a paired bootstrap over
            good and over defective pictures.
        """
        rng = np.random.default_rng(seed)
        good_times = _resample_counts(self.good.size, rng)
        defective_times = _resample_counts(self.defective.size, rng)
        own_aurocs = self._resampled_auroc(good_times, defective_times)
        other_aurocs = other._resampled_auroc(good_times, defective_times)
        low, high = np.quantile(own_aurocs - other_aurocs, TAILS)
        return self.auroc() - other.auroc(), float(low), float(high)

    def _resampled_auroc(
        self, good_times: NDArray[np.int64], defective_times: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the AUROC in each resample [R].

        Args:
            good_times: [R, N], how often each resample has each good picture.
            defective_times: [R, M], how often each resample has each defective picture.
        """
        is_above = self.defective[:, None] > self.good
        is_equal = self.defective[:, None] == self.good
        wins = is_above + 0.5 * is_equal  # [M, N]
        wins_over_good = defective_times @ wins  # [R, N], over each good picture
        win_sums = (wins_over_good * good_times).sum(1)  # each good picture as often as the resample has it
        return np.asarray(win_sums / (self.good.size * self.defective.size))


def _resample_counts(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how often each of `RESAMPLES` resamples has each of `size` pictures, [R, size]."""
    return rng.multinomial(size, np.full(size, 1 / size), RESAMPLES)


def enough(scored: Mapping[int, Scored], seed: int = 0) -> int | None:
    """Return the smallest number of pictures that is enough: no model of more pictures is surely better.

    Surely better means that the 95 % interval of the gain lies above zero. The result is None if only the
    largest number could be enough: still more pictures may be better.

    Args:
        scored: Scores of the same pictures, by the number of pictures learnt from.
        seed: Seed of the bootstrap.
    """
    counts = sorted(scored)
    for index, count in enumerate(counts[:-1]):
        larger_counts = counts[index + 1 :]
        if not any(_is_surely_better(scored[larger], scored[count], seed) for larger in larger_counts):
            return count
    return None


def _is_surely_better(first: Scored, second: Scored, seed: int) -> bool:
    """Whether the interval of the gain of `first` over `second` lies above zero."""
    _, low, _ = first.gain_over(second, seed)
    return low > 0


@dataclass(frozen=True)
class LearningCurve:
    """AUROC by the number of units learnt from, which shows how much more good pictures help.

    Near-duplicates are one unit.

    Attributes:
        figures: AUROC by the number of units, smallest number first.
        enough: Number of units that is enough (`enough`); None: more may do better still.
    """

    figures: Mapping[int, float]
    enough: int | None

    @classmethod
    def of(cls, compared: Mapping[int, Scored]) -> LearningCurve:
        """Return the curve of models, by the number of units that each learnt from."""
        figures = {number: compared[number].auroc() for number in sorted(compared)}
        return cls(figures, enough(compared))


def learning_curve(
    model: Predictor,
    fewer: Sequence[Predictor],
    judged: Sequence[tuple[Item, Prediction]],
    step: ProgressCallback,
) -> LearningCurve | None:
    """Return the image AUROC of a model, and of models that were fitted to fewer good pictures.

    The result is None if `fewer` is empty, or if no good or no defective picture is judged by every model.

    Args:
        model: The model.
        fewer: Models fitted like `model`, but to fewer good pictures.
        judged: Test pictures with the model's predictions.
        step: Called with the progress.
    """
    advance = ProgressCounter(step, "learning curve", len(judged) * len(fewer))
    paths = [item.path for item, _ in judged]
    # number of units that a model learnt from -> the model's scores; NaN for a picture that is not judged
    scores_by_count = {}
    for smaller_model in fewer:
        scores_by_count[_learnt_unit_count(smaller_model)] = _score(smaller_model, paths, advance)
    scores_by_count[_learnt_unit_count(model)] = np.array([prediction.score for _, prediction in judged])
    is_judged = ~np.isnan([*scores_by_count.values()]).any(axis=0)
    is_defective = np.array([item.anomalous for item, _ in judged])
    good = is_judged & ~is_defective
    defective = is_judged & is_defective
    if len(scores_by_count) < 2 or not good.any() or not defective.any():
        return None
    scored = {}
    for unit_count, scores in scores_by_count.items():
        scored[unit_count] = Scored(scores[good], scores[defective])
    return LearningCurve.of(scored)


def _score(model: Predictor, paths: Sequence[Path], advance: Callable[[], None]) -> NDArray[np.float64]:
    """Return the score of each picture; NaN for a picture that cannot be judged.

    Args:
        model: The model.
        paths: The pictures.
        advance: Called after each picture, to report the progress.
    """
    scores = []
    for _, result in model.stream(paths):
        scores.append(np.nan if isinstance(result, InputError) else result.score)
        advance()
    return np.array(scores)


def describe(curve: LearningCurve) -> str:
    """Return a line for a person: how many good pictures are enough, and the AUROC by their number."""
    largest = max(curve.figures)
    if curve.enough is None:
        summary = f"more good pictures of different parts may do better still than {largest}"
    else:
        summary = f"{curve.enough} good pictures of different parts do as well as {largest}"
    aurocs = ", ".join(f"{area:.3f} with {number}" for number, area in curve.figures.items())
    return f"{summary}, by these test pictures: image AUROC {aurocs}"


def _learnt_unit_count(model: Predictor) -> int:
    """Return the number of units that a model learnt from."""
    return len({*learnt_units(model.manifest.pictures).values()})
