"""Bounds the false-alarm rate of a single model, and judges whether a promised rate was kept.

A threshold of rank k among K good units promises k/(K + 1) on average over draws of the units. The rate of a
single model is itself a draw: the share of good units above the k-th largest of K is distributed as
Beta(k, K + 1 - k), whatever the scores' distribution. The number of false alarms among new good pictures is
therefore beta-binomial: both the threshold's pictures and the test pictures are drawn.

A person who chooses a threshold by the pictures that it finds has compared many: `simultaneous_bound` holds
for all thresholds at once.
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

    Attributes:
        chance: Probability of as many false alarms or more, if the promise holds.
        broken: Whether `chance` is below `SIGNIFICANCE`.
    """

    chance: float
    broken: bool


def confidence_interval_rate(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) interval (low, high), 0..1, of a rate from k hits in n trials.

    It holds the true rate with a probability of at least `level`, whatever the rate and however small n. With
    n = 0 nothing is known: (0, 1). Source: Clopper and Pearson, Biometrika 26 (1934), by quantiles of the
    beta distribution.

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
    """Judge by new good pictures whether a promised false-alarm rate was kept.

    A sound model is called broken in at most `SIGNIFICANCE` of draws of both its good pictures and the new
    ones. The new pictures must be as independent as the promise's units: several of one part count once.

    Args:
        alarms: Number of the new good pictures that were called anomalous.
        pictures: Number of the new good pictures; without any, the promise is kept.
        rate: Promised rate, `Calibration.expected_rate` or `Promise.rate`.
        units: Number of good units that it comes from, `Calibration.unit_count` or `Promise.calibrated`.
    """
    chance = _beta_binomial_tail(alarms, pictures, *_beta(rate, units))
    return PromiseVerdict(chance, chance < SIGNIFICANCE)


def judge_pictures(alarms: Sequence[bool], numbers: Sequence[int], rate: float, units: int) -> PromiseVerdict:
    """Judge a promise (`judge_promise`) by new good pictures, several of which may be of the same unit.

    A unit counts by the share of its pictures that were called anomalous.

    Args:
        alarms: [N], whether each picture was called anomalous.
        numbers: [N], the unit of each picture.
        rate: Promised rate.
        units: Number of good units that the promise comes from.
    """
    _, unit, sizes = np.unique(np.asarray(numbers), return_inverse=True, return_counts=True)
    found = float((np.asarray(alarms, dtype=bool) / sizes[unit]).sum())
    return judge_promise(math.floor(found + 1e-9), len(sizes), rate, units)


def rate_interval(rate: float, units: int) -> tuple[float, float]:
    """Return the interval, 0..1, that holds the false-alarm rate of a share `LEVEL` of models.

    Args:
        rate: Rate that the models promise.
        units: Number of good units that the promise comes from.
    """
    from scipy import special  # not scipy.stats, which asks for torch

    low, high = special.betaincinv(*_beta(rate, units), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def simultaneous_bound(rank: int, units: int) -> float:
    """Return a bound, 0..1, on the share of new good units above the `rank`-th largest of `units` units.

    Rank 1 is the largest. With probability `LEVEL` over draws of the units, the bounds of all ranks hold at
    once: also that of a rank which a person chose by the pictures that each rank finds.

    Bates, Candes, Lei, Romano & Sesia, Testing for outliers with conformal p-values, Annals of Statistics 51
    (2023), the adjustment after Simes with half of the units. It is exact for any number of units, and, where
    thresholds lie, narrower than the bound of Dvoretzky, Kiefer and Wolfowitz: among 100 units .084 at rank
    3, not .15 (`tests/calibration/test_promised_rate.py`). In the lower half of the units the bound is 1.
    """
    half = max(1, units // 2)
    place = units + 1 - rank
    if place < half:
        return 1.0

    def falling(top: int) -> float:  # logarithm of top * (top - 1) * ... in `half` factors
        return math.lgamma(top + 1) - math.lgamma(top - half + 1)

    return -math.expm1((math.log(1 - LEVEL) + falling(place) - falling(units)) / half)


def batch_limit(p_values: Sequence[float], rate: float) -> float:
    """Return the largest p-value at which a batch's pictures can be called defective together; 0: none can.

    On average at most the share `rate` of the pictures called defective is good.

    Benjamini & Hochberg, Journal of the Royal Statistical Society B 57 (1995). Conformal p-values share their
    good pictures, and depend on each other in the way that the procedure allows (Bates and others, 2023,
    theorem 2).
    """
    ordered = np.sort(np.asarray(p_values, dtype=np.float64))
    allowed = rate * np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    below = np.flatnonzero(ordered <= allowed + 1e-12)
    return float(ordered[below[-1]]) if below.size else 0.0


def describe_rate(rate: float, units: int, noun: str) -> str:
    """Return a promise in words, with the interval of this model.

    Example: "about 1 of 21 good pictures will be called anomalous (4.8 %; for this one model between 0 and
    17 %)".
    """
    share = f"1 of {round(1 / rate)}" if rate <= 0.5 else f"{rate * (units + 1):.3g} of {units + 1}"
    return (
        f"about {share} good {noun} will be called anomalous ({100 * rate:.2g} %; for this one model "
        f"{describe_interval(rate, units)})"
    )


def units_missing(rate: float, units: int) -> int:
    """Return the number of further good units that a rate needs; 0: `units` are enough."""
    return max(0, min_calibration_size(rate) - units)


def describe_missing(rate: float, units: int, of_parts: bool) -> str:
    """Return `units_missing` in words; empty: none are missing.

    Examples: "14 more good pictures"; with `of_parts`, where parts have several pictures, "good pictures of
    14 more parts".
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
    """Return a line that `units` cannot promise a rate, and how many more would; empty: they can."""
    missing = describe_missing(rate, units, of_parts)
    return missing and f"{rate:.1%} cannot be promised from {units}: {missing} would do"


def describe_interval(rate: float, units: int) -> str:
    """Return `rate_interval` in words: "between 0 and 17 %"."""
    low, high = rate_interval(rate, units)
    digits = 0 if high >= 0.1 else 1
    return f"between {100 * low:.{digits}f} and {100 * high:.{digits}f} %"


def _beta(rate: float, units: int) -> tuple[float, float]:
    rank = rate * (units + 1)
    return rank, units + 1 - rank


def _beta_binomial_tail(successes: int, count: int, a: float, b: float) -> float:
    """Return the probability of `successes` or more in `count` trials with a rate drawn from Beta(a, b)."""
    from scipy import special

    if successes <= 0:
        return 1.0
    k = np.arange(successes, count + 1)
    ways = special.gammaln(count + 1) - special.gammaln(k + 1) - special.gammaln(count - k + 1)
    terms = np.exp(ways + special.betaln(k + a, count - k + b) - special.betaln(a, b))
    return float(min(1.0, terms.sum()))
