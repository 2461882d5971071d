"""The intervals against literal definitions, resampling by hand, and simulated coverage."""

from pathlib import Path

import numpy as np
import pytest

from flawscope.datasets import Item
from flawscope.evaluation import metrics
from flawscope.evaluation.intervals import (
    area_under_curves,
    auroc_interval,
    count_pixels,
    delong_auroc,
    image_intervals,
    pixel_intervals,
)
from flawscope.evaluation.result import EvaluatedPicture
from flawscope.results.prediction import Prediction, ScoreLevels
from flawscope.views.preprocess import Preprocess


def binormal(rng, good, bad, shift):
    """Labels and scores; the true AUROC is Phi(shift / sqrt 2)."""
    scores = np.concatenate([rng.normal(size=good), rng.normal(shift, size=bad)])
    return np.arange(good + bad) >= good, scores


def test_delong_is_its_definition_ties_included():
    """Every pair by hand: 1 in the right order, 1/2 tied; variances of its row and column means."""
    rng = np.random.default_rng(0)
    labels = rng.random(40) < 0.4
    scores = rng.integers(0, 8, 40) + 2.0 * labels
    bad, good = scores[labels], scores[~labels]
    pairs = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)
    variance = np.var(pairs.mean(1), ddof=1) / len(bad) + np.var(pairs.mean(0), ddof=1) / len(good)
    found = delong_auroc(labels, scores)
    assert found == pytest.approx((metrics.auroc(labels, scores), variance), rel=1e-12)


@pytest.mark.parametrize(("shift", "truth"), [(1.0, 0.76025), (2.0, 0.92135)])
def test_the_auroc_interval_holds_the_truth_as_often_as_it_says(shift, truth):
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        found = auroc_interval(*binormal(rng, 30, 30, shift))
        assert 0 <= found.low < found.high <= 1
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.985


def test_separated_classes_are_no_certainty():
    """5 separate pairs, all in the right order: the exact binomial bound, not [1, 1]."""
    labels = np.array([False] * 20 + [True] * 5)
    found = auroc_interval(labels, labels + 0.0)
    assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 5)), 1)
    assert "5 separate pairs" in found.method
    upside_down = auroc_interval(labels, -1.0 * labels)
    assert (upside_down.low, upside_down.high) == (0, pytest.approx(1 - 0.025 ** (1 / 5)))


def test_image_intervals_are_seeded_and_hold_the_value():
    labels, scores = binormal(np.random.default_rng(3), 40, 40, 1.5)
    decisions = scores > 1
    found = image_intervals(labels, scores, decisions, resamples=200, seed=5)
    assert found == image_intervals(labels, scores, decisions, resamples=200, seed=5)
    values = {
        "image_ap": metrics.image_metrics(labels, scores).ap,
        "image_f1_calibrated": metrics.f1_at(labels, decisions),
    }
    for name, value in values.items():
        interval = found[name]
        assert interval.low < value < interval.high
        assert interval.high - interval.low < 0.3
    few = np.array([False, False, True])  # one picture of a class has no interval
    assert set(image_intervals(few, np.array([0.1, 0.2, 0.3]), few).values()) == {None}
    labels = np.arange(20) >= 10  # without a mistake the bootstrap says nothing
    found = image_intervals(labels, labels + 0.0, labels, resamples=50)
    assert found["image_ap"] is None
    assert found["image_auroc"] is not None


@pytest.fixture(scope="module")
def pictures():
    """12 maps with their truths; every second one has two regions, found more or less well."""
    rng = np.random.default_rng(4)
    maps, truths = [], []
    for k in range(12):
        truth = np.zeros((40, 50), bool)
        if k % 2:
            truth[5 : 8 + k, 5:20] = True
            truth[30:36, 30:45] = True
        maps.append((rng.gamma(2, size=truth.shape) + truth * rng.gamma(3, 1.5)).astype(np.float32))
        truths.append(truth)
    return maps, truths


def evaluated(maps, truths):
    """With the mask threshold at 4."""
    found = []
    for values, truth in zip(maps, truths, strict=True):
        geometry = Preprocess(values.shape).geometry(values.shape)
        prediction = Prediction(0.0, 1.0, -1.0, False, values, geometry, ScoreLevels(0.0, 4.0, (0.0, 1.0)))
        bad = truth is None or bool(truth.any())
        found.append(EvaluatedPicture(Item(Path("x.png"), "kind", bad), prediction, truth))
    return found


def exact(maps, truths):
    found = metrics.pixel_metrics(maps, truths)
    names = ("pixel_auroc", "pixel_ap", "pixel_f1", "au_pro", "au_pro_05")
    return {name: getattr(found, name.removeprefix("pixel_")) for name in names}


def test_counted_pixels_give_the_exact_metrics_nearly(pictures):
    maps, truths = pictures
    counts = count_pixels(evaluated(maps, truths))
    # a resample is the pictures as often as they were drawn
    for times in ([1] * 12, [0, 3, 1, 1, 0, 2, 2, 0, 1, 0, 1, 1]):
        drawn = counts.curves(np.array([times])).metrics()
        expected = exact(np.repeat(maps, times, 0), np.repeat(truths, times, 0))
        assert {name: float(values[0]) for name, values in drawn.items()} == pytest.approx(expected, abs=2e-3)


def test_pixel_intervals_hold_the_values(pictures):
    maps, truths = pictures
    masks = [m > 4 for m in maps]
    counts = count_pixels(evaluated(maps, truths))
    found = pixel_intervals(counts, resamples=200)
    hits = sum((m & t).sum() for m, t in zip(masks, truths, strict=True))
    total = sum(m.sum() + t.sum() for m, t in zip(masks, truths, strict=True))
    for name, value in (exact(maps, truths) | {"pixel_f1_calibrated": 2 * hits / total}).items():
        interval = found[name]
        assert interval.low < value < interval.high, name


def test_pictures_without_truth_take_no_part(pictures):
    maps, truths = pictures
    some = [None if k in (1, 3) else t for k, t in enumerate(truths)]
    counts = count_pixels(evaluated(maps, some))
    kept = [k for k in range(12) if k not in (1, 3)]
    assert counts.normal[:, -1].tolist() == [float((~truths[k]).sum()) for k in kept]
    assert counts.defective.tolist() == [bool(truths[k].any()) for k in kept]
    for same in (None, np.zeros_like(truths[0]), np.ones_like(truths[0])):
        assert count_pixels(evaluated(maps, [same] * 12)) is None
    assert count_pixels([]) is None


def test_pixels_that_do_not_count_are_not_counted(pictures):
    maps, truths = pictures
    valid = np.ones(truths[0].shape, bool)
    valid[:10] = False  # the upper region of each is cut, or gone
    counts = count_pixels([seen._replace(valid=valid) for seen in evaluated(maps, truths)])
    below = count_pixels(evaluated([m[10:] for m in maps], [t[10:] for t in truths]))
    for name in ("normal", "anomalous", "overlap", "marked", "regions"):
        np.testing.assert_array_equal(getattr(counts, name), getattr(below, name))


def test_area_stops_at_the_limit_inside_a_segment():
    x, y = np.array([[0.0, 0.0, 0.2, 1.0]]), np.array([[0.0, 0.5, 0.5, 1.0]])
    # to 0.6: a rectangle 0.2 x 0.5, then a trapezoid from 0.5 to 0.75
    assert area_under_curves(x, y, 0.6) == pytest.approx((0.2 * 0.5 + 0.4 * 0.625) / 0.6)
