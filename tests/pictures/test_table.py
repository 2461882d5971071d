"""The table of good pictures: rows, their way through a file, and one pass over what is given."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flawscope.pictures import table
from flawscope.pictures.appearance import FEATURES
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import pixel_hash
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.table import (
    Picture,
    PictureTable,
    looks_to_tensors,
    rows_from_table,
    rows_to_table,
    with_looks,
)

MEASURED = tuple(round(0.1 * k, 6) for k in range(len(FEATURES)))


def look(seed):
    return Look(np.random.default_rng(seed).uniform(0, 255, (64, 64)).astype(np.float16), 0.5)


def row(k, **more):
    return Picture(f"{k:064d}", "train", f"{k}.png", k, **more)


def judged(k, score, **more):
    return row(k, score=score, maximum=score, median=0.0, counted=True, **more)


def test_rows_are_the_same_on_their_way_through_a_file():
    rows = (
        judged(0, 1.0, size=(480, 640), measured=MEASURED, origin="fit", look=look(0)),
        row(1, counted=True),
        judged(2, 0.1 + 0.2, origin="line", drawn=True, look=look(2)),
        Picture("e" * 64, "seen", "ü.png"),
    )
    read = rows_from_table(json.loads(json.dumps(rows_to_table(rows), allow_nan=False)))
    assert read == rows
    again = with_looks(read, looks_to_tensors(rows))
    assert [one.look is None for one in again] == [False, True, False, True]
    np.testing.assert_array_equal(again[2].look.thumbnail, rows[2].look.thumbnail)


def test_a_column_that_an_earlier_file_lacks_has_its_default_and_those_of_a_picture_must_be_there():
    kept = rows_to_table([row(0)])
    for name in kept:
        less = {key: values for key, values in kept.items() if key != name}
        if name in ("hash", "role", "name"):
            with pytest.raises((KeyError, ValueError)):
                rows_from_table(less)
        else:
            assert rows_from_table(less) == (replace(row(0), unit=-1) if name == "unit" else row(0),)
        with pytest.raises(ValueError):
            rows_from_table({**kept, name: []})
    assert rows_from_table({**kept, "of a later version": [1]}) == (row(0),)


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", [0, 3]), ("size", [2.0, 3]), ("measured", [1.0]), ("measured", ["x"]), ("origin", 3)],
)
def test_a_damaged_column_is_an_error(name, value):
    with pytest.raises((ValueError, TypeError)):
        rows_from_table({**rows_to_table([row(0)]), name: [value]})


def test_damaged_looks_are_an_error():
    rows = [row(k, look=look(k)) for k in range(3)]
    kept = looks_to_tensors(rows)
    damaged = [
        {**kept, "look_rows": kept["look_rows"] + 1},
        {**kept, "looks": kept["looks"][:2]},
        {**kept, "looks": kept["looks"].astype(np.float32)},
        {**kept, "look_noise": -kept["look_noise"]},
        {name: one for name, one in kept.items() if name != "look_noise"},
    ]
    for tensors in damaged:
        with pytest.raises(ValueError, match="looks"):
            with_looks(rows, tensors)
    assert with_looks(rows, {}) == tuple(rows)


def test_a_file_keeps_the_looks_of_so_many_pictures_at_most(monkeypatch):
    monkeypatch.setattr(table, "MAX_LOOKS", 4)
    rows = [row(k, look=look(k)) for k in range(9)]
    assert looks_to_tensors(rows)["look_rows"].tolist() == [0, 3, 6]
    assert looks_to_tensors([row(0)]) == {}


def test_one_pass_reads_what_a_row_holds(tmp_path):
    shown = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    for name in ("a.png", "copy.png"):
        Image.fromarray(shown).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    names, decoded = ["a.png", "b.png", "copy.png"], Counter()
    pictures = DecodedPictures([tmp_path / name for name in names])
    read = PictureTable.read(pictures, names, "calibrate", lambda *_: decoded.update(["seen"]))
    assert [*read.rows] == [0, 2]
    first = read.rows[0]
    assert (first.hash, first.name, first.size, first.origin, first.role) == (
        pixel_hash(shown),
        "a.png",
        (30, 40),
        "calibrate",
        "calibration",
    )
    assert read.distinct() == [0]
    assert [*read.failures] == [1]
    assert "b.png" in read.failures[1]
    assert decoded["seen"] == 3


def test_pictures_of_a_subset_are_decoded_once_with_the_others(tmp_path, monkeypatch):
    for k in range(3):
        Image.fromarray(np.full((8, 8), 40 * k, np.uint8)).save(tmp_path / f"{k}.png")
    pictures = DecodedPictures(sorted(tmp_path.iterdir()))
    several = pictures.subset([2, 0]).subset([1])
    first = several.read(0)
    assert first.max() == 0
    assert pictures.read(0) is first
