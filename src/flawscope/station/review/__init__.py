"""Review of a run: its pictures, a file of decisions that is complete after each of them, and the folders
that follow from it.

`good/` and `defect/` hold copies of pictures, `masks/defect/` masks of defects. Together they are a data set
for `fit --update`, `evaluate` and `compare`; `defect/` with its masks is for `--seen`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.decoding import decode, read_mask
from flawscope.results import drawing
from flawscope.results.run import RESULTS, TABLE
from flawscope.results.table import OwnFiles, Row, csv_cell, from_csv_cell, read_table

FINE, DEFECT, UNDONE = "good", "defect", "undone"
LOG = "review.csv"  # by which `open_dataset` knows the folder


@dataclass(frozen=True)
class Flagged:
    """Picture of a run. name: of its files in the results. overlay, mask: files there; None: not written."""

    row: Row
    path: Path
    name: str
    overlay: Path | None = None
    mask: Path | None = None


def read_flagged(results: str | os.PathLike[str], *, every: bool = False) -> list[Flagged]:
    """Return the anomalous pictures of a run, most severe first; each path once, as it was judged last.

    Args:
        results: a folder that `predict --out` or `evaluate --out` wrote, or a table of results.
        every: return the good ones, too.

    Raises:
        InputError: there is no table, or none of its pictures is there.
    """
    folder = Path(results)
    table = folder / TABLE if folder.is_dir() else folder
    judged = (row for row in read_table(table) if row.score is not None and row.severity is not None)
    last = {row.path: row for row in judged}
    names = _names(folder)
    rows = [row for row in last.values() if every or row.decision == "anomalous"]
    found = [_flagged(row, folder, names.get(row.path)) for row in rows]
    if not found:
        raise InputError(
            f"{table} has no {'judged' if every else 'anomalous'} picture: there is nothing to review"
            + ("" if every or not last else "; --all takes the good ones, too")
        )
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
    """Return path of a picture -> name of its files, by the JSON files of the run."""
    found = {}
    for file in (folder / RESULTS).rglob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            path = str(json.loads(file.read_text(encoding="utf-8"))["path"])
            found[path] = file.relative_to(folder / RESULTS).with_suffix("").as_posix()
    return found


def proposed_mask(one: Flagged) -> NDArray[np.bool_] | None:
    """Return the model's mask, [H, W] bool at the picture's size; None where it outlined nothing.

    The run's mask has the network's size. Its bounding box is that of all regions, which are known in the
    picture's pixels: the mask is laid there. Without a mask the boxes are filled.
    """
    boxes = [[round(edge) for edge in box] for box in one.row.boxes]
    if not boxes:
        return None
    height, width = decode(one.path).shape[:2]
    whole = Image.new("L", (width, height))
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    small = Image.new("L", (1, 1))
    with suppress(InputError):
        small = Image.fromarray(read_mask(one.mask)).convert("L") if one.mask is not None else small
    if around := small.getbbox():
        size = max(1, max(rights) - min(lefts)), max(1, max(bottoms) - min(tops))
        laid = small.crop(around).resize(size, Image.Resampling.BILINEAR)
        whole.paste(laid, (min(lefts), min(tops)))
    else:
        for left, top, right, bottom in boxes:
            whole.paste(255, (left, top, max(right, left + 1), max(bottom, top + 1)))
    return np.asarray(whole) > 127


# ------------------------------------------------------------------------------------------------- decisions


@dataclass(frozen=True)
class Decision:
    """Line of the file. copy: name of the picture's copy. severity, score: at the time of the decision."""

    time: str
    path: str
    decision: str
    copy: str
    severity: str = ""
    score: str = ""


COLUMNS = tuple(field.name for field in fields(Decision))


class Decisions:
    """File `review.csv`: lines are only ever added, and are on the disk when `add` returns. The last decision
    on a picture holds; `undone` takes it back.

    Raises:
        InputError: the file cannot be read, or is no file of decisions.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lines: list[Decision] = []
        if not path.exists():
            return
        try:
            text = path.read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; choose another --out") from None
        rows = list(csv.reader(io.StringIO(text)))
        if rows and tuple(rows[0]) != COLUMNS:
            raise InputError(f"{path} is not a file of decisions: move it, or choose another --out")
        # a line that was being written when the power failed is passed over
        whole = [row for row in rows[1:] if len(row) == len(COLUMNS) and row[2] in (FINE, DEFECT, UNDONE)]
        self.lines = [Decision(*map(from_csv_cell, row)) for row in whole]

    @property
    def current(self) -> dict[str, Decision]:
        """Path of a picture -> the decision that holds, the latest last."""
        found: dict[str, Decision] = {}
        for line in self.lines:
            found.pop(line.path, None)
            if line.decision != UNDONE:
                found[line.path] = line
        return found

    def add(self, path: str, decision: str, copy: str, severity: str = "", score: str = "") -> None:
        """Add a line. FlawscopeError where it cannot be written: then the decision does not hold."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = Decision(now, path, decision, copy, severity, score)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        try:
            with open(self.path, "ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if not size:
                    rows.writerow(COLUMNS)
                elif file.seek(size - 1) is not None and file.read(1) != b"\n":  # the power failed there
                    text.write("\n")
                rows.writerow(map(csv_cell, astuple(line)))
                file.write(text.getvalue().encode("utf-8", "surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FlawscopeError(f"cannot write {self.path}: {error.strerror}; free some space") from None
        self.lines.append(line)


class Session:
    """Pictures by their numbers, their decisions and copies. Thread-safe.

    A new session brings the folders below `out` in line with earlier decisions. Only copies that the file
    names are ever removed; originals are only read. The copies are listed as flawscope's own, so that a
    folder above this one does not hold them twice.

    Attributes:
        pictures: in the order of the review.
        problems: copies of earlier decisions that could not be made again.
    """

    def __init__(self, pictures: Sequence[Flagged], out: Path):
        self.pictures, self.out = pictures, out
        out.mkdir(parents=True, exist_ok=True)
        self.log, self._own = Decisions(out / LOG), OwnFiles(out)
        self._numbers = {one.row.path: number for number, one in enumerate(pictures)}
        self._lock = threading.RLock()
        self.problems: list[str] = []
        for one, decision, copy in self.copies():
            if not copy.exists():
                try:
                    self._keep(one, decision, copy.name)
                except FlawscopeError as error:
                    self.problems.append(str(error))

    def decided(self) -> dict[int, str]:
        """Return number of a picture -> good or defect, the latest decision last."""
        with self._lock:
            current = self.log.current
        return {self._numbers[path]: one.decision for path, one in current.items() if path in self._numbers}

    def tally(self) -> Counter[str]:
        """Count the good pictures and the defects."""
        return Counter(self.decided().values())

    def copies(self) -> list[tuple[Flagged, str, Path]]:
        """Return the decisions: picture, good or defect, and the copy."""
        chosen = [(self.pictures[number], decision) for number, decision in self.decided().items()]
        return [(one, what, self.out / what / self._copy_of(one)) for one, what in chosen]

    def decide(self, number: int, decision: str, mask: NDArray[np.bool_] | None = None) -> None:
        """Keep a decision.

        Args:
            mask: [H, W] bool at the picture's size, as a person drew it; None: the model's outline, unless
                there is a mask already.

        Raises:
            FlawscopeError: it cannot be kept; nothing has changed.
        """
        if decision not in (FINE, DEFECT) or not 0 <= number < len(self.pictures):
            raise InputError(f"no decision {decision!r} on picture {number}")
        one = self.pictures[number]
        with self._lock:
            self._keep(one, decision, self._copy_of(one), mask, is_new=True)

    def undo(self, number: int) -> None:
        """Take the decision on a picture back, if there is one."""
        with self._lock:
            line = self.log.current.get(self.pictures[number].row.path)
            if line is not None:
                self.log.add(line.path, UNDONE, line.copy)
                self._remove(line.decision, line.copy)

    def mask_of(self, number: int) -> Path:
        """Return the path of a picture's mask, which need not exist."""
        return self.out / _mask_of(self._copy_of(self.pictures[number]))

    def _copy_of(self, one: Flagged) -> str:
        """Return the name of the picture's copy: as before, else one unique even without its suffix, as masks
        need."""
        copies = {line.path: line.copy for line in self.log.lines}
        if one.row.path in copies:
            return copies[one.row.path]
        flat = one.name.replace("/", "_").strip("_") or "picture"
        stems = {Path(name).stem.casefold() for name in copies.values()}
        name, number = flat, 1
        while name.casefold() in stems:
            number += 1
            name = f"{flat}_{number}"
        return f"{name}{one.path.suffix}"

    def _keep(
        self,
        one: Flagged,
        decision: str,
        copy: str,
        mask: NDArray[np.bool_] | None = None,
        is_new: bool = False,
    ) -> None:
        """Copy a picture, note a new decision, and write the mask of a defect: a crash at any point loses
        nothing. FlawscopeError: nothing has changed."""
        target = self._own.path(f"{decision}/{copy}")
        part = target.with_name(f"{target.name}.part")
        try:
            shutil.copyfile(one.path, part)
            if is_new:
                self.log.add(one.row.path, decision, copy, f"{one.row.severity:.4g}", f"{one.row.score:.6g}")
            os.replace(part, target)
        except OSError as error:
            raise InputError(
                f"cannot copy {one.path} to {target}: {error.strerror}; is it there, and is there space?"
            ) from None
        finally:
            part.unlink(missing_ok=True)
        self._remove(FINE if decision == DEFECT else DEFECT, copy)
        drawn = self.out / _mask_of(copy)
        if decision == DEFECT and (mask is not None or not drawn.exists()):  # a person may have drawn it
            found = proposed_mask(one) if mask is None else mask
            if found is not None:
                drawing.save_png(self._own.path(_mask_of(copy)), found)

    def _remove(self, decision: str, copy: str) -> None:
        (self.out / decision / copy).unlink(missing_ok=True)
        if decision == DEFECT:
            (self.out / _mask_of(copy)).unlink(missing_ok=True)


def _mask_of(copy: str) -> str:
    return f"masks/{DEFECT}/{Path(copy).stem}.png"
