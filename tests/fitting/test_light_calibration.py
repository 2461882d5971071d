"""`fit --light`: pictures are brought to one light, and the false-alarm rate is kept in each light."""

from unittest.mock import Mock

import numpy as np
import pytest
from scipy import ndimage

import flawscope
from flawscope.calibration.threshold import Calibration, envelope
from flawscope.errors import InputError
from flawscope.fitting import light_calibration
from flawscope.fitting.training_pictures import Reader
from flawscope.methods.task import Fitted, LeaveOut, Task
from flawscope.views import preprocess
from flawscope.views.light import Light, Normalization, channel_statistics, light_variations
from flawscope.views.preprocess import Preprocess

SETTINGS = {"size": "64", "samples": 0, "device": "cpu"}


def part(seed):
    """Grey part with a hole on a coloured ground, noisy, with a surface of its own."""
    rng = np.random.default_rng(seed)
    picture = np.full((80, 80, 3), (60, 80, 120), np.float64)
    picture[20:60, 20:60] = 150
    surface = ndimage.gaussian_filter(np.random.default_rng([seed, 1]).normal(0, 60, (80, 80)), 3)
    picture[20:60, 20:60] += surface[20:60, 20:60, None]
    picture[30:40, 30:40] = 40
    return (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted():
    return flawscope.fit([part(k) for k in range(20)], light="10%", **SETTINGS)


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


def check_each_light(model, seeds, most=0.2):
    """In each light so many good parts at most are anomalous, and a scratched one is."""
    assert "in each light within 10%" in model.calibration.method
    new = [part(seed) for seed in seeds]
    for light in light_variations(0.1):
        answers = model.predict([light(picture) for picture in new])
        assert np.mean([one.is_anomalous for one in answers]) <= most
        assert not any(one.to_dict().get("outside_light") for one in answers)
    scratched = new[0].copy()
    scratched[45:48, 22:58] = 90
    assert model.predict(scratched).is_anomalous


def test_good_parts_in_every_light_are_good_and_other_light_is_told(fitted):
    check_each_light(fitted, range(100, 116))
    assert any("simulated defects are found" in note for note in fitted.manifest.notes)
    assert fitted.predict(Light(brightness=0.6)(part(100))).to_dict()["outside_light"] is True


def test_a_large_range_of_light_is_refused():
    with pytest.raises(InputError, match="no small change"):
        flawscope.fit([part(k) for k in range(4)], light="60%", **SETTINGS)


@pytest.mark.parametrize("positions", ["shared", pytest.param("each", marks=pytest.mark.slow)])
def test_pictures_in_tiles_keep_the_rate_in_each_light(positions, monkeypatch):
    good, options = [part(k) for k in range(10)], {**SETTINGS, "light": "10%", "check": False, "tile": 48}
    options |= {"positions": positions, "false_alarm_rate": "10%"}
    check_each_light(flawscope.fit(good, **options), range(100, 108), 0.25)
    judged = []
    monkeypatch.setattr(preprocess, "light_variations", lambda share: [Light(), Light()])
    watched = lambda values, *units: judged.append(values) or envelope(values, *units)  # noqa: E731
    monkeypatch.setattr(light_calibration, "envelope", watched)
    flawscope.fit(good, **options)
    # unchanged light gives what the fit has found; of each place it has found it in a more exact way
    np.testing.assert_allclose(*judged[0].T, rtol=1e-4 if positions == "shared" else 0.3)


def test_calibrated_anew_or_updated_it_keeps_the_rate_in_each_light(fitted):
    good = [part(300 + k) for k in range(10)]
    again = fitted.calibrate(good, force=True)
    assert again.calibration.method == "held out, in each light within 10%"
    lit = [[r.score for _, r in fitted.stream([light(p) for p in good])] for light in light_variations(0.1)]
    np.testing.assert_allclose(again.calibration.scores, envelope(np.array(lit).T), rtol=1e-5)
    check_each_light(flawscope.extend(fitted, good), range(400, 420))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_exported_model_brings_pictures_to_the_same_light(bf16_in_name, fitted, tmp_path, precision):
    from flawscope.export.export import export

    path, good = tmp_path / "light.onnx", [part(k) for k in range(20)]
    export(fitted.artefact, path, precision=precision, pictures=good)
    other = flawscope.load(path)
    assert "in each light within 10%" in other.calibration.method
    for light in light_variations(0.1):
        mine, its = (m.predict(light(part(500))) for m in (fitted, other))
        assert its.to_dict().get("outside_light") is False
        assert abs(its.score - mine.score) < (1e-4 if precision == "fp32" else 0.1) * mine.score
    assert other.predict(Light(brightness=0.6)(part(500))).to_dict()["outside_light"]
    if precision == "bf16":
        with pytest.raises(InputError, match="give those"):
            export(fitted.artefact, path, precision=precision, pictures=[part(600 + k) for k in range(6)])


def drawn(learnt, groups, rate=0.05):
    given = Fitted(Calibration((0.0,), (0.0,), 0.0), list(range(len(groups))), list(range(learnt)))
    return light_calibration.draw_pictures(given, groups, 6, rate, seed=3)


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
    held_out = Fitted(Calibration((0.0,), (0.0,), 0.0), list(range(76)), list(range(100, 1000)))
    assert light_calibration.draw_pictures(held_out, range(1000), 6, 0.05, seed=3) == list(range(76))
    groups = [i // 6 for i in range(1200)]
    found = drawn(1200, groups)
    numbers = {groups[i] for i in found}
    assert found == [i for i, group in enumerate(groups) if group in numbers]
    assert len(numbers) >= 59


def test_the_promise_counts_the_pictures_that_were_judged_in_every_light(monkeypatch):
    monkeypatch.setattr(light_calibration, "MIN_RANK", 1)
    asked = []
    load = Reader.load_in_light

    def counted(reader, index, light):
        asked.append((index, light.name))
        return load(reader, index, light)

    monkeypatch.setattr(Reader, "load_in_light", counted)
    said = []
    model = flawscope.fit([part(k) for k in range(40)], light="10%", say=said.append, **SETTINGS)
    pictures = {index for index, _ in asked}
    assert len(pictures) == 19
    assert len(asked) == len(set(asked)) == 19 * 6
    assert model.calibration.count == len(model.manifest.facts["calibration_pictures"]) == 19
    assert "about 1 of 20 good" in model.calibration.promise()
    assert any("on 19 of 40 good pictures" in note for note in model.manifest.notes)
    assert sum(one.role == "train" for one in model.manifest.pictures) == 40  # all are known
    check_each_light(model, range(900, 920))


def test_a_picture_that_cannot_be_read_again_is_told_by_any_number_of_threads(monkeypatch):
    load = Reader.load_in_light

    def lost(reader, index, light):
        return None if (index, light.contrast) == (5, 1.1) else load(reader, index, light)

    monkeypatch.setattr(Reader, "load_in_light", lost)
    with pytest.raises(InputError, match="cannot be read any more"):
        flawscope.fit([part(k) for k in range(12)], light="10%", **SETTINGS)


def test_a_picture_that_is_counted_wrong_in_a_light_counts_above_all_scores():
    """It is told and left out, and the others keep their scores and units."""
    before = Calibration((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0), 0.0, rate=0.4, units=(5, 6, 7, 7))
    task = Task(lambda i: None, [5, 6, 7, 7], rate=0.4)
    leave_out = Mock(spec=LeaveOut, model=Mock(config=Mock(seed=0)))

    def calibrated(failures, brightest=2.5):
        def judge(pictures, lights):
            values = np.full((len(pictures), len(lights), 2), 2.5)
            values[[*pictures].index(1), 2] = np.nan
            values[:, 1] = brightest
            return values

        fitted = Fitted(before, [0, 1, 2, 3], [0, 1, 2, 3])
        how = Preprocess(normalization=Normalization(0.1, *[((0.1, 0.2, 0.3),) * 3] * 2))
        light_calibration.calibrate_in_each_light(leave_out, fitted, task, how, judge, failures)
        return fitted

    fitted = calibrated({1: "one part too many"})
    assert fitted.pictures == [0, 2, 3]
    known = fitted.calibration
    assert known.scores == (2.5, 3.0, 4.0)
    assert (known.miscounted, known.units, known.unit_count) == (1, (5, 7, 7, 6), 3)
    assert not fitted.notes
    (note,) = calibrated({1: "one part too many"}, brightest=9.0).notes
    assert note.startswith("with brightness 1.1 most good pictures score above")
    with pytest.raises(InputError, match="cannot be read any more"):
        calibrated({})


def test_calibrated_anew_parts_lost_in_a_light_count_above_all_scores(monkeypatch):
    """The others keep their places, and all lost parts are an error."""
    pictures = [np.roll(part(k), 3 * (k % 4) - 4, axis=1) for k in range(18)]
    model = flawscope.fit(pictures[:12], align="shift", light="10%", check=False, **SETTINGS)
    new, lost, change = pictures[12:], {1, 4}, Light.__call__

    def dark(light, picture):
        gone = light.contrast == 1.1 and any(np.array_equal(picture, new[k]) for k in lost)
        return np.zeros_like(picture) if gone else change(light, picture)

    whole = model.calibrate(new, force=True)
    monkeypatch.setattr(Light, "__call__", dark)
    made = model.calibrate(new, force=True)
    known = made.calibration
    assert (len(known.scores), known.miscounted, known.count) == (4, 2, 6)
    assert known.p_values(np.inf) == 3 / 7
    assert len(made.manifest.facts["calibration_pictures"]) == 4
    assert made.failures == whole.failures == []
    (note,) = [one for one in made.manifest.notes if one.startswith("parts lost in some light")]
    assert note.endswith(": picture 1, picture 4")
    assert "2 of them for parts counted wrong or not found" in known.promise()
    lost |= {*range(6)}
    with pytest.raises(InputError, match="smaller --light"):
        model.calibrate(new, force=True)


def test_a_part_that_is_lost_in_another_light_is_told():
    how = Mock(tile=None, **{"views.return_value": Mock(unusable="no part found")})
    reader = Reader([part(0)], how, set())
    assert reader.views_in_light(0, Light(brightness=1.1)) is None
    assert reader.failures == {0: "with brightness 1.1 no part found, in picture 0"}
