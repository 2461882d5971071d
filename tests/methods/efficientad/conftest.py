"""Pictures to distil from, and to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
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


@pytest.fixture(scope="session")
def shots() -> list[torch.Tensor]:
    """Pictures [3, 256, 256] float32 of three parts, 8 bits deep. Read only."""
    drawn = [draw_picture("plate", np.random.default_rng([7, k]), size=256)[0] for k in range(3)]
    return [torch.from_numpy(p).permute(2, 0, 1).float() / 255 for p in drawn]
