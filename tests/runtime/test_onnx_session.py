from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import flawscope
from flawscope import predictor
from flawscope.cli import main
from flawscope.errors import FlawscopeError, InputError
from flawscope.runtime import onnx_file as runtime
from flawscope.runtime import onnx_metadata as metadata
from flawscope.runtime.onnxruntime import OnnxSession

onnx = pytest.importorskip("onnx")


def test_numpy_in_and_out_as_with_torch(onnx_path: Path, model_path: Path) -> None:
    session, trained = OnnxSession(onnx_path), flawscope.load(model_path, device="cpu").session
    images = np.random.default_rng(0).random((5, 3, *session.size), dtype=np.float32)
    scores, maps = session.run(images)
    assert (scores.shape, maps.shape) == ((5,), (5, *session.size))
    assert scores.dtype == maps.dtype == np.float32
    assert session.batch >= 1
    expected = trained.run(images)
    np.testing.assert_allclose(scores, expected[0], rtol=1e-4)
    np.testing.assert_allclose(maps, expected[1], rtol=1e-4)
    one = [session.run(image[None])[0][0] for image in images]
    np.testing.assert_allclose(scores, one, rtol=1e-5)  # whatever is beside it in the batch


def test_the_manifest_comes_along(onnx_path: Path, model_path: Path) -> None:
    found, origin = (predictor.read_manifest(p).to_dict() for p in (onnx_path, model_path))
    assert "certificate" in found["facts"]
    for manifest in (found, origin):
        for name in ("certificate", "certificate_openvino"):
            manifest["facts"].pop(name, None)
        manifest.pop("versions")
    assert found == origin


def test_samples_and_region_come_along(onnx_path: Path, model_path: Path) -> None:
    found, origin = (flawscope.load(p, device="cpu").artefact.tensors for p in (onnx_path, model_path))
    assert set(found) == {"samples", "sample_maps", "roi"}
    for name, tensor in found.items():
        assert tensor.dtype == origin[name].dtype
        np.testing.assert_array_equal(tensor, origin[name])
    assert flawscope.load(onnx_path).self_test().passed


def test_saving_changes_metadata_only(onnx_path: Path, tmp_path: Path) -> None:
    model = flawscope.load(onnx_path).with_rate(0.25)
    copy = tmp_path / "copy.onnx"
    model.save(copy)
    assert flawscope.load(copy).calibration.rate == 0.25
    bodies = [b"".join(metadata.body(p.read_bytes(), "flawscope")) for p in (onnx_path, copy)]
    assert bodies[0] == bodies[1]
    onnx.checker.check_model(onnx.load(copy))
    again = flawscope.load(copy)
    again.with_rate(0.5).save(copy)  # over the file that it runs from
    assert flawscope.load(copy).calibration.rate == 0.5


def test_a_model_is_not_saved_under_the_name_of_another_kind(
    onnx_path: Path, model_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"saved as \.onnx"):
        flawscope.load(onnx_path).save(tmp_path / "new.safetensors")
    with pytest.raises(InputError, match="flawscope export"):
        flawscope.load(model_path, device="cpu").save(tmp_path / "new.onnx")
    assert not list(tmp_path.iterdir())


def test_without_torch_it_is_calibrated_and_predicts(
    onnx_path: Path, model_path: Path, drawn: Path, tmp_path: Path
) -> None:
    new, pictures = tmp_path / "new.onnx", drawn / "plate/test"
    code = f"""
import sys
sys.modules["torch"] = None  # importing it raises
from flawscope.cli import main
good = {str(pictures / "good")!r}
assert main(["calibrate", {str(onnx_path)!r}, "--good", good, "--out", {str(new)!r}]) == 0
assert main(["info", {str(new)!r}, "--self-test"]) == 0
assert main(["evaluate", {str(new)!r}, "--data", {str(drawn)!r}, "--quiet"]) == 0
print("predictions:")
assert main(["predict", {str(new)!r}, {str(pictures)!r}, "--json"]) == 0
assert not any(m.split(".")[0] in ("timm", "onnx") for m in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.split("predictions:\n")[1].splitlines()]
    origin = flawscope.load(model_path, device="cpu").calibrate(sorted((pictures / "good").iterdir()))
    expected = origin.predict([line["path"] for line in found])
    assert len(found) > 5
    for line, one in zip(found, expected, strict=True):
        assert line["score"] == pytest.approx(one.score, rel=1e-4)
        assert line["p_value"] == one.p_value
        assert line["is_anomalous"] == one.is_anomalous
    manifest = predictor.read_manifest(new)
    assert manifest.calibration.runtime == "onnxruntime"
    assert manifest.calibration.map_level == pytest.approx(origin.calibration.map_level, rel=1e-4)


# ------------------------------------------------------------------------------------------------- bad files


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def with_manifest(data: bytes, **changes: object) -> bytes:
    """A file whose hashes are right and whose manifest is not."""
    import io

    entries = metadata.read(data, "flawscope")
    entries["flawscope"] = json.dumps({**json.loads(entries["flawscope"]), **changes})
    entries[runtime.METADATA_SHA256] = runtime.metadata_hash(entries)
    file = io.BytesIO()
    metadata.write(file, metadata.body(data, "flawscope"), entries)
    return file.getvalue()


def foreign(data: bytes) -> bytes:
    return b"".join(metadata.body(data, "flawscope"))


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "empty"),
    "cut short": (lambda d: d[: len(d) // 2], "damaged"),
    "cut after the network": (lambda d: foreign(d), "not a flawscope model"),
    "no onnx": (lambda d: b"\x80\x04 a pickle", "not a flawscope model"),
    "weights altered": (lambda d: flip(d, len(d) // 2), "altered"),
    "manifest altered": (lambda d: d.replace(b'"seed": 0', b'"seed": 1'), "manifest was altered"),
    "extra bytes": (lambda d: d + b"\x08\x08", "altered"),
    "newer": (lambda d: with_manifest(d, format=99), "upgrade"),
    "no calibration": (lambda d: with_manifest(d, calibration={}), "damaged"),
    "more samples": (lambda d: with_manifest(d, samples=[{}] * 4), "damaged"),
    "very many samples": (lambda d: with_manifest(d, samples=[{}] * 100_000), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_bad_file_is_one_line(
    name: str, onnx_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason = DAMAGED[name]
    path = tmp_path / "bad.onnx"
    path.write_bytes(change(onnx_path.read_bytes()))
    assert main(["predict", str(path), str(path)]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.startswith(f"flawscope: cannot use model {path}: ")
    assert err.count("\n") == 1


def test_another_network_with_right_hashes_is_one_line(onnx_path: Path, tmp_path: Path) -> None:
    artefact = runtime.read(onnx_path)
    path = tmp_path / "bad.onnx"

    def load(proto: bytes) -> None:
        runtime.write(artefact, proto, path)
        with pytest.raises(InputError) as error:
            flawscope.load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)

    load(b"\x08\x08")  # no graph at all
    proto = onnx.load(onnx_path)
    proto.graph.node[0].op_type = "Nonsense"
    load(proto.SerializeToString())
    proto = onnx.load(onnx_path)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    load(proto.SerializeToString())
    proto = onnx.load(onnx_path)
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], "/etc/passwd")
    load(proto.SerializeToString())


def test_a_network_of_another_size_than_its_manifest(onnx_path: Path) -> None:
    artefact = runtime.read(onnx_path)
    other = replace(artefact.manifest.preprocess, size=(32, 32))
    artefact = replace(artefact, manifest=replace(artefact.manifest, preprocess=other))
    with pytest.raises(InputError, match="size"):
        OnnxSession.open(artefact, onnx_path)


def test_pictures_of_another_size_are_one_line(onnx_path: Path) -> None:
    with pytest.raises(FlawscopeError, match="ONNX Runtime failed") as error:
        OnnxSession(onnx_path).run(np.zeros((1, 3, 8, 8), np.float32))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model"):
        flawscope.load(tmp_path / "no.onnx")
    os.mkdir(tmp_path / "folder.onnx")
    with pytest.raises(InputError, match="is a folder"):
        predictor.read_manifest(tmp_path / "folder.onnx")


@pytest.mark.parametrize("device", ["mps", "cuda:x", "cpu:1", "gpu"])
def test_a_device_it_does_not_have(onnx_path: Path, device: str) -> None:
    with pytest.raises(InputError, match="no device"):
        flawscope.load(onnx_path, device=device)


def test_cuda_without_its_provider(onnx_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flawscope.runtime.onnxruntime.onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    with pytest.raises(InputError, match="no CUDA"):
        flawscope.load(onnx_path, device="cuda")


def test_calibrate_writes_the_kind_it_was_given(
    onnx_path: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["calibrate", str(onnx_path), "--good", str(drawn / "plate/test/good")]
    assert main([*argv, "--out", str(tmp_path / "new.safetensors")]) == 2
    assert "should end in .onnx" in capsys.readouterr().err


def test_a_file_that_changed_since_it_was_opened_is_not_saved_anew(onnx_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_path.read_bytes())
    model = flawscope.load(path)
    model.save(tmp_path / "same.onnx")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="it has changed since it was opened"):
        model.save(tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


EXAMPLE = Path(flawscope.__file__).parents[2] / "examples" / "predict.py"


@pytest.mark.parametrize("whose", ["flawscope", "example"])
def test_nothing_is_told_to_the_makers_of_the_engine(whose: str, onnx_path: Path, tmp_path: Path) -> None:
    """What would tell keeps a number of this machine in the home folder, but not where it takes itself to be
    in a test."""
    code = "from flawscope import load; import sys; load(sys.argv[1])"
    words = ["-c", code, str(onnx_path)] if whose == "flawscope" else [str(EXAMPLE), str(onnx_path)]
    names = "ORT_DISABLE_TELEMETRY", "CI", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME"
    home = {key: value for key, value in os.environ.items() if key not in names} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, *words], env=home, check=True, timeout=120)
    assert not list(tmp_path.rglob("*onnxruntime*"))
