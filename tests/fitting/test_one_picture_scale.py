"""A model of one picture, whose scores have no spread of their own."""

import numpy as np
import pytest

import flawscope
from flawscope.synthesis.demo import dataset


@pytest.mark.parametrize("score", ["reweighted", "map"])
def test_a_model_of_one_picture_at_two_sizes_has_a_threshold_that_defects_exceed(score):
    good = dataset.draw_picture("plate", np.random.default_rng(1), size=96)[0]
    model = flawscope.fit([good], size="48+96", score=score, samples=0, check=False, device="cpu")
    threshold, spread = model.calibration.score_threshold, model.calibration.spread
    assert threshold > 0
    assert spread > 0.01 * threshold
    bad = good.copy()
    bad[30:60, 30:60] = (255, 0, 255)
    assert model.predict(bad).is_anomalous
    assert model.predict(bad).severity < 1000, "on the scale of good pictures"
    assert not model.predict(good).is_anomalous
