"""Good pictures of a fit, within bounded memory: pictures to learn from, and pictures held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.model_file import pack_images, unpack_images
from flawscope.calibration.rows import Values
from flawscope.errors import FlawscopeError, InputError
from flawscope.methods.detector import Detector, LoadPicture, StoreFeatures, embed_pictures
from flawscope.methods.threads import workers
from flawscope.pictures.decoding import to_eight_bits
from flawscope.pictures.levels import Levels
from flawscope.progress import ProgressCallback, ProgressCounter
from flawscope.synthesis import simulate_defect
from flawscope.synthesis.masks import bounding_box
from flawscope.views.views import remove_padding_marks


class GoodPictures:
    """The good pictures at the network's size. As many as fit are in memory; others are read when needed.

    Attributes:
        numbers: Numbers of the pictures to learn from, in rising order.
    """

    numbers: list[int]

    def __init__(self, load: LoadPicture, count: int, room: int):
        """Set up the pictures, without reading any.

        Args:
            load: Loads picture i as `[3, H, W]` float32 in 0..1, padding marked, or returns None for a
                picture that cannot be used.
            count: Number of the pictures.
            room: Bytes of pictures that are kept in memory, at most.
        """
        self.load = load
        self.count = count
        self.max_bytes = room
        self.packed_images: dict[int, Tensor] = {}  # number of a picture in memory -> `pack_image` of it
        self.numbers = list(range(count))
        self._held_out = frozenset[int]()
        self._hashes: dict[int, bytes] = {}  # number of a usable picture -> SHA-256 of its pixels

    def read(self, step: ProgressCallback) -> list[int]:
        """Read every picture once, and return the numbers of those that can be used."""
        advance = ProgressCounter(step, "pictures", self.count)

        def read_picture(index: int) -> None:
            image = self.load(index)
            if image is not None:
                packed = pack_image(image)
                self._hashes[index] = hashlib.sha256(packed.numpy().tobytes()).digest()
                # A picture stays in memory if all pictures up to it would fit. Thus the choice does not
                # depend on the order in which threads read them
                if (index + 1) * packed.nbytes <= self.max_bytes:
                    self.packed_images[index] = packed
            advance()

        with workers() as map_indices:
            map_indices(read_picture, range(self.count))
        self.numbers = sorted(self._hashes)
        return self.numbers

    def set_apart(self, learnt: Sequence[int]) -> LoadPicture:
        """Let `[]` give only the pictures to learn from, and refuse all others from now on.

        Args:
            learnt: Numbers of the pictures to learn from.

        Returns:
            A function that loads any picture, also those that `[]` now refuses.
        """
        self.numbers = [*learnt]
        self._held_out = frozenset(self._hashes).difference(learnt)
        return self._image

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels of the pictures to learn from, after `read`."""
        return hashlib.sha256(b"".join(self._hashes[i] for i in self.numbers)).hexdigest()

    @property
    def bytes(self) -> int:
        """Bytes of the pictures in memory."""
        return sum(packed.nbytes for packed in self.packed_images.values())

    def __getitem__(self, index: int) -> Tensor:
        """Return a picture to learn from, `[3, H, W]` float32 in 0..1, padding marked.

        Raises:
            FlawscopeError: The picture is held out, or a copy.
            InputError: Its file can no longer be read.
        """
        if index in self._held_out:
            raise FlawscopeError(f"picture {index} is held out, or a copy: learn from `numbers` alone")
        return self._image(index)

    def _image(self, index: int) -> Tensor:
        packed = self.packed_images.get(index)
        if packed is not None:
            return unpack_image(packed)
        image = self.load(index)
        if image is None:
            raise InputError("a training picture can no longer be read: leave the folder alone while it fits")
        return image


@dataclass
class HeldOut:
    """Pictures held out. A method gets their features and values by a detector, but no pixels.

    Attributes:
        parts: Numbers of the pictures of each group, in the order in which groups were drawn.
        step: Called with the stage, the number of pictures done and the number of pictures.
    """

    parts: list[list[int]]
    step: ProgressCallback
    _load: LoadPicture

    @property
    def numbers(self) -> list[int]:
        """Numbers of the pictures, in rising order."""
        return sorted(i for part in self.parts for i in part)

    def embed(self, model: Detector, numbers: Sequence[int], store: StoreFeatures) -> None:
        """Call `store` with the features of each picture in `numbers`.

        Raises:
            InputError: The networks overflow: a feature is infinite or no number.
        """

        def store_checked(index: int, features: Tensor, inside: Tensor | None) -> None:
            if not bool(features.isfinite().all()):
                raise InputError(
                    f"the networks overflow in {model.config.precision}: choose another --set precision, or "
                    "other pretrained weights"
                )
            store(index, features, inside)

        embed_pictures(model, self._load, numbers, store_checked, self.step, stage="calibration")

    def values(self, model: Detector, numbers: Sequence[int] | None = None) -> list[Values]:
        """Return the values of pictures, in the order of their numbers.

        Args:
            model: The detector.
            numbers: Numbers of the pictures; None: all pictures, in rising order.
        """
        numbers = self.numbers if numbers is None else numbers
        values_by_number: dict[int, Values] = {}

        def store_values(number: int, features: Tensor, inside: Tensor | None) -> None:
            values_by_number[number] = measure_picture(model, features, inside)

        self.embed(model, numbers, store_values)
        return [values_by_number[number] for number in numbers]

    def scored(self, model: Detector) -> dict[int, Values]:
        """Return the values of all pictures held out, by their numbers, to calibrate a method."""
        return dict(zip(self.numbers, self.values(model), strict=True))


def measure_picture(model: Detector, features: Tensor, inside: Tensor | None) -> Values:
    """Return score, map maximum and map median of a picture; the median is over the pixels that count.

    Args:
        model: The detector.
        features: Features of the picture from `embed`, without the batch.
        inside: The pixels that count, `[H, W]` bool; None: the region of interest.
    """
    scores, maps = model.score(features[None], None if inside is None else inside[None])
    valid_values = maps[0][model.region(inside)]
    return Values(float(scores[0]), float(maps.max()), float(valid_values.median()))


Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def pack_image(image: Tensor) -> Tensor:
    """Return an image `[3, H, W]` float32 as uint8 where that loses nothing, else unchanged."""
    return torch.from_numpy(pack_images(image.numpy()))


def unpack_image(image: Tensor) -> Tensor:
    """Return the image `[3, H, W]` float32 that `pack_image` packed."""
    return torch.from_numpy(unpack_images(image.numpy()))


def to_pixels(image: Tensor) -> tuple[Pixels, Mask]:
    """Return an image `[3, H, W]` as `[H, W, 3]` uint8, and its mask `[H, W]` bool, False in the padding."""
    plain, inside = remove_padding_marks(image.numpy())
    return to_eight_bits(plain.transpose(1, 2, 0), Levels(0.0, 1.0)), inside


def crop_padding(image: Tensor) -> tuple[Pixels, tuple[slice, slice]]:
    """Return an image `[3, H, W]` without its padding as `[h, w, 3]` uint8, and its window in the image."""
    pixels, inside = to_pixels(image)
    box = bounding_box(inside)
    return np.ascontiguousarray(pixels[box]), box


def add_defect(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a copy of an image `[1, 3, H, W]` at the network's size with a simulated defect."""
    plain, inside = remove_padding_marks(image)
    pixels = to_eight_bits(plain[0].transpose(1, 2, 0), Levels(0.0, 1.0))
    defective = simulate_defect(pixels, rng).picture.transpose(2, 0, 1)[None]
    return np.where(inside[:, None], defective.astype(np.float32) / 255.0, image)
