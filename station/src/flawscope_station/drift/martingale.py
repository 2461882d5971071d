"""Conformal test martingales: how much a gambler would have won by betting that the numbers change.

P-values are taken online among all earlier numbers and made uniform by a random part:

    p_n = (#{i <= n: s_i > s_n} + U_n #{i <= n: s_i = s_n}) / n

While the numbers are exchangeable, p_1, p_2, ... are independent and uniform on (0, 1), whatever their
distribution (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, theorem 11.2 in the second
edition). A gambler begins with capital 1 and may stake it before each p_n; what a bet b pays is the factor
b(p_n), with a mean of 1 over the unit interval. How the capital is shared among bets depends on earlier p
alone, so that the expectation of the capital after p_n, given all before, is the capital before it: a
martingale that begins with 1 and is never negative. Ville: the probability that it ever reaches 1 / a is at
most a.

The sharing is a jumper (Vovk et al.: Retrain or not retrain, COPA 2021, algorithm 1) with two changes. The
capital that does not bet (its epsilon = 0) wakes after n numbers with the hazard

    1 - log(n + CALM - 1) / log(n + CALM),   so that   log(CALM) / log(n + CALM)   of it still sleeps,

because a constant hazard would have lost everything after some quiet months: here what is left for a change
at n falls as 1 / (n log^2 n), and the delay grows with log n alone. And the bets are likelihood ratios of
normal scores z = Phi^-1(1 - p), which have mean 1 because z is standard normal where p is uniform: all
numbers moved up or down by d of their standard deviations (`SHIFTS`), exp(d z - d^2 / 2), or spread wider or
narrower by the factor c (`SPREADS`), exp(z^2 (1 - 1 / c^2) / 2) / c.
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
SPREADS = (0.5, 0.75, 1.5, 2.5)
CALM = 100  # numbers before which hardly anything is staked, for so few say little
JUMP = 0.01  # share of each bet's capital that goes to all bets, each time
EPOCH = 500_000  # numbers that are kept, 8 bytes each; then ranks begin anew, and the capital stays
Floats = NDArray[np.float64]
_normal = NormalDist().inv_cdf


def uniform(number: int) -> float:
    """Return a random number in (0, 1] that depends on this one alone: a restart computes the same again."""
    return 1 - int.from_bytes(blake2b(b"%d" % number, digest_size=6).digest()) / 2**48


class Ranks:
    """Online p-values of numbers. After `epoch` numbers the earlier ones are forgotten.

    The first p-value of an epoch is uniform by itself and independent of all before it: given the earlier
    epochs, the numbers of a new one are still exchangeable. So the capital is carried on.
    """

    def __init__(self, epoch: int = EPOCH):
        self.epoch, self._sorted = epoch, array("d")

    def p_value(self, number: float, u: float) -> float:
        """Return the p-value of the next number, in (0, 1), which is small for a high number.

        Args:
            number: is not NaN, and is remembered.
            u: random number in (0, 1].
        """
        if len(self._sorted) >= self.epoch:
            self._sorted = array("d")
        greater, equal = self.add(number)
        return min((greater + u * equal) / len(self._sorted), 1 - 2**-53)

    def add(self, number: float) -> tuple[int, int]:
        """Insert a number that is not NaN; return how many numbers are greater, and how many equal.

        The number itself counts among the equal ones.
        """
        insort(self._sorted, number)
        not_more = bisect_right(self._sorted, number)
        return len(self._sorted) - not_more, not_more - bisect_left(self._sorted, number)


class Capital:
    """Capital of a gambler.

    Args:
        bets: number of kinds of bets.

    Attributes:
        log: natural logarithm of the capital, which neither overflows nor vanishes.
    """

    def __init__(self, bets: int):
        self.log = 0.0
        self._asleep, self._awake = 1.0, np.zeros(bets)  # shares of the capital
        self._count = 0

    def stake(self, paid: Floats) -> None:
        """Multiply the shares of the capital by what the bets pay: [bets], factors with mean 1."""
        self._count += 1
        awake = self._awake
        asleep = self._asleep
        bets = len(self._awake)
        wakes = 1 - math.log(self._count + CALM - 1) / math.log(self._count + CALM)
        awake *= 1 - JUMP
        awake += (JUMP * (1 - asleep) + wakes * asleep) / bets
        awake *= paid
        asleep *= 1 - wakes
        total = float(awake.sum()) + asleep
        awake /= total
        self._asleep = asleep / total
        self.log += math.log(total)


def score_bets(p: Floats) -> Floats:
    """Return the logarithm of the factors that the bets on scores pay for p-values [...]: [..., 12]."""
    z = np.array([_normal(1 - value) for value in p.ravel()]).reshape(*p.shape, 1)
    return np.asarray(_LINEAR * z + _SQUARE * (z * z) + _CONSTANT)


_shift = np.array(SHIFTS)
_spread = np.array(SPREADS)
_LINEAR = np.concatenate([_shift, np.zeros(len(SPREADS))])
_SQUARE = np.concatenate([np.zeros(len(SHIFTS)), (1 - 1 / _spread**2) / 2])
_CONSTANT = np.concatenate([-(_shift**2) / 2, -np.log(_spread)])
