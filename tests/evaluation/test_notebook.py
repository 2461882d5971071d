"""What a person who works in Python sees: one line for `repr`, small HTML in notebooks, a pandas table."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_comparison import RED, draw, model

import flawscope
from flawscope.calibration.decision import Calibration, rate_of
from flawscope.errors import InputError
from flawscope.evaluation import Evaluation, evaluate
from flawscope.predictor import Predictor
from flawscope.results.prediction import Prediction

HOSTILE = "<img src=x onerror=alert(1)>&'"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("notebook") / "thing"
    draw(root / "train/good/0.png", 0.2, 0.2)
    for k, level in enumerate((0.1, 0.3, 0.9)):
        draw(root / f"test/good/{k}{HOSTILE if k else ''}.png", level, 0)
    for k, level in enumerate((0.4, 0.8, 0.9)):
        draw(root / f"test/dent/{k}.png", level, 0, spot=True)
    return root


@pytest.fixture(scope="module")
def evaluation(root: Path) -> Evaluation:
    return evaluate(model(RED), flawscope.open_dataset(root))


@pytest.fixture
def found(root: Path) -> Prediction:
    return model(RED).predict(root / "test/dent/1.png")


# ---------------------------------------------------------------------------------------------- one line each


def test_repr_is_one_line_that_says_what_matters(found: Prediction, evaluation: Evaluation) -> None:
    predictor = model(RED)
    lines = {
        repr(predictor): ("patchcore", "16x16", "fake", "score threshold 0.5", "4.8%"),
        repr(found): ("anomalous", "score 0.8", "threshold 0.5", "1 region", "1.png"),
        repr(predictor.calibration): ("0.5", "20 good pictures", "held out"),
        repr(evaluation): ("thing", "6 test pictures", "false alarms 1 of 3"),
        repr(replace(found, path=None, is_anomalous=False)): ("good",),
    }
    for line, words in lines.items():
        assert "\n" not in line
        assert len(line) < 300
        for word in words:
            assert word in line


def test_dir_is_the_public_api() -> None:
    public = [name for name in dir(flawscope) if name != "__version__"]
    assert set(public) == set(flawscope.__all__) - {"__version__"}
    assert not {"annotations", "importlib", "Any", "TYPE_CHECKING", "_WHERE"} & set(dir(flawscope))
    assert {"fit", "load", "compare", "evaluate", "Prediction"} <= set(public)


# ---------------------------------------------------------------------------------------------- what is given


@pytest.mark.parametrize("kind", [str, Path])
def test_stream_takes_a_folder(kind: Any, root: Path) -> None:
    results = dict(model(RED).stream(kind(root / "test")))
    assert len(results) == 6
    assert all(isinstance(result, Prediction) for result in results.values())
    one = [*model(RED).stream(kind(root / "test/dent/1.png"))]
    assert [result.is_anomalous for _, result in one] == [True]


def test_stream_says_at_once_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        model(RED).stream(tmp_path / "none")
    with pytest.raises(InputError, match="no pictures in this folder"):
        model(RED).stream(str(tmp_path))


def test_a_single_picture_is_not_taken_for_many(root: Path) -> None:
    path = root / "test/dent/1.png"
    for picture in (path.read_bytes(), Image.open(path), np.asarray(Image.open(path))):
        assert len([*model(RED).stream(picture)]) == 1


def test_predict_of_a_folder_says_what_judges_folders(root: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder: stream\("):
        model(RED).predict(root / "test")


def test_a_frame_of_opencv(root: Path) -> None:
    picture = np.asarray(Image.open(root / "test/dent/1.png"))
    right = model(RED).predict(picture)
    opaque = np.dstack([picture[..., ::-1], np.full(picture.shape[:2], 255, np.uint8)])
    for frame in (picture[..., ::-1], opaque):
        assert model(RED).predict(frame, bgr=True).score == right.score
    batch = np.stack([picture[..., ::-1]] * 2)
    assert [one.score for one in model(RED).predict(batch, bgr=True)] == [right.score] * 2
    assert model(RED).predict(picture, bgr=True).score != right.score  # its blue is noise
    grey = np.full((32, 32), 99, np.uint8)
    assert model(RED).predict(grey, bgr=True).score == model(RED).predict(grey).score
    with pytest.raises(InputError, match="bgr=True is for numpy arrays, not for str"):
        model(RED).predict(str(root / "test/dent/1.png"), bgr=True)


@pytest.mark.parametrize(("given", "rate"), [("5%", 0.05), ("0.1", 0.1), (0.2, 0.2), ("12.5 %", 0.125)])
def test_rates_as_people_write_them(given: Any, rate: float) -> None:
    assert rate_of(given) == pytest.approx(rate)
    assert model(RED).with_rate(given).calibration.rate == pytest.approx(rate)


@pytest.mark.parametrize("given", ["5", 5, 0, 1, "x", "%", "", None, True, float("nan"), "-5%", "100%"])
def test_what_is_no_rate_says_how_to_write_one(given: Any) -> None:
    with pytest.raises(InputError, match=r"is not a rate: write 0\.05 or 5%"):
        model(RED).with_rate(given)


# ---------------------------------------------------------------------------------------------------- drawing


def test_draw_opens_the_file_that_it_is_of(found: Prediction) -> None:
    drawn = found.draw()
    assert drawn.shape == (32, 32, 3)
    assert np.array_equal(drawn, found.draw(np.asarray(Image.open(str(found.path)))))
    with pytest.raises(InputError, match="give the picture"):
        replace(found, path=None).draw()
    with pytest.raises(InputError, match="no such file"):
        replace(found, path="none.png").draw()


def test_draw_shows_deep_pictures(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((32, 32), 999, np.uint16)).save(path)
    predictor = model(RED)
    manifest = replace(
        predictor.manifest, preprocess=replace(predictor.manifest.preprocess, white_level=999.0)
    )
    deep = Predictor(replace(predictor.artefact, manifest=manifest), predictor.session)
    assert deep.predict(path).draw().max() > 200


# -------------------------------------------------------------------------------------------------- notebooks


def check(html: str, pictures: int, most: int) -> None:
    """Well-formed, small, and nothing in it comes from elsewhere or from a file's name."""
    assert html.count("<img ") == pictures
    assert "<img src=x" not in html
    assert not re.findall(r"https?://|<script|onerror=alert\(1\)>", html)
    assert len(html) < most
    for tag in ("div", "table", "tr", "b", "code"):
        assert len(re.findall(f"<{tag}[ >]", html)) == html.count(f"</{tag}>")


def test_a_prediction_shows_picture_heat_map_and_decision(found: Prediction, root: Path) -> None:
    check(html := found._repr_html_(), 2, 100_000)
    assert "anomalous" in html
    check(model(RED).predict(root / f"test/good/1{HOSTILE}.png")._repr_html_(), 2, 100_000)
    check(replace(found, path="moved.png")._repr_html_(), 1, 50_000)  # its heat map alone
    check(replace(found, path=None)._repr_html_(), 1, 50_000)


def test_a_large_noisy_picture_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=70)
    check(model(RED).predict(tmp_path / "noise.jpg")._repr_html_(), 2, 200_000)


def test_a_model_shows_what_it_is(evaluation: Evaluation) -> None:
    predictor = model(RED)
    samples = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), np.uint8)
    artefact = replace(predictor.artefact, tensors={"samples": samples})
    check(html := Predictor(artefact, predictor.session)._repr_html_(), 3, 50_000)
    assert "score threshold 0.5" in html
    check(predictor._repr_html_(), 0, 5_000)


def test_an_evaluation_shows_metrics_and_the_worst_mistakes_first(evaluation: Evaluation) -> None:
    check(html := evaluation._repr_html_(), 12, 300_000)
    assert f"{evaluation.metrics['image_auroc']:.4f}" in html
    captions = re.findall(r"(?:good|dent)(?:, missed|, false alarm)?(?= &nbsp; <code>)", html)
    assert sorted(captions[:2]) == ["dent, missed", "good, false alarm"]
    assert not any("," in caption for caption in captions[2:])


# ----------------------------------------------------------------------------------------------------- pandas


def test_a_table_for_pandas_has_a_row_for_each_test_picture(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = list  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    broken = root / "test/good/broken.png"
    broken.write_bytes(b"\x89PNG")
    try:
        learnt = (root / "test/dent/0.png",)
        rows = evaluate(model(RED, learnt), flawscope.open_dataset(root)).to_dataframe()
    finally:
        broken.unlink()
    assert len(rows) == 7
    by_name = {Path(row["path"]).name: row for row in rows}
    assert by_name["1.png"]["decision"] == "anomalous"
    assert by_name["1.png"]["defective"] is True
    assert by_name["broken.png"]["score"] is None
    assert "broken.png" in by_name["broken.png"]["error"]
    assert "left out" in by_name["0.png"]["error"] or "left out" in rows[0]["error"]
    assert all(list(row) == list(rows[0]) for row in rows)


def test_without_pandas_one_line_says_what_to_install(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"to_dataframe\(\) needs pandas: pip install"):
        evaluation.to_dataframe()


def test_a_calibration_without_a_promise_says_so() -> None:
    calibration = Calibration((0.1, 0.2), (0.1, 0.2), 0.0, promised=False)
    assert "no promise" in repr(calibration)
