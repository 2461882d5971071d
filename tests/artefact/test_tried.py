"""What was tried before a fit: AUROC, gains with intervals, and what is stored and told."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from flawscope.artefact.tried import GIVEN, TRIED, Choice, Scored, Trial, surely_better, tried_lines


def scored(good, defective, carriers=None):
    return Scored(
        np.array(good, float),
        np.array(defective, float),
        np.array([GIVEN] * len(defective) if carriers is None else carriers),
    )


def test_auroc_of_one_kind_of_defects_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    good, bad = rng.integers(0, 6, 20), rng.integers(2, 9, 31)
    wanted = roc_auc_score([0] * 20 + [1] * 31, [*good, *bad])
    assert scored(good, bad).auroc() == pytest.approx(wanted)
    assert scored(good, bad, rng.integers(0, 20, 31)).auroc() == pytest.approx(wanted)


def test_given_and_simulated_defects_count_half_each_and_infinite_scores_are_equal():
    assert scored([1, 2], [3, 0, 0, 0], [GIVEN, 0, 1, 1]).auroc() == pytest.approx((1 + 0) / 2)
    assert scored([1, np.inf], [np.inf]).auroc() == pytest.approx(0.75)


def test_the_interval_of_a_gain_is_paired():
    """Equal settings gain nothing in any resample, though each alone is uncertain."""
    rng = np.random.default_rng(1)
    one = scored(rng.normal(0, 1, 12), rng.normal(1, 1, 30), rng.integers(0, 12, 30))
    assert one.gain_over(one, 0) == (0, 0, 0)
    other = one._replace(defective=one.defective + 2)
    gain, low, high = other.gain_over(one, 0)
    assert 0 < low < gain < high
    assert other.gain_over(one, 0) == (gain, low, high)


def test_chance_gains_lie_in_their_interval_as_often_as_promised():
    """Two settings of the same quality differ by chance alone: the interval leaves 0 out in few draws."""
    rng, beyond = np.random.default_rng(2), 0
    for draw in range(100):
        carriers = np.arange(48) % 20
        pair = [scored(rng.normal(0, 1, 20), rng.normal(1.2, 1, 48), carriers) for _ in range(2)]
        _, low, _ = pair[0].gain_over(pair[1], draw)
        beyond += low > 0
    assert beyond <= 6  # 2.5 % of 100 are 2.5


def test_a_choice_is_stored_and_told():
    trials = (
        Trial("", 1, 0.8, None, (1, 10), (15, 24), 0.1),
        Trial("--align turn", 1, 0.9, (0.1, 0.05, 0.2), (0, 10), (20, 24), 0.2),
        Trial("--size 256+768", 1, note="no time"),
    )
    choice = Choice("--align turn", "it gains", trials, 0, 24, 12.5, enough=7)
    facts = json.loads(json.dumps({TRIED: choice.to_dict()}))
    assert Choice.from_facts(facts) == choice
    lines = tried_lines(facts)
    assert lines[-2] == "chosen: --align turn, since it gains"
    assert "about 7 minutes would do" in lines[-1]
    assert "--resume" in lines[-1]
    assert any("0 of 10" in line and "+10.0% (+5.0% to +20.0%)" in line for line in lines)
    assert any("no time" in line for line in lines)
    assert all(len(line) <= 110 for line in lines)


def test_what_gains_again_after_it_was_far_better_is_surely_better():
    def twice(first, second):
        return [Trial("", 2), Trial("a", 1, 0.9, first), Trial("a", 2, 0.9, second)]

    far, near, wide = (0.4, 0.2, 0.5), (0.1, 0.05, 0.2), (0.12, -0.02, 0.3)
    assert [one.stage for one in surely_better(twice(far, wide), 2)] == [2]
    assert surely_better(twice(near, wide), 2) == []
    assert surely_better(twice(far, (0.01, -0.1, 0.1)), 2) == []
    assert [one.gain for one in surely_better(twice(wide, near), 2)] == [near]


@pytest.mark.parametrize("damaged", [{}, {TRIED: 3}, {TRIED: {"trials": [{}]}}, {TRIED: {"trials": 1}}])
def test_damaged_facts_tell_nothing(damaged):
    assert tried_lines(damaged) == []
