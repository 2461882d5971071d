"""PatchDetector: a detector that judges the patches of a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from flawscope.methods.detector import Detector, region_of, with_lowest
from flawscope.methods.features.backbone import Backbone, empty_backbone, load_backbone
from flawscope.methods.method import Origin
from flawscope.methods.patch_view import PatchView
from flawscope.methods.settings import PatchSettings


class PatchDetector(Detector):
    """Has the way from images to patches and from their values to maps, and files. A method with one picture
    size adds its tensors or networks in `__init__`, and `judge`; one with several overrides `score`.

    Attributes:
        views: one for each size, smallest first.
        patches: P of each view.
        width: D, numbers in a patch.
    """

    config: PatchSettings
    views: Sequence[PatchView]

    def __init__(self, config: PatchSettings, backbone: Backbone, roi: Tensor | None = None):
        """
        Args:
            backbone: sees every size.
            roi: [H, W] bool at the size of the images. None: everywhere.
        """
        super().__init__(config, roi)
        self.backbone = backbone
        self.views = nn.ModuleList(map(self.view, config.view_sizes))  # type: ignore[assignment]
        self.patches = [view.inside.numel() for view in self.views]
        self.width = self.views[0].embedding.width

    def view(self, size: tuple[int, int]) -> PatchView:
        """The view at a size (H, W)."""
        return PatchView(self.config, self.backbone, size, self.roi)

    def judge(self, patches: Tensor) -> Tensor:
        """Values `[B, P]` float32 of patches `[B, P, D]` float32; higher is more anomalous."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` into patches `[B, P, D]` float32, size after size."""
        images, parts = self.filled(images), []
        for view in self.views:
            seen = view.resized(images).contiguous(memory_format=torch.channels_last)
            with self.reduced():
                maps = self.backbone(seen)
            parts.append(view.embedding([m.float() for m in maps]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.drawn(self.judge(features), inside)

    def drawn(self, values: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values `[B, P]` to scores `[B]`, the maxima of the maps, and maps `[B, H, W]`. Patches that do not
        count have the lowest value of those that do, so that they raise no score."""
        values = with_lowest(values, self.views[0].valid_mask(inside) > 0)
        maps = self.bounded(self.views[0].anomaly_map(values), inside)
        return maps.amax((1, 2)), maps

    # ---- made, and read from a model file

    @classmethod
    def create(cls, config: Any, roi: Tensor | None = None) -> tuple[Self, Origin]:
        """A detector with its backbone, not fitted, and the name, origin and licence of the weights."""
        backbone, origin = load_backbone(config.backbone, config.stages, config.network_size, config.weights)
        return cls(config, backbone, roi).eval(), origin

    @classmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        typed = cls.METHOD.stored(config)
        roi = region_of(typed, tensors)
        backbone = empty_backbone(typed.backbone, typed.stages, typed.network_size, tensors)
        model = cls(typed, backbone, roi)
        model.fill(tensors)
        return model.eval()
