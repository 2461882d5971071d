"""Drawings: fixed scales, order of the colours, visibility, layout and what map files hold."""

from pathlib import Path

import numpy as np
import pytest

from flawscope.errors import FlawscopeError, InputError
from flawscope.results.drawing import (
    BAD_COLOUR,
    POSE_COLOUR,
    TEXT,
    TRUTH_COLOUR,
    WHITE,
    Square,
    colour_map,
    colour_table,
    contour,
    draw_note,
    draw_squares,
    lightness,
    overlay,
    save_map,
    save_png,
)


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(60, 190, (60, 80, 3), dtype=np.uint8)


def test_colour_table_rises_evenly_from_dark_to_bright():
    colours = np.array([[0, 0, 0], [255, 255, 255], [119, 119, 119], [255, 0, 0]])
    np.testing.assert_allclose(lightness(colours), [0, 100, 50.03, 53.24], atol=0.02)
    steps = np.diff(lightness(colour_table()))
    assert steps.min() > 0
    assert steps.max() < 2.5 * steps.mean()  # rounding to 8 bits only
    assert lightness(colour_table()[0]) < 5
    assert lightness(colour_table()[-1]) > 95


# Viénot, Brettel and Mollon (1999): what a protanope and a deuteranope see, in linear RGB
DICHROMATS = [
    [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
]


@pytest.mark.parametrize("matrix", DICHROMATS)
def test_colours_keep_their_order_for_the_colour_blind(matrix):
    linear = (colour_table() / 255.0) ** 2.2
    seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2) * 255
    every_tenth = lightness(seen[::10])
    assert np.diff(every_tenth).min() > 0


def test_colour_map_uses_the_given_scale_only():
    values = np.array([[-5.0, 0.0, 1.0, 2.0, 99.0]])
    table = colour_table()
    np.testing.assert_array_equal(colour_map(values, 0, 2)[0], table[[0, 0, 128, 255, 255]])
    calm = np.random.default_rng(0).random((8, 8)) * 0.1
    assert (lightness(colour_map(calm, 0, 2)) < 15).all()  # a good part is not stretched to full colour
    assert colour_map(np.array([[np.nan, np.inf, -np.inf]]), 0, 1).tolist() == [
        [[128] * 3, table[255].tolist(), table[0].tolist()]
    ]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_senseless_scales_are_refused(low, high):
    for call in (colour_map, lambda v, a, b: save_map(Path("x.png"), v, a, b)):
        with pytest.raises(InputError, match="scale"):
            call(np.zeros((2, 2)), low, high)


def test_overlay_leaves_low_values_alone_and_colours_those_at_the_mask_threshold(photo):
    values = np.zeros((60, 80), np.float32)
    values[:, 40:] = 3  # the middle of the scale
    drawn = overlay(photo, values, 1, 5, opacity=0.5)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[:, :40], photo[:, :40])
    expected = (photo[:, 40:] + colour_table()[128].astype(float)) / 2
    assert np.abs(drawn[:, 40:] - expected).max() <= 1
    np.testing.assert_array_equal(overlay(photo, values, 1, 5, opacity=0), photo)
    np.testing.assert_array_equal(
        colour_map(values, 1, 5)[:, 40:], overlay(photo, values, 1, 5, opacity=1)[:, 40:]
    )
    slightly = overlay(photo, np.full((60, 80), 1.8, np.float32), 1, 5)
    assert np.abs(slightly.astype(int) - photo).max() < 8


@pytest.mark.parametrize("grey", [20, 128, 245])
def test_a_defect_keeps_its_contrast_at_the_peak_of_the_heat(grey):
    """A dark spot on whatever ground; its heat is as high as the scale goes and beyond."""
    picture = np.full((40, 40, 3), grey, np.uint8)
    picture[15:25, 15:25] //= 2
    for value in (5.0, 50.0):
        drawn = overlay(picture, np.full((40, 40), value, np.float32), 1, 5).astype(int)
        before, after = (abs(int(p[0, 0, 0]) - int(p[20, 20, 0])) for p in (picture, drawn))
        assert after >= 0.9 * before


@pytest.mark.parametrize("grey", [10, 128, 250])
def test_outlines_show_on_dark_and_on_bright_metal(grey):
    """Line or rim differ from the picture by 3 to 1 in luminance, as WCAG wants of graphics."""
    mask = np.zeros((300, 300), bool)
    mask[100:200, 120:180] = True

    def luminance(rgb):
        linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
        return linear @ np.array([0.2126, 0.7152, 0.0722])

    picture = np.full((300, 300, 3), grey, np.uint8)
    ground = luminance(picture[:1, 0].astype(float))[0]
    for given in ({}, {"colour": TRUTH_COLOUR, "dashed": True}):
        drawn = contour(picture, mask, **given)
        seen = luminance(drawn[(drawn != picture).any(axis=2)].astype(float))
        bright, dark = np.maximum(seen, ground) + 0.05, np.minimum(seen, ground) + 0.05
        assert (bright / dark).max() >= 3


@pytest.mark.parametrize("turn", [0, 30, 45, 67.5, 90, 135])
def test_a_dashed_line_has_gaps_in_any_direction(turn):
    """Along a straight edge neither dashes nor gaps take nearly all of it."""
    rows, columns = np.indices((400, 400)) - 200
    angle = np.deg2rad(turn)
    mask = rows * np.cos(angle) + columns * np.sin(angle) > 0
    picture = np.full((400, 400, 3), 128, np.uint8)
    whole = (contour(picture, mask, (9, 8, 7)) == (9, 8, 7)).all(axis=2).sum()
    dashed = (contour(picture, mask, (9, 8, 7), dashed=True) == (9, 8, 7)).all(axis=2).sum()
    assert 0.25 * whole < dashed < 0.75 * whole


def test_overlay_does_not_change_its_inputs_or_depend_on_blocks():
    tall = np.random.default_rng(0).integers(0, 256, (1200, 700, 3), dtype=np.uint8)
    values = np.random.default_rng(1).random((1200, 700), dtype=np.float32)
    before = tall.copy()
    whole = overlay(tall, values, 0, 1)
    np.testing.assert_array_equal(tall, before)
    np.testing.assert_array_equal(overlay(tall[900:], values[900:], 0, 1), whole[900:])


def test_contour_follows_the_distance_to_the_mask():
    mask = np.zeros((40, 50), bool)
    mask[17:20, 22] = mask[5, 5] = mask[30:36, 30:41] = True
    rows, columns = np.indices(mask.shape)
    marked = np.argwhere(mask)
    squared = np.min((rows[..., None] - marked[:, 0]) ** 2 + (columns[..., None] - marked[:, 1]) ** 2, axis=2)
    for width in (1, 2, 3, 5):
        line = (contour(np.zeros((40, 50, 3), np.uint8), mask, (9, 9, 9), width) == 9).all(axis=2)
        expected = ~mask & (squared <= (width + 0.5) ** 2)
        near = np.minimum(np.minimum(rows, 39 - rows), np.minimum(columns, 49 - columns)) < width
        np.testing.assert_array_equal(line, expected | (mask & near))


def test_contour_at_the_border_of_an_empty_mask_and_of_a_small_one(photo):
    np.testing.assert_array_equal(contour(photo, np.zeros((60, 80), bool)), photo)
    framed = (contour(photo, np.ones((60, 80), bool), (0, 255, 255), 2) == (0, 255, 255)).all(axis=2)
    np.testing.assert_array_equal(framed, np.pad(np.zeros((56, 76), bool), 2, constant_values=True))
    small = np.zeros((6, 8), bool)
    small[2, 3] = True  # stretched: rows 20 to 29, columns 30 to 39
    line = (contour(photo, small, (0, 255, 255), 1) == (0, 255, 255)).all(axis=2)
    assert line[19, 30:40].all()
    assert line[30, 30:40].all()


def test_files_that_cannot_be_written(tmp_path, photo):
    with pytest.raises(FlawscopeError, match="cannot write"):
        save_png(tmp_path / "none" / "a.png", photo)
    for suffix in ("png", "tiff"):
        with pytest.raises(FlawscopeError, match="cannot write"):
            save_map(tmp_path / f"none/a.{suffix}", np.zeros((2, 2)), 0, 1)
    with pytest.raises(FlawscopeError, match="not finite"):
        save_map(tmp_path / "nan.tiff", np.full((2, 2), np.nan), 0, 1)


@pytest.mark.parametrize(
    "words", ["part not found", "anomalous, beyond tolerance: dent length 3.2 mm > 2 mm " * 3]
)
def test_a_note_fits_into_the_picture(words):
    drawn = draw_note(np.zeros((280, 280, 3), np.uint8), words)
    assert drawn[:, 0].any()
    assert not drawn[:, -1].any()
    assert not drawn[60:].any()


def box(x0, y0, x1, y1):
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def test_a_note_lies_where_no_part_is():
    picture = np.zeros((280, 280, 3), np.uint8)
    parts = [Square(box(0, 0, 100, 100)), Square(box(150, 0, 280, 100)), Square(box(0, 150, 130, 280))]
    drawn = draw_note(picture, "part 4 of 4", parts)
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert rows.min() > 200
    assert columns.min() > 130
    assert draw_note(picture, "part 4 of 4")[0, 0].tolist() == list(BAD_COLOUR)  # upper left without parts
    covered = draw_note(picture, "part 1 of 1", [Square(box(0, 0, 280, 280))])
    assert (covered == WHITE).all(2).any()  # told all the same


def test_squares_have_their_own_colours_and_numbers():
    picture = np.zeros((200, 200, 3), np.uint8)
    good, bad = box(10, 10, 90, 90), box(110, 110, 195, 195)
    squares = [Square(good, "1"), Square(bad, "2", BAD_COLOUR), Square(box(120, 5, 190, 80))]
    drawn = draw_squares(picture, squares)
    for colour, place in ((POSE_COLOUR, slice(100)), (BAD_COLOUR, slice(100, 200))):
        assert (drawn == colour).all(2)[place, place].sum() > 300
    assert not (drawn == BAD_COLOUR).all(2)[:100].any()
    plain = draw_squares(picture, [Square(good)])
    assert (draw_squares(picture, [Square(good, "1")]) != plain).any()
    assert ((drawn == TEXT).all(2)[130:, 130:]).any()  # the ground of the number
    at_edge = draw_squares(picture, [Square(box(120, 120, 240, 240), "17")])  # reaches out of the picture
    assert (at_edge[150:, 150:] == TEXT).all(2).sum() > 100
