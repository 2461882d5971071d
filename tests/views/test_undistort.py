"""Undistortion by the coefficients of a lens that a model file holds, against its formula taken literally."""

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from flawscope.errors import InputError
from flawscope.views.geometry import Geometry
from flawscope.views.preprocess import STAGES, Preprocess
from flawscope.views.undistort import Undistortion

LENS = Undistortion(60, 55, 31, 23, k1=-0.25, k2=0.08, p1=0.01, p2=-0.02, k3=0.02)
SIZE = (48, 64)


def picture(*channels):
    return np.random.default_rng(1).integers(0, 256, (*SIZE, *channels), np.uint8)


def shown_at(lens, v, u):
    """Place in the picture as taken, as OpenCV's documentation writes it."""
    x, y = (u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy
    r = np.hypot(x, y)
    radial = 1 + lens.k1 * r**2 + lens.k2 * r**4 + lens.k3 * r**6
    moved_x = x * radial + 2 * lens.p1 * x * y + lens.p2 * (r**2 + 2 * x**2)
    moved_y = y * radial + lens.p1 * (r**2 + 2 * y**2) + 2 * lens.p2 * x * y
    return lens.fy * moved_y + lens.cy, lens.fx * moved_x + lens.cx


def literal(lens, taken):
    """Bilinear between the four pixels around each one's place, edges repeated."""
    places = shown_at(lens, *np.indices(taken.shape[:2]))
    channels = np.moveaxis(taken.astype(float), 2, 0)
    return np.stack([ndimage.map_coordinates(c, places, order=1, mode="nearest") for c in channels], 2)


def test_pictures_of_any_kind_are_undistorted_as_the_formula_says():
    colour, grey = picture(3), picture()
    expected = literal(LENS, colour)
    assert np.abs(expected - colour).mean() > 20, "the lens changes the picture"
    assert np.abs(np.asarray(LENS(colour, 255.0)) - expected).max() <= 0.51  # rounded
    deep = np.asarray(LENS(colour.astype(np.float32), 255.0))
    np.testing.assert_allclose(deep, expected, atol=0.02)
    of_file = LENS(Image.fromarray(grey), 255.0)
    assert isinstance(of_file, Image.Image)
    as_colour = LENS(np.broadcast_to(grey[..., None], (*SIZE, 3)), 255.0)
    assert np.array_equal(np.asarray(of_file), np.asarray(as_colour)[..., 1])
    assert np.asarray(as_colour).strides[2] == 0


def test_a_lens_without_distortion_changes_no_bit():
    plain, taken = Undistortion(60.3, 55.7, 31.1, 23.9), picture(3)
    assert np.array_equal(np.asarray(plain(taken, 255.0)), taken)
    with_lens, without = (Preprocess((32, 32), undistort=lens).views(taken) for lens in (plain, None))
    assert np.array_equal(with_lens.images([0]), without.images([0]))
    place = Preprocess((32, 32)).geometry(SIZE)
    drawn = np.random.default_rng(2).normal(size=(32, 32)).astype(np.float32)
    assert plain.restored(drawn, place) == (drawn, place)


@pytest.mark.parametrize("turned", [False, True])
def test_a_map_comes_back_where_the_picture_as_taken_shows_it(turned):
    """A spot on the undistorted picture's map lies where the formula puts it in the picture as taken."""
    if turned:
        place = Geometry(SIZE, (80, 80), (1.0, 1.0), (60.0, -5.0), (0.0, -1.0, 1.0, 0.0))
    else:
        place = Geometry(SIZE, (96, 128), (2.0, 2.0), (0.0, 0.0))
    for v, u in ((10, 12), (24, 40), (40, 52)):
        x0, y0, _, _ = place.to_network((u + 0.5, v + 0.5, u + 0.5, v + 0.5))
        rows, columns = np.mgrid[: place.size[0], : place.size[1]] + 0.5
        drawn = np.exp(-((rows - y0) ** 2 + (columns - x0) ** 2) / 8).astype(np.float32)
        restored, whole = LENS.restored(drawn, place)
        row, column = np.unravel_index(restored.argmax(), restored.shape)
        x, y, _, _ = whole.to_picture((column + 0.5, row + 0.5, column + 0.5, row + 0.5))
        assert math.dist((y - 0.5, x - 0.5), shown_at(LENS, v, u)) < 0.8
        assert restored.dtype == np.float32


def test_masks_and_the_picture_move_together():
    taken = np.zeros((*SIZE, 3), np.uint8)
    taken[8:20, 5:25] = 255
    mask = LENS.mask(taken[..., 0] > 0)
    assert np.array_equal(mask, np.asarray(LENS(taken, 255.0))[..., 0] > 127)


def test_a_stored_lens_is_read_as_it_was_written():
    how = Preprocess((32, 32), undistort=LENS)
    assert Preprocess.from_dict(how.to_dict()) == how
    assert not {*Preprocess().to_dict()} & {*STAGES}, "a key only where there is a stage"


def test_pictures_of_another_size_than_those_of_the_lens_are_refused():
    sized = replace(LENS, width=64, height=48)
    with pytest.raises(InputError, match="it has 48 x 64 pixels, and those of the lens 64 x 48"):
        sized(np.zeros((64, 48, 3), np.uint8), 255.0)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"fx": 1.0}, "described by fx, fy"),
        ({"fx": 0.0, "fy": 1.0, "cx": 1.0, "cy": 1.0}, "above 0"),
        ({"fx": "a", "fy": 1.0, "cx": 1.0, "cy": 1.0}, "values that are no numbers"),
        ({**LENS.to_dict(), "k9": 1.0}, "nothing else"),
    ],
)
def test_a_damaged_lens_is_refused_in_one_line(stored, words):
    with pytest.raises(InputError, match=words):
        Preprocess.from_dict({**Preprocess().to_dict(), "undistort": stored})
