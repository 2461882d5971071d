"""The mathematics of drift: ranks, p-values, bets and capital."""

import math

import numpy as np
import pytest

from drift_martingale_helpers import BETS, LINES, p_values, run_of
from flawscope_station.drift import martingale
from flawscope_station.drift.martingale import Capital


def capital_of(p: np.ndarray) -> np.ndarray:
    """[runs, numbers] -> the logarithm after each number."""
    found = np.empty(p.shape)
    for run, paid in enumerate(np.exp(martingale.score_bets(p))):
        made = Capital(BETS)
        for step, one in enumerate(paid):
            made.stake(one)
            found[run, step] = made.log
    return found


def test_ville_holds_for_every_kind_of_scores():
    """At a bound of 10 % of 200 runs of each kind; 3.3 standard deviations of a share of 10 % are 7 %."""
    for kind, draw in LINES.items():
        rng = np.random.default_rng(len(kind))
        p = np.stack([p_values(draw(rng, 300), 1000 * run, epoch=200) for run in range(200)])
        assert (capital_of(p).max(1) >= math.log(10)).mean() <= 0.17, kind


def test_a_long_calm_costs_little():
    """What sleeps falls as a logarithm: a change is seen nearly as soon after ten times as long."""
    delays = []
    for quiet in (500, 5000):
        first = []
        for run in range(4):
            scores = np.random.default_rng([run, quiet]).standard_normal(quiet + 400)
            scores[quiet:] += 1
            log = capital_of(p_values(scores, 10_000 * run)[None])[0, quiet:]
            assert log.max() >= math.log(200)
            first.append(int((log >= math.log(200)).argmax()) + 1)
        delays.append(np.median(first))
    assert delays[1] <= delays[0] + 15
    assert delays[1] <= 60


def line(seed: int, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Good parts that stay as they are among defects; one defect in a hundred is missed."""
    rng = np.random.default_rng(seed)
    bad = rng.random(len(share)) < share
    scores = np.where(bad, rng.normal(5, 1, len(share)), rng.standard_normal(len(share)))
    return scores, scores > 2.6


@pytest.mark.parametrize("kind", ["constant", "changing", "bursts"])
def test_defects_are_no_drift(kind):
    n = 4000
    share = np.full(n, 0.02)
    if kind == "changing":
        share[n // 2 :] = 0.15
    elif kind == "bursts":
        for start in range(500, n, 700):
            share[start : start + 30] = 0.6
    for seed in range(2):
        assert run_of(*line(seed, share)).alarm is None
