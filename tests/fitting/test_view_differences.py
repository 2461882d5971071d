"""Whether views look different is found out by their files, before a fit."""

import numpy as np
from PIL import Image

from flawscope.fitting.view_differences import LOOKED_AT, views_differ
from flawscope.synthesis.demo.dataset import draw_picture


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

    monkeypatch.setattr("flawscope.fitting.view_differences.decode", count)
    assert views_differ(views)
    assert len(read) == 2 * LOOKED_AT
