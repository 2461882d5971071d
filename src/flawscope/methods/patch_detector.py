"""PatchDetector: a detector that judges the patches of a frozen backbone, at one picture size or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.errors import InputError
from flawscope.methods.detector import Detector, fill_with_lowest, stored_region
from flawscope.methods.features.backbone import Backbone, empty_backbone, load_backbone
from flawscope.methods.features.embedding import (
    PatchEmbedding,
    cell_windows,
    patches_in_region,
    reducing_matrix,
    smoothing_matrix,
)
from flawscope.methods.method import WeightsOrigin
from flawscope.methods.settings import PATCH_SIZE_IN_NAME, PatchSettings

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
        shapes = self.select_stages(backbone.shapes_at(size))
        self.embedding = PatchEmbedding(shapes, config.neighbourhood, dimensions)
        self.grid = self.embedding.grid  # (h, w), P = h w
        self.resizes = size != image
        for name, whole, cells, seen in zip(("row", "column"), image, self.grid, size, strict=True):
            # sigma is in pixels of this size
            smoothing = smoothing_matrix(whole, cells, config.sigma * whole / seen)
            self.register_buffer(f"{name}s", smoothing, persistent=False)
            self.register_buffer(f"{name}_windows", cell_windows(whole, cells), persistent=False)
            if self.resizes:
                self.register_buffer(f"down_{name}s", reducing_matrix(seen, whole), persistent=False)
        self.register_buffer("inside", patches_in_region(roi, self.grid), persistent=False)

    def select_stages(self, of_stages: Sequence[T]) -> list[T]:
        """Pick, of one for each stage, those that this view sees."""
        return list(of_stages if self.stage is None else of_stages[self.stage : self.stage + 1])

    def patches(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn the maps of all stages into patches `[B, P, D]` float32."""
        return self.embedding([m.float() for m in self.select_stages(maps)])

    def resize(self, images: Tensor) -> Tensor:
        """The images at this size: antialiased bilinear, as two products."""
        if not self.resizes:
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


class PatchDetector(Detector):
    """Has the way from images to patches and from their values to maps, and files. A method with one picture
    size adds its tensors or networks in `__init__`, and `judge`; one with several overrides `score`.

    Attributes:
        views: one for each of `config.view_specs`, smallest size first.
        patches: P of each view.
        width: D, numbers in a patch of the view with most; patches of others end in zeros.
    """

    config: PatchSettings
    views: Sequence[PatchView]

    def __init__(self, config: PatchSettings, backbone: Backbone, roi: Tensor | None = None):
        super().__init__(config, roi)
        self.backbone = backbone
        self.views = nn.ModuleList(self.view(*look) for look in config.view_specs)  # type: ignore[assignment]
        self.patches = [view.inside.numel() for view in self.views]
        self.width = max(view.embedding.width for view in self.views)

    def view(self, size: tuple[int, int], stage: int | None = None) -> PatchView:
        """The view at a size (H, W), of one stage or of all."""
        return PatchView(self.config, self.backbone, size, self.roi, stage=stage)

    def judge(self, patches: Tensor) -> Tensor:
        """Values `[B, P]` float32 of patches `[B, P, D]` float32; higher is more anomalous."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` into patches `[B, P, D]` float32, view after view."""
        images, parts, maps = self.filled(images), [], None
        for i, view in enumerate(self.views):
            if maps is None or view.size != self.views[i - 1].size:  # views of one size share its maps
                seen = view.resize(images).contiguous(memory_format=torch.channels_last)
                with self.reduced():
                    maps = self.backbone(seen)
            patches = view.patches(maps)
            more = self.width - patches.shape[2]
            parts.append(F.pad(patches, (0, more)) if more else patches)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def parts(self, features: Tensor) -> list[Tensor]:
        """The patches of each view, of all views' `[..., P, D]` as `embed` gives them."""
        split = features.split(self.patches, dim=-2)
        return [
            part if view.embedding.width == self.width else part[..., : view.embedding.width]
            for view, part in zip(self.views, split, strict=True)
        ]

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.drawn(self.judge(features), inside)

    def drawn(self, values: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values `[B, P]` to scores `[B]`, the maxima of the maps, and maps `[B, H, W]`. Patches that do not
        count have the lowest value of those that do, so that they raise no score."""
        values = fill_with_lowest(values, self.views[0].valid_mask(inside) > 0)
        maps = self.bounded(self.views[0].anomaly_map(values), inside)
        return maps.amax((1, 2)), maps

    # ---- made, and read from a model file

    @classmethod
    def create(cls, config: Any, roi: Tensor | None = None) -> tuple[Self, WeightsOrigin]:
        """A detector with its backbone, not fitted, and the name, origin and licence of the weights."""
        backbone, origin = load_backbone(config.backbone, config.stages, config.network_size, config.weights)
        return cls(config, backbone, roi).eval(), origin

    @classmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        typed = cls.METHOD.parse_stored(config)
        roi = stored_region(typed, tensors)
        if "final_norm" in config and PATCH_SIZE_IN_NAME.match(typed.backbone):
            raise InputError(
                f"the model sees by the plain transformer {typed.backbone}, which is no longer read: fit anew"
            )
        backbone = empty_backbone(typed.backbone, typed.stages, typed.network_size, tensors)
        model = cls(typed, backbone, roi)
        model.fill(tensors)
        return model.eval()
