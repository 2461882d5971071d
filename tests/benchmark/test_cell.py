"""One cell that is interrupted where it hurts: it goes on, and ends with the figures of one that was not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flawscope.benchmark.cell import Task, work_off
from flawscope.benchmark.grid import plan
from flawscope.benchmark.store import Store

pytest.importorskip("torch")

FAST = ["efficientad.window=41", "efficientad.border=0", "efficientad.training=fp32"]


class Stop(Exception):
    """The process is gone."""


def task_for(root: Path, out: Path, **call: Any) -> Task:
    cell = plan(root, categories="grid", **call).cells[0]
    store = Store(out)
    store.prepare()
    named = ("category", "method", "seed", "options", "seen", "minutes", "device", "identity")
    return Task(
        root=str(root),
        **{k: getattr(cell, k) for k in named},
        threads=1,
        jobs=1,
        work=str(store.work(cell)),
        out=str(store.cell(cell)),
        keep=None,
    )


def run(task: Task) -> dict[str, Any]:
    work_off(task, lambda *step: None, lambda line: None)
    return json.loads(Path(task.out).read_text(encoding="utf-8"))


def figures(document: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on interruptions."""
    evaluation = {k: v for k, v in document["evaluation"].items() if k != "seconds"}
    return {
        "evaluation": evaluation,
        **{k: document[k] for k in ("settings", "pictures", "notes", "identity")},
    }


@pytest.fixture(scope="module")
def training(teacher_path: Path) -> dict[str, Any]:
    return {"methods": "efficientad", "sets": [*FAST, f"efficientad.teacher={teacher_path}"], "steps": 3}


@pytest.mark.slow
def test_a_training_that_is_interrupted_ends_as_one_that_is_not(
    two: Path, training: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawscope.efficientad.trainer import Trainer
    from flawscope.fitted import Budget

    whole = run(task_for(two, tmp_path / "whole", **training))
    assert whole["fit"]["resumed"] is False
    assert whole["fit"]["seconds"] > 0
    task = task_for(two, tmp_path / "broken", **training)
    learn, learnt = Trainer._learn, []

    def stopping(self, networks, optimiser, batch, step):
        if step == 2 and 2 not in learnt:
            learnt.append(2)
            raise Stop
        learnt.append(step)
        return learn(self, networks, optimiser, batch, step)

    monkeypatch.setattr("flawscope.fitting.Budget", lambda *given: Budget(*given, every=0.0))
    monkeypatch.setattr(Trainer, "_learn", stopping)
    with pytest.raises(Stop):
        run(task)
    assert not Path(task.out).exists()
    assert (Path(task.work) / "model.checkpoint.safetensors").is_file()
    broken = run(replace(task, threads=7))  # it keeps to the number that it began with
    assert learnt == [0, 1, 2, 2]  # steps 0 and 1 were not done again
    assert figures(broken) == figures(whole)
    assert broken["threads"] == 1
    assert broken["fit"] == {"seconds": None, "resumed": True}
    assert not Path(task.work).exists()


def test_a_checkpoint_that_cannot_be_used_is_left_aside(
    two: Path, training: dict[str, Any], tmp_path: Path
) -> None:
    task = task_for(two, tmp_path, **training)
    Path(task.work).mkdir(parents=True)
    (Path(task.work) / "model.checkpoint.safetensors").write_bytes(b"of another version")
    assert run(task)["fit"]["resumed"] is False


def test_a_fitted_model_is_not_fitted_again(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawscope import evaluation, fitting

    call = {"sets": ["patchcore.size=64"]}
    whole = run(task_for(two, tmp_path / "whole", **call))
    task = task_for(two, tmp_path / "broken", **call)

    def stop(*given: Any, **named: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate", stop)
        with pytest.raises(Stop):
            run(task)
    monkeypatch.setattr(fitting, "fit", stop)
    again = run(task)
    assert figures(again) == figures(whole)
    assert again["fit"]["seconds"] > 0
    assert whole["evaluation"]["metrics"]["image_auroc"] is not None
    assert whole["peak_memory"] > 50 * 2**20  # torch alone takes more
    assert whole["settings"]["size"] == "64"


def test_seen_defects_are_learnt_from_and_not_tested_on(two: Path, tmp_path: Path) -> None:
    call = {"methods": "prnet", "seen": "2", "steps": 1, "sets": ["prnet.size=64", "prnet.batch=2"]}
    document = run(task_for(two, tmp_path, **call))
    assert document["pictures"]["seen"] == 2
    assert document["evaluation"]["left_out"] == 2
