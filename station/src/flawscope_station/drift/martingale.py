"""Conformal test martingales: the capital of a gambler who bets that a sequence of numbers changes.

The p-value of a number compares it with all earlier numbers; a random part makes p-values uniform:

    p_n = (#{i <= n: s_i > s_n} + U_n #{i <= n: s_i = s_n}) / n

While the numbers are exchangeable, p_1, p_2, ... are independent and uniform on (0, 1), whatever their
distribution (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, theorem 11.2 in the second
edition). The gambler begins with capital 1 and may stake it before each p_n. A bet b multiplies its stake by
b(p_n), which has the mean 1 over the unit interval. The shares of the bets depend on earlier p-values alone.
Therefore the expected capital after p_n, given the past, is the capital before it: a martingale that begins
with 1 and is never negative. By Ville's inequality, the probability that it ever reaches 1 / a is at most a.

The rule for the shares is a jumper (Vovk et al.: Retrain or not retrain, COPA 2021, algorithm 1) with two
changes. First, the capital that does not bet yet (epsilon = 0 in the paper) begins to bet, after n numbers,
with the hazard

    1 - log(n + CALM - 1) / log(n + CALM),   so that   log(CALM) / log(n + CALM)   of it does not bet yet.

With a constant hazard, no capital would be left to bet after some quiet months. Here the capital for a change
at n falls as 1 / (n log^2 n), and the delay grows with log n alone. Second, the bets are likelihood ratios of
normal scores z = Phi^-1(1 - p). They have the mean 1, because z is standard normal where p is uniform. A bet
is that all numbers move up or down by d of their standard deviations (`SHIFTS`), exp(d z - d^2 / 2), or that
they spread wider or narrower by the factor c (`SPREADS`), exp(z^2 (1 - 1 / c^2) / 2) / c.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from hashlib import blake2b
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

SHIFTS = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)  # standard deviations
SPREADS = (0.5, 0.75, 1.5, 2.5)  # factors
CALM = 100  # numbers before which hardly any capital is staked, because few numbers say little
JUMP = 0.01  # share of each bet's capital that is shared among all bets, with each number
EPOCH = 500_000  # numbers that are remembered, 8 bytes each; then ranks begin anew, and the capital stays
BELOW_ONE = 1 - 2**-53  # largest float below 1
Floats = NDArray[np.float64]
_normal_quantile = NormalDist().inv_cdf


def uniform(number: int) -> float:
    """Return a pseudo-random number in (0, 1]; the same `number` always gives the same result."""
    digest = blake2b(b"%d" % number, digest_size=6).digest()
    return 1 - int.from_bytes(digest) / 2**48  # 6 bytes are 48 bits


class Ranks:
    """Online p-values of numbers.

    After `epoch` numbers all are forgotten, and a new epoch begins. Its numbers are still exchangeable, given
    the earlier epochs, and their p-values independent of the earlier ones. Therefore the capital is carried
    on.

    Args:
        epoch: Largest number of numbers that are remembered.
    """

    def __init__(self, epoch: int = EPOCH):
        self.epoch = epoch
        self._sorted = array("d")

    def p_value(self, number: float, u: float) -> float:
        """Add the next number, and return its p-value, in (0, 1); a high number has a small p-value.

        Args:
            number: Next number, which is not NaN.
            u: Random number in (0, 1], which breaks ties at random.
        """
        if len(self._sorted) >= self.epoch:
            self._sorted = array("d")  # a new epoch begins
        greater, equal = self.add(number)
        return min((greater + u * equal) / len(self._sorted), BELOW_ONE)

    def add(self, number: float) -> tuple[int, int]:
        """Add a number that is not NaN.

        Returns:
            How many numbers are greater, and how many are equal; the added number counts as equal.
        """
        insort(self._sorted, number)
        not_greater = bisect_right(self._sorted, number)
        greater = len(self._sorted) - not_greater
        equal = not_greater - bisect_left(self._sorted, number)
        return greater, equal


class Capital:
    """Capital of a gambler.

    Args:
        bets: Number of bets.

    Attributes:
        log: Natural logarithm of the capital, which neither overflows nor vanishes.
    """

    def __init__(self, bets: int):
        self.log = 0.0
        self._idle_share = 1.0  # share of the capital that does not bet yet
        self._bet_shares = np.zeros(bets)  # share of the capital in each bet
        self._count = 0

    def stake(self, factors: Floats) -> None:
        """Stake the capital on the next number, and update the capital.

        Args:
            factors: Factors [bets] by which the bets multiply their stakes; their mean is 1 without a change.
        """
        self._count += 1
        # share of the idle capital that begins to bet now, as at the top of this file
        hazard = 1 - math.log(self._count + CALM - 1) / math.log(self._count + CALM)
        # share of all capital that is divided equally among the bets
        shared = JUMP * (1 - self._idle_share) + hazard * self._idle_share
        stakes = self._bet_shares * (1 - JUMP) + shared / len(self._bet_shares)
        results = stakes * factors
        idle_result = self._idle_share * (1 - hazard)
        total = float(results.sum()) + idle_result
        self._bet_shares = results / total
        self._idle_share = idle_result / total
        self.log += math.log(total)


def score_bets(p: Floats) -> Floats:
    """Return the natural logarithms [..., bets] of the factors of all bets for p-values [...].

    The last axis has first the bets of `SHIFTS`, then those of `SPREADS`.
    """
    z = np.array([_normal_quantile(1 - p_value) for p_value in p.ravel()]).reshape(*p.shape, 1)
    return np.asarray(_LINEAR * z + _SQUARE * (z * z) + _CONSTANT)


# Coefficients [bets] of the logarithm of a factor: _LINEAR z + _SQUARE z^2 + _CONSTANT
_shift = np.array(SHIFTS)
_spread = np.array(SPREADS)
_LINEAR = np.concatenate([_shift, np.zeros(len(SPREADS))])
_SQUARE = np.concatenate([np.zeros(len(SHIFTS)), (1 - 1 / _spread**2) / 2])
_CONSTANT = np.concatenate([-(_shift**2) / 2, -np.log(_spread)])
