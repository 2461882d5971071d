"""Which pictures of a run are to be reviewed, what the run left of each, and masks of what it outlined."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.decoding import decode, read_mask
from flawscope.results.run import RESULTS, TABLE
from flawscope.results.table import Row, read_table


@dataclass(frozen=True)
class Flagged:
    """One picture. `name` is that of its files in the results folder; `overlay` and `mask` lie there, None
    where the run wrote none."""

    row: Row
    path: Path
    name: str
    overlay: Path | None = None
    mask: Path | None = None


def read_flagged(results: str | os.PathLike[str], *, every: bool = False) -> list[Flagged]:
    """The anomalous pictures of a run, most severe first; each path once, as it was judged last.

    Args:
        results: a folder that `predict --out` or `evaluate --out` wrote, or a table of results.
        every: the good ones too.

    Raises:
        InputError: there is no table, or no picture of it is there.
    """
    folder = Path(results)
    table = folder / TABLE if folder.is_dir() else folder
    judged = (row for row in read_table(table) if row.score is not None and row.severity is not None)
    last = {row.path: row for row in judged}
    rows = [row for row in last.values() if every or row.decision == "anomalous"]
    if not rows:
        raise InputError(
            f"{table} has no {'judged' if every else 'anomalous'} picture: there is nothing to review"
            + ("" if every or not last else "; --all takes the good ones, too")
        )
    names = _names(folder) if folder.is_dir() else {}
    found = [_flagged(row, folder, names.get(row.path)) for row in rows]
    if not any(one.path.is_file() for one in found):
        raise InputError(
            f"none of the pictures of {table} is there, such as {found[0].path}: run `review` in the folder "
            "in which they were judged"
        )
    return sorted(found, key=lambda one: -(one.row.severity or 0.0))


def _flagged(row: Row, folder: Path, name: str | None) -> Flagged:
    path = Path(row.path)
    if name is None:
        return Flagged(row, path, path.stem)
    files = (folder / kind / f"{name}.png" for kind in ("overlays", "masks"))
    return Flagged(row, path, name, *(file if file.is_file() else None for file in files))


def _names(folder: Path) -> dict[str, str]:
    """Path of a picture -> the name of its files, by the JSON files of the run."""
    found = {}
    for file in (folder / RESULTS).rglob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found[str(json.loads(file.read_text(encoding="utf-8"))["path"])] = (
                file.relative_to(folder / RESULTS).with_suffix("").as_posix()
            )
    return found


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
