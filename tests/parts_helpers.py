"""Fits of parts that several pictures show."""

import numpy as np
import pytest

from flawscope.cli import main
from picture_files import save
from small_network import SMALL_FLAGS, SMALL_NETWORK

VIEWS = ("side", "top")
QUICK = {"size": "64", "device": "cpu", "check": False, **SMALL_NETWORK}


def view(part, k, defect=False):
    rng = np.random.default_rng([part, k])
    picture = np.full((80, 80, 3), (60, 80 + 60 * k, 120), np.float64)
    picture[20:60, 20 + 10 * k : 60] = 150
    if defect:
        picture[34:44, 44:54] = 30
    return (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(name="data", scope="module")
def data_fixture(tmp_path_factory):
    """20 good parts to learn, 6 good and 4 defective ones to test; the defect shows from the top only."""
    each = {"train/good": range(20), "test/good": range(50, 56), "test/hole": range(60, 64)}
    named = {
        f"{kind}/p{part:02d}_{name}.png": view(part, k, kind == "test/hole" and k == 1)
        for kind, numbers in each.items()
        for part in numbers
        for k, name in enumerate(VIEWS)
    }
    return save(tmp_path_factory.mktemp("parts"), named)


@pytest.fixture(name="model", scope="module")
def model_fixture(data):
    out = data / "part.safetensors"
    how = ["--part", r"p\d+", "--no-each-view", "--size", "64", "--device", "cpu"]
    how += ["--quiet", "--no-check", *SMALL_FLAGS]
    assert main(["fit", "--data", str(data), "--out", str(out), *how]) == 0
    return out
