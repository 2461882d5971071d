"""`fit --light`: pictures are brought to one light, and the false-alarm rate is kept in each light."""

import numpy as np
import pytest

import flawscope
from flawscope.calibration import rows
from flawscope.calibration.threshold import envelope
from flawscope.errors import InputError
from flawscope.fitting import judging
from flawscope.fitting.training_views import Reader
from flawscope.views import preprocess
from flawscope.views.light import Light, light_variations
from light_helpers import SETTINGS, fitted_fixture, part  # noqa: F401


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


def test_pictures_in_tiles_keep_the_rate_in_each_light(monkeypatch):
    good, options = [part(k) for k in range(10)], {**SETTINGS, "light": "10%", "check": False, "tile": 48}
    options |= {"false_alarm_rate": "10%"}
    check_each_light(flawscope.fit(good, **options), range(100, 108), 0.25)
    judged = []
    monkeypatch.setattr(preprocess, "light_variations", lambda share: [Light(), Light()])
    watched = lambda values, *units: judged.append(values) or envelope(values, *units)  # noqa: E731
    monkeypatch.setattr(rows, "envelope", watched)
    flawscope.fit(good, **options)
    np.testing.assert_allclose(*judged[0].T, rtol=1e-4)  # unchanged light gives what the fit has found


def test_calibrated_anew_or_updated_it_keeps_the_rate_in_each_light(fitted):
    good = [part(300 + k) for k in range(10)]
    again = fitted.calibrate(good, force=True)
    assert again.calibration.method == "held out, in each light within 10%"
    lit = [[r.score for _, r in fitted.stream([light(p) for p in good])] for light in light_variations(0.1)]
    np.testing.assert_allclose(again.calibration.scores, envelope(np.array(lit).T), rtol=1e-5)
    check_each_light(flawscope.extend(fitted, good), range(400, 420))


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


def test_the_promise_counts_the_pictures_that_were_judged_in_every_light(monkeypatch):
    monkeypatch.setattr(judging, "MIN_RANK", 1)
    asked = []
    views = Reader.views_in_lights

    def counted(reader, index, lights):
        asked.extend((index, light.name) for light in lights)
        return views(reader, index, lights)

    monkeypatch.setattr(Reader, "views_in_lights", counted)
    said = []
    model = flawscope.fit([part(k) for k in range(40)], light="10%", say=said.append, **SETTINGS)
    pictures = {index for index, _ in asked}
    assert len(pictures) == 19
    assert len(asked) == len(set(asked)) == 19 * 6
    assert model.calibration.count == len(rows.scored(model.manifest.pictures)) == 19
    assert "about 1 of 20 good" in model.calibration.promise()
    assert any("on 19 of 40 good pictures" in note for note in model.manifest.notes)
    assert sum(one.role == "train" for one in model.manifest.pictures) == 40  # all are known
    check_each_light(model, range(900, 920))


def test_a_picture_that_cannot_be_read_again_is_told_by_any_number_of_threads(monkeypatch):
    views = Reader.views_in_lights

    def lost(reader, index, lights):
        for light, shown in zip(lights, views(reader, index, lights), strict=True):
            yield None if (index, light.contrast) == (5, 1.1) else shown

    monkeypatch.setattr(Reader, "views_in_lights", lost)
    with pytest.raises(InputError, match="cannot be read any more"):
        flawscope.fit([part(k) for k in range(12)], light="10%", **SETTINGS)


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
    assert len(rows.scored(made.manifest.pictures)) == 4
    assert made.failures == whole.failures == []
    (note,) = [
        one
        for one in made.manifest.notes
        if one.startswith("parts not found, counted wrong or lost in some light")
    ]
    assert note.endswith(": picture 1, picture 4 [FS-G38]")
    assert "2 of them for parts counted wrong or not found" in known.promise()
    lost |= {*range(6)}
    with pytest.raises(InputError, match="smaller --light"):
        model.calibrate(new, force=True)
