from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawscope
from flawscope import predictor
from flawscope.errors import FlawscopeError, InputError
from flawscope.runtime import onnx_file
from flawscope.runtime import openvino as runtime
from flawscope.runtime.openvino import OpenVinoSession, read_network

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def session(onnx_path: Path) -> OpenVinoSession:
    return OpenVinoSession.open(onnx_file.read(onnx_path), onnx_path, "cpu")


def pictures(count: int) -> Any:
    return np.random.default_rng(0).random((count, 3, 64, 64), dtype=np.float32)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_numpy_in_and_out_as_with_torch(batch: int, session: OpenVinoSession, model_path: Path) -> None:
    images = pictures(batch)
    scores, maps = session.run(images)
    assert (scores.shape, maps.shape) == ((batch,), (batch, *session.size))
    assert scores.dtype == maps.dtype == np.float32
    expected = flawscope.load(model_path, device="cpu").session.run(images)
    np.testing.assert_allclose(scores, expected[0], rtol=1e-4)
    np.testing.assert_allclose(maps, expected[1], rtol=1e-4)
    one = [session.run(image[None])[0][0] for image in images]
    np.testing.assert_allclose(scores, one, rtol=1e-5)  # whatever is beside it in the batch


def test_several_threads_may_ask_at_once(session: OpenVinoSession) -> None:
    batches = [pictures(1 + k % 3)[: 1 + k % 3] * np.float32(1 - k / 20) for k in range(12)]
    expected = [session.run(b) for b in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(session.run, batches))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
        np.testing.assert_allclose(one[1], other[1], rtol=1e-6)


def test_results_stay_what_they_are(session: OpenVinoSession) -> None:
    images = pictures(2)
    scores, maps = session.run(images)
    kept = scores.copy(), maps.copy()
    session.run(1 - images)
    np.testing.assert_array_equal(scores, kept[0])
    np.testing.assert_array_equal(maps, kept[1])


def test_saving_changes_metadata_only(onnx_path: Path, tmp_path: Path) -> None:
    model, copy = flawscope.load(onnx_path, engine="openvino").with_rate(0.25), tmp_path / "copy.onnx"
    model.save(copy)
    assert {p.name for p in tmp_path.iterdir()} == {"copy.onnx"}
    again = flawscope.load(copy, engine="openvino")
    assert again.calibration.rate == 0.25
    again.with_rate(0.5).save(copy)  # over the file that it runs from
    assert flawscope.load(copy).calibration.rate == 0.5
    assert again.self_test().passed
    with pytest.raises(FlawscopeError, match="without a file"):
        OpenVinoSession(read_network(copy.read_bytes())).save(again.artefact, copy)


def test_without_torch_it_is_calibrated_and_predicts(
    onnx_path: Path, model_path: Path, drawn: Path, tmp_path: Path
) -> None:
    new, folder, home = tmp_path / "new.onnx", drawn / "plate/test", tmp_path / "home"
    home.mkdir()
    code = f"""
import sys
sys.modules["torch"] = None  # importing it raises
from flawscope.cli import main
good = {str(folder / "good")!r}
how = ["--engine", "openvino"]
assert main(["calibrate", {str(onnx_path)!r}, "--good", good, "--out", {str(new)!r}, *how]) == 0
assert main(["info", {str(new)!r}, "--self-test", *how]) == 0
assert main(["evaluate", {str(new)!r}, "--data", {str(drawn)!r}, "--quiet", *how]) == 0
print("predictions:")
assert main(["predict", {str(new)!r}, {str(folder)!r}, "--json", "--threads", "1", *how]) == 0
assert not any(m.split(".")[0] in ("timm", "onnx", "onnxruntime", "openvino_telemetry") for m in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    assert not list(home.iterdir())  # OpenVINO's telemetry would have left its number there
    found = [json.loads(line) for line in done.stdout.split("predictions:\n")[1].splitlines()]
    origin = flawscope.load(model_path, device="cpu").calibrate(sorted((folder / "good").iterdir()))
    expected = origin.predict([line["path"] for line in found])
    assert len(found) > 5
    for line, one in zip(found, expected, strict=True):
        assert line["score"] == pytest.approx(one.score, rel=1e-4)
        assert line["p_value"] == one.p_value
        assert line["is_anomalous"] == one.is_anomalous
    manifest = predictor.read_manifest(new)
    assert (manifest.calibration.runtime, manifest.calibration.precision) == ("openvino", "fp32")


def test_without_openvino_a_model_is_described_and_running_it_says_what_to_install(
    onnx_path: Path, drawn: Path
) -> None:
    code = f"""
import sys
sys.modules["openvino"] = None  # as if it were not installed
from flawscope.cli import main
assert main(["info", {str(onnx_path)!r}]) == 0
picture = {str(drawn / "plate/test/good/000.png")!r}
assert main(["predict", {str(onnx_path)!r}, picture, "--engine", "openvino"]) == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("flawscope: running a model in OpenVINO needs openvino: pip install ")
    assert done.stderr.count("\n") == 1


def test_after_models_were_closed_in_any_order_a_signal_is_heard(onnx_path: Path, drawn: Path) -> None:
    """With a plugin for each model, the second one to end would leave signals a stack that is gone."""
    part = drawn / "plate/test/good/000.png"
    code = f"""
import gc, signal, flawscope
for _ in range(3):
    first = flawscope.load({str(onnx_path)!r}, engine="openvino")
    second = flawscope.load({str(onnx_path)!r}, engine="openvino")
    first.predict({str(part)!r}), second.predict({str(part)!r})
    del first
    gc.collect()
    del second
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("heard")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_threads_that_run_first_do_not_wait_for_each_other(onnx_path: Path) -> None:
    """Without the run in `core` 19 of 20 such processes waited for ever."""
    code = f"""
import sys, threading
import numpy as np
import flawscope
model = flawscope.load({str(onnx_path)!r}, engine="openvino", threads=1)
images = np.zeros((1, 3, *model.session.size), np.float32)
sys.setswitchinterval(1e-6)
together = threading.Barrier(8)
def judge():
    together.wait()
    for part in model.session.parts:
        part.create_infer_request().infer({{"images": images}})
threads = [threading.Thread(target=judge) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("judged")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "judged\n", done.stderr


# -------------------------------------------------------------------------------- precision, devices, threads


def test_it_computes_in_f32_although_the_processor_may_have_bf16(session: OpenVinoSession) -> None:
    (compiled,) = session.parts
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == runtime.engine().Type.f32


class Processor:
    """A Core that has one device without bf16."""

    available_devices = ("CPU", "GPU.0")

    def get_property(self, device: str, name: str) -> list[str]:
        return ["FP32", "INT8"]


def test_precision_is_asked_for_by_name_and_one_that_is_missing_is_one_line() -> None:
    for precision, hint in (("fp32", "f32"), ("fp16", "f32"), ("int8", "f32")):
        assert runtime._hint(Processor(), "CPU", precision) == hint
    with pytest.raises(InputError, match="bf16, which this CPU lacks"):
        runtime._hint(Processor(), "CPU", "bf16")
    with pytest.raises(InputError, match="fp32, fp16, int8, bf16"):
        runtime._hint(Processor(), "CPU", "fp7")


def test_the_precision_is_the_manifest_s(onnx_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = onnx_file.read(onnx_path)
    calibration = replace(artefact.manifest.calibration, precision="bf16")
    artefact = replace(artefact, manifest=replace(artefact.manifest, calibration=calibration))
    asked = []
    monkeypatch.setattr(runtime, "_hint", lambda core, device, precision: asked.append(precision) or "f32")
    OpenVinoSession.open(artefact, onnx_path)
    assert asked == ["bf16"]


def test_devices() -> None:
    assert [runtime._device(Processor(), d) for d in ("auto", "cpu", "gpu", "gpu.0")] == [
        *("CPU", "CPU", "GPU", "GPU.0")
    ]
    for wrong in ("npu", "cuda", "mps", "cpu:1", ""):
        with pytest.raises(InputError, match=r"use one of auto, cpu, gpu\.0"):
            runtime._device(Processor(), wrong)


def test_a_device_it_does_not_have_is_one_line(onnx_path: Path) -> None:
    with pytest.raises(InputError, match="no device cuda here"):
        flawscope.load(onnx_path, engine="openvino", device="cuda")


def test_threads(onnx_path: Path) -> None:
    session: Any = flawscope.load(onnx_path, engine="openvino", threads=1).session
    assert [part.get_property("INFERENCE_NUM_THREADS") for part in session.parts] == [1]


def test_pictures_of_another_size_are_one_line(session: OpenVinoSession) -> None:
    with pytest.raises(FlawscopeError, match="OpenVINO failed") as error:
        session.run(np.zeros((1, 3, 8, 8), np.float32))
    assert "\n" not in str(error.value)


def test_a_network_of_another_size_than_its_manifest(onnx_path: Path) -> None:
    artefact = onnx_file.read(onnx_path)
    other = replace(artefact.manifest.preprocess, size=(32, 32))
    artefact = replace(artefact, manifest=replace(artefact.manifest, preprocess=other))
    with pytest.raises(InputError, match=f"cannot use model {onnx_path}: its size") as error:
        OpenVinoSession.open(artefact, onnx_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["no graph", "one channel", "any size", "one picture", "other outputs"])
def test_another_network_with_right_hashes_is_one_line(what: str, onnx_path: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    proto, path = onnx.load(onnx_path), tmp_path / "bad.onnx"
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    if what == "no graph":
        proto.ClearField("graph")
    elif what == "one channel":
        dims[1].dim_value = 1
    elif what == "any size":
        dims[2].dim_param = "height"
    elif what == "one picture":
        dims[0].dim_value = 1
    else:
        for node in proto.graph.node:
            node.output[:] = ["masks" if name == "maps" else name for name in node.output]
        proto.graph.output[1].name = "masks"
    onnx_file.write(onnx_file.read(onnx_path), proto.SerializeToString(), path)
    with pytest.raises(InputError) as error:
        flawscope.load(path, engine="openvino")
    assert str(error.value).startswith(f"cannot use model {path}: ")
    assert "\n" not in str(error.value)
