"""Pictures from which a training learns: their features in bounded memory, and the part's place on them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flawscope.methods.detector import process_blocks
from flawscope.methods.good_pictures import GoodPictures, Mask, Pixels, crop_padding, to_pixels
from flawscope.progress import ProgressCallback
from flawscope.synthesis import Foreground
from flawscope.synthesis.masks import bounding_box

BLOCK = 4  # pictures a thread sees together: fixed, so that results do not depend on the threads
CPU = torch.device("cpu")


class Moments:
    """Mean and spread of every channel in one pass: Chan, Golub and LeVeque's pairwise update, in float64.

    Sums of squares would cancel where a channel's mean is large beside its spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)  # [C]
        self.squares = torch.zeros((), dtype=torch.float64)  # [C]: of deviations from the mean

    def add(self, values: Tensor) -> None:
        """Take in values `[N, C]`."""
        count = len(values)
        values = (values.cpu() if values.device.type == "mps" else values).double()  # MPS has no float64
        mean = values.mean(0)
        squares = (values - mean).square().sum(0)
        total = self.count + count
        delta = mean - self.mean
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def std(self) -> Tensor:
        """Return the standard deviations `[C]` float64."""
        found: Tensor = (self.squares / self.count).sqrt()
        return found

    def spread(self) -> Tensor:
        """Return standard deviations `[C]`, infinite where a channel never changes: divided, it becomes 0."""
        std = self.std()
        return torch.where(std > 1e-6 * self.mean.abs() + 1e-12, std, torch.inf)


class FeatureCache(ABC):
    """Feature maps of training pictures in fp16.

    As many pictures' maps are kept as there is room for; the others are computed again when needed. A picture
    is named by its place in `learnt`, the numbers of the pictures to learn from.
    """

    def __init__(
        self,
        images: GoodPictures,
        learnt: Sequence[int],
        device: torch.device,
        shapes: Sequence[tuple[int, ...]],
        room: int,
        where: torch.device = CPU,
    ):
        """Set up an empty cache; `moments` fills it.

        Args:
            images: The good pictures.
            learnt: Numbers of the pictures to learn from.
            device: The device on which the maps are computed.
            shapes: `[C, H, W]` of the maps that are kept: the first maps of `compute`.
            room: Bytes of the maps that are kept, at most.
            where: The device on which they are kept.
        """
        self.images, self.learnt, self.device, self.cache_device = images, list(learnt), device, where
        self.scales = len(shapes)
        self.max_bytes = room // (2 * sum(map(math.prod, shapes)))  # pictures
        self.kept: dict[int, list[Tensor]] = {}

    @abstractmethod
    def compute(self, images: Tensor) -> list[Tensor]:
        """Return the maps `[B, C, H, W]` float32 of images `[B, 3, H, W]` on the device."""

    @abstractmethod
    def valid_cells(self, places: Sequence[int], images: Tensor) -> list[Tensor] | None:
        """Return which cells of each map count, `[B, H, W]` bool on the device; None: all of them."""

    def finish_maps(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        """Return a picture's maps `[C, H, W]` for `__getitem__`, from the maps computed or kept."""
        return maps

    def moments(self, step: ProgressCallback, stage: str) -> list[Moments]:
        """Return the moments of each map's counted cells over all pictures, and keep the maps that fit."""
        found: list[Moments] = []

        def work(places: Sequence[int], images: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            stacked = torch.stack(images)
            return stacked, self.compute(stacked.to(self.device))

        def take(places: Sequence[int], made: tuple[Tensor, list[Tensor]]) -> None:
            images, maps = made
            found.extend(Moments() for _ in maps[len(found) :])
            valid_mask = self.valid_cells(places, images)
            for j, (source, values) in enumerate(zip(found, maps, strict=True)):
                rows = values.permute(0, 2, 3, 1)
                source.add(rows.flatten(0, 2) if valid_mask is None else rows[valid_mask[j]])
            for k, place in enumerate(places):
                if place < self.max_bytes:
                    self.kept[place] = self._pack(maps, k)

        process_blocks(range(len(self.learnt)), BLOCK, self.image, work, take, self.device, step, stage)
        return found

    def image(self, place: int) -> Tensor:
        """Return picture `[3, H, W]` float32 in 0..1, padding marked."""
        return self.images[self.learnt[place]]

    def __getitem__(self, place: int) -> list[Tensor]:
        """Return the maps of a picture, `[C, H, W]` fp16."""
        maps = self.kept.get(place)
        if maps is None:
            with torch.inference_mode():
                images = torch.stack([self.image(place)]).to(self.device)  # in the layout of a batch
                maps = self._pack(self.compute(images), 0)
        return self.finish_maps(place, maps)

    def _pack(self, maps: list[Tensor], k: int) -> list[Tensor]:
        return [values[k].half().to(self.cache_device) for values in maps[: self.scales]]


def unmark(image: Tensor) -> Tensor:
    """Remove an image's padding marks, to learn from it: pixels outside the region are hidden already."""
    return torch.where(image < 0, -1 - image, image)


class PartMasks:
    """Masks of the part on each picture, computed when they are first asked for."""

    def __init__(self, images: GoodPictures, learnt: Sequence[int], most: int, region: Mask | None = None):
        """Learn the part's place from some of the pictures.

        Args:
            images: The good pictures.
            learnt: Numbers of the pictures to learn from.
            most: Largest number of pictures from which the part is learnt; 0: it is found on each picture
                alone, since pictures show different places.
            region: Where pixels count, `[H, W]`; None: everywhere.
        """
        self.images = images
        self.region = region
        self.shape = (0, 0)  # of the pictures, all alike
        few = learnt[:: -(-len(learnt) // most)] if most else ()
        self.foreground = Foreground.of(crop_padding(images[i])[0] for i in few) if few else Foreground()
        self.kept: dict[int, Pixels] = {}  # eight pixels a byte

    def __getitem__(self, index: int) -> Mask:
        """Return the mask `[H, W]` bool of the part's counted pixels; if there are none, of all counted."""
        if index not in self.kept:
            pixels, inside = to_pixels(self.images[index])
            box = bounding_box(inside)
            found = np.zeros_like(inside)
            found[box] = self.foreground.mask(np.ascontiguousarray(pixels[box]))
            valid_mask = inside if self.region is None else inside & self.region
            self.shape = inside.shape
            self.kept[index] = np.packbits(found & valid_mask if (found & valid_mask).any() else valid_mask)
        height, width = self.shape
        return np.unpackbits(self.kept[index], count=height * width).reshape(height, width).astype(bool)
