"""Tolerances on a model's stream: its region of interest counts, and what decides otherwise is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from brightness import SIDE, draw, model
from flawscope.errors import InputError
from flawscope.predictor.tolerating import tolerating, tolerator
from flawscope.results.prediction import Recognition
from flawscope.results.tolerance import Rule, Tolerances
from flawscope.views.preprocess import Preprocess

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


def test_a_picture_of_none_of_the_products_has_the_region_of_the_model_that_judged_it(tmp_path):
    """Its map has the size that this product's network has, which another one may not have."""
    size = (2 * SIDE, 2 * SIDE)
    large = model(preprocess=Preprocess(size), tensors={"roi": np.ones(size, bool)}).with_scale(0.1)
    products = {"large": large, "small": model().with_scale(0.1)}
    judged = products["small"].predict(str(draw(tmp_path / "other.png", 0.9, spot=True)))
    strange = replace(judged, recognition=Recognition(None, "small", 0.01))
    joint = SimpleNamespace(products=products, product=products.__getitem__)
    found = tolerator(joint, EVERY)(strange)
    assert (found.is_anomalous, found.geometry.size) == (True, (SIDE, SIDE))
