"""Measuring models on this machine."""

import argparse
import json
import shutil
from pathlib import Path

import pytest

from flawscope.cli import measure


@pytest.mark.slow
def test_measures_each_combination_and_names_those_that_fail(run, model_path, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 1)
    call = ["measure", model_path, "--data", drawn, "--engines", "torch,onnxruntime"]
    call += ["--threads", "1", "--json", "--out", tmp_path, "--quiet"]
    code, printed, _ = run(*call)
    torch, onnx = json.loads(printed)["rows"]
    assert code == 0
    assert json.loads(printed)["machine"]["cores"] >= 1
    assert len((tmp_path / "measure.log").read_text().split(" round 1, ")) == 3
    assert json.loads((tmp_path / "measure.json").read_text())["rows"] == [torch, onnx]
    assert torch["largest_difference"] == 0 <= onnx["largest_difference"] < 1e-4
    assert torch["image_auroc"] == onnx["image_auroc"]
    assert 0 < onnx["median_ms"] <= onnx["p95_ms"]
    assert (tmp_path / "measure.png").stat().st_size

    call = ["measure", model_path, "--engines", "onnxruntime", "--precisions", "int8", "--threads", "1"]
    code, printed, _ = run(*call, "--quiet")  # PatchCore has none
    assert code == 1
    assert "int8 makes patchcore no faster" in printed


def test_models_of_the_same_name_are_exported_apart(model_path, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "flawscope.export.export.export", lambda model, out, **_: Path(out).write_text(str(model))
    )
    asked = {"threads": [1], "engines": ["onnxruntime"], "precisions": ["fp32"]}
    asked |= {"batches": [1], "data": None, "category": None, "good": None, "quiet": True, "debug": False}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        model = str(shutil.copy(model_path, tmp_path / folder / "part.safetensors"))
        (case,) = measure._cases(argparse.Namespace(**asked), model, tmp_path, 1)
        assert Path(case.file).read_text() == model
