"""The folders that decisions become: copies of good and of defective pictures, and masks of the latter.

All together are a data set, which `fit --update`, `evaluate` and `compare` take; `defect/` with
`masks/defect/` is what `--seen` takes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.decoding import decode, read_mask
from flawscope.results import drawing
from flawscope.results.output_manifest import OwnFiles
from flawscope.review.decisions import DEFECT, FINE
from flawscope.review.flagged import Flagged

MASKS = "masks"
PART = ".part"  # of a copy that is being written


class Folders:
    """Below `out`. Only copies that are named here are ever removed; originals are read and nothing else.
    The copies are listed as flawscope's own, so that a folder above this one does not hold them twice."""

    def __init__(self, out: Path):
        self.out, self.own = out, OwnFiles(out)
        for folder in (FINE, DEFECT):
            for left in (out / folder).glob(f"*{PART}"):  # of a run that was cut off
                left.unlink(missing_ok=True)

    def path(self, decision: str, copy: str) -> Path:
        return self.out / decision / copy

    def mask_path(self, copy: str) -> Path:
        return self.out / MASKS / DEFECT / f"{Path(copy).stem}.png"

    def free_name(self, one: Flagged, taken: Collection[str]) -> str:
        """A name for the picture's copy that no other has, also without its suffix: masks have none."""
        flat = "_".join(PurePosixPath(one.name).parts) or "picture"
        stems = {Path(name).stem.casefold() for name in taken}
        name, number = flat, 1
        while name.casefold() in stems:
            number += 1
            name = f"{flat}_{number}"
        return f"{name}{one.path.suffix}"

    def prepare(self, one: Flagged, decision: str, copy: str) -> Path:
        """A copy that is not yet in its place. InputError where the picture cannot be read or somebody else's
        file has its name, FlawscopeError where it cannot be written."""
        target = self.own.path(f"{decision}/{copy}")
        temporary = target.with_name(f"{target.name}{PART}")
        try:
            shutil.copyfile(one.path, temporary)
        except FileNotFoundError:
            raise InputError(f"there is no {one.path} any more: it cannot be copied") from None
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            why = f"cannot copy {one.path} to {target}: {error.strerror}"
            raise FlawscopeError(f"{why}; free some space or choose another --out") from None
        return temporary

    def place(self, one: Flagged, decision: str, copy: str, temporary: Path) -> None:
        """The prepared copy is what the decision says; of a defect there is a mask, too."""
        os.replace(temporary, self.path(decision, copy))
        self.remove(FINE if decision == DEFECT else DEFECT, copy)
        if decision == DEFECT and (mask := proposed_mask(one)) is not None:
            path = self.mask_path(copy)
            if not path.exists():  # a person may have drawn a better one
                drawing.save_png(self.own.path(path.relative_to(self.out).as_posix()), mask)

    def remove(self, decision: str, copy: str) -> None:
        self.path(decision, copy).unlink(missing_ok=True)
        if decision == DEFECT:
            self.mask_path(copy).unlink(missing_ok=True)


def proposed_mask(one: Flagged) -> NDArray[np.bool_] | None:
    """What the model outlined, [H, W] bool at the picture's size; None where it outlined nothing.

    The run's mask has the network's size. Its bounding box is that of all regions, which are known in the
    picture's pixels: so it is laid there. Without a mask the boxes are filled.
    """
    boxes = one.row.boxes
    if not boxes:
        return None
    picture = decode(one.path)
    whole = np.zeros(picture.shape[:2], np.bool_)
    edges = np.array(boxes)
    around = _pixels((*edges[:, :2].min(axis=0), *edges[:, 2:].max(axis=0)), whole.shape)
    small = _cropped(one.mask)
    if small is None:
        for box in boxes:
            whole[_pixels(box, whole.shape)] = True
        return whole
    height, width = whole[around].shape
    laid = Image.fromarray(small.astype(np.uint8) * np.uint8(255)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    whole[around] = np.asarray(laid) > 127
    return whole


def _cropped(path: Path | None) -> NDArray[np.bool_] | None:
    """The part of a mask that is not empty."""
    if path is None:
        return None
    with suppress(InputError):
        mask = read_mask(path)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size:
            return np.asarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return None


def _pixels(box: tuple[float, ...], size: tuple[int, ...]) -> tuple[slice, slice]:
    """A box x0, y0, x1, y1 as rows and columns, at least one pixel each."""
    x0, y0, x1, y1 = box

    def span(low: float, high: float, length: int) -> slice:
        start = min(max(0, round(low)), length - 1)
        return slice(start, min(length, max(start + 1, round(high))))

    return span(y0, y1, size[0]), span(x0, x1, size[1])
