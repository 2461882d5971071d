"""The feature maps of the good pictures, as they are: what prototypes, means and spreads are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flawscope.methods import picture_cache
from flawscope.methods.detector import whole_fp32
from flawscope.methods.picture_cache import GoodPictures
from flawscope.methods.prnet.model import Model, cells_of
from flawscope.progress import Step


class FeatureCache(picture_cache.FeatureCache):
    """The maps of the three scales that have prototypes. Cells that do not count hold their channel's
    mean."""

    def __init__(self, model: Model, images: GoodPictures, learnt: Sequence[int], room: int):
        super().__init__(images, learnt, model.roi.device, model.shapes[:-1], room)
        self.model = model
        self.everywhere = not model.config.pads and bool(model.roi.all())

    def measure(self, step: Step) -> None:
        """Set the model's means and spreads, and keep what there is room for."""
        for scale, one in zip(
            [*self.model.scales, self.model.last], self.moments(step, "features"), strict=True
        ):
            scale.set_spread(one)
        for place, maps in self.kept.items():
            self.kept[place] = self._neutral(place, maps)

    def maps(self, numbers: Tensor, scale: int) -> Tensor:
        """`[b, C, H, W]` fp16 on the CPU of scale 0, 1 or 2, of pictures `[b]` int64."""
        return torch.stack([self[int(k)][scale] for k in numbers])

    def compute(self, images: Tensor) -> list[Tensor]:
        with whole_fp32(images.device):
            return self.model.features(self.model.filled(images))

    def cells(self, places: Sequence[int], images: Tensor) -> list[Tensor] | None:
        if self.everywhere:
            return None
        inside = self.model.inside(images.to(self.device))
        return [c[:, 0] for c in cells_of(self.model.region(inside).expand(len(images), -1, -1))]

    def held(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        return maps if place in self.kept else self._neutral(place, maps)

    def _neutral(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        cells = self.cells([place], self.image(place)[None])
        if cells is None:
            return maps
        each = zip(self.model.scales, maps, cells, strict=False)
        return [scale.neutral(one, counted.cpu()) for scale, one, counted in each]
