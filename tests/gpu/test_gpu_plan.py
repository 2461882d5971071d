"""`make gpu`: the commands that it would run, and steps that fail or take too long."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
NAMES = ["tests", "coreset", "fit", "predict", "steps"]


@pytest.fixture(scope="module")
def gpu() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module("gpu")


def given(tmp_path: Path, **more: Any) -> Namespace:
    same = {"quick": False, "device": "cuda", "data": None, "categories": "plate", "only": ""}
    return Namespace(**{**same, "out": tmp_path / "gpu.json", **more})


def test_all_steps_together_fit_into_the_time(gpu: Any, tmp_path: Path) -> None:
    steps = gpu.plan(given(tmp_path), tmp_path)
    assert [step.name for step in steps] == NAMES
    assert sum(step.limit for step in steps) <= gpu.TOTAL - 60, "a minute to draw pictures"
    with pytest.raises(SystemExit, match="--only fits: give some of tests, coreset"):
        gpu.plan(given(tmp_path, only="fits"), tmp_path)


@pytest.mark.parametrize("quick", [False, True])
def test_every_command_is_one_that_there_is(gpu: Any, tmp_path: Path, quick: bool) -> None:
    for step in gpu.plan(given(tmp_path, quick=quick, only="coreset,fit,predict,steps"), tmp_path):
        # argparse reads all words before --help only if it knows them and their values
        done = subprocess.run([*step.command, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert all(word in done.stdout for word in step.command if word.startswith("--")), step.name


def test_without_a_gpu_it_says_so_and_what_it_would_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCH / "gpu.py", "--out", tmp_path / "gpu.json"],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("no GPU: torch ")
    assert [line.split(",")[0].strip() for line in rest] == NAMES
    assert not list(tmp_path.iterdir())
