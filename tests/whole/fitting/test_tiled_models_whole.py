"""Models of large pictures: what is learnt from, what is calibrated, and what a picture's map is."""

import contextlib

import numpy as np
import pytest
import torch

from flawscope import load
from flawscope.errors import InputError
from flawscope.fitting import judging
from flawscope.fitting.fitting import fit
from flawscope.synthesis.demo.dataset import draw_picture
from tiled_fits import SMALL, parts, spotted, tiled_fixture  # noqa: F401


def test_a_model_with_tiles_judges_whole_pictures(tiled, tmp_path):
    new = parts(4, seed=1)
    answer = tiled.predict(new[0])
    assert (answer.map.shape, answer.score) == ((144, 144), answer.map.max())
    assert tiled.calibration.count == 8
    tiled.save(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors", device="cpu")
    assert again.manifest.fusion == tiled.manifest.fusion
    np.testing.assert_array_equal(again.predict(new[0]).map, answer.map)
    assert again.self_test().decisions == 0


def test_maps_of_good_pictures_are_at_seams_as_elsewhere():
    def fabrics(count, seed):
        return [draw_picture("fabric", np.random.default_rng([seed, k]), size=160)[0] for k in range(count)]

    model = fit(fabrics(8, 0), tile=64, **SMALL)
    new = fabrics(4, 1)
    maps = np.stack([model.predict(picture).map for picture in new])
    grid, alone = model.manifest.preprocess.views(new[0]).grid, []
    for starts, weights in zip(grid.starts, grid.weights, strict=True):
        largest = np.zeros(160)
        for start, weight in zip(starts, weights, strict=True):
            largest[start : start + 64] = np.maximum(largest[start : start + 64], weight)
        alone.append(largest > 0.999)
    seams = ~np.outer(*alone)
    assert 0.2 < seams.mean() < 0.8
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    here, elsewhere = (np.quantile(maps[:, part], levels) for part in (seams, ~seams))
    reach = model.calibration.score_threshold - np.median(maps)
    np.testing.assert_allclose(here, elsewhere, atol=0.15 * reach)


def test_whole_pictures_are_left_out_with_all_their_tiles():
    """One of the pictures is unlike all others: it has nothing to hide behind."""
    shown = [*parts(8), spotted(parts(1, seed=3)[0], 20, 20, side=30)]
    model = fit(shown, tile=64, **SMALL)
    scores = model.calibration.scores
    assert np.argmax(scores) == 8
    assert scores[8] > 1.3 * np.sort(scores)[-2]
    assert model.predict(shown[8]).score < scores[8]  # it knows it


def test_the_order_in_which_tiles_are_answered_changes_nothing(tiled, monkeypatch):
    """As it comes with several threads."""

    @contextlib.contextmanager
    def backwards(device):
        with torch.inference_mode():
            yield lambda work, jobs: [work(job) for job in reversed([*jobs])][::-1]

    monkeypatch.setattr(judging, "workers", backwards)
    other = fit(list(parts()), tile=64, **SMALL)
    assert (other.manifest.fusion, other.calibration) == (tiled.manifest.fusion, tiled.calibration)


def test_only_tiles_in_the_region_of_interest_are_computed():
    model = fit(list(parts()), tile=64, roi="0,0,0.4,1", **SMALL)
    new = parts(1, seed=1)[0]
    views = []
    run = model.session.run
    model.session.run = lambda images: (views.append(len(images)), run(images))[1]
    good = model.predict(new)
    grid = model.manifest.preprocess.views(new).grid
    assert sum(views) == 1 + len(grid.starts[0]) * sum(x < 0.4 * 144 for x in grid.starts[1]) < 1 + len(grid)
    beside = model.predict(spotted(new, 60, 110))
    inside = model.predict(spotted(new, 60, 30))
    assert beside.score == pytest.approx(good.score, rel=0.2)
    assert inside.score > 1.5 * good.score
    assert not inside.picture_mask()[:, 70:].any()


def test_a_small_picture_is_told_and_the_others_are_learnt_from():
    model = fit([*parts(6), np.zeros((40, 90, 3), np.uint8)], tile=64, force=True, **SMALL)
    assert model.calibration.count == 6
    assert "less than a tile of 64 x 64" in model.failures[0]
    with pytest.raises(InputError, match="less than a tile"):
        model.predict(np.zeros((144, 20, 3), np.uint8))


def test_what_tiles_show_outside_of_the_region_decides_nothing():
    """Neither what is learnt nor what is said, though a tile shows what is inside as well."""
    pictures = [picture.copy() for picture in parts()[:4]]
    one = fit(pictures, tile=64, roi="0,0,0.4,1", **SMALL)
    found = [one.predict(picture).score for picture in pictures]
    for picture in pictures:
        picture[:, picture.shape[1] // 2 :] = 7
    other = fit(pictures, tile=64, roi="0,0,0.4,1", **SMALL)
    for name, values in one.artefact.tensors.items():
        assert np.array_equal(values, other.artefact.tensors[name]), name
    assert [one.predict(picture).score for picture in pictures] == found
