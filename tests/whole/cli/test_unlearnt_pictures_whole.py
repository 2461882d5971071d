"""`evaluate` and `compare` use every picture that nothing was learnt from."""

import json
import shutil

import pytest

from flawscope.datasets import open_dataset
from flawscope.synthesis.demo.dataset import draw_dataset
from small_network import SMALL_FLAGS

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


@pytest.fixture
def evaluated(answer):
    """`evaluated(model, root)`: the counts of its pictures."""
    return lambda model, root: counts(json.loads(answer("evaluate", model, "--data", root, "--json")))


def test_no_picture_is_set_aside_where_nothing_was_learnt_from_the_folder(
    answer, evaluated, model_path, root
):
    assert evaluated(model_path, root) == (NEW, DEFECTIVE, 0, 0)
    told = f"{NEW + DEFECTIVE} test pictures ({NEW} good, {DEFECTIVE} defective)"
    answer("evaluate", model_path, "--data", root, printed=f"{told} in")
    answer("compare", model_path, model_path, "--data", root, printed=told)


def test_those_learnt_from_are_known_by_their_pixels(answer, evaluated, model_path, drawn, root):
    for k, path in enumerate(sorted((drawn / "plate/train/good").iterdir())):
        shutil.copy(path, root / f"good/{900 + k}.png")
    good, defective, left_out, learnt = evaluated(model_path, root)
    assert (good, defective, left_out + learnt) == (NEW, DEFECTIVE, 12)
    told = f"({NEW} good, {DEFECTIVE} defective; {learnt} others were learnt from)"
    answer("compare", model_path, model_path, "--data", root, printed=told)


def test_a_model_of_the_folder_is_tested_on_the_pictures_kept_back(answer, evaluated, root, tmp_path):
    model = tmp_path / "own.safetensors"
    answer("fit", "--data", root, "--size", "64", *SMALL_FLAGS, "--out", model, "--quiet")
    kept = sum(not item.anomalous for item in open_dataset(root).test)
    assert evaluated(model, root) == (kept, DEFECTIVE, 0, NEW - kept)
    (root / "good/late.png").write_bytes(next((root / "bad").iterdir()).read_bytes())
    assert evaluated(model, root)[0] == kept + 1  # wherever the draw puts it


def test_good_pictures_alone_measure_the_false_alarms(answer, evaluated, model_path, root, drawn):
    shutil.rmtree(root / "bad")
    for folder in (root, root / "good"):
        assert evaluated(model_path, folder) == (NEW, 0, 0, 0)
    answer("evaluate", model_path, "--data", drawn / "plate/train/good", code=2, said="no test pictures")


def test_pictures_of_a_part_that_was_learnt_from_are_none_of_another(answer, evaluated, root, tmp_path):
    for k, path in enumerate(sorted((root / "good").iterdir())):
        path.rename(root / f"good/part{k // 2}_{k % 2}.png")
    model = tmp_path / "own.safetensors"
    words = ("--group", r"part\d+", "--size", "64", *SMALL_FLAGS, "--quiet")
    answer("fit", "--data", root, *words, "--out", model)
    before = evaluated(model, root)
    learnt = open_dataset(root, group=r"part\d+").train[0].path
    bad = next((root / "bad").iterdir())
    (root / f"good/{learnt.stem[:-2]}_new.png").write_bytes(bad.read_bytes())
    assert evaluated(model, root)[:2] == before[:2]
