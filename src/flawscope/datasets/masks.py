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

    The marks come from masks below the folder or in the folders `beside`, else from label files below it.

    Attributes:
        masks: Picture of every mask, or None.
        overlays: Copies of pictures with something drawn in, each with its picture; they are no pictures.
        labels: Label files.
    """

    def __init__(self, root: Path, beside: Iterable[Path] = (), good_kinds: Iterable[str] = ()):
        """Read the files below `root`.

        Args:
            root: Folder of the pictures.
            beside: Further folders in which masks lie.
            good_kinds: Kinds of marks in label files that are no defects.
        """
        files = picture_files_in(root, own=True)
        every = dict.fromkeys(files)
        for folder in beside:
            every |= dict.fromkeys(picture_files_in(folder))
        self.masks = find_masks(every)
        shown = [path for path in files if path not in self.masks]
        self.overlays = _find_overlays(shown)
        self.pictures = [path for path in shown if path not in self.overlays]
        self.labels = LabelFiles(root, self.pictures, good_kinds=good_kinds)
        self._of: dict[Path, list[Path]] = {}
        for mask, picture in self.masks.items():
            if picture is not None:
                self._of.setdefault(picture, []).append(mask)

    def pictures_in(self, folder: Path | None) -> list[Path]:
        """The pictures below a folder, in natural order."""
        return [path for path in self.pictures if folder is not None and path.is_relative_to(folder)]

    def is_masks(self, folder: Path) -> bool:
        """Whether a folder holds masks and no picture."""
        return not self.pictures_in(folder) and any(mask.is_relative_to(folder) for mask in self.masks)

    def find(self, picture: Path) -> tuple[Mask, ...]:
        """Return the masks of a picture, or its labels."""
        return tuple(self._of.get(picture, ())) or self.labels.find(picture)

    def marked(self, pictures: Iterable[Path]) -> Iterator[tuple[Path, Mask]]:
        """Yield pictures in which something is marked, and the mask or labels that mark it.

        A mask that cannot be read marks nothing.
        """
        for picture in pictures:
            with suppress(InputError, OSError, MemoryError):
                for mask in self.find(picture):
                    if read_any_mask(mask).any():
                        yield picture, mask

    def left_out(self, picture: Path) -> tuple[str, ...]:
        """Why marks of a picture without a mask cannot be used."""
        return () if picture in self._of else self.labels.left_out(picture)


def _find_overlays(pictures: Iterable[Path]) -> dict[Path, Path]:
    """Find pictures called overlays that are copies of others with something drawn in, with their originals.

    A picture is called an overlay by its folder or by its name.
    """
    named: dict[str, list[Path]] = {}
    suspects: dict[tuple[Path, bool], list[tuple[Path, str]]] = {}
    for path in pictures:
        by_name = _OVERLAY_NAME.fullmatch(fold(path.stem))
        if by_name or _OVERLAY_FOLDER.fullmatch(fold(path.parent.name)):
            name = by_name[1] if by_name else fold(path.stem)
            suspects.setdefault((path.parent, by_name is not None), []).append((path, name))
        else:
            named.setdefault(fold(path.stem), []).append(path)
    found: dict[Path, Path] = {}
    for alike in suspects.values():
        pairs = [
            (path, other)
            for path, name in alike
            for other in named.get(name, ())
            if _is_drawn_on(path, other)
        ]
        if 2 * len({path for path, _ in pairs}) > len(alike):
            found |= pairs
    return found


def _is_drawn_on(path: Path, other: Path) -> bool:
    """Whether `path` shows the picture `other` with changes in places: most of its textured pixels are equal.

    Even areas do not count, because different photographs may share them.
    """
    try:
        drawn, plain = (
            np.asarray(open_upright(file, str(file)).convert("RGB"), np.int16) for file in (path, other)
        )
    except InputError:
        return False
    if drawn.shape != plain.shape:
        return False
    textured = np.diff(plain, axis=1).any(2)
    changed = np.abs(drawn - plain).max(2)[:, 1:][textured]
    return changed.size > 0 and float(np.mean(changed <= OVERLAY_LEVELS)) > OVERLAY_SHARE


def union_masks(
    masks: Iterable[PillowSource | PictureLabels | Array],
    size: tuple[int, int],
    picture: str | None = None,
) -> NDArray[np.bool_]:
    """Return the union of a picture's masks, [H, W] bool of the picture's `size`.

    Args:
        masks: Masks: files, labels or arrays; arrays count where they are not 0.
        size: Height and width of the picture.
        picture: Name of the picture in the error, where the masks have no path.

    Raises:
        InputError: A mask cannot be read, or has another size.
    """
    whole = np.zeros(size, np.bool_)
    for mask in masks:
        name = f"mask {source_name(mask)}" if picture is None else f"the mask of {picture}"
        whole |= require_size(
            mask.astype(bool) if isinstance(mask, np.ndarray) else read_any_mask(mask), size, name
        )
    return whole


def read_any_mask(mask: PillowSource | PictureLabels) -> NDArray[np.bool_]:
    """Read a mask, [H, W] bool.

    Raises:
        InputError: It cannot be read.
    """
    return mask.read() if isinstance(mask, PictureLabels) else read_mask(mask)


def require_size(mask: Array, size: tuple[int, int], name: str) -> Array:
    """Return the mask if it has its picture's size (H, W).

    Raises:
        InputError: It has another size.
    """
    if mask.shape != tuple(size):
        found = "x".join(map(str, mask.shape[1::-1] + mask.shape[2:]))
        raise InputError(
            f"cannot use {name}: it is {found}, its picture {size[1]}x{size[0]}; "
            + ("turn it like its picture" if mask.shape == (size[1], size[0]) else "make them agree")
        )
    return mask
