"""Whether views look different is found out by their files, before a fit."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.fitting.view_models import views_differ
from flawscope.predictor.looks_of_views import LOOKED_AT
from flawscope.predictor.router import open_joined
from flawscope.runtime import read_fitted
from flawscope.synthesis.demo.dataset import draw_picture
from flawscope.views.view_looks import VIEW_LOOKS_KEY
from small_network import SMALL_FLAGS, SMALL_NETWORK


def save(folder, category, first, count, deep=False):
    folder.mkdir()
    paths = []
    for k in range(count):
        picture, _ = draw_picture(category, np.random.default_rng(first + k), size=48)
        if deep:
            picture = picture.mean(axis=2).astype(np.uint16) * 16  # of a 12-bit camera
        path = folder / f"{k:03d}.png"
        Image.fromarray(picture).save(path)
        paths.append(path)
    return paths


def test_cameras_that_see_other_surfaces_are_told_and_those_that_see_the_same_are_not(tmp_path):
    plate = save(tmp_path / "plate", "plate", 0, 10)
    assert views_differ({"top": plate, "side": save(tmp_path / "fabric", "fabric", 50, 10)})
    assert not views_differ({"top": plate, "side": save(tmp_path / "again", "plate", 50, 10)})
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert not views_differ({"top": plate, "side": [tmp_path / "broken.png"] * 10})


def test_deep_grey_pictures_are_compared_and_few_of_many_are_read(tmp_path, monkeypatch):
    views = {
        "top": save(tmp_path / "plate", "plate", 0, 30, deep=True),
        "side": save(tmp_path / "fabric", "fabric", 50, 30, deep=True),
    }
    read = []
    decode = views_differ.__globals__["decode"]

    def count(source):
        read.append(source)
        return decode(source)

    monkeypatch.setattr("flawscope.fitting.view_models.decode", count)
    assert views_differ(views)
    assert len(read) == 2 * LOOKED_AT


OF_PARTS = {"part": r"p\d+", "size": 64, "cap": 60, "device": "cpu", "check": False, "samples": 0}


def parts(folder, second, count=12):
    """Pictures of parts by two cameras, the second of which sees a surface of this kind."""
    folder.mkdir()
    for k in range(count):
        for view, category, seed in (("side", second, 100 + k), ("top", "plate", k)):
            picture, _ = draw_picture(category, np.random.default_rng(seed), size=64)
            Image.fromarray(picture).save(folder / f"p{k:02d}_{view}.png")
    return folder


def test_python_makes_the_mapping_that_the_command_line_makes(tmp_path):
    """A folder whose views look different has a model for each, and so has a list of its files."""
    told, how = [], {**OF_PARTS, **SMALL_NETWORK}
    folder = parts(tmp_path / "other", "fabric")
    found = flawscope.fit(folder, say=told.append, **how)
    listed = flawscope.fit(sorted(folder.iterdir()), **how)
    assert "views side, top look different: each has a model of its own, in one file" in told[0]
    flags = [
        "--part",
        r"p\d+",
        "--size",
        "64",
        "--set",
        "cap=60",
        "--device",
        "cpu",
        "--no-check",
        "--no-samples",
    ]
    written = tmp_path / "cli.safetensors"
    assert main(["fit", "--data", str(folder), "--out", str(written), *flags, *SMALL_FLAGS, "--quiet"]) == 0
    its = read_fitted(written)
    for mine in (found, listed):
        assert isinstance(mine, flawscope.Router)
        assert (mine.views, [*mine.products]) == (its.views, ["side", "top"])
        for view, one in mine.products.items():
            assert one.calibration == its.products[view].manifest.calibration


def test_views_that_look_alike_have_one_model_and_it_can_be_said(tmp_path):
    how = {**OF_PARTS, **SMALL_NETWORK}
    alike = parts(tmp_path / "alike", "plate")
    assert isinstance(flawscope.fit(alike, **how), flawscope.Predictor)
    assert isinstance(flawscope.fit(alike, each_view=True, **how), flawscope.Router)
    for wrong in ({"group": "p"}, {"part": None}):
        with pytest.raises(InputError, match="give part, and leave out group"):
            flawscope.fit(alike, each_view=True, **{**how, **wrong})
    other = parts(tmp_path / "other", "fabric", 8)
    assert isinstance(flawscope.fit(other, each_view=False, **how), flawscope.Predictor)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A file with a model for each view of parts, and the folder that it was fitted on."""
    home = tmp_path_factory.mktemp("views")
    folder = parts(home / "pictures", "fabric", 24)
    flawscope.fit(folder, **OF_PARTS, **SMALL_NETWORK).save(home / "views.safetensors")
    return home / "views.safetensors", folder


def drawn(view, number):
    """A new good picture of a view."""
    category = {"top": "plate", "side": "fabric"}[view]
    return np.asarray(draw_picture(category, np.random.default_rng(1000 + number), size=64)[0])


def test_exchanged_views_are_named_by_models_of_views_too(fitted, tmp_path, capsys):
    model, _ = fitted
    found = flawscope.load(model, device="cpu")
    for number in range(12):
        right = found.predict_part({view: drawn(view, number) for view in ("side", "top")})
        assert not any(one.findings for one in right.views.values())
        wrong = found.predict_part({"side": drawn("top", number), "top": drawn("side", number)})
        said = {view: [finding.words for finding in one.findings] for view, one in wrong.views.items()}
        assert said == {
            "side": ["named as view side, looks like top"],
            "top": ["named as view top, looks like side"],
        }
        assert wrong.decision == "anomalous"
    Image.fromarray(drawn("top", 1)).save(tmp_path / "p01_side.png")
    Image.fromarray(drawn("side", 1)).save(tmp_path / "p01_top.png")
    assert main(["predict", str(model), str(tmp_path), "--device", "cpu", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "named as view side, looks like top" in printed
    assert "named as view top, looks like side" in printed


def test_what_shows_none_of_the_views_is_anomalous_and_called_no_other_view(fitted):
    found = flawscope.load(fitted[0], device="cpu")
    grey = np.full((64, 64, 3), 128, np.uint8)
    one = found.predict_part({"side": grey, "top": drawn("top", 1)})
    assert one.decision == "anomalous"
    assert not one.views["side"].findings


def test_an_older_file_of_views_opens_and_names_no_exchange(fitted, tmp_path):
    stored = read_fitted(fitted[0])
    products = {}
    for view, one in stored.products.items():
        facts = {key: value for key, value in one.manifest.facts.items() if key != VIEW_LOOKS_KEY}
        assert len(facts) < len(one.manifest.facts)
        products[view] = replace(one, manifest=replace(one.manifest, facts=facts))
    older = open_joined(replace(stored, products=products), "cpu")
    older.save(tmp_path / "older.safetensors")
    found = flawscope.load(tmp_path / "older.safetensors", device="cpu")
    wrong = found.predict_part({"side": drawn("top", 1), "top": drawn("side", 1)})
    assert wrong.decision == "anomalous"
    assert not any(one.findings for one in wrong.views.values())


def test_a_calibration_in_other_light_learns_the_looks_of_the_views_anew(fitted, tmp_path):
    """By another camera's white balance pictures would be called exchanged, or exchanged ones not."""
    before = flawscope.load(fitted[0], device="cpu")
    folder = tmp_path / "good"
    folder.mkdir()
    for number in range(24):
        for view in ("side", "top"):
            Image.fromarray(drawn(view, number) // 2).save(folder / f"p{number + 50}_{view}.png")
    out = tmp_path / "new.safetensors"
    call = ["calibrate", str(fitted[0]), "--good", str(folder), "--out", str(out), "--device", "cpu"]
    assert main([*call, "--force", "--quiet"]) == 0
    after = flawscope.load(out, device="cpu")
    for view in ("side", "top"):
        darker = after.products[view].view_looks.means.mean()
        assert darker < 0.6 * before.products[view].view_looks.means.mean()
    wrong = after.predict_part({"side": drawn("top", 1) // 2, "top": drawn("side", 1) // 2})
    assert all(one.findings for one in wrong.views.values())
