"""What is compared counts, and what is not said to be right fails."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from flawscope.artefact.certificate import (
    BATCH_SIZES,
    PRECISIONS,
    TOLERANCE,
    Certificate,
    certify,
    certify_reduced,
)
from flawscope.calibration.threshold import Calibration

SIDE = 4
MAPS = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) / 100


class Fixed:
    """A session that gives what it is told, by the value of the picture's first pixel."""

    def __init__(self, scores, wrong_batch=0, map_error=0.0):
        self.scores, self.wrong_batch, self.map_error = np.array(scores, np.float32), wrong_batch, map_error
        self.batches: list[list[int]] = []

    def run(self, images):
        numbers = images[:, 0, 0, 0].astype(int)
        self.batches.append(numbers.tolist())
        scores = self.scores[numbers]
        if len(images) == self.wrong_batch:
            scores = scores[::-1].copy()
        maps = scores[:, None, None] + MAPS
        maps[:, 1, 2] += self.map_error  # row 1 is in no stride but 1
        return scores, maps.astype(np.float32)


def calibrated(threshold=50.0, precision="fp32"):
    """From the middle to the threshold it is 10 for scores and 1 for maps."""
    return Calibration((threshold - 10, threshold - 10, threshold), (4.0, 4.0, 5.0), 0.0, precision=precision)


def compared(expected, session, threshold=50.0, precision="fp32", stride=1, **options):
    images = np.zeros((len(expected), 3, SIDE, SIDE), np.float32)
    images += np.arange(len(expected), dtype=np.float32)[:, None, None, None]
    scores = np.array(expected, np.float32)
    maps = (scores[:, None, None] + MAPS)[:, ::stride, ::stride]
    calibration = calibrated(threshold, precision)
    return certify(
        session,
        images,
        scores,
        **{"maps": maps, **options},
        calibration=calibration,
        runtime="fixed 1",
        stride=stride,
    )


def test_every_picture_is_in_a_batch_of_every_size():
    session = Fixed([1.0, 2.0, 3.0, 4.0, 5.0])
    found = compared([1.0, 2.0, 3.0, 4.0, 5.0], session)
    assert BATCH_SIZES == (1, 3, 8)
    for size in BATCH_SIZES:
        batches = [batch for batch in session.batches if len(batch) == size]
        assert {number for batch in batches for number in batch} == set(range(5))
    assert {len(batch) for batch in session.batches} == set(BATCH_SIZES)
    assert (found.pictures, found.batches, found.runtime) == (5, BATCH_SIZES, "fixed 1")
    assert found.passed
    assert (found.score, found.map, found.decisions, found.ties) == (0.0, 0.0, 0, ())


def test_the_largest_difference_counts_and_is_relative():
    found = compared([10.0, 0.5, 3.0, 4.0], Fixed([10.01, 0.502, 3.0, 4.0]), threshold=5.0)
    assert found.score == pytest.approx(0.002, rel=1e-3)  # below 1 it is absolute
    assert found.score_absolute == pytest.approx(0.01, rel=1e-3)
    assert found.map_absolute == pytest.approx(0.01, rel=1e-3)
    assert found.map == pytest.approx(0.002, rel=1e-3)
    assert not found.passed


def test_far_below_every_good_picture_little_counts():
    """A memory bank of all patches holds the sample pictures: their distances are near 0."""
    found = compared([0.003, 0.0, 45.0], Fixed([0.006, 0.004, 45.0]))
    assert found.passed
    assert found.score_absolute == pytest.approx(0.004)
    assert not compared([0.003, 0.0, 45.0], Fixed([0.003, 0.0, 45.01])).passed
    assert not compared([0.003, 0.0, 45.0], Fixed([0.003, 2.0, 45.0])).passed


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_has_its_tolerance(precision):
    """Of fp32 a part of the score, else of the way from the middle good picture to the threshold."""
    whole = 40.0 if precision == "fp32" else 10.0
    for factor, passed in ((0.9, True), (1.1, False)):
        away = 40.0 + whole * factor * TOLERANCE[precision]
        found = compared([20.0, 40.0], Fixed([20.0, away]), precision=precision)
        assert (found.precision, found.passed) == (precision, passed)
        assert found.score == pytest.approx(factor * TOLERANCE[precision], rel=0.01)


def test_a_decision_counts_where_it_changes_beyond_the_tolerance():
    """One good picture sets the threshold and lies exactly on it: rounding decides what it is called."""
    found = compared([1.0, 50.0], Fixed([1.0, 50.0001]))
    assert 0 < found.score < found.tolerance
    assert found.decisions == 0
    assert found.passed
    found = compared([1.0, 49.99], Fixed([1.0, 50.001]))
    assert found.decisions == 1  # pictures, not batches in which they were
    assert not found.passed
    found = compared([1.0, 50.0], Fixed([1.0, 50.0001]), precision="int8")
    assert found.decisions == 1  # of reduced precisions all are listed
    assert found.passed


@pytest.mark.parametrize("size", [3, 8])
def test_a_batch_that_is_answered_in_another_order_fails(size):
    scores = [1.0, 2.0, 3.0, 4.0]
    assert not compared(scores, Fixed(scores, wrong_batch=size)).passed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_no_number_fails(value, precision):
    found = compared([1.0, 2.0], Fixed([1.0, value]), precision=precision)
    assert found.score == np.inf
    assert not found.passed
    found = compared([1.0, 2.0], Fixed([1.0, 2.0], map_error=value), precision=precision)
    assert (found.score, found.map) == (0.0, np.inf)
    assert not found.passed


def test_of_maps_every_stride_th_row_and_column_is_compared_and_without_any_the_scores():
    assert compared([1.0], Fixed([1.0], map_error=0.5)).map_absolute == pytest.approx(0.5)
    assert compared([1.0], Fixed([1.0], map_error=0.5), stride=2).map_absolute == 0.0
    assert compared([1.0], Fixed([1.5]), stride=2).map_absolute == pytest.approx(0.5)
    found = compared([1.0, 2.0], Fixed([1.0, 2.01], map_error=9.0), threshold=5.0, maps=None)
    assert (found.map, found.map_absolute) == (0.0, 0.0)
    assert found.score == pytest.approx(0.005, rel=1e-3)


def test_ties_are_listed_and_not_counted():
    scores, other = [1.0, 2.0, 50.0], [1.0, 9.0, 50.1]
    ties = np.array([False, True, True])
    found = compared(scores, Fixed(other), ties=ties)
    assert found.passed
    assert (found.ties, found.decisions, found.score, found.pictures) == ((1, 2), 0, 0.0, 3)
    assert "3 pictures decided as by the trained model; scores differ by" in found.describe()
    assert found.describe().endswith("; scores of ties, not compared: 1, 2")
    assert not compared(scores, Fixed(other), ties=np.array([False, True, False])).passed
    said = compared(scores, Fixed([1.0, 2.0, 1.0]), threshold=9.0).describe()
    assert said.startswith("fixed 1, fp32: 1 of 3 pictures decided otherwise than by the trained model; scores")
    nothing = compared(scores, Fixed([9.0, 9.0, 9.0]), ties=np.ones(3, bool))
    assert (nothing.score, nothing.passed) == (0.0, False)


def test_of_pairs_keeps_the_larger_difference():
    batches = compared([1.0, 2.0], Fixed([1.0, 3.0]), precision="int8")  # a tenth of the way
    one = np.array([1.0, 2.0, 4.0])
    found = certify_reduced(batches, calibrated(), (one, one), (one + 0.4, one), 2)
    assert found.score == pytest.approx(0.1)
    assert found.map == found.map_absolute == pytest.approx(1.0)  # of the batches
    assert (found.pictures, found.decisions, found.precision) == (3, 2, "int8")
    assert found.passed
    found = certify_reduced(batches, calibrated(), (one, one + np.array([0, 6, 0])), (one + 2.5, one), 0)
    assert (found.score, found.score_absolute) == (pytest.approx(0.6), pytest.approx(6.0))
    assert found.map == pytest.approx(2.5)
    assert not found.passed
    assert not certify_reduced(batches, calibrated(), (one, one), (np.full(3, np.nan), one), 0).passed


def test_good_pictures_that_are_all_alike_leave_a_way():
    calibration = Calibration((5.0,) * 3, (0.0,) * 3, 0.0, precision="int8")
    same = compared([1.0], Fixed([1.0]), precision="int8")
    one = np.ones(1)
    assert certify_reduced(same, calibration, (one, one), (one, one), 0).passed
    assert not certify_reduced(same, calibration, (1.1 * one, one), (one, one), 0).passed


def test_it_survives_json_and_cannot_raise_its_own_tolerance():
    found = compared([1.0, 2.0, 3.0], Fixed([1.0, 2.00001, 3.0]), ties=np.array([True, False, False]))
    assert Certificate.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    found = compared([1.0], Fixed([1.0]))
    data = {**found.to_dict(), "score": 0.5, "tolerance": 1.0, "passed": True}
    assert not Certificate.from_dict(data).passed
    assert Certificate.from_dict(data) == replace(found, score=0.5)


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in ("pictures", "batches", "score", "map", "ties", "precision")),
        {"precision": "fp7"},
        {"precision": ["fp32"]},
        {"batches": 3},
        {"batches": ["many"]},
        {"pictures": "many"},
        {"score": {}},
        {"ties": 0},
    ],
)
def test_nonsense_is_no_certificate(change):
    data = {**compared([1.0], Fixed([1.0])).to_dict(), **change}
    for one in (data, {k: v for k, v in data.items() if k not in change}, None, "passed", []):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Certificate.from_dict(one)
