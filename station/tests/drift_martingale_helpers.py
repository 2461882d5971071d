"""What unit and end-to-end tests need: test_drift_martingale.py, whole/test_drift_martingale_whole.py."""

from collections.abc import Callable

import numpy as np

from flawscope_station.drift import martingale
from flawscope_station.drift.martingale import SHIFTS, SPREADS, Ranks, uniform
from flawscope_station.drift.score_test import JudgedScore, ScoreTest

BETS = len(SHIFTS) + len(SPREADS)
Draw = Callable[[np.random.Generator, int], np.ndarray]
LINES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy tails": lambda rng, n: rng.standard_t(1.5, n),
    "five values": lambda rng, n: rng.integers(0, 5, n).astype(float),
    "one value": lambda rng, n: np.ones(n),
}


def p_values(scores: np.ndarray, first: int = 0, epoch: int = martingale.EPOCH) -> np.ndarray:
    made = Ranks(epoch)
    return np.array([made.p_value(float(s), uniform(first + k)) for k, s in enumerate(scores)])


def run_of(scores: np.ndarray, flagged: np.ndarray | None = None, bound: float = 0.01) -> ScoreTest:
    made = ScoreTest(1, 0, bound)
    flags = np.zeros(len(scores), bool) if flagged is None else flagged
    rows = enumerate(zip(scores.tolist(), flags.tolist(), strict=True))
    made.extend([JudgedScore(k + 1, 1_000_000 * k, score, bad) for k, (score, bad) in rows])
    return made
