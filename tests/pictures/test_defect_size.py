import math

import pytest

from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.pictures.defect_size import (
    DEFAULT_SIZE,
    MIN_PIXELS,
    SMALL,
    choose_tile,
    parse_pixels,
    pixels_left,
    reduction_remark,
)
from flawscope.pictures.form import MAX_CANVAS_PIXELS
from flawscope.views.preprocess import Preprocess

LARGE, SQUARE = (4000, 6000), (512, 512)


def test_the_default_size_is_patchcores():
    assert registry.method("patchcore").configure().sizes[-1] == (DEFAULT_SIZE, DEFAULT_SIZE)


@pytest.mark.parametrize("text", ["20px", "20", " 20 PX ", 20, 20.0])
def test_pixels_in_words(text):
    assert parse_pixels(text) == 20


@pytest.mark.parametrize("text", ["", "px", "20mm", "0", "-3px", "nan", "inf", "20%"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="such as 20px"):
        parse_pixels(text)


def test_what_scaling_leaves_of_a_defect():
    assert pixels_left(20, LARGE, SQUARE) == pytest.approx(
        512 / 300
    )  # 512 of 6000: the side that is reduced most
    assert pixels_left(20, LARGE, (768, 1152)) == pytest.approx(3.84)


def test_tiles_show_the_defect_just_large_enough():
    for defect in (3.0, MIN_PIXELS, 20.0, 50.0):
        found = choose_tile(defect, [LARGE], SQUARE)
        tile, scale = found
        assert scale == max(0.5, defect / MIN_PIXELS)
        assert [side / scale for side in tile] == pytest.approx(SQUARE, rel=0.002)
        left = pixels_left(defect, tile, SQUARE)
        assert left == pytest.approx(min(2 * defect, MIN_PIXELS), rel=0.002)  # more would show nothing new


def test_no_tiles_where_whole_pictures_show_it():
    enough = MIN_PIXELS * 6000 / 512
    assert choose_tile(enough, [LARGE], SQUARE) is None
    assert choose_tile(enough - 1, [LARGE], SQUARE) is not None
    assert choose_tile(MIN_PIXELS, [SQUARE, (200, 300)], SQUARE) is None
    assert choose_tile(MIN_PIXELS, [SQUARE, LARGE], SQUARE) is not None  # one that needs them is enough
    assert choose_tile(20, [LARGE], (4000, 6000)) is None


def test_a_tile_has_the_form_of_the_pictures_and_fits_into_each():
    assert choose_tile(MIN_PIXELS, [(4000, 4000)], SQUARE) == ((512, 512), 1.0)
    assert choose_tile(MIN_PIXELS, [(2000, 4000)], SQUARE) == ((368, 720), 1.0)
    assert choose_tile(MIN_PIXELS, [(4000, 2000)], SQUARE, step=32) == ((736, 352), 1.0)
    assert choose_tile(4, [(400, 6000), (400, 6000), LARGE], SQUARE) == ((64, 992), 0.5)
    assert choose_tile(MIN_PIXELS, [(300, 6000), LARGE, LARGE], SQUARE) == ((300, 512), 1.0)
    assert choose_tile(10 * MIN_PIXELS, [LARGE, (1000, 6001), LARGE], SQUARE) == ((1000, 5120), 10.0)


def test_a_very_large_picture_is_enlarged_no_more_than_it_may_be():
    size = (12_000, 12_000)
    tile, scale = choose_tile(8, [size], SQUARE) or ((0, 0), 0.0)
    assert 0.5 < scale < 1
    how = Preprocess((round(tile[0] / scale), round(tile[1] / scale)), tile=tile)
    assert math.prod(how.canvas(size)) <= MAX_CANVAS_PIXELS
    assert choose_tile(8, [(20_000, 20_000)], SQUARE) == ((512, 512), 1.0)


def test_the_remark_names_the_largest_picture_and_is_left_out_where_little_is_lost():
    assert reduction_remark([(3000, 4000), LARGE]) == (
        "pictures are 6000x4000 and seen at the default size, 512 px, where a defect 20 px long is only "
        "1.7 px long",
        "to find such small ones give fit --min-defect 20px, or --tile",
    )
    assert reduction_remark([(2047, 2047)]) is None  # less than four times
    assert reduction_remark([(2048, 100)]) is None  # a strip is seen in its own form
    assert reduction_remark([]) is None
    message, _ = reduction_remark([LARGE], network=(768, 1024)) or ("", "")
    assert message == (
        "pictures are 6000x4000 and seen at size 768x1024, where a defect 20 px long is only 3.4 px long"
    )
    for side in (2048, 4000, 12000):  # who follows the remark gets tiles
        assert reduction_remark([(side, side)])
        assert choose_tile(SMALL, [(side, side)], SQUARE)
