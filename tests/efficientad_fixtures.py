"""Pictures to learn from."""

import numpy as np
import pytest
import torch

from flawscope.synthesis.demo.dataset import draw_picture


@pytest.fixture(scope="session")
def shots():
    """Pictures [3, 256, 256] float32 of three parts, 8 bits deep. Read only."""
    drawn = [draw_picture("plate", np.random.default_rng([7, k]), size=256)[0] for k in range(3)]
    return [torch.from_numpy(p).permute(2, 0, 1).float() / 255 for p in drawn]
