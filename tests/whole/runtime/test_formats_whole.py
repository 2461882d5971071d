"""Both kinds of model file do the same in every engine, and each is known by its suffix."""

import json

import numpy as np
import pytest

import flawscope
from flawscope.cli import main
from formats_helpers import engine_fixture, path_fixture  # noqa: F401


def known(values):
    """Of pictures with a score; of others there is none."""
    assert any(value is not None for value in values)
    return [np.nan if value is None else value for value in values]


def test_every_command_takes_it(path, engine, model_path, drawn, tmp_path, capsys):
    def how(model):
        return ["--threads", "1", *(["--engine", engine] if engine and model.suffix == ".onnx" else [])]

    def run(command, model, *argv):
        assert main([command, str(model), *argv, "--json", *how(model)]) == 0
        return json.loads(capsys.readouterr().out)

    def calibrated(model):
        new = tmp_path / f"new{model.suffix}"
        argv = ["calibrate", str(model), "--good", str(drawn / "plate/test/good"), "--force"]
        argv += ["--out", str(new)]
        assert main([*argv, *how(model), "--quiet"]) == 0
        return new

    picture = sorted((drawn / "plate/test").glob("*/*.png"))[-1]
    new, origin = calibrated(path), calibrated(model_path)
    for model, trained in ((path, model_path), (new, origin)):
        found, expected = (run("predict", m, str(picture)) for m in (model, trained))
        assert found["score"] == pytest.approx(expected["score"], rel=1e-4)
        assert found["severity"] == pytest.approx(expected["severity"], rel=1e-3)
        assert found["shifts"] == expected["shifts"] != {}
        assert found["is_anomalous"] == expected["is_anomalous"]
    found, expected = (run("evaluate", m, "--data", str(drawn)) for m in (path, model_path))
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-3)
    found, expected = (run("info", m) for m in (new, origin))
    for name, column in expected["pictures"].items():
        if name in ("score", "maximum", "median"):
            assert known(found["pictures"][name]) == pytest.approx(known(column), rel=1e-4, nan_ok=True)
        else:
            assert found["pictures"][name] == column
    run("info", new, "--self-test")


def test_many_pictures_are_judged_side_by_side_as_one_by_one(path, engine, drawn):
    import torch

    before = torch.get_num_threads()
    try:
        pictures = sorted((drawn / "plate/test").glob("*/*.png"))[:7]
        single = flawscope.load(path, engine=engine, device="cpu", threads=1)
        assert single.session.lanes == 1
        expected = [single.predict(picture) for picture in pictures]
        model = flawscope.load(path, engine=engine, device="cpu", threads=3)
        assert model.session.lanes == (6 if engine == "openvino" else 3)
        calls, run_alone = [], model.session.run_alone
        model.session.run_alone = lambda images: calls.append(len(images)) or run_alone(images)
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
