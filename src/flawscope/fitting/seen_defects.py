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
    """Return the seen defects that the user chose, each with its masks.

    Args:
        seen: The choice: a number of defects, a folder, a list file, or pairs of picture and mask. 0 and an
            empty list choose no defects.
        method: The method that learns from them.
        seed: Seed by which defects of the data set are chosen.
        dataset: Data set whose defects a number chooses; None: there is none.
        say: Gets a line on defects without a usable mask (`choose_seen`).

    Raises:
        InputError: The method learns from good pictures only, or `seen` has another form.
    """
    has_defects = len(seen) > 0 if isinstance(seen, list | tuple) else str(seen).strip() != "0"
    if not has_defects:
        return []
    if not method.takes_seen_defects:
        raise InputError(f"{method.name} learns from good pictures only: leave out --seen, or take prnet")
    if isinstance(seen, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in seen
    ):
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
    """Read seen defects as the network sees them: in the whole picture, and in a tile around each defect.

    Args:
        pairs: Each defective picture with its masks.
        preprocess: Preprocessing of the pictures.
        roi: Region of interest [H, W] at the network's size; None: all counts.
        say: Gets remarks on unusual masks.

    Returns:
        Hash of the picture's pixels -> images of its defects; and the reasons why other defects cannot be
        used.

    Raises:
        InputError: No defect can be used.
    """
    images_by_hash: dict[str, list[SeenDefect]] = {}
    unusable: list[str] = []
    names = relative_names([picture for picture, _ in pairs])
    for (source, masks), name in zip(pairs, names, strict=True):
        try:
            picture = preprocess.decode(source, name)
            marked = union_masks(masks, picture.shape[:2], name)
            mask_remark = marks_most(marked)  # a text; empty: there is no remark
            if mask_remark:
                say(f"warning: the mask of {name} {mask_remark}")
            views = preprocess.cut(picture, name, roi)
            defect_images = list(_defect_images(views, preprocess.corrected_mask(marked)))
            if not defect_images:
                height, width = preprocess.network_size
                raise InputError(
                    f"cannot use {name} as a defect: its mask is empty, cut away, or less than a "
                    f"pixel at {width}x{height}; mark it, or take a larger --size or crop"
                )
            images_by_hash[pixel_hash(picture)] = [
                SeenDefect(pack_image(torch.from_numpy(image)), mask, name) for image, mask in defect_images
            ]
        except (InputError, MemoryError) as error:
            unusable.append(error_reason(error, name))
    if pairs and not images_by_hash:
        count = pluralize(len(pairs), "seen defect")
        raise InputError(f"none of {count} can be used; the first: {unusable[0]}")
    return images_by_hash, unusable


def _defect_images(
    views: Views, marked: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield images [3, H, W] that show marked pixels, each with its mask [H, W].

    For each frame these are the whole view and, with tiles, a window around each marked region.

    Args:
        views: Views of the picture.
        marked: Marked pixels of the corrected picture.
    """
    # views of several frames hold the views of each frame; those of a single frame hold themselves
    is_single_frame = views.frames[0] is views
    if not is_single_frame:
        for frame in views.frames:
            yield from _defect_images(frame, marked)
        return
    mask = views.placed.mask_to_network(marked)
    if mask.any():
        yield views.images([0])[0], mask
    if views.grid is None:
        return
    canvas = views.geometry.mask_to_network(marked)
    height, width = views.grid.tile
    canvas_height, canvas_width = views.grid.canvas
    labels, _ = label(canvas, structure=np.ones((3, 3)))
    for rows, columns in find_objects(labels):
        y = _window_start(rows, height, canvas_height)
        x = _window_start(columns, width, canvas_width)
        yield views.window(y, x), canvas[y : y + height, x : x + width]


def _window_start(region: slice, side: int, canvas_side: int) -> int:
    """Return the start, along an axis, of a window with a region in its middle.

    A window that would leave the canvas is moved to the canvas's edge.

    Args:
        region: The region's pixels along the axis.
        side: Side of the window, in pixels.
        canvas_side: Side of the canvas, in pixels.
    """
    centred: int = (region.start + region.stop - side) // 2
    return min(max(centred, 0), canvas_side - side)
