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
LEAST_CLAIM = 1e-6  # of a smaller rate scipy cannot count the parts that are needed
ACCEPTABLE = "acceptable"
MARGINAL = "marginal"
UNACCEPTABLE = "unacceptable"
# AIAG's limits: a rate is acceptable as far as the first value, marginal as far as the second
LIMITS = {"effectiveness": (0.90, 0.80), "miss_rate": (0.02, 0.05), "false_alarm_rate": (0.05, 0.10)}
# good agreement above the first, poor below the second
GOOD_KAPPA = 0.75
POOR_KAPPA = 0.40

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Share:
    """Share of parts or decisions: `number` of `of`, the rate 0..1, and the ends of its 95 % interval."""

    number: int
    of: int
    rate: float
    low: float
    high: float

    @classmethod
    def of_parts(cls, flags: ArrayLike) -> Share:
        """Return the share of parts [N] for which the flag is set, with the exact interval."""
        number = int(np.sum(flags))
        size = np.size(flags)
        low, high = confidence_interval_rate(number, size, CONFIDENCE)
        return cls(number, of=size, rate=number / size, low=low, high=high)

    @classmethod
    def of_decisions(cls, flags: Flags) -> Share:
        """Return the share of decisions for which the flag is set.

        The interval begins at the lower bound for parts with the flag in every trial. It ends at the upper
        bound for parts with the flag in at least one trial. With one trial, the two bounds make the exact
        interval (Clopper and Pearson).

        Args:
            flags: [N, R], decisions on N parts in R trials.
        """
        always = cls.of_parts(flags.all(axis=1))
        at_least_once = cls.of_parts(flags.any(axis=1))
        rate = float(flags.mean())
        number = int(flags.sum())
        return cls(number, of=flags.size, rate=rate, low=always.low, high=at_least_once.high)


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
        miss_rate: Decisions on defective parts that call the part good.
        false_alarm_rate: Decisions on good parts that call the part defective.
        ever_missed: Defective parts that are missed at least once.
        misses_at_most: Miss rate that is not exceeded, 95 % sure: the one-sided exact bound over parts.
        counts: Decisions by reference (rows) and decision, good first.
        kappas: Four kappas by their names. Against the reference: Cohen's over all decisions, and Fleiss' as
            the average over trials. Between the trials: Cohen's as the average over pairs of trials (Light,
            1971), and Fleiss' with trials as raters. None where chance alone explains all agreement.
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
        between: For each pair of appraisers, both names and Cohen's kappa.
        fleiss: Fleiss' kappa with each trial of each appraiser as a rater; None with one decision per part.
    """

    appraisers: tuple[Appraisal, ...]
    agreeing: Share
    agreeing_rightly: Share
    between: tuple[tuple[str, str, float | None], ...]
    fleiss: float | None


def measure_agreement(study: Study) -> Agreement:
    """Compute the figures of a study."""
    # [N, appraisers * R], on N parts in R trials of each appraiser
    decisions = np.hstack([*study.decisions.values()])
    first_decisions = decisions[:, 0]
    is_unanimous = (decisions == first_decisions[:, None]).all(axis=1)
    kappas_between = []
    for first, second in itertools.combinations(study.decisions, 2):
        counts = cross_tabulate(study.decisions[first], study.decisions[second])
        kappas_between.append((first, second, cohens_kappa(counts)))
    return Agreement(
        appraisers=tuple(_appraise(name, study) for name in study.decisions),
        agreeing=Share.of_parts(is_unanimous),
        agreeing_rightly=Share.of_parts(is_unanimous & (first_decisions == study.defective)),
        between=tuple(kappas_between),
        fleiss=fleiss_kappa(_count_raters(decisions)),
    )


def _appraise(name: str, study: Study) -> Appraisal:
    """Return the figures of the appraiser `name`."""
    decisions = study.decisions[name]  # [N, R], on N parts in R trials
    truth = study.defective
    truth_of_decision = np.broadcast_to(truth[:, None], decisions.shape)
    counts = cross_tabulate(truth_of_decision, decisions)
    is_always_found = decisions[truth].all(axis=1)
    ever_missed = Share.of_parts(~is_always_found)
    repeatability = None
    if study.trials > 1:
        is_repeated = (decisions == decisions[:, :1]).all(axis=1)
        repeatability = Share.of_parts(is_repeated)
    is_always_right = (decisions == truth[:, None]).all(axis=1)
    rates = {
        "effectiveness": Share.of_parts(is_always_right),
        "miss_rate": Share.of_decisions(~decisions[truth]),
        "false_alarm_rate": Share.of_decisions(decisions[~truth]),
    }
    grades = {rate: grade(rate, share.rate) for rate, share in rates.items()}
    from_best_to_worst = [ACCEPTABLE, MARGINAL, UNACCEPTABLE]
    # Fleiss' kappa against the truth: in each trial the appraiser and the truth are two raters
    ratings_of_trials = [_count_raters(np.stack([trial, truth], axis=1)) for trial in decisions.T]
    return Appraisal(
        name=name,
        **rates,
        repeatability=repeatability,
        ever_missed=ever_missed,
        misses_at_most=one_sided_bound(ever_missed.number, ever_missed.of),
        counts=counts.tolist(),
        kappas={
            "cohen_reference": cohens_kappa(counts),
            "fleiss_reference": _average([fleiss_kappa(ratings) for ratings in ratings_of_trials]),
            "cohen_repeats": _average_over_pairs(decisions),
            "fleiss_repeats": fleiss_kappa(_count_raters(decisions)),
        },
        grades=grades,
        grade=max(grades.values(), key=from_best_to_worst.index),
    )


def _average_over_pairs(decisions: Flags) -> float | None:
    """Return the average of Cohen's kappa over all pairs of trials of decisions [N, R].

    The result is None if there is one trial, or if the kappa of a pair is None. The formula is that of
    `cohens_kappa`, computed for each trial with all trials before it at once.
    """
    values = decisions.astype(np.float64)
    total = len(decisions)  # number of parts
    kappas = list[float]()
    sums = values.sum(axis=0)  # number of parts called defective in each trial
    for k in range(1, len(sums)):
        earlier_sums = sums[:k]
        both_defective = values[:, k] @ values[:, :k]
        # number of parts that both trials call defective, or both call good
        agreed = total - sums[k] - earlier_sums + 2 * both_defective
        # number of agreements expected by chance, multiplied by total
        chance = (total - sums[k]) * (total - earlier_sums) + sums[k] * earlier_sums
        if (chance == total**2).any():
            return None
        kappas += ((total * agreed - chance) / (total**2 - chance)).tolist()
    return sum(kappas) / len(kappas) if kappas else None


def _average(kappas: Sequence[float | None]) -> float | None:
    """Return the mean of kappas; None if there are no kappas, or if one of them is None."""
    values = [kappa for kappa in kappas if kappa is not None]
    has_undefined = len(values) < len(kappas)
    if not values or has_undefined:
        return None
    return sum(values) / len(values)


def _count_raters(decisions: Flags) -> NDArray[np.int64]:
    """Return [N, 2]: how many raters call each part good, and how many defective.

    Args:
        decisions: [N, raters], True: the rater calls the part defective.
    """
    defective = decisions.sum(axis=1)
    return np.stack([decisions.shape[1] - defective, defective], axis=1)


def cross_tabulate(a: Flags, b: Flags) -> NDArray[np.int64]:
    """Return a table [2, 2]: how often each pair of values occurs in `a` (rows) and `b` (columns).

    Both have the same shape; False comes first.
    """
    pair_numbers = 2 * a.astype(np.int64) + b  # row * 2 + column
    return np.bincount(pair_numbers.ravel(), minlength=4).reshape(2, 2)


def cohens_kappa(table: Array) -> float | None:
    """Return Cohen's kappa, -1..1, of a cross-tabulation [K, K] in counts.

    The result is None if both raters always give the same single answer. Source: Cohen, Educational and
    Psychological Measurement 20 (1960).
    """
    total = int(table.sum())
    agreed = int(np.trace(table))
    chance = int(table.sum(axis=0) @ table.sum(axis=1))  # agreements expected by chance, times total
    if chance == total**2:
        return None
    return (total * agreed - chance) / (total**2 - chance)


def fleiss_kappa(counts: Array) -> float | None:
    """Return Fleiss' kappa, -1..1.

    The result is None if there are fewer than two raters, or if all ratings are the same. Source: Fleiss,
    Psychological Bulletin 76 (1971).

    Args:
        counts: [N, K], how many raters put each of N subjects into each of K categories.
    """
    rater_count = int(counts[0].sum())
    rating_count = len(counts) * rater_count
    shares = counts.sum(axis=0) / rating_count
    if rater_count < 2 or np.count_nonzero(shares) < 2:
        return None
    expected = float((shares**2).sum())
    # ordered pairs of raters: n raters who put a subject into one category make n² - n agreeing pairs
    agreeing_pairs = int((counts**2).sum()) - rating_count
    all_pairs = rating_count * (rater_count - 1)
    observed = agreeing_pairs / all_pairs
    return (observed - expected) / (1 - expected)


def grade(name: str, rate: float) -> str:
    """Grade a rate, one of `LIMITS`, by AIAG's limits: acceptable, marginal or unacceptable."""
    acceptable, marginal = LIMITS[name]
    sign = 1 if acceptable < marginal else -1  # -1 for effectiveness, where higher is better
    if sign * rate <= sign * acceptable:
        return ACCEPTABLE
    return MARGINAL if sign * rate <= sign * marginal else UNACCEPTABLE


def grade_kappa(kappa: float | None) -> str:
    """Grade a kappa by AIAG's limits: good, fair or poor; unknown for None."""
    if kappa is None:
        return "unknown"
    if kappa > GOOD_KAPPA:
        return "good"
    return "poor" if kappa < POOR_KAPPA else "fair"


def one_sided_bound(k: int, n: int) -> float:
    """Return the upper bound of a rate 0..1 with the confidence `CONFIDENCE`, after k events in n parts.

    The parts are independent.
    """
    # a two-sided 90 % interval leaves 5 % above it
    _, high = confidence_interval_rate(k, n, 2 * CONFIDENCE - 1)
    return high


def parts_needed(rate: float, misses: int = 0) -> int:
    """Return the least number of parts that prove a rate of at most `rate`, with confidence `CONFIDENCE`.

    This is the least n with P(X <= misses) <= 1 - CONFIDENCE, where X is binomial (n, rate). For a rate of
    1 % and no miss it is 299.

    Args:
        rate: Rate of the claim, `LEAST_CLAIM` or more, below 1.
        misses: Number of misses among these parts that are allowed.

    Raises:
        InputError: The rate lies outside of its range.
    """
    if not LEAST_CLAIM <= rate < 1:
        raise InputError(f"the rate of a claim is {rate:g}, expected {LEAST_CLAIM:f} and more, below 1")
    from scipy.special import bdtr

    def are_too_few(count: int) -> bool:
        return bool(bdtr(misses, count, rate) > 1 - CONFIDENCE)  # `bdtr` is P(X <= misses)

    too_few, enough = misses, misses + 1
    while are_too_few(enough):
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:  # bisection
        middle = (too_few + enough) // 2
        if are_too_few(middle):
            too_few = middle
        else:
            enough = middle
    return enough
