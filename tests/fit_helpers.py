"""Calls of fit on drawn pictures."""

import numpy as np
import pytest
from PIL import Image

from flawscope import load
from flawscope.errors import InputError


@pytest.fixture(name="root")
def root_fixture(tmp_path):
    for name in ("bottle", "carpet", "plate"):
        for place in ("train/good/0.png", "test/good/0.png", "test/dent/0.png"):
            path = tmp_path / "data" / name / place
            path.parent.mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    return tmp_path / "data"


@pytest.fixture(name="fits")
def fits_fixture(monkeypatch, model_path):
    """What `fitting.fit` is called with; the carpet fails."""
    calls = []

    def fit(dataset, **given):
        calls.append({"category": dataset.category, **given})
        if dataset.category == "carpet":
            raise InputError("the carpet\nis worn")
        return load(model_path, device="cpu")

    monkeypatch.setattr("flawscope.fitting.fitting.fit", fit)
    return calls


def categories(calls):
    return [call["category"] for call in calls]
