"""Good pictures for methods that see them many times, within bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from threading import Lock

import torch
from torch import Tensor

from flawscope.artefact.samples import pack_images, unpack_images
from flawscope.errors import FlawscopeError, InputError
from flawscope.methods.extract import Load
from flawscope.methods.threads import workers
from flawscope.progress import Step


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
        done, lock = 0, Lock()

        def look(index: int) -> None:
            nonlocal done
            image = self.load(index)
            kept = None if image is None else packed(image)
            digest = b"" if kept is None else hashlib.sha256(kept.numpy().tobytes()).digest()
            with lock:
                done += 1
                if kept is not None:
                    self._hashes[index] = digest
                    if (index + 1) * kept.nbytes <= self.room:  # the first ones, whichever thread is first
                        self.kept[index] = kept
                step("pictures", done, self.count)

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


def packed(image: Tensor) -> Tensor:
    """An image in fewer bytes, where that loses nothing."""
    return torch.from_numpy(pack_images(image.numpy()))


def unpacked(image: Tensor) -> Tensor:
    """Undo `packed`."""
    return torch.from_numpy(unpack_images(image.numpy()))


def plain(image: Tensor) -> Tensor:
    """An image without marks, as it is learnt from: what lies outside of the region is hidden already."""
    return torch.where(image < 0, -1 - image, image)
