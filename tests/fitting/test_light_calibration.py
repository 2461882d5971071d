"""`fit --light`: pictures are brought to one light, and the false-alarm rate is kept in each light."""

from unittest.mock import Mock

import numpy as np
import pytest

import flawscope
from flawscope.calibration.rows import Values, calibrate, scored
from flawscope.calibration.threshold import Calibration, envelope
from flawscope.errors import InputError
from flawscope.fitting import judging
from flawscope.fitting.training_views import Reader, number_views
from flawscope.methods.task import Fitted, LeaveOut, Task
from flawscope.views.light import Light, Normalization, channel_statistics, light_variations
from flawscope.views.preprocess import Preprocess
from flawscope.views.tiles import TileSummary
from light_helpers import SETTINGS, fitted_fixture, part  # noqa: F401


def test_the_p_value_by_the_envelope_is_the_largest_of_all_lights():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 5)) + rng.normal(size=5)

    def p_values(values, new):
        return Calibration(tuple(values), tuple(values), 0.0).p_values(new)

    new = np.concatenate([rng.normal(size=50), scores.ravel()])  # ties too
    largest = np.max([p_values(column, new) for column in scores.T], axis=0)
    np.testing.assert_array_equal(p_values(envelope(scores), new), largest)
    order = np.argsort(scores[:, 0])
    assert (np.diff(envelope(scores)[order]) >= 0).all()


def test_light_within_the_range_is_undone_and_more_is_not():
    pictures = [part(k) for k in range(10)]
    how = Preprocess((64, 64))
    shown = [how(p)[0][0] for p in pictures]
    found = [s for s in map(channel_statistics, shown) if s is not None]
    light = Normalization.from_statistics(found, 0.1)
    how = Preprocess((64, 64), normalization=light)
    assert Preprocess.from_dict(how.to_dict()) == how
    same = how(pictures[0])[0]
    for change in light_variations(0.1):
        views = how.views(change(pictures[0]))
        assert views.tone.inside
        np.testing.assert_allclose(views.images([0]), same, atol=2 / 255)  # rounded to 8 bits between
    dark = how.views(Light(brightness=0.5)(pictures[0]))
    assert not dark.tone.inside
    assert dark.images([0]).mean() < 0.8 * same.mean()


def test_padding_stays_marked_and_counts_nowhere():
    tall = part(0)[:, 20:60]
    light = Normalization(0.1, ((0.3, 0.4, 0.5),) * 3, ((0.05, 0.1, 0.3),) * 3)
    plain, corrected = (
        Preprocess((64, 64), keep_aspect=True, normalization=one)(tall)[0][0] for one in (None, light)
    )
    np.testing.assert_array_equal(plain < 0, corrected < 0)
    means = channel_statistics(corrected)
    np.testing.assert_allclose(means[0], 0.4, atol=0.01)


def test_a_large_range_of_light_is_refused():
    with pytest.raises(InputError, match="no small change"):
        flawscope.fit([part(k) for k in range(4)], light="60%", **SETTINGS)


def drawn(learnt, groups, rate=0.05):
    return judging.draw_pictures(range(len(groups)), groups, learnt, 6, rate, seed=3)


@pytest.mark.parametrize(("count", "rate"), [(762, 0.05), (762, 0.01), (3000, 0.05), (400, 0.1), (100, 0.2)])
def test_of_many_pictures_so_many_are_drawn_that_the_rate_can_be_promised(count, rate):
    found = drawn(count, list(range(count)), rate)
    assert found == sorted(set(found))
    made = Calibration(tuple(map(float, found)), tuple(map(float, found)), 0.0, rate=rate)
    assert made.expected_rate == pytest.approx(rate)  # nothing is lost by rounding
    assert made.pictures_missing == 0
    assert len(found) >= 3 / rate - 1
    assert len(found) <= max(3 / rate, count / 12 + 1 / rate + 1)


def test_of_few_pictures_all_are_judged_in_each_light_and_groups_are_drawn_whole():
    assert drawn(59, list(range(59))) == list(range(59))
    assert judging.draw_pictures(range(76), range(1000), 900, 6, 0.05, seed=3) == list(range(76))
    groups = [i // 6 for i in range(1200)]
    found = drawn(1200, groups)
    numbers = {groups[i] for i in found}
    assert found == [i for i, group in enumerate(groups) if group in numbers]
    assert len(numbers) >= 59


def test_a_picture_that_is_counted_wrong_in_a_light_counts_above_all_scores(monkeypatch):
    """It is told and left out, and the others keep their scores and units."""

    def judged(failures, brightest=2.5):
        def summarise(self, pictures, rows, run_of, lights, stage):
            light = [2.5, brightest, *[2.5] * (len(lights) - 2)]
            found = [[[one(value)] for value in light] for _ in pictures]
            found[1][2] = []
            return found

        def one(value):
            return TileSummary((value, -np.inf), (value, -np.inf), (0, 0), -np.inf, np.zeros((2, 1)))

        monkeypatch.setattr(judging.FitPictures, "_summarise", summarise)
        how = Preprocess(normalization=Normalization(0.1, *[((0.1, 0.2, 0.3),) * 3] * 2))
        reader = Reader([part(0)] * 4, how, set())
        reader.hashes, reader.failures = dict(enumerate("abcd")), failures
        views, task = number_views(reader, [(80, 80)] * 4, 0), Task(lambda i: None, [5, 6, 7, 7], rate=0.4)
        fitted = Fitted({k: Values(k + 1.0, k + 1.0, 0.0) for k in range(4)}, [0, 1, 2, 3])
        leave_out = Mock(spec=LeaveOut, model=Mock(config=Mock(seed=0)))
        pictures, rows = views.to_pictures(fitted), reader.rows(task.groups)
        return judging.judge_fit(leave_out, pictures, rows, views, task)

    found = judged({1: "one part too many"})
    known = calibrate(found.rows.values(), 0.4)
    assert [row.hash for row in scored(found.rows.values())] == ["a", "c", "d"]
    assert known.scores == (2.5, 3.0, 4.0)
    assert (known.miscounted, known.units, known.unit_count) == (1, (5, 7, 7, 6), 3)
    assert not found.fitted.notes
    (note,) = judged({1: "one part too many"}, brightest=9.0).fitted.notes
    assert note.startswith("with brightness 1.1 most good pictures score above")
    with pytest.raises(InputError, match="cannot be read any more"):
        judged({})


def test_a_part_that_is_lost_in_another_light_is_told():
    how = Mock(channels=None, **{"cut.return_value": Mock(unusable="no part found")})
    reader = Reader([part(0)], how, set())
    assert [*reader.views_in_lights(0, [Light(brightness=1.1)])] == [None]
    assert reader.failures == {0: "with brightness 1.1 no part found, in picture 0"}
