"""`fit` of several categories: which ones, where the models go, and that one failure does not stop the
others. Instead of fitting, the shared model is taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from flawscope.cli import main
from flawscope.datasets import Dataset
from flawscope.datasets.layouts import means_several, present_categories
from flawscope.errors import InputError
from flawscope.predictor import load

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("bottle", "carpet", "plate"):
        for place in ("train/good/0.png", "test/good/0.png", "test/dent/0.png"):
            path = tmp_path / "data" / name / place
            path.parent.mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    return tmp_path / "data"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch, model_path: Path) -> list[dict[str, Any]]:
    """What `fitting.fit` is called with; the carpet fails."""
    calls: list[dict[str, Any]] = []

    def fit(dataset: Dataset, **given: Any) -> Any:
        calls.append({"category": dataset.category, **given})
        if dataset.category == "carpet":
            raise InputError("the carpet\nis worn")
        return load(model_path, device="cpu")

    monkeypatch.setattr("flawscope.fitting.fitting.fit", fit)
    return calls


def categories(calls: list[dict[str, Any]]) -> list[str]:
    return [call["category"] for call in calls]


def test_a_failure_does_not_stop_the_others(
    root: Path, fits: list[dict[str, Any]], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "models"
    assert main(["fit", "--data", str(root), "--category", "all", "--out", str(out)]) == 1
    assert categories(fits) == ["carpet", "bottle", "plate"]  # in the tables' order
    assert sorted(os.listdir(out)) == ["bottle.safetensors", "plate.safetensors"]
    lines = capsys.readouterr().err.splitlines()
    assert "carpet: failed: the carpet is worn" in lines
    assert [line.split()[:2] for line in lines[-3:]] == [
        ["carpet", "failed"],
        ["bottle", "bottle.safetensors"],
        ["plate", "plate.safetensors"],
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [("objects", ["bottle"]), ("plate,bottle", ["bottle", "plate"]), ("objects,plate", ["bottle", "plate"])],
)
def test_groups_and_names_choose(
    asked: str, found: list[str], root: Path, fits: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "new/models"
    assert main(["fit", "--data", str(root), "--category", asked, "--out", str(out), "--quiet"]) == 0
    assert categories(fits) == found
    assert sorted(path.stem for path in out.iterdir()) == found
    assert {call["checkpoint"].name for call in fits} == {f"{name}.checkpoint.safetensors" for name in found}


def test_resume_keeps_models_that_are_there(
    root: Path, fits: list[dict[str, Any]], tmp_path: Path, capsys: Capture
) -> None:
    call = ["fit", "--data", str(root), "--category", "bottle,plate", "--out", str(tmp_path / "models")]
    assert main([*call, "--quiet"]) == 0
    (tmp_path / "models/plate.safetensors").unlink()
    assert main([*call, "--resume"]) == 0
    assert categories(fits) == ["bottle", "plate", "plate"]
    assert not fits[-1]["resume"]  # patchcore learns in one go
    assert "bottle: kept, it is there already" in capsys.readouterr().err


def test_settings_of_each_category_come_from_the_file(
    root: Path, fits: list[dict[str, Any]], tmp_path: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("size: 64\ncategories:\n  plate: {size: 96}\n", encoding="utf-8")
    out = str(tmp_path / "models")
    call = ["fit", "--data", str(root), "--category", "bottle,plate", "--out", out, "--quiet"]
    assert main([*call, "--config", str(config)]) == 0
    assert {call["category"]: call["size"] for call in fits} == {"bottle": 64, "plate": 96}


def test_an_interruption_says_how_far_it_is(
    root: Path, fits: list[dict[str, Any]], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flawscope.predictor.Predictor.save", stop)
    call = ["fit", "--data", str(root), "--category", "bottle,plate", "--out", str(tmp_path / "models")]
    assert main(call) == 130
    assert "0 of 2 models done; interrupted during bottle; go on with --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--category", "bottle,plat"], "no category plat; did you mean plate?"),
        (["--category", "textures,none"], "no category none; known: bottle, carpet, plate"),
        (["--category", ","], "--category is empty"),
        (["--category", "all", "--out", "x.safetensors"], "give --out a folder instead of x.safetensors"),
        (["--category", "all", "--update", "x.safetensors"], "--update adds to one model"),
        (["--category", "all", "--set", "ratoi=0.1"], "did you mean ratio?"),
    ],
)
def test_wrong_calls_are_one_line_before_anything_is_fitted(
    words: list[str], text: str, root: Path, fits: list[dict[str, Any]], tmp_path: Path, capsys: Capture
) -> None:
    out = [] if "--out" in words else ["--out", str(tmp_path / "models")]
    assert main(["fit", "--data", str(root), *words, *out]) == 2
    assert text in capsys.readouterr().err
    assert not fits


def test_a_category_of_that_name_is_meant_alone(root: Path) -> None:
    (root / "plate").rename(root / "objects")
    assert not means_several(root, "objects")
    assert not means_several(root, "bottle")
    assert means_several(root, "textures")
    assert present_categories(root, "all", "--category") == ("carpet", "bottle", "objects")
