"""A second backbone in a fitted model."""

import numpy as np
import pytest
import torch
from tests.methods import tiny_transformers as tiny

import flawscope
from flawscope.datasets import list_pictures


def test_a_second_backbone_is_measured_in_the_usual_maximum_of_good_pictures(drawn, tmp_path):
    good = list_pictures(drawn / "plate/train/good")
    how = {"size": "48+64", "device": "cpu", "check": False, "samples": 0, "force": True}
    second = {"second_backbone": tiny.NAMES[0], "second_stages": (2,)}
    second["second_weights"] = tiny.weights(tiny.NAMES[0], tmp_path)
    model = flawscope.fit(good, **how, **second)
    model.save(tmp_path / "model.safetensors")
    again = flawscope.load(tmp_path / "model.safetensors")
    picture = good[0]
    assert again.predict(picture).score == pytest.approx(model.predict(picture).score, rel=1e-5)
    assert tiny.NAMES[0] in again.manifest.backbone["name"]
    detector, peaks = model.session.model, []
    branch = detector.branches[-1]
    assert branch.second
    assert branch.size == (56, 56)
    alone = flawscope.fit(good, **how)
    assert len(alone.session.model.branches) == len(detector.branches) - 1
    for left_out in range(len(good)):
        others = flawscope.fit(good[:left_out] + good[left_out + 1 :], **how, **second).session.model
        image = model.manifest.preprocess(good[left_out])[0]
        part = others.parts(others.embed(torch.from_numpy(image)))[-1]
        branch = others.branches[-1]
        away = branch.search(part - branch.centre, branch.valid_mask(None))
        peaks.append(float(branch.anomaly_map(away).max()))
    mean, spread = detector.normal[-1, :2].tolist()
    assert (np.median(peaks) - mean) / spread == pytest.approx(1.0, rel=0.1)
