"""What the fits in these tests share."""

import numpy as np
import pytest
from PIL import Image

from flawscope import load
from flawscope.fitting.fitting import fit
from flawscope.synthesis.demo.dataset import draw_picture


@pytest.fixture(scope="session")
def real_path(drawn, shared):
    """A PatchCore model whose features tell defects: of the default network. Read only."""

    def fill(folder):
        fit(drawn, size=64, device="cpu", seed=0).save(folder / "plate.safetensors")

    return shared("real-model", fill) / "plate.safetensors"


@pytest.fixture
def model(real_path):
    return load(real_path, device="cpu")


@pytest.fixture
def part(tmp_path):
    """`part(seed, defect, stained, folder)` is the file of a drawn plate; stained: with a mark that is new;
    defect "noise": with what no good part has."""

    def made(seed, defect=None, stained=False, folder=""):
        kind = None if defect == "noise" else defect
        picture = draw_picture("plate", np.random.default_rng(seed), kind, 0.4, size=96)[0].copy()
        if stained:
            picture[30:46, 30:46] = (20, 120, 40)
        if defect == "noise":
            picture[20:70, 20:70] = np.random.default_rng(seed).integers(0, 255, (50, 50, 3))
        path = tmp_path / folder / f"{seed}-{defect}-{stained}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
        return str(path)

    return made
