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
        views: one for each of `config.looks`, smallest size first.
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
        self.views = nn.ModuleList(self.view(*look) for look in config.looks)  # type: ignore[assignment]
        self.patches = [view.inside.numel() for view in self.views]
        self.width = self.views[0].embedding.width

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
                seen = view.resized(images).contiguous(memory_format=torch.channels_last)
                with self.reduced():
                    maps = self.backbone(seen)
            parts.append(view.patches(maps))
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
        backbone, origin = load_backbone(
            config.backbone, config.stages, config.network_size, config.weights, config.final_norm
        )
        return cls(config, backbone, roi).eval(), origin

    @classmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        typed = cls.METHOD.stored(config)
        roi = region_of(typed, tensors)
        final_norm = typed.final_norm if "final_norm" in config else None
        backbone = empty_backbone(typed.backbone, typed.stages, typed.network_size, tensors, final_norm)
        model = cls(typed, backbone, roi)
        model.fill(tensors)
        return model.eval()
