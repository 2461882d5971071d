"""Masks in other places and forms than those of MVTec AD, through the commands: the same figures, and no mask
is learnt from or judged."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flawscope.fitting.seen_defects import read_defects
from flawscope.views.preprocess import Preprocess


def _swapped(mask, path):
    """A palette whose first colour is the defect's."""
    image = Image.fromarray((np.asarray(mask) == 0).astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(path)


def _transparent(mask, path):
    marked = (np.asarray(mask) > 0).astype(np.uint8)
    Image.fromarray(np.dstack([255 - marked, marked * 0, marked * 0, marked * 255])).save(path)


FORMS = {
    "beside": ("test/{kind}/{stem}_mask.png", lambda mask, path: mask.save(path)),
    "below": ("test/{kind}/labels/{stem}.png", lambda mask, path: mask.save(path)),
    "a palette": ("ground_truth/{kind}/{stem}.png", _swapped),
    "transparent outside": ("test/masks/{kind}/{stem}.png", _transparent),
    "1 outside": ("test/{kind}/{stem}.mask.png", lambda mask, path: mask.point(lambda v: v or 1).save(path)),
    "JPEG": ("test/{kind}/gt/{stem}.jpg", lambda mask, path: mask.convert("L").save(path, quality=80)),
}


@pytest.fixture
def rearranged(drawn, tmp_path):
    """rearranged(form): the drawn data set with its masks in this form, and black ones of good pictures."""

    def make(form):
        root, (place, write) = tmp_path / "data/plate", FORMS[form]
        shutil.copytree(drawn / "plate", root)
        shutil.rmtree(root / "ground_truth")
        for path in sorted((drawn / "plate/ground_truth").rglob("*.png")):
            stem = path.stem.removesuffix("_mask")
            target = root / place.format(kind=path.parent.name, stem=stem)
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as mask:
                write(mask, target)
        size = Image.open(next((root / "train/good").iterdir())).size
        for path in sorted((root / "train/good").iterdir())[:3]:
            Image.new("L", size).save(path.with_name(f"{path.stem}_mask.png"))
        return root.parent

    return make


@pytest.mark.parametrize("form", FORMS)
def test_figures_are_those_of_the_usual_layout(form, answer, rearranged, model_path, drawn):
    clean, other = (
        json.loads(answer("evaluate", model_path, "--data", data, "--json"))
        for data in (drawn, rearranged(form))
    )
    for key in ("images", "without_mask"):
        assert other[key] == clean[key]
    assert [(k, v["images"]) for k, v in other["kinds"].items()] == [
        (k, v["images"]) for k, v in clean["kinds"].items()
    ]
    assert other["metrics"] == pytest.approx(clean["metrics"], abs=0.01 if form == "JPEG" else 1e-9)


def test_no_mask_is_learnt_from_calibrated_on_or_judged(run, answer, rearranged, model_path, drawn, tmp_path):
    data, usual = rearranged("beside"), drawn / "plate"
    good = len(list((usual / "train/good").iterdir()))
    passed = "3 files beside the pictures not looked at, masks among them: 000_mask.png"
    call = ("fit", "--data", data, "--size", 64, "--out", tmp_path / "m.safetensors", "--no-check")
    answer(*call, said=[f"{good} good pictures", passed])
    code, printed, err = run("predict", model_path, data / "plate/test", "--json")
    pictures = sum(1 for path in (usual / "test").rglob("*.png"))
    assert (code, len(printed.splitlines())) == (0, pictures)
    assert "_mask.png" not in printed
    masks = [path for path in (data / "plate/test").rglob("*.png") if path.name.endswith("_mask.png")]
    assert sum("it is the mask of a picture" in line for line in err.splitlines()) == len(masks)
    assert all(str(path) in err for path in masks)
    said = []
    for name in ("with", "without"):
        folder = Path(shutil.copytree(usual / "test/good", tmp_path / name))
        for path in sorted(folder.iterdir()) if name == "with" else ():
            Image.new("L", Image.open(path).size).save(path.with_name(f"{path.stem}_gt.png"))
        out = tmp_path / f"{name}.safetensors"
        answer = run("calibrate", model_path, "--good", folder, "--force", "--out", out)
        said.append([str(part).replace(str(tmp_path / name), "") for part in answer])
    assert said[0] == said[1]
    assert "now: " in said[0][2]


def test_what_is_odd_about_masks_is_told(run, rearranged, model_path, tmp_path):
    data = rearranged("beside")
    masks = sorted((data / "plate/test").rglob("*_mask.png"))
    inverted, resized = masks[0], masks[-1]
    with Image.open(inverted) as mask:
        ImageOps.invert(mask.convert("L")).save(inverted)
    Image.new("L", (7, 7), 255).save(resized)
    good = next(path for path in (data / "plate/train/good").iterdir() if path.name.endswith("_mask.png"))
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(good)
    code, _, err = run("evaluate", model_path, "--data", data)
    assert code == 1
    picture = inverted.name.replace("_mask", "")
    assert re.search(
        rf"warning: more than half is marked as defect in test/\w+/{picture}.*: is the mask inverted", err
    )
    assert f"mask not used: cannot use mask {resized}: it is 7x7" in err
    assert "skipped" not in err
    marked = good.name.replace("_mask", "")
    assert f"warning: counted as good, but something is marked: train/good/{marked} (in" in err
    said = []
    pictures = [(inverted.with_name(picture), [inverted])]
    read_defects(pictures, Preprocess(size=(64, 64)), None, said.append)
    assert len(said) == 1
    assert re.match(rf"warning: the mask of {picture} marks \d\d% of its picture: is it inverted", said[0])
