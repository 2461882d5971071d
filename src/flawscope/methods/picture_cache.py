"""Good pictures, and features of them, for methods that see them many times, within bounded memory."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from flawscope.artefact.samples import pack_images, unpack_images
from flawscope.errors import FlawscopeError, InputError
from flawscope.methods.extract import Load, in_blocks
from flawscope.methods.features.moments import Moments
from flawscope.methods.threads import workers
from flawscope.progress import Advance, Step

BLOCK = 4  # pictures a thread sees together: fixed, so that results do not depend on the threads
CPU = torch.device("cpu")


class GoodPictures:
    """The good pictures at the network's size, as many in memory as fit, the rest read again when wanted.

    numbers: of the pictures to learn from, in rising order.
    """

    numbers: list[int]

    def __init__(self, load: Load, count: int, room: int):
        """
        Args:
            load: picture i as [3, H, W] float32 in 0..1, padding marked, or None where it cannot be used.
            room: bytes of pictures kept.
        """
        self.load, self.count, self.room = load, count, room
        self.kept: dict[int, Tensor] = {}
        self.numbers, self._apart = list(range(count)), frozenset[int]()
        self._hashes: dict[int, bytes] = {}

    def read(self, step: Step) -> list[int]:
        """Read all of them once; the numbers of those that can be used."""
        advance = Advance(step, "pictures", self.count)

        def look(index: int) -> None:
            image = self.load(index)
            if image is not None:
                kept = packed(image)
                self._hashes[index] = hashlib.sha256(kept.numpy().tobytes()).digest()
                if (index + 1) * kept.nbytes <= self.room:  # the first ones, whichever thread is first
                    self.kept[index] = kept
            advance()

        with workers() as each:
            each(look, range(self.count))
        self.numbers = usable = sorted(self._hashes)
        return usable

    def set_apart(self, learnt: Sequence[int]) -> Load:
        """From now on these alone can be had here; gives what loads the others."""
        self.numbers, self._apart = [*learnt], frozenset(self._hashes).difference(learnt)
        return self._image

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels of the pictures to learn from, after `read`."""
        return hashlib.sha256(b"".join(self._hashes[i] for i in self.numbers)).hexdigest()

    @property
    def bytes(self) -> int:
        """Of the pictures kept."""
        return sum(image.nbytes for image in self.kept.values())

    def __getitem__(self, index: int) -> Tensor:
        """Picture [3, H, W] float32 in 0..1, padding marked. FlawscopeError: it is not to be learnt from."""
        if index in self._apart:
            raise FlawscopeError(f"picture {index} is held out, or a copy: learn from `numbers` alone")
        return self._image(index)

    def _image(self, index: int) -> Tensor:
        kept = self.kept.get(index)
        if kept is not None:
            return unpacked(kept)
        image = self.load(index)
        if image is None:
            raise InputError("a training picture can no longer be read: leave the folder alone while it fits")
        return image


class FeatureCache(ABC):
    """Feature maps of training pictures in fp16, as many as there is room for; the others are made again when
    they are wanted. A picture is its place in `learnt`, the numbers of those that are learnt from."""

    def __init__(
        self,
        images: GoodPictures,
        learnt: Sequence[int],
        device: torch.device,
        shapes: Sequence[tuple[int, ...]],
        room: int,
        where: torch.device = CPU,
    ):
        """
        Args:
            device: computes them.
            shapes: [C, H, W] of the maps that are kept, the first of those that `compute` gives.
            room: bytes.
            where: they are kept.
        """
        self.images, self.learnt, self.device, self.where = images, list(learnt), device, where
        self.scales = len(shapes)
        self.room = room // (2 * sum(map(math.prod, shapes)))  # pictures
        self.kept: dict[int, list[Tensor]] = {}

    @abstractmethod
    def compute(self, images: Tensor) -> list[Tensor]:
        """The maps `[B, C, H, W]` float32 of images `[B, 3, H, W]` on the device."""

    @abstractmethod
    def cells(self, places: Sequence[int], images: Tensor) -> list[Tensor] | None:
        """The cells of each map `[B, H, W]` bool that count, on the device; None: all of them."""

    def held(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        """A picture's maps `[C, H, W]` as they are given."""
        return maps

    def moments(self, step: Step, stage: str) -> list[Moments]:
        """Of each map's cells that count, in all pictures; as many pictures as there is room for are kept."""
        found: list[Moments] = []

        def work(places: Sequence[int], images: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            stacked = torch.stack(images)
            return stacked, self.compute(stacked.to(self.device))

        def take(places: Sequence[int], made: tuple[Tensor, list[Tensor]]) -> None:
            images, maps = made
            found.extend(Moments() for _ in maps[len(found) :])
            counted = self.cells(places, images)
            for j, (one, values) in enumerate(zip(found, maps, strict=True)):
                rows = values.permute(0, 2, 3, 1)
                one.add(rows.flatten(0, 2) if counted is None else rows[counted[j]])
            for k, place in enumerate(places):
                if place < self.room:
                    self.kept[place] = self._packed(maps, k)

        in_blocks(range(len(self.learnt)), BLOCK, self.image, work, take, self.device, step, stage)
        return found

    def image(self, place: int) -> Tensor:
        """[3, H, W] float32 in 0..1, padding marked."""
        return self.images[self.learnt[place]]

    def __getitem__(self, place: int) -> list[Tensor]:
        """The maps that are kept, `[C, H, W]` fp16."""
        maps = self.kept.get(place)
        if maps is None:
            with torch.inference_mode():
                images = torch.stack([self.image(place)]).to(self.device)  # in the layout of a batch
                maps = self._packed(self.compute(images), 0)
        return self.held(place, maps)

    def _packed(self, maps: list[Tensor], k: int) -> list[Tensor]:
        return [values[k].half().to(self.where) for values in maps[: self.scales]]


def packed(image: Tensor) -> Tensor:
    """An image in fewer bytes, where that loses nothing."""
    return torch.from_numpy(pack_images(image.numpy()))


def unpacked(image: Tensor) -> Tensor:
    """Undo `packed`."""
    return torch.from_numpy(unpack_images(image.numpy()))


def plain(image: Tensor) -> Tensor:
    """An image without marks, as it is learnt from: what lies outside of the region is hidden already."""
    return torch.where(image < 0, -1 - image, image)
