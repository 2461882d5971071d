"""Matrices between the cells of a map and the picture's pixels; a Gaussian over maps is part of them."""

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


def smoothing_matrix(size: int, grid: int, sigma: float) -> Tensor:
    """[size, grid]: bilinear resize from `grid` to `size`, then a Gaussian of `sigma` pixels."""
    identity = torch.eye(grid, dtype=torch.float64)[None]  # one column a grid cell
    resized = F.interpolate(identity, size=size, mode="linear", align_corners=False)[0]  # [grid, size]
    return smoothed(resized.T, sigma).float().contiguous()


def windows(size: int, grid: int) -> Tensor:
    """[grid, size]: 1 where a cell sees a pixel, as adaptive pooling divides them."""
    pixels, cells = torch.arange(size), torch.arange(grid)[:, None]
    first, end = cells * size // grid, -(-(cells + 1) * size // grid)
    return ((pixels >= first) & (pixels < end)).float()
