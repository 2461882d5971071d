"""`evaluate MODELS --category all`: each category by its own model, with the averages of the papers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

pytest.importorskip("torch")

from flawscope.cli import main

Capture = pytest.CaptureFixture[str]
DATA = ("bottle", "cable", "carpet", "plate")


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """Cables lack their masks."""
    for name in DATA:
        shutil.copytree(drawn / "plate", tmp_path / "data" / name)
    shutil.rmtree(tmp_path / "data/cable/ground_truth")
    return tmp_path / "data"


@pytest.fixture
def models(model_path: Path, tmp_path: Path) -> Path:
    """One for each but the carpet."""
    (tmp_path / "models").mkdir()
    for name in DATA:
        if name != "carpet":
            shutil.copy(model_path, tmp_path / "models" / f"{name}.safetensors")
    return tmp_path / "models"


def test_averages_stand_below_the_categories_and_a_failure_does_not_stop_the_others(
    root: Path, models: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "results.csv"
    call = ["evaluate", str(models), "--data", str(root), "--category", "all", "--out", str(out)]
    assert main([*call, "--json"]) == 1
    said = capsys.readouterr()
    assert "carpet: failed: " in said.err
    document: dict[str, Any] = json.loads(said.out)
    assert list(document["failed"]) == ["carpet"]
    found = {name: one["metrics"] for name, one in document["categories"].items()}
    assert list(found) == ["bottle", "cable", "plate"]
    objects = document["averages"]["objects"]
    assert (objects["categories"], objects["of"]) == (["bottle", "cable"], 10)
    both = fmean(found[name]["image_auroc"] for name in objects["categories"])
    assert objects["metrics"]["image_auroc"] == pytest.approx(both)
    assert found["cable"]["au_pro"] is None
    assert objects["metrics"]["au_pro"] == found["bottle"]["au_pro"]
    assert document["averages"]["others"]["metrics"] == found["plate"]

    with out.open(encoding="utf-8", newline="") as lines:
        rows = {row["category"]: row for row in csv.DictReader(lines)}
    assert list(rows) == [*found, "average: objects", "average: others"]
    assert rows["cable"]["au_pro"] == ""
    assert float(rows["average: objects"]["image_auroc"]) == pytest.approx(both)


def test_a_folder_gets_each_category_and_the_table(
    root: Path, models: Path, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "results"
    call = ["evaluate", str(models), "--data", str(root), "--category", "plate,bottle", "--out", str(out)]
    assert main([*call, "--maps", "none", "--animation", "none"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = [line.split("  ")[0] for line in lines]
    assert first[2:] == ["bottle", "plate", "average: objects (1 of 10)", "average: others"]
    assert (out / "results.csv").is_file()
    assert {path.parent.name for path in out.glob("*/report.html")} == {"bottle", "plate"}
    assert main([*call, "--maps", "none", "--animation", "none", "--quiet"]) == 0  # over its own files


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--category", "plate,none"], "no category none"),
        (["--category", "all", "--out", "x.parquet"], "give --out FILE.csv"),
    ],
)
def test_wrong_calls_are_one_line(
    words: list[str], text: str, root: Path, models: Path, capsys: Capture
) -> None:
    assert main(["evaluate", str(models), "--data", str(root), *words]) == 2
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1


def test_a_single_model_is_no_folder_of_models(root: Path, model_path: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(model_path), "--data", str(root), "--category", "all"]) == 2
    assert "give the folder" in capsys.readouterr().err
