"""An exported EfficientAD model answers as the trained one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawscope
from flawscope.datasets import list_pictures

for needed in ("torch", "onnx", "onnxscript"):
    pytest.importorskip(needed)

from flawscope.export import onnx_graph  # noqa: E402
from flawscope.export.export import export  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _traced_once(trace_once: Callable[[Any], Any]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "trace", trace_once)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_the_exported_model_says_the_same(
    efficientad_path: Path, drawn: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".xml":
        pytest.importorskip("openvino")
    out = tmp_path / f"plate{suffix}"
    certificate = export(efficientad_path, out)
    assert certificate.passed
    trained, exported = (flawscope.load(p, device="cpu") for p in (efficientad_path, out))
    assert exported.calibration == trained.calibration
    assert exported.self_test().passed
    pictures = [drawn / "plate/test/good/000.png", drawn / "plate/test/stain/000.png"]
    images = np.concatenate([trained.manifest.preprocess(p)[0] for p in pictures])
    scores, maps = trained.session.run(images)
    for batch in (1, 2):  # the graph takes any
        for k in range(0, 2, batch):
            found, drawn_maps = exported.session.run(images[k : k + batch])
            np.testing.assert_allclose(found, scores[k : k + batch], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(drawn_maps, maps[k : k + batch], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "precision"), [(".onnx", "fp16"), (".xml", "int8")])
def test_of_reduced_precision_it_is_calibrated_on_what_it_has_not_learnt(
    efficientad_path: Path, drawn: Path, tmp_path: Path, suffix: str, precision: str
) -> None:
    if suffix == ".xml":
        pytest.importorskip("openvino")
    out = tmp_path / f"plate{suffix}"
    of = {p.name: p.role for p in flawscope.load(efficientad_path).manifest.pictures}
    learnt = [name for name, role in of.items() if role == "train"][:1]
    held = [name for name, role in of.items() if role == "calibration"][:2]
    pictures = [drawn / "plate/train/good" / name for name in (*learnt, *held)]
    pictures += list_pictures(drawn / "plate/test/good")[:1]
    certificate = export(efficientad_path, out, precision=precision, pictures=pictures)
    assert certificate.passed
    exported = flawscope.load(out)
    assert exported.calibration.precision == precision
    assert exported.calibration.count == 3  # two held out, one that is new
    score = exported.predict(pictures[-1]).score
    assert exported.calibration.scores[-1] == pytest.approx(score, rel=1e-3)
