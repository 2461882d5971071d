"""Small pictures with a texture of their own, and where the reference data lie."""

import numpy as np
import pytest
from PIL import Image


def texture(seed, side=48):
    """[side, side, 3] uint8: blobs that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture
def save():
    """save(path, seed=..., pixels=...) writes a picture, in the format of its suffix; returns the path."""
    count = iter(range(1000, 100_000))

    def write(path, pixels=None, seed=None, side=48):
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            pixels = texture(next(count) if seed is None else seed, side)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def root(tmp_path, save):
    """Three good pictures."""
    for k in range(3):
        save(tmp_path / f"part/good/{k}.png")
    return tmp_path / "part"


@pytest.fixture
def mask():
    marked = np.zeros((48, 48), np.uint8)
    marked[10:20, 10:20] = 255
    return marked


@pytest.fixture
def mvtec(tmp_path, save, mask):
    """A clean category: 20 to train on, 2 good and 2 × 2 defective to test, all masks there."""
    root = tmp_path / "widget"
    for k in range(20):
        save(root / f"train/good/{k:03}.png")
    for k in range(2):
        save(root / f"test/good/{k:03}.png")
        for kind in ("bent", "cut"):
            save(root / f"test/{kind}/{k:03}.png")
            save(root / f"ground_truth/{kind}/{k:03}_mask.png", mask)
    return root
