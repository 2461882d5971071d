"""A Gaussian over maps, as part of the matrix that brings them to the picture's size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smoothed(matrix: Tensor, sigma: float) -> Tensor:
    """`[size, cells]` float64, which makes pixels of cells, followed by a Gaussian of `sigma` pixels.

    Both are linear and separable, so one matrix a side holds them exactly. The kernel reaches four sigma and
    is mirrored at the border.
    """
    if sigma <= 0:
        return matrix
    reach = min(int(4 * sigma + 0.5), len(matrix) - 1)
    x = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    padded = F.pad(matrix.T[:, None], (reach, reach), mode="reflect")
    return F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))[:, 0].T
