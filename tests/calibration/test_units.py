"""Pictures of one part are one unit: the promise holds over units, by the literal formula and by chance."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawscope.calibration.outliers import (
    defect_like_question,
    flagged_note,
    learnt_note,
    sole_note,
    too_few_question,
)
from flawscope.calibration.power import MIN_DEFECTS, DefectScores
from flawscope.calibration.threshold import Calibration, envelope, far_severity
from flawscope.errors import InputError

NAMES = [f"{k}.png" for k in range(60)]


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
@settings(deadline=None, max_examples=25)
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
@settings(deadline=None, max_examples=50)
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
@settings(deadline=None, max_examples=50)
def test_pictures_that_are_units_each_answer_as_they_did(scores, rate):
    """To the last digit, and in any order of the numbers."""
    plain, numbered = calibration(scores, (), rate), calibration(scores, range(len(scores)), rate)
    queries = np.arange(-1, 11, 0.5)
    assert np.array_equal(plain.p_values(queries), numbered.p_values(queries))
    n = len(scores)
    assert np.array_equal(
        plain.p_values(queries), [(1 + sum(s >= q for s in scores)) / (n + 1) for q in queries]
    )
    assert plain.score_threshold == numbered.score_threshold
    assert plain.expected_rate == numbered.expected_rate
    assert numbered.units == ()


def test_pictures_of_a_part_are_counted_and_each_has_a_unit():
    grouped_ = calibration([1, 2, 3], [4, 4, 7])
    assert "3 good pictures of 2 parts" in grouped_.promise()
    with pytest.raises(InputError, match="a unit for each score"):
        calibration([1, 2], [0])


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


def spread(*more):
    return [*np.linspace(2, 4, 18), *more]


def test_a_picture_that_alone_sets_the_threshold_is_named_with_the_threshold_without_it():
    note = sole_note(calibration(spread(7.5)), NAMES).line
    assert (
        "18.png alone decides from when on a picture is called anomalous (score 7.5, without it 4):" in note
    )
    assert sole_note(calibration(spread(4.2)), NAMES) is None
    # of a part with two such pictures both go
    assert "without it 4)" in sole_note(calibration(spread(7.5, 7.4), [*range(18), 18, 18]), NAMES).line


def clear_defects(*scores):
    return DefectScores({"small": (1.0,), "middle": scores}, {}, 3, 1.0, 0.05, 5.0)


def test_pictures_that_hide_defects_are_asked_about():
    defects = clear_defects(*np.linspace(8, 30, 12))
    cases = ((40.0,), "18.png is"), ((40.0, 60.0), "19.png, 18.png are"), ((66, 66.1, 66.2, 65), "")
    for more, named in cases:
        question = defect_like_question(calibration(spread(*more)), NAMES, defects).line
        assert named in question
        assert "12 of 12 clear simulated defects more would be found" in question
    assert defect_like_question(calibration([3.0]), NAMES, defects) is None
    before, most = calibration([1, 2, 3]), calibration([40.0, 41, 42])
    assert defect_like_question(most, NAMES, defects, before=before).line.startswith("most of the pictures")


def test_an_odd_picture_that_hides_nothing_is_not_asked_about():
    """Good tiles, cells and screws: thresholds with the odd picture, without it, and what half of the defects
    score."""
    for odd, without, usual in ((3.53, 3.509, 4.696), (3.608, 3.477, 9.778), (19.84, 19.0, 21.89)):
        near = without - (odd - without) / 5
        scores = [*np.linspace(near, without, 18), odd]
        defects = clear_defects(*np.linspace(usual - 1, usual + 1, 20))
        made = replace(calibration(scores), map_level=near)
        assert made.far_out()
        assert defect_like_question(made, NAMES, defects) is None
    # that moves the threshold by little, among defects that score little
    commutators = calibration([*np.linspace(20, 28.93, 40), 29.91])
    assert defect_like_question(commutators, NAMES, clear_defects(*np.linspace(26, 31, 20))) is None


def test_few_simulated_defects_decide_nothing_but_what_lies_far_out_is_asked_about():
    odd, far = calibration(spread(9.0)), calibration(spread(40.0))
    few = clear_defects(*[5.0] * (MIN_DEFECTS - 1))
    assert defect_like_question(odd, NAMES, few) is None
    assert defect_like_question(odd, NAMES, clear_defects(*[5.0] * MIN_DEFECTS)) is not None
    for defects, count in ((few, MIN_DEFECTS - 1), (None, 0)):
        assert defect_like_question(far, NAMES, defects).line.endswith(f"there are {count} [FS-G12]")


def test_a_foreign_part_is_asked_about_by_a_model_that_finds_few_defects_too_and_not_blamed_for_them():
    """Scores of drawn fabrics with a picture of keys among them; half of the defects score as good ones."""
    weak, strong = (clear_defects(*np.linspace(*ends, 40)) for ends in ((14, 20.5), (90, 99)))
    near, foreign = (calibration([*np.linspace(16.5, 19.5, 11), odd]) for odd in (21.0, 78.6))
    said = "half of the 40 clear simulated defects score less than 17.25"
    assert defect_like_question(foreign, NAMES, weak).line.endswith(f"{said} [FS-G12]")
    assert defect_like_question(near, NAMES, weak) is None
    assert defect_like_question(foreign, NAMES, strong) is None
    odd = calibration(spread(7.5))
    assert odd.far_out()
    assert defect_like_question(odd, NAMES, clear_defects(*np.linspace(2, 3.9, 10))) is None


def test_pictures_that_are_equally_far_out_do_not_hide_each_other():
    near = [*np.linspace(18, 22, 18)]
    for bad in ((66, 66.1), (66, 60), (48, 48, 48.5), (40, 40, 40, 41), (30, 30.2)):
        made = calibration([*near, *bad])
        assert sorted(made.far_out()) == [18 + k for k in range(len(bad))]
        note = sole_note(made, NAMES).line
        assert "alone decide from when on" in note
        assert "without them 22" in note
    assert calibration(near).far_out() == []


def test_scores_that_lie_far_out_are_those_that_no_rest_explains(monkeypatch):
    """By a calibration of each rest, as the words say; and in numbers that grow, without making one."""
    rng, some = np.random.default_rng(0), 0
    for _ in range(150):
        count, wrong = int(rng.integers(1, 40)), int(rng.integers(0, 2))
        scores = rng.lognormal(0, 0.1, count)
        scores[rng.integers(count, size=2)] *= rng.uniform(1, 3)
        units = tuple(rng.integers(0, count, count + wrong).tolist())
        args = tuple(scores.tolist()), tuple((2 * scores).tolist()), 0.3, 0.1
        made = Calibration(*args, miscounted=wrong, units=units)
        order, expected = np.argsort(-scores, kind="stable").tolist(), []
        for most in range(max(1, made.count // 4), 0, -1):
            rest = made.without_units(order[:most])
            far = far_severity(rest.unit_count + 1)
            if rest is not made and float(rest.severity(scores[order[most - 1]])) > far:
                expected = order[:most]
                break
        assert made.far_out() == expected
        some += bool(expected)
    assert some > 20
    many = calibration(rng.lognormal(0, 0.1, 500))
    monkeypatch.setattr(Calibration, "__post_init__", lambda self: pytest.fail("a calibration for each rest"))
    assert many.far_out() == []


def test_few_good_scores_rarely_lie_far_out_by_chance():
    """In about one of 16 draws for any number of scores, where 3 spreads alone are reached in one of 6 by 8
    scores. A score as foreign parts get lies far out among 5."""
    rng = np.random.default_rng(0)
    for count in (5, 8, 40):
        far = [bool(calibration(rng.gumbel(10, 1, count)).far_out()) for _ in range(150)]
        assert np.mean(far) < 0.11, count  # of one score or several
    assert calibration([11.2, 11.4, 12.2, 12.4, 70.0]).far_out() == [4]
    assert calibration([11.2, 11.4, 12.2, 70.0]).far_out() == []


def test_too_few_units_do_not_replace_a_calibration_of_more():
    before = calibration(range(33))
    for few in ([17],), (range(10),), (range(40), [k // 4 for k in range(40)]):
        assert "needs 19, and only" in too_few_question(calibration(*few), before, 33)
    assert too_few_question(calibration(range(19)), before, 0) is None
    assert too_few_question(calibration(range(5)), calibration(range(5)), 0) is None


def test_a_rate_that_nothing_can_promise_needs_a_finite_number_of_pictures():
    for rate in (5e-324, 1e-310, 1e-13):
        assert calibration(spread()).with_rate(rate).pictures_missing > 1e9


def test_scores_that_are_too_low_for_unseen_pictures_are_noted():
    """The chance that all of n new scores lie below the a highest of K earlier ones, by counting."""
    before = calibration(range(20))
    note = learnt_note(calibration([8.5] * 10), before)
    assert "none scores above 8.5, as 11 of 20 did before" in note
    assert learnt_note(calibration([17.5] * 10), before) is None  # 4 in 10
    assert learnt_note(calibration([8.5] * 3), before) is None  # 1 in 8
    assert learnt_note(calibration([8.5] * 10), calibration(range(20), promised=False)) is None


@pytest.mark.parametrize("far", [(66, 66.1), (66, 60), (25, 25.1), (66, 25, 25.1), (25,)])
def test_all_that_were_flagged_before_are_named_however_near_to_each_other_they_score(far):
    """In pairs and triples they are each other's rest, so that none seems far out by itself."""
    usual = np.linspace(18, 22, 20)
    note = flagged_note(calibration([*usual, *far]), calibration(usual), NAMES).line
    assert all(name in note for name in NAMES[20:][: len(far)])
    assert not any(f" {name}" in note for name in NAMES[:20])


def test_a_picture_that_was_hardly_flagged_before_or_raises_nothing_is_not_named():
    usual = np.linspace(18, 22, 20)
    before = calibration(usual)
    assert flagged_note(calibration([*usual, 22.5]), before, NAMES) is None
    assert flagged_note(calibration([*usual, *usual, 30], rate=0.1), before, NAMES) is None
    assert flagged_note(calibration([*usual, 66]), calibration(usual, promised=False), NAMES) is None
