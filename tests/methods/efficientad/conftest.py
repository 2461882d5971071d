"""Small pictures to distil from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 drawn pictures of several kinds and shapes. Read only."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(5)
    for k in range(24):
        picture = draw_picture(list(CATEGORIES)[k % len(CATEGORIES)], rng, size=96 + k)[0]
        Image.fromarray(picture[: 80 + k]).save(folder / f"{k:02d}.png")
    return folder
