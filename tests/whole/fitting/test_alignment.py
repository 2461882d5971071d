"""Fits and predictions on parts that lie anyhow: found, judged as if all lay alike, marked where they lie."""

import math

import numpy as np
import pytest

import flawscope
from brackets import bracket
from flawscope.calibration.parts import PartCalibration
from flawscope.errors import InputError
from flawscope.export.recalibrate import ExportPictures
from flawscope.predictor.parts import PartCollector
from flawscope.results import drawing
from flawscope.results.table import ResultRow
from small_network import SMALL_NETWORK

SIDE, SPOT = 128, (15.0, 18.0)
QUICK = {"size": "64", "device": "cpu", "check": False, **SMALL_NETWORK}


def part(seed, defect=False, empty=False):
    """A bracket at any place and angle, [H, W, 3] uint8, and where a dark spot is, or would be: x, y."""
    picture, place = bracket(seed, SPOT if defect else None, empty=empty)
    return picture, place(SPOT)


@pytest.fixture(scope="module")
def good():
    return [part(seed)[0] for seed in range(10)]


@pytest.fixture(scope="module")
def predictor(good):
    lines = []
    found = flawscope.fit(good, align="turn", size="64", device="cpu", check=False, say=lines.append)
    assert any("parts aligned (turn): 10 good ones found" in line for line in lines)
    return found


def test_a_defect_is_found_and_marked_where_it_lies(predictor):
    for seed in range(100, 104):
        picture, (x, y) = part(seed, defect=True)
        found = predictor.predict(picture)
        assert found.part_found
        drawn = found.picture_map()
        peak = np.unravel_index(np.nanargmax(drawn), drawn.shape)
        assert math.hypot(peak[1] + 0.5 - x, peak[0] + 0.5 - y) < 8
        assert drawn.shape == picture.shape[:2]
        pose, row = found.part_pose, ResultRow.from_result(found)
        back = found.geometry.inverse()  # from the view [64, 64]
        assert math.dist(back.to_network((32, 32, 32, 32))[:2], (pose.x, pose.y)) < 0.01
        assert math.dist(pose.corners()[0], back.to_network((0, 0, 0, 0))[:2]) < 0.1
        assert (row.part_angle, row.part_found) == (pose.angle, "true")
        assert found.to_dict()["part_pose"] == pose.to_dict()
        square = drawing.draw_squares(np.zeros_like(picture), [drawing.Square(pose.corners())])
        assert (square == drawing.POSE_COLOUR).all(2).sum() > 100
        for region in found.regions:
            x0, y0, x1, y1 = region.box
            assert x0 - 1 <= region.centroid[0] <= x1 + 1
            assert y0 - 1 <= region.centroid[1] <= y1 + 1


def test_a_picture_without_the_part_is_an_outcome_of_its_own(predictor):
    empty = part(200, empty=True)[0]
    found = predictor.predict(empty)
    assert (found.part_found, found.is_anomalous, found.severity > 0) == (False, True, True)
    told = {"part_p_value": 1 / 11, "part_found": False, "part_pose": None}
    assert told.items() <= found.to_dict().items()
    assert ResultRow.from_result(found).part_found == "false"
    assert not np.array_equal(found.draw(empty)[:8, :20], found.over(part(200)[0])[0][:8, :20])
    assert found.picture_map().shape == (SIDE, SIDE)
    good = predictor.predict(part(201)[0])
    assert good.part_found
    assert good.to_dict()["part_p_value"] > found.to_dict()["part_p_value"]


def test_pixels_outside_of_the_picture_count_nowhere(predictor):
    beside = int(bracket(400)[1]((0, 0))[0]) - 37  # the part touches the edge nearly
    picture = np.pad(part(400)[0][:, beside:], ((0, 0), (0, beside), (0, 0)), mode="reflect")
    found = predictor.predict(picture)
    assert found.part_found
    valid = predictor.valid_mask(found.geometry)
    assert not valid.all()
    assert found.map[~valid].max() <= found.map[valid].min()


def test_pictures_without_the_part_rank_above_all_scores(predictor, tmp_path):
    """A prediction calls them anomalous, so a calibration counts them."""
    good, empty = [part(seed)[0] for seed in range(600, 612)], part(700, empty=True)[0]
    expected = predictor.calibrate(good, force=True).calibration
    found = predictor.calibrate([*good, empty], force=True)
    assert found.calibration.scores == expected.scores
    assert (found.calibration.miscounted, found.calibration.count) == (1, 13)
    assert found.failures == []
    assert "1 of them for parts counted wrong or not found" in found.calibration.promise()
    given = ExportPictures(predictor.artefact, [*good, empty], [])
    failures = []
    assert len([*given._sample_views(100, failures)]) == len(good)
    assert "its part was not found" in failures[0]


def test_a_part_of_which_a_view_is_not_found_is_anomalous(predictor):
    good, lost = predictor.predict(part(201)[0]), predictor.predict(part(200, empty=True)[0])
    scores = np.array([[1.0, 1.0], [1e3, 1e3]] * 10)  # of good parts: all new ones look usual
    calibration = PartCalibration(tuple(map(str, range(20))), ("a", "b"), scores, 0.05)
    assert PartCollector._decide(calibration, None, "1", {"a": good, "b": good}).decision == "good"
    assert PartCollector._decide(calibration, None, "1", {"a": good, "b": lost}).decision == "anomalous"


def test_the_light_is_that_of_pictures_with_the_part(good):
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    how = {"align": "turn", "light": 0.05, "force": True, **QUICK}
    ranges = [flawscope.fit(one, **how).manifest.preprocess.normalization for one in (good, [*good, white])]
    # the reference has seen the white picture, and lies a little otherwise
    assert np.allclose(ranges[0].means, ranges[1].means, atol=0.02)


def test_good_pictures_without_the_part_are_named_and_turned_parts_get_no_copies(good):
    found = flawscope.fit([*good, part(500, empty=True)[0]], align="turn", **QUICK, force=True)
    (failure,) = found.failures
    assert "its part was not found" in failure
    # all of one part, which keeps copies otherwise
    found = flawscope.fit(good, align="turn", group="picture", **QUICK)
    assert found.manifest.facts["augment"] == "none"
    known = "align is 'upright'; give 'shift', 'turn', 'full', 'none' or 'auto'"
    with pytest.raises(InputError, match=known):
        flawscope.fit(good, align="upright", **QUICK)


@pytest.mark.parametrize("turned", [True, False])
def test_auto_aligns_only_parts_that_lie_anyhow(turned, good):
    flat = np.random.default_rng(0).normal(90, 8, (12, SIDE, SIDE, 1)).clip(0, 255).astype(np.uint8)
    shown = [*good, *(part(seed)[0] for seed in (10, 11))] if turned else [*flat.repeat(3, 3)]
    found = flawscope.fit(shown, align="auto", **QUICK)
    line = found.manifest.facts["summary"][-1]
    reference = found.manifest.preprocess.reference
    assert line.startswith(f"align auto: {'turn' if turned else 'none'}")
    assert (reference is not None and reference.kind == "turn") == turned
    few = flawscope.fit(shown[:4], align="auto", **QUICK)
    assert few.manifest.facts["summary"][-1].startswith("align auto: none")
