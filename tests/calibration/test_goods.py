"""Good pictures as rows: what is judged, what counts, and how new rows get units."""

import json
from dataclasses import replace

import numpy as np
import pytest

from flawscope.calibration.goods import (
    LOST,
    Picture,
    Values,
    calibrate,
    judge,
    map_values,
    next_unit,
    renumber,
    rows_from_table,
    rows_to_table,
    scored,
    worst,
)
from flawscope.errors import InputError


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


@pytest.mark.parametrize("seed", range(3))
def test_new_rows_have_units_of_their_own_whatever_the_numbers_are(seed):
    rng = np.random.default_rng(seed)
    known = [row(k, int(unit)) for k, unit in enumerate(rng.integers(0, 30, 12))]
    new = [row(100 + k, int(unit)) for k, unit in enumerate(rng.integers(0, 5, 9))]
    found = renumber([*new, Picture("f" * 64, "seen", "defect")], known)
    assert not {one.unit for one in found} & {one.unit for one in known}
    assert len({one.unit for one in found[:-1]}) == len({one.unit for one in new})  # -1: a defect has none
    assert (found[-1].unit, next_unit(known)) == (
        -1,
        min(one.unit for one in found[:-1]) - min(n.unit for n in new),
    )
    assert renumber(new, []) == tuple(new)


def test_rows_are_the_same_on_their_way_through_a_file():
    rows = (*judged([1.0, None, 0.1 + 0.2]), row(9), Picture("e" * 64, "seen", "ü.png", drawn=True))
    table = json.loads(json.dumps(rows_to_table(rows), allow_nan=False))
    assert rows_from_table(table) == rows
    assert calibrate(rows_from_table(table)) == calibrate(rows)


def test_a_column_that_an_earlier_file_lacks_has_its_default_and_those_of_a_picture_must_be_there():
    table = rows_to_table([row(0)])
    for name in table:
        less = {key: values for key, values in table.items() if key != name}
        if name in ("hash", "role", "name"):
            with pytest.raises((KeyError, ValueError)):
                rows_from_table(less)
        else:
            assert rows_from_table(less) == (row(0, -1 if name == "unit" else None),)
        with pytest.raises(ValueError):
            rows_from_table({**table, name: []})
    assert rows_from_table({**table, "of a later version": [1]}) == (row(0),)


def test_values_of_a_map_are_of_the_pixels_that_count_and_the_worst_frame_decides():
    drawn = np.arange(12.0).reshape(3, 4)
    inside = drawn >= 8
    assert map_values(2.5, drawn, inside) == (2.5, 11.0, 9.5)
    assert map_values(2.5, drawn, np.zeros_like(inside)).median == 5.5
    assert worst([Values(1, 5, 2), Values(3, 4, 6), Values(2, 2, 3)]) == (3, 5, 3)
