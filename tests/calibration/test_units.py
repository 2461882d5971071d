"""Pictures of one part are one unit: the promise holds over units, by the literal formula and by chance."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from flawscope.calibration.outliers import check_defect_like, check_enough, learnt_note, sole_note
from flawscope.calibration.power import DefectScores
from flawscope.calibration.threshold import Calibration, envelope, from_values
from flawscope.errors import InputError


def calibration(scores, units=(), rate=0.05, **more):
    scores = tuple(map(float, scores))
    return Calibration(scores, scores, 0.0, rate, units=tuple(units), **more)


@st.composite
def grouped(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    units = [unit for unit, size in enumerate(sizes) for _ in range(size)]
    order = draw(st.permutations(range(len(units))))
    scores = draw(st.lists(st.integers(0, 9), min_size=len(units), max_size=len(units)))
    return [float(s) for s in scores], [units[k] for k in order]


@given(grouped(), st.sampled_from(["0.5", "0.29", "0.2", "0.1", "0.05", "0.01"]))
@settings(deadline=None)
def test_p_values_and_decisions_are_the_literal_formula_in_exact_fractions(scored, rate):
    scores, units = scored
    made, members = calibration(scores, units, float(rate)), {}
    for score, unit in zip(scores, units, strict=True):
        members.setdefault(unit, []).append(score)
    effective = max(Fraction(rate), Fraction(1, len(members) + 1))
    for query in {*scores, *(s + 0.5 for s in scores), -1.0}:
        means = [Fraction(sum(s >= query for s in own), len(own)) for own in members.values()]
        p = (1 + sum(means, Fraction())) / (len(members) + 1)
        assert float(made.p_values(query)) == pytest.approx(float(p), abs=1e-12)
        assert bool(made.is_anomalous(query)) == (p <= effective), (query, p)


@given(grouped())
@settings(deadline=None)
def test_the_rate_is_kept_over_units(scored):
    """Each unit in turn is the new one, and one of its pictures is drawn by chance: however many pictures the
    others have, it is called anomalous at most as often as is promised."""
    scores, units = scored
    if len({*units}) < 2:
        return
    alarms, promised = [], []
    for new in {*units}:
        rest = [k for k, unit in enumerate(units) if unit != new]
        made = calibration([scores[k] for k in rest], [units[k] for k in rest], 0.34)
        alarms.append(
            np.mean(made.is_anomalous(np.array([s for s, u in zip(scores, units, strict=True) if u == new])))
        )
        promised.append(made.effective_rate)
    assert np.mean(alarms) <= max(promised) + 1e-9


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.sampled_from([0.05, 0.2, 0.5]))
@settings(deadline=None)
def test_pictures_that_are_units_each_answer_as_they_did(scores, rate):
    """To the last digit, and in any order of the numbers: earlier files have none."""
    plain, numbered = calibration(scores, (), rate), calibration(scores, range(len(scores)), rate)
    queries = np.arange(-1, 11, 0.5)
    assert np.array_equal(plain.p_values(queries), numbered.p_values(queries))
    n = len(scores)
    assert np.array_equal(
        plain.p_values(queries), [(1 + sum(s >= q for s in scores)) / (n + 1) for q in queries]
    )
    assert plain.score_threshold == numbered.score_threshold
    assert plain.expected_rate == numbered.expected_rate
    assert from_values(scores, scores, [0], units=range(n)).units == ()


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("parts", "pictures"), [(4, 6), (5, 20), (20, 3)])
def test_new_parts_are_called_anomalous_as_often_as_promised(parts, pictures, correlation):
    """Before, the pictures were counted: 5 parts of 20 pictures gave 7 % and 12 % where 5 % was promised."""
    rng = np.random.default_rng([parts, pictures, int(10 * correlation)])
    units = np.repeat(np.arange(parts), pictures)
    alarms = 0
    promised = calibration(np.zeros(len(units)), units).effective_rate
    for _ in range(1000):
        part = math.sqrt(correlation) * rng.standard_normal(parts + 1)
        drawn = part[np.append(units, parts)] + math.sqrt(1 - correlation) * rng.standard_normal(
            len(units) + 1
        )
        alarms += bool(calibration(drawn[:-1], units).is_anomalous(drawn[-1]))
    assert promised == max(0.05, 1 / (parts + 1))
    assert binom(1000, promised).sf(alarms - 1) > 1e-3


def test_a_file_without_units_is_as_before_and_one_with_units_keeps_them():
    plain, grouped_ = calibration([1, 2, 3]), calibration([1, 2, 3], [4, 4, 7])
    assert "units" not in plain.to_dict()
    assert Calibration.from_dict(grouped_.to_dict()) == grouped_
    assert "3 good pictures of 2 parts" in grouped_.promise()
    with pytest.raises(InputError, match="a unit for each score"):
        calibration([1, 2], [0])


def test_an_extended_model_takes_no_new_part_for_an_old_one():
    old, new = calibration([1, 2, 3], [0, 0, 1], miscounted=0), calibration([4, 5], [0, 0])
    both = new.after(old)
    assert both.scores == (1, 2, 3, 4, 5)
    assert both.unit_count == 3
    assert calibration([4]).after(calibration([1, 2])).units == ()
    assert calibration([4]).after(old).unit_count == 3


def test_a_miscounted_picture_is_of_its_part():
    made = calibration([1, 2, 3], [0, 1, 1, 1], 0.5, miscounted=1)
    assert made.unit_count == 2
    assert float(made.p_values(9)) == pytest.approx((1 + 1 / 3) / 3)


def test_an_envelope_over_lights_is_never_below_any_light():
    rng = np.random.default_rng(0)
    values, units = rng.normal(size=(12, 3)), [k // 3 for k in range(12)]
    made = calibration(envelope(values, units), units)
    queries = np.linspace(-3, 3, 50)
    for column in values.T:
        assert (made.p_values(queries) >= calibration(column, units).p_values(queries) - 1e-12).all()


# ------------------------------------------------------------------------- which pictures set the threshold

DEFECTS = DefectScores(
    {"small": (1.0,), "middle": (3.0, 9.0, 10.0), "large": (3.0, 3.0, 12.0)},
    {"small": (64.0,), "middle": (4.0, 32.0, 32.0), "large": (4.0, 5.0, 64.0)},  # faint ones say nothing
    3,
    1.0,
    0.05,
    5.0,
)


def spread(*more):
    return [*np.linspace(2, 4, 18), *more]


def test_a_picture_that_alone_sets_the_threshold_is_named_with_the_threshold_without_it():
    names = [f"{k}.png" for k in range(19)]
    note = sole_note(calibration(spread(7.5)), names)
    assert note is not None
    assert "18.png alone sets the score threshold: 7.5, without it 4;" in note
    assert sole_note(calibration(spread(4.2)), names) is None
    # of a part with two such pictures both go
    note = sole_note(calibration(spread(7.5, 7.4), [*range(18), 18, 18]), [*names, "19.png"])
    assert note is not None
    assert "without it 4;" in note


def test_what_is_as_far_out_as_defects_is_refused_unless_told_otherwise():
    names = [f"{k}.png" for k in range(20)]
    for more in ((40.0,), (40.0, 60.0), (10.5,)):
        odd = calibration(spread(*more))
        with pytest.raises(InputError, match=r"18\.png.*as far out as defects.*go on with --force"):
            check_defect_like(odd, names[: odd.count], DEFECTS, force=False)
        assert check_defect_like(odd, names[: odd.count], DEFECTS, force=True)
    for fine in (calibration(spread(9.0)), calibration(spread(4.1)), calibration([3.0])):
        assert check_defect_like(fine, names[: fine.count], DEFECTS, force=False) == []
    with pytest.raises(InputError, match="most of the pictures"):
        check_defect_like(
            calibration([20.0, 21, 22]), names[:3], DEFECTS, force=False, before=calibration([1, 2, 3])
        )


def test_too_few_units_do_not_replace_a_calibration_of_more():
    before = calibration(range(33))
    for few in (
        calibration([17]),
        calibration(range(10)),
        calibration(range(40), [k // 4 for k in range(40)]),
    ):
        with pytest.raises(InputError, match=r"needs 19, and only .* could be promised"):
            check_enough(few, before, 33, force=False)
        check_enough(few, before, 33, force=True)
    check_enough(calibration(range(19)), before, 0, force=False)
    check_enough(calibration(range(5)), calibration(range(5)), 0, force=False)


def test_a_model_that_finds_few_defects_without_the_picture_does_not_blame_it():
    weak = DefectScores({"small": (1.0,), "middle": (3.0, 3.5)}, {}, 3, 1.0, 0.05, 5.0)
    odd = calibration(spread(7.5))
    assert odd.far_out()
    assert check_defect_like(odd, [f"{k}.png" for k in range(19)], weak, force=False) == []


def test_a_rate_that_nothing_can_promise_needs_a_finite_number_of_pictures():
    for rate in (5e-324, 1e-310, 1e-13):
        assert calibration(spread()).with_rate(rate).pictures_missing > 1e9


def test_scores_that_are_too_low_for_unseen_pictures_are_noted():
    """The chance that all of n new scores lie below the a highest of K earlier ones, by counting."""
    before = calibration(range(20))
    note = learnt_note(calibration([8.5] * 10), before)
    assert note is not None
    assert "none scores above 8.5, as 11 of 20 did before" in note
    assert learnt_note(calibration([17.5] * 10), before) is None  # 4 in 10
    assert learnt_note(calibration([8.5] * 3), before) is None  # 1 in 8
    assert learnt_note(calibration([8.5] * 10), calibration(range(20), promised=False)) is None
