"""The mathematics of drift: ranks, p-values, bets and capital."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from flawscope_station.drift import martingale
from flawscope_station.drift.martingale import SHIFTS, SPREADS, Capital, Ranks, uniform
from flawscope_station.drift.sequential_tests import Change, ScoreTest, read_note

BETS = len(SHIFTS) + len(SPREADS)
Draw = Callable[[np.random.Generator, int], np.ndarray]
LINES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy tails": lambda rng, n: rng.standard_t(1.5, n),
    "five values": lambda rng, n: rng.integers(0, 5, n).astype(float),
    "one value": lambda rng, n: np.ones(n),
}


@pytest.mark.parametrize("values", [3, 10**9])
def test_ranks_are_those_of_counting(values):
    drawn = np.random.default_rng(values).integers(0, values, 400)
    numbers = np.concatenate([drawn, np.arange(50), -np.arange(50)]).astype(float)
    made = Ranks()
    for n, number in enumerate(numbers):
        before = numbers[: n + 1]
        assert made.add(float(number)) == ((before > number).sum(), (before == number).sum())


def p_values(scores: np.ndarray, first: int = 0, epoch: int = martingale.EPOCH) -> np.ndarray:
    made = Ranks(epoch)
    return np.array([made.p_value(float(s), uniform(first + k)) for k, s in enumerate(scores)])


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


def capital_of(p: np.ndarray) -> np.ndarray:
    """[runs, numbers] -> the logarithm after each number."""
    made = Capital(BETS, len(p))
    found = np.empty(p.shape)
    for step in range(p.shape[1]):
        made.stake(np.exp(martingale.score_bets(p[:, step])))
        found[:, step] = made.log
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


def test_capital_neither_overflows_nor_vanishes():
    made = Capital(1)
    for factor, count in ((1e-300, 50), (1e300, 50)):
        for _ in range(count):
            made.stake(np.array([[factor]]))
        assert np.isfinite(made.log).all()
    assert made.log[0] > 1000


def run_of(scores: np.ndarray, flagged: np.ndarray | None = None, bound: float = 0.01) -> ScoreTest:
    made = ScoreTest(1, 0, bound)
    flags = np.zeros(len(scores), bool) if flagged is None else flagged
    for k, (score, bad) in enumerate(zip(scores.tolist(), flags.tolist(), strict=True)):
        made.add(k + 1, 1_000_000 * k, score, bad)
    return made


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


def test_the_curve_is_thinned_and_ends_late():
    made = run_of(np.random.default_rng(0).standard_normal(5000))
    times = [at for at, _ in made.curve]
    assert 400 <= len(times) <= 801
    assert times == sorted(times)
    assert times[-1] >= 4980


def test_what_is_no_number_takes_no_part():
    made = ScoreTest(1, 0, 0.01)
    assert made.limit == pytest.approx(2)
    for k, score in enumerate((1.0, math.nan, math.inf, 2.0)):
        made.add(k + 1, k, score, False)
    assert (made.seen, made.last) == (2, 4)
