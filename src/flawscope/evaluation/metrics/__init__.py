"""AUROC, AP, F1, AU-PRO and sPRO: pure functions on NumPy arrays, exact, in the scores' own unit.

Higher scores are more anomalous. Nothing is binned, rescaled or squashed; a metric that is undefined is NaN.
This module has the metrics over one score per picture; the metrics over maps are in `pixel`.
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

    Scores are compared as float64, never rescaled or squashed. All metrics are NaN where the labels are of
    one class only.

    Args:
        labels: [N] bool or 0/1, 1 = anomalous.
        scores: [N], higher = more anomalous.

    Raises:
        InputError: (a ValueError) Scores are NaN, labels have other values, or shapes differ.
    """
    truth = check_flags(labels, "labels")
    values = check_scores(scores, truth)
    # `count_normal` expects regions of pixels: the anomalous pictures are passed as one region of one piece
    anomalous_scores = values[truth]
    piece_count = 1 if anomalous_scores.size else 0  # a piece must not be empty
    piece_starts = np.zeros(piece_count, np.int64)
    ones = np.ones(1)
    region = Regions(scores=anomalous_scores, starts=piece_starts, shares=ones, divisors=ones, count=1)
    return rank_metrics(count_normal(region, [values[~truth]]))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve: the chance that an anomalous score beats a normal score.

    A tie counts half. The area is exact (Mann-Whitney U over the number of pairs), and NaN if only one class
    is present.

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
    true_positives = int((truth & flagged).sum())
    return 2 * true_positives / (positives + int(flagged.sum()))
