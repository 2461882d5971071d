"""AUROC, AP, F1, AU-PRO and sPRO: pure functions on NumPy arrays, exact, in the scores' own unit.

Higher scores are more anomalous. Nothing is binned, rescaled or squashed; a metric that is undefined is NaN.
Here are those over one score per picture; those over maps are in `pixel`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from flawscope.calibration.promise import confidence_interval_rate
from flawscope.errors import InputError
from flawscope.evaluation.metrics.auroc_au_pro import (
    ImageMetrics,
    Regions,
    check_flags,
    check_scores,
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
    """Return AUROC, AP and best F1 of one score per picture.

    Scores are compared as they are (float64 inside), never rescaled or squashed. With labels of one class
    everything is NaN: no mistake would be possible.

    Args:
        labels: [N] bool or 0/1, 1 = anomalous.
        scores: [N], higher = more anomalous.

    Raises:
        InputError: (a ValueError) Scores are NaN, labels have other values, or shapes differ.
    """
    truth = check_flags(labels, "labels")
    values = check_scores(scores, truth)
    # the counts are those of pixels: here all anomalous pictures are one region, without a saturation
    anomalous = values[truth]
    starts = np.zeros(min(anomalous.size, 1), np.int64)
    one = np.ones(1)
    pictures = Regions(scores=anomalous, starts=starts, shares=one, divisors=one, count=1)
    return rank_metrics(count_normal(pictures, [values[~truth]]))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve: the chance that an anomalous score beats a normal score.

    A tie counts half. Exact (Mann-Whitney U over the number of pairs); NaN where only one class is present.

    Args:
        labels: [N] bool or 0/1, 1 = anomalous.
        scores: [N], higher = more anomalous.

    Raises:
        InputError: (a ValueError) Scores are NaN, labels have other values, or shapes differ.
    """
    return image_metrics(labels, scores).auroc


def f1_at(labels: ArrayLike, decisions: ArrayLike) -> float:
    """Return F1 = 2 TP / (2 TP + FP + FN) of decisions; NaN where only one class is present.

    Args:
        labels: [N] bool or 0/1, 1 = anomalous.
        decisions: [N] bool or 0/1, 1 = called anomalous.

    Raises:
        InputError: Labels or decisions have other values, or shapes differ.
    """
    truth = check_flags(labels, "labels")
    flagged = check_flags(decisions, "decisions")
    if truth.shape != flagged.shape:
        raise InputError(f"decisions has shape {flagged.shape}, expected {truth.shape} as labels has")
    positives = int(truth.sum())
    if positives in (0, truth.size):
        return math.nan
    return 2 * int((truth & flagged).sum()) / (positives + int(flagged.sum()))
