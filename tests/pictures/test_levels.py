"""Black and white of deep pictures: stray pixels decide nothing, small ranges are stretched."""

import io
from itertools import product as pairs

import numpy as np
import pytest
from PIL import Image

from deep_files import deep_png
from flawscope.pictures.arrays import from_numpy
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import decode, to_eight_bits
from flawscope.pictures.empty_pictures import find_blank_pictures
from flawscope.pictures.levels import Levels, common_levels, own_levels, used_range
from flawscope.pictures.near_duplicates import Look
from flawscope.views.preprocess import Preprocess


def product(seed=0, bright=200):
    """A part on dark ground, [80, 96, 1] in 0..255, with texture."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:80, :96]
    picture = np.where(np.hypot(y - 40, x - 48) < 30, bright, 20) + rng.normal(0, 4, (80, 96))
    return np.clip(picture, 0, 255)[:, :, None]


def twelve(seed=0):
    return (product(seed) * 16).astype(np.uint16)


STUCK = {
    "a pixel": lambda v: v.__setitem__((17, 23), 65535),
    "two that touch": lambda v: v.__setitem__((17, slice(23, 25)), 65535),
    "a hot one": lambda v: v.__setitem__((17, 23), 50_000),
    "a column": lambda v: v.__setitem__((slice(None), 23), 65535),
    "a hole of no data": lambda v: v.__setitem__((slice(50, 70), slice(2, 12)), 65535),
}


FLOATS = [*STUCK][:3]  # no full scale tells what more of them are


@pytest.mark.parametrize(
    ("kind", "what"),
    [*pairs(["numpy", "PNG", "PGM", "npy"], STUCK), *pairs(["float npy"], FLOATS)],
)
def test_stuck_pixels_do_not_decide_what_is_white(what, kind):
    pictures = [twelve(k) for k in range(6)]
    for values in pictures:
        STUCK[what](values)
    if kind == "float npy":
        pictures = [values.astype(np.float32) for values in pictures]
    encoders = {
        "numpy": lambda v: v,
        "PNG": lambda v: deep_png(v, (b"sBIT", bytes([12]))),
        "PGM": lambda v: b"P5 96 80 65535\n" + v.astype(">u2").tobytes(),
        "npy": npy,
        "float npy": npy,
    }
    levels, _, _, remarks = DecodedPictures([encoders[kind](values) for values in pictures]).survey()
    assert levels.black == 0
    assert levels.white == 4095 or (kind == "float npy" and 3000 < levels.white < 4095)
    assert any("stray pixel" in line and "6 pictures" in line for line in remarks), remarks
    clean = Preprocess.of_levels(levels, size=(40, 48))(twelve())[0]
    seen = Preprocess.of_levels(levels, size=(40, 48))(pictures[0])[0]
    changed = np.abs(seen - clean).max((0, 1)) > 0.01
    assert 0 < changed.sum() <= (9 if "pixel" in what or "one" in what or "two" in what else 90)
    assert seen.max() <= 1


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_what_shines_on_a_part_is_no_stray_pixel():
    glint = twelve()
    glint[30:33, 30:33] = 60_000
    assert used_range(glint).high == 60_000
    assert common_levels([used_range(glint)], "u")[0] == (0, 65535)
    dark_field = np.random.default_rng(0).integers(0, 90, (80, 96, 1)).astype(np.uint16)
    y, x = np.mgrid[:80, :96]
    dark_field[:, :, 0] += (4000 * np.exp(-((y - 9) ** 2 + (x - 70) ** 2) / 8)).astype(np.uint16)
    assert common_levels([used_range(dark_field)], "u")[0] == (0, 4095)


def test_one_picture_of_another_depth_is_clipped_and_told():
    used = [used_range(twelve(k)) for k in range(9)]
    levels, remarks = common_levels([*used, used_range(twelve(9) * 16)], "u")
    assert levels == (0, 4095)
    assert "1 picture go" in remarks[0]
    assert common_levels([*used, used_range(twelve(9) * 2)], "u")[0] == (0, 8191)  # as light varies


def test_pictures_of_two_depths_are_told_whatever_their_order():
    both = [used_range(twelve(k)) for k in range(6)] + [used_range(twelve(k) * 16) for k in range(6)]
    for used in (both, both[::-1]):
        levels, remarks = common_levels(used, "u")
        assert levels == (0, 65535)
        assert "6 pictures go up to" in remarks[0]
        assert "the same number of bits" in remarks[0]
    darker = [used_range((twelve(k) * (1 + 0.3 * k)).astype(np.uint16)) for k in range(9)]
    assert common_levels(darker, "u")[1] == [], "as light varies"


def test_levels_of_integers_beside_floats_do_not_depend_on_the_order():
    mixed = [twelve(0), twelve(1), (twelve(2) / 4095).astype(np.float32)]
    assert DecodedPictures(mixed).survey().levels == DecodedPictures(mixed[::-1]).survey().levels == (0, 4095)


@pytest.mark.parametrize(
    ("maximum", "kind", "level"),
    [
        *[(4000, "u", 4095), (4095, "u", 4095), (4096, "u", 8191), (65535, "u", 65535), (99, "u", 255)],
        *[(0.4, "f", 1), (1, "f", 1), (812.5, "f", 812.5)],
    ],
)
def test_white_level(maximum, kind, level):
    picture = np.linspace(0, maximum, 64).reshape(8, 8, 1)
    assert common_levels([used_range(picture)], kind) == ((0, level), [])


RANGES = {
    "a hundredth": lambda p: (p / 255 * 0.01).astype(np.float32),
    "beside 1000": lambda p: (1000 + p / 255 * 2.4).astype(np.float32),
    "a thermal camera": lambda p: (29_000 + p / 255 * 1900).astype(np.uint16),
    "a plain part at .5": lambda p: (0.5 + p / 255 * 0.02).astype(np.float64),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_small_part_of_the_range_is_told_and_stretched(name):
    stored = [RANGES[name](product(k)) for k in range(5)]
    levels, _, _, remarks = DecodedPictures(stored).survey()
    assert "are stretched" in remarks[0]
    how = Preprocess.of_levels(levels, size=(80, 96))
    assert Preprocess.from_dict(how.to_dict()) == how
    for values in stored:
        assert np.ptp(how(values)[0]) > 0.5
        brighter = values + np.ptp(values)  # a defect
        assert how(np.where(np.mgrid[:80, :96][0][..., None] < 9, brighter, values))[0].max() > 0.75
    shown = to_eight_bits(stored[0].astype(np.float32), levels)
    assert np.ptp(shown.astype(int)) > 127
    looks = [Look.of(decode(values)) for values in stored]
    assert find_blank_pictures(looks) == []
    assert find_blank_pictures([*looks, Look.of(decode(RANGES[name](product(9, bright=20))))]) in ([], [5])
    mixed = [Look.of(decode((product(k) * 16).astype(np.uint16))) for k in range(6)] + looks[:1]
    assert find_blank_pictures(mixed) == []


def test_without_a_black_level_pictures_are_clipped_after_they_are_resampled():
    values = twelve()
    values[17, 23] = 65535
    before = {
        "size": [40, 48],
        "keep_aspect": False,
        "crop": None,
        "white_level": 4095.0,
    }
    how = Preprocess.from_dict(before)
    assert how.to_dict() == before
    plane = Image.fromarray(values[:, :, 0].astype(np.float32))
    across = plane.resize((48, 80), Image.Resampling.BILINEAR)
    expected = np.asarray(across.resize((48, 40), Image.Resampling.BILINEAR)) / np.float32(4095)
    np.testing.assert_allclose(how(values)[0][0, 0], np.clip(expected, 0, 1), rtol=1e-6)


@pytest.mark.parametrize("value", [1e6, -9999.0, float("nan"), float("inf"), 1e20, -3.4028235e38])
@pytest.mark.parametrize("count", [1, 40])
def test_values_that_say_no_data_are_refused(value, count, refused):
    for scale in (1.0, 255.0, 2.4):
        values = (product() / 255 * scale).astype(np.float32)
        values.reshape(-1)[:count] = value
        refused(lambda values=values: decode(values), "replace")


def test_bright_floats_are_data():
    values = (product() / 255).astype(np.float32)
    for bright in (1.0, 255.0, 4095.0, 3.0):
        shining = values.copy()
        shining[10:14, 10:14] = bright
        assert decode(shining).max() == bright
    grown = values * 40
    grown[0, :9, 0] = np.linspace(40, 4000, 9)
    assert decode(grown).max() == 4000


def test_pictures_far_off_the_levels_are_refused(refused):
    how = Preprocess.of_levels(Levels(999.5, 1003.0))
    refused(lambda: how(np.full((4, 4), 500.0)), "below the model's black level of 999.5")
    refused(lambda: how(np.full((4, 4), 4000.0)), "above the model's white level")
    refused(lambda: Preprocess(white_level=9, black_level=9), "black_level")
    refused(lambda: Preprocess(black_level=0), "black_level")
    stuck = (product() / 255).astype(np.float32)
    stuck[3, 4] = 5.0
    assert Preprocess.of_levels(Levels(0, 1), size=(80, 96))(stuck)[0].max() == 1
    refused(lambda: Preprocess(white_level=1.0)(stuck), "floats go up to 5")


def test_own_levels_are_those_of_most_pixels():
    values = twelve()
    values[5, 5] = 65535
    assert own_levels(values).white < 4096
    assert to_eight_bits(values).mean() == pytest.approx(to_eight_bits(twelve()).mean(), abs=1)
    assert own_levels(np.zeros((4, 4, 1), np.uint16)).white > 0
    for value in (1000, 65535):  # one value alone is no range that could be stretched
        assert own_levels(np.full((4, 4, 1), value, np.uint16)) == Levels(0, value)
    assert own_levels(np.array([[[1000.0], [1002.0]]], np.float32)) == Levels(1000, 1002)
    assert from_numpy(values, "a").dtype == np.uint16
