"""The test of the promise: its probabilities are those of scipy.stats, and copies are named."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import betabinom, binom

from flawscope.datasets import Item
from flawscope.evaluation import promise
from flawscope.synthesis.demo.dataset import draw_picture


@pytest.mark.parametrize("count", [1, 15, 60])
def test_probabilities_are_those_of_a_trusted_library(count):
    for successes in range(count + 1):
        expected = binom(count, 0.044).sf(successes - 1), betabinom(count, 1.5, 32.5).sf(successes - 1)
        assert promise._binomial_tail(successes, count, 0.044) == pytest.approx(expected[0], abs=1e-12)
        assert promise._beta_binomial_tail(successes, count, 1.5, 32.5) == pytest.approx(
            expected[1], abs=1e-9
        )


@pytest.mark.copies
def test_copies_of_training_pictures_are_named_and_a_broken_promise_has_reasons(tmp_path):
    def item(name, seed, noise=0.0):
        picture = draw_picture("plate", np.random.default_rng(seed), size=128)[0].astype(float)
        picture += np.random.default_rng(0).normal(0, noise, picture.shape)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / name)
        return Item(tmp_path / name, "good", False)

    train = [item(f"t{seed}.png", seed) for seed in range(8)]
    shown = [item("copy.png", 3, 1.0), *(item(f"new{seed}.png", seed) for seed in range(20, 23))]
    known = {"promised": True, "expected_rate": 0.05, "has_shared_units": False, "unit_count": 8}
    model = SimpleNamespace(calibration=SimpleNamespace(**known))

    def checked(alarms):
        predictions = [SimpleNamespace(is_anomalous=k < alarms, shifts=()) for k in range(len(shown))]
        return promise.check_promise(model, train, list(zip(shown, predictions, strict=True)))

    kept, broken = checked(0), checked(3)
    assert kept["copies_of_training"] == [str(tmp_path / "copy.png")]
    assert (kept["broken"], kept["reasons"], broken["broken"]) == (False, [], True)
    assert any("from 8 parts" in reason or "of another day" in reason for reason in broken["reasons"])
    lines = promise.describe_promise({**broken, "images": 4, "expected": 0.05})
    assert lines[0].startswith("the promise was broken: 3 of 4 good pictures")
    assert "1 good test picture of 4 are near-copies" in lines[-1]
