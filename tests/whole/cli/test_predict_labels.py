"""`predict --labels`: what is marked goes to a labelling tool, and comes back as its masks."""

import json
import shutil

import numpy as np
import pytest
from scipy import ndimage

import flawscope
from flawscope.datasets import open_dataset
from flawscope.datasets.masks import union_masks
from flawscope.datasets.seen_defects import list_seen


@pytest.fixture
def root(drawn, tmp_path):
    """good/ and bad/KIND/images/ without masks."""
    root = tmp_path / "part"
    (root / "bad").mkdir(parents=True)
    test = drawn / "plate/test"
    shutil.copytree(test / "good", root / "good")
    for kind in (path for path in test.iterdir() if path.name != "good"):
        shutil.copytree(kind, root / "bad" / kind.name / "images")
    return root


def through_tool(form, out, root):
    """Imports the labels into a tool, accepts all, and exports them: scores are lost on the way. Returns the
    number of regions."""
    if form == "coco":
        document = json.loads((out / "labels.json").read_text())
        for annotation in document["annotations"]:
            assert np.isfinite(annotation.pop("score"))
        (root / "instances_default.json").write_text(json.dumps(document))
        return len(document["annotations"])
    if form == "labelstudio":
        tasks = json.loads((out / "label_studio.json").read_text())
        for task in tasks:
            task["annotations"] = task["predictions"]
        (root / "export.json").write_text(json.dumps(tasks))
        assert all(np.isfinite(r["score"]) for task in tasks for r in task["predictions"][0]["result"])
        return sum(len(task["predictions"][0]["result"]) for task in tasks)
    if form == "labelme":
        documents = {file: json.loads(file.read_text()) for file in (out / "labels").rglob("*.json")}
        for file, document in documents.items():
            picture = root / "bad" / file.relative_to(out / "labels").with_suffix(".png")
            assert picture.name == document["imagePath"]
            shutil.copy(file, picture.parent)
        return sum(len(document["shapes"]) for document in documents.values())
    shutil.copytree(out / "labels", root / "labels")
    shutil.copy(out / "data.yaml", root)
    scores = json.loads((out / "scores.json").read_text())
    for name, values in scores.items():
        assert len((out / name).read_text().splitlines()) == len(values)
    return sum(map(len, scores.values()))


@pytest.mark.parametrize("form", ["coco", "labelstudio", "yolo", "labelme"])
def test_what_is_marked_comes_back_within_a_pixel(answer, model_path, root, tmp_path, form):
    out = tmp_path / "out"
    answer("predict", model_path, root / "bad", "--labels", form, "--out", out, "--maps", "none")
    regions = through_tool(form, out, root)
    model = flawscope.load(model_path)
    items = [item for item in open_dataset(root).test if item.anomalous]
    marked = 0
    for item in items:
        found = model.predict(item.path)
        mask = found.picture_mask() & found.is_anomalous
        marked += ndimage.label(mask, np.ones((3, 3)))[1]
        assert bool(item.masks) == mask.any()
        read = union_masks(item.masks, mask.shape)
        assert not (read & ~ndimage.binary_dilation(mask, np.ones((3, 3)))).any()
        assert not (ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=1) & ~read).any()
    assert marked == regions > 0
    assert {item.path for item in list_seen(root / "bad") if item.masks} <= {item.path for item in items}
    found = json.loads(answer("evaluate", model_path, "--data", root, "--json"))
    assert found["metrics"]["pixel_f1_calibrated"] > 0.8
    checked = json.loads(answer("data", "check", "--data", root, "--json", "--no-near"))
    findings = {finding["code"]: finding["message"] for finding in checked["findings"]}
    assert f"{regions} mark" in findings["labels"]
    assert not {"label-stray", "no-labels", "boxes"} & findings.keys()


def test_labels_as_they_are_written_are_no_ground_truth(run, model_path, root, tmp_path):
    for form in ("coco", "labelstudio"):
        run("predict", model_path, root / "bad", "--labels", form, "--out", tmp_path / form)
    shutil.copy(tmp_path / "coco/labels.json", root)
    shutil.copy(tmp_path / "labelstudio/label_studio.json", root)
    assert not any(item.masks for item in open_dataset(root).test)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "--labels needs a folder for its files: add --out DIR"),
        (["--out", "table.csv"], "--labels needs a folder for its files: add --out DIR"),
        (["--out", "o", "--cluster", "local"], "--labels is not for --cluster, no labels are written"),
    ],
)
def test_calls_that_cannot_write_labels(answer, model_path, root, words, reason):
    answer("predict", model_path, root / "bad", "--labels", "coco", *words, code=2, said=reason)
