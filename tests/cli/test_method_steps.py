"""`distill` and `prototypes`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from flawscope import config
from flawscope.artefact.model_file import read
from flawscope.methods.efficientad import RECIPES, Recipe
from flawscope.methods.features.weights import PACKAGED
from flawscope.synthesis.demo.dataset import draw_picture

Run = Callable[..., tuple[int, str, str]]
FAST = ["--crop", "41", "--batch", "2", "--set", "checks=1", "--set", "precision=fp32", "--set", "width=16"]
SETTINGS = ["--size", "64", "--set", "width=0.25", "--set", "batch=2", "--device", "cpu"]
FIT = ["fit", "--method", "prnet", *SETTINGS, "--set", "training=fp32", "--no-samples", "--steps", "2"]


@pytest.mark.skipif(PACKAGED["tf_efficientnet_lite0"].find() is None, reason="no EfficientNet-Lite0 here")
def test_a_teacher_is_made_and_what_cannot_be_read_is_named(run: Run, tmp_path: Path) -> None:
    from flawscope.methods.efficientad.networks import read_teacher

    folder, rng = tmp_path / "pictures", np.random.default_rng(2)
    folder.mkdir()
    for k in range(21):
        Image.fromarray(draw_picture("fabric", rng, size=64)[0]).save(folder / f"{k}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "t.safetensors"
    code, printed, err = run("distill", "--images", folder, "--steps", "2", *FAST, "--out", out)
    assert (code, printed) == (1, "")  # one picture was skipped
    assert "skipped: cannot read picture" in err
    assert "broken.png" in err
    assert "held-out loss" in err
    assert f"wrote {out} (" in err
    _, facts = read_teacher(out)
    assert (facts["recipe"]["crop"], facts["recipe"]["backbone"]) == (41, "tf_efficientnet_lite0")


def test_the_papers_recipe_is_a_preset() -> None:
    paper = config.build_config(Recipe, RECIPES["paper"])
    assert (paper.backbone, paper.steps, paper.batch) == ("wide_resnet101_2", 60_000, 16)
    assert (paper.rate, paper.decay, paper.grey, paper.schedule) == (1e-4, 1e-5, 0.1, "constant")


def test_with_prototypes_of_a_file_the_model_is_the_same(run: Run, drawn: Path, tmp_path: Path) -> None:
    made, plain, given = (tmp_path / f"{name}.safetensors" for name in ("prototypes", "plain", "given"))
    code, printed, err = run("prototypes", "--data", drawn, *SETTINGS, "--out", made)
    assert (code, printed) == (0, "")
    for shape in ("24x16x16", "40x8x8", "112x4x4"):
        assert f"{shape}: 1 prototype of 9 pictures, objective " in err
    common = ["--data", drawn, "--quiet", "--seen", "1"]
    assert run(*FIT, *common, "--out", plain)[0] == 0
    assert run(*FIT, *common, "--prototypes", made, "--out", given)[::2] == (0, "")
    one, other = read(plain), read(given)
    assert list(one.tensors) == list(other.tensors)
    for name, values in one.tensors.items():
        assert np.array_equal(values, other.tensors[name]), name
    assert one.manifest.calibration == other.manifest.calibration
    assert other.manifest.config["prototypes"] == "prototypes.safetensors"
    assert one.manifest.config["prototypes"] is None

    # other pictures and another size are told, and a file of prototypes is no model
    out = tmp_path / "n.safetensors"
    for file, words, match in (
        (made, ["--seed", "3"], "was made of other pictures than are learnt from here: make it anew"),
        (made, ["--size", "96"], "is of another backbone, size or version: make it anew"),
        (plain, [], "plain.safetensors"),
    ):
        code, _, err = run(*FIT, *common, "--prototypes", file, *words, "--out", out)
        assert (code, err.count("\n"), out.exists()) == (2, 1, False)
        assert match in err
    assert run("info", made)[0] == 2


def test_several_categories_get_prototypes_each(run: Run, drawn: Path, tmp_path: Path) -> None:
    for name in ("bottle", "plate"):
        shutil.copytree(drawn / "plate", tmp_path / "data" / name)
    call = ["prototypes", "--data", tmp_path / "data", "--category", "all", *SETTINGS]
    out = tmp_path / "made"
    assert run(*call, "--set", "ratoi=1", "--out", out)[0] == 2
    assert not out.exists()
    assert run(*call, "--out", out)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["bottle.safetensors", "plate.safetensors"]
