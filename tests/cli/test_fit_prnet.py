"""`flawscope fit --method prnet`: what it writes and says, from seen defects to the evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flawscope.artefact.model_file import read_manifest
from flawscope.cli import main
from flawscope.datasets import open_dataset
from flawscope.datasets.seen import draw_seen

pytest.importorskip("torch")

Capture = pytest.CaptureFixture[str]
FAST = [
    *("--method", "prnet", "--size", "64", "--set", "width=0.25", "--set", "batch=2"),
    *("--set", "training=fp32", "--no-samples", "--device", "cpu"),
]


def run(capsys: Capture, *argv: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_seen_defects_from_the_fit_to_the_evaluation(capsys: Capture, drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    code, printed, err = run(
        capsys, "fit", "--data", drawn, *FAST, "--seen", "2", "--steps", "2", "--out", out
    )
    assert (code, printed) == (0, "")
    assert "9 good pictures to learn from, 3 held out for the threshold; 2 seen defects" in err
    assert "2 steps of 2 on this processor, fp32" in err
    assert "trained 2 steps in " in err
    assert f"wrote {out} (" in err
    assert f"training log: {out.with_suffix('.training.csv')}" in err
    assert sorted(tmp_path.iterdir()) == [out, out.with_suffix(".training.csv")]  # no checkpoint is left
    manifest = read_manifest(out)
    data = open_dataset(drawn, "plate")
    chosen = [data.relative(item.path) for item in draw_seen(data, 2, 0)]
    assert [p.role for p in manifest.pictures].count("seen") == 2
    assert manifest.config["steps"] == 2

    code, printed, _ = run(capsys, "evaluate", out, "--data", drawn, "--device", "cpu", "--json", "--quiet")
    assert code == 0
    found = json.loads(printed)
    assert found["left_out"] == 2
    assert found["left_out_by_kind"] == {Path(name).parent.name: 1 for name in chosen}
    assert found["images"] == len(data.test) - 2
    assert found["method"] == "prnet"

    code, printed, _ = run(capsys, "info", out)
    assert code == 0
    assert "9 train" in printed
    assert "2 seen" in printed
    assert "trained 2 steps" in printed
    assert "on 9 good pictures and 2 seen defects" in printed
    code, printed, _ = run(capsys, "info", out, "--json")
    assert {p["name"] for p in json.loads(printed)["pictures"] if p["role"] == "seen"} == {
        Path(name).relative_to("test").as_posix() for name in chosen
    }
    code, _, err = run(capsys, "fit", "--data", drawn, "--update", out, "--out", tmp_path / "n.safetensors")
    assert code == 2
    assert "--update is for patchcore: put the new pictures to the good ones and fit prnet anew" in err


def test_settings_of_a_file(capsys: Capture, drawn: Path, tmp_path: Path) -> None:
    """Seen defects and textures may stand in the configuration; a flag wins."""
    (tmp_path / "prnet.yaml").write_text(
        "method: prnet\nsize: 64\nwidth: 0.25\nbatch: 2\ntraining: fp32\nseen: 3\nsteps: 1\n"
        f"textures: {drawn / 'plate/test/good'}\n"
    )
    out = tmp_path / "m.safetensors"
    call = ["fit", "--data", drawn, "--config", tmp_path / "prnet.yaml", "--device", "cpu", "--no-samples"]
    code, _, err = run(capsys, *call, "--seen", "1", "--out", out, "--quiet")
    assert (code, err) == (0, "")
    manifest = read_manifest(out)
    assert manifest.facts["seen_defects"] == 1
    assert manifest.facts["textures"].startswith("4 textures")
    assert manifest.config["textures"] == "good"
    assert str(tmp_path) not in json.dumps(manifest.to_dict())


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--seen", "500"], "cannot draw 500 seen defects"),
        (["--seen", "nowhere"], "setting seen: nowhere is neither a number, a folder nor a list"),
        (["--seen", ""], "is neither a number, a folder nor a list"),
        (["--textures", "nowhere", "--steps", "1"], "nowhere"),
        (["--prototypes", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--size", "100"], "setting size, or crop, must be multiples of 32"),
        (["--size", "64+96"], "is not N or HxW"),
        (["--stages", "2,3"], "stages must be four feature indices"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--steps", "2", "--minutes", "3"], "not allowed with argument"),
        (["--set", "batch=1"], "batch must be at least 2"),
        (["--drop-suspects"], "find them with --method patchcore --drop-suspects"),
        (["--set", "texture=x"], "unknown setting texture; did you mean textures?"),
        (["--method", "patchcore", "--seen", "2"], "patchcore learns from good pictures only"),
        (
            ["--method", "efficientad", "--size", "256", "--seen", "2"],
            "efficientad learns from good pictures",
        ),
        (
            ["--method", "patchcore", "--textures", "x"],
            "has no textures: leave it out, or take prnet",
        ),
    ],
)
def test_wrong_calls_are_one_line(
    capsys: Capture, drawn: Path, tmp_path: Path, words: list[str], match: str
) -> None:
    fast = ["--device", "cpu"] if "--method" in words else FAST
    out = tmp_path / "m.safetensors"
    code, printed, err = run(capsys, "fit", "--data", drawn, *fast, "--quiet", *words, "--out", out)
    assert (code, printed) == (2, "")
    assert match in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_told_without_torch(drawn: Path, tmp_path: Path) -> None:
    argv = ["--data", str(drawn), "--size", "100", "--out", str(tmp_path / "m.safetensors")]
    for command in (["fit", "--method", "prnet"], ["prototypes"]):
        code = (
            "import sys\nsys.modules['torch'] = None\nfrom flawscope.cli import main\n"
            f"sys.exit(main({[*command, *argv]!r}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert "setting size" in done.stderr
