"""Good pictures are judged as any prediction is, by a run of their own where one is given."""

import numpy as np
import pytest

from brightness import SIDE, model
from flawscope.calibration.goods import Picture
from flawscope.errors import ExcludedPictureError
from flawscope.pictures.decoding import pixel_hash
from flawscope.predictor.recalibration import judge_good


def shade(level, k=0):
    picture = np.full((2 * SIDE, 2 * SIDE, 3), round(255 * level), np.uint8)
    picture[k, :2] = 1  # no two are alike
    return picture


@pytest.fixture
def pictures():
    return [shade(level, k) for k, level in enumerate((0.2, 0.4, 0.6, 0.4))]


def test_each_is_judged_once_and_those_named_are_left_out(pictures):
    known = pixel_hash(pictures[3])
    found = judge_good(model(), [*pictures, pictures[1], "no.png"], but={known})
    assert [one.number for one in found.pictures] == [0, 1, 2]
    np.testing.assert_allclose([one.values[0, 0] for one in found.pictures], [0.2, 0.4, 0.6], atol=0.01)
    assert len(found.failures) == 1
    assert "no.png" in found.failures[0]


def test_a_picture_has_the_run_that_has_not_learnt_from_it(pictures):
    hashes = [pixel_hash(one) for one in pictures]

    def run_of(digest, run):
        if digest == hashes[0]:
            raise ExcludedPictureError("learnt from")

        def halved(images):
            scores, maps = run(images)
            return scores / 2, maps / 2

        return halved if digest == hashes[2] else run

    found = judge_good(model(), pictures, run_of=run_of)
    assert [one.digest for one in found.pictures] == hashes[1:]
    np.testing.assert_allclose([one.values[0, 0] for one in found.pictures], [0.4, 0.3, 0.4], atol=0.01)


def test_rows_are_kept_and_judged_or_new_with_units_of_their_own(pictures):
    known = model()
    kept = [row.forgotten() for row in known.manifest.pictures]
    found = judge_good(known, pictures)
    kept.append(Picture(found.pictures[1].digest, "train", "known", 77))
    every = found.rows(kept, [f"{k}.png" for k in range(4)], None, lambda line: None)
    assert every[: len(kept) - 1] == tuple(kept[:-1])
    judged, rows = every[len(kept) - 1], every[len(kept) :]
    assert (judged.name, judged.unit, judged.role, judged.counted) == ("known", 77, "train", True)
    assert judged.score == found.pictures[1].values[0, 0]
    assert all(row.counted and row.role == "calibration" for row in rows)
    assert min(row.unit for row in rows) > 77
    rows = (judged, *rows)
    assert {*found.seen} == {row.hash for row in rows}
