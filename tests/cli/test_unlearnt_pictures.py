"""`evaluate` and `compare` use every picture that nothing was learnt from."""

import json
import shutil

import pytest

from flawscope.datasets import open_dataset
from flawscope.evaluation import evaluate
from flawscope.predictor import load
from flawscope.synthesis.demo.dataset import draw_dataset

NEW, DEFECTIVE = 10, 4


@pytest.fixture
def root(shared, drawn, tmp_path):
    """good/ and bad/: nothing was learnt from any of them."""

    def fill(folder):
        draw_dataset(folder, category="plate", train=NEW, good=0, bad_per_kind=1, size=96, seed=7)

    new, root = shared("unlearnt", fill) / "plate", tmp_path / "part"
    shutil.copytree(new / "train/good", root / "good")
    (root / "bad").mkdir()
    for k, path in enumerate(sorted((drawn / "plate/test").rglob("*.png"))[:40]):
        if path.parent.name != "good" and len(list((root / "bad").iterdir())) < DEFECTIVE:
            shutil.copy(path, root / f"bad/{k}.png")
    return root


def counts(document):
    good = document["false_alarms"]["images"]
    return good, document["images"] - good, document["left_out"], document["learnt_from"]


def evaluated(run, model, root):
    code, printed, err = run("evaluate", model, "--data", root, "--json")
    assert code == 0, err
    return counts(json.loads(printed))


def test_no_picture_is_set_aside_where_nothing_was_learnt_from_the_folder(run, model_path, root):
    assert evaluated(run, model_path, root) == (NEW, DEFECTIVE, 0, 0)
    _, printed, _ = run("evaluate", model_path, "--data", root)
    assert f"{NEW + DEFECTIVE} test pictures ({NEW} good, {DEFECTIVE} defective) in" in printed
    code, printed, _ = run("compare", model_path, model_path, "--data", root)
    assert code == 0
    assert f"{NEW + DEFECTIVE} test pictures ({NEW} good, {DEFECTIVE} defective)" in printed


def test_those_learnt_from_are_known_by_their_pixels(run, model_path, drawn, root):
    for k, path in enumerate(sorted((drawn / "plate/train/good").iterdir())):
        shutil.copy(path, root / f"good/renamed_{k}.png")
    good, defective, left_out, learnt = evaluated(run, model_path, root)
    assert (good, defective, left_out + learnt) == (NEW, DEFECTIVE, 12)
    _, printed, _ = run("compare", model_path, model_path, "--data", root)
    assert f"({NEW} good, {DEFECTIVE} defective; {learnt} others were learnt from)" in printed


def test_a_model_of_the_folder_is_tested_on_the_pictures_kept_back(run, root, tmp_path):
    model = tmp_path / "own.safetensors"
    assert run("fit", "--data", root, "--size", "64", "--device", "cpu", "--out", model, "--quiet")[0] == 0
    kept = sum(not item.anomalous for item in open_dataset(root).test)
    assert evaluated(run, model, root) == (kept, DEFECTIVE, 0, NEW - kept)
    (root / "good/late.png").write_bytes(next((root / "bad").iterdir()).read_bytes())
    good, *_ = evaluated(run, model, root)
    assert good == kept + 1  # wherever the draw puts it


def test_good_pictures_alone_measure_the_false_alarms(run, model_path, root, drawn):
    shutil.rmtree(root / "bad")
    assert evaluated(run, model_path, root) == (NEW, 0, 0, 0)
    assert evaluated(run, model_path, root / "good") == (NEW, 0, 0, 0)
    code, _, err = run("evaluate", model_path, "--data", drawn / "plate/train/good")
    assert code == 2
    assert "no test pictures" in err


def test_pictures_of_a_part_that_was_learnt_from_are_none_of_another(run, root, tmp_path):
    for k, path in enumerate(sorted((root / "good").iterdir())):
        path.rename(root / f"good/part{k // 2}_{k % 2}.png")
    model = tmp_path / "own.safetensors"
    words = ("--group", r"part\d+", "--size", "64", "--device", "cpu", "--quiet")
    assert run("fit", "--data", root, *words, "--out", model)[0] == 0
    before = evaluated(run, model, root)
    learnt = open_dataset(root, group=r"part\d+").train[0].path
    bad = next((root / "bad").iterdir())
    (root / f"good/{learnt.stem[:-2]}_new.png").write_bytes(bad.read_bytes())
    assert evaluated(run, model, root)[:2] == before[:2]


def test_a_split_of_the_data_set_itself_stays(model_path, drawn):
    dataset = open_dataset(drawn, "plate")
    result = evaluate(load(model_path), dataset)
    assert (result.images, result.learnt_from) == (len(dataset.test), 0)
