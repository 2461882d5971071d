"""`flawscope fit --method efficientad`: what it writes, what it says, and how a wrong call is told."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flawscope.artefact.model_file import read_manifest
from flawscope.cli import main
from flawscope.synthesis.demo.dataset import draw_dataset

pytest.importorskip("torch")

Capture = pytest.CaptureFixture[str]
FAST = [
    *("--method", "efficientad", "--set", "window=41", "--set", "border=0", "--set", "training=fp32"),
    *("--no-samples", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good pictures. Read only."""
    root = tmp_path_factory.mktemp("three")
    return draw_dataset(root, train=3, good=0, bad_per_kind=0, size=256, seed=3)


def run(capsys: Capture, *argv: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_model_is_written_and_its_checkpoint_removed(
    capsys: Capture, data: Path, teacher_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawscope.methods.task import Budget

    monkeypatch.setattr("flawscope.fitting.fitting.Budget", functools.partial(Budget, every=0.0))
    out, folder = tmp_path / "m.safetensors", data / "train/good"
    said = ["--teacher", teacher_path, "--natural", folder, "--steps", "3", "--out", out]
    code, printed, err = run(capsys, "fit", "--data", data, *FAST, *said)
    assert (code, printed) == (0, "")
    assert sorted(tmp_path.iterdir()) == [out, out.with_suffix(".training.csv")]
    assert "2 pictures to learn from, 1 held out" in err
    assert "trained 3 steps in " in err
    assert f"wrote {out} (" in err
    manifest = read_manifest(out)
    assert manifest.method == "efficientad"
    assert (manifest.config["steps"], manifest.config["window"]) == (3, 41)
    assert manifest.facts["penalty"].startswith("3 pictures of folder good (")
    code, printed, _ = run(capsys, "info", out)
    assert code == 0
    assert "trained 3 steps" in printed
    assert "2 train" in printed
    code, _, err = run(capsys, "fit", "--data", data, "--update", out, "--out", tmp_path / "n.safetensors")
    assert code == 2
    assert "--update is for patchcore: put the new pictures to the good ones and fit efficientad anew" in err
    assert sorted(tmp_path.iterdir()) == [out, out.with_suffix(".training.csv")]


def test_a_run_that_was_stopped_says_what_is_kept_and_goes_on(
    capsys: Capture, data: Path, teacher_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawscope.methods.efficientad.trainer import Trainer
    from flawscope.methods.task import Budget

    out, checkpoint = tmp_path / "m.safetensors", tmp_path / "m.checkpoint.safetensors"
    call = ["fit", "--data", data, *FAST, "--teacher", teacher_path, "--steps", "3", "--out", out, "--quiet"]
    learn = Trainer._learn

    def stopping(self, networks, optimiser, batch, step):
        if step == 1:
            raise KeyboardInterrupt
        return learn(self, networks, optimiser, batch, step)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flawscope.fitting.fitting.Budget", functools.partial(Budget, every=0.0))
        patch.setattr(Trainer, "_learn", stopping)
        code, _, err = run(capsys, *call)
    assert code == 130
    assert err == "flawscope: interrupted: step 1 of 3 kept; go on with --resume\n"
    assert sorted(tmp_path.iterdir()) == [checkpoint, out.with_suffix(".training.csv")]
    held = checkpoint.read_bytes()
    # another method leaves it alone
    patchcore = ["fit", "--data", data, "--size", "64", "--out", out, "--quiet", "--no-samples"]
    assert run(capsys, *patchcore)[0] == 0
    assert checkpoint.read_bytes() == held
    with monkeypatch.context() as patch:  # and once more, when the training is over
        patch.setattr("flawscope.fitting.fitting.finds", stop)
        code, _, err = run(capsys, *call)
    assert (code, err) == (130, "flawscope: interrupted: step 3 of 3 kept; go on with --resume\n")
    code, _, err = run(capsys, *call, "--resume")
    assert (code, err) == (0, "")
    assert sorted(tmp_path.iterdir()) == [out, out.with_suffix(".training.csv")]
    assert read_manifest(out).facts["steps"] == 3


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--steps", "2", "--minutes", "3"], "not allowed with argument"),
        (["--minutes", "0"], "is not a number of minutes: write 30 or 0.5"),
        (["--steps", "many"], "setting steps: 'many' is not a whole number"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--size", "128"], "setting size, or crop, must be between 256 and 4096 pixels"),
        (["--size", "auto"], "is not N or HxW"),
        (["--backbone", "resnet18"], "efficientad has no backbone: leave it out"),
        (["--teacher", "nowhere.safetensors"], "there is no teacher nowhere.safetensors"),
        (["--natural", "nowhere", "--steps", "1"], "nowhere"),
        (["--drop-suspects"], "find them with --method patchcore --drop-suspects"),
        (["--group", "^00"], "all pictures show one part"),
        (["--set", "windows=33"], "unknown setting windows; did you mean window?"),
        (["--preset", "papers"], "no preset papers"),
        (["--method", "patchcore", "--minutes", "3"], "patchcore does not learn in steps"),
        (["--method", "patchcore", "--resume"], "patchcore does not learn in steps"),
        (
            ["--method", "patchcore", "--steps", "3"],
            "has no steps: leave it out, or take efficientad or prnet",
        ),
    ],
)
def test_wrong_calls_are_one_line(
    capsys: Capture, data: Path, teacher_path: Path, tmp_path: Path, words: list[str], match: str
) -> None:
    fast = ["--device", "cpu"] if "patchcore" in words else [*FAST, "--teacher", str(teacher_path)]
    out = tmp_path / "m.safetensors"
    code, printed, err = run(capsys, "fit", "--data", data, *fast, "--quiet", *words, "--out", out)
    assert (code, printed) == (2, "")
    assert match in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_told_without_torch(data: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "m.safetensors")
    argv = ["fit", "--data", str(data), "--method", "efficientad", "--size", "128", "--out", out]
    code = (
        f"import sys\nsys.modules['torch'] = None\nfrom flawscope.cli import main\nsys.exit(main({argv!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "setting size" in done.stderr


def test_minutes_win_over_a_presets_steps(
    capsys: Capture, data: Path, teacher_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flawscope.methods.time_budget.Pace.over", property(lambda pace: len(pace.ends) > 3))
    out = tmp_path / "m.safetensors"
    paper = ["--preset", "paper", *FAST, "--teacher", teacher_path, "--set", "window=33"]
    code, _, err = run(capsys, "fit", "--data", data, *paper, "--minutes", "0.5", "--quiet", "--out", out)
    assert (code, err) == (0, "")
    config = read_manifest(out).config
    assert config["steps"] == 3
    code, printed, _ = run(capsys, "info", out)
    assert re.search(r"trained 3 steps in .*; --minutes 0.5, by the first steps' time \d+ steps", printed)
    assert "time of the fit" in printed
    assert config["schedule"] == "drop"
