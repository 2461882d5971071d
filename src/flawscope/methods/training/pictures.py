"""Pictures from which a training learns: their features in bounded memory, and masks of the part on them."""

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

BLOCK = 4  # number of pictures in a thread's batch: fixed, so that results do not depend on threads
CPU = torch.device("cpu")


class Moments:
    """Mean and spread of C channels in one pass over values.

    The method is the pairwise update of Chan, Golub and LeVeque, in float64. A sum of squares would lose its
    digits where a channel's mean is much larger than its spread.

    Attributes:
        count: Number of values of each channel.
        mean: Mean of each channel, `[C]`.
        squares: Sum of the squared deviations from the mean, `[C]`.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Add values `[N, C]`."""
        new_count = len(values)
        if values.device.type == "mps":  # MPS has no float64
            values = values.cpu()
        values = values.double()
        new_mean = values.mean(0)
        new_squares = (values - new_mean).square().sum(0)
        total_count = self.count + new_count
        # squares around the joint mean: those around both means, and those of the means' difference
        delta = new_mean - self.mean
        delta_squares = delta.square() * (self.count * new_count / total_count)
        self.squares = self.squares + new_squares + delta_squares
        self.mean = self.mean + delta * (new_count / total_count)
        self.count = total_count

    def std(self) -> Tensor:
        """Return the standard deviations `[C]` float64."""
        deviations: Tensor = (self.squares / self.count).sqrt()
        return deviations

    def spread(self) -> Tensor:
        """Return divisors `[C]` that standardise the channels: their standard deviations.

        The divisor of a channel that never changes is infinite: divided by it, the channel becomes 0.
        """
        std = self.std()
        return torch.where(std > 1e-6 * self.mean.abs() + 1e-12, std, torch.inf)


class FeatureCache(ABC):
    """Feature maps of training pictures in fp16.

    The maps of as many pictures as fit are in memory; others are computed again when needed. The place of a
    picture is its index in `learnt`, the numbers of the pictures to learn from.
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
            shapes: (C, H, W) of each map that is kept. Further maps that `compute` returns are not kept.
            room: Bytes of maps that are kept, at most.
            where: The device on which maps are kept.
        """
        self.images = images
        self.learnt = list(learnt)
        self.device = device
        self.cache_device = where
        self.scales = len(shapes)
        picture_bytes = 2 * sum(map(math.prod, shapes))  # fp16
        self.max_pictures = room // picture_bytes
        self.packed_maps: dict[int, list[Tensor]] = {}

    @abstractmethod
    def compute(self, images: Tensor) -> list[Tensor]:
        """Return the maps `[B, C, H, W]` float32 of images `[B, 3, H, W]` on the device."""

    @abstractmethod
    def valid_cells(self, places: Sequence[int], images: Tensor) -> list[Tensor] | None:
        """Return which cells of each map of `images` count, `[B, H, W]` bool on the device; None: all.

        Args:
            places: Places of the pictures.
            images: The pictures, `[B, 3, H, W]`.
        """

    def finish_maps(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        """Return the maps `[C, H, W]` that `__getitem__` gives; override it to change cells.

        Args:
            place: Place of the picture.
            maps: Its maps, from memory or computed.
        """
        return maps

    def moments(self, step: ProgressCallback, stage: str) -> list[Moments]:
        """Compute the maps of all pictures, and keep those that fit.

        Args:
            step: Called with the stage, the number of pictures done and the number of pictures.
            stage: Name of the stage.

        Returns:
            For each map, the moments of the cells that count.
        """
        moments: list[Moments] = []

        def compute_block(places: Sequence[int], images: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            batch = torch.stack(images)
            return batch, self.compute(batch.to(self.device))

        def add_block(places: Sequence[int], result: tuple[Tensor, list[Tensor]]) -> None:
            images, maps = result
            if not moments:
                moments.extend(Moments() for _ in maps)
            valid_masks = self.valid_cells(places, images)
            for j, (map_moments, values) in enumerate(zip(moments, maps, strict=True)):
                cells = values.permute(0, 2, 3, 1)
                map_moments.add(cells.flatten(0, 2) if valid_masks is None else cells[valid_masks[j]])
            for k, place in enumerate(places):
                if place < self.max_pictures:
                    self.packed_maps[place] = self._pack(maps, k)

        places = range(len(self.learnt))
        process_blocks(
            places,
            BLOCK,
            load=self.image,
            work=compute_block,
            take=add_block,
            device=self.device,
            step=step,
            stage=stage,
        )
        return moments

    def image(self, place: int) -> Tensor:
        """Return the picture at a place, `[3, H, W]` float32 in 0..1, padding marked."""
        return self.images[self.learnt[place]]

    def __getitem__(self, place: int) -> list[Tensor]:
        """Return the maps of the picture at a place, `[C, H, W]` fp16."""
        maps = self.packed_maps.get(place)
        if maps is None:
            with torch.inference_mode():
                images = torch.stack([self.image(place)]).to(self.device)  # in the memory layout of a batch
                maps = self._pack(self.compute(images), k=0)
        return self.finish_maps(place, maps)

    def _pack(self, maps: list[Tensor], k: int) -> list[Tensor]:
        """Return the maps to keep of picture k of a batch, in fp16."""
        return [values[k].half().to(self.cache_device) for values in maps[: self.scales]]


def unmark(image: Tensor) -> Tensor:
    """Return an image `[3, H, W]` without padding marks: padding has the values of the picture's edge."""
    return torch.where(image < 0, -1 - image, image)  # a mark is -1 - value


class PartMasks:
    """Masks of the part on each picture; each is computed at its first use."""

    def __init__(self, images: GoodPictures, learnt: Sequence[int], most: int, region: Mask | None = None):
        """Learn the foreground from some of the pictures.

        Args:
            images: The good pictures.
            learnt: Numbers of the pictures to learn from.
            most: Largest number of pictures from which the foreground is learnt; 0: the foreground is found
                on each picture without the others, because pictures show different places.
            region: Where pixels count, `[H, W]`; None: everywhere.
        """
        self.images = images
        self.region = region
        self.shape = (0, 0)  # (H, W), which all pictures share; set by the first mask
        examples: Sequence[int] = ()
        if most:
            stride = -(-len(learnt) // most)  # rounded up
            examples = learnt[::stride]
        if examples:
            self.foreground = Foreground.of(crop_padding(images[i])[0] for i in examples)
        else:
            self.foreground = Foreground()
        self.packed_masks: dict[int, Pixels] = {}  # eight pixels a byte

    def __getitem__(self, index: int) -> Mask:
        """Return the mask `[H, W]` bool of the part on a picture, without pixels that do not count.

        If no pixel of the part counts, the mask has all pixels that count.
        """
        if index not in self.packed_masks:
            pixels, inside = to_pixels(self.images[index])
            box = bounding_box(inside)
            foreground = np.zeros_like(inside)
            foreground[box] = self.foreground.mask(np.ascontiguousarray(pixels[box]))
            valid_mask = inside if self.region is None else inside & self.region
            part = foreground & valid_mask
            self.shape = inside.shape
            self.packed_masks[index] = np.packbits(part if part.any() else valid_mask)
        height, width = self.shape
        bits = np.unpackbits(self.packed_masks[index], count=height * width)
        return bits.reshape(height, width).astype(bool)
