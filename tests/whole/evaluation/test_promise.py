"""The promise held against good test pictures: what is said where it was broken, and copies are named."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flawscope.calibration.threshold import Calibration
from flawscope.datasets import Item
from flawscope.evaluation import promise
from flawscope.synthesis.demo.dataset import draw_picture


@pytest.mark.copies
def test_copies_of_training_pictures_are_named_and_a_broken_promise_has_reasons(tmp_path):
    def item(name, seed, noise=0.0):
        picture = draw_picture("plate", np.random.default_rng(seed), size=128)[0].astype(float)
        picture += np.random.default_rng(0).normal(0, noise, picture.shape)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / name)
        return Item(tmp_path / name, "good", False)

    train = [item(f"t{seed}.png", seed) for seed in range(8)]
    shown = [item("copy.png", 3, 1.0), *(item(f"new{seed}.png", seed) for seed in range(20, 23))]
    known = Calibration(tuple(range(60)), tuple(range(60)), 0.0)

    def checked(alarms, group=None, shifts=()):
        manifest = SimpleNamespace(facts={"group": group}, calibration=known)
        model = SimpleNamespace(calibration=known, manifest=manifest, parts=lambda: None)
        predictions = [SimpleNamespace(is_anomalous=k < alarms, shifts=shifts) for k in range(len(shown))]
        return promise.check_promise(model, train, list(zip(shown, predictions, strict=True)))

    kept, broken = checked(0), checked(3)
    assert kept["copies_of_training"] == [str(tmp_path / "copy.png")]
    assert (kept["broken"], kept["reasons"], broken["broken"]) == (False, [], True)
    assert not checked(3, group=r"new\d")["broken"]  # three pictures of one part
    assert any("of another day" in reason for reason in broken["reasons"])
    for shifts, told in (((), False), ((0.0, 0.0), False), ((0.1, 0.0), False), ((0.0, -9.0), True)):
        reasons = checked(3, shifts=shifts)["reasons"]
        assert any("4 of the good test pictures look otherwise" in one for one in reasons) == told
    assert broken["expected_interval"] == pytest.approx([0.0104, 0.1153], abs=1e-4)
    lines = promise.describe_promise({**broken, "images": 4, "expected": 0.05})
    assert lines[0].startswith("the promise was broken: a sound model calls so many anomalous in 0.")
    assert "1 of 4 good test pictures: " in lines[-1]
