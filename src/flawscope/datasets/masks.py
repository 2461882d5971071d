"""The ground truth of pictures: masks in files and marks of labelling tools, and their union.

`pictures.mask_files` decides which mask belongs to which picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flawscope.datasets.labels import LabelFiles, PictureLabels
from flawscope.errors import InputError
from flawscope.pictures.decoding import PillowSource, open_upright, source_name
from flawscope.pictures.listing import picture_files_in
from flawscope.pictures.mask_files import find_masks, fold
from flawscope.pictures.masks import read_mask
from flawscope.types import Array

_OVERLAY_FOLDER = re.compile("overlays?")
_OVERLAY_NAME = re.compile(r"(.+?)[\W_]+overlay")
# share of textured pixels that are equal within two grey levels
OVERLAY_SHARE = 0.5
OVERLAY_LEVELS = 2

Mask = Path | PictureLabels  # a file of its own, or the picture's marks in a labelling tool's file


class GroundTruth:
    """Pictures below a folder, and their marks.

    A picture's marks come from its masks; if it has none, from label files below the folder.

    Attributes:
        masks: Picture of every mask; None where no picture belongs to it.
        overlays: Copies of pictures with something painted in, each with its original.
        pictures: Pictures below the folder, without masks and overlays.
        labels: Label files below the folder.
    """

    def __init__(self, root: Path, beside: Iterable[Path] = (), good_kinds: Iterable[str] = ()):
        """Read the files below `root`.

        Args:
            root: Folder of the pictures.
            beside: Further folders in which masks lie.
            good_kinds: Kinds of marks in label files that are no defects.
        """
        files = picture_files_in(root, own=True)
        all_files = dict.fromkeys(files)  # in order, each file once
        for folder in beside:
            all_files |= dict.fromkeys(picture_files_in(folder))
        self.masks = find_masks(all_files)
        pictures = [path for path in files if path not in self.masks]
        self.overlays = _find_overlays(pictures)
        self.pictures = [path for path in pictures if path not in self.overlays]
        self.labels = LabelFiles(root, self.pictures, good_kinds=good_kinds)
        self._masks_of: dict[Path, list[Path]] = {}
        for mask, picture in self.masks.items():
            if picture is not None:
                self._masks_of.setdefault(picture, []).append(mask)

    def pictures_in(self, folder: Path | None) -> list[Path]:
        """Return the pictures below a folder, in natural order; none for the folder None."""
        if folder is None:
            return []
        return [path for path in self.pictures if path.is_relative_to(folder)]

    def is_masks(self, folder: Path) -> bool:
        """Whether a folder holds masks and no picture."""
        return not self.pictures_in(folder) and any(mask.is_relative_to(folder) for mask in self.masks)

    def find(self, picture: Path) -> tuple[Mask, ...]:
        """Return the masks of a picture; where it has none, its marks in label files."""
        return tuple(self._masks_of.get(picture, ())) or self.labels.find(picture)

    def marked(self, pictures: Iterable[Path]) -> Iterator[tuple[Path, Mask]]:
        """Yield each mask that marks something, with its picture; a mask may be the labels in a file.

        A mask that cannot be read counts as marking nothing.
        """
        for picture in pictures:
            with suppress(InputError, OSError, MemoryError):
                for mask in self.find(picture):
                    if read_any_mask(mask).any():
                        yield picture, mask

    def left_out(self, picture: Path) -> tuple[str, ...]:
        """Return why marks of a picture in label files cannot be used; empty for a picture with a mask."""
        return () if picture in self._masks_of else self.labels.left_out(picture)


def _find_overlays(pictures: Iterable[Path]) -> dict[Path, Path]:
    """Return overlays, each with its original: copies of pictures with something painted in.

    The name of a file or of its folder may say that it is an overlay. Such files of a folder are overlays if
    more than half of them are changed copies of a picture.
    """
    originals_by_name: dict[str, list[Path]] = {}
    # Files that may be overlays, each with the name of its original. The key is the folder, and whether the
    # files' own names say overlay.
    suspects: dict[tuple[Path, bool], list[tuple[Path, str]]] = {}
    for path in pictures:
        name = fold(path.stem)
        name_match = _OVERLAY_NAME.fullmatch(name)
        if name_match:
            suspects.setdefault((path.parent, True), []).append((path, name_match[1]))
        elif _OVERLAY_FOLDER.fullmatch(fold(path.parent.name)):
            suspects.setdefault((path.parent, False), []).append((path, name))
        else:
            originals_by_name.setdefault(name, []).append(path)
    overlays: dict[Path, Path] = {}
    for group in suspects.values():
        original_of: dict[Path, Path] = {}
        for path, name in group:
            for original in originals_by_name.get(name, ()):
                if _is_drawn_on(path, original):
                    original_of[path] = original
        are_most_copies = 2 * len(original_of) > len(group)
        if are_most_copies:
            overlays |= original_of
    return overlays


def _is_drawn_on(path: Path, original: Path) -> bool:
    """Whether `path` shows the picture `original` with changes in some places.

    The result is True if most of the textured pixels are equal. Even areas do not count, because different
    photographs may have them in common.
    """
    try:
        pixels = _read_rgb(path)
        original_pixels = _read_rgb(original)
    except InputError:
        return False
    if pixels.shape != original_pixels.shape:
        return False
    # a textured pixel differs from its left neighbour; the first column, which has none, is left out
    is_textured = np.diff(original_pixels, axis=1).any(2)
    changes = np.abs(pixels - original_pixels).max(2)[:, 1:]
    textured_changes = changes[is_textured]
    if textured_changes.size == 0:
        return False
    equal_share = float(np.mean(textured_changes <= OVERLAY_LEVELS))
    return equal_share > OVERLAY_SHARE


def _read_rgb(path: Path) -> NDArray[np.int16]:
    """Return a picture as [H, W, 3]; int16, so that pixels can be subtracted."""
    return np.asarray(open_upright(path, str(path)).convert("RGB"), np.int16)


def union_masks(
    masks: Iterable[PillowSource | PictureLabels | Array],
    size: tuple[int, int],
    picture: str | None = None,
) -> NDArray[np.bool_]:
    """Return the union of a picture's masks, [H, W] bool.

    Args:
        masks: Files, labels or arrays; a pixel of an array is marked if it is not 0.
        size: Height and width of the picture.
        picture: Name of the picture for the error; None: the error names the mask's file.

    Raises:
        InputError: A mask cannot be read, or has another size.
    """
    union = np.zeros(size, np.bool_)
    for mask in masks:
        name = f"mask {source_name(mask)}" if picture is None else f"the mask of {picture}"
        pixels = mask.astype(bool) if isinstance(mask, np.ndarray) else read_any_mask(mask)
        union |= require_size(pixels, size, name)
    return union


def read_any_mask(mask: PillowSource | PictureLabels) -> NDArray[np.bool_]:
    """Return a mask, [H, W] bool, read from a file or made from a picture's labels.

    Raises:
        InputError: The file or the labels cannot be read.
    """
    return mask.read() if isinstance(mask, PictureLabels) else read_mask(mask)


def require_size(mask: Array, size: tuple[int, int], name: str) -> Array:
    """Return the mask if it has the size of its picture.

    Args:
        mask: The mask, [H, W].
        size: Height and width of the picture.
        name: What to call the mask in the error.

    Raises:
        InputError: The mask has another size.
    """
    height, width = size
    if mask.shape == (height, width):
        return mask
    mask_size = "x".join(map(str, mask.shape[1::-1] + mask.shape[2:]))  # width first, further axes last
    remedy = "turn it like its picture" if mask.shape == (width, height) else "make them agree"
    raise InputError(f"cannot use {name}: it is {mask_size}, its picture {width}x{height}; {remedy}")
