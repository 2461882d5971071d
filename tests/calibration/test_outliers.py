"""What is unusual about good pictures follows from their rows and columns, whoever asks."""

from dataclasses import replace

import numpy as np
import pytest

from flawscope.calibration.outliers import (
    ALONE,
    APART,
    ASKS,
    HIGH,
    NOTHING,
    UNLIKE,
    WORDS,
    Unusual,
    find_unusual,
    find_unusual_looks,
    list_suspects,
    refuse,
    settle,
)
from flawscope.calibration.rows import calibrate
from flawscope.errors import InputError
from flawscope.pictures.appearance import FEATURES, AppearanceRange
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.table import CALIBRATION, TRAIN, Picture

COUNT = 20
RNG = np.random.default_rng(0)


def look(spread):
    return Look(RNG.normal(90, spread, (64, 64)).astype(np.float16), 0.1)


def measured(far=0.0):
    """An appearance; far: of the brightness, in what is usual."""
    usual = RNG.normal(0, 0.01, len(FEATURES))
    usual[0] += far
    return tuple((0.4 + usual).tolist())


@pytest.fixture
def rows():
    return [Picture(f"{k}", CALIBRATION, f"{k}.png", k, 1.0 + k / 50, 1.0, 0.1, True) for k in range(COUNT)]


def reasons(rows, seen, **more):
    return {one.reason: one.line for one in find_unusual(rows, calibrate(rows), None, seen, **more)}


def plain_third(row):
    """Look of a picture, of which the third shows nothing."""
    return look(0.5 if row.unit == 3 else 30.0)


def hashes(rows):
    return {row.hash for row in rows}


def test_reasons_come_from_the_columns_of_the_new_rows(rows):
    known = AppearanceRange.from_measures(measured() for _ in range(30))
    seen = [row.seen(plain_third(row), measured(0.6 if row.unit in (7, 9) else 0.0), None) for row in rows]
    found = reasons(seen, hashes(rows), appearance=known)
    assert found[NOTHING].startswith("3.png: shows nothing")
    assert found[APART].startswith("7.png, 9.png lie apart")
    assert "brighter" in found[UNLIKE]
    assert found[UNLIKE].endswith(("7.png, 9.png [FS-G18]", "7.png and 9.png [FS-G18]"))
    assert not {NOTHING, APART, UNLIKE} & {*reasons(rows, {})}


def test_a_copy_is_no_second_picture(rows):
    """Its row has the hash of the picture that it is a copy of."""
    rows, seen = [replace(row, look=plain_third(row)) for row in rows], hashes(rows)
    copy = Picture("3", "duplicate", "copy.png", 3)
    assert reasons([*rows, copy], seen)[NOTHING].startswith("3.png: shows nothing")
    learnt = Picture("x", TRAIN, "x.png", 30)  # known before
    assert reasons([learnt, *rows], seen)[NOTHING].startswith("3.png: shows nothing")


def test_suspects_are_each_told_once_with_their_first_reason(rows):
    rows, seen = [replace(row, look=plain_third(row)) for row in rows], hashes(rows)
    rows[5] = replace(rows[5], score=9.0, maximum=9.0)  # alone decides
    found = [*find_unusual(rows, calibrate(rows), None, seen, asks=False)]
    suspects = list_suspects(found, {row.name: row.score for row in rows}, {"5.png": 9.0, "19.png": 1.4})
    told = [(one.name, one.reason) for one in suspects]
    assert told == [("5.png", ALONE), ("19.png", HIGH), ("3.png", NOTHING)]
    assert all(one.reason in WORDS for one in suspects)


def test_force_says_that_all_are_good(rows):
    found = [
        *find_unusual_looks([look(0.5), *(look(30.0) for _ in range(9))], [f"{k}.png" for k in range(10)])
    ]
    assert [ASKS[one.reason] for one in found] == [True]
    with pytest.raises(InputError, match=r"0\.png: shows nothing .*--force"):
        refuse(found, force=False)
    assert refuse(found, force=True) == [found[0].line]
    assert refuse([Unusual(UNLIKE, "brighter")], force=False) == ["brighter"]
    assert settle(found) == ([], [found[0].line])
    assert settle(found, force=True) == ([found[0].line], [])
