"""Regions against a literal flood fill, in the picture's own pixels; and what a prediction promises;
and what is said of many that do not fit a model."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from scipy import ndimage

from flawscope.results.findings import other_form, outside_light, part_not_found
from flawscope.results.prediction import (
    MAX_REMEMBERED,
    MIN_WARNING_PICTURES,
    MismatchDetector,
    Prediction,
    ScoreLevels,
)
from flawscope.views.geometry import Geometry
from flawscope.views.preprocess import Preprocess

LEVEL = 0.5


def prediction(values, geometry=None, **levels):
    values = np.asarray(values, dtype=np.float32)
    return Prediction(
        score=float(values.max()),
        p_value=0.25,
        severity=-3.5,
        is_anomalous=False,
        map=values,
        geometry=geometry or Geometry(values.shape, values.shape, (1.0, 1.0), (0.0, 0.0)),
        levels=replace(ScoreLevels(9.0, LEVEL, (0.0, 1.0)), **levels),
        path="a.png",
    )


def flood(mask):
    """8-connected parts, as sets of pixels."""
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    return [set(zip(*np.nonzero(numbers == k), strict=True)) for k in range(1, count + 1)]


@pytest.mark.parametrize("seed", range(8))
def test_regions_are_the_literal_parts_of_the_mask(seed):
    rng = np.random.default_rng(seed)
    values = rng.random((23, 31)).astype(np.float32) ** (1 + seed)
    made = prediction(values)
    np.testing.assert_array_equal(made.mask, values > LEVEL)
    expected = []
    for part in flood(values > LEVEL):
        ys, xs = np.array(sorted(part)).T
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        expected.append((float(values[ys, xs].max()), box, len(part), (xs.mean() + 0.5, ys.mean() + 0.5)))
    expected.sort(key=lambda e: -e[0])
    assert [(r.peak, r.box, r.area) for r in made.regions] == [e[:3] for e in expected]
    for region, (*_, centroid) in zip(made.regions, expected, strict=True):
        assert region.centroid == pytest.approx(centroid)


PREPROCESSES = {
    "stretch": Preprocess((32, 48)),
    "letterbox": Preprocess((32, 48), keep_aspect=True),
    "crop": Preprocess((40, 60), crop=(32, 48)),
    "crop of the covering square": Preprocess((64, 64), keep_aspect=True, crop=(32, 48)),
}


@pytest.mark.parametrize("name", PREPROCESSES)
@pytest.mark.parametrize("size", [(96, 96), (64, 200), (301, 77)])
def test_a_box_lies_where_the_defect_lies_in_the_picture(name, size):
    """A rectangle is marked in the picture, brought to the network, and found again within a pixel there."""
    geometry = PREPROCESSES[name].geometry(size)
    (sy, sx), (height, width) = geometry.scale, size
    y0, y1, x0, x1 = (int(f * n) for f, n in ((0.4, height), (0.65, height), (0.3, width), (0.7, width)))
    marked = np.zeros(size, dtype=bool)
    marked[y0:y1, x0:x1] = True
    left, top, right, bottom = geometry.to_picture((0, 0, *geometry.size[::-1]))  # what the network sees
    x0, x1, y0, y1 = max(x0, left), min(x1, right), max(y0, top), min(y1, bottom)
    (region,) = prediction(geometry.mask_to_network(marked), geometry).regions
    for axis, (low, high, scale) in enumerate(((x0, x1, sx), (y0, y1, sy))):
        assert region.box[axis::2] == pytest.approx((low, high), abs=0.5 / scale + 0.5)
        assert region.centroid[axis] == pytest.approx((low + high) / 2, abs=0.5 / scale + 0.5)
    box_area = (region.box[2] - region.box[0]) * (region.box[3] - region.box[1])
    assert region.area == pytest.approx(box_area)  # square pixels of the picture, not of the map


@pytest.mark.parametrize("name", PREPROCESSES)
def test_the_picture_map_has_the_pictures_size_and_the_maps_values(name):
    geometry = PREPROCESSES[name].geometry((70, 90))
    made = prediction(np.full(geometry.size, 0.7), geometry)
    drawn = made.picture_map()
    assert drawn.shape == made.picture_mask().shape == (70, 90)
    seen = ~np.isnan(drawn)  # what the network does not see has no value
    assert seen.all() != name.startswith("crop")
    np.testing.assert_allclose(drawn[seen], np.float32(0.7))
    np.testing.assert_array_equal(made.picture_mask(), seen)


@pytest.mark.parametrize("size", [(80, 80), (40, 40)])
@pytest.mark.parametrize("shown", [1, 2])
def test_maps_below_zero_mark_nothing_that_the_network_does_not_see(size, shown):
    """Nor do they on a picture that is scaled down for showing."""
    geometry = Preprocess((40, 40), crop=(20, 20)).geometry(size)
    values = np.full((20, 20), -3.0)
    made = prediction(values, geometry, mask_threshold=-2.0, colour_range=(-4.0, 0.0))
    assert not made.picture_mask().any()
    picture = np.full((size[0] // shown, size[1] // shown, 3), 100, np.uint8)
    changed = (made.draw(picture) != 100).any(axis=2)
    seen = geometry.with_picture_size(picture.shape[:2]).warp_mask(np.ones((20, 20), bool))
    np.testing.assert_array_equal(changed, seen)


def test_json_has_the_promised_keys_and_plain_values_and_drawing_leaves_the_picture_alone():
    made = prediction(np.eye(4))  # regions do not depend on the decision; touching at a corner is enough
    data = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert {"path", "score", "p_value", "is_anomalous", "regions"} <= set(data)
    assert data["is_anomalous"] is False
    assert data["regions"] == [{"box": [0, 0, 4, 4], "area": 4, "peak": 1, "centroid": [2, 2]}]
    assert prediction(np.full((4, 4), LEVEL)).regions == ()  # at the threshold is not above it
    geometry = Preprocess((32, 64), keep_aspect=True).geometry((50, 50))  # letterbox left and right
    (region,) = prediction(np.ones((32, 64)), geometry).regions
    assert region.box == pytest.approx((0, 0, 50, 50))
    picture = np.full((50, 50, 3), 100, np.uint8)
    drawn = prediction(np.eye(32, 64), geometry).draw(picture)
    assert (drawn.shape, drawn.dtype) == (picture.shape, np.uint8)
    assert (picture == 100).all()
    with pytest.raises(FrozenInstanceError):
        made.score = 3.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("outline", [0.3, 0.6, 0.95])
def test_each_region_is_outlined_at_a_share_of_its_height(seed, outline):
    rng = np.random.default_rng(seed)
    values = rng.random((23, 31)).astype(np.float32) ** 2 * 5
    made = prediction(values, outline=outline, mask_threshold=2.0, colour_range=(-1.0, 5.0))
    expected = np.zeros(values.shape, bool)
    for part in flood(values > 2.0):
        for y, x in part:  # the map is 31 wide: nearby are 2 pixels
            peak = max(float(values[at]) for at in part if max(abs(at[0] - y), abs(at[1] - x)) <= 2)
            expected[y, x] = values[y, x] >= -1.0 + outline * (peak + 1.0)
    np.testing.assert_array_equal(made.mask, expected)
    peaks = {max(float(values[at]) for at in part) for part in flood(values > 2.0)}
    assert peaks <= {region.peak for region in made.regions}  # each one is still there


def test_an_outline_is_as_wide_as_what_was_blurred_also_where_a_defect_is_weaker():
    """A strong defect is marked no wider than a weak one: above the threshold it would be."""
    x = np.arange(80) - 40.0
    bump = np.exp(-0.5 * (x / 6) ** 2)
    values = np.outer(np.ones(5), bump).astype(np.float32)
    weak, strong = (prediction(f * values, outline=0.6) for f in (1.0, 20.0))
    assert weak.mask.sum() == strong.mask.sum() > 0
    assert prediction(20.0 * values).mask.sum() > 2 * strong.mask.sum()
    values = np.zeros((40, 96), np.float32)
    values[5:35, 5:20], values[5:35, 20:90] = 20.0, 8.0
    made = prediction(values, outline=0.6, mask_threshold=2.0, colour_range=(0.0, 4.0))
    assert made.mask[5:35, 5:20].all()
    assert made.mask[5:35, 30:90].all()  # beyond the reach of what is stronger
    assert not made.mask[5:35, 20:26].any()
    values = np.full((6, 8), np.nan, np.float32)
    values[2:4, 2:6] = [[1, 2, 4, 4], [0, 0, 4, 1]]
    made = prediction(np.zeros((6, 8)), outline=0.6)
    found = made.outlined(values)
    assert {(2, 4), (2, 5), (3, 4)} <= set(map(tuple, np.argwhere(found)))
    np.testing.assert_array_equal(found, made.outlined(np.nan_to_num(values)))


@pytest.mark.parametrize("outline", [0.0, 0.6])
def test_a_picture_is_marked_exactly_where_its_map_passes_the_threshold(outline):
    for top in (LEVEL - 1e-3, LEVEL, LEVEL + 1e-3, np.inf):
        values = np.zeros((9, 9), np.float32)
        values[4, 4] = top
        assert bool(prediction(values, outline=outline).mask.any()) == bool(top > LEVEL)


# --------------------------------------------------------------------- pictures that do not fit a model

AS_TRAINED = (0.0, 0.0, 0.1, 0.0, -0.2, 0.0)
DARKER = (-3.0, 0.0, 0.0, -1.5, 0.0, 0.0)
DEFECTS = (0.5, 2.0, 8.0, 30.0, 4.0, 12.0, 60.0, 3.0)
ALIKE = (60.0, 61.0, 64.0, 59.0, 62.0, 60.0, 61.0, 63.0)


def shown(*pictures, **given):
    """What has seen pictures of these severities and shifts."""
    found, any_picture = MismatchDetector(0.05, **given), prediction(np.zeros((2, 2)))
    for severity, shifts in pictures:
        how = {"severity": severity, "is_anomalous": severity > 0, "shifts": shifts}
        found.add(replace(any_picture, **how))
    return found


OTHERWISE = "8 of 8 pictures are anomalous, although light, colour and detail are as in the training"
UNLIKE = "unlike the training pictures as a whole (darker, less contrast), 8 of 8 are anomalous"
SAME = "all of about the same severity (60 to 63): is the model of another product, camera or light"


@pytest.mark.parametrize(
    ("severities", "shifts", "given", "said"),
    [
        ((-3.0, -1.0, 0.5, -2.0, -4.0, 2.0), AS_TRAINED, {}, ""),
        ((-3.0, -1.0, 0.5, -2.0, -4.0, 2.0), (), {}, ""),
        (ALIKE, DARKER, {}, UNLIKE),
        ((-3.0, -1.0, -0.5, -2.0), DARKER, {}, "0 of 4 are anomalous: has the camera or the light changed?"),
        (DEFECTS, AS_TRAINED, {}, OTHERWISE),  # a batch of defective parts
        (DEFECTS, AS_TRAINED, {"defective": True}, ""),
        (ALIKE, AS_TRAINED, {}, "in the same place and position"),
        # models from before know no statistics: another product is about equally far in every picture
        (ALIKE, (), {}, SAME),
        (ALIKE, (), {"defective": True}, SAME),
        (DEFECTS, (), {}, "look at some"),
        *((ALIKE[:count], DARKER, {}, "") for count in range(MIN_WARNING_PICTURES)),
    ],
)
def test_pictures_that_do_not_fit_are_told_by_their_looks_or_their_scores(severities, shifts, given, said):
    found = shown(*((severity, shifts) for severity in severities), **given).warning()
    assert said in found
    assert bool(found) == bool(said)
    assert ("another product" in found) == (said in (UNLIKE, SAME) and bool(said))


def test_a_few_odd_pictures_are_no_mismatch_and_memory_does_not_grow():
    assert shown(*((-1.0, DARKER if k < 9 else AS_TRAINED) for k in range(20))).warning() == ""
    found = shown(*[(1.0, AS_TRAINED)] * 3 * MAX_REMEMBERED)
    assert found.count == 3 * MAX_REMEMBERED
    assert len(found.severities) == len(found.shifts) == MAX_REMEMBERED


def test_pictures_called_good_without_a_promise_are_counted():
    totals, plain = MismatchDetector(0.05), prediction(np.zeros((4, 4)))
    found = plain.noticing(outside_light())
    for one in (plain, found, found, plain.noticing(other_form("smaller", decides=False))):
        totals.add(one)
    totals.add(plain.noticing(other_form("wider", decides=True)))  # anomalous by its form
    totals.add(found.noticing(part_not_found(None)))
    assert totals.beyond_promise == {"outside_light": 2, "other_form": 1}
    assert totals.beyond_line() == (
        "called good, though the rate is not promised for them: 2 light outside the range, 1 another size "
        "than learnt from"
    )
    assert MismatchDetector(0.05).beyond_line() == ""
