"""The mathematics of drift: ranks, p-values, bets and capital."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from drift_martingale_helpers import BETS, LINES, p_values, run_of
from flawscope_station.drift import martingale
from flawscope_station.drift.martingale import Capital, Ranks, uniform
from flawscope_station.drift.score_test import Change, JudgedScore, ScoreTest, read_note


@pytest.mark.parametrize("values", [3, 10**9])
def test_ranks_are_those_of_counting(values):
    drawn = np.random.default_rng(values).integers(0, values, 400)
    numbers = np.concatenate([drawn, np.arange(50), -np.arange(50)]).astype(float)
    made = Ranks()
    for n, number in enumerate(numbers):
        before = numbers[: n + 1]
        assert made.add(float(number)) == ((before > number).sum(), (before == number).sum())


@pytest.mark.parametrize("kind", LINES)
def test_p_values_are_uniform_and_independent(kind):
    p = p_values(LINES[kind](np.random.default_rng(4), 4000))
    assert (p > 0).all()
    assert (p < 1).all()
    counts = np.histogram(p, 20, (0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # chi-squared with 19 degrees, one in a thousand
    assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 3.3 / math.sqrt(len(p))


def test_the_random_part_is_of_the_number_alone():
    u = np.array([uniform(k) for k in range(20_000)])
    assert uniform(17) == uniform(17)
    assert ((u > 0) & (u <= 1)).all()
    counts = np.histogram(u, 50, (0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 85.4
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.025


def test_an_epoch_forgets_and_goes_on():
    scores = np.random.default_rng(1).standard_normal(300)
    parts = np.concatenate([p_values(scores[k : k + 100], k) for k in (0, 100, 200)])
    assert (p_values(scores, epoch=100) == parts).all()


def test_every_bet_pays_one_on_average():
    """By the rectangle rule; of the widest bet half a percent lies beyond seven standard deviations."""
    z = np.linspace(-7, 7, 20_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    p = np.array([NormalDist().cdf(-one) for one in z])
    paid = (np.exp(martingale.score_bets(p)) * density[:, None]).sum(0)
    assert paid == pytest.approx(np.ones(BETS), abs=6e-3)


def test_capital_neither_overflows_nor_vanishes():
    made = Capital(1)
    for factor, count in ((1e-300, 50), (1e300, 50)):
        for _ in range(count):
            made.stake(np.array([factor]))
        assert np.isfinite(made.log)
    assert made.log > 1000


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda z: z + 0.7, "higher"),
        (lambda z: z - 0.7, "lower"),
        (lambda z: 1.7 * z, "wider"),
        (lambda z: z / 2, "narrower"),
    ],
)
def test_a_change_is_named_and_dated(change, how):
    scores = np.random.default_rng(7).standard_normal(2600)
    scores[2000:] = change(scores[2000:])
    alarm = run_of(scores).alarm
    assert alarm.how == how
    assert 2000 < alarm.inspection <= 2500
    assert abs(alarm.first - 2000) <= 100
    assert alarm.since == 1_000_000 * (alarm.first - 1)
    text = alarm.describe()
    assert "\n" not in text
    assert f"(inspection {alarm.first})" in text
    noted = read_note(alarm.note)
    assert noted == Change(alarm.inspection, noted.since, alarm.first, how)
    assert 0 <= alarm.since - noted.since < 60_000_000, "to the minute"


def test_the_curve_is_thinned_and_ends_late():
    made = run_of(np.random.default_rng(0).standard_normal(5000))
    times = [at for at, _ in made.curve]
    assert 400 <= len(times) <= 801
    assert times == sorted(times)
    assert times[-1] >= 4980


def test_what_is_no_number_takes_no_part():
    made = ScoreTest(1, 0, 0.01)
    assert made.limit == pytest.approx(2)
    assert made.extend([]) is None
    scores = [1.0, math.nan, math.inf, 2.0]
    made.extend([JudgedScore(k + 1, k, score, False) for k, score in enumerate(scores)])
    assert (made.seen, made.last) == (2, 4)


def test_it_does_not_matter_how_many_are_added_at_once():
    scores = np.random.default_rng(3).standard_normal(900)
    scores[600:] += 1
    rows = [JudgedScore(k + 1, 1_000_000 * k, score, k % 50 == 0) for k, score in enumerate(scores.tolist())]
    at_once, one_by_one = ScoreTest(1, 0, 0.01), ScoreTest(1, 0, 0.01)
    found = [one_by_one.extend([row]) for row in rows]
    assert at_once.extend(rows) == at_once.alarm == one_by_one.alarm
    assert [one for one in found if one is not None] == [at_once.alarm], "told once"
    assert at_once.curve == one_by_one.curve
