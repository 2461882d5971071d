"""Good pictures for methods that see them many times, within bounded memory."""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

from flawscope.artefact.samples import pack_images, unpack_images
from flawscope.errors import InputError
from flawscope.methods.extract import Load
from flawscope.methods.threads import workers
from flawscope.progress import Step


class GoodPictures:
    """The good pictures at the network's size, as many in memory as fit, the rest read again when wanted."""

    def __init__(self, load: Load, count: int, room: int):
        """
        Args:
            load: picture i as [3, H, W] float32 in 0..1, padding marked, or None where it cannot be used.
            room: bytes of pictures kept.
        """
        self.load, self.count, self.room = load, count, room
        self.kept: dict[int, Tensor] = {}

    def read(self, step: Step) -> list[int]:
        """Read all of them once; the numbers of those that can be used."""
        done, lock, usable = 0, Lock(), set()

        def look(index: int) -> None:
            nonlocal done
            image = self.load(index)
            with lock:
                done += 1
                if image is not None:
                    usable.add(index)
                    kept = packed(image)
                    if (index + 1) * kept.nbytes <= self.room:  # the first ones, whichever thread is first
                        self.kept[index] = kept
                step("pictures", done, self.count)

        with workers() as each:
            each(look, range(self.count))
        return sorted(usable)

    @property
    def bytes(self) -> int:
        """Of the pictures kept."""
        return sum(image.nbytes for image in self.kept.values())

    def __getitem__(self, index: int) -> Tensor:
        """Picture [3, H, W] float32 in 0..1, padding marked."""
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
