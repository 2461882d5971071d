"""The processes of a benchmark: killed at random, interrupted, failing, in each other's way."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from flawscope.errors import FlawscopeError, InputError
from flawscope.evaluation.benchmark import run as runner
from flawscope.evaluation.benchmark.cell import CellStore, RunPlan
from flawscope.evaluation.benchmark.grid import plan_grid
from flawscope.evaluation.benchmark.run import Processes, run_grid
from flawscope.progress import JobsProgress
from small_network import SMALL_NETWORK

SMALL = [f"patchcore.{name}={value}" for name, value in SMALL_NETWORK.items()]


def start(data, out, *more):
    words = [sys.executable, "-m", "flawscope", "benchmark", "--data", str(data), "--out", str(out), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def figures(out):
    """Everything in the results that does not depend on when and how often it ran."""
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    for cell in found["cells"]:
        result = cell["result"]
        # how many simulated defects the notes speak of follows from the time that a fit took
        for key in ("fit", "evaluate", "peak_memory", "model_bytes", "notes"):
            del result[key]
        del result["evaluation"]["seconds"]
    return found


def test_killed_at_random_it_ends_with_the_same_figures(two, teacher_path, tmp_path):
    call = [
        *("--categories", "grid", "--methods", "patchcore,efficientad", "--steps", "3", "--threads", "1"),
        *("--set", "patchcore.size=64", "--set", f"efficientad.teacher={teacher_path}"),
        *(word for setting in SMALL for word in ("--set", setting)),
        *("--set", "efficientad.window=41", "--set", "efficientad.training=fp32", "--device", "cpu"),
    ]
    began = time.monotonic()
    whole = start(two, tmp_path / "whole", *call)
    _, said = whole.communicate()
    assert whole.returncode == 0, said
    seconds = time.monotonic() - began
    out = tmp_path / "killed"
    killed = start(two, out, *call)
    with pytest.raises(subprocess.TimeoutExpired):
        killed.wait(random.uniform(0.05, 0.6) * seconds)
    killed.kill()
    killed.communicate()
    for path in out.glob("cells/*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["evaluation"]["metrics"]  # whole, or absent
    last = start(two, out, *call)
    _, said = last.communicate()
    assert last.returncode == 0, said
    assert figures(out) == figures(tmp_path / "whole")
    assert not list((out / "work").iterdir())
    assert not list(out.rglob("*.part"))


def test_ctrl_c_leaves_a_state_to_go_on_from_and_no_process(two, tmp_path):
    process = start(two, tmp_path, "--categories", "grid", "--set", "patchcore.size=64")
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("work/*/begun.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert printed == ""
    assert "stopped with 0 of 1 cell done; the same call goes on from there" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("cells/*"))
    assert "seed 0 is not done yet" in (tmp_path / "results.md").read_text(encoding="utf-8")
    with CellStore(tmp_path).lock():  # nobody works there any more
        pass


def test_no_place_for_a_cells_files_is_that_cells_failure(two, tmp_path):
    grid = plan_grid(two, categories="grid,plate", sets=["patchcore.size=64", *SMALL], device="cpu")
    place = CellStore(tmp_path)
    place.prepare()
    blocked, other = grid.cells
    place.work_folder(blocked).parent.mkdir()
    place.work_folder(blocked).write_text("no folder", encoding="utf-8")
    said = []
    latest = []
    live = JobsProgress(said.append, said.append, False)
    run_grid(grid, place, RunPlan(str(two), 1, 1), Processes(1, 1, live.step), live, latest.append)
    assert "cannot be made: File exists" in latest[-1].failed[blocked.name]
    assert "File exists" in said[0]
    assert list(latest[-1].done) == [other.name]
    place.work_folder(other).mkdir()  # as of a process that was killed after it had written its results
    run_grid(grid, place, RunPlan(str(two), 1, 1), Processes(1, 1, live.step), live, latest.append)
    assert not place.work_folder(other).exists()


def give(number, step):
    print("a library's words")  # are no answer
    step("half", 1, 2)
    return 2 * number


def end(how, step):
    if isinstance(how, BaseException):
        raise how
    os.kill(os.getpid(), how)


def test_a_call_ends_with_its_value_or_with_the_reason(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # a process finds `give` and `end` there
    told = []
    pool = Processes(9, 1, lambda *given: told.append(given))
    calls = {
        "value": (give, 3),
        "refused": (end, InputError("no pictures")),
        "memory": (end, MemoryError()),
        "unforeseen": (end, KeyError("x")),
        "killed": (end, signal.SIGKILL),
        "crashed": (end, signal.SIGSEGV),
        "left": (end, SystemExit(3)),
    }
    for label, (function, given) in calls.items():
        pool.start(label, function, given)
    found = {}
    while pool.running:
        found |= pool.ended(60)
    assert found.pop("value") == 6
    assert told == [("value", "half", 1, 2)]
    for label, said in {
        "refused": "no pictures",
        "memory": "not enough memory",
        "unforeseen": "unexpected KeyError: 'x'",
        "killed": "as systems do when memory runs out",
        "crashed": "SIGSEGV",
        "left": "ended with code 3",
    }.items():
        assert isinstance(found[label], FlawscopeError)
        assert said in str(found[label])


def test_a_process_that_cannot_be_started_is_that_calls_failure(monkeypatch):
    def full(*given, **named):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(runner, "Popen", full)
    pool = Processes(1, 1, lambda *given: None)
    pool.start("a", give, 1)
    ((label, error),) = pool.ended(60)
    assert label == "a"
    assert "could not be run: Cannot allocate memory; try again" in str(error)
