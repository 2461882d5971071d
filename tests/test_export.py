"""The exported model answers as the trained one does, or there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawscope
from flawscope import artefact as artefacts
from flawscope.certificate import Certificate
from flawscope.cli import main
from flawscope.datasets.synthetic import draw_picture
from flawscope.errors import FlawscopeError, InputError
from flawscope.imaging import Preprocess

pytest.importorskip("torch")
for needed in ("onnx", "onnxscript"):
    pytest.importorskip(needed)

from flawscope import export as exporting  # noqa: E402
from flawscope.export import export  # noqa: E402
from flawscope.runtime import onnx as runtime  # noqa: E402

ROI = "0.1,0.2,0.8,0.9"
VARIANTS: dict[str, dict[str, Any]] = {
    "one size, maximum of the map": {"size": "48", "score": "map"},
    "two sizes, region of interest": {"size": "48+64", "roi": ROI},
    "not square, nearest distance": {"size": "48x64", "score": "maximum"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_parity(name: str, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flawscope.patchcore import view

    model = flawscope.fit(drawn, device="cpu", seed=0, **VARIANTS[name])
    monkeypatch.setattr(view, "BLOCK", 50)  # several blocks also of a small memory bank
    out = tmp_path / "model.onnx"
    certificate = export(model.artefact, out)
    assert certificate.passed
    assert certificate.score < 1e-5
    assert (certificate.pictures, certificate.batches) == (3, (1, 3))
    session = flawscope.load(out).session
    rng = np.random.default_rng(5)
    drawings = [
        draw_picture("plate", rng, defect, 0.2, size=96)[0] for defect in (None, "crack", "stain", None)
    ]
    noise = [rng.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(2)]
    images = np.concatenate([model.manifest.preprocess(p)[0] for p in [*drawings, *noise]])
    scores, maps = model.session.run(images)
    for batch in (1, 3):
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            found, shown = session.run(np.ascontiguousarray(images[part]))
            np.testing.assert_allclose(found, scores[part], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(shown, maps[part], rtol=1e-3, atol=1e-3)


def test_the_certificate_is_in_the_file_and_shown(
    onnx_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = Certificate.from_dict(runtime.read_manifest(onnx_path).facts["certificate"])
    assert certificate.passed
    assert main(["info", str(onnx_path)]) == 0
    assert certificate.line() in capsys.readouterr().out


def test_the_file_is_valid(onnx_path: Path) -> None:
    import onnx

    proto = onnx.load(onnx_path)
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.ir_version, [(o.domain, o.version) for o in proto.opset_import]) == (8, [("", 18)])


def test_nothing_of_this_machine_is_in_the_file(onnx_path: Path) -> None:
    data = onnx_path.read_bytes()
    assert str(Path(flawscope.__file__).parent).encode() not in data
    assert b"site-packages" not in data


def test_the_file_is_no_larger_than_the_model(onnx_path: Path, model_path: Path) -> None:
    """The memory bank and the weights are in it once."""
    assert onnx_path.stat().st_size < 1.1 * model_path.stat().st_size


@pytest.fixture
def quick(onnx_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter takes seconds: here it gives what it gave before."""
    monkeypatch.setattr(exporting, "to_onnx", lambda model: onnx_path.read_bytes())


def test_beyond_the_tolerance_there_is_no_file(
    quick: None, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runtime.OnnxSession.run

    def otherwise(self: Any, images: Any) -> Any:
        scores, maps = run(self, images)
        return scores * np.float32(1.0005), maps

    monkeypatch.setattr(runtime.OnnxSession, "run", otherwise)
    out = tmp_path / "model.onnx"
    with pytest.raises(FlawscopeError, match="not the trained one"):
        export(model_path, out)
    assert not list(tmp_path.iterdir())
    out.write_bytes(b"old")
    assert main(["export", str(model_path), "--out", str(out)]) == 1
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


class Fixed:
    """A session that gives what it is told, by the value of the picture's first pixel."""

    runtime, suffix, size, batch = "fixed", ".fixed", (2, 2), 8

    def __init__(self, scores: list[float], wrong_batch: int = 0):
        self.scores, self.wrong_batch = np.array(scores, np.float32), wrong_batch

    def run(self, images: Any) -> Any:
        scores = self.scores[images[:, 0, 0, 0].astype(int)]
        if len(images) == self.wrong_batch:
            scores = scores[::-1].copy()
        return scores, np.ones((len(images), 2, 2), np.float32) * scores[:, None, None]

    def save(self, artefact: Any, path: Any) -> None: ...


def compared(trained: list[float], exported: Fixed, model_path: Path, threshold: float = 50.0) -> Certificate:
    artefact = artefacts.read(model_path)
    calibration = replace(artefact.manifest.calibration, scores=(threshold,), map_maxima=(1.0,))
    manifest = replace(artefact.manifest, calibration=calibration, preprocess=Preprocess((2, 2)))
    images = np.zeros((len(trained), 3, 2, 2), np.float32) + np.arange(len(trained))[:, None, None, None]
    return exporting.compare(
        Fixed(trained), exported, replace(artefact, manifest=manifest), images.astype(np.float32)
    )


def test_the_largest_difference_counts_and_is_relative(model_path: Path) -> None:
    found = compared([10.0, 0.5, 3.0, 4.0], Fixed([10.01, 0.502, 3.0, 4.0]), model_path)
    assert found.score == pytest.approx(0.002, rel=1e-3)  # below 1 it is absolute
    assert found.map == pytest.approx(0.002, rel=1e-3)
    assert not found.passed
    assert compared([1.0, 2.0], Fixed([1.0, 2.0]), model_path).passed


def test_a_decision_that_differs_fails_however_small_the_difference(model_path: Path) -> None:
    found = compared([1.0, 50.0], Fixed([1.0, 50.0001]), model_path)
    assert found.score < found.tolerance
    assert found.decisions == 1
    assert not found.passed


def test_a_batch_that_is_answered_in_another_order_fails(model_path: Path) -> None:
    assert not compared([1.0, 2.0, 3.0, 4.0], Fixed([1.0, 2.0, 3.0, 4.0], wrong_batch=3), model_path).passed


def test_not_a_number_fails(model_path: Path) -> None:
    assert not compared([1.0], Fixed([float("nan")]), model_path).passed


def test_without_samples_pictures_are_needed(
    quick: None, model_path: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artefact = artefacts.read(model_path)
    bare = replace(
        artefact,
        manifest=replace(artefact.manifest, samples=()),
        tensors={k: v for k, v in artefact.tensors.items() if k != "samples"},
    )
    path, out = tmp_path / "bare.safetensors", tmp_path / "bare.onnx"
    artefacts.write(bare, path)
    assert main(["export", str(path), "--out", str(out)]) == 2
    assert "--pictures" in capsys.readouterr().err
    pictures = str(drawn / "plate/test/good")
    assert main(["export", str(path), "--out", str(out), "--pictures", pictures]) == 0
    assert capsys.readouterr().out.startswith("4 pictures in batches of 1 and 3, fp32, onnxruntime")
    assert "samples" not in runtime.read(out).tensors
    json.dumps(runtime.read_manifest(out).to_dict())


def test_wrong_calls_are_one_line(quick: None, model_path: Path, onnx_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.onnx"
    assert main(["export", str(onnx_path), "--out", str(out)]) == 2
    assert main(["export", str(model_path), "--out", str(tmp_path / "new.pt")]) == 2
    artefact = artefacts.read(model_path)
    calibration = replace(artefact.manifest.calibration, precision="bf16")
    reduced = replace(artefact, manifest=replace(artefact.manifest, calibration=calibration))
    with pytest.raises(InputError, match="fp32"):
        export(reduced, out)
    with pytest.raises(InputError, match="size"):
        export(artefact, out, samples=np.zeros((1, 3, 8, 8), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_model_too_large_for_the_format_is_said_so(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting.onnx_metadata, "LIMIT", 1000)
    with pytest.raises(InputError, match="file holds 2"):
        export(model_path, tmp_path / "new.onnx")


def test_what_the_exporter_cannot_do_is_one_line(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("step 3/3\nfailed") from ValueError("no such operator\nfor you")

    monkeypatch.setattr(exporting.torch.onnx, "export", broken)
    with pytest.raises(FlawscopeError, match="no such operator for you") as error:
        export(model_path, tmp_path / "new.onnx")
    assert "\n" not in str(error.value)
