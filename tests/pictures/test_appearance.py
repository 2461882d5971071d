"""What is measured of a picture as a whole, and when a picture lies outside of the training pictures."""

import numpy as np
import pytest
from scipy import ndimage

from flawscope.pictures.appearance import (
    APPEARANCE_KEY,
    FEATURES,
    MIN_PICTURES,
    AppearanceRange,
    describe_shifts,
    measure_appearance,
)
from flawscope.synthesis.demo.dataset import draw_picture
from flawscope.views.preprocess import Preprocess

NAMES = [feature.name for feature in FEATURES]


def noise(seed, size=96):
    """[3, H, W] float32 in 0.2..0.8, smooth enough to have detail on both scales."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.random((3, size, size)), (0, 1.5, 1.5))
    image = (image - image.min()) / (image.max() - image.min())
    return (0.2 + 0.6 * image).astype(np.float32)


def named(image, roi=None):
    return dict(zip(NAMES, measure_appearance(image, roi), strict=True))


def test_light_colour_and_contrast_are_the_literal_means_and_deviation():
    rng = np.random.default_rng(0)
    image = rng.random((3, 65, 65)).astype(np.float32)  # as many points as the grid has: all count
    red, green, blue = image[:, :64, :64].mean((1, 2), dtype=np.float64)
    found = named(image)
    assert found["brightness"] == pytest.approx((red + green + blue) / 3, abs=1e-6)
    assert found["red"] == pytest.approx(red - green, abs=1e-6)
    assert found["blue"] == pytest.approx(blue - green, abs=1e-6)
    assert found["contrast"] == pytest.approx(image[:, :64, :64].mean(0).std(), abs=1e-6)


def test_padding_and_what_lies_outside_the_region_count_nowhere():
    image, roi = noise(2), np.zeros((96, 96), np.bool_)
    roi[24:72, 16:64] = True
    padded = image.copy()
    padded[:, :, 80:] = -1 - 0.9
    other, junk = padded.copy(), image.copy()
    other[:, :, 80:] = -1 - 0.1
    junk[:, ~roi] = 1
    assert measure_appearance(other) == measure_appearance(padded) != measure_appearance(image)
    # steps across the region's edge end at the pixel beside it
    assert measure_appearance(junk, ndimage.binary_erosion(roi)) == measure_appearance(
        image, ndimage.binary_erosion(roi)
    )


def test_a_region_of_a_few_pixels_says_nothing():
    roi = np.zeros((96, 96), np.bool_)
    roi[:3, :3] = True
    assert measure_appearance(noise(3), roi) == ()
    known = AppearanceRange.from_measures(measure_appearance(noise(s)) for s in range(MIN_PICTURES))
    assert known.shifts(()) == ()


def test_shifts_are_widths_of_the_range_that_a_picture_lies_outside():
    rows = [(0.4 + 0.02 * (k % 6), 0.0, 0.0, 0.2, -5.0, -4.0) for k in range(12)]  # 0.4 to 0.5
    known = AppearanceRange.from_measures(rows)
    assert all(shift == 0 for row in rows for shift in known.shifts(row))
    far = known.shifts((0.35, 0.015, -0.01, 0.2, -4.9, -4.0))
    assert far == pytest.approx((-0.5, 1.5, -1.0, 0.0, 1.0, 0.0))  # equal values: the least widths
    assert describe_shifts([far, far]) == "redder, less blue, more fine detail"


def test_a_widened_range_is_that_of_all_pictures():
    rows = [measure_appearance(noise(s)) for s in range(30)]
    assert AppearanceRange.from_measures(rows[: MIN_PICTURES - 1]) is None
    assert AppearanceRange.from_measures([*rows[: MIN_PICTURES - 1], ()]) is None
    assert AppearanceRange.from_measures(rows[:MIN_PICTURES]) is not None
    first = AppearanceRange.from_measures(rows[:15])
    every = AppearanceRange.from_measures(rows)
    wider = first.widen([first.shifts(row) for row in rows[15:]])
    assert wider.pictures == every.pictures == 30
    np.testing.assert_allclose(wider.ranges, every.ranges, rtol=1e-9, atol=1e-12)


def test_it_is_kept_among_a_model_s_facts():
    known = AppearanceRange.from_measures(measure_appearance(noise(s)) for s in range(12))
    back = AppearanceRange.from_facts({APPEARANCE_KEY: known.to_dict()})
    np.testing.assert_allclose(back.ranges, known.ranges, atol=1e-6)
    good = known.to_dict()
    fewer = {name: pair for name, pair in good["ranges"].items() if name != "red"}  # of an earlier version
    earlier = AppearanceRange.from_facts({APPEARANCE_KEY: {**good, "ranges": fewer}})
    far = measure_appearance(noise(99) * 0.3)
    assert earlier.to_dict() == {**good, "ranges": fewer}
    expected = [0 if k == 1 else value for k, value in enumerate(back.shifts(far))]
    np.testing.assert_allclose(earlier.shifts(far), expected)
    assert earlier.widen([earlier.shifts(far)]).to_dict()["ranges"].keys() == fewer.keys()
    for damaged in (
        {},
        {APPEARANCE_KEY: None},
        {APPEARANCE_KEY: {**good, "ranges": {}}},
        {APPEARANCE_KEY: {**good, "ranges": {**good["ranges"], "red": [2, 1]}}},
        {APPEARANCE_KEY: {**good, "ranges": {**good["ranges"], "red": [0.1, float("nan")]}}},
        {APPEARANCE_KEY: {**good, "pictures": "many"}},
    ):
        assert AppearanceRange.from_facts(damaged) is None


def test_drawn_products_are_told_apart_and_their_defects_are_not():
    """By `prediction.FAR_SHIFT`: defects and new good pictures lie below, other products far above."""
    preprocess, size = Preprocess((64, 64)), 96

    def seen(kind, seed, defect=None):
        picture, _ = draw_picture(kind, np.random.default_rng(seed), defect, 0.3, size=size)
        return measure_appearance(preprocess(picture)[0][0])

    known = AppearanceRange.from_measures(seen("plate", s) for s in range(14))

    def farthest(rows):
        return [max(map(abs, known.shifts(row))) for row in rows]

    assert np.median(farthest([seen("plate", s) for s in range(20, 28)])) < 0.5
    assert np.median(farthest([seen("plate", s, "scratch") for s in range(30, 36)])) < 0.5
    assert min(farthest([seen("fabric", s) for s in range(6)])) > 2
