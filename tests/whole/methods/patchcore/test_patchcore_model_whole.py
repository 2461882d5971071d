"""The inference path against the paper's equations, written out here in float64."""

import pytest
import torch

import flawscope
from flawscope.datasets import list_pictures


def test_the_map_of_a_fine_stage_counts_half(drawn):
    """Its spread in good pictures is that of a stage with full weight, doubled."""
    good = list_pictures(drawn / "plate/train/good")
    how = {"size": "48+64", "device": "cpu", "check": False, "samples": 0, "force": True}
    half = flawscope.fit(good, **how, stages=(2, 3), fine_stages=(1,))
    full = flawscope.fit(good, **how, stages=(1, 2, 3))
    light, heavy = (model.session.model.normal[:, 1] for model in (half, full))
    assert float(light[3] / heavy[1]) == pytest.approx(2.0, rel=0.01)
    assert torch.equal(light[1:3], heavy[2:4])
