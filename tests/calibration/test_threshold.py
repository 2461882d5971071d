"""Conformal p-values and what follows from them, against the literal definitions and by simulation."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from flawscope.calibration.outliers import suspicious
from flawscope.calibration.threshold import Calibration, upper_fence
from flawscope.errors import InputError

# 0.29 * 100 is 28.999999999999996
RATES = "0.5 0.29 0.2 0.1 0.05 0.03 0.01 0.001 0.999 0.999999999999".split()  # noqa: SIM905


def calibration(scores, rate=0.05, maxima=None):
    scores = tuple(float(s) for s in scores)
    maxima = scores if maxima is None else tuple(float(m) for m in maxima)
    return Calibration(scores=scores, map_maxima=maxima, map_level=0.0, rate=rate)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 19, 200])
def test_severity_is_the_way_above_the_score_threshold_in_spreads_of_good_pictures(n):
    rng = np.random.default_rng(n)
    scores, maxima = rng.normal(5, 2, n), rng.normal(6, 1, n)
    made = Calibration(tuple(scores), tuple(maxima), map_level=1.0, rate=0.1)
    deviation = float(median_abs_deviation(scores, scale="normal"))
    assert made.spread == pytest.approx(max(deviation, 0.1 * (np.median(maxima) - 1.0)), rel=1e-4)
    queries = rng.normal(6, 5, (3, 40))
    expected = [[(q - made.score_threshold) / made.spread for q in row] for row in queries]
    np.testing.assert_allclose(made.severity(queries), expected)


def test_severity_is_above_zero_exactly_where_a_picture_is_anomalous():
    rng = np.random.default_rng(3)
    made = calibration(rng.integers(0, 9, 30), 0.1)
    queries = np.concatenate([made.scores, rng.normal(5, 4, 200)])
    np.testing.assert_array_equal(made.severity(queries) > 0, made.is_anomalous(queries))
    assert made.severity(made.score_threshold) == 0
    assert made.severity(1e6) > made.severity(1e5)  # no floor, where both have the smallest p-value
    assert made.p_values(1e6) == made.p_values(1e5)


@pytest.mark.parametrize("scores", [[2.0], [2.0, 2.0], [0.0] * 30])
def test_equal_scores_have_a_spread_too(scores):
    made = calibration(scores)
    assert made.spread > 0
    assert 0 < float(made.severity(scores[0] + 1)) < math.inf
    assert made.severity(scores[0]) == 0


@pytest.mark.parametrize("n", [1, 2, 9, 19, 20, 99, 199])
@pytest.mark.parametrize("rate", RATES)
def test_anomalous_is_p_at_most_the_effective_rate_for_every_rate(n, rate):
    """Counted in exact fractions, so that 0.05 * 20 cannot come out as 0.999."""
    rng = np.random.default_rng(n)
    effective = max(Fraction(rate), Fraction(1, n + 1))
    for scores in (rng.integers(0, max(2, n // 2), n).astype(float), rng.permutation(n).astype(float)):
        made = calibration(scores, float(rate))
        for query in np.unique(np.concatenate([scores, scores + 0.5, scores - 0.5])):
            p = Fraction(1 + int((scores >= query).sum()), n + 1)
            assert bool(made.is_anomalous(query)) == (p <= effective), (query, p)
            assert bool(made.is_anomalous(query)) == (query > made.score_threshold)


def test_the_mask_threshold_follows_the_same_rule_from_the_map_maxima():
    rng = np.random.default_rng(1)
    scores, maxima = rng.random(60), rng.random(60) * 5
    made = calibration(scores, 0.1, maxima)
    assert made.mask_threshold == calibration(maxima, 0.1).score_threshold
    assert (maxima > made.mask_threshold).mean() <= 0.1


@pytest.mark.parametrize(
    ("n", "share"), [(19, 1 / 20), (30, 1 / 31), (38, 1 / 39), (39, 2 / 40), (18, 1 / 19)]
)
def test_what_is_promised_is_the_share_expected_above_the_threshold(n, share):
    made = calibration(range(n))
    assert made.expected_rate == share
    assert f"({100 * share:.2g} %; for this one model" in made.promise()
    # the literal expectation: of n + 1 scores in any order, how many are above the threshold of the others
    scores = np.arange(n + 1.0)
    above = [scores[i] > calibration(np.delete(scores, i)).score_threshold for i in range(n + 1)]
    assert np.mean(above) == pytest.approx(share)


def test_five_percent_needs_nineteen_pictures():
    assert [calibration(range(n)).pictures_missing for n in (1, 18, 19, 20)] == [18, 1, 0, 0]
    assert calibration(range(18)).effective_rate == 1 / 19
    assert calibration(range(19)).effective_rate == 0.05
    assert calibration(range(10), 0.01).pictures_missing == 89
    assert calibration(range(18)).score_threshold == 17  # only above all that were seen
    assert "cannot be promised from 18: 1 more good picture would do" in calibration(range(18)).promise()
    of_parts = replace(calibration(range(24)), units=tuple(k // 3 for k in range(24)))
    assert "cannot be promised from 8: good pictures of 11 more parts would do" in of_parts.promise()
    assert "more would do" not in calibration(range(19)).promise()


def test_a_score_that_is_no_number_is_never_called_good():
    made = calibration(range(30))
    assert made.is_anomalous(math.nan)
    assert made.p_values(math.nan) == 1 / 31


@pytest.mark.parametrize("level", [0.0, 1.0, 1e9])
def test_the_colour_range_has_the_mask_threshold_in_its_middle_and_is_never_empty(level):
    made = Calibration((1.0, 2.0), (3.0, 4.0), map_level=1.0)
    assert made.colour_range == (1.0, 2 * made.mask_threshold - 1.0)
    low, high = Calibration((0.0,), (level,), map_level=level + 5).colour_range
    assert low < high


@pytest.mark.parametrize(
    ("scores", "seen"), [((2.0,), "one good picture"), ((2.0, 3.0), "2 good pictures of")]
)
def test_where_nothing_is_promised_it_is_said_and_kept(scores, seen):
    made = replace(calibration(scores), promised=False)
    assert f"no promise: {seen}" in made.promise()
    assert f"{1 / (len(scores) + 1):.2g}" in made.promise()
    assert "for this one model" not in made.promise()
    assert not made.to_dict()["promised"]
    assert calibration(scores).promised


@pytest.mark.parametrize("key", sorted(calibration((1, 2, 3)).to_dict()))
def test_a_missing_entry_is_named(key):
    known = calibration((1, 2, 3)).to_dict()
    with pytest.raises(InputError, match=key):
        Calibration.read_how({k: v for k, v in known.items() if k != key})


@pytest.mark.parametrize("rate", [0, 1, -0.05, 5, math.nan])
def test_senseless_rates_are_refused(rate):
    with pytest.raises(InputError, match="rate"):
        calibration((1, 2, 3)).with_rate(rate)


def find_suspects(scores):
    return [k for k, _ in suspicious(enumerate(scores), upper_fence(scores))]


@pytest.mark.parametrize("seed", range(20))
def test_planted_outliers_come_first(seed):
    rng = np.random.default_rng(seed)
    scores = np.exp(0.1 * rng.standard_normal(60))
    planted = rng.choice(60, 3, replace=False)
    scores[planted] = (2.0, 3.0, 2.5)
    found = find_suspects(scores)
    np.testing.assert_array_equal(found[:3], planted[[1, 2, 0]])
    assert len(found) <= 5


@pytest.mark.parametrize(("n", "most"), [(20, 1 / 90), (50, 1 / 250), (200, 1 / 700), (1000, 1 / 1500)])
def test_clean_pictures_are_flagged_as_rarely_as_the_module_says(n, most):
    rng = np.random.default_rng(n)
    runs = 40_000 // n
    for draw in (rng.standard_normal((runs, n)) * 0.1, np.log(1 + 0.1 * rng.standard_normal((runs, n)))):
        flagged = sum(len(find_suspects(np.exp(row))) for row in draw)
        assert flagged / draw.size <= most


def test_few_equal_or_zero_scores_accuse_nobody():
    for scores in ([], [5.0], [1.0, 1.0, 99.0], [2.0] * 30, [0.0] * 10):
        assert len(find_suspects(np.array(scores))) == 0
    assert upper_fence(np.array([1.0, 2.0, 3.0])) == math.inf


def test_outlines_are_at_a_share_of_the_height():
    made = calibration((1.0, 2.0))
    assert made.with_outline(0).mask_threshold == made.mask_threshold
    assert "of the height nearby" in made.with_outline(0.5).outlined()
    assert "height" not in made.with_outline(0).outlined()
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(InputError, match="outline"):
            made.with_outline(wrong)
