"""Drawn parts with defects of several kinds, and a model that names them."""

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.synthesis.demo.dataset import draw_picture

KINDS = ("ink", "notch", "wire")
EACH = 5


def draw(kind, number, size=96):
    """A drawn part [size, size, 3] with a strong defect of a kind somewhere, and its mask."""
    rng = np.random.default_rng([number, KINDS.index(kind)])
    picture = draw_picture("plate", rng, size=size)[0].astype(float)
    y, x = rng.integers(size // 4, 3 * size // 4, 2)
    rows, columns = np.mgrid[:size, :size]
    reach = size * rng.uniform(0.09, 0.12)
    if kind == "wire":
        mask = (abs(rows - y) < reach / 3) & (abs(columns - x) < 2 * reach)
        stripes = np.where((columns // 2) % 2, 240, 20)[..., None]
        picture = np.where(mask[..., None], stripes, picture)
    else:
        mask = (rows - y) ** 2 + (columns - x) ** 2 < reach**2
        picture = np.where(mask[..., None], (10, 20, 190) if kind == "ink" else (250, 250, 250), picture)
    return np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8), mask


def good(number):
    return draw_picture("plate", np.random.default_rng(500 + number), size=96)[0]


@pytest.fixture(name="labelled", scope="session")
def labelled_fixture(shared):
    """A data set with kinds of defects, masks of all but the last ones. Read only."""

    def fill(root):
        for kind in (*KINDS, "good"):
            for number in range(EACH):
                picture, mask = draw(kind, number) if kind != "good" else (good(number), None)
                path = root / "test" / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
                if mask is not None and number < EACH - 1:
                    marks = root / "ground_truth" / kind / f"{number}_mask.png"
                    marks.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask.astype(np.uint8) * 255).save(marks)
        (root / "train/good").mkdir(parents=True)
        for number in range(2):
            Image.fromarray(good(number + 9)).save(root / f"train/good/{number}.png")

    return shared("labelled", fill)


@pytest.fixture(name="named", scope="session")
def named_fixture(model_path, labelled, shared):
    """`model_path` that names kinds. Read only."""

    def fill(folder):
        call = ["kinds", str(model_path), "--data", str(labelled), "--out", str(folder / "named.safetensors")]
        assert main([*call, "--error", "20%", "--device", "cpu"]) == 0

    return shared("named", fill) / "named.safetensors"
