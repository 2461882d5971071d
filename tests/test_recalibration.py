"""Good pictures are judged as any prediction is, by a run of their own where one is given."""

import numpy as np
import pytest

from brightness import SIDE, model
from flawscope.errors import ExcludedPictureError
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import pixel_hash
from flawscope.pictures.table import Picture
from flawscope.predictor.scoring import SessionPictures, leave_out_known, score
from flawscope.views.light import Light


def shade(level, k=0):
    picture = np.full((2 * SIDE, 2 * SIDE, 3), round(255 * level), np.uint8)
    picture[k, :2] = 1  # no two are alike
    return picture


def rows_of(pictures, first_unit=100):
    return {
        k: Picture(
            pixel_hash(one) if isinstance(one, np.ndarray) else "", "calibration", f"{k}", first_unit + k
        )
        for k, one in enumerate(pictures)
    }


def plain(row):
    return None


def scored(predictor, pictures, rows, run_of=plain):
    return score(SessionPictures(predictor, DecodedPictures(pictures)), rows, run_of, [Light()])


@pytest.fixture
def pictures():
    return [shade(level, k) for k, level in enumerate((0.2, 0.4, 0.6, 0.4))]


def test_those_that_are_asked_for_are_judged_and_others_say_why_not(pictures):
    rows = rows_of([*pictures, "no.png"])
    del rows[3]
    found = scored(model(), [*pictures, "no.png"], rows)
    assert [*found.rows] == [*found.unlit] == [0, 1, 2]
    np.testing.assert_allclose([row.score for row in found.rows.values()], [0.2, 0.4, 0.6], atol=0.01)
    assert [*found.answers.failures] == [4]
    assert "no.png" in found.answers.failures[4]
    assert scored(model(), ["no.png"], {0: rows[4]}).rows == {}


def test_a_picture_has_the_run_that_has_not_learnt_from_it(pictures):
    rows = rows_of(pictures)

    predictor = model()

    def halved(images):
        scores, maps = predictor.session.run(images)
        return scores / 2, maps / 2

    def run_of(row):
        if row.unit == 100:
            raise ExcludedPictureError("learnt from")
        return halved if row.unit == 102 else None

    found = scored(predictor, pictures, rows, run_of)
    assert ([*found.rows], found.answers.excluded) == ([1, 2, 3], [0])
    scores = [row.score for row in found.rows.values()]
    np.testing.assert_allclose(scores, [0.4, 0.3, 0.4], atol=0.01)


def test_judged_rows_keep_what_they_are_and_count(pictures):
    rows = rows_of(pictures)
    rows[1] = Picture(rows[1].hash, "train", "known", 77, drawn=True)
    found = scored(model(), pictures, rows)
    assert [*found.rows] == [0, 1, 2, 3]
    judged = found.rows[1]
    assert (judged.name, judged.unit, judged.role, judged.counted, judged.drawn) == (
        "known",
        77,
        "train",
        True,
        True,
    )
    assert judged.score == found.answers.pictures[1].values[0, 0]
    assert len(judged.measured) > 0


def test_a_known_part_has_the_run_without_it_and_what_cannot_be_left_out_is_not_judged(pictures):
    known = model()
    asked = []

    def run_without(artefact, unit):
        asked.append(unit)

        def refuse(images):
            raise ExcludedPictureError("it cannot")

        return refuse

    known.session.run_without = run_without
    rows = rows_of(pictures)
    learnt = [Picture("a", "train", "a.png", 101), Picture("b", "calibration", "b.png", 102)]
    found = scored(known, pictures, rows, leave_out_known(known, learnt))
    assert ([*found.rows], found.answers.excluded, asked) == ([0, 2, 3], [1], [101])
