"""Good pictures as rows: what is judged, what counts, and how new rows get units."""

from dataclasses import replace

import numpy as np
import pytest

from flawscope.calibration.rows import LOST, Values, calibrate, judge, map_values, scored, worst
from flawscope.errors import InputError
from flawscope.pictures.table import Picture


def row(k, unit=None, **more):
    return Picture(f"{k:064d}", "train", f"{k}.png", k if unit is None else unit, **more)


def judged(values, units=None):
    """Rows with scores that are also their maps' maxima; None: one that is counted wrong."""
    rows = [row(k, unit) for k, unit in enumerate(units or range(len(values)))]
    return judge(rows, np.array([[LOST if one is None else Values(one, one, 0.0)] for one in values]))


def test_a_picture_that_is_lost_is_above_all_scores_and_keeps_its_unit():
    rows = judged([1.0, None, 3.0, 2.0], [4, 5, 5, 7])
    assert [one.name for one in scored(rows)] == ["0.png", "2.png", "3.png"]
    made = calibrate(rows, 0.3)
    assert (made.scores, made.miscounted, made.units) == ((1.0, 3.0, 2.0), 1, (4, 5, 7, 5))
    assert float(made.p_values(9.0)) == (1 + 1 / 2) / 4
    assert judge([], np.empty((0, 1, 3))) == []
    with pytest.raises(InputError, match="at least one good picture"):
        calibrate(judged([None, None]))


def test_the_line_tells_how_many_are_lost_not_the_pictures_of_a_fit():
    """Of 24 pictures of a fit none is lost, of 8 of the line two: a quarter of the line is."""
    values = [*range(24), *range(100, 106), None, None]
    rows = [replace(one, drawn=k >= 24) for k, one in enumerate(judged(values))]
    made = calibrate(rows, 0.3)
    assert (made.count, made.line, made.miscounted) == (32, (2.0, 8), 2)
    assert made.weights.sum() == pytest.approx(32)
    assert made.weights[-2:].sum() == pytest.approx(8)
    assert made.expected_rate == pytest.approx((1 + 8 + 24 / 30) / 33)  # above the second highest
    assert made.score_threshold == 104
    assert made.with_rate(0.05).effective_rate == pytest.approx(9 / 33)
    scores = np.array([-1.0, 50, 103, 200])
    assert (made.unit_p_values(scores) == made.p_values(scores)).all()
    assert made.p_values(200.0) == pytest.approx(9 / 33)
    assert made.p_values(-1.0) == pytest.approx(1)
    assert made.rate_bound >= made.expected_rate
    assert "2 of them for parts counted wrong or not found, 2 of 8 drawn from" in made.promise()
    fewer = calibrate([replace(one, drawn=k < 24) for k, one in enumerate(rows)], 0.3)
    assert (fewer.line.lost, fewer.weights.tolist()) == (0.0, [1.0] * 32)  # lost ones are never fewer
    assert made.without_units([0]).line == made.line


def test_in_several_lights_the_envelope_counts_and_the_middle_is_that_of_their_own():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 3, 3))
    values[5, 2] = np.nan
    rows = judge([row(k) for k in range(8)], values)
    assert [one.score is None for one in rows] == [k == 5 for k in range(8)]
    kept = [k for k in range(8) if k != 5]
    assert [rows[k].median for k in kept] == values[kept, 0, 2].tolist()
    for part, name in enumerate(("score", "maximum")):
        found = np.sort([getattr(rows[k], name) for k in kept])
        np.testing.assert_array_equal(found, np.sort(values[kept, :, part], axis=0).max(axis=1))


def test_rows_are_judged_anew_and_what_does_not_count_is_left_out():
    before = [row(0, score=9.0, maximum=9.0, median=9.0, counted=True), row(1)]
    again = judge(before, np.array([[Values(1.0, 2.0, 3.0)], [Values(2.0, 3.0, 4.0)]]))
    assert again[0] == row(0, score=1.0, maximum=2.0, median=3.0, counted=True)
    some = [again[0], replace(again[1], counted=False)]
    assert calibrate(some).scores == (1.0,)
    assert again[0].forgotten() == row(0)


def test_where_nothing_is_promised_each_picture_counts():
    made = calibrate(judged([1.0, 2.0, 3.0], [0, 0, 0]), promised=False)
    assert (made.units, made.unit_count, made.promised) == ((), 3, False)


def test_values_of_a_map_are_of_the_pixels_that_count_and_the_worst_frame_decides():
    drawn = np.arange(12.0).reshape(3, 4)
    inside = drawn >= 8
    assert map_values(2.5, drawn, inside) == (2.5, 11.0, 9.5)
    assert map_values(2.5, drawn, np.zeros_like(inside)).median == 5.5
    assert worst([Values(1, 5, 2), Values(3, 4, 6), Values(2, 2, 3)]) == (3, 5, 3)
