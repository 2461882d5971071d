"""The report as the commands write it, on one small real model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flawscope.cli import main

for library in ("torch", "matplotlib", "jinja2"):
    pytest.importorskip(library)


def test_evaluate_writes_a_report_of_what_it_printed(
    capsys: pytest.CaptureFixture[str], model_path: Path, drawn: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    code = main(["evaluate", str(model_path), "--data", str(drawn), "--json", "--out", str(out)])
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert code == 0
    assert f"report: {out / 'report.html'}" in captured.err
    text = (out / "report.html").read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data
    pictures = json.loads(data[1])
    assert len(pictures) == document["images"]
    assert sum(p["called"] for p in pictures) == sum(k["anomalous"] for k in document["kinds"].values())
    for name in ("image_auroc", "pixel_auroc", "au_pro"):
        assert f"{document['metrics'][name]:.4f}" in text
    assert all(p["layers"]["photo"] for p in pictures)
    assert not list(out.glob(".*.part"))
    for path in (drawn, out):
        assert str(path) not in text


def test_an_evaluation_is_not_lost_when_a_picture_cannot_be_written(
    capsys: pytest.CaptureFixture[str],
    model_path: Path,
    drawn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flawscope.errors import FlawscopeError
    from flawscope.results.folder import Pictures

    def full(self: Pictures, title: str) -> None:
        raise FlawscopeError("no space left")

    monkeypatch.setattr(Pictures, "finish", full)
    argv = ["evaluate", str(model_path), "--data", str(drawn), "--json", "--out", str(tmp_path), "--quiet"]
    assert main(argv) == 1
    printed, said = capsys.readouterr()
    assert "no space left" in said
    assert json.loads(printed)["images"] > 0
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == printed


def test_without_out_the_libraries_are_not_even_loaded(onnx_path: Path, drawn: Path) -> None:
    code = f"""
import sys
sys.modules["matplotlib"] = sys.modules["jinja2"] = None  # as if they were not installed
from flawscope.cli import main
assert main(["evaluate", {str(onnx_path)!r}, "--data", {str(drawn)!r}, "--quiet"]) == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "image AUROC" in done.stdout


def test_the_report_is_loaded_only_when_it_is_written() -> None:
    code = (
        "import sys\nimport flawscope.report, flawscope.report.page, flawscope.report.collect\n"
        "import flawscope.report.words, flawscope.cli.evaluate, flawscope.cli.demo\n"
        "assert not {'matplotlib', 'jinja2', 'torch', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_demo_ends_with_the_path_of_a_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the pictures that a user gets, which the network sees smaller."""
    from flawscope.methods.patchcore import Config

    monkeypatch.setattr(Config, "sizes", ((64, 64),))
    assert main(["demo", "--out", str(tmp_path), "--train", "6", "--quiet"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == str(tmp_path / "results" / "report.html")
    assert Path(last).stat().st_size < 10_000_000
