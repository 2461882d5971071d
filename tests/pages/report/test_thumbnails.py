"""Layers that the browser lays over the photo: the same as what is drawn on pictures elsewhere."""

import numpy as np
import pytest
from PIL import Image

from flawscope.pages.report.thumbnails import (
    picture_layers,
    rgba_layer,
)
from flawscope.results import drawing
from thumbnails_helpers import opened, prediction


def make(folder, size, values, side=64, mask=None):
    path = folder / "picture.png"
    Image.new("RGB", size[::-1], (90, 120, 150)).save(path)
    masks = ()
    if mask is not None:
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "mask.png")
        masks = (folder / "mask.png",)
    return picture_layers(path, prediction(values, size), masks, side, None)


@pytest.mark.parametrize("what", ["overlay", "contour"])
def test_a_layer_over_the_photo_is_what_is_drawn_on_the_photo(what):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    values = rng.random((40, 50)).astype(np.float32)

    draw = {
        "overlay": lambda picture: drawing.overlay(picture, values, 0.0, 1.0),
        "contour": lambda picture: drawing.contour(picture, values > 0.9),
    }[what]
    over = rgba_layer(draw, (40, 50))
    together = Image.alpha_composite(Image.fromarray(photo).convert("RGBA"), over).convert("RGB")
    difference = np.abs(np.asarray(together).astype(int) - draw(photo))
    assert difference.max() <= 3  # levels of 255: rounding


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (4, 4000), (4000, 4), (3000, 2000)])
def test_any_shape_of_picture_becomes_small_and_visible(tmp_path, size):
    made = make(tmp_path, size, np.full((16, 16), 0.9))
    photo = opened(made["photo"])
    assert min(photo.size) >= 1
    assert max(photo.size) <= 3 * 64
    assert photo.width * photo.height <= 64 * 64 * 1.1
    if max(size) / min(size) < 3:
        assert photo.width * photo.height >= 64 * 64 * 0.8
    assert opened(made["line"]).size == photo.size


def test_colours_are_those_of_the_calibrated_scale(tmp_path):
    """The same value has the same colour beside a hotter one: nothing is stretched per picture."""
    alone, beside = np.full((16, 16), 0.3), np.full((16, 16), 0.3)
    beside[:, 8:] = 1.0
    seen = [np.asarray(opened(make(tmp_path, (64, 64), values)["map"]))[16, 4] for values in (alone, beside)]
    assert np.abs(seen[0].astype(int) - seen[1]).max() <= 6
    assert np.abs(seen[0].astype(int) - drawing.colour_table()[round(0.3 * 255)]).max() <= 6


def test_a_defect_of_one_pixel_still_shows(tmp_path):
    mask = np.zeros((600, 600), bool)
    mask[301, 77] = True
    made = make(tmp_path, (600, 600), np.zeros((16, 16)), mask=mask)
    line = np.asarray(opened(made["truth"]).convert("RGBA"))
    drawn = np.argwhere((line[..., 3] == 255) & (line[..., :3] == drawing.TRUTH_COLOUR).all(axis=2))
    assert len(drawn) >= 4  # around one pixel
    assert np.abs(drawn - [301 * 64 // 600, 77 * 64 // 600]).max() <= 2
    assert make(tmp_path, (600, 600), np.zeros((16, 16))).keys() == {"photo", "heat", "line", "map"}
    wrong_size = make(tmp_path, (600, 600), np.zeros((16, 16)), mask=mask[:300])
    assert "truth" not in wrong_size  # told by the evaluation
