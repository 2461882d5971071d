"""Agreement studies: against published examples, and against each formula written out slowly."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import aiag
from flawscope.errors import InputError
from flawscope.evaluation.agreement import (
    Share,
    Study,
    cohens_kappa,
    fleiss_kappa,
    grade,
    grade_kappa,
    measure_agreement,
    one_sided_bound,
    parts_needed,
)

# Fleiss (1971), table 1, rater by rater as the R package irr has it (`diagnoses`): 30 patients, six raters
DIAGNOSES = """444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333
 144444 224445 333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155
 224444 133333 555555"""


def test_fleiss_kappa_is_that_of_fleiss_1971():
    counts = np.array([[one.count(str(k)) for k in range(1, 6)] for one in DIAGNOSES.split()])
    # .430 in print; the digits are those of the R packages irrCAC and irr for the same table
    assert fleiss_kappa(counts) == pytest.approx(0.43024452006014097, abs=1e-9)


def test_aiags_example_has_the_published_figures():
    found = measure_agreement(aiag.study())
    a, b, c = found.appraisers
    # AIAG's tables A * B, B * C, A * C and each appraiser * REF, in counts
    assert a.counts == [[97, 5], [3, 45]]
    assert b.counts == [[100, 2], [3, 45]]
    assert c.counts == [[93, 9], [6, 42]]
    between = {(one, other): kappa for one, other, kappa in found.between}
    exact = {("A", "B"): (44, 6, 3, 97), ("B", "C"): (42, 5, 9, 94), ("A", "C"): (43, 7, 8, 92)}
    for pair, (p, q, r, s) in exact.items():
        observed = Fraction(p + s, 150)
        chance = Fraction((p + q) * (p + r) + (q + s) * (r + s), 150**2)
        assert between[pair] == pytest.approx(float((observed - chance) / (1 - chance)), abs=1e-9)
    assert [round(between[pair], 2) for pair in exact] == [0.86, 0.79, 0.78]
    assert [round(one.kappas["cohen_reference"] or 0, 2) for one in found.appraisers] == [0.88, 0.92, 0.77]
    # the effectiveness report: matched with the reference in all trials, with its 95 % limits
    limits = [(42, 0.71, 0.93), (45, 0.78, 0.97), (40, 0.66, 0.90)]
    for one, (matched, low, high) in zip(found.appraisers, limits, strict=True):
        share = one.effectiveness
        assert (share.number, share.of, round(share.low, 2), round(share.high, 2)) == (matched, 50, low, high)
    assert (found.agreeing.number, found.agreeing_rightly.number) == (39, 39)
    assert [round(100 * one.miss_rate.rate, 1) for one in found.appraisers] == [6.2, 6.2, 12.5]
    assert [round(100 * one.false_alarm_rate.rate, 1) for one in found.appraisers] == [4.9, 2.0, 8.8]
    grades = {"effectiveness": "marginal", "miss_rate": "unacceptable", "false_alarm_rate": "acceptable"}
    assert a.grades == grades
    assert (a.grade, c.grade) == ("unacceptable", "unacceptable")


def literal_cohen(a, b):
    words, n = {*a, *b}, len(a)
    observed = Fraction(sum(x == y for x, y in zip(a, b, strict=True)), n)
    chance = sum((Fraction(a.count(w), n) * Fraction(b.count(w), n) for w in words), Fraction(0))
    return None if chance == 1 else float((observed - chance) / (1 - chance))


def literal_fleiss(ratings):
    raters, words = len(ratings[0]), {w for row in ratings for w in row}
    if raters < 2 or len(words) == 1:
        return None
    agreeing = Fraction(0)  # pairs of raters that agree
    for row in ratings:
        pairs = [*itertools.permutations(range(raters), 2)]
        agreeing += Fraction(sum(row[i] == row[j] for i, j in pairs), len(pairs))
    total = Counter(w for row in ratings for w in row)
    chance = sum((Fraction(total[w], raters * len(ratings)) ** 2 for w in words), Fraction(0))
    return float((agreeing / len(ratings) - chance) / (1 - chance))


def close(a, b):
    return a is b if a is None or b is None else abs(a - b) < 1e-9


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 5), st.integers(0, 1 << 32))
def test_kappas_are_those_written_out(words, n, raters, seed):
    ratings = np.random.default_rng(seed).integers(0, words, (n, raters))
    counts = np.stack([(ratings == k).sum(axis=1) for k in range(words)], axis=1)
    assert close(fleiss_kappa(counts), literal_fleiss(ratings.tolist()))
    a, b = ratings[:, 0], ratings[:, -1]
    table = np.array([[((a == i) & (b == j)).sum() for j in range(words)] for i in range(words)])
    assert close(cohens_kappa(table), literal_cohen(a.tolist(), b.tolist()))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 10), st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 1 << 32))
def test_figures_are_those_counted_one_by_one(n, trials, wrong, seed):
    rng = np.random.default_rng(seed)
    truth = np.array([True, False, *(rng.random(n - 2) < 0.5)])
    decisions = {name: truth[:, None] ^ (rng.random((n, trials)) < wrong) for name in "xy"}
    found = measure_agreement(Study(tuple(map(str, range(n))), truth, decisions))
    for one in found.appraisers:
        said = decisions[one.name].tolist()
        right = [all(s == t for s in row) for row, t in zip(said, truth, strict=True)]
        alike = [len({*row}) == 1 for row in said]
        bad = [row for row, t in zip(said, truth, strict=True) if t]
        good = [row for row, t in zip(said, truth, strict=True) if not t]
        shares = [one.effectiveness, one.miss_rate, one.false_alarm_rate, one.repeatability]
        missed, alarms = sum(not s for row in bad for s in row), sum(s for row in good for s in row)
        counted = [(sum(right), n), (missed, trials * len(bad)), (alarms, trials * len(good))]
        counted.append(None if trials == 1 else (sum(alike), n))
        assert [share and (share.number, share.of) for share in shares] == counted
        always = binomtest(sum(not any(row) for row in bad), len(bad)).proportion_ci(method="exact")
        ever = binomtest(sum(not all(row) for row in bad), len(bad)).proportion_ci(method="exact")
        assert (one.miss_rate.low, one.miss_rate.high) == pytest.approx((always.low, ever.high), abs=1e-9)
        assert one.miss_rate.low <= one.miss_rate.rate <= one.miss_rate.high
        flat = [s for row in said for s in row]
        known = [bool(t) for t in truth for _ in range(trials)]
        assert close(one.kappas["cohen_reference"], literal_cohen(known, flat))
        each = [
            literal_fleiss([[row[k], bool(t)] for row, t in zip(said, truth, strict=True)])
            for k in range(trials)
        ]
        known = [kappa for kappa in each if kappa is not None]
        assert close(one.kappas["fleiss_reference"], sum(known) / trials)
        assert close(one.kappas["fleiss_repeats"], literal_fleiss(said))
        pairs = [
            literal_cohen([row[i] for row in said], [row[j] for row in said])
            for i, j in itertools.combinations(range(trials), 2)
        ]
        unknown = not pairs or None in pairs
        assert close(one.kappas["cohen_repeats"], None if unknown else sum(pairs) / len(pairs))
    x, y = (decisions[name].tolist() for name in "xy")
    together = [[*a, *b] for a, b in zip(x, y, strict=True)]
    assert found.agreeing.number == sum(len({*row}) == 1 for row in together)
    assert found.agreeing_rightly.number == sum({*row} == {t} for row, t in zip(together, truth, strict=True))
    assert close(found.fleiss, literal_fleiss(together))


def test_the_interval_of_repeats_counts_parts_and_not_decisions():
    once = Share.of_decisions(np.array([[True], *[[False]] * 19]))
    five_times = Share.of_decisions(np.array([[True] * 5, *[[False] * 5] * 19]))
    assert five_times.rate == once.rate
    assert (five_times.low, five_times.high) == (once.low, once.high)
    exact = binomtest(1, 20).proportion_ci(method="exact")
    assert (once.low, once.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def tail(misses, n, rate):
    """P(X <= misses) of a binomial variable, exactly."""
    return sum((math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(misses + 1)), Fraction(0))


@pytest.mark.parametrize(
    ("rate", "misses", "needed"),
    [(0.01, 0, 299), (0.01, 1, 473), (0.02, 0, 149), (0.05, 0, 59), (0.05, 2, 124)],
)
def test_parts_needed_for_a_claim(rate, misses, needed):
    exact = Fraction(str(rate))
    assert tail(misses, needed, exact) <= Fraction(1, 20) < tail(misses, needed - 1, exact)
    assert parts_needed(rate, misses) == needed
    assert one_sided_bound(misses, needed) <= rate < one_sided_bound(misses, needed - 1)


def test_the_least_claim_takes_millions_of_parts():
    assert parts_needed(1e-6) == math.ceil(math.log(0.05) / math.log1p(-1e-6))


@pytest.mark.parametrize(("rate", "misses"), [(0.0, 0), (1e-9, 0), (1.0, 0)])
def test_no_number_of_parts_shows_it(rate, misses):
    with pytest.raises(InputError, match="expected"):
        parts_needed(rate, misses)


def test_grades_at_the_limits():
    limits = {"effectiveness": (0.9, 0.899, 0.8, 0.79), "miss_rate": (0.02, 0.021, 0.05, 0.051)}
    for name, values in {**limits, "false_alarm_rate": (0.05, 0.06, 0.10, 0.11)}.items():
        assert " ".join(grade(name, v) for v in values) == "acceptable marginal marginal unacceptable"
    kappas = (0.76, 0.75, 0.40, 0.39, None)
    assert " ".join(map(grade_kappa, kappas)) == "good fair fair poor unknown"
