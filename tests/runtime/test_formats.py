"""The three kinds of model file do the same, and each is known by its suffix."""

from __future__ import annotations

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import flawscope
from flawscope import predictor, runtime
from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.calibration.decision import Calibration
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.pictures.preprocess import Preprocess

pytest.importorskip("torch")
FIXTURES = {".safetensors": "model_path", ".onnx": "onnx_path", ".xml": "openvino_path"}


@pytest.fixture(params=FIXTURES)
def path(request: pytest.FixtureRequest) -> Path:
    """The same model in each kind of file."""
    found: Path = request.getfixturevalue(FIXTURES[request.param])
    return found


def test_every_format_is_tried_here() -> None:
    assert set(FIXTURES) == set(runtime.FORMATS)


def test_a_rate_that_cannot_be_had_is_said_by_python_and_the_command(
    model_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match=r"0\.1% cannot be promised"):
        flawscope.load(model_path, false_alarm_rate=0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flawscope.load(model_path, false_alarm_rate=0.5)
        main(["predict", str(model_path), str(drawn), "--false-alarm-rate", "0.1%"])
    assert "0.1% cannot be promised" in capsys.readouterr().err


def test_every_command_takes_it(
    path: Path, model_path: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*argv: str) -> Any:
        assert main([*argv, "--json", "--threads", "1"]) == 0
        return json.loads(capsys.readouterr().out)

    def calibrated(model: Path) -> Path:
        new = tmp_path / f"new{model.suffix}"
        argv = ["calibrate", str(model), "--good", str(drawn / "plate/test/good"), "--out", str(new)]
        assert main([*argv, "--threads", "1", "--quiet"]) == 0
        return new

    picture = sorted((drawn / "plate/test").glob("*/*.png"))[-1]
    new, origin = calibrated(path), calibrated(model_path)
    for model, trained in ((path, model_path), (new, origin)):
        found, expected = (run("predict", str(m), str(picture)) for m in (model, trained))
        assert found["score"] == pytest.approx(expected["score"], rel=1e-4)
        assert found["severity"] == pytest.approx(expected["severity"], rel=1e-3)
        assert found["shifts"] == expected["shifts"] != {}
        assert found["is_anomalous"] == expected["is_anomalous"]
    found, expected = (run("evaluate", str(m), "--data", str(drawn)) for m in (path, model_path))
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-3)
    found, expected = (run("info", str(m)) for m in (new, origin))
    assert found["calibration"]["scores"] == pytest.approx(expected["calibration"]["scores"], rel=1e-4)
    assert found["pictures"] == expected["pictures"]
    run("info", str(new), "--self-test")
    found = run("data", "check", "--data", str(drawn / "plate"), "--model", str(path), "--no-near")
    assert found["suspects"] is not None


def test_calibrate_writes_the_kind_it_was_given(
    path: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["calibrate", str(path), "--good", str(drawn / "plate/test/good")]
    for suffix in {*FIXTURES, ".pt"} - {path.suffix}:
        assert main([*argv, "--out", str(tmp_path / f"new{suffix}")]) == 2
        assert f"should end in {path.suffix}" in capsys.readouterr().err
        with pytest.raises(InputError, match=rf"saved as \{path.suffix}; `flawscope export`"):
            flawscope.load(path, device="cpu").save(tmp_path / f"new{suffix}")
    assert not list(tmp_path.iterdir())


def test_the_suffix_may_be_in_capitals(path: Path, tmp_path: Path) -> None:
    (tmp_path / f"M{path.suffix.upper()}").symlink_to(path)
    if path.suffix == ".xml":
        (tmp_path / "M.bin").symlink_to(path.with_suffix(".bin"))
    assert predictor.read_manifest(tmp_path / f"M{path.suffix.upper()}") == predictor.read_manifest(path)


def test_another_suffix_is_one_line_with_the_kinds(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "model.pt"
    with pytest.raises(InputError, match="there is no model"):
        flawscope.load(wrong)
    wrong.write_bytes(model_path.read_bytes())
    for read in (flawscope.load, predictor.read_manifest):
        with pytest.raises(InputError, match=r"\.safetensors, \.onnx or \.xml"):
            read(wrong)
    with pytest.raises(InputError, match="is a folder"):
        flawscope.load(tmp_path)
    assert main(["info", str(wrong)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_that_make_no_sense_are_told_before_the_file_is_read(threads: int) -> None:
    with pytest.raises(InputError, match="1 or more"):
        flawscope.load("no.safetensors", threads=threads)


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5"])
def test_threads_that_make_no_sense_in_a_call(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "no.onnx", "no.png", f"--threads={text}"]) == 2
    assert "is not a number of threads" in capsys.readouterr().err


def test_many_threads_may_predict_at_once(path: Path, drawn: Path) -> None:
    """A server's do. Same numbers, and every thread's and torch's thread count stays what it was."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        model = flawscope.load(path, device="cpu")
        pictures = sorted((drawn / "plate/test").glob("*/*.png"))[:5]
        images = np.concatenate([model.manifest.preprocess(picture)[0] for picture in pictures])
        expected, meeting = model.session.run(images)[0], Barrier(8, timeout=30)

        def caller(number: int) -> tuple[list[float], int]:
            meeting.wait()  # none of them has used torch yet
            if number % 2:
                scores = model.session.run(images)[0].tolist()
            else:
                scores = [p.score for p in model.predict([str(picture) for picture in pictures])]
            return scores, torch.get_num_threads()

        with ThreadPoolExecutor(8) as callers:
            for scores, count in callers.map(caller, range(8)):
                np.testing.assert_allclose(scores, expected, rtol=1e-6)
                assert count == 3
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_engine_computes_with_so_many_threads(path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        session: Any = flawscope.load(path, device="cpu", threads=2).session
        count: int = {
            "torch": torch.get_num_threads,
            "onnxruntime": lambda: session.engine.get_session_options().intra_op_num_threads,
            "openvino": lambda: session.parts[0].get_property("INFERENCE_NUM_THREADS"),
        }[session.runtime]()
        assert count == 2 or (session.runtime == "openvino" and count == 1)  # it has no more than cores
        assert session.run(np.zeros((1, 3, *session.size), np.float32))[0].shape == (1,)
        if session.runtime != "torch":
            assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_many_pictures_are_judged_side_by_side_as_one_by_one(path: Path, drawn: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        pictures = sorted((drawn / "plate/test").glob("*/*.png"))[:7]
        single = flawscope.load(path, device="cpu", threads=1)
        assert single.session.lanes == 1
        expected = [single.predict(picture) for picture in pictures]
        model = flawscope.load(path, device="cpu", threads=3)
        assert model.session.lanes == (6 if path.suffix == ".xml" else 3)
        calls, run_alone = [], model.session.run_alone
        model.session.run_alone = lambda images: calls.append(len(images)) or run_alone(images)  # type: ignore
        found = [result for _, result in model.stream(pictures)]
        assert calls == [1] * len(pictures)
        for one, other in zip(found, expected, strict=True):
            assert one.score == pytest.approx(other.score, rel=1e-6)
            np.testing.assert_allclose(one.map, other.map, rtol=1e-5, atol=1e-4)
        assert all(
            result.is_anomalous == other.is_anomalous for result, other in zip(found, expected, strict=True)
        )
    finally:
        torch.set_num_threads(before)


def test_a_file_that_was_replaced_is_not_opened_for_the_second_time(onnx_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(onnx_path.read_bytes())
    session = flawscope.load(copy, threads=2).session
    copy.write_bytes(b"another model")
    picture = np.zeros((1, 3, *session.size), np.float32)
    for alone, together in zip(session.run_alone(picture), session.run(picture), strict=True):
        np.testing.assert_array_equal(alone, together)


class Bright:
    """A session whose maps are 1, and 100 where a picture is padded."""

    runtime, suffix, size, batch, lanes = "none", ".none", (32, 32), 2, 1

    def run(self, images: Any, positions: Any = None) -> Any:
        maps = np.where(images[:, 0] < 0, 100, 1).astype(np.float32)
        return np.arange(len(images), dtype=np.float32), maps

    run_alone = run

    def save(self, artefact: Artefact, path: Any) -> None:
        raise NotImplementedError


def test_padding_says_nothing_about_the_level_of_good_maps() -> None:
    preprocess = Preprocess((32, 32), keep_aspect=True)
    manifest = Manifest("none", {}, preprocess, Calibration((1.0,), (1.0,), 0.0))
    model = predictor.Predictor(Artefact(manifest, {"roi": np.ones((32, 32), bool)}), Bright())
    pictures = [np.full((10, 80, 3), k, np.uint8) for k in range(3)]  # most is padding
    found = model.calibrate([*pictures, pictures[0]])
    assert found.calibration.map_level == 1
    assert found.calibration.count == 3
    assert [p.role for p in found.manifest.pictures] == ["calibration"] * 3
