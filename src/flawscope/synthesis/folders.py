"""What is simulated from: a folder of textures, and a folder of seen defects with their masks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from flawscope.datasets.dataset import Item
from flawscope.datasets.files import child, list_pictures, pictures_in
from flawscope.datasets.layouts import find_categories, open_dataset
from flawscope.datasets.masks import MASK_FOLDERS, Masks, stem
from flawscope.errors import InputError
from flawscope.imaging import decode, read_mask
from flawscope.synthesis.appearance import to_eight_bits
from flawscope.synthesis.masks import Mask
from flawscope.synthesis.noise import Picture


class TextureFolder:
    """The textures of a folder and its subfolders, read once and kept in memory; `draw` gives one.

    Any format that `imaging.decode` reads. Larger ones are reduced to `side` pixels. Of more than fit into
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


def list_seen(folder: str | os.PathLike[str], category: str | None = None) -> list[Item]:
    """Defective pictures with masks: the test pictures of a data set, or any folder of pictures with the
    masks in a folder `masks` or `ground_truth` in it, beside it or above it.

    Masks are found by name: `STEM_mask.png`, `STEM.png` or a folder `STEM`. Raises `InputError` where there
    is none.
    """
    root = Path(folder)
    items: list[Item] = []
    reason = f"{folder}: no defective picture with a mask; put masks of the same names into {root / 'masks'}"
    if find_categories(root):
        try:
            items = [item for item in open_dataset(root, category).test if item.anomalous and item.masks]
        except InputError as error:  # the folder "test" of a data set looks like half a data set
            reason = str(error)
    items = items or _with_masks(root)
    if not items:
        raise InputError(reason)
    return items


def _with_masks(root: Path) -> list[Item]:
    full = root.resolve()
    inside = child(root, *MASK_FOLDERS)
    folders = [inside, child(full.parent, *MASK_FOLDERS), child(full.parent.parent, *MASK_FOLDERS)]
    known = [Masks(one) for one in folders if one is not None]
    items = []
    for path in pictures_in(root):
        if inside is not None and path.is_relative_to(inside):
            continue
        name = stem(path, root)
        parts = name.split("/")
        # root/KIND/1, root/images/1, and KIND/1 where root is the folder KIND
        spellings = [name, f"{full.name}/{name}", *(["/".join(parts[1:])] if len(parts) > 1 else [])]
        found = next((m for m in (masks.of(spellings) for masks in known) if m), ())
        if found:
            items.append(Item(path, path.resolve().parent.name, True, found))
    return items


def read_seen(item: Item, white: float | None = None) -> tuple[Picture, Mask]:
    """A defective picture `[H, W, 3]` uint8 and its mask `[H, W]` bool; `white` as for `to_eight_bits`.

    Raises `InputError` where one of the files cannot be read, the sizes differ or the mask is empty.
    """
    picture = to_eight_bits(decode(item.path), white)
    mask = np.zeros(picture.shape[:2], np.bool_)
    for path in item.masks:
        one = read_mask(path)
        if one.shape != mask.shape:
            sizes = "{1}x{0}, its picture {3}x{2}".format(*one.shape, *mask.shape)
            raise InputError(f"cannot use mask {path}: it is {sizes}; make them agree")
        mask |= one
    if not mask.any():
        raise InputError(f"cannot use mask {item.masks[0]}: it is empty; mark the defect or leave it out")
    return picture, mask
