"""Good pictures in a fit, within bounded memory: pictures to learn from, and pictures held out."""

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
    """The good pictures at the network's size: as many in memory as fit, the others read again when needed.

    Attributes:
        numbers: Numbers of the pictures to learn from, in rising order.
    """

    numbers: list[int]

    def __init__(self, load: LoadPicture, count: int, room: int):
        """Set up the pictures; `read` reads them.

        Args:
            load: Loads picture i as `[3, H, W]` float32 in 0..1, padding marked; None: it cannot be used.
            count: Number of the pictures.
            room: Bytes of pictures that are kept in memory, at most.
        """
        self.load = load
        self.count = count
        self.max_bytes = room
        self.kept: dict[int, Tensor] = {}
        self.numbers = list(range(count))
        self._held_out = frozenset[int]()
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
        """Refuse all pictures except `learnt` from now on; return the function that loads the others."""
        self.numbers, self._held_out = [*learnt], frozenset(self._hashes).difference(learnt)
        return self._image

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels of the pictures to learn from, after `read`."""
        return hashlib.sha256(b"".join(self._hashes[i] for i in self.numbers)).hexdigest()

    @property
    def bytes(self) -> int:
        """Bytes of the pictures that are kept in memory."""
        return sum(image.nbytes for image in self.kept.values())

    def __getitem__(self, index: int) -> Tensor:
        """Return picture `[3, H, W]` float32 in 0..1, padding marked; raise FlawscopeError if held out."""
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
    """Pictures held out. They give a detector's features and values, and not their pixels.

    Attributes:
        parts: Numbers of the pictures by their groups, in the order in which groups were drawn.
        step: Called with the stage, the pictures done and the number of pictures.
    """

    parts: list[list[int]]
    step: ProgressCallback
    _load: LoadPicture

    @property
    def numbers(self) -> list[int]:
        """Numbers of the pictures, in rising order."""
        return sorted(i for part in self.parts for i in part)

    def embed(self, model: Detector, numbers: Sequence[int], store: StoreFeatures) -> None:
        """Call `store` with each picture's features; raise InputError where they overflow."""

        def checked(index: int, features: Tensor, inside: Tensor | None) -> None:
            if not bool(features.isfinite().all()):
                raise InputError(
                    f"the networks overflow in {model.config.precision}: choose another --set precision, or "
                    "other pretrained weights"
                )
            store(index, features, inside)

        embed_pictures(model, self._load, numbers, checked, self.step, "calibration")

    def values(self, model: Detector, numbers: Sequence[int] | None = None) -> list[Values]:
        """Return the values of the pictures `numbers`, in their order; None: of all."""
        numbers = self.numbers if numbers is None else numbers
        found: dict[int, Values] = {}

        def store(index: int, features: Tensor, inside: Tensor | None) -> None:
            found[index] = measure_picture(model, features, inside)

        self.embed(model, numbers, store)
        return [found[i] for i in numbers]

    def scored(self, model: Detector) -> dict[int, Values]:
        """Return the values of all pictures, by their numbers: a method is calibrated by them."""
        return dict(zip(self.numbers, self.values(model), strict=True))


def measure_picture(model: Detector, features: Tensor, inside: Tensor | None) -> Values:
    """Return score, map maximum and map median of a picture; the median is over the pixels that count."""
    scores, maps = model.score(features[None], None if inside is None else inside[None])
    valid_mask = maps[0][model.region(inside)]
    return Values(float(scores[0]), float(maps.max()), float(valid_mask.median()))


Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def pack_image(image: Tensor) -> Tensor:
    """Return an image in fewer bytes, where that loses nothing."""
    return torch.from_numpy(pack_images(image.numpy()))


def unpack_image(image: Tensor) -> Tensor:
    """Unpack an image of `pack_image`."""
    return torch.from_numpy(unpack_images(image.numpy()))


def to_pixels(image: Tensor) -> tuple[Pixels, Mask]:
    """Return an image `[3, H, W]` as `[H, W, 3]` uint8, and its mask `[H, W]` bool, False in the padding."""
    plain, inside = remove_padding_marks(image.numpy())
    return to_eight_bits(plain.transpose(1, 2, 0), Levels(0.0, 1.0)), inside


def crop_padding(image: Tensor) -> tuple[Pixels, tuple[slice, slice]]:
    """Return an image `[3, H, W]` without its padding, `[h, w, 3]` uint8, and the window that it fills."""
    pixels, inside = to_pixels(image)
    box = bounding_box(inside)
    return np.ascontiguousarray(pixels[box]), box


def add_defect(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return an image `[1, 3, H, W]` of the network's size with a simulated defect."""
    shown, inside = remove_padding_marks(image)
    pixels = to_eight_bits(shown[0].transpose(1, 2, 0), Levels(0.0, 1.0))
    bad = simulate_defect(pixels, rng).picture.transpose(2, 0, 1)[None]
    return np.where(inside[:, None], bad.astype(np.float32) / 255.0, image)
