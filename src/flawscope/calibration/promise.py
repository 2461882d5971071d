"""Tells how far the false-alarm rate of one model may lie from the promised one, and whether it was kept.

A threshold of rank k among K good units promises k/(K + 1) on average over draws of the units. The rate of
the one model that was made is itself a draw: the share of good units above the k-th largest of K is
distributed as Beta(k, K + 1 - k), whatever the scores' distribution. So the number of false alarms among new
good pictures is beta-binomial: both the threshold's pictures and the test pictures are drawn.

Who chooses a threshold by what it finds has looked at many: for these there is a bound on all rates at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flawscope.calibration.holding_out import min_calibration_size
from flawscope.errors import InputError, pluralize

LEVEL = 0.95  # share of models whose rate lies in the interval
SIGNIFICANCE = 0.05  # of so many models and tests a sound one is called broken, at most


class PromiseVerdict(NamedTuple):
    """Whether good test pictures keep a promise.

    chance: of as many false alarms or more, if the promise holds. broken: that is below `SIGNIFICANCE`.
    """

    chance: float
    broken: bool


def confidence_interval_rate(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact (Clopper-Pearson) interval of a rate of which k of n trials came up, as (low, high) in 0..1.

    It holds the true rate with a probability of at least `level`, whatever the rate and however small n. With
    n = 0 nothing is known: (0, 1). Source: Clopper and Pearson, Biometrika 26 (1934), by quantiles of the
    beta distribution.

    Raises InputError unless 0 <= k <= n and 0 < level < 1.
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
    """Judges by new good pictures whether a promised false-alarm rate was kept.

    A sound model is called broken in at most `SIGNIFICANCE` of draws of both its good pictures and the new
    ones. The new pictures must be as independent as the promise's units: several of one part count once.

    Args:
        alarms: number of the new good pictures that were called anomalous.
        pictures: number of the new good pictures; without any the promise is kept.
        rate: promised rate, `Calibration.expected_rate` or `Promise.rate`.
        units: number of good units that it comes from, `Calibration.unit_count` or `Promise.calibrated`.
    """
    chance = _beta_binomial_tail(alarms, pictures, *_beta(rate, units))
    return PromiseVerdict(chance, chance < SIGNIFICANCE)


def judge_pictures(alarms: Sequence[bool], numbers: Sequence[int], rate: float, units: int) -> PromiseVerdict:
    """Judges a promise, as `judge_promise`, by new good pictures of which several may be of one unit: a unit
    counts by the share of its pictures that were called anomalous.

    Args:
        alarms: [N], whether each picture was called anomalous. numbers: [N], of its unit.
    """
    _, unit, sizes = np.unique(np.asarray(numbers), return_inverse=True, return_counts=True)
    found = float((np.asarray(alarms, dtype=bool) / sizes[unit]).sum())
    return judge_promise(math.floor(found + 1e-9), len(sizes), rate, units)


def rate_interval(rate: float, units: int) -> tuple[float, float]:
    """Returns the interval, 0..1, in which the false-alarm rates of `LEVEL` of single models lie that promise
    `rate` from so many good units.
    """
    from scipy import special  # not scipy.stats, which asks for torch

    low, high = special.betaincinv(*_beta(rate, units), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def simultaneous_bound(rank: int, units: int) -> float:
    """Returns a bound, 0..1, on the share of new good units above the `rank`-th largest of so many, rank 1
    being the largest. With probability `LEVEL` over draws of the units the bounds of all ranks hold at once,
    so also that of a rank which somebody chose after a look at what each finds.

    Bates, Candes, Lei, Romano & Sesia, Testing for outliers with conformal p-values, Annals of Statistics 51
    (2023), the adjustment after Simes with half of the units. It is exact for any number of them, and, where
    thresholds lie, narrower than that of Dvoretzky, Kiefer and Wolfowitz: among 100 units .084 at rank 3, not
    .15 (`tests/calibration/test_promised_rate.py`). The lower half of the units has none.
    """
    half, place = max(1, units // 2), units + 1 - rank
    if place < half:
        return 1.0

    def falling(top: int) -> float:  # logarithm of top * (top - 1) * ... in `half` factors
        return math.lgamma(top + 1) - math.lgamma(top - half + 1)

    return -math.expm1((math.log(1 - LEVEL) + falling(place) - falling(units)) / half)


def batch_limit(p_values: Sequence[float], rate: float) -> float:
    """Returns the largest p-value up to which the pictures of a batch can be called defective together, so
    that on average at most the share `rate` of them is good; 0: none can be.

    Benjamini & Hochberg, Journal of the Royal Statistical Society B 57 (1995). Conformal p-values share their
    good pictures, and depend on each other in the way that it allows (Bates and others, 2023, theorem 2).
    """
    ordered = np.sort(np.asarray(p_values, dtype=np.float64))
    allowed = rate * np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    below = np.flatnonzero(ordered <= allowed + 1e-12)
    return float(ordered[below[-1]]) if below.size else 0.0


def describe_rate(rate: float, units: int, noun: str) -> str:
    """Words a promise: "about 1 of 21 good pictures will be called anomalous (4.8 %; for this one model
    between 0 and 17 %)".
    """
    share = f"1 of {round(1 / rate)}" if rate <= 0.5 else f"{rate * (units + 1):.3g} of {units + 1}"
    return (
        f"about {share} good {noun} will be called anomalous ({100 * rate:.2g} %; for this one model "
        f"{describe_interval(rate, units)})"
    )


def units_missing(rate: float, units: int) -> int:
    """Number of further good units that a rate needs; 0: so many are enough."""
    return max(0, min_calibration_size(rate) - units)


def describe_missing(rate: float, units: int, of_parts: bool) -> str:
    """Words `units_missing`: "14 more good pictures", or where parts have several pictures "good pictures of
    14 more parts"; empty: nothing is.
    """
    count = units_missing(rate, units)
    if not count:
        return ""
    return (
        f"good pictures of {pluralize(count, 'more part')}"
        if of_parts
        else pluralize(count, "more good picture")
    )


def describe_lack(rate: float, units: int, of_parts: bool) -> str:
    """Says that so many units cannot promise a rate, and how many more would; empty: they can."""
    missing = describe_missing(rate, units, of_parts)
    return missing and f"{rate:.1%} cannot be promised from {units}: {missing} would do"


def describe_interval(rate: float, units: int) -> str:
    """Words `rate_interval`: "between 0 and 17 %"."""
    low, high = rate_interval(rate, units)
    digits = 0 if high >= 0.1 else 1
    return f"between {100 * low:.{digits}f} and {100 * high:.{digits}f} %"


def _beta(rate: float, units: int) -> tuple[float, float]:
    rank = rate * (units + 1)
    return rank, units + 1 - rank


def _beta_binomial_tail(successes: int, count: int, a: float, b: float) -> float:
    """Probability of so many successes or more of `count`, where theirs is drawn from Beta(a, b)."""
    from scipy import special

    if successes <= 0:
        return 1.0
    k = np.arange(successes, count + 1)
    ways = special.gammaln(count + 1) - special.gammaln(k + 1) - special.gammaln(count - k + 1)
    terms = np.exp(ways + special.betaln(k + a, count - k + b) - special.betaln(a, b))
    return float(min(1.0, terms.sum()))
