"""`flawscope prototypes`: a file with which `fit` makes the model that it makes without."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from flawscope.artefact.model_file import read, read_manifest
from flawscope.cli import main

pytest.importorskip("torch")

Capture = pytest.CaptureFixture[str]
SETTINGS = ["--size", "64", "--set", "width=0.25", "--set", "batch=2", "--device", "cpu"]
FIT = ["fit", "--method", "prnet", *SETTINGS, "--set", "training=fp32", "--no-samples", "--steps", "2"]


def run(capsys: Capture, *argv: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_model_is_the_same_with_and_without(capsys: Capture, drawn: Path, tmp_path: Path) -> None:
    made, plain, given = (tmp_path / f"{name}.safetensors" for name in ("prototypes", "plain", "given"))
    code, printed, err = run(capsys, "prototypes", "--data", drawn, *SETTINGS, "--out", made)
    assert (code, printed) == (0, "")
    for shape in ("24x16x16", "40x8x8", "112x4x4"):
        assert f"{shape}: 1 prototype of 9 pictures, objective " in err
    assert f"wrote {made} (" in err

    common = ["--data", drawn, "--quiet", "--seen", "1"]
    assert run(capsys, *FIT, *common, "--out", plain)[0] == 0
    code, _, err = run(capsys, *FIT, *common, "--prototypes", made, "--out", given)
    assert (code, err) == (0, "")
    one, other = read(plain), read(given)
    assert list(one.tensors) == list(other.tensors)
    for name, values in one.tensors.items():
        assert np.array_equal(values, other.tensors[name]), name
    assert one.manifest.calibration == other.manifest.calibration
    assert other.manifest.config["prototypes"] == "prototypes.safetensors"
    assert one.manifest.config["prototypes"] is None

    # other pictures and another size are told, and a file of prototypes is no model
    for words, match in (
        (["--seed", "3"], "was made of other pictures than are learnt from here: make it anew"),
        (["--size", "96"], "is of another backbone, size or version: make it anew"),
    ):
        out = tmp_path / "n.safetensors"
        code, _, err = run(capsys, *FIT, *common, "--prototypes", made, *words, "--out", out)
        assert code == 2
        assert match in err
        assert err.count("\n") == 1
        assert not out.exists()
    code, _, err = run(capsys, "info", made)
    assert code == 2
    assert err.count("\n") == 1
    code, _, err = run(capsys, *FIT, *common, "--prototypes", plain, "--out", tmp_path / "n.safetensors")
    assert code == 2
    assert err.count("\n") == 1
    assert read_manifest(plain).method == "prnet"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--size", "100"], "setting size, or crop, must be multiples of 32"),
        (["--set", "stages=1,2,3"], "stages must be four"),
        (["--preset", "papers"], "prnet has no preset papers"),
        (["--backbone", "resnet17"], "no backbone called resnet17"),
        (["--set", "ratio=0.1"], "prnet has no ratio: leave it out, or take patchcore"),
        (["--category", "plates"], "plates"),
    ],
)
def test_wrong_calls_are_one_line(
    capsys: Capture, drawn: Path, tmp_path: Path, words: list[str], match: str
) -> None:
    out = tmp_path / "p.safetensors"
    call = ["prototypes", "--data", drawn, "--device", "cpu", "--quiet", *words, "--out", out]
    code, printed, err = run(capsys, *call)
    assert (code, printed) == (2, "")
    assert match in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_several_categories_get_a_file_each(capsys: Capture, drawn: Path, tmp_path: Path) -> None:
    for name in ("bottle", "plate"):
        shutil.copytree(drawn / "plate", tmp_path / "data" / name)
    call = ["prototypes", "--data", tmp_path / "data", "--category", "all", *SETTINGS]
    code, _, err = run(capsys, *call, "--out", "x.safetensors")
    assert (code, "give --out a folder" in err) == (2, True)
    out = tmp_path / "made"
    code, _, err = run(capsys, *call, "--set", "ratoi=1", "--out", out)
    assert (code, "unknown setting ratoi" in err, out.exists()) == (2, True, False)
    assert run(capsys, *call, "--out", out)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["bottle.safetensors", "plate.safetensors"]
