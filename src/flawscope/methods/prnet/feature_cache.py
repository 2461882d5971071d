"""The feature maps of the good pictures, as they are: what prototypes, means and spreads are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import Lock

import torch
from torch import Tensor

from flawscope.features.moments import Moments
from flawscope.methods.detector import whole_fp32
from flawscope.methods.picture_cache import GoodPictures
from flawscope.methods.prnet.model import Model, cells_of
from flawscope.methods.threads import workers
from flawscope.progress import Step

BLOCK = 4  # pictures a thread sees together: fixed, so that results do not depend on the threads


class FeatureCache:
    """Feature maps of training pictures in fp16, as many as there is room for; the others are made again
    when they are wanted. Cells that do not count hold their channel's mean."""

    def __init__(self, model: Model, images: GoodPictures, learnt: Sequence[int], room: int):
        """
        Args:
            learnt: numbers of the pictures; everywhere else here a picture is its place in this list.
            room: bytes.
        """
        self.model, self.images, self.learnt = model, images, list(learnt)
        self.room = room // (2 * sum(math.prod(shape) for shape in model.shapes[:-1]))  # pictures kept
        self.kept: dict[int, list[Tensor]] = {}
        self.everywhere = not model.config.pads and bool(model.roi.all())

    def measure(self, step: Step) -> None:
        """Set the model's means and spreads, and keep what there is room for."""
        moments = [Moments() for _ in self.model.shapes]
        found: dict[int, tuple[Tensor, list[Tensor]]] = {}
        waiting, done, lock = 0, 0, Lock()
        blocks = range(0, len(self.learnt), BLOCK)

        def look(start: int) -> None:
            nonlocal waiting, done
            images = self._images(range(start, min(start + BLOCK, len(self.learnt))))
            maps = self._maps(images)
            with lock:  # in the pictures' order, whichever thread is first
                found[start] = images, maps
                while waiting in found:
                    seen, four = found.pop(waiting)
                    cells = self._cells(seen)
                    for j, (one, all_maps) in enumerate(zip(moments, four, strict=True)):
                        values = all_maps.permute(0, 2, 3, 1)
                        one.add(values.flatten(0, 2) if cells is None else values[cells[j][:, 0]])
                    for k in range(waiting, min(waiting + len(seen), self.room)):
                        self.kept[k] = [m[k - waiting].half().cpu() for m in four[:-1]]
                    waiting += BLOCK
                done += len(images)
                step("features", done, len(self.learnt))

        with workers(self.model.roi.device) as each:
            each(look, blocks)
        for scale, one in zip([*self.model.scales, self.model.last], moments, strict=True):
            scale.set_spread(one)
        for place, kept in self.kept.items():
            self.kept[place] = self._neutral(place, kept)

    def maps(self, numbers: Tensor, scale: int) -> Tensor:
        """`[b, C, H, W]` fp16 on the CPU of scale 0, 1 or 2, of pictures `[b]` int64."""
        return torch.stack([self[int(k)][scale] for k in numbers])

    def __getitem__(self, place: int) -> list[Tensor]:
        """The three scales' maps `[C, H, W]` fp16 on the CPU."""
        kept = self.kept.get(place)
        if kept is None:
            with torch.inference_mode():
                kept = [m[0].half().cpu() for m in self._maps(self._images([place]))[:-1]]
            kept = self._neutral(place, kept)
        return kept

    def _neutral(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        if self.everywhere:
            return maps
        cells = self._cells(self._images([place]))
        assert cells is not None
        return [s.neutral(m, c[0].cpu()) for s, m, c in zip(self.model.scales, maps, cells, strict=False)]

    def _cells(self, images: Tensor) -> list[Tensor] | None:
        """The cells of the four stages `[B, 1, H_j, W_j]` bool that count; None: all of them."""
        if self.everywhere:
            return None
        inside = self.model.inside(images.to(self.model.roi.device))
        return cells_of(self.model.region(inside).expand(len(images), -1, -1))

    def _images(self, places: Sequence[int]) -> Tensor:
        return torch.stack([self.images[self.learnt[k]] for k in places])

    def _maps(self, images: Tensor) -> list[Tensor]:
        with whole_fp32(images.device):
            return self.model.features(self.model.filled(images.to(self.model.roi.device)))
