"""`fit --light`: pictures are brought to one light, and the false-alarm rate is kept in each light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

import flawscope
from flawscope.calibration.threshold import Calibration, envelope
from flawscope.errors import InputError
from flawscope.pictures.light import Light, Normalization, channel_statistics, light_variations
from flawscope.pictures.preprocess import Preprocess
from flawscope.predictor import Predictor

SETTINGS = {"size": "64", "samples": 0, "device": "cpu"}


def part(seed: int) -> NDArray[np.uint8]:
    """Grey part with a hole on a coloured ground, noisy."""
    rng = np.random.default_rng(seed)
    picture = np.full((80, 80, 3), (60, 80, 120), np.float64)
    picture[20:60, 20:60] = 150
    picture[30:40, 30:40] = 40
    return (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted() -> Predictor:
    return flawscope.fit([part(k) for k in range(20)], light="10%", **SETTINGS)


def test_the_p_value_by_the_envelope_is_the_largest_of_all_lights() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 5)) + rng.normal(size=5)

    def p_values(values: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
        return Calibration(tuple(values), tuple(values), 0.0).p_values(new)

    new = np.concatenate([rng.normal(size=50), scores.ravel()])  # ties too
    largest = np.max([p_values(column, new) for column in scores.T], axis=0)
    np.testing.assert_array_equal(p_values(envelope(scores), new), largest)
    order = np.argsort(scores[:, 0])
    assert (np.diff(envelope(scores)[order]) >= 0).all()


def test_light_within_the_range_is_undone_and_more_is_not() -> None:
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
        assert views.tone is not None
        assert views.tone.inside
        np.testing.assert_allclose(views.images([0]), same, atol=2 / 255)  # rounded to 8 bits between
    dark = how.views(Light(brightness=0.5)(pictures[0]))
    assert dark.tone is not None
    assert not dark.tone.inside
    assert dark.images([0]).mean() < 0.8 * same.mean()


def test_padding_stays_marked_and_counts_nowhere() -> None:
    tall = part(0)[:, 20:60]
    light = Normalization(0.1, ((0.3, 0.4, 0.5),) * 3, ((0.05, 0.1, 0.3),) * 3)
    plain, corrected = (
        Preprocess((64, 64), keep_aspect=True, normalization=one)(tall)[0][0] for one in (None, light)
    )
    np.testing.assert_array_equal(plain < 0, corrected < 0)
    means = channel_statistics(corrected)
    assert means is not None
    np.testing.assert_allclose(means[0], 0.4, atol=0.01)


def test_good_parts_in_every_light_are_good_and_other_light_is_told(fitted: Predictor) -> None:
    assert "in each light within 10%" in fitted.calibration.method
    assert any("simulated defects are found" in note for note in fitted.manifest.notes)
    new = [part(100 + k) for k in range(40)]
    for light in light_variations(0.1):
        answers = fitted.predict([light(picture) for picture in new])
        assert np.mean([one.is_anomalous for one in answers]) <= 0.2
        assert not any(one.outside_light for one in answers)
    answer = fitted.predict(Light(brightness=0.6)(new[0]))
    assert answer.outside_light
    assert answer.to_dict()["outside_light"] is True
    scratched = new[0].copy()
    scratched[45:48, 22:58] = 90
    assert fitted.predict(scratched).is_anomalous


@pytest.mark.parametrize(
    ("options", "text"),
    [({"light": "60%"}, "no small change"), ({"light": 0.1, "tile": "40"}, "does not go with tiles")],
)
def test_wrong_calls_are_one_line(options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        flawscope.fit([part(k) for k in range(4)], **{**SETTINGS, **options})


def test_calibrated_anew_or_updated_it_keeps_the_rate_in_each_light(fitted: Predictor) -> None:
    good = [part(300 + k) for k in range(20)]
    again = fitted.calibrate(good)
    assert again.calibration.method == "held out, in each light within 10%"
    lit = [[r.score for _, r in fitted.stream([light(p) for p in good])] for light in light_variations(0.1)]
    np.testing.assert_allclose(again.calibration.scores, envelope(np.array(lit).T), rtol=1e-5)
    more = flawscope.extend(fitted, good)
    assert "in each light within 10%" in more.calibration.method
    for light in light_variations(0.1):
        answers = more.predict([light(part(400 + k)) for k in range(20)])
        assert np.mean([one.is_anomalous for one in answers]) <= 0.2


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_an_exported_model_brings_pictures_to_the_same_light(
    fitted: Predictor, tmp_path: Path, precision: str
) -> None:
    pytest.importorskip("onnxscript")
    from flawscope.export.export import export

    path = tmp_path / "light.onnx"
    good = [part(k) for k in range(20)]
    export(fitted.artefact, path, precision=precision, pictures=good)
    other = flawscope.load(path)
    assert "in each light within 10%" in other.calibration.method
    for light in light_variations(0.1):
        mine, its = (m.predict(light(part(500))) for m in (fitted, other))
        assert its.outside_light is False
        assert abs(its.score - mine.score) < (1e-4 if precision == "fp32" else 0.1) * mine.score
    assert other.predict(Light(brightness=0.6)(part(500))).outside_light
    if precision == "int8":
        with pytest.raises(InputError, match="give those"):
            export(fitted.artefact, path, precision=precision, pictures=[part(600 + k) for k in range(6)])
