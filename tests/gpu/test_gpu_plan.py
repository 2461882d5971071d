"""`make gpu`: the commands that it would run, and steps that fail or take too long."""

import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"
NAMES = ["tests", "fit", "predict"]


def test_without_a_gpu_it_says_so_and_what_it_would_run(tmp_path):
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
