"""Good pictures in a fit, within bounded memory: those that are learnt from and their features, those held
out for calibration, and the part's place on them."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.model_file import pack_images, unpack_images
from flawscope.calibration.goods import Values
from flawscope.errors import FlawscopeError, InputError
from flawscope.methods.detector import Detector, LoadPicture, StoreFeatures, embed_pictures, process_blocks
from flawscope.methods.threads import workers
from flawscope.pictures.decoding import to_eight_bits
from flawscope.pictures.levels import Levels
from flawscope.progress import ProgressCallback, ProgressCounter
from flawscope.synthesis import Foreground, simulate_defect
from flawscope.synthesis.masks import bounding_box
from flawscope.views.views import remove_padding_marks

BLOCK = 4  # pictures a thread sees together: fixed, so that results do not depend on the threads
CPU = torch.device("cpu")


class GoodPictures:
    """The good pictures at the network's size: as many in memory as fit, the others read again when needed.

    numbers: of the pictures to learn from, in rising order.
    """

    numbers: list[int]

    def __init__(self, load: LoadPicture, count: int, room: int):
        """
        Args:
            load: picture i as [3, H, W] float32 in 0..1, padding marked, or None where it cannot be used.
            room: bytes of pictures kept.
        """
        self.load, self.count, self.max_bytes = load, count, room
        self.kept: dict[int, Tensor] = {}
        self.numbers, self._held_out = list(range(count)), frozenset[int]()
        self._hashes: dict[int, bytes] = {}

    def read(self, step: ProgressCallback) -> list[int]:
        """Read every picture once, and return the numbers of those that can be used."""
        advance = ProgressCounter(step, "pictures", self.count)

        def look(index: int) -> None:
            image = self.load(index)
            if image is not None:
                kept = pack_image(image)
                self._hashes[index] = hashlib.sha256(kept.numpy().tobytes()).digest()
                if (index + 1) * kept.nbytes <= self.max_bytes:  # the first ones, whichever thread is first
                    self.kept[index] = kept
            advance()

        with workers() as each:
            each(look, range(self.count))
        self.numbers = usable = sorted(self._hashes)
        return usable

    def set_apart(self, learnt: Sequence[int]) -> LoadPicture:
        """Refuse all pictures but `learnt` from now on, and return the function that loads the others."""
        self.numbers, self._held_out = [*learnt], frozenset(self._hashes).difference(learnt)
        return self._image

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels of the pictures to learn from, after `read`."""
        return hashlib.sha256(b"".join(self._hashes[i] for i in self.numbers)).hexdigest()

    @property
    def bytes(self) -> int:
        """Bytes of the pictures kept."""
        return sum(image.nbytes for image in self.kept.values())

    def __getitem__(self, index: int) -> Tensor:
        """Picture [3, H, W] float32 in 0..1, padding marked. FlawscopeError where it is held out."""
        if index in self._held_out:
            raise FlawscopeError(f"picture {index} is held out, or a copy: learn from `numbers` alone")
        return self._image(index)

    def _image(self, index: int) -> Tensor:
        kept = self.kept.get(index)
        if kept is not None:
            return unpack_image(kept)
        image = self.load(index)
        if image is None:
            raise InputError("a training picture can no longer be read: leave the folder alone while it fits")
        return image


@dataclass
class HeldOut:
    """Pictures held out. Their pixels are not to be had, only a detector's features and values of them.

    parts: their numbers, by group, in the order drawn. step: gets progress.
    """

    parts: list[list[int]]
    step: ProgressCallback
    _load: LoadPicture

    @property
    def numbers(self) -> list[int]:
        """Numbers of the pictures, rising."""
        return sorted(i for part in self.parts for i in part)

    def embed(self, model: Detector, numbers: Sequence[int], store: StoreFeatures) -> None:
        """Features of some of the pictures. InputError where they overflow in the model's precision."""

        def checked(index: int, features: Tensor, inside: Tensor | None) -> None:
            if not bool(features.isfinite().all()):
                raise InputError(
                    f"the networks overflow in {model.config.precision}: choose another --set precision, or "
                    "other pretrained weights"
                )
            store(index, features, inside)

        embed_pictures(model, self._load, numbers, checked, self.step, "calibration")

    def values(self, model: Detector, numbers: Sequence[int] | None = None) -> list[Values]:
        """Values of the pictures `numbers`, in their order; None: of all."""
        numbers = self.numbers if numbers is None else numbers
        found: dict[int, Values] = {}

        def store(index: int, features: Tensor, inside: Tensor | None) -> None:
            found[index] = measure_picture(model, features, inside)

        self.embed(model, numbers, store)
        return [found[i] for i in numbers]

    def scored(self, model: Detector) -> dict[int, Values]:
        """Values of all pictures, by their numbers: what a method is calibrated by."""
        return dict(zip(self.numbers, self.values(model), strict=True))


def measure_picture(model: Detector, features: Tensor, inside: Tensor | None) -> Values:
    """Score, map maximum and map median of one picture; the median is over the pixels that count."""
    scores, maps = model.score(features[None], None if inside is None else inside[None])
    valid_mask = maps[0][model.region(inside)]
    return Values(float(scores[0]), float(maps.max()), float(valid_mask.median()))


Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Moments:
    """Mean and spread of every channel in one pass: Chan, Golub and LeVeque's pairwise update, in float64.

    Sums of squares would cancel where a channel's mean is large beside its spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0  # [C]
        self.squares: Any = 0.0  # of deviations from the mean

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
        found: Tensor = (self.squares / self.count).sqrt()
        return found

    def spread(self) -> Tensor:
        """Standard deviations `[C]`, infinite where a channel never changes: standardised it becomes zero."""
        std = self.std()
        return torch.where(std > 1e-6 * self.mean.abs() + 1e-12, std, torch.inf)


class FeatureCache(ABC):
    """Feature maps of training pictures in fp16, as many as there is room for; the others are computed again
    when they are wanted. A picture is given by its place in `learnt`, the numbers of those learnt from."""

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
            device: on which the maps are computed.
            shapes: [C, H, W] of the maps that are kept, the first of those that `compute` gives.
            room: bytes.
            where: the device on which they are kept.
        """
        self.images, self.learnt, self.device, self.cache_device = images, list(learnt), device, where
        self.scales = len(shapes)
        self.max_bytes = room // (2 * sum(map(math.prod, shapes)))  # pictures
        self.kept: dict[int, list[Tensor]] = {}

    @abstractmethod
    def compute(self, images: Tensor) -> list[Tensor]:
        """The maps `[B, C, H, W]` float32 of images `[B, 3, H, W]` on the device."""

    @abstractmethod
    def valid_cells(self, places: Sequence[int], images: Tensor) -> list[Tensor] | None:
        """The cells of each map `[B, H, W]` bool that count, on the device; None: all of them."""

    def finish_maps(self, place: int, maps: list[Tensor]) -> list[Tensor]:
        """A picture's maps `[C, H, W]` as `__getitem__` returns them, from those computed or kept."""
        return maps

    def moments(self, step: ProgressCallback, stage: str) -> list[Moments]:
        """Moments of each map's cells that count, over all pictures. Keeps the maps that have room."""
        found: list[Moments] = []

        def work(places: Sequence[int], images: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            stacked = torch.stack(images)
            return stacked, self.compute(stacked.to(self.device))

        def take(places: Sequence[int], made: tuple[Tensor, list[Tensor]]) -> None:
            images, maps = made
            found.extend(Moments() for _ in maps[len(found) :])
            valid_mask = self.valid_cells(places, images)
            for j, (one, values) in enumerate(zip(found, maps, strict=True)):
                rows = values.permute(0, 2, 3, 1)
                one.add(rows.flatten(0, 2) if valid_mask is None else rows[valid_mask[j]])
            for k, place in enumerate(places):
                if place < self.max_bytes:
                    self.kept[place] = self._pack(maps, k)

        process_blocks(range(len(self.learnt)), BLOCK, self.image, work, take, self.device, step, stage)
        return found

    def image(self, place: int) -> Tensor:
        """Picture [3, H, W] float32 in 0..1, padding marked."""
        return self.images[self.learnt[place]]

    def __getitem__(self, place: int) -> list[Tensor]:
        """Maps of a picture, `[C, H, W]` fp16."""
        maps = self.kept.get(place)
        if maps is None:
            with torch.inference_mode():
                images = torch.stack([self.image(place)]).to(self.device)  # in the layout of a batch
                maps = self._pack(self.compute(images), 0)
        return self.finish_maps(place, maps)

    def _pack(self, maps: list[Tensor], k: int) -> list[Tensor]:
        return [values[k].half().to(self.cache_device) for values in maps[: self.scales]]


def pack_image(image: Tensor) -> Tensor:
    """An image in fewer bytes, where that loses nothing."""
    return torch.from_numpy(pack_images(image.numpy()))


def unpack_image(image: Tensor) -> Tensor:
    """Unpack an image of `pack_image`."""
    return torch.from_numpy(unpack_images(image.numpy()))


def unmark(image: Tensor) -> Tensor:
    """Remove the padding marks of an image, to learn from it: outside of the region it is hidden already."""
    return torch.where(image < 0, -1 - image, image)


class PartMasks:
    """Masks of the part on each picture, computed when they are first asked for."""

    def __init__(self, images: GoodPictures, learnt: Sequence[int], most: int, region: Mask | None = None):
        """
        Args:
            learnt: numbers of the pictures that are learnt from.
            most: pictures from which the part is learnt; 0: it is found on each picture alone, since they
                show different places.
            region: [H, W], where anything counts; None: everywhere.
        """
        self.images, self.region = images, region
        self.shape = (0, 0)  # of the pictures, all alike
        few = learnt[:: -(-len(learnt) // most)] if most else ()
        self.foreground = Foreground.of(crop_padding(images[i])[0] for i in few) if few else Foreground()
        self.kept: dict[int, Pixels] = {}  # eight pixels a byte

    def __getitem__(self, index: int) -> Mask:
        """Mask [H, W] bool of the part where it counts; where none of it counts, of all that counts."""
        if index not in self.kept:
            pixels, inside = to_pixels(self.images[index])
            box, found = bounding_box(inside), np.zeros_like(inside)
            found[box] = self.foreground.mask(np.ascontiguousarray(pixels[box]))
            valid_mask = inside if self.region is None else inside & self.region
            self.shape = inside.shape
            self.kept[index] = np.packbits(found & valid_mask if (found & valid_mask).any() else valid_mask)
        height, width = self.shape
        return np.unpackbits(self.kept[index], count=height * width).reshape(height, width).astype(bool)


def to_pixels(image: Tensor) -> tuple[Pixels, Mask]:
    """An image `[3, H, W]` as `[H, W, 3]` uint8, and the mask `[H, W]` bool of what is not padding."""
    plain, inside = remove_padding_marks(image.numpy())
    return to_eight_bits(plain.transpose(1, 2, 0), Levels(0.0, 1.0)), inside


def crop_padding(image: Tensor) -> tuple[Pixels, tuple[slice, slice]]:
    """An image `[3, H, W]` without its padding as `[h, w, 3]` uint8, and its window in the image."""
    pixels, inside = to_pixels(image)
    box = bounding_box(inside)
    return np.ascontiguousarray(pixels[box]), box


def add_defect(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Puts a simulated defect on an image `[1, 3, H, W]` as the network takes it."""
    shown, inside = remove_padding_marks(image)
    pixels = to_eight_bits(shown[0].transpose(1, 2, 0), Levels(0.0, 1.0))
    bad = simulate_defect(pixels, rng).picture.transpose(2, 0, 1)[None]
    return np.where(inside[:, None], bad.astype(np.float32) / 255.0, image)
