"""Bounds the false-alarm rate of a single model, and judges whether an expected rate was kept.

A threshold of rank k among K good units has an expected rate of k/(K + 1), the mean over draws of the units.
The rate of a single model is itself a draw: the share of good units above the k-th largest of K is
distributed as Beta(k, K + 1 - k), whatever the scores' distribution. The number of false alarms among new
good pictures is therefore beta-binomial: both the threshold's pictures and the test pictures are drawn.

A person who chooses a threshold by the pictures that it finds has compared many thresholds:
`simultaneous_bound` holds for all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flawscope.calibration.holding_out import min_calibration_size
from flawscope.errors import InputError, pluralize

LEVEL = 0.95  # share of models whose rate lies in the interval
SIGNIFICANCE = 0.05  # largest share of tests of sound models that call the rate broken


class PromiseVerdict(NamedTuple):
    """Whether good test pictures keep a promise.

    Attributes:
        chance: Probability of as many false alarms or more, if the promise holds.
        broken: Whether `chance` is below `SIGNIFICANCE`.
    """

    chance: float
    broken: bool


def confidence_interval_rate(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) interval (low, high), 0..1, of a rate from k hits in n trials.

    The interval contains the true rate with a probability of at least `level`, also for small n. For n = 0 it
    is (0, 1). It follows from quantiles of the beta distribution.

    Source: Clopper and Pearson, Biometrika 26 (1934).

    Args:
        k: Number of hits.
        n: Number of trials.
        level: Probability, 0..1.

    Raises:
        InputError: 0 <= k <= n or 0 < level < 1 does not hold.
    """
    if not 0 <= k <= n:
        raise InputError(f"{k} of {n} is not a rate, expected 0 <= k <= n")
    if not 0 < level < 1:
        raise InputError(f"level is {level}, expected above 0 and below 1")
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def judge_promise(alarms: int, pictures: int, rate: float, units: int) -> PromiseVerdict:
    """Judge by new good pictures whether an expected false-alarm rate was kept.

    The rate of a sound model is called broken with a probability of at most `SIGNIFICANCE`, over draws of its
    good pictures and of the new pictures. The new pictures must be as independent as the units: several
    pictures of a part count once.

    Args:
        alarms: Number of the new good pictures that were called anomalous.
        pictures: Number of the new good pictures; if it is 0, the rate is kept.
        rate: Expected rate, `Calibration.expected_rate` or `Promise.rate`.
        units: Number of good units that the rate comes from, `Calibration.unit_count` or
            `Promise.calibrated`.
    """
    a, b = _beta_parameters(rate, units)
    chance = _beta_binomial_tail(alarms, pictures, a, b)
    return PromiseVerdict(chance, broken=chance < SIGNIFICANCE)


def judge_pictures(alarms: Sequence[bool], numbers: Sequence[int], rate: float, units: int) -> PromiseVerdict:
    """Judge an expected rate as `judge_promise` does, from pictures of which several may show one unit.

    A unit counts as a fraction of a false alarm: the share of its pictures that were called anomalous.

    Args:
        alarms: [N], whether each picture was called anomalous.
        numbers: [N], number of the unit that each picture shows.
        rate: Expected rate.
        units: Number of good units that the rate comes from.
    """
    _, unit_places, unit_sizes = np.unique(np.asarray(numbers), return_inverse=True, return_counts=True)
    # an alarm counts as one divided by the number of the unit's pictures
    alarm_weights = np.asarray(alarms, dtype=bool) / unit_sizes[unit_places]
    unit_alarms = math.floor(float(alarm_weights.sum()) + 1e-9)  # 1e-9: thirds may add up to less than 1
    return judge_promise(unit_alarms, len(unit_sizes), rate, units)


def rate_interval(rate: float, units: int) -> tuple[float, float]:
    """Return the interval, 0..1, that contains a single model's false-alarm rate with probability `LEVEL`.

    Args:
        rate: Expected rate, around which the rates of single models lie.
        units: Number of good units that the rate comes from.
    """
    from scipy import special  # not scipy.stats, which imports torch

    a, b = _beta_parameters(rate, units)
    low, high = special.betaincinv(a, b, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def simultaneous_bound(rank: int, units: int) -> float:
    """Return an upper bound, 0..1, on the share of new good units that score above a threshold.

    The threshold is the `rank`-th largest score of `units` good units; rank 1 is the largest. With
    probability `LEVEL` over draws of the units, the bounds of all ranks hold together. So the bound also
    holds if a person chose the rank after seeing which pictures each rank finds. For a rank in the lower half
    of the units, the bound is 1.

    Source: Bates, Candes, Lei, Romano & Sesia, Testing for outliers with conformal p-values, Annals of
    Statistics 51 (2023): their adjustment after Simes, for half of the units. The bound is exact for any
    number of units. At the ranks of usual thresholds it is narrower than the bound of Dvoretzky, Kiefer and
    Wolfowitz: .084 instead of .15 at rank 3 among 100 units (`tests/calibration/test_promised_rate.py`).
    """
    half = max(1, units // 2)
    ascending_rank = units + 1 - rank
    if ascending_rank < half:
        return 1.0

    def log_falling_factorial(top: int) -> float:
        """Return the logarithm of top * (top - 1) * ..., with `half` factors."""
        return math.lgamma(top + 1) - math.lgamma(top - half + 1)

    # 1 - ((1 - LEVEL) * f(ascending_rank) / f(units))^(1 / half), f being the falling factorial
    log_ratio = math.log(1 - LEVEL) + log_falling_factorial(ascending_rank) - log_falling_factorial(units)
    return -math.expm1(log_ratio / half)


def batch_limit(p_values: Sequence[float], rate: float) -> float:
    """Return the p-value up to which the pictures of a batch can be called defective; 0: none can.

    If the pictures up to this p-value are called defective, on average at most the share `rate` of them is
    good.

    Source: Benjamini & Hochberg, Journal of the Royal Statistical Society B 57 (1995). Conformal p-values
    share their good pictures, and depend on each other in the way that the procedure allows (Bates and
    others, 2023, theorem 2).
    """
    ascending = np.sort(np.asarray(p_values, dtype=np.float64))
    count = len(ascending)
    limits = rate * np.arange(1, count + 1) / max(count, 1)
    within_limit = np.flatnonzero(ascending <= limits + 1e-12)  # 1e-12: a p-value may equal its limit
    # the largest p-value within its limit counts, even if smaller ones exceed theirs
    return float(ascending[within_limit[-1]]) if within_limit.size else 0.0


def describe_rate(rate: float, units: int, noun: str) -> str:
    """Return an expected rate in words, with the interval of a single model's rate.

    Example: "about 1 of 21 good pictures will be called anomalous (4.8 %; for this one model between 0 and
    17 %)".

    Args:
        rate: Expected rate, above 0.
        units: Number of good units that the rate comes from.
        noun: Word for the units in the plural.
    """
    if rate <= 0.5:
        share = f"1 of {round(1 / rate)}"
    else:  # a rate comes from the good units and one new unit
        share = f"{rate * (units + 1):.3g} of {units + 1}"
    return (
        f"about {share} good {noun} will be called anomalous ({100 * rate:.2g} %; for this one model "
        f"{describe_interval(rate, units)})"
    )


def units_missing(rate: float, units: int) -> int:
    """Return the number of further good units that a rate needs; 0: `units` are enough."""
    return max(0, min_calibration_size(rate) - units)


def describe_missing(rate: float, units: int, of_parts: bool) -> str:
    """Return `units_missing` in words; empty: none are missing.

    Examples: "14 more good pictures", or "good pictures of 14 more parts" with `of_parts`.

    Args:
        rate: Target rate, 0..1.
        units: Number of good units.
        of_parts: Whether units are parts with several pictures.
    """
    count = units_missing(rate, units)
    if not count:
        return ""
    if of_parts:
        return f"good pictures of {pluralize(count, 'more part')}"
    return pluralize(count, "more good picture")


def describe_lack(rate: float, units: int, of_parts: bool) -> str:
    """Return in words that the good units are too few for a rate, and how many more would do.

    The text is empty if there are enough. The arguments are those of `describe_missing`.
    """
    missing = describe_missing(rate, units, of_parts)
    if not missing:
        return ""
    return f"{rate:.1%} cannot be promised from {units}: {missing} would do"


def describe_interval(rate: float, units: int) -> str:
    """Return `rate_interval` in words: "between 0 and 17 %"."""
    low, high = rate_interval(rate, units)
    digits = 0 if high >= 0.1 else 1
    return f"between {100 * low:.{digits}f} and {100 * high:.{digits}f} %"


def _beta_parameters(rate: float, units: int) -> tuple[float, float]:
    """Return the parameters a and b of the beta distribution of a single model's rate."""
    rank = rate * (units + 1)
    return rank, units + 1 - rank


def _beta_binomial_tail(successes: int, count: int, a: float, b: float) -> float:
    """Return the probability of at least `successes` in `count` trials with a beta-distributed rate."""
    from scipy import special

    if successes <= 0:
        return 1.0
    k = np.arange(successes, count + 1)  # the numbers of successes whose probabilities are added
    # logarithms of the binomial coefficients "count choose k"
    log_binomial = special.gammaln(count + 1) - special.gammaln(k + 1) - special.gammaln(count - k + 1)
    probabilities = np.exp(log_binomial + special.betaln(k + a, count - k + b) - special.betaln(a, b))
    return float(min(1.0, probabilities.sum()))
