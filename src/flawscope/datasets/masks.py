"""The masks of a picture: found by the folder's and the file's name, whatever the suffix; and their union."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.datasets.files import pictures_in
from flawscope.datasets.labels import Labels
from flawscope.errors import InputError
from flawscope.pictures.decoding import Stored, name_of, read_mask

Mask = Path | Labels  # a file of its own, or what a labelling tool's file says of the picture
MASK_FOLDERS = ("ground_truth", "masks", "mask")


class Masks:
    """The masks below one folder. Three spellings are known, and the first that fits is taken:
    `STEM_mask.*`, `STEM.*`, and a folder `STEM/` with any number of masks (MVTec LOCO)."""

    def __init__(self, folder: Path | None) -> None:
        self._single: dict[str, list[Path]] = {}
        self._several: dict[str, list[Path]] = {}
        for path in pictures_in(folder) if folder is not None and folder.is_dir() else ():
            relative = PurePosixPath(path.relative_to(folder).as_posix())  # type: ignore[arg-type]
            self._single.setdefault(str(relative.with_suffix("")), []).append(path)
            self._several.setdefault(str(relative.parent), []).append(path)

    def of(self, names: Iterable[str]) -> tuple[Path, ...]:
        """Masks of a picture that may be called by any of these names (relative, without suffix)."""
        for name in names:
            for key in (f"{name}_mask", name):
                if key in self._single:
                    return (self._single[key][0],)
            if name in self._several:
                return tuple(self._several[name])
        return ()


def stem(path: Path, folder: Path) -> str:
    """The picture's path relative to `folder`, without its suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def union(
    masks: Iterable[Stored | Labels | NDArray[Any]], size: tuple[int, int], picture: str | None = None
) -> NDArray[np.bool_]:
    """The union of a picture's masks, [H, W] bool of the picture's `size`; arrays count where they are not 0.

    `picture` names the picture in the error where the masks have no path. Raises InputError where a mask
    cannot be read or has another size.
    """
    whole = np.zeros(size, np.bool_)
    for mask in masks:
        name = f"mask {name_of(mask)}" if picture is None else f"the mask of {picture}"
        whole |= sized(mask.astype(bool) if isinstance(mask, np.ndarray) else read(mask), size, name)
    return whole


def read(mask: Stored | Labels) -> NDArray[np.bool_]:
    """[H, W] bool; InputError where it cannot be read."""
    return mask.read() if isinstance(mask, Labels) else read_mask(mask)


def sized(mask: NDArray[Any], size: tuple[int, int], name: str) -> NDArray[Any]:
    """The mask, if it has its picture's size (H, W); InputError otherwise."""
    if mask.shape != tuple(size):
        found = "x".join(map(str, mask.shape[1::-1] + mask.shape[2:]))
        raise InputError(
            f"cannot use {name}: it is {found}, its picture {size[1]}x{size[0]}; make them agree"
        )
    return mask
