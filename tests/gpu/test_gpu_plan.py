"""`make gpu`: what it would run, its time, and what becomes of steps that fail."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
NAMES = ["tests", "coreset", "fit", "predict", "efficientad-s", "efficientad-m", "steps", "onnx"]


@pytest.fixture(scope="module")
def gpu() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module("gpu")


def given(tmp_path: Path, **more: Any) -> Namespace:
    same = {"quick": False, "device": "cuda", "data": None, "categories": "plate", "only": ""}
    return Namespace(**{**same, "out": tmp_path / "gpu.json", **more})


# ---------------------------------------------------------------------------------------------- the plan


def test_all_steps_together_fit_into_the_time(gpu: Any, tmp_path: Path) -> None:
    steps = gpu.plan(given(tmp_path), tmp_path)
    assert [step.name for step in steps] == NAMES
    assert sum(step.limit for step in steps) <= gpu.TOTAL - 60 == 24 * 60  # a minute to draw pictures


def test_some_steps_alone(gpu: Any, tmp_path: Path) -> None:
    assert [s.name for s in gpu.plan(given(tmp_path, only="onnx,fit"), tmp_path)] == ["fit", "onnx"]
    with pytest.raises(SystemExit, match="--only fits: give some of tests, coreset"):
        gpu.plan(given(tmp_path, only="fits"), tmp_path)


@pytest.mark.parametrize("quick", [False, True])
def test_every_command_is_one_that_there_is(gpu: Any, tmp_path: Path, quick: bool) -> None:
    """Scripts parse what they are given; tasks have the names of what they are given."""
    tasks = importlib.import_module("gpu_tasks")
    for step in gpu.plan(given(tmp_path, quick=quick), tmp_path):
        words = step.command[1:]
        if words[0] == "-m":
            assert words[1:4] == ["pytest", "-m", "cuda"]
        elif "--task" in words:
            function = getattr(tasks, words[2])
            wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
            assert sorted(json.loads(words[3])) == sorted(wanted), step.name
        else:
            # argparse reads all words before --help only if it knows them and their values
            done = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            known = done.stdout
            assert all(word in known for word in words if word.startswith("--")), step.name


def test_without_a_gpu_it_says_so_and_what_it_would_run(tmp_path: Path) -> None:
    """In a process that sees none."""
    done = subprocess.run(
        [sys.executable, BENCH / "gpu.py", "--out", tmp_path / "gpu.json"],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("no GPU: torch ")
    assert first.endswith("; 8 steps would run in 25 minutes at most:")
    assert [line.split(",")[0].strip() for line in rest] == NAMES
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------- time


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_step_that_takes_too_long_is_stopped_with_all_that_it_started(gpu: Any, tmp_path: Path) -> None:
    child = f"import time; time.sleep(3); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = gpu.timed(python(code), 1.0)
    assert found.error == "stopped after 1 s, its limit"
    time.sleep(3.5)
    assert not (tmp_path / "late").exists()


def test_a_step_that_fails_has_its_last_words(gpu: Any) -> None:
    found = gpu.timed(python("raise SystemExit('no such thing')"), 60)
    assert found.error == "exit status 1: no such thing"


def test_steps_share_the_time_that_there_is(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now, limits = [0.0], []

    def timed(command: list[str], limit: float) -> Any:
        limits.append(limit)
        now[0] += min(float(command[0]), limit)
        return gpu.Outcome(0.0)

    monkeypatch.setattr(gpu, "timed", timed)
    ended = {}
    steps = [gpu.Step(str(k), [took], 50) for k, took in enumerate(["40", "90", "1", "1"])]
    gpu.run_all(steps, 95, lambda step, outcome: ended.update({step.name: outcome.error}), lambda: now[0])
    assert limits == [50, 50]
    assert ended == {"0": None, "1": None} | dict.fromkeys("23", "not begun: the 2 minutes are over")


# ----------------------------------------------------------------------------------------------- results


def test_what_a_step_printed_becomes_its_cell(gpu: Any, tmp_path: Path) -> None:
    own = gpu.Step("coreset", [], 1)
    assert gpu.result(own, gpu.Outcome(1.0, 'a line\n{"points": 3}\n')) == {"points": 3}
    assert gpu.result(own, gpu.Outcome(1.0, "", "stopped")) == {"failed": "stopped"}
    assert "no results" in gpu.result(own, gpu.Outcome(1.0, "words"))["failed"]
    tests = gpu.result(gpu.Step("tests", [], 1), gpu.Outcome(1.0, "...\n=== 3 passed in 2s ===\n"))
    assert tests == {"summary": "3 passed in 2s"}
    out = tmp_path / "gpu-predict.json"
    script = gpu.Step("predict", [], 1, out)
    assert "no results" in gpu.result(script, gpu.Outcome(1.0))["failed"]
    speed = {"median": 0.01, "p99": 0.02, "repeats": 5}
    cell = {"predict": speed, "pictures_per_second": 90.0, "device_peak_mib": 7}
    out.write_text(json.dumps({"cells": {"plate/patchcore, default/cuda/torch fp32/batch 8": cell}}))
    found = gpu.result(script, gpu.Outcome(1.0, "", "stopped"))
    assert found["batches"]["8"]["median"] == 0.01
    assert found["failed"] == "stopped"
    assert [title for title, _ in gpu.rows_of("predict", found)] == [
        "PatchCore, path to answer, batch 8",
        "predict",
    ]


def test_the_table_has_what_was_found_and_what_failed(gpu: Any) -> None:
    speed = {"median": 0.004, "pictures_per_second": 250.0}
    ways = {
        "fp32, eager": {"batches": {"1": speed}, "off_by": 0.0},
        "fp16, TensorRT": {"skipped": "torch_tensorrt is not installed"},
        "bf16, CUDA graph": {"failed": "RuntimeError: a | b"},
    }
    cells = {
        "tests": {"summary": "12 passed in 60s", "device": "a card"},
        "coreset": {"failed": "stopped after 90 s, its limit", "device": "a card"},
        "efficientad-s": {"cells": ways, "device": "a card"},
        "steps": {"steps": {"prnet, flawscope, bf16": {"median": 0.02}}, "device": "a card"},
        "onnx": {"skipped": "this ONNX Runtime has no CUDA: install onnxruntime-gpu"},
    }
    assert gpu.markdown({"cells": cells}).splitlines() == [
        "On a card.",
        "",
        "| | |",
        "|---|---|",
        "| tests marked `cuda` | 12 passed in 60s |",
        "| coreset | **failed**: stopped after 90 s, its limit |",
        "| EfficientAD S, fp32, eager, batch 1 | 4 ms, 250 pictures a second; maps 0 off |",
        "| EfficientAD S, fp16, TensorRT | skipped: torch_tensorrt is not installed |",
        "| EfficientAD S, bf16, CUDA graph | **failed**: RuntimeError: a / b |",
        "| a step, prnet, flawscope, bf16 | 50 a second (20 ms) |",
        "| onnx | skipped: this ONNX Runtime has no CUDA: install onnxruntime-gpu |",
    ]


def test_the_table_goes_between_the_markers(gpu: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{gpu.BEGIN}\nold\n{gpu.END}\nafter\n")
    for _ in range(2):
        gpu.put_into(page, "new")
        assert page.read_text() == f"before\n{gpu.BEGIN}\n\nnew\n\n{gpu.END}\nafter\n"
    page.write_text("none\n")
    with pytest.raises(SystemExit, match=r"page\.md has no lines"):
        gpu.put_into(page, "new")
    assert gpu.BEGIN in gpu.PAGE.read_text(encoding="utf-8")
    assert gpu.END in gpu.PAGE.read_text(encoding="utf-8")
