from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawscope
from flawscope import predictor
from flawscope.artefact import embedded as carried
from flawscope.cli import main
from flawscope.errors import FlawscopeError, InputError
from flawscope.runtime import openvino as runtime
from flawscope.runtime import openvino_xml as metadata
from flawscope.runtime.openvino import OpenVinoSession, weights_of

pytest.importorskip("openvino")
KEY = "flawscope"


@pytest.fixture(scope="module")
def session(openvino_path: Path) -> OpenVinoSession:
    return OpenVinoSession.open(runtime.read(openvino_path), openvino_path, "cpu")


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


def test_manifest_samples_and_region_come_along(openvino_path: Path, onnx_path: Path) -> None:
    manifests = [predictor.read_manifest(p).to_dict() for p in (openvino_path, onnx_path)]
    for manifest in manifests:
        assert manifest["facts"].pop("certificate")
        for name in ("openvino", "onnxruntime"):
            manifest["versions"].pop(name, None)
    assert manifests[0] == manifests[1]
    found, origin = (flawscope.load(p).artefact.tensors for p in (openvino_path, onnx_path))
    assert set(found) == {"samples", "sample_maps", "roi"}
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, origin[name])
    assert flawscope.load(openvino_path).self_test().passed


def test_openvino_itself_shows_the_manifest(openvino_path: Path) -> None:
    model = runtime.core().read_model(openvino_path)
    manifest = json.loads(model.get_rt_info([KEY, "manifest"]).value)
    assert manifest == predictor.read_manifest(openvino_path).to_dict()


def test_nothing_of_this_machine_is_in_the_file(openvino_path: Path) -> None:
    data = openvino_path.read_bytes()
    assert str(openvino_path.parent.parent).encode() not in data
    assert b"site-packages" not in data


def test_saving_changes_metadata_only(openvino_path: Path, tmp_path: Path) -> None:
    model, copy = flawscope.load(openvino_path).with_rate(0.25), tmp_path / "copy.xml"
    model.save(copy)
    assert {p.name for p in tmp_path.iterdir()} == {"copy.xml", "copy.bin"}
    assert flawscope.load(copy).calibration.rate == 0.25
    assert weights_of(copy).read_bytes() == weights_of(openvino_path).read_bytes()
    bodies = [metadata.body(p.read_bytes(), KEY) for p in (openvino_path, copy)]
    assert bodies[0] == bodies[1]
    again = flawscope.load(copy)
    again.with_rate(0.5).save(copy)  # over the file that it runs from
    assert flawscope.load(copy).calibration.rate == 0.5
    assert again.self_test().passed


def test_a_model_in_memory_is_written_and_not_changed(openvino_path: Path, tmp_path: Path) -> None:
    model = runtime.core().read_model(openvino_path)
    before = json.loads(model.get_rt_info([KEY, "manifest"]).value)
    artefact = flawscope.load(openvino_path).with_rate(0.25).artefact
    OpenVinoSession(model).save(artefact, tmp_path / "new.xml")
    assert flawscope.load(tmp_path / "new.xml").calibration.rate == 0.25
    assert json.loads(model.get_rt_info([KEY, "manifest"]).value) == before


def test_an_interrupted_write_is_noticed(
    openvino_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New weights are there, the old network still is: between the two renames."""
    path, ov = tmp_path / "m.xml", runtime.engine()
    artefact = runtime.read(openvino_path)
    runtime.write(artefact, runtime.core().read_model(openvino_path), path)
    x = ov.opset8.parameter([-1, 2], np.float32)
    other = ov.Model([ov.opset8.add(x, np.float32([1, 2]))], [x], "other")
    rename = os.replace

    def stop(source: Any, target: Any) -> None:
        if str(target).endswith(".xml"):
            raise OSError(5, "power cut")
        rename(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(FlawscopeError, match="power cut"):
        runtime.write(artefact, other, path)
    assert {p.name for p in tmp_path.iterdir()} == {"m.xml", "m.bin"}
    with pytest.raises(InputError, match=r"m\.bin are of another model"):
        flawscope.load(path)


def test_a_folder_that_is_missing_is_one_line(openvino_path: Path, tmp_path: Path) -> None:
    with pytest.raises(FlawscopeError, match="choose another --out"):
        runtime.write(
            runtime.read(openvino_path),
            runtime.core().read_model(openvino_path),
            tmp_path / "no" / "m.xml",
        )


def test_without_torch_it_is_calibrated_and_predicts(
    openvino_path: Path, model_path: Path, drawn: Path, tmp_path: Path
) -> None:
    new, folder, home = tmp_path / "new.xml", drawn / "plate/test", tmp_path / "home"
    home.mkdir()
    code = f"""
import sys
sys.modules["torch"] = None  # importing it raises
from flawscope.cli import main
good = {str(folder / "good")!r}
assert main(["calibrate", {str(openvino_path)!r}, "--good", good, "--out", {str(new)!r}]) == 0
assert main(["info", {str(new)!r}, "--self-test"]) == 0
assert main(["evaluate", {str(new)!r}, "--data", {str(drawn)!r}, "--quiet"]) == 0
print("predictions:")
assert main(["predict", {str(new)!r}, {str(folder)!r}, "--json", "--threads", "1"]) == 0
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
    openvino_path: Path, drawn: Path
) -> None:
    code = f"""
import sys
sys.modules["openvino"] = None  # as if it were not installed
from flawscope.cli import main
assert main(["info", {str(openvino_path)!r}]) == 0
assert main(["predict", {str(openvino_path)!r}, {str(drawn / "plate/test/good/000.png")!r}]) == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("flawscope: running an .xml model needs openvino: pip install ")
    assert done.stderr.count("\n") == 1


def test_after_models_were_closed_in_any_order_a_signal_is_heard(openvino_path: Path, drawn: Path) -> None:
    """With a plugin for each model, the second one to end would leave signals a stack that is gone."""
    part = drawn / "plate/test/good/000.png"
    code = f"""
import gc, signal, flawscope
for _ in range(3):
    first = flawscope.load({str(openvino_path)!r})
    second = flawscope.load({str(openvino_path)!r})
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


def test_threads_that_run_first_do_not_wait_for_each_other(openvino_path: Path) -> None:
    """Without the run in `core` 19 of 20 such processes waited for ever."""
    code = f"""
import sys, threading
import numpy as np
import flawscope
model = flawscope.load({str(openvino_path)!r}, threads=1)
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


def test_the_precision_is_the_manifest_s(openvino_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = runtime.read(openvino_path)
    calibration = replace(artefact.manifest.calibration, precision="bf16")
    artefact = replace(artefact, manifest=replace(artefact.manifest, calibration=calibration))
    asked = []
    monkeypatch.setattr(runtime, "_hint", lambda core, device, precision: asked.append(precision) or "f32")
    OpenVinoSession.open(artefact, openvino_path)
    assert asked == ["bf16"]


def test_devices() -> None:
    assert [runtime._device(Processor(), d) for d in ("auto", "cpu", "gpu", "gpu.0")] == [
        *("CPU", "CPU", "GPU", "GPU.0")
    ]
    for wrong in ("npu", "cuda", "mps", "cpu:1", ""):
        with pytest.raises(InputError, match=r"use one of auto, cpu, gpu\.0"):
            runtime._device(Processor(), wrong)


def test_a_device_it_does_not_have_is_one_line(openvino_path: Path) -> None:
    with pytest.raises(InputError, match="no device cuda here"):
        flawscope.load(openvino_path, device="cuda")


def test_threads(openvino_path: Path) -> None:
    session: Any = flawscope.load(openvino_path, threads=1).session
    assert [part.get_property("INFERENCE_NUM_THREADS") for part in session.parts] == [1]


def test_pictures_of_another_size_are_one_line(session: OpenVinoSession) -> None:
    with pytest.raises(FlawscopeError, match="OpenVINO failed") as error:
        session.run(np.zeros((1, 3, 8, 8), np.float32))
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------- bad files


def changed(
    path: Path, target: Path, network: Callable[[bytes], bytes] = lambda d: d, **manifest: object
) -> None:
    """A pair of files whose hashes are right and whose network or manifest are not."""
    data = path.read_bytes()
    entries, body = metadata.read(data, KEY), network(metadata.body(data, KEY))
    entries[KEY] = json.dumps({**json.loads(entries[KEY]), **manifest})
    entries[carried.SHA256] = carried.digest([body])
    entries[carried.METADATA_SHA256] = carried.metadata_hash(entries)
    target.write_bytes(metadata.written(body, entries, KEY))
    shutil.copy(weights_of(path), weights_of(target))


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def bomb(data: bytes) -> bytes:
    return data.replace(b"<net", b'<!DOCTYPE net [<!ENTITY a "b">]><net', 1)


def deep(data: bytes) -> bytes:
    return data.replace(b"<layers>", b"<a>" * 1000 + b"</a>" * 1000 + b"<layers>", 1)


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "empty"),
    "cut short": (lambda d: d[: len(d) // 2], "damaged"),
    "not ours": (lambda d: metadata.body(d, KEY), "not a flawscope model"),
    "no xml": (lambda d: b"\x80\x04 a pickle", "not a flawscope model"),
    "entities": (bomb, "not a flawscope model"),
    "nested without end": (deep, "not a flawscope model"),
    "network altered": (lambda d: d.replace(b'"Convolution"', b'"Xonvolution"', 1), "network was altered"),
    "manifest altered": (lambda d: d.replace(b'"seed": 0', b'"seed": 1'), "manifest was altered"),
    "not a number": (lambda d: d.replace(b'"seed": 0', b'"seed": NaN'), "not a flawscope model"),
    "deep manifest": (
        lambda d: d.replace(b'"seed": 0', b'"seed": ' + b"[" * 100_000),
        "not a flawscope model",
    ),
    "samples altered": (lambda d: d.replace(b'<samples value="e', b'<samples value="f'), "was altered"),
    "two of ours": (
        lambda d: d.replace(b"<rt_info>", b"<rt_info><flawscope></flawscope>").replace(
            b"<rt_info></rt_info>", b"<rt_info>"
        ),
        "altered",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_bad_file_is_one_line(
    name: str, openvino_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason = DAMAGED[name]
    path = tmp_path / "bad.xml"
    data = change(openvino_path.read_bytes())
    assert data != openvino_path.read_bytes()
    path.write_bytes(data)
    shutil.copy(weights_of(openvino_path), weights_of(path))
    assert main(["predict", str(path), str(path)]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.startswith(f"flawscope: cannot use model {path}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 99}, "upgrade"),
        ({"calibration": {}}, "damaged"),
        ({"samples": [{}] * 4}, "damaged"),
        ({"samples": [{}] * 100_000}, "damaged"),
    ],
)
def test_a_manifest_that_makes_no_sense(
    change: dict[str, object], reason: str, openvino_path: Path, tmp_path: Path
) -> None:
    changed(openvino_path, tmp_path / "bad.xml", **change)
    with pytest.raises(InputError, match=reason):
        flawscope.load(tmp_path / "bad.xml")


def beyond(data: bytes) -> bytes:
    """A Const that reaches beyond the .bin."""
    begin = data.index(b'offset="') + 8
    return data[:begin] + b"9999999999" + data[data.index(b'"', begin) :]


def taken(shape: bytes) -> Callable[[bytes], bytes]:
    """A network that takes other pictures."""
    return lambda d: d.replace(b'shape="?,3,64,64"', b'shape="%s"' % shape, 1)


LIES: dict[str, Callable[[bytes], bytes]] = {
    "weights beyond the end": beyond,
    "huge weights": lambda d: d.replace(b'shape="64, 64"', b'shape="4294967296, 4294967296"', 1),
    "huge pictures": taken(b"?,3,1073741824,1073741824"),
    "another size": taken(b"?,3,32,32"),
    "any size": taken(b"?,3,?,?"),
    "one picture at a time": taken(b"1,3,64,64"),
    "grey": taken(b"?,1,64,64"),
    "another kind of number": lambda d: d.replace(b'element_type="f32"', b'element_type="i32"', 1),
    "huge steps": lambda d: d.replace(b'strides="2, 2"', b'strides="2, 4294967296"', 1),
    "unknown step": lambda d: d.replace(b'type="Convolution"', b'type="Nonsense"', 1),
    "unknown version": lambda d: d.replace(b'version="11"', b'version="99"', 1),
    "no layers": lambda d: d[: d.index(b"<layers>")] + b"<layers/>" + d[d.index(b"</layers>") + 9 :],
    "other input": lambda d: d.replace(b'"images"', b'"pictures"'),
    "other outputs": lambda d: d.replace(b'"maps"', b'"masks"').replace(b'"maps,', b'"masks,'),
    "a loop": lambda d: d.replace(b"</layer>", b"<body/></layer>", 1),
}


@pytest.mark.parametrize("name", LIES)
def test_another_network_with_right_hashes_is_one_line(
    name: str, openvino_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.xml"
    changed(openvino_path, path, LIES[name])
    assert metadata.body(path.read_bytes(), KEY) != metadata.body(openvino_path.read_bytes(), KEY)
    with pytest.raises(InputError) as error:
        flawscope.load(path)
    assert str(error.value).startswith(f"cannot use model {path}: ")
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_or_others(openvino_path: Path, tmp_path: Path) -> None:
    path, weights = tmp_path / "m.xml", tmp_path / "m.bin"
    shutil.copy(openvino_path, path)
    for make in (lambda: None, weights.mkdir):
        make()
        for read in (predictor.read_manifest, flawscope.load):
            with pytest.raises(InputError, match=r"weights m\.bin are not beside it; copy both files"):
                read(path)
    weights.rmdir()
    data = weights_of(openvino_path).read_bytes()
    for wrong in (b"", data[:-1], data + b"\0", flip(data, len(data) // 2)):
        weights.write_bytes(wrong)
        predictor.read_manifest(path)
        with pytest.raises(InputError, match="of another model, or damaged"):
            flawscope.load(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.xml"
    with open(path, "wb") as file:
        file.truncate(metadata.LIMIT + 1)
    with pytest.raises(InputError, match="larger than"):
        predictor.read_manifest(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model"):
        flawscope.load(tmp_path / "no.xml")
    os.mkdir(tmp_path / "folder.xml")
    with pytest.raises(InputError, match="is a folder"):
        predictor.read_manifest(tmp_path / "folder.xml")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.xml")
        with pytest.raises(InputError, match="not an ordinary file"):
            predictor.read_manifest(tmp_path / "pipe.xml")


def test_weights_that_changed_since_they_were_opened_are_not_saved_anew(
    openvino_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.xml"
    path.write_bytes(openvino_path.read_bytes())
    weights = path.with_suffix(".bin")
    weights.write_bytes(openvino_path.with_suffix(".bin").read_bytes())
    model = flawscope.load(path)
    model.save(tmp_path / "same.xml")
    data = bytearray(weights.read_bytes())
    data[len(data) // 3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match="it has changed since it was opened"):
        model.save(tmp_path / "other.xml")
    assert not (tmp_path / "other.xml").exists()
