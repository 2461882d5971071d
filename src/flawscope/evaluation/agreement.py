"""Measures how far inspections of known parts agree with the truth, with each other and with themselves.

The formulas are those of AIAG, Measurement Systems Analysis (4th edition, 2010), chapter III, section C: the
attribute study by cross-tabulation. Intervals are exact binomial ones over parts, for decisions on the same
part are not independent.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flawscope.errors import InputError
from flawscope.evaluation.metrics import confidence_interval_rate
from flawscope.types import Array

CONFIDENCE = 0.95
LEAST_CLAIM = 1e-6  # below it more parts are needed than scipy counts
ACCEPTABLE = "acceptable"
MARGINAL = "marginal"
UNACCEPTABLE = "unacceptable"
# AIAG's limits: acceptable up to the first, marginal up to the second
LIMITS = {"effectiveness": (0.90, 0.80), "miss_rate": (0.02, 0.05), "false_alarm_rate": (0.05, 0.10)}
# good agreement above the first, poor below the second
GOOD_KAPPA = 0.75
POOR_KAPPA = 0.40

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Share:
    """Share `number` of `of`, its rate 0..1, and the ends of its 95 % interval."""

    number: int
    of: int
    rate: float
    low: float
    high: float

    @classmethod
    def of_parts(cls, flags: ArrayLike) -> Share:
        """Share of parts [N] for which the flag is set, with the exact interval."""
        number = int(np.sum(flags))
        size = np.size(flags)
        return cls(number, size, number / size, *confidence_interval_rate(number, size, CONFIDENCE))

    @classmethod
    def of_decisions(cls, flags: Flags) -> Share:
        """Share of decisions [N, R] on N parts in R trials for which the flag is set.

        The rate is at most the share of parts for which it is set at least once, and at least that for which
        it always is: the interval reaches from the lower end of the one to the upper end of the other, each
        exact. With one trial it is Clopper and Pearson's.
        """
        always, ever = (cls.of_parts(flag) for flag in (flags.all(axis=1), flags.any(axis=1)))
        return cls(int(flags.sum()), flags.size, float(flags.mean()), always.low, ever.high)


@dataclass(frozen=True)
class Study:
    """Study of N known parts, each inspected R times by each appraiser.

    Trial k of an appraiser is compared with trial k of another.

    Attributes:
        parts: Names of the parts.
        defective: [N], the reference; True: the part is defective.
        decisions: [N, R] by the appraiser's name; True: the part was called defective.
    """

    parts: tuple[str, ...]
    defective: Flags
    decisions: Mapping[str, Flags]

    @property
    def trials(self) -> int:
        """Number of trials of each appraiser, R."""
        return int(next(iter(self.decisions.values())).shape[1])


@dataclass(frozen=True)
class Appraisal:
    """Figures of an appraiser, a person or a model.

    Attributes:
        effectiveness: Parts that are decided rightly in every trial.
        repeatability: Parts that are decided alike in every trial; None with one trial.
        miss_rate: Decisions on defective parts that call them good.
        false_alarm_rate: Decisions on good parts that call them defective.
        ever_missed: Defective parts that are missed at least once.
        misses_at_most: Miss rate that is not exceeded, 95 % sure: the one-sided exact bound over parts.
        counts: Decisions by reference (rows) and decision, good first.
        kappas: Against the reference, Cohen's over all decisions and Fleiss' as the average over trials;
            between the trials, Cohen's as the average over their pairs (Light, 1971) and Fleiss' with trials
            as raters. None where chance alone explains all agreement.
        grades: Grades of the rates, by AIAG's limits.
        grade: The worst of the grades.
    """

    name: str
    effectiveness: Share
    repeatability: Share | None
    miss_rate: Share
    false_alarm_rate: Share
    ever_missed: Share
    misses_at_most: float
    counts: list[list[int]]
    kappas: dict[str, float | None]
    grades: dict[str, str]
    grade: str


@dataclass(frozen=True)
class Agreement:
    """Figures of a study.

    Attributes:
        appraisers: Figures of each appraiser.
        agreeing: Parts that all appraisers decide alike in all trials.
        agreeing_rightly: Parts that they also decide rightly.
        between: Cohen's kappa of each pair of appraisers, after their names.
        fleiss: Kappa of all decisions, each by a rater of its own; None with a single decision a part.
    """

    appraisers: tuple[Appraisal, ...]
    agreeing: Share
    agreeing_rightly: Share
    between: tuple[tuple[str, str, float | None], ...]
    fleiss: float | None


def measure_agreement(study: Study) -> Agreement:
    """Compute the figures of a study."""
    together = np.hstack([*study.decisions.values()])  # [N, appraisers * R]
    alike = (together == together[:, :1]).all(axis=1)
    between = []
    for first, second in itertools.combinations(study.decisions, 2):
        counts = cross_tabulate(study.decisions[first], study.decisions[second])
        between.append((first, second, cohens_kappa(counts)))
    return Agreement(
        appraisers=tuple(_appraise(name, study) for name in study.decisions),
        agreeing=Share.of_parts(alike),
        agreeing_rightly=Share.of_parts(alike & (together[:, 0] == study.defective)),
        between=tuple(between),
        fleiss=fleiss_kappa(_count_raters(together)),
    )


def _appraise(name: str, study: Study) -> Appraisal:
    called = study.decisions[name]
    truth = study.defective
    counts = cross_tabulate(np.broadcast_to(truth[:, None], called.shape), called)
    with_truth = [_count_raters(np.stack([trial, truth], axis=1)) for trial in called.T]
    rates = {
        "effectiveness": Share.of_parts((called == truth[:, None]).all(axis=1)),
        "miss_rate": Share.of_decisions(~called[truth]),
        "false_alarm_rate": Share.of_decisions(called[~truth]),
    }
    missed = Share.of_parts(~called[truth].all(axis=1))
    grades = {rate: grade(rate, share.rate) for rate, share in rates.items()}
    return Appraisal(
        name=name,
        **rates,
        repeatability=Share.of_parts((called == called[:, :1]).all(axis=1)) if study.trials > 1 else None,
        ever_missed=missed,
        misses_at_most=one_sided_bound(missed.number, missed.of),
        counts=counts.tolist(),
        kappas={
            "cohen_reference": cohens_kappa(counts),
            "fleiss_reference": _average([fleiss_kappa(ratings) for ratings in with_truth]),
            "cohen_repeats": _average_over_pairs(called),
            "fleiss_repeats": fleiss_kappa(_count_raters(called)),
        },
        grades=grades,
        grade=max(grades.values(), key=[ACCEPTABLE, MARGINAL, UNACCEPTABLE].index),
    )


def _average_over_pairs(called: Flags) -> float | None:
    """Return Cohen's kappa of decisions [N, R] as the average over the pairs of trials."""
    values = called.astype(np.float64)
    total = len(called)
    kappas = list[float]()
    sums = values.sum(axis=0)
    for k in range(1, len(sums)):
        agreed = total - sums[k] - sums[:k] + 2 * values[:, k] @ values[:, :k]
        chance = (total - sums[k]) * (total - sums[:k]) + sums[k] * sums[:k]
        if (chance == total**2).any():
            return None
        kappas += ((total * agreed - chance) / (total**2 - chance)).tolist()
    return sum(kappas) / len(kappas) if kappas else None


def _average(kappas: Sequence[float | None]) -> float | None:
    known = [kappa for kappa in kappas if kappa is not None]
    return sum(known) / len(known) if known and len(known) == len(kappas) else None


def _count_raters(called: Flags) -> NDArray[np.int64]:
    """Return the numbers of raters [N, 2] that call each part good and defective, of calls [N, raters]."""
    defective = called.sum(axis=1)
    return np.stack([called.shape[1] - defective, defective], axis=1)


def cross_tabulate(a: Flags, b: Flags) -> NDArray[np.int64]:
    """Counts [2, 2] of the pairs of two sets of flags of the same shape; rows are a, columns b."""
    return np.bincount((2 * a.astype(np.int64) + b).ravel(), minlength=4).reshape(2, 2)


def cohens_kappa(table: Array) -> float | None:
    """Return Cohen's kappa, -1..1, of a cross-tabulation [K, K] in counts.

    It is None where both raters always give the same single answer. Source: Cohen, Educational and
    Psychological Measurement 20 (1960).
    """
    total = int(table.sum())
    agreed = int(np.trace(table))
    chance = int(table.sum(axis=0) @ table.sum(axis=1))  # expected agreement * total ** 2
    return None if chance == total**2 else (total * agreed - chance) / (total**2 - chance)


def fleiss_kappa(counts: Array) -> float | None:
    """Return Fleiss' kappa, -1..1, of the numbers of raters [N, K] that put N subjects into K categories.

    It is None with fewer than two raters, or where all give the same single answer. Source: Fleiss,
    Psychological Bulletin 76 (1971).
    """
    subjects = len(counts)
    raters = int(counts[0].sum())
    shares = counts.sum(axis=0) / (subjects * raters)
    expected = float((shares**2).sum())
    if raters < 2 or np.count_nonzero(shares) < 2:
        return None
    observed = (int((counts**2).sum()) - subjects * raters) / (subjects * raters * (raters - 1))
    return (observed - expected) / (1 - expected)


def grade(name: str, rate: float) -> str:
    """Grade a rate, one of `LIMITS`, by AIAG's limits: acceptable, marginal or unacceptable."""
    first, second = LIMITS[name]
    sign = 1 if first < second else -1  # of effectiveness more is better
    if sign * rate <= sign * first:
        return ACCEPTABLE
    return MARGINAL if sign * rate <= sign * second else UNACCEPTABLE


def grade_kappa(kappa: float | None) -> str:
    """Grade a kappa by AIAG's limits: good, fair or poor; unknown where there is none."""
    if kappa is None:
        return "unknown"
    return "good" if kappa > GOOD_KAPPA else "poor" if kappa < POOR_KAPPA else "fair"


def one_sided_bound(k: int, n: int) -> float:
    """Rate 0..1 that is not exceeded, as sure as `CONFIDENCE`, where k of n independent parts came up."""
    return confidence_interval_rate(k, n, 2 * CONFIDENCE - 1)[1]


def parts_needed(rate: float, misses: int = 0) -> int:
    """Return the fewest parts that prove a rate of at most `rate`, with the confidence `CONFIDENCE`.

    It is the least n with P(X <= misses) <= 1 - CONFIDENCE, X binomial (n, rate); 299 for 1 % without a miss.

    Args:
        rate: Rate of the claim, `LEAST_CLAIM` or more, below 1.
        misses: Number of these parts that may be missed.

    Raises:
        InputError: The rate lies outside of its range.
    """
    if not LEAST_CLAIM <= rate < 1:
        raise InputError(f"the rate of a claim is {rate:g}, expected {LEAST_CLAIM:f} and more, below 1")
    from scipy.special import bdtr

    low, high = misses, misses + 1  # at low too few
    while bdtr(misses, high, rate) > 1 - CONFIDENCE:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bdtr(misses, middle, rate) > 1 - CONFIDENCE else (low, middle)
    return high
