"""Chooses the seen defects that a method learns from, and reads them as the network sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from flawscope.datasets import Dataset
from flawscope.datasets.masks import union_masks
from flawscope.datasets.seen_defects import choose_seen
from flawscope.errors import InputError, pluralize
from flawscope.methods.good_pictures import pack_image
from flawscope.methods.method import Method
from flawscope.methods.task import SeenDefect
from flawscope.pictures.decoding import PictureSource, SeenDefects, error_reason, pixel_hash
from flawscope.pictures.listing import relative_names
from flawscope.pictures.masks import marks_most
from flawscope.progress import Say, discard
from flawscope.views.preprocess import Preprocess
from flawscope.views.views import Views


def seen_defect_pairs(
    seen: SeenDefects,
    method: Method,
    seed: int,
    dataset: Dataset | None,
    say: Say = discard,
) -> list[tuple[PictureSource, list[PictureSource]]]:
    """Return the defective pictures that `seen` names, each with its masks.

    `say` gets a line on those without a usable mask (`choose_seen`).
    """
    wanted = len(seen) if isinstance(seen, list | tuple) else str(seen).strip() != "0"
    if not wanted:
        return []
    if not method.takes_seen_defects:
        raise InputError(f"{method.name} learns from good pictures only: leave out --seen, or take prnet")
    if isinstance(seen, list | tuple) and all(isinstance(p, list | tuple) and len(p) == 2 for p in seen):
        pairs = [(picture, mask if isinstance(mask, list) else [mask]) for picture, mask in seen]
    elif isinstance(seen, int | str | os.PathLike):
        items = choose_seen(seen, dataset, seed, say)
        pairs = [(item.path, list(item.masks)) for item in items]
    else:
        raise InputError("seen is a number, a folder, a list file, or pairs of picture and mask")
    return pairs


def read_defects(
    pairs: Sequence[tuple[PictureSource, list[PictureSource]]],
    preprocess: Preprocess,
    roi: NDArray[np.bool_] | None = None,
    say: Say = discard,
) -> tuple[dict[str, list[SeenDefect]], list[str]]:
    """Read seen defects as the network sees them, in the whole picture and in a tile around each.

    Args:
        pairs: Each defective picture with its masks.
        preprocess: Preprocessing of the pictures.
        roi: Region of interest [H, W] at the network's size; None: all counts.
        say: Gets remarks on unusual masks.

    Returns:
        The defects by their pixels' hash, and the reason for each unusable one.

    Raises:
        InputError: None of them can be used.
    """
    found: dict[str, list[SeenDefect]] = {}
    unusable: list[str] = []
    names = relative_names([picture for picture, _ in pairs])
    for (source, masks), name in zip(pairs, names, strict=True):
        try:
            picture = preprocess.decode(source, name)
            marked = union_masks(masks, picture.shape[:2], name)
            if most := marks_most(marked):
                say(f"warning: the mask of {name} {most}")
            views = preprocess.cut(picture, name, roi)
            shown = list(_defect_images(views, preprocess.corrected_mask(marked)))
            if not shown:
                height, width = preprocess.network_size
                raise InputError(
                    f"cannot use {name} as a defect: its mask is empty, cut away, or less than a "
                    f"pixel at {width}x{height}; mark it, or take a larger --size or crop"
                )
            found[pixel_hash(picture)] = [
                SeenDefect(pack_image(torch.from_numpy(image)), mask, name) for image, mask in shown
            ]
        except (InputError, MemoryError) as error:
            unusable.append(error_reason(error, name))
    if pairs and not found:
        of = pluralize(len(pairs), "seen defect")
        raise InputError(f"none of {of} can be used; the first: {unusable[0]}")
    return found, unusable


def _defect_images(
    views: Views, marked: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield images [3, H, W] that show a part of the marked pixels, each with its mask [H, W]."""
    if views.frames[0] is not views:
        for frame in views.frames:
            yield from _defect_images(frame, marked)
        return
    if (mask := views.placed.mask_to_network(marked)).any():
        yield views.images([0])[0], mask
    if views.grid is None:
        return
    canvas = views.geometry.mask_to_network(marked)
    height, width = views.grid.tile
    for rows, columns in find_objects(label(canvas, structure=np.ones((3, 3)))[0]):
        y, x = (
            min(max((part.start + part.stop - side) // 2, 0), whole - side)
            for part, side, whole in zip((rows, columns), views.grid.tile, views.grid.canvas, strict=True)
        )
        yield views.window(y, x), canvas[y : y + height, x : x + width]
