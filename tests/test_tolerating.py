"""Tolerances on a model's stream: its region of interest counts, and what decides otherwise is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import flawscope
import matrix
from brightness import SIDE, draw, model
from flawscope.errors import InputError
from flawscope.predictor.tolerating import tolerating, tolerator
from flawscope.results.tolerance import Rule, Tolerances
from flawscope.views.undistort import Undistortion

LENS = Undistortion(80, 80, 80, 40, k1=-0.05)
EVERY = Tolerances("1", "0" * 64, (32, 32), (Rule("any", length=1e3),))


def decisions(found, *pictures):
    answers = (result for _, result in found(pictures))
    return [str(one) if isinstance(one, InputError) else one.decision for one in answers]


def test_a_region_at_the_edge_of_the_region_of_interest_is_not_tolerated(tmp_path):
    spot, good = draw(tmp_path / "spot.png", 0.9, spot=True), draw(tmp_path / "good.png", 0.2)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    roi = np.ones((SIDE, SIDE), bool)
    for edge, said in ((None, "within tolerance"), (8, "anomalous"), (10, "within tolerance")):
        if edge is not None:
            roi[:] = True
            roi[:, edge:] = False  # the spot ends at 8
        made = model(tensors={"roi": roi.copy()}).with_scale(0.1)
        answers = decisions(tolerating(made, made.stream, EVERY), spot, good, tmp_path / "broken.png")
        assert answers[:2] == [said, "good"]
        assert "broken.png" in answers[2]


def test_models_of_parts_in_views_are_refused():
    plain = model()
    of_parts = SimpleNamespace(products={"": plain}, parts=lambda: object())
    with pytest.raises(InputError, match="not for parts in views"):
        tolerating(of_parts, plain.stream, EVERY)


def test_a_rule_for_a_kind_that_the_model_does_not_name_is_refused():
    plain = model()
    rules = Tolerances("1", "0" * 64, (32, 32), (Rule("any", length=1), Rule("scratchx", length=1)))
    with pytest.raises(InputError, match="kind 'scratchx', and the model names no kinds: correct the rule"):
        tolerating(plain, plain.stream, rules)


@pytest.mark.parametrize("wrong", [3, {"length": 0.5}, {"count": -1}, {"width": "2"}, {"depth": 2}])
def test_damaged_bounds_are_told(wrong):
    with pytest.raises(InputError, match=r"size_bounds are .*: fit anew"):
        model(facts={"size_bounds": wrong})
    known = {"length": 1.5, "width": 1.1, "area": 2.0, "count": 9}
    assert model(facts={"size_bounds": known}).size_bounds.to_dict() == known
    assert model().size_bounds.count == 0  # of an earlier version


@pytest.mark.parametrize("wrong", ["0.1", -1, float("nan"), True])
def test_a_damaged_scale_is_told(wrong):
    with pytest.raises(InputError, match=r"mm_per_pixel is .*: fit anew"):
        model(facts={"mm_per_pixel": wrong})


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"roi": (20, 20, 60, 60)}, {"undistort": LENS}])
def test_each_of_several_parts_is_tolerated_by_itself(how):
    good = [matrix.draw(seed, "top", True, "one", False) for seed in range(8)]
    quick = {"size": "64", "cap": 60, "device": "cpu", "check": False, "samples": 0, "force": True}
    several = flawscope.fit(good, align="turn", several=True, **quick, **how).with_scale(1.0)
    found = several.predict(matrix.draw(110, "top", True, "one", True))
    numbers, parts = found.parts.numbers, found.found_parts
    assert numbers is not None
    assert parts is not None
    assert [part.is_anomalous for part in parts.parts] == [True, False]
    middles = [(round(part.part_pose.y), round(part.part_pose.x)) for part in parts.parts]
    for number, at in enumerate(middles, 1):
        assert numbers[at] == number
    area = (numbers == 1).sum() / parts.parts[0].part_pose.side ** 2
    assert 0.55 < area < 0.75 if "roi" in how else 0.9 < area < 1.2

    def tolerated(*spots, **limits):
        """Whether a picture is that has squares of 3 pixels so far below and right of a part's middle."""
        marked = np.full_like(found.map, float(found.map.min()))
        for part, down, right in spots:
            y, x = middles[part - 1][0] + down, middles[part - 1][1] + right
            marked[y - 1 : y + 2, x - 1 : x + 2] = found.map.max()
        rules = Tolerances("1", "0" * 64, good[0].shape[:2], (Rule("any", **{"length": 6, **limits}),))
        answer = tolerator(several, rules)(replace(found, map=marked))
        assert answer.is_anomalous
        return answer.decision == "within tolerance"

    assert tolerated((1, 0, 0))
    assert not tolerated((1, 0, 0), length=2)
    assert not tolerated((2, 0, 0)), "the anomalous part has nothing marked"
    assert tolerated((1, 0, 0), (2, 0, 0), number=1), "a number is a part's"
    assert not tolerated((1, -8, 0), (1, 8, 0), number=1)
    assert tolerated((1, -8, 0), (1, 8, 0), number=2)
    assert not tolerated((1, 0, 0), (1, 0, (middles[1][1] - middles[0][1]) // 2)), "between the parts"
