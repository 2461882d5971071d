"""The predictor: streams, calibration anew, and what is given in Python and notebooks."""

import re
import time
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
from PIL import Image

import flawscope
from brightness import HOSTILE, SIDE, Brightness, draw, model
from flawscope.calibration.threshold import Calibration, parse_false_alarm_rate
from flawscope.cli.output import prediction_line
from flawscope.errors import InputError
from flawscope.evaluation.evaluation import evaluate
from flawscope.results.findings import other_form
from flawscope.results.prediction import Prediction
from flawscope.results.table import ResultRow
from flawscope.views.preprocess import Preprocess


class Lanes(Brightness):
    """Judges three side by side, the first ones last."""

    lanes = 3

    def __init__(self):
        super().__init__()
        self.begun, self.at_once, self.most, self.lock = 0, 0, 0, Lock()

    def run_alone(self, images):
        with self.lock:
            self.begun, self.at_once = self.begun + 1, self.at_once + 1
            self.most = max(self.most, self.at_once)
            first = self.begun % 3 == 1
        time.sleep(0.05 if first else 0.01)
        with self.lock:
            self.at_once -= 1
        return self.run(images)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Read only."""
    root = tmp_path_factory.mktemp("predictor") / "thing"
    for k in range(3):
        draw(root / f"train/good/{k}.png", 0.2, 0.2)
    for k, level in enumerate((0.1, 0.3, 0.9)):
        draw(root / f"test/good/{k}{HOSTILE if k else ''}.png", level, 0)
    for k, level in enumerate((0.4, 0.8, 0.9)):
        draw(root / f"test/dent/{k}.png", level, 0, spot=True)
    (root.parent / "broken.png").write_bytes(b"x")
    return root


@pytest.fixture(scope="module")
def evaluation(root):
    return evaluate(model(), flawscope.open_dataset(root))


@pytest.fixture
def found(root):
    return model().predict(root / "test/dent/1.png")


@pytest.mark.parametrize("batch", [None, 1, 2, 50])
@pytest.mark.parametrize("session", [Brightness, Lanes])
def test_a_stream_answers_in_order_and_tells_what_cannot_be_read(root, session, batch):
    paths, broken = [*sorted((root / "test").rglob("*.png")) * 2], root.parent / "broken.png"
    paths.insert(4, broken)
    predictor = model()
    predictor.session = session()
    answers = list(predictor.stream(iter(paths), batch=batch))
    assert [path for path, _ in answers] == paths
    for path, result in answers:
        if path == broken:
            assert isinstance(result, InputError)
        else:
            assert result.score == model().predict(path).score
    assert list(predictor.stream([], batch=batch)) == []
    if session is Lanes and batch is None:
        assert (predictor.session.most, predictor.session.begun) == (3, len(paths) - 1)


def test_few_pictures_get_all_threads_each_and_a_stream_that_is_left_looks_at_few_more(root):
    path, predictor = root / "test/dent/1.png", model()
    predictor.session = Lanes()
    assert len(list(predictor.stream([path] * 2))) == 2
    assert predictor.predict(path).score
    assert not predictor.session.begun
    asked = 0

    def ask():
        nonlocal asked
        for _ in range(100):
            asked += 1
            yield path

    stream = predictor.stream(ask())
    next(stream)
    stream.close()
    assert asked <= 2 * 3 + 1
    asked = 0
    for number, _ in zip(range(3), model().stream(ask(), batch=1), strict=False):
        assert asked == number + 1  # answered before the next one is asked for


@pytest.mark.parametrize("kind", [str, Path])
def test_a_stream_takes_a_folder_or_one_picture_in_any_form(kind, root):
    results = dict(model().stream(kind(root / "test")))
    assert len(results) == 6
    assert all(isinstance(result, Prediction) for result in results.values())
    path = root / "test/dent/1.png"
    for picture in (kind(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path))):
        assert [result.is_anomalous for _, result in model().stream(picture)] == [True]


def test_a_folder_without_pictures_and_predict_of_a_folder_are_told_at_once(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        model().stream(tmp_path / "none")
    with pytest.raises(InputError, match="no pictures in this folder"):
        model().stream(str(tmp_path))
    with pytest.raises(InputError, match=r"is a folder: stream\("):
        model().predict(tmp_path)


def test_a_frame_of_opencv(root):
    picture = np.asarray(Image.open(root / "test/dent/1.png"))
    right = model().predict(picture)
    frame = picture[..., ::-1]
    opaque = np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)])
    for given in (frame, opaque, np.stack([frame] * 2)):
        found = model().predict(given, bgr=True)
        assert {one.score for one in (found if isinstance(found, list) else [found])} == {right.score}
    assert model().predict(picture, bgr=True).score != right.score  # its blue is noise
    grey = np.full((32, 32), 99, np.uint8)
    assert model().predict(grey, bgr=True).score == model().predict(grey).score
    with pytest.raises(InputError, match="bgr=True is for numpy arrays, not for str"):
        model().predict(str(root / "test/dent/1.png"), bgr=True)


def test_calibrating_on_nothing_new_is_refused_and_padding_counts_nowhere(root):
    learnt = sorted((root / "train/good").glob("*.png"))
    for given, words in (
        (learnt, "fitted on all of them"),
        ([], "no good pictures"),
        ([root.parent / "broken.png"], r"broken\.png"),
    ):
        with pytest.raises(InputError, match=words):
            model(seen={"train": learnt}).calibrate(given)
    how = Preprocess((SIDE, SIDE), keep_aspect=True)
    pictures = [np.full((10, 80, 3), 50 + k, np.uint8) for k in range(3)]  # most is padding
    padded = model(preprocess=how, tensors={"roi": np.ones((SIDE, SIDE), bool)})
    found = padded.calibrate([*pictures, pictures[0]], force=True)
    assert found.calibration.map_level == pytest.approx(51 / 255)
    assert [p.role for p in found.manifest.pictures] == ["calibration"] * 3


@pytest.mark.parametrize(
    ("given", "rate"), [("5%", 0.05), ("0.1", 0.1), ("1e-3", 0.001), (0.2, 0.2), ("12.5 %", 0.125)]
)
def test_rates_as_people_write_them(given, rate):
    assert parse_false_alarm_rate(given) == pytest.approx(rate)
    assert model().with_rate(given).calibration.rate == pytest.approx(rate)


@pytest.mark.parametrize("given", ["5", 5, 0, 1, "x", "%", "", None, True, float("nan"), "-5%", "100%"])
def test_what_is_no_rate_says_how_to_write_one(given):
    with pytest.raises(InputError, match=r"is not a rate: write 0\.05 or 5%"):
        model().with_rate(given)


def test_repr_is_one_line_that_says_what_matters(found, evaluation):
    predictor = model()
    unpromised = Calibration((0.1, 0.2), (0.1, 0.2), 0.0, promised=False)
    lines = {
        repr(predictor): ("patchcore", "16x16", "fake", "score threshold 0.5", "4.8 %"),
        repr(found): ("anomalous", "score 0.8", "threshold 0.5", "1 region", "1.png"),
        repr(predictor.calibration): ("0.5", "20 good pictures", "held out"),
        repr(unpromised): ("no promise",),
        repr(evaluation): ("thing", "6 test pictures", "false alarms 1 of 3"),
        repr(replace(found, path=None, is_anomalous=False)): ("good",),
    }
    for line, words in lines.items():
        assert "\n" not in line
        assert len(line) < 300
        assert all(word in line for word in words), line


def test_dir_is_the_public_api():
    assert set(dir(flawscope)) - {"__version__"} == set(flawscope.__all__) - {"__version__"}
    assert {"fit", "load", "compare", "evaluate", "Prediction"} <= set(dir(flawscope))


def test_draw_opens_the_file_that_it_is_of_and_shows_deep_pictures(found, tmp_path):
    drawn = found.draw()
    assert drawn.shape == (32, 32, 3)
    assert np.array_equal(drawn, found.draw(np.asarray(Image.open(str(found.path)))))
    for path, said in ((None, "give the picture"), ("none.png", "no such file")):
        with pytest.raises(InputError, match=said):
            replace(found, path=path).draw()
    Image.fromarray(np.full((32, 32), 999, np.uint16)).save(tmp_path / "deep.png")
    deep = model(preprocess=Preprocess((SIDE, SIDE), white_level=999.0))
    assert deep.predict(tmp_path / "deep.png").draw().max() > 200


def check(html, pictures, most):
    """Well-formed, small, and nothing in it comes from elsewhere or from a file's name."""
    assert html.count("<img ") == pictures
    assert "<img src=x" not in html
    assert not re.findall(r"https?://|<script|onerror=alert\(1\)>", html)
    assert len(html) < most
    for tag in ("div", "table", "tr", "b", "code"):
        assert len(re.findall(f"<{tag}[ >]", html)) == html.count(f"</{tag}>")


def test_a_prediction_shows_picture_heat_map_and_decision(found, root, tmp_path):
    check(html := found._repr_html_(), 2, 100_000)
    assert "anomalous" in html
    check(model().predict(root / f"test/good/1{HOSTILE}.png")._repr_html_(), 2, 100_000)
    check(replace(found, path="moved.png")._repr_html_(), 1, 50_000)  # its heat map alone
    check(replace(found, path=None)._repr_html_(), 1, 50_000)
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=70)
    check(model().predict(tmp_path / "noise.jpg")._repr_html_(), 2, 200_000)


def test_what_is_shown_of_models_and_evaluations(evaluation):
    samples = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), np.uint8)
    check(html := model(tensors={"samples": samples})._repr_html_(), 3, 50_000)
    assert "score threshold 0.5" in html
    check(model()._repr_html_(), 0, 5_000)
    check(html := evaluation._repr_html_(), 12, 300_000)
    assert f"{evaluation.metrics['image_auroc']:.4f}" in html
    captions = re.findall(r"(?:good|dent)(?:, missed|, false alarm)?(?= &nbsp; <code>)", html)
    assert sorted(captions[:2]) == ["dent, missed", "good, false alarm"]
    assert not any("," in caption for caption in captions[2:])


def test_a_good_picture_near_the_threshold_is_marked_in_every_form():
    plain = model()
    at_tenth = plain.with_calibration(plain.calibration.with_rate(0.1))  # called anomalous above 0.49
    found = [at_tenth.predict(np.full((SIDE, SIDE, 3), level, np.uint8)) for level in (102, 122, 200)]
    assert [one.near for one in found] == [False, True, False]
    assert [one.to_dict()["near"] for one in found] == [False, True, False]
    assert [ResultRow.from_result(one).near for one in found] == ["false", "true", "false"]
    assert ["(near the threshold)" in prediction_line(one) for one in found] == [False, True, False]
    assert not found[1].noticing(other_form("wider", decides=True)).near
