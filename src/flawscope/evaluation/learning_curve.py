"""Says how many good pictures are enough: models of fewer ones judge the same test pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.tried import GIVEN, LearningCurve, Scored
from flawscope.datasets import Item
from flawscope.errors import InputError
from flawscope.pictures.table import learnt_units
from flawscope.predictor import Predictor
from flawscope.progress import ProgressCallback, ProgressCounter
from flawscope.results.prediction import Prediction


def learning_curve(
    model: Predictor,
    fewer: Sequence[Predictor],
    judged: Sequence[tuple[Item, Prediction]],
    step: ProgressCallback,
) -> LearningCurve | None:
    """Image AUROC of a model, and of models of fewer good pictures. None: there are none, or no test pictures
    of both kinds that all of them can judge.

    Args:
        judged: test pictures, and what the model says of them.
    """
    advance = ProgressCounter(step, "learning curve", len(judged) * len(fewer))
    scores = {}
    for one in fewer:
        scores[_number_learnt(one)] = _score(one, [item.path for item, _ in judged], advance)
    scores[_number_learnt(model)] = np.array([prediction.score for _, prediction in judged])
    is_judged = ~np.isnan([*scores.values()]).any(axis=0)
    is_defective = np.array([item.anomalous for item, _ in judged])
    good, defective = is_judged & ~is_defective, is_judged & is_defective
    if len(scores) < 2 or not good.any() or not defective.any():
        return None
    carriers = np.full(int(defective.sum()), GIVEN)
    compared = {n: Scored(one[good], one[defective], carriers) for n, one in scores.items()}
    return LearningCurve.of(compared)


def _score(model: Predictor, paths: Sequence[Path], advance: Callable[[], None]) -> NDArray[np.float64]:
    """Scores of pictures; NaN where one cannot be judged."""
    scores = []
    for _, result in model.stream(paths):
        scores.append(np.nan if isinstance(result, InputError) else result.score)
        advance()
    return np.array(scores)


def describe(curve: LearningCurve) -> str:
    """Line for a person."""
    every = max(curve.figures)
    told = f"{curve.enough} good pictures of different parts do as well as {every}"
    if curve.enough is None:
        told = f"more good pictures of different parts may do better still than {every}"
    areas = ", ".join(f"{area:.3f} with {number}" for number, area in curve.figures.items())
    return f"{told}, by these test pictures: image AUROC {areas}"


def _number_learnt(model: Predictor) -> int:
    return len({*learnt_units(model.manifest.pictures).values()})
