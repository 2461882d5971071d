"""Engines: the same numbers from the same file, and one line where a file or a machine does not fit."""

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import pytest

import flawscope
from flawscope import predictor
from flawscope.errors import FlawscopeError, InputError
from flawscope.runtime import onnx_file, open_session

NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
EXAMPLE = Path(flawscope.__file__).parents[2] / "examples" / "predict.py"


@pytest.fixture
def session(engine, onnx_path):
    return flawscope.load(onnx_path, engine=engine, device="cpu").session


def run_python(code, **env):
    env = {**os.environ, **env}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)


def test_saving_changes_metadata_only(engine, session, onnx_path, tmp_path):
    model, copy = flawscope.load(onnx_path, engine=engine).with_rate(0.25), tmp_path / "copy.onnx"
    model.save(copy)
    assert {p.name for p in tmp_path.iterdir()} == {"copy.onnx"}
    bodies = [b"".join(onnx_file.without_metadata(p.read_bytes())) for p in (onnx_path, copy)]
    assert bodies[0] == bodies[1]
    onnx.checker.check_model(onnx.load(copy))
    again = flawscope.load(copy, engine=engine)
    assert again.calibration.rate == 0.25
    again.with_rate(0.5).save(copy)  # over the file that it runs from
    assert flawscope.load(copy).calibration.rate == 0.5
    assert again.self_test().passed
    session.network = None
    with pytest.raises(FlawscopeError, match="without a file"):
        session.save(again.artefact, copy)


def test_without_torch_it_is_calibrated_and_predicts(engine, onnx_path, model_path, drawn, tmp_path):
    new, folder, home = tmp_path / "new.onnx", drawn / "plate/test", tmp_path / "home"
    home.mkdir()
    unused = {"timm", "onnx", "openvino_telemetry"} | ({"onnxruntime"} if engine == "openvino" else set())
    code = f"""
import sys
sys.modules["torch"] = sys.modules["matplotlib"] = None  # importing them raises
from flawscope.cli import main
good = {str(folder / "good")!r}
how = ["--engine", {engine!r}]
assert main(["calibrate", {str(onnx_path)!r}, "--good", good, "--out", {str(new)!r}, "--force", *how]) == 0
assert main(["info", {str(new)!r}, "--self-test", *how]) == 0
assert main(["evaluate", {str(new)!r}, "--data", {str(drawn)!r}, "--quiet", *how]) == 0
print("predictions:")
assert main(["predict", {str(new)!r}, {str(folder)!r}, "--json", "--threads", "1", *how]) == 0
assert not {unused!r} & {{m.split(".")[0] for m in sys.modules}}
"""
    done = run_python(code, HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert engine == "onnxruntime" or not list(home.iterdir())  # OpenVINO's telemetry would leave its number
    found = [json.loads(line) for line in done.stdout.split("predictions:\n")[1].splitlines()]
    origin = flawscope.load(model_path, device="cpu").calibrate(
        sorted((folder / "good").iterdir()), force=True
    )
    expected = origin.predict([line["path"] for line in found])
    assert len(found) > 5
    for line, one in zip(found, expected, strict=True):
        assert line["score"] == pytest.approx(one.score, rel=1e-4)
        assert line["p_value"] == one.p_value
        assert line["is_anomalous"] == one.is_anomalous
    calibration = predictor.read_manifest(new).calibration
    assert (calibration.runtime, calibration.precision) == (engine, "fp32")
    assert calibration.map_level == pytest.approx(origin.calibration.map_level, rel=1e-4)


def test_another_size_is_one_line(engine, onnx_path, session):
    artefact = onnx_file.read(onnx_path)
    other = replace(artefact.manifest.preprocess, size=(32, 32))
    artefact = replace(artefact, manifest=replace(artefact.manifest, preprocess=other))
    with pytest.raises(InputError, match=f"cannot use model {onnx_path}: its size"):
        open_session(artefact, onnx_path, engine)
    with pytest.raises(FlawscopeError, match=f"{NAMES[engine]} failed") as error:
        session.run(np.zeros((1, 3, 8, 8), np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("whose", ["flawscope", "example"])
def test_nothing_is_told_to_the_makers_of_the_engine(whose, onnx_path, tmp_path):
    """What would tell keeps a number of this machine in the home folder, but not in a test."""
    code = "from flawscope import load; import sys; load(sys.argv[1])"
    words = ["-c", code, str(onnx_path)] if whose == "flawscope" else [str(EXAMPLE), str(onnx_path)]
    names = "ORT_DISABLE_TELEMETRY", "CI", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME"
    home = {key: value for key, value in os.environ.items() if key not in names} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, *words], env=home, check=True, timeout=120)
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_a_model_works_in_another_process(engine, onnx_path, drawn):
    model, picture = flawscope.load(onnx_path, engine=engine), drawn / "plate/train/good/000.png"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(model.predict, picture).result(timeout=120)
    expected = model.predict(picture)
    assert (found.score, found.is_anomalous) == (expected.score, expected.is_anomalous)
