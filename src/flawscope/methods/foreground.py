"""Where the part is on good pictures, for methods that put defects on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flawscope.methods.picture_cache import GoodPictures
from flawscope.pictures.decoding import to_eight_bits
from flawscope.pictures.views import unmarked
from flawscope.synthesis import Foreground
from flawscope.synthesis.masks import bounding_box

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Parts:
    """The part on each picture, found when it is asked for."""

    def __init__(self, images: GoodPictures, learnt: Sequence[int], most: int, region: Mask | None = None):
        """
        Args:
            learnt: numbers of the pictures that are learnt from.
            most: of these, that show where the part is; 0: each picture shows it by itself, since they show
                different places.
            region: [H, W], where anything counts; None: everywhere.
        """
        self.images, self.region = images, region
        self.shape = (0, 0)  # of the pictures, all alike
        few = learnt[:: -(-len(learnt) // most)] if most else ()
        self.foreground = Foreground.of(unpadded(images[i])[0] for i in few) if few else Foreground()
        self.kept: dict[int, Pixels] = {}  # eight pixels a byte

    def __getitem__(self, index: int) -> Mask:
        """[H, W]: the part where it counts; all that counts, where none of the part does."""
        if index not in self.kept:
            pixels, inside = pixels_of(self.images[index])
            box, found = bounding_box(inside), np.zeros_like(inside)
            found[box] = self.foreground.mask(np.ascontiguousarray(pixels[box]))
            counted = inside if self.region is None else inside & self.region
            self.shape = inside.shape
            self.kept[index] = np.packbits(found & counted if (found & counted).any() else counted)
        height, width = self.shape
        return np.unpackbits(self.kept[index], count=height * width).reshape(height, width).astype(bool)


def pixels_of(image: Tensor) -> tuple[Pixels, Mask]:
    """An image `[3, H, W]` as `[H, W, 3]` uint8, and `[H, W]` bool: what is not padding."""
    plain, inside = unmarked(image.numpy())
    return to_eight_bits(plain.transpose(1, 2, 0), white=1.0), inside


def unpadded(image: Tensor) -> tuple[Pixels, tuple[slice, slice]]:
    """An image `[3, H, W]` without its padding as `[h, w, 3]` uint8, and where that lies in it."""
    pixels, inside = pixels_of(image)
    box = bounding_box(inside)
    return np.ascontiguousarray(pixels[box]), box
