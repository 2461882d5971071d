"""The promise of one model, and the test whether it was kept, against a trusted library and by simulation."""

import numpy as np
import pytest
from scipy.stats import beta, betabinom, false_discovery_control

from flawscope.calibration.parts import PartCalibration
from flawscope.calibration.promise import (
    SIGNIFICANCE,
    batch_limit,
    describe_rate,
    judge_pictures,
    judge_promise,
    rate_interval,
    simultaneous_bound,
)
from flawscope.calibration.threshold import Calibration


def calibration(scores, units=()):
    scores = tuple(map(float, scores))
    return Calibration(scores, scores, 0.0, units=tuple(units))


@pytest.mark.parametrize("count", [1, 15, 60])
def test_the_chance_is_that_of_a_trusted_library(count):
    for alarms in range(count + 1):
        expected = betabinom(count, 1.5, 32.5).sf(alarms - 1)
        assert judge_promise(alarms, count, 1.5 / 34, 33).chance == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("units", "rank"), [(1, 1), (20, 1), (33, 1.5), (60, 3), (762, 38)])
def test_the_interval_is_that_of_a_trusted_library(units, rank):
    expected = beta(rank, units + 1 - rank).interval(0.95)
    assert rate_interval(rank / (units + 1), units) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (20, "1 of 21 good pictures will be called anomalous (4.8 %; for this one model between 0 and 17 %)"),
        (60, "1 of 20 good pictures will be called anomalous (4.9 %; for this one model between 1 and 12 %)"),
        (762, "(5 %; for this one model between 3.6 and 6.6 %)"),
        (1, "1 of 2 good pictures will be called anomalous (50 %; for this one model between 3 and 98 %)"),
    ],
)
def test_the_promise_tells_how_far_one_model_may_be_off(scores, words):
    made = calibration(np.arange(scores))
    assert words in made.promise()
    low, high = made.rate_interval
    assert low < made.expected_rate < high


def test_the_promise_of_parts_tells_it_too():
    names = tuple(map(str, range(20)))
    made = PartCalibration(names, ("a", "b"), np.random.default_rng(0).normal(size=(20, 2)), 0.05)
    assert "1 of 21 good parts will be called anomalous (4.8 %; for this one model between 0 and 17 %)" in (
        made.promise()
    )
    assert describe_rate(0.75, 3, "pictures").startswith("about 3 of 4 good pictures")


@pytest.mark.parametrize(("learnt", "shown"), [(20, 20), (20, 60), (60, 30), (60, 200)])
def test_a_sound_model_is_called_broken_as_seldom_as_is_said(learnt, shown):
    """Scores of any distribution, drawn anew for threshold and test; a test that takes the promised rate for
    that of the one model would call up to a fifth of sound models broken."""
    rng, draws, broken = np.random.default_rng(learnt + shown), 1200, 0
    for _ in range(draws):
        scores = rng.gamma(3.0, size=learnt + shown)
        made = calibration(scores[:learnt])
        alarms = int(made.is_anomalous(scores[learnt:]).sum())
        broken += judge_promise(alarms, shown, made.expected_rate, made.unit_count).broken
    spread = 3 * np.sqrt(SIGNIFICANCE * (1 - SIGNIFICANCE) / draws)
    assert broken / draws < SIGNIFICANCE + spread
    assert broken / draws > 0.005  # and it is no test that never speaks


@pytest.mark.parametrize("alike", [0.6, 1.0])
def test_pictures_of_one_part_do_not_break_a_promise_together(alike):
    """20 parts learnt from and 10 shown, six pictures each, which the part makes so much alike. Counted by
    pictures, a tenth of sound models would be called broken."""
    rng, draws, chances = np.random.default_rng(1), 1000, []
    units = np.repeat(np.arange(30), 6)
    for _ in range(draws):
        scores = alike * rng.normal(size=30)[units] + np.sqrt(1 - alike**2) * rng.normal(size=180)
        made = calibration(scores[:120], units[:120])
        alarms, promised = made.is_anomalous(scores[120:]), (made.expected_rate, made.unit_count)
        by_unit = judge_pictures(alarms, units[120:], *promised)
        chances.append((by_unit.chance, judge_promise(int(alarms.sum()), 60, *promised).chance))
    for level in (SIGNIFICANCE, 0.01):  # of `evaluate`, and of an update
        share, by_picture = (np.array(chances) < level).mean(axis=0)
        assert share < level + 3 * np.sqrt(level * (1 - level) / draws)
        assert alike < 1 or by_picture > 1.5 * level
        assert alike < 1 or share > 0.1 * level


def test_a_broken_promise_is_seen():
    assert judge_pictures([True] * 12 + [False] * 48, range(60), 1 / 21, 20).broken
    assert not judge_pictures([True] * 12 + [False] * 48, [k // 6 for k in range(60)], 1 / 21, 20).broken
    assert not judge_pictures([], [], 1 / 21, 20).broken
    assert judge_promise(12, 60, 1 / 21, 20).broken
    assert not judge_promise(8, 60, 1 / 21, 20).broken
    assert not judge_promise(0, 0, 1 / 21, 20).broken


@pytest.mark.parametrize("units", [1, 2, 20, 61])
def test_the_bounds_of_all_thresholds_hold_at_once(units):
    """Shares of new good ones above the largest scores, of as many models as the interval needs."""
    bounds = np.array([simultaneous_bound(rank, units) for rank in range(1, units + 1)])
    assert (np.diff(bounds) >= 0).all()
    rates = np.sort(np.random.default_rng(7).random((4000, units)), axis=1)
    kept = (rates <= bounds).all(axis=1).mean()
    assert 0.95 - 3 * (0.05 * 0.95 / 4000) ** 0.5 <= kept <= 0.97  # not wider than need be
    dkw = (np.arange(units) / units) + (np.log(20) / 2 / units) ** 0.5
    assert (bounds[: units // 5] < dkw[: units // 5]).all()
    assert bounds[0] >= beta(1, units).ppf(0.95) - 1e-9  # that of one threshold alone is smaller


def test_the_bound_counts_parts_by_their_highest_picture():
    made = calibration([1, 2, 3, 9, 4, 8], [0, 0, 1, 1, 2, 2])
    assert made.rate_bound == simultaneous_bound(1, 3)
    assert made.unit_p_values([9.5, 9, 8.5, 1]).tolist() == [0.25, 0.5, 0.5, 1]
    assert (made.unit_p_values(np.arange(12)) >= made.p_values(np.arange(12)) - 1e-12).all()
    alone = calibration(range(20))
    np.testing.assert_allclose(alone.unit_p_values(np.arange(22)), alone.p_values(np.arange(22)))
    lost = Calibration((1.0, 2.0), (1.0, 2.0), 0.0, miscounted=1)
    assert lost.unit_p_values(5.0) == 0.5


def test_the_bounds_of_all_rates_are_told():
    assert calibration(range(30)).describe_bounds() == (
        "whichever rate is chosen after a look at what it finds, 10 %: at most 26 %, 5 %: at most 18 % (95 %)"
    )
    assert calibration(range(8)).describe_bounds() == ""


def test_a_batch_is_called_defective_as_a_trusted_library_does():
    rng = np.random.default_rng(3)
    for _ in range(50):
        p = np.round(np.concatenate([rng.random(30), rng.random(12) / 20]), 2).clip(0.01)
        limit = batch_limit(p, 0.1)
        expected = false_discovery_control(p) <= 0.1 + 1e-9
        np.testing.assert_array_equal(p <= limit if limit else p < 0, expected)
    assert batch_limit([], 0.1) == batch_limit([0.5], 0.1) == 0


def test_few_of_those_called_defective_are_good():
    """The mean share over batches, of which each has good pictures of its own to compare with."""
    rng, shares = np.random.default_rng(5), []
    for _ in range(300):
        made = calibration(rng.normal(size=100))
        good, bad = rng.normal(size=40), rng.normal(3.5, size=10)
        p = made.unit_p_values(np.concatenate([good, bad]))
        called = p <= batch_limit(p, 0.2)
        shares.append(called[:40].sum() / max(called.sum(), 1))
    assert 0.1 < np.mean(shares) < 0.2
