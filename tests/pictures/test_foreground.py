"""The foreground of a product: parts on drawn patterned grounds whose true masks are known."""

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.pictures.foreground import PICTURE_COUNTS
from flawscope.synthesis import Foreground, foreground_mask
from flawscope.synthesis.demo.dataset import draw_picture


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_few_pictures_are_judged_one_by_one(count):
    plain = np.full((80, 120, 3), 40, np.uint8)
    plain[20:60, 30:90] = (200, 180, 90)
    found = Foreground.of([plain] * count).mask(plain)
    assert (found == foreground_mask(plain)).all()
    assert not found.all()


def on_ground(width, seed=0, height=60, noise=2):
    """A part of so many pixels on a plain ground of 160; 0: none."""
    picture = np.random.default_rng(seed).normal(40, noise, (120, 160, 3))
    y, x = (120 - height) // 2, (160 - width) // 2
    picture[y : y + height, x : x + width] += (160, 140, 50)
    return picture.clip(0, 255).astype(np.uint8)


def texture(seed):
    return np.random.default_rng(seed).normal(120, 20, (120, 160, 3)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "pictures",
    [
        [
            *map(texture, range(6)),
            on_ground(60),
            on_ground(70, 1),
        ],  # copper alone
        [*map(texture, range(3)), on_ground(60)],
        [on_ground(width, k) for k, width in enumerate((20, 45, 90, 20, 130, 100))],
    ],
)
def test_what_is_not_found_alike_on_the_pictures_of_a_product_is_no_part(pictures):
    """Then a simulated defect may lie anywhere, and does not lie on what a picture happens to show."""
    found = Foreground.of(pictures)
    assert all(found.mask(picture).all() for picture in pictures)


@pytest.mark.parametrize("count", [3, 8, 12])
def test_a_part_that_is_found_alike_is_the_part_and_an_odd_picture_of_it_is_no_reason_to_cut(count):
    pictures = [on_ground(58 + k, k) for k in range(count)]
    found = Foreground.of(pictures)
    assert all(0.1 < found.mask(picture).mean() < 0.4 for picture in pictures)
    if count < PICTURE_COUNTS[0]:  # else its ground is known
        assert found.mask(on_ground(8, height=40)).all()


@pytest.mark.parametrize("size", [48, 128, 200])
def test_a_plate_that_reaches_nearly_to_the_border_is_still_the_object(size):
    pictures = [draw_picture("plate", np.random.default_rng(k), size=size)[0] for k in range(8)]
    foreground = Foreground.of(pictures)
    shares = [foreground.mask(picture).mean() for picture in pictures[:2]]
    assert all(0.5 < share < 0.85 for share in shares)


def test_a_mask_by_hand_is_stretched_and_what_is_no_picture_is_refused():
    given = np.zeros((10, 20), np.bool_)
    given[:, :10] = True
    found = Foreground(given=given).mask(np.zeros((40, 60, 3), np.uint8))
    assert found.shape == (40, 60)
    assert found[:, :28].all()
    assert not found[:, 32:].any()
    with pytest.raises(InputError, match="empty"):
        Foreground(given=np.zeros((4, 4), np.bool_))
    with pytest.raises(InputError, match="uint8"):
        Foreground.of([np.zeros((8, 8, 3), np.float32)])


def test_the_foreground_is_the_part():
    y, x = np.mgrid[:200, :240]
    good = np.random.default_rng(0).normal(205, 3, (200, 240, 3))
    good[(abs(y - 100) < 60) & (abs(x - 120) < 72)] -= 95
    good[np.hypot(y - 100, x - 120) < 20] = 30
    found = foreground_mask(good.clip(0, 255).astype(np.uint8))
    assert found[70:130, 80:160].all()  # the hole in it too
    assert not found[:35].any()
    assert 0.3 < found.mean() < 0.5


@pytest.mark.parametrize("seed", range(6))
def test_the_foreground_of_a_texture_is_everywhere(seed):
    noise = np.clip(np.random.default_rng(seed).normal(120, 20, (150, 150, 3)), 0, 255).astype(np.uint8)
    assert foreground_mask(noise).all()
    assert foreground_mask(np.full((40, 60, 3), 90, np.uint8)).all()
    assert foreground_mask(np.full((4, 4, 3), 90, np.uint8)).all()
