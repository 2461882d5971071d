"""Embedding of feature maps, one vector per patch (PatchCore, 3.1), and matrices from cells to pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Maps `[B, C_j, H_j, W_j]` to patches `[B, H*W, D]` on the finest grid.

    Every position takes in its p x p neighbourhood (stride 1, zero padded), the coarser maps are resized
    bilinearly to the finest one, and the channels are joined.

    Without `dimensions` the neighbourhood is averaged and the channels are concatenated: D = sum of C_j.
    With it, the result equals the authors' pipeline of unfolding, adaptive average pooling of each layer's
    C_j * p² numbers to `dimensions`, stacking, and adaptive pooling of the stack to `dimensions`, without
    ever building the unfolded tensor: adaptive pooling is linear, so each layer needs one convolution.
    """

    def __init__(self, shapes: list[tuple[int, int, int]], neighbourhood: int, dimensions: int | None):
        super().__init__()
        self.shapes, self.neighbourhood, self.dimensions = shapes, neighbourhood, dimensions
        self.grid = max(((h, w) for _, h, w in shapes), key=lambda g: g[0] * g[1])
        self.width = dimensions or sum(c for c, _, _ in shapes)
        self.spans: list[tuple[int, int]] = []  # the outputs that layer j takes part in
        if dimensions:
            for j, (kernel, low) in enumerate(
                pooling_kernels([c for c, _, _ in shapes], neighbourhood, dimensions)
            ):
                groups = block_groups(kernel, shapes[j][0])
                self.spans.append((low, low + len(kernel)))
                self.register_buffer(f"kernel{j}", pack_groups(kernel, groups), persistent=False)

    def forward(self, maps: list[Tensor]) -> Tensor:
        p = self.neighbourhood
        if self.dimensions is None:
            pooled = [F.avg_pool2d(m, p, stride=1, padding=p // 2) for m in maps]
            merged = torch.cat([self._to_grid(m) for m in pooled], dim=1)
        else:
            parts = []
            for j, m in enumerate(maps):
                kernel = getattr(self, f"kernel{j}")
                groups = m.shape[1] // kernel.shape[1]
                part = self._to_grid(F.conv2d(m, kernel, padding=p // 2, groups=groups))
                low, high = self.spans[j]
                parts.append(F.pad(part, (0, 0, 0, 0, low, self.dimensions - high)))
            merged = torch.stack(parts).sum(0)  # [B, D, H, W]
        return merged.permute(0, 2, 3, 1).flatten(1, 2)  # [B, H*W, D]

    def _to_grid(self, m: Tensor) -> Tensor:
        if tuple(m.shape[-2:]) == self.grid:
            return m
        return F.interpolate(m, size=self.grid, mode="bilinear", align_corners=False)


def pooling_kernels(channels: list[int], p: int, dimensions: int) -> list[tuple[Tensor, int]]:
    """Per layer the convolution `[n, C, p, p]` that equals both poolings, and its first output."""
    inner = adaptive_windows(len(channels) * dimensions, dimensions)
    kernels = []
    for j, c in enumerate(channels):
        layer = adaptive_windows(c * p * p, dimensions)
        rows: dict[int, Tensor] = {}
        for out, (start, stop) in enumerate(inner):
            for k in range(max(start, j * dimensions), min(stop, (j + 1) * dimensions)):
                a, b = layer[k - j * dimensions]
                row = rows.setdefault(out, torch.zeros(c * p * p, dtype=torch.float64))
                row[a:b] += 1.0 / ((b - a) * (stop - start))
        low = min(rows)
        kernels.append((torch.stack([rows[o] for o in sorted(rows)]).view(-1, c, p, p).float(), low))
    return kernels


def adaptive_windows(length: int, outputs: int) -> list[tuple[int, int]]:
    """Adaptive average pooling's windows: output k averages start..stop of `length` inputs."""
    return [(k * length // outputs, -(-(k + 1) * length // outputs)) for k in range(outputs)]


def block_groups(kernel: Tensor, channels: int) -> int:
    """The largest number of groups for which the convolution is block-diagonal, so that it stays cheap."""
    outputs, most = len(kernel), math.gcd(len(kernel), channels)
    used = kernel.flatten(2).abs().sum(2) > 0  # [n, C]
    for groups in (n for n in range(most, 1, -1) if most % n == 0):
        block = torch.block_diag(*[torch.ones(outputs // groups, channels // groups)] * groups).bool()
        if not bool((used & ~block).any()):
            return groups
    return 1


def pack_groups(kernel: Tensor, groups: int) -> Tensor:
    n, c = len(kernel) // groups, kernel.shape[1] // groups
    return torch.cat([kernel[g * n : (g + 1) * n, g * c : (g + 1) * c] for g in range(groups)])


def smooth_matrix(matrix: Tensor, sigma: float) -> Tensor:
    """Matrix `[size, cells]` float64 from cells to pixels, followed by a Gaussian of `sigma` pixels.

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
    """Matrix [size, grid] of a bilinear resize from `grid` to `size`, then a Gaussian of `sigma` pixels."""
    identity = torch.eye(grid, dtype=torch.float64)[None]  # one column a grid cell
    resized = F.interpolate(identity, size=size, mode="linear", align_corners=False)[0]  # [grid, size]
    return smooth_matrix(resized.T, sigma).float().contiguous()


def cell_windows(size: int, grid: int) -> Tensor:
    """Matrix [grid, size], 1 where a pixel lies in a cell's window, as adaptive pooling divides them."""
    pixels, cells = torch.arange(size), torch.arange(grid)[:, None]
    first, end = cells * size // grid, -(-(cells + 1) * size // grid)
    return ((pixels >= first) & (pixels < end)).float()


def patches_in_region(roi: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mask [P] float, 1 where a patch's cell touches the region of interest."""
    return F.adaptive_max_pool2d(roi[None].float(), grid).flatten()


def reducing_matrix(size: int, whole: int) -> Tensor:
    """Matrix [size, whole] of an antialiased bilinear resize from `whole` to `size`, as Pillow does it."""
    factor = whole / size
    reach = max(factor, 1.0)
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * factor
    pixels = torch.arange(whole, dtype=torch.float64) + 0.5
    weights = (1.0 - (pixels[None] - centres[:, None]).abs() / reach).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()
