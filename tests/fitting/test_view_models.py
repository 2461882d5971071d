"""Whether views look different is found out by their files, before a fit."""

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.fitting.view_models import LOOKED_AT, views_differ
from flawscope.runtime import read_fitted
from flawscope.synthesis.demo.dataset import draw_picture
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
