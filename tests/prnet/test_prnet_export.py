"""An exported PRN model answers as the trained one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawscope

for needed in ("torch", "onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed)

from flawscope import graph  # noqa: E402
from flawscope.export import export  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _traced_once(trace_once: Callable[[Any], Any]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "trace", trace_once)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_the_exported_model_says_the_same(prnet_path: Path, drawn: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".xml":
        pytest.importorskip("openvino")
    out = tmp_path / f"plate{suffix}"
    certificate = export(prnet_path, out)
    assert certificate.passed
    trained, exported = (flawscope.load(p, device="cpu") for p in (prnet_path, out))
    assert exported.calibration == trained.calibration
    assert exported.self_test().passed
    assert [p.role for p in exported.manifest.pictures].count("seen") == 2
    kinds = ("good", "stain", "scratch")
    pictures = [drawn / f"plate/test/{kind}/000.png" for kind in kinds]
    images = np.concatenate([trained.manifest.preprocess(p)[0] for p in pictures])
    scores, maps = trained.session.run(images)
    assert len(np.unique(scores)) == 3
    for batch in (1, 2, 3):  # the graph takes any
        for k in range(0, 3, batch):
            found, drawn_maps = exported.session.run(images[k : k + batch])
            np.testing.assert_allclose(found, scores[k : k + batch], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(drawn_maps, maps[k : k + batch], rtol=1e-3, atol=1e-4)
    a, b = trained.predict(pictures[1]), exported.predict(pictures[1])
    assert b.score == pytest.approx(a.score, rel=1e-4)
    assert b.is_anomalous == a.is_anomalous
