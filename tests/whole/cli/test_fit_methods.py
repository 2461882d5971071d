"""`fit` of the methods that learn in steps: what is written and said, stopped and resumed."""

import functools
import json
import re
from pathlib import Path
from unittest.mock import Mock

import pytest

from flawscope.artefact.model_file import read_manifest
from flawscope.datasets import open_dataset
from flawscope.datasets.seen_defects import draw_seen
from flawscope.methods.task import Budget
from flawscope.methods.training.efficientad.trainer import Trainer
from flawscope.synthesis.demo.dataset import draw_dataset

BOTH = ["--set", "training=fp32", "--no-samples", "--device", "cpu"]
PRN = ["--method", "prnet", "--size", "64", "--set", "width=0.25", "--set", "batch=2", *BOTH]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three good pictures. Read only."""
    return draw_dataset(tmp_path_factory.mktemp("three"), train=3, good=0, bad_per_kind=0, size=256, seed=3)


@pytest.fixture
def efficientad(data, teacher_path, tmp_path, monkeypatch):
    """A quick call, with a checkpoint after every step."""
    monkeypatch.setattr(
        "flawscope.fitting.fitting.Budget", functools.partial(Budget, checkpoint_interval=0.0)
    )
    fast = ["--method", "efficientad", "--set", "window=41", "--set", "border=0"]
    fast += ["--set", f"teacher={teacher_path}"]
    return ["fit", "--data", data, *fast, *BOTH, "--out", tmp_path / "m.safetensors"]


@pytest.mark.smoke
def test_efficientad_writes_a_model_and_removes_its_checkpoint(answer, efficientad, data, tmp_path):
    out = tmp_path / "m.safetensors"
    call = (*efficientad, "--set", f"natural={data / 'train/good'}", "--steps", "3")
    assert answer(*call, said=["2 pictures to learn from, 1 held out", f"wrote {out} ("]) == ""
    assert sorted(tmp_path.iterdir()) == [out, out.with_suffix(".training.csv")]
    manifest = read_manifest(out)
    assert (manifest.method, manifest.config["steps"], manifest.config["window"]) == ("efficientad", 3, 41)
    assert manifest.facts["penalty"].startswith("3 pictures of folder good (")
    answer("info", out, "--verbose", printed=["trained 3 steps", "2 learnt from"])
    remedy = "--update is for patchcore: put the new pictures to the good ones and fit efficientad anew"
    call = ("fit", "--data", data, "--update", out, "--out", tmp_path / "n.safetensors")
    answer(*call, code=2, said=remedy)


def test_a_run_that_was_stopped_says_what_is_kept_and_goes_on(run, efficientad, data, tmp_path, monkeypatch):
    out, checkpoint = tmp_path / "m.safetensors", tmp_path / "m.checkpoint.safetensors"
    call, learn = [*efficientad, "--steps", "3", "--quiet"], Trainer._optimise

    def stopping(self, networks, optimiser, batch, step):
        if step == 1:
            raise KeyboardInterrupt
        return learn(self, networks, optimiser, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimise", stopping)
        code, _, err = run(*call)
    assert (code, err) == (130, "flawscope: interrupted: step 1 of 3 kept; go on with --resume\n")
    assert sorted(tmp_path.iterdir()) == [checkpoint, out.with_suffix(".training.csv")]
    held = checkpoint.read_bytes()
    # another method leaves it alone
    patchcore = ["fit", "--data", data, "--size", "64", "--out", out, "--quiet", "--no-samples", "--no-check"]
    assert run(*patchcore)[0] == 0
    assert checkpoint.read_bytes() == held
    with monkeypatch.context() as patch:  # and once more, when the training is over
        patch.setattr(
            "flawscope.fitting.fitting.score_simulated_defects", Mock(side_effect=KeyboardInterrupt)
        )
        code, _, err = run(*call)
    assert (code, err) == (130, "flawscope: interrupted: step 3 of 3 kept; go on with --resume\n")
    code, _, err = run(*call, "--resume")
    assert (code, err) == (0, "")
    assert sorted(tmp_path.iterdir()) == [out, out.with_suffix(".training.csv")]
    assert read_manifest(out).facts["steps"] == 3


def test_minutes_win_over_a_presets_steps(run, efficientad, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "flawscope.methods.training.state.Pace.is_over", property(lambda pace: pace.steps >= 3)
    )
    paper = ["--preset", "paper", "--set", "window=33", "--minutes", "0.5", "--quiet"]
    assert run(*efficientad, *paper)[::2] == (0, "")
    config = read_manifest(tmp_path / "m.safetensors").config
    assert (config["steps"], config["schedule"]) == (3, "drop")
    printed = run("info", "--verbose", tmp_path / "m.safetensors")[1]
    assert re.search(r"trained 3 steps in .*; --minutes 0.5, by the first steps' time \d+ steps", printed)
    assert "time of the fit" in printed


def test_prns_seen_defects_from_the_fit_to_the_evaluation(answer, drawn, tmp_path):
    out, log = tmp_path / "m.safetensors", tmp_path / "m.training.csv"
    said = ["9 good pictures to learn from, 3 held out for the threshold; 2 seen defects"]
    said += ["2 steps of 2 on this processor, fp32", f"training log: {log}"]
    assert answer("fit", "--data", drawn, *PRN, "--seen", "2", "--steps", "2", "--out", out, said=said) == ""
    assert sorted(tmp_path.iterdir()) == [out, log]  # no checkpoint is left
    data = open_dataset(drawn, "plate")
    chosen = [data.relative(item.path) for item in draw_seen(data, 2, 0)]

    found = json.loads(answer("evaluate", out, "--data", drawn, "--device", "cpu", "--json", "--quiet"))
    assert found["left_out_by_kind"] == {Path(name).parent.name: 1 for name in chosen}
    assert (found["left_out"], found["images"], found["method"]) == (2, len(data.test) - 2, "prnet")
    words = ["9 learnt from", "2 with a defect", "trained 2 steps", "on 9 good pictures and 2 seen defects"]
    answer("info", out, "--verbose", printed=words)
    pictures = json.loads(answer("info", out, "--json"))["pictures"]
    rows = zip(pictures["name"], pictures["role"], strict=True)
    assert {name for name, role in rows if role == "seen"} == {
        Path(name).relative_to("test").as_posix() for name in chosen
    }


def test_prns_settings_of_a_file(run, drawn, tmp_path):
    """Seen defects and textures may stand in the configuration; a flag wins."""
    (tmp_path / "prnet.yaml").write_text(
        "method: prnet\nsize: 64\nwidth: 0.25\nbatch: 2\ntraining: fp32\nseen: 3\nsteps: 1\n"
        f"textures: {drawn / 'plate/test/good'}\n"
    )
    out = tmp_path / "m.safetensors"
    call = ["fit", "--data", drawn, "--config", tmp_path / "prnet.yaml", "--device", "cpu", "--no-samples"]
    assert run(*call, "--seen", "1", "--out", out, "--quiet")[::2] == (0, "")
    manifest = read_manifest(out)
    assert manifest.facts["seen_defects"] == 1
    assert manifest.facts["textures"].startswith("4 textures")
    assert manifest.config["textures"] == "good"
    assert str(tmp_path) not in json.dumps(manifest.to_dict())
