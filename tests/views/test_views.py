"""Views: where tiles lie, what they count for, and that their maps are one map."""

import numpy as np
import pytest
from PIL import Image

from flawscope.errors import InputError
from flawscope.views.geometry import Geometry
from flawscope.views.overlap import parse_overlap
from flawscope.views.preprocess import Preprocess
from flawscope.views.tiles import Fusion, RegionOfInterest, TileBlender, TileGrid

SIZES = [((64, 64), (64, 64)), ((65, 64), (64, 64)), ((100, 257), (32, 48)), ((300, 310), (64, 64))]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(canvas, size=(16, 16)):
    return Geometry(canvas, size, (size[0] / canvas[0], size[1] / canvas[1]), (0.0, 0.0))


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(("canvas", "tile"), SIZES)
def test_tiles_cover_the_canvas_and_their_weights_sum_to_one(canvas, tile, overlap):
    grid = TileGrid(canvas, tile, overlap)
    total = np.zeros(canvas)
    windows = [
        tuple(slice(at, at + side) for at, side in zip(grid.corner(k), tile, strict=True))
        for k in range(len(grid))
    ]
    for k, window in enumerate(windows):
        row, column = grid.row_and_column(k)
        total[window] += np.outer(grid.weights[0][row], grid.weights[1][column])
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for y, x in np.random.default_rng(0).integers(canvas, size=(5, 2)):
        held = [k for k, (v, u) in enumerate(windows) if v.start <= y < v.stop and u.start <= x < u.stop]
        assert grid.tiles_at(y, x) == held
    for axis in (0, 1):
        steps = np.diff(grid.starts[axis])
        assert (steps <= tile[axis] - round(overlap * tile[axis])).all()
        assert grid.starts[axis][-1] + tile[axis] == canvas[axis]


def test_weights_fall_linearly_to_the_edge_and_only_beside_a_neighbour():
    grid = TileGrid((8, 14), (8, 8), 0.25)  # columns at 0 and 6: two pixels are shared
    assert grid.starts == ([0], [0, 6])
    np.testing.assert_allclose(grid.weights[0], np.ones((1, 8)))
    np.testing.assert_allclose(grid.weights[1][0], [1, 1, 1, 1, 1, 1, 0.75, 0.25])
    np.testing.assert_allclose(grid.weights[1][1], [0.25, 0.75, 1, 1, 1, 1, 1, 1])


def test_maps_that_agree_are_one_map():
    grid = TileGrid((90, 120), (32, 32), 0.25)
    field = np.random.default_rng(1).normal(size=grid.canvas).astype(np.float32)
    blended = TileBlender(grid, whole(grid.canvas))
    for k in range(len(grid)):
        y, x = grid.corner(k)
        blended.add(k + 1, 0.0, field[y : y + 32, x : x + 32])
    score, drawn = blended.result(Fusion())
    np.testing.assert_allclose(drawn, field, atol=1e-5)
    assert score == drawn.max()


def test_a_maximum_of_bounds_is_made_sure_and_no_other_tile_is_asked_for():
    grid, asked = TileGrid((90, 120), (32, 32), 0.25), []
    sure = np.random.default_rng(1).normal(size=grid.canvas).astype(np.float32)
    sure[50, 60] = 50.0
    bound = sure + 0.5
    bound[:24, :24] += 100  # of one tile alone, and far too high
    blended, unsure = TileBlender(grid, whole(grid.canvas)), {}
    for k in range(len(grid)):
        y, x = grid.corner(k)
        unsure[k + 1] = bound[y : y + 32, x : x + 32]
        blended.add(k + 1, 0.0, unsure[k + 1])

    def sure_maps(numbers):
        asked.extend(numbers)
        corners = [grid.corner(number - 1) for number in numbers]
        return [sure[y : y + 32, x : x + 32] for y, x in corners]

    blended.confirm_maximum(unsure, sure_maps)
    assert blended.result(Fusion())[0] == pytest.approx(50, abs=1e-3)
    showing = [tile + 1 for tile in grid.tiles_at(50, 60)]
    assert asked == [1, *showing]
    assert {*unsure} == {*range(1, len(grid) + 1)} - {*asked}


def test_the_whole_view_counts_where_it_is_larger_in_the_tiles_units():
    grid = TileGrid((64, 64), (32, 32), 0.25)
    view = np.zeros((16, 16), np.float32)
    view[8:, :] = 2.0
    blended = TileBlender(grid, whole(grid.canvas))
    blended.add(0, 2.0, view)
    for k in range(len(grid)):
        blended.add(k + 1, 4.0, np.full((32, 32), 4.0, np.float32))
    score, drawn = blended.result(Fusion("map", 3.0, 1.0))
    assert score == 7.0
    np.testing.assert_allclose(drawn[:28], 4.0, atol=1e-5)
    np.testing.assert_allclose(drawn[40:], 7.0, atol=1e-5)
    blended = TileBlender(grid, whole(grid.canvas))
    blended.add(0, 0.5, view)
    blended.add(1, 9.0, np.zeros((32, 32), np.float32))
    assert blended.result(Fusion("views", 3.0, 1.0))[0] == 9.0


def test_a_map_that_is_not_a_number_makes_the_score_none():
    grid = TileGrid((64, 64), (32, 32), 0.25)
    blended = TileBlender(grid, whole(grid.canvas))
    for k in range(len(grid)):
        blended.add(k + 1, 0.0, np.full((32, 32), np.nan if k == 3 else 0.0, np.float32))
    assert np.isnan(blended.result(Fusion())[0])


def test_tiles_are_cut_from_the_picture_pixel_by_pixel():
    shown = picture(90, 120)
    views = Preprocess((32, 32), tile=(32, 32)).views(shown)
    assert len(views) == 1 + len(views.grid)
    assert views.geometry.size == (90, 120)
    images = views.images(range(len(views)))
    for k in range(len(views.grid)):
        y, x = views.grid.corner(k)
        expected = shown[y : y + 32, x : x + 32].transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_array_equal(images[k + 1], expected)
    np.testing.assert_array_equal(images[:1], Preprocess((32, 32))(shown)[0])


@pytest.mark.parametrize(("height", "width"), [(31, 90), (90, 31), (4, 4)])
def test_a_picture_smaller_than_a_tile_is_told(height, width):
    with pytest.raises(InputError, match=f"it has {width} x {height} pixels, less than a tile of 32 x 32"):
        Preprocess((32, 32), tile=(32, 32)).views(picture(height, width))


@pytest.mark.parametrize("kind", ["grey", "uint16", "float"])
def test_tiles_of_grey_and_deep_pictures(kind):
    values = picture(70, 70)[:, :, 0]
    expected = values / np.float32(255)
    given = {"grey": Image.fromarray(values), "uint16": values.astype(np.uint16) * 257, "float": expected}
    views = Preprocess((32, 32), tile=(32, 32)).views(given[kind])
    y, x = views.grid.corner(4)
    image = views.images([5])[0]
    for channel in image:
        np.testing.assert_allclose(channel, expected[y : y + 32, x : x + 32], atol=1e-6)


def test_what_lies_outside_of_the_region_is_marked_and_tiles_without_any_of_it_are_left_out():
    shown = picture(128, 128)
    mask = np.zeros((32, 32), np.bool_)
    mask[:, :8] = True  # the left quarter: 32 pixels of the picture
    views = Preprocess((32, 32), tile=(32, 32), overlap=0.0).views(shown).with_roi(mask)
    assert views.view_numbers() == [0, 1, 5, 9, 13]
    image = views.images([1])[0]
    np.testing.assert_array_equal(image, shown[:32, :32].transpose(2, 0, 1) / np.float32(255))
    outside = views.images([2])[0]
    assert (outside < 0).all()
    np.testing.assert_allclose(-1 - outside, shown[:32, 32:64].transpose(2, 0, 1) / 255, atol=1e-6)
    assert views.valid_mask()[:, :32].all()
    assert not views.valid_mask()[:, 32:].any()
    black = Preprocess((32, 32)).views(np.zeros((32, 32, 3), np.uint8))
    assert black.valid_mask().all()


@pytest.mark.parametrize(
    ("text", "share"),
    [("0.25", 0.25), ("25%", 0.25), ("16px", 0.25), ("0", 0.0), ("0.9", None), ("-1", None), ("x", None)],
)
def test_an_overlap_is_a_share_or_pixels(text, share):
    assert parse_overlap(text, (64, 64)) == share


@pytest.mark.parametrize("kind", ["map", "views"])
@pytest.mark.parametrize("region", [False, True])
def test_a_summary_says_what_the_blended_map_shows_whatever_the_fusion_is(kind, region):
    """So a good picture is calibrated by what a prediction of it would say."""
    rng, grid = np.random.default_rng(3), TileGrid((70, 90), (32, 32), 0.25)
    mask = np.ones((16, 20), np.bool_)
    mask[:, 12:] = not region
    at = Preprocess((16, 20)).whole.geometry(grid.canvas)
    counted = RegionOfInterest(mask, at, grid.canvas) if region else None
    for factor, shift in ((1.0, 0.0), (3.0, -1.0), (0.2, 0.5)):
        blended = TileBlender(grid, at, counted)
        tiles = range(len(grid)) if counted is None else counted.tiles(grid)
        for number in (0, *(tile + 1 for tile in tiles)):
            size = (32, 32) if number else (16, 20)
            blended.add(number, float(rng.gamma(2.0)), rng.gamma(2.0, size=size).astype(np.float32))
        fusion = Fusion(kind, factor, shift)
        score, maximum, _ = blended.summary(mask).fused(fusion)
        found, drawn = blended.result(fusion)
        assert score == pytest.approx(found, rel=1e-5)
        inside = np.ones(grid.canvas, np.bool_) if counted is None else counted.window(0, 0, *grid.canvas)
        assert maximum == pytest.approx(drawn[inside].max(), rel=1e-5)
