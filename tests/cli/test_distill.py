"""`flawscope distill`: what it writes, what it says, and how a wrong call is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.methods.features.weights import PACKAGED
from flawscope.synthesis.demo.dataset import draw_picture

pytest.importorskip("torch")

Capture = pytest.CaptureFixture[str]
FAST = ["--crop", "41", "--batch", "2", "--set", "checks=1", "--set", "precision=fp32", "--set", "width=16"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """21 pictures and one that is none."""
    found = tmp_path / "pictures"
    found.mkdir()
    rng = np.random.default_rng(2)
    for k in range(21):
        Image.fromarray(draw_picture("fabric", rng, size=64)[0]).save(found / f"{k}.png")
    (found / "broken.png").write_bytes(b"no picture")
    return found


def run(capsys: Capture, *argv: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.skipif(PACKAGED["tf_efficientnet_lite0"].find() is None, reason="no EfficientNet-Lite0 here")
def test_a_teacher_is_made_and_what_cannot_be_read_is_named(
    capsys: Capture, folder: Path, tmp_path: Path
) -> None:
    from flawscope.methods.efficientad.networks import read_teacher

    out = tmp_path / "t.safetensors"
    code, printed, err = run(capsys, "distill", "--images", folder, "--steps", "2", *FAST, "--out", out)
    assert code == 1  # one picture was skipped
    assert printed == ""
    assert "skipped: cannot read picture" in err
    assert "broken.png" in err
    assert "step 2 of 2: held-out loss" in err
    assert f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)" in err
    _, facts = read_teacher(out)
    assert facts["recipe"]["crop"] == 41
    assert facts["recipe"]["backbone"] == "tf_efficientnet_lite0"
    (folder / "broken.png").unlink()
    code, _, err = run(capsys, "distill", "--images", folder, "--steps", "1", *FAST, "--out", out, "--quiet")
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--steps", "2", "--minutes", "3"], "not allowed with argument"),
        (["--minutes", "0"], "is not a number of minutes: write 30 or 0.5"),
        (["--minutes", "soon"], "is not a number of minutes"),
        (["--steps", "many"], "setting steps: 'many' is not a whole number"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--crop", "12"], "crop must be between 33 and 252 pixels"),
        (["--size", "l"], "invalid choice: 'l'"),
        (["--set", "bach=4"], "unknown setting bach; did you mean batch?"),
        (["--preset", "papers"], "there is no preset papers: choose of default, paper"),
        (["--backbone", "efficientnet_lite00"], "has no backbone called efficientnet_lite00; near: "),
    ],
)
def test_wrong_calls_are_told(
    capsys: Capture, folder: Path, tmp_path: Path, words: list[str], match: str
) -> None:
    code, _, err = run(capsys, "distill", "--images", folder, "--out", tmp_path / "t.safetensors", *words)
    assert code == 2
    assert match in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_wrong_places_are_told(capsys: Capture, folder: Path, tmp_path: Path) -> None:
    for images, out, match in (
        (folder, tmp_path / "t.pth", "should end in .safetensors"),
        (folder, tmp_path / "no" / "t.safetensors", "there is no folder"),
        (tmp_path / "none", tmp_path / "t.safetensors", "no such file or folder"),
        (folder / "0.png", tmp_path / "t.safetensors", "too few to distil a teacher from"),
    ):
        code, _, err = run(capsys, "distill", "--images", images, "--out", out)
        assert code == 2
        assert match in err


def test_the_papers_settings_are_a_preset() -> None:
    from flawscope import config
    from flawscope.methods.efficientad import RECIPES, Recipe

    paper = config.build(Recipe, RECIPES["paper"])
    assert (paper.backbone, paper.steps, paper.batch) == ("wide_resnet101_2", 60_000, 16)
    assert (paper.rate, paper.decay, paper.grey, paper.schedule) == (1e-4, 1e-5, 0.1, "constant")
