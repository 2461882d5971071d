"""Image-level metrics against scikit-learn, and the interval of a rate against the binomial distribution."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from flawscope.evaluation.metrics import (
    auroc,
    confidence_interval_rate,
    f1_at,
    image_metrics,
)


def draw(seed, levels):
    """Labels of any balance and scores that tell something; `levels` distinct scores, or no ties at all."""
    rng = np.random.default_rng(seed)
    labels = rng.random(rng.integers(5, 400)) < rng.uniform(0.05, 0.95)
    labels[:2] = False, True
    scores = rng.normal(labels * rng.uniform(-1, 3), 1.0)
    if levels is not None:
        scores = np.floor(levels * (scores - scores.min()) / (np.ptp(scores) + 1e-9))
    return labels, scores


@pytest.mark.parametrize("levels", [None, 2, 3, 17])
@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_scikit_learn(seed, levels):
    labels, scores = draw(seed, levels)
    result = image_metrics(labels, scores)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert result.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert result.ap == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert result.f1 == pytest.approx(f1.max(), abs=1e-12)
    assert result.f1_threshold == thresholds[np.flatnonzero(f1 >= f1.max() - 1e-12).max()]
    assert auroc(labels, scores) == result.auroc
    assert image_metrics(labels.astype(int).tolist(), scores.tolist()) == result
    alike = image_metrics([1, 0, 0, 1], [4.0, 3.0, 2.0, 1.0])
    assert (alike.f1, alike.f1_threshold) == (2 / 3, 4.0)  # the highest threshold of equal ones
    # the threshold does what it says
    assert f1_at(labels, scores >= result.f1_threshold) == result.f1
    assert f1_score(labels, scores >= result.f1_threshold) == pytest.approx(result.f1, abs=1e-12)


def test_close_scores_are_not_ties():
    # float32 or a sigmoid would make both pairs equal
    assert (auroc([0, 1], [1.0, np.nextafter(1.0, 2.0)]), auroc([0, 1], [500.0, 501.0])) == (1.0, 1.0)
    assert auroc([0, 1], [-np.inf, np.inf]) == 1.0


@pytest.mark.filterwarnings("error")
def test_one_class_is_nan_without_a_warning():
    for label in (0, 1):
        assert np.isnan(astuple(image_metrics([label, label], [0.1, 0.2]))).all()
        assert math.isnan(f1_at([label, label], [1, 0]))
    assert math.isnan(auroc([], []))
    assert f1_at([1, 0], [0, 1]) == 0


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([0, 1, 1], [0.1, np.nan, 0.3], r"scores\[1\] is NaN"),
        ([0, 1], [0.1], r"scores has shape \(1,\), expected \(2,\)"),
        ([-1, 1], [0.1, 0.2], "expected only 0 and 1"),
        ([0.0, 1.0], [0.1, 0.2], "labels has dtype float64"),
        ([[0, 1]], [[0.1, 0.2]], r"labels has shape \(1, 2\)"),
        ([0, 1], [0.1, 1j], "expected real"),
    ],
)
def test_bad_input_is_named(labels, scores, says):
    with pytest.raises(ValueError, match=says):
        auroc(labels, scores)


def binomial_tail(k, n, p):
    """P(X >= k), term by term."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize(("k", "n"), [(1, 19), (3, 60), (59, 60), (5, 10)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_interval_ends_where_the_count_becomes_improbable(k, n, level):
    low, high = confidence_interval_rate(k, n, level)
    tail = (1 - level) / 2
    assert binomial_tail(k, n, low) == pytest.approx(tail, rel=1e-9)
    assert 1 - binomial_tail(k + 1, n, high) == pytest.approx(tail, rel=1e-9)


def test_interval_at_the_ends():
    assert confidence_interval_rate(0, 0) == (0.0, 1.0)
    low, high = confidence_interval_rate(0, 20)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 20), abs=1e-12)
    assert confidence_interval_rate(20, 20) == (pytest.approx(1 - high), 1.0)
    with pytest.raises(ValueError, match="3 of 2"):
        confidence_interval_rate(3, 2)
    with pytest.raises(ValueError, match="level is 95"):
        confidence_interval_rate(1, 2, 95)
