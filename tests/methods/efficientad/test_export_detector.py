"""An exported EfficientAD model answers as the trained one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flawscope
from flawscope.testing import Case

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
def test_of_reduced_precision_it_is_calibrated_on_what_it_has_not_learnt(
    cases: Callable[[str], Case], tmp_path: Path
) -> None:
    out, precision = tmp_path / "plate.onnx", "int8"
    case = cases("efficientad")
    model = case.fitted()  # the contract's, which is traced once
    of = {p.name: p.role for p in model.manifest.pictures}
    learnt = [name for name, role in of.items() if role == "train"][:1]
    held = [name for name, role in of.items() if role == "calibration"][:2]
    pictures = [path for path in case.good if Path(str(path)).name in (*learnt, *held)] + case.probes[:1]
    certificate = export(model.artefact, out, precision=precision, pictures=pictures)
    assert certificate.passed
    exported = flawscope.load(out)
    assert exported.calibration.precision == precision
    assert exported.calibration.count == 3  # two held out, one that is new
    score = exported.predict(pictures[-1]).score
    assert exported.calibration.scores[-1] == pytest.approx(score, rel=1e-3)
