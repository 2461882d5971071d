"""Sources of simulated defects: a folder of textures, and seen defects with their masks."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from flawscope.datasets.dataset import Item
from flawscope.datasets.files import list_pictures
from flawscope.datasets.masks import union
from flawscope.errors import InputError
from flawscope.pictures.decoding import decode, to_eight_bits
from flawscope.synthesis.masks import Mask
from flawscope.synthesis.noise import Picture


class TextureFolder:
    """The textures of a folder and its subfolders, read once and kept in memory; `draw` gives one.

    Any format that `decode` reads. Larger ones are reduced to `side` pixels. Of more than fit into
    `memory` bytes, every n-th in natural order is kept, so that all subfolders are represented.
    """

    def __init__(self, folder: str | os.PathLike[str], *, side: int = 512, memory: int = 256 << 20):
        """Raises `InputError` where there is no picture or none can be read."""
        paths = list_pictures(folder)
        room = max(1, memory // (3 * side * side))
        chosen = paths[:: -(-len(paths) // room)]
        pictures, skipped = [], []
        for path in chosen:
            try:
                pictures.append(_reduced(to_eight_bits(decode(path)), side))
            except InputError as error:
                skipped.append(str(error))
        if not pictures:
            raise InputError(f"no texture in {folder} can be read; the first: {skipped[0]}")
        self.pictures: tuple[Picture, ...] = tuple(pictures)
        self.skipped: tuple[str, ...] = tuple(skipped)  # one line for each file that cannot be read
        self.left_out = len(paths) - len(chosen)  # for want of memory

    def __len__(self) -> int:
        return len(self.pictures)

    def draw(self, rng: np.random.Generator) -> Picture:
        """One of them, `[h, w, 3]` uint8. Not a copy: do not write into it."""
        return self.pictures[int(rng.integers(len(self.pictures)))]


def _reduced(picture: Picture, side: int) -> Picture:
    """At most `side` pixels high and wide, proportions kept."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    reduced: Picture = np.asarray(image)
    reduced.flags.writeable = False
    return reduced


def read_seen(item: Item, white: float | None = None) -> tuple[Picture, Mask]:
    """A defective picture `[H, W, 3]` uint8 and its mask `[H, W]` bool; `white` as for `to_eight_bits`.

    Raises `InputError` where one of the files cannot be read, the sizes differ or the mask is empty.
    """
    picture = to_eight_bits(decode(item.path), white)
    mask = union(item.masks, picture.shape[:2])
    if not mask.any():
        raise InputError(f"cannot use mask {item.masks[0]}: it is empty; mark the defect or leave it out")
    return picture, mask
