"""`evaluate --learning-curve` says how many good pictures are enough, by the test pictures of a folder."""

import json
from pathlib import Path

import pytest

from flawscope.fitting.fitting import fit
from flawscope.synthesis.demo.dataset import draw_dataset
from small_network import FILE, SMALL_NETWORK


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Drawn plates, and a model of all sixteen good ones."""
    root = tmp_path_factory.mktemp("curve")
    draw_dataset(root / "data", category="plate", train=16, good=4, bad_per_kind=2, size=96, seed=2)
    model = root / "plate.safetensors"
    fit(root / "data", size=64, device="cpu", check=False, group=r"\d+", **SMALL_NETWORK).save(model)
    return root / "data", model


def test_the_models_of_fewer_pictures_are_compared_with_it(run, measured, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(FILE).parent)  # a model knows the name of its weights, and no folder
    data, model = measured
    call = ("evaluate", model, "--data", data, "--learning-curve")
    code, printed, err = run(*call, "--json", "--out", tmp_path / "results")
    assert code == 0, err
    document = json.loads(printed)
    curve = document["learning_curve"]
    assert list(curve["auroc"]) == ["8", "16"]
    assert curve["auroc"]["16"] == pytest.approx(document["metrics"]["image_auroc"])
    assert curve["enough"] in (8, None)
    (line,) = (line for line in document["remarks"] if "by these test pictures" in line)
    assert line in (tmp_path / "results" / "report.html").read_text(encoding="utf-8")


def test_it_is_refused_before_the_work_where_its_good_pictures_are_not_there(
    run, measured, model_path, drawn
):
    _, model = measured
    for asked, root, told in (
        (model, drawn, f"{drawn / 'plate'} has good pictures of 0 parts that the model learnt from"),
        (model_path, drawn, "12 parts that the model learnt from; a learning curve needs 16"),
    ):
        code, printed, err = run("evaluate", asked, "--data", root, "--learning-curve")
        assert (code, printed) == (2, "")
        assert told in err
