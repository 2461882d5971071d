"""The models of a part's views learn from the pictures of their views, and decide together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.fitting.incremental_update import update_models
from flawscope.fitting.update_evaluation import ReviewedPicture
from flawscope.fitting.update_options import UpdateOptions
from flawscope.predictor.router import open_models
from flawscope.runtime import read_fitted
from flawscope.synthesis.demo.dataset import draw_picture
from small_network import SMALL_NETWORK

SURFACES = {"side": "fabric", "top": "plate"}
OF_PARTS = {"part": r"p\d+", "size": 64, "cap": 60, "device": "cpu", "check": False, "samples": 0}
JOINT = Path(__file__).parents[1] / "fixtures/models/line.safetensors"
QUICK = {"device": "cpu", "check": False}


def drawn(view, number, stained=False):
    picture, _ = draw_picture(SURFACES[view], np.random.default_rng(number), size=64)
    picture = np.array(picture)
    if stained:
        picture[20:36, 20:36] = (250, 30, 30)
    return picture


def save(folder, numbers, views=("side", "top"), stained=()):
    folder.mkdir(parents=True)
    for number in numbers:
        for view in views:
            picture = drawn(view, number, view in stained)
            Image.fromarray(picture).save(folder / f"p{number}_{view}.png")
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A file with a model for each view, and the folder that it was fitted on."""
    home = tmp_path_factory.mktemp("updates")
    folder = save(home / "good", range(100, 124))
    flawscope.fit(folder, **OF_PARTS, **SMALL_NETWORK).save(home / "views.safetensors")
    return home / "views.safetensors", folder


def rows(model, view):
    return model.products[view].manifest.pictures


def test_pictures_of_one_view_teach_this_view_alone(fitted, tmp_path):
    model, _ = fitted
    more = save(tmp_path / "more", range(200, 204), ["top"], stained=["top"])
    before = flawscope.load(model, device="cpu")
    told = []
    after = flawscope.extend(before, more, force=True, say=told.append, **QUICK)
    assert len(rows(after, "top")) == len(rows(before, "top")) + 4
    assert rows(after, "side") == rows(before, "side")
    assert all(line.startswith("top: ") for line in told)
    stained = drawn("top", 300, stained=True)
    assert after.predict(stained, product="top").score < before.predict(stained, product="top").score
    one = drawn("side", 300)
    assert after.predict(one, product="side").score == before.predict(one, product="side").score
    assert after.parts().calibration.complete_count == 24


def test_the_command_line_updates_as_python_does(fitted, tmp_path, capsys):
    model, _ = fitted
    more = save(tmp_path / "more", range(200, 204), stained=["top"])
    out = tmp_path / "next.safetensors"
    call = ["fit", "--data", str(more), "--update", str(model), "--out", str(out)]
    assert main([*call, "--force", "--no-check", "--device", "cpu"]) == 0
    mine = flawscope.extend(model, more, force=True, **QUICK)
    its = read_fitted(out)
    for view, one in mine.products.items():
        assert its.products[view].manifest.pictures == one.manifest.pictures
    said = capsys.readouterr().err
    assert "side: learnt from 4 pictures" in said
    assert "top: called anomalous of the 4 pictures learnt" in said
    assert "parts of 2 views (side, top)" in said
    assert "of 2 views" in said.splitlines()[-1]


def test_a_fair_sample_of_whole_parts_counts_and_a_view_alone_does_not(fitted, tmp_path):
    """The line's parts are known by their names, which one model of pictures would not keep."""
    model, _ = fitted
    more = save(tmp_path / "more", range(200, 206))
    (more / "p205_side.png").unlink()
    found = flawscope.extend(model, more, fair=True, force=True, **QUICK)
    known = found.parts().calibration
    assert known.complete_count == 24 + 5
    assert {f"p{number}" for number in range(200, 205)} <= {*known.parts}
    assert "p205" not in known.parts
    found.save(tmp_path / "next.safetensors")
    assert flawscope.load(tmp_path / "next.safetensors", device="cpu").parts().calibration.rate == known.rate


def test_a_view_that_the_model_does_not_know_is_told_and_learnt_by_none(fitted, tmp_path):
    model, _ = fitted
    more = save(tmp_path / "more", range(200, 204), stained=["top"])
    Image.fromarray(drawn("top", 400)).save(more / "p200_left.png")
    found = flawscope.extend(model, more, force=True, **QUICK)
    assert [*found.products] == ["side", "top"]
    (failure,) = found.failures
    assert "the model knows no view left: name it by one of side, top" in failure
    only = tmp_path / "only"
    only.mkdir()
    (more / "p200_left.png").rename(only / "p200_left.png")
    with pytest.raises(InputError, match=r"none of 1 picture can be used.*no view left"):
        flawscope.extend(model, only, force=True, **QUICK)


def test_what_the_models_know_already_is_nothing_new(fitted):
    model, folder = fitted
    with pytest.raises(InputError, match="nothing new to learn from"):
        flawscope.extend(model, folder, force=True, **QUICK)


def test_a_correction_is_judged_with_the_other_views_and_those_keep_their_models(fitted, tmp_path):
    """A picture whose view is said, as a station does, has no name that tells its part."""
    model, _ = fitted
    old = read_fitted(model)
    active = open_models(old, "cpu")
    pictures = []
    for number, view, good, stained in (
        (1, "top", True, True),
        (2, "top", True, True),
        (3, "side", False, True),
        (4, "side", True, False),
    ):
        path = tmp_path / f"{number}.png"
        Image.fromarray(drawn(view, 500 + number, stained)).save(path)
        learn = good and stained
        pictures.append(
            ReviewedPicture(number, str(path), good, "cam.png", learn=learn, sure=True, view=view)
        )
    made = update_models(old, active, pictures, UpdateOptions(**QUICK))
    assert made.learnt == [1, 2]
    assert made.updates["side"].rests
    assert made.model.products["side"].manifest.pictures == old.products["side"].manifest.pictures
    judgement = made.judgement()
    assert (judgement.good.count, judgement.defects.count) == (3, 1)
    assert judgement.good.before[0] == 2
    parts = active.facts.known_parts()[""].calibration
    for number in (1, 3):
        view = pictures[number - 1].view
        one = made.updates[view].comparison.before[number]
        decided = parts.decide({view: one.score})
        assert (one.anomalous, one.p_value) == (decided.is_anomalous, decided.p_value)


def test_a_model_of_views_is_trained_anew_view_by_view(fitted, tmp_path):
    from flawscope.fitting.incremental_update import open_fitted_datasets

    model, folder = fitted
    old = read_fitted(model)
    path = tmp_path / "1.png"
    Image.fromarray(drawn("top", 501, stained=True)).save(path)
    unnamed = ReviewedPicture(1, path, True, "cam.png", learn=True, sure=True, view="top")
    pictures = [replace(unnamed, name="p501_top.png")]
    good = open_fitted_datasets(folder, old)
    assert {view: len(one.train) for view, one in good.items()} == {"side": 24, "top": 24}
    active = open_models(old, "cpu")
    with pytest.raises(InputError, match=r"cam.png: --part 'p\\d\+' matches nothing"):
        update_models(old, active, [unnamed], UpdateOptions("retrained", **QUICK), good)
    made = update_models(old, active, pictures, UpdateOptions("retrained", **QUICK), good)
    assert len(rows(made.model, "top")) == 25
    kept = made.model.products["top"].view_looks
    assert kept is not None
    assert kept.views == ("side", "top")
    (folder.parent / "other").mkdir(exist_ok=True)
    one_view = save(tmp_path / "one", range(100, 124), ["top"])
    with pytest.raises(InputError, match="has no pictures of view side"):
        open_fitted_datasets(one_view, old)


def test_a_calibration_with_a_training_picture_in_one_view_tells_it(fitted, tmp_path, capsys):
    """The part would have its other view alone: it is no whole part, and the promise counts the others."""
    model, folder = fitted
    good = save(tmp_path / "good", range(600, 620))
    Image.open(folder / "p100_top.png").save(good / "p600_top.png")
    out = tmp_path / "new.safetensors"
    call = ["calibrate", str(model), "--good", str(good), "--out", str(out), "--device", "cpu", "--force"]
    assert main(call) == 0
    assert "not calibrated with 1 picture that the model was fitted on, or copies" in capsys.readouterr().err
    calibration = flawscope.load(out, device="cpu").parts().calibration
    assert calibration.complete_count == 19


def test_groups_and_joint_models_are_refused_in_one_line(fitted, tmp_path):
    model, folder = fitted
    with pytest.raises(InputError, match="names' own pattern tells parts and views"):
        flawscope.extend(model, folder, group="p", **QUICK)
    with pytest.raises(InputError, match="a joint model is added to by `flawscope fit --joint --update`"):
        flawscope.extend(JOINT, folder, **QUICK)
