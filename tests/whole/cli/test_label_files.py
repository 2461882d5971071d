"""Label files through the command line: what cannot be used is told, and ends no command."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from small_network import SMALL_FLAGS

KINDS = 4


@pytest.fixture
def root(drawn, tmp_path):
    """good/ and bad/, whose marks are in via.json."""
    root = tmp_path / "part"
    shutil.copytree(drawn / "plate/test/good", root / "good")
    (root / "bad").mkdir()
    defects = [path for path in sorted((drawn / "plate/test").rglob("*.png")) if path.parent.name != "good"]
    for k, path in enumerate(defects[:KINDS]):
        shutil.copy(path, root / f"bad/{k}.png")
    write(root, [(20, 20, 30, 30)] * KINDS)
    return root


def write(root, places):
    pictures = {
        str(k): {
            "filename": f"{k}.png",
            "size": 1,
            "regions": [{"shape_attributes": {"name": "rect", "x": x, "y": y, "width": w, "height": h}}],
        }
        for k, (x, y, w, h) in enumerate(places)
    }
    (root / "via.json").write_text(json.dumps(pictures))


BEYOND = [(20, 20, 30, 30), (80, 80, 90, 10), (20, 20, 30, 30), (20, 20, 30, 30)]  # the second, its picture


def test_evaluate_counts_what_is_left_out_in_its_own_line(answer, model_path, root):
    call = ("evaluate", model_path, "--data", root)
    assert json.loads(answer(*call, "--json"))["without_mask"] == 0
    write(root, BEYOND)
    reasons = json.loads(answer(*call, "--json"))["without_mask_by_reason"]
    assert reasons == {"marked beyond the picture (VIA)": 1}
    counted = "1 of 4 defective pictures without a usable mask"
    answer(*call, printed=[counted, "; marked beyond the picture (VIA): 1"])
    told = "without a mask: marked beyond the picture (VIA)"
    answer("data", "check", "--data", root, "--no-near", printed=told)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("via.json", '{"0": {"filename": "0.png", "regions": [{"shape_attributes": {"name": "rect"}}]}}'),
        ("coco.json", '{"images": [], "annotations": [{"id": 1}]}'),
        ("bad/0.txt", "0 0.5 0.5 0.1 0.1\n0 12 13 14 15\n"),
        ("a.xml", "<!DOCTYPE annotations []><annotations/>"),
        ("bad/0.xml", "<annotation><object><bndbox><xmin>x</xmin></bndbox></object></annotation>"),
        ("bad/0.json", '{"imagePath": "0.png", "shapes": [{"points": [["a", 3]]}]}'),
        ("tasks.json", '[{"data": {"image": "0.png"}, "annotations": [{"result": 3}]}]'),
    ],
)
def test_a_file_that_cannot_be_read_ends_nothing(answer, model_path, root, tmp_path, name, text):
    (root / name).write_text(text)
    told = f"{name} could not be read"
    answer("predict", model_path, root / "bad", "--quiet")
    document = json.loads(answer("evaluate", model_path, "--data", root, "--json", said=told))
    if name == "via.json":
        reason = "in via.json, which could not be read"
        assert document["without_mask_by_reason"] == {reason: KINDS}
        call = ("fit", "--data", root, "--size", "64", *SMALL_FLAGS, "--no-check")
        answer(*call, "--out", tmp_path / "own.safetensors", said=told)
    answer("data", "check", "--data", root, "--no-near", code=1, printed=f"error: {name}: could not be read")


def test_two_pictures_of_a_name_end_nothing(answer, model_path, root):
    (root / "bad/new").mkdir()
    shutil.copy(root / "bad/1.png", root / "bad/new/0.png")
    document = json.loads(answer("evaluate", model_path, "--data", root, "--json"))
    assert document["without_mask_by_reason"] == {"marked by a name that 2 pictures have": 2}


def test_defects_to_learn_from_are_counted(run, root, tmp_path):
    write(root, BEYOND)
    words = ("--data", root / "good", "--seen", root / "bad", "--size", "64", "--steps", "1")
    code, _, err = run("fit", *words, "--method", "prnet", "--out", tmp_path / "m.safetensors")
    assert code in (0, 2), err
    assert "1 of 4 defective pictures cannot be learnt from: marked beyond the picture (VIA): 1" in err


@pytest.mark.parametrize("form", ["yolo", "labelme"])
def test_labels_that_pictures_would_share_are_refused_before_the_work(answer, model_path, tmp_path, form):
    folder = tmp_path / "new"
    (folder / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("x.JPG", "x.bmp", "x.png", "a/x.png"):
        Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(folder / name)
    words = ("predict", model_path, folder, "--out", tmp_path / "out", "--maps", "none")
    refusal = f"would share a file of labels with --labels {form}: rename one, or take --labels coco"
    assert answer(*words, "--labels", form, code=2, said=refusal) == ""
    assert not (tmp_path / "out/labels").exists()
    answer(*words, "--labels", "coco")
    for name in ("x.JPG", "x.bmp"):
        (folder / name).unlink()
    answer(*words, "--labels", form)
    suffix = {"yolo": "txt", "labelme": "json"}[form]
    assert len(list((tmp_path / "out/labels").rglob(f"*.{suffix}"))) == 2
