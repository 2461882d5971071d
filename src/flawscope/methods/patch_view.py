"""PatchView: from images to patches at one picture size, and from their values to maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods.features.backbone import Backbone
from flawscope.methods.features.embedding import PatchEmbedding, smoothing_matrix, windows
from flawscope.methods.settings import PatchSettings

T = TypeVar("T")


class PatchView(nn.Module):
    """Sees the image at `size` as P patches of D numbers, and draws maps at the image's own size.

    stage: the place, among the chosen stages, of the only one that it sees; None: all, joined.
    """

    inside: Tensor  # [P], 1 where a patch counts
    rows: Tensor  # [H, h]
    columns: Tensor  # [W, w]
    down_rows: Tensor  # [h of this size, H], where it is not the image's
    down_columns: Tensor
    row_windows: Tensor  # [h, H], 1 where a cell sees a pixel
    column_windows: Tensor

    def __init__(
        self,
        config: PatchSettings,
        backbone: Backbone,
        size: tuple[int, int],
        roi: Tensor,
        dimensions: int | None = None,
        stage: int | None = None,
    ):
        """
        Args:
            roi: [H, W] bool at the size of the images.
            dimensions: D, as `PatchEmbedding` takes it.
        """
        super().__init__()
        self.size, self.stage = size, stage
        image = (roi.shape[0], roi.shape[1])
        shapes = self.seen(backbone.shapes_at(size))
        self.embedding = PatchEmbedding(shapes, config.neighbourhood, dimensions)
        self.grid = self.embedding.grid  # (h, w), P = h w
        self.smaller = size != image
        for name, whole, cells, seen in zip(("row", "column"), image, self.grid, size, strict=True):
            # sigma is in pixels of this size
            smoothing = smoothing_matrix(whole, cells, config.sigma * whole / seen)
            self.register_buffer(f"{name}s", smoothing, persistent=False)
            self.register_buffer(f"{name}_windows", windows(whole, cells), persistent=False)
            if self.smaller:
                self.register_buffer(f"down_{name}s", reducing_matrix(seen, whole), persistent=False)
        self.register_buffer("inside", patches_inside(roi, self.grid), persistent=False)

    def seen(self, of_stages: Sequence[T]) -> list[T]:
        """Pick, of one for each stage, those that this view sees."""
        return list(of_stages if self.stage is None else of_stages[self.stage : self.stage + 1])

    def patches(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn the maps of all stages into patches `[B, P, D]` float32."""
        return self.embedding([m.float() for m in self.seen(maps)])

    def resized(self, images: Tensor) -> Tensor:
        """The images at this size: antialiased bilinear, as two products."""
        if not self.smaller:
            return images
        # as single planes: OpenVINO joins a product of four dimensions with the normalisation, and fails
        planes = self.down_rows @ images.flatten(0, 1) @ self.down_columns.T
        return planes.view(-1, images.shape[1], *self.size)

    def valid_mask(self, inside: Tensor | None) -> Tensor:
        """The patches that count, 1 or 0: `[P]`, or `[B, P]` where pictures are padded.

        Args:
            inside: `[B, H, W]` bool, the pixels that count; None: those of the region of interest.
        """
        if inside is None:
            return self.inside
        seen = self.row_windows @ inside.to(self.row_windows.dtype) @ self.column_windows.T  # [B, h, w]
        return (seen > 0).to(self.row_windows.dtype).flatten(1)

    def anomaly_map(self, values: Tensor) -> Tensor:
        """Values of patches `[B, P]` to maps `[B, H, W]`: bilinear resize and Gaussian, two products."""
        return self.rows @ values.view(-1, *self.grid) @ self.columns.T


def patches_inside(roi: Tensor, grid: tuple[int, int]) -> Tensor:
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
