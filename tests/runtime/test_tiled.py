"""A model with tiles gives the same answer in every engine, from what its file says, and is told where tiles
lie if it tells places apart."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.errors import InputError
from flawscope.predictor import Predictor
from flawscope.views import preprocess
from flawscope.views.preprocess import Preprocess
from tiled_helpers import manifest, rewritten


def test_a_picture_of_one_tile_that_is_fitted_in_lies_where_it_is_shown():
    """Tile and size of different shapes, with keep_aspect: there is a border beside it."""
    how = Preprocess((64, 64), keep_aspect=True, tile=(96, 48))
    picture = np.full((96, 48, 3), 100, np.uint8)
    views = how.views(picture)
    assert len(views) == 1
    assert views.geometry == how.geometry((96, 48)) == how.whole.geometry((96, 48))
    np.testing.assert_array_equal(views.images([0]), how.whole(picture)[0])
    np.testing.assert_array_equal(views.images([0])[0, 0] >= 0, views.geometry.visible_mask())
    assert views.geometry.visible_mask().mean() == 0.5


@pytest.mark.parametrize("score", ["map", "views"])
@pytest.mark.parametrize("which", [0, 3], ids=["whole picture", "tile"])
def test_a_view_without_a_number_makes_the_picture_have_none(
    score, which, tiled, tiled_pictures, monkeypatch
):
    model = flawscope.load(tiled(".onnx"))
    manifest = replace(model.manifest, fusion=replace(model.manifest.fusion, score=score))
    run, asked = model.session.run, []

    def spoilt(images):
        asked.append(images)
        return tuple(np.full_like(part, np.nan) if len(asked) == which + 1 else part for part in run(images))

    monkeypatch.setattr(model.session, "run", spoilt)
    with pytest.raises(InputError, match="its score is not a number"):
        Predictor(replace(model.artefact, manifest=manifest), model.session).predict(
            tiled_pictures / "good/0.png"
        )


def test_a_canvas_far_larger_than_its_picture_is_refused_before_there_is_one(tiled, tmp_path, monkeypatch):
    """Tiles may be enlarged, within what memory holds."""
    path = rewritten(tiled(".onnx"), tmp_path / "m.onnx", manifest(tile=[8, 8]))
    model, sizes, resized = flawscope.load(path), [], preprocess.resized

    def counted(picture, size, box):
        sizes.append(size)
        return resized(picture, size, box)

    monkeypatch.setattr(preprocess, "resized", counted)
    with pytest.raises(
        InputError, match="would be enlarged to 16400 x 16400 pixels; fit with a larger --tile"
    ):
        model.predict(np.zeros((2050, 2050, 3), np.uint8))
    assert sizes == [(64, 64)]
    assert model.predict(Image.new("RGB", (9, 8))).map.shape == (64, 72)
