"""AUROC, AP, F1, AU-PRO and sPRO: pure functions on NumPy arrays, exact, in the scores' own unit.

Higher scores are more anomalous. Nothing is binned, rescaled or squashed; a metric that is undefined is NaN.
Here are those over one score per picture; those over maps are in `pixel`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from flawscope.errors import InputError
from flawscope.evaluation.metrics._ranking import (
    ImageMetrics,
    Regions,
    count_normal,
    rank_metrics,
)
from flawscope.evaluation.metrics.pixel import PixelMetrics, au_spro, pixel_metrics, saturation_pixels

__all__ = [
    "ImageMetrics",
    "PixelMetrics",
    "au_spro",
    "auroc",
    "confidence_interval_rate",
    "f1_at",
    "image_metrics",
    "pixel_metrics",
    "saturation_pixels",
]


def image_metrics(labels: ArrayLike, scores: ArrayLike) -> ImageMetrics:
    """AUROC, AP and best F1 of one score per picture.

    `labels`: [N] bool or 0/1, 1 = anomalous. `scores`: [N], higher = more anomalous. Scores are compared as
    they are (float64 inside), never rescaled or squashed. With labels of one class everything is NaN: no
    mistake would be possible.

    Raises InputError (a ValueError) for NaN scores.
    """
    truth, values = np.asarray(labels, np.bool_), np.asarray(scores, np.float64)
    if np.isnan(values).any():
        raise InputError(f"{np.isnan(values).sum()} scores are NaN; a metric cannot rank them")
    anomalous = values[truth]
    one = Regions(anomalous, np.zeros(min(anomalous.size, 1), np.int64), np.ones(1), np.ones(1), 1)
    return rank_metrics(count_normal(one, [values[~truth]]))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an anomalous score beats a normal one, a tie counting half.

    Exact (Mann-Whitney U over the number of pairs). Arguments and errors as for `image_metrics`; NaN where
    only one class is present.
    """
    return image_metrics(labels, scores).auroc


def f1_at(labels: ArrayLike, decisions: ArrayLike) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) of given decisions; both [N], bool or 0/1. NaN where only one class
    is present."""
    truth, flagged = np.asarray(labels, np.bool_), np.asarray(decisions, np.bool_)
    positives = int(truth.sum())
    if positives in (0, truth.size):
        return math.nan
    return 2 * int((truth & flagged).sum()) / (positives + int(flagged.sum()))


def confidence_interval_rate(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact (Clopper-Pearson) interval of a rate of which k of n trials came up, as (low, high) in 0..1.

    It holds the true rate with a probability of at least `level`, whatever the rate and however small n. With
    n = 0 nothing is known: (0, 1). Source: Clopper and Pearson, Biometrika 26 (1934), by quantiles of the
    beta distribution.

    Raises InputError unless 0 <= k <= n and 0 < level < 1.
    """
    if not 0 <= k <= n:
        raise InputError(f"{k} of {n} is not a rate, expected 0 <= k <= n")
    if not 0 < level < 1:
        raise InputError(f"level is {level}, expected above 0 and below 1")
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high
