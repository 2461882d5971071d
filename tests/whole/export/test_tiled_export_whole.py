"""A model with tiles in reduced precision: another detector, calibrated anew on whole pictures."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

import flawscope
from flawscope.artefact import model_file
from flawscope.calibration.rows import scored
from flawscope.datasets import list_pictures
from flawscope.export.export import export
from flawscope.export.recalibrate import ExportPictures
from flawscope.methods.patchcore.model import Model
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.views.preprocess import Preprocess

ROI = "0.4,0.2,0.95,0.9"


@pytest.fixture
def reduced(precision, tiled):
    """The small tiled model with a region of interest, calibrated on the pictures it was fitted on."""
    return tiled(".onnx", precision, roi=ROI)


def test_pictures_that_it_has_not_seen_are_scored_as_they_are(bf16_in_name, tiled, tiled_pictures, tmp_path):
    good, failures = list_pictures(tiled_pictures / "good"), []
    given = [*good, tiled_pictures / "tile/0.png", tiled_pictures / "small/0.png"]
    export(tiled(roi=ROI), tmp_path / "m.onnx", precision="bf16", pictures=given, failures=failures)
    model = flawscope.load(tmp_path / "m.onnx")
    scores = [found.score for found in model.predict([*good])]
    np.testing.assert_allclose(model.calibration.scores, scores, rtol=1e-5)
    other, small = failures  # as `calibrate` says it
    assert "another form than learnt from" in other
    assert "less than a tile" in small


def test_pictures_are_held_one_after_the_other(bf16_in_name, tiled, tiled_pictures, tmp_path, monkeypatch):
    """And nothing is computed twice."""
    path = tiled()
    alive = weakref.WeakSet()
    most, left_out = [0], Model.left_out
    asked = []
    views = Preprocess.views

    def counted(self, *given):
        gc.collect()
        most[0] = max(most[0], len(alive))
        made = views(self, *given)
        alive.add(made)
        return made

    def answered(self, features, group, *rest):
        asked.append(group)
        return left_out(self, features, group, *rest)

    monkeypatch.setattr(Preprocess, "views", counted)
    monkeypatch.setattr(Model, "left_out", answered)
    pictures = list_pictures(tiled_pictures / "train")
    how = model_file.read(path).manifest.preprocess
    export(path, tmp_path / "m.onnx", precision="bf16", pictures=pictures)
    assert most[0] <= 2  # the next is read meanwhile, as of any prediction; a large one has none beside it
    assert len(asked) == 2 * sum(len(views(how, picture)) for picture in pictures)


def test_pictures_that_cannot_be_left_out_are_left_away(
    bf16_in_name, tiled, tiled_pictures, tmp_path, monkeypatch
):
    """Methods that need a part's other pictures for it say so picture by picture."""
    path, left_out = tiled(roi=ROI), Model.left_out
    before, hashes = model_file.read(path).manifest, []
    groups = {row.hash: row.unit for row in before.pictures}

    def some(self, features, group, *rest):
        lost = group in (groups[hashes[0]], groups[hashes[3]])
        return None if lost else left_out(self, features, group, *rest)

    monkeypatch.setattr(Model, "left_out", some)
    pictures = list_pictures(tiled_pictures / "train")
    hashes += [pixel_hash(decode(picture)) for picture in pictures]
    export(path, tmp_path / "m.onnx", precision="bf16", pictures=pictures)
    found = flawscope.load(tmp_path / "m.onnx")
    used = [digest for k, digest in enumerate(hashes) if k not in (0, 3)]
    assert [row.hash for row in scored(found.manifest.pictures)] == used
    expected = [before.calibration.scores[k] for k in range(len(hashes)) if k not in (0, 3)]
    np.testing.assert_allclose(found.calibration.scores, expected, rtol=0.01)


@pytest.mark.parametrize("count", [1, 3, 40, 300])
def test_ranges_and_comparisons_see_whole_pictures_and_tiles_everywhere(count, tiled, tiled_pictures):
    """However many pictures there are."""
    artefact = model_file.read(tiled())
    path = list_pictures(tiled_pictures / "good")[0]
    given = ExportPictures(artefact, [path] * count)
    tiles = len(artefact.manifest.preprocess.views(path)) - 1
    for most in (32, 100):
        seen = [numbers for _, numbers in given._sample_views(most, [])]
        assert all(numbers[0] == 0 and len(numbers) > 1 for numbers in seen)
        assert all(len(set(numbers)) == len(numbers) for numbers in seen)
        assert sum(map(len, seen)) <= most
        everywhere = {number for numbers in seen for number in numbers}
        assert len(everywhere) > min(tiles, sum(map(len, seen)) - len(seen)) * 0.6
    images = given.probe_images()
    assert images.shape[1:] == (3, 64, 64)
    whole = replace(
        artefact, manifest=replace(artefact.manifest, fusion=None, preprocess=Preprocess((64, 64)))
    )
    assert [numbers for _, numbers in ExportPictures(whole, [path] * 3)._sample_views(32, [])] == [[0]] * 3
