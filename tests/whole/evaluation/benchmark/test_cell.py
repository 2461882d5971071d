"""One cell that is interrupted where it hurts: it goes on, and ends with the figures of one that was not."""

import functools
import json
from dataclasses import replace
from typing import NamedTuple

import pytest

from flawscope.datasets import open_dataset
from flawscope.errors import InputError
from flawscope.evaluation.benchmark.cell import CellStore, RunPlan, few_shot_dataset, fit_and_evaluate
from flawscope.evaluation.benchmark.grid import Cell, plan_grid
from flawscope.evaluation.benchmark.markdown import render
from flawscope.evaluation.benchmark.tables import Results

FAST = ["efficientad.window=41", "efficientad.border=0", "efficientad.training=fp32"]


class Stop(Exception):
    """The process is gone."""


class Task(NamedTuple):
    """A cell, and what its process is given."""

    cell: Cell
    store: CellStore
    plan: RunPlan

    @property
    def work(self):
        return self.store.work_folder(self.cell)

    @property
    def out(self):
        return self.store.cell_path(self.cell)


def task_for(root, out, **call):
    store = CellStore(out)
    store.prepare()
    return Task(plan_grid(root, categories="grid", **call).cells[0], store, RunPlan(str(root), 1, 1))


def run(task):
    document = fit_and_evaluate(*task, lambda *step: None, lambda line: None)
    assert json.loads(task.out.read_text(encoding="utf-8")) == json.loads(json.dumps(document))
    return document


def figures(document):
    """What must not depend on interruptions."""
    evaluation = {k: v for k, v in document["evaluation"].items() if k != "seconds"}
    return {
        "evaluation": evaluation,
        **{k: document[k] for k in ("settings", "pictures", "notes", "identity")},
    }


@pytest.fixture(scope="module")
def training(teacher_path):
    return {"methods": "efficientad", "sets": [*FAST, f"efficientad.teacher={teacher_path}"], "steps": 3}


def test_a_training_that_is_interrupted_ends_as_one_that_is_not(two, training, tmp_path, monkeypatch):
    from flawscope.methods.task import Budget
    from flawscope.methods.training.efficientad.trainer import Trainer

    whole = run(task_for(two, tmp_path / "whole", **training))
    assert whole["fit"]["resumed"] is False
    assert whole["fit"]["seconds"] > 0
    task = task_for(two, tmp_path / "broken", **training)
    learn, learnt = Trainer._optimise, []

    def stopping(self, networks, optimiser, batch, step):
        if step == 2 and 2 not in learnt:
            learnt.append(2)
            raise Stop
        learnt.append(step)
        return learn(self, networks, optimiser, batch, step)

    monkeypatch.setattr(
        "flawscope.fitting.fitting.Budget", functools.partial(Budget, checkpoint_interval=0.0)
    )
    monkeypatch.setattr(Trainer, "_optimise", stopping)
    with pytest.raises(Stop):
        run(task)
    assert not task.out.exists()
    assert (task.work / "model.checkpoint.safetensors").is_file()
    # it keeps to the number of threads that it began with
    broken = run(task._replace(plan=replace(task.plan, threads=7)))
    assert learnt == [0, 1, 2, 2]  # steps 0 and 1 were not done again
    assert figures(broken) == figures(whole)
    assert (broken["threads"], broken["fit"]) == (1, {"seconds": None, "resumed": True})
    assert not task.work.exists()


def test_a_checkpoint_that_cannot_be_used_is_left_aside(two, training, tmp_path):
    task = task_for(two, tmp_path, **training)
    task.work.mkdir(parents=True)
    (task.work / "model.checkpoint.safetensors").write_bytes(b"of another version")
    assert run(task)["fit"]["resumed"] is False


def test_a_checkpoint_stays_where_something_else_is_wrong(two, training, tmp_path, monkeypatch):
    """Such as a graphics card that is gone for a while: hours of training must not go with it."""
    from flawscope.fitting import fitting

    task = task_for(two, tmp_path, **training)
    checkpoint = task.work / "model.checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"hours")

    def refuse(*given, **named):
        raise InputError("device cuda: there is none")

    monkeypatch.setattr(fitting, "fit", refuse)
    with pytest.raises(InputError, match="there is none"):
        run(task)
    assert checkpoint.read_bytes() == b"hours"


def test_a_model_that_is_kept_is_not_missing_when_the_cell_cannot_be_written(two, tmp_path, monkeypatch):
    from flawscope.evaluation.benchmark import cell
    from flawscope.fitting import fitting

    task = task_for(two, tmp_path, sets=["patchcore.size=64"])
    task = task._replace(plan=replace(task.plan, keep_models=True))
    write = cell.write_json

    def full(path, document):
        if path == task.out:
            raise Stop
        write(path, document)

    with monkeypatch.context() as patch:
        patch.setattr(cell, "write_json", full)
        with pytest.raises(Stop):
            run(task)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit", full)  # not called
        document = run(task)
    assert document["model_bytes"] == task.store.model_path(task.cell).stat().st_size
    assert not task.work.exists()


def test_a_fit_without_its_model_is_made_again(two, tmp_path):
    task = task_for(two, tmp_path, sets=["patchcore.size=64"])
    task.work.mkdir(parents=True)
    (task.work / "fit.json").write_text("{}", encoding="utf-8")
    assert run(task)["fit"]["seconds"] > 0


def test_a_fitted_model_is_not_fitted_again(two, tmp_path, monkeypatch):
    from flawscope.evaluation import evaluation
    from flawscope.fitting import fitting

    call = {"sets": ["patchcore.size=64"]}
    whole = run(task_for(two, tmp_path / "whole", **call))
    task = task_for(two, tmp_path / "broken", **call)

    def stop(*given, **named):
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


def test_with_a_range_of_light_it_is_judged_in_each_light(two, tmp_path):
    document = run(task_for(two, tmp_path, sets=["patchcore.size=64"], light=0.1))
    lights = document["evaluation"]["robustness"]
    assert [one["name"] for one in lights[:3]] == ["unchanged", "brightness 0.9", "brightness 1.1"]
    assert len(lights) == 7
    images = document["evaluation"]["images"]
    assert all(one["good"] + one["defective"] == images for one in lights)


def test_few_pictures_are_drawn_by_the_seed_and_the_test_stays(two, tmp_path):
    dataset = open_dataset(two, "grid")
    one, three = (few_shot_dataset(dataset, count, 0) for count in (1, 3))
    assert {*one.train} < {*three.train} < {*dataset.train}
    assert few_shot_dataset(dataset, 3, 1).train != three.train
    with pytest.raises(InputError, match="ask for fewer --shots"):
        few_shot_dataset(dataset, 999, 0)
    task = task_for(two, tmp_path, sets=["patchcore.size=64"], shots="1")
    document = run(task)
    assert (document["method"], document["pictures"]["train"]) == ("patchcore-1-shot", 1)
    assert document["evaluation"]["images"] == len(dataset.test)
    grid = plan_grid(two, categories="grid", sets=["patchcore.size=64"], shots="1")
    assert "patchcore-1-shot" in render(Results(grid, {task.cell.name: document}, {}))


def test_seen_defects_are_learnt_from_and_not_tested_on(two, tmp_path):
    call = {"methods": "prnet", "seen": "2", "steps": 1, "sets": ["prnet.size=64", "prnet.batch=2"]}
    document = run(task_for(two, tmp_path, **call))
    assert (document["pictures"]["seen"], document["evaluation"]["left_out"]) == (2, 2)
