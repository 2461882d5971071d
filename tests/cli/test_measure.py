"""Measuring models on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flawscope.cli import measure

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_measures_each_combination_and_names_those_that_fail(
    run: Run, model_path: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "ROUNDS", 1)
    call: list[Any] = ["measure", model_path, "--data", drawn, "--engines", "torch,onnxruntime"]
    call += ["--threads", "1", "--json", "--out", tmp_path, "--quiet"]
    code, printed, _ = run(*call)
    torch, onnx = json.loads(printed)["rows"]
    assert code == 0
    assert json.loads((tmp_path / "measure.json").read_text())["rows"] == [torch, onnx]
    assert torch["largest_difference"] == 0 <= onnx["largest_difference"] < 1e-4
    assert torch["image_auroc"] == onnx["image_auroc"]
    assert 0 < onnx["median_ms"] <= onnx["p95_ms"]
    assert (tmp_path / "measure.png").stat().st_size

    call = ["measure", model_path, "--engines", "onnxruntime", "--precisions", "int8", "--threads", "1"]
    code, printed, _ = run(*call, "--quiet")  # without pictures int8 cannot be calibrated
    assert code == 1
    assert "int8 is calibrated anew" in printed
