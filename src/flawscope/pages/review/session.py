"""Review of a run: its pictures, a file of decisions, and folders with copies of decided pictures.

Each decision is added to the file at once; the copies follow from the file.

`good/` and `defect/` hold copies of pictures, `masks/defect/` masks of defects. Together they are a data set
for `fit --update`, `evaluate` and `compare`; `defect/` with its masks is for `--seen`.
"""

from __future__ import annotations

import codecs
import csv
import filecmp
import io
import json
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.artefact.files import check_replaceable, file_sha256, write_error
from flawscope.errors import FlawscopeError, InputError, failure_of
from flawscope.pictures.channels import first_group
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.pictures.masks import read_mask
from flawscope.results import drawing
from flawscope.results.run import PREDICTIONS_FOLDER, TABLE_NAME
from flawscope.results.table import OutputFiles, ResultRow, csv_cell, from_csv_cell, read_table

GOOD = "good"
DEFECT = "defect"
UNDONE = "undone"
DECISIONS_FILE = "review.csv"  # `open_dataset` recognizes the folder by this file


@dataclass(frozen=True)
class ReviewPicture:
    """Picture of a run.

    Attributes:
        row: Its row in the table of results.
        path: Its file.
        name: Name of its files in the results, without suffix.
        overlay: File with the overlay; None: not written.
        mask: File with the mask; None: not written.
    """

    row: ResultRow
    path: Path
    name: str
    overlay: Path | None = None
    mask: Path | None = None


def read_review_pictures(results: str | os.PathLike[str], *, every: bool = False) -> list[ReviewPicture]:
    """Return a run's anomalous pictures, and good ones near the threshold, most severe first.

    A path comes once, with its last judgement.

    Args:
        results: Folder that `predict --out` or `evaluate --out` wrote, or a table of results.
        every: Whether to return all other good pictures, too.

    Raises:
        InputError: There is no table, or none of its pictures is there.
    """
    folder = Path(results)
    table = folder / TABLE_NAME if folder.is_dir() else folder
    judged = _last_judged(read_table(table))
    wanted = [row for row in judged if every or row.decision == "anomalous" or row.near == "true"]
    if not wanted:
        kind = "judged" if every else "anomalous"
        remedy = "; --all takes the good ones, too" if judged and not every else ""
        raise InputError(f"{table} has no {kind} picture: there is nothing to review{remedy}")
    names = _result_names(folder)
    pictures = [_read_picture(row, folder, names.get(row.path)) for row in wanted]
    if not any(picture.path.is_file() for picture in pictures):
        raise InputError(
            f"none of the pictures of {table} is there, such as {pictures[0].path}: run `review` in the "
            "folder in which they were judged"
        )
    return sorted(pictures, key=lambda picture: -(picture.row.severity or 0.0))


def _last_judged(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Return the rows of judged pictures; for a repeated path, its last row."""
    last = {}
    for row in rows:
        if row.score is not None and row.severity is not None:
            last[row.path] = row
    return [*last.values()]


def _read_picture(row: ResultRow, folder: Path, name: str | None) -> ReviewPicture:
    path = Path(row.path)
    if name is None:
        return ReviewPicture(row, path, path.stem)
    overlay = folder / "overlays" / f"{name}.png"
    mask = folder / "masks" / f"{name}.png"
    return ReviewPicture(
        row, path, name, overlay if overlay.is_file() else None, mask if mask.is_file() else None
    )


def _result_names(folder: Path) -> dict[str, str]:
    """Return the name of each picture's result files, by the picture's path, from the run's JSON files."""
    names = {}
    for file in (folder / PREDICTIONS_FOLDER).rglob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            path = str(json.loads(file.read_text(encoding="utf-8"))["path"])
            names[path] = file.relative_to(folder / PREDICTIONS_FOLDER).with_suffix("").as_posix()
    return names


def proposed_mask(picture: ReviewPicture) -> NDArray[np.bool_] | None:
    """Return the model's mask, [H, W] bool at the picture's size; None where it marked nothing.

    The run's mask has the network's size, and the boxes of its regions are in the picture's pixels: the
    mask's bounding box is resized to that of all boxes. Without a mask, the boxes are filled.
    """
    boxes = [[round(edge) for edge in box] for box in picture.row.boxes]
    if not boxes:
        return None
    height, width = first_group(picture.path)[0].shape[:2]
    mask = Image.new("L", (width, height))
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    run_mask = Image.new("L", (1, 1))
    with suppress(InputError):
        run_mask = Image.fromarray(read_mask(picture.mask)).convert("L") if picture.mask else run_mask
    if bounding_box := run_mask.getbbox():
        size = max(1, max(rights) - min(lefts)), max(1, max(bottoms) - min(tops))
        resized = run_mask.crop(bounding_box).resize(size, Image.Resampling.BILINEAR)
        mask.paste(resized, (min(lefts), min(tops)))
    else:
        for left, top, right, bottom in boxes:
            mask.paste(255, (left, top, max(right, left + 1), max(bottom, top + 1)))
    return np.asarray(mask) > 127


# ------------------------------------------------------------------------------------------------- decisions


@dataclass(frozen=True)
class Decision:
    """Line of the file of decisions.

    Attributes:
        time: Time of the decision, UTC, ISO 8601.
        path: Path of the picture.
        decision: `GOOD`, `DEFECT` or `UNDONE`.
        copy: File name of the picture's copy.
        severity: Severity of the picture when it was decided.
        score: Score of the picture when it was decided.
        pixels: Hash of the picture's pixels when it was decided; empty in files of earlier versions.
    """

    time: str
    path: str
    decision: str
    copy: str
    severity: str = ""
    score: str = ""
    pixels: str = ""


COLUMNS = tuple(field.name for field in fields(Decision))
EARLIER_COLUMNS = COLUMNS[:-1]
_WHOLE_HASH = re.compile(r"(?:(?:file )?[0-9a-f]{64})?")  # as `_pixels` makes it, or none


class DecisionLog:
    """File `review.csv`: lines are only added, and are on the disk when `add` returns.

    The last decision on a picture counts; `undone` takes it back.

    Raises:
        InputError: The file cannot be read, or is not a file of decisions.
    """

    def __init__(self, path: Path):
        self.path = path
        self.columns = COLUMNS
        self.lines: list[Decision] = []
        if not path.exists():
            return
        try:
            text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; choose another --out") from None
        rows = list(csv.reader(io.StringIO(text)))
        if rows:
            self.columns = tuple(rows[0])
        if self.columns not in (COLUMNS, EARLIER_COLUMNS):
            raise InputError(f"{path} is not a file of decisions: move it, or choose another --out")
        # a line that was being written when the power failed is left out
        count = len(self.columns)
        valid = [row for row in rows[1:] if len(row) == count and row[2] in (GOOD, DEFECT, UNDONE)]
        lines = [Decision(*map(from_csv_cell, row)) for row in valid]
        self.lines = [line for line in lines if _WHOLE_HASH.fullmatch(line.pixels)]

    @property
    def current(self) -> dict[str, Decision]:
        """Decision on each picture, by the picture's path, the latest last."""
        current: dict[str, Decision] = {}
        for line in self.lines:
            current.pop(line.path, None)
            if line.decision != UNDONE:
                current[line.path] = line
        return current

    def add(
        self, path: str, decision: str, copy: str, severity: str = "", score: str = "", pixels: str = ""
    ) -> None:
        """Add a decision. FlawscopeError where it cannot be written; it does not count then."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = Decision(now, path, decision, copy, severity, score, pixels)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        try:
            with open(self.path, "ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if not size:
                    buffer.write("\ufeff")  # by which Excel knows UTF-8
                    writer.writerow(self.columns)
                elif file.seek(size - 1) is not None and file.read(1) != b"\n":  # the power failed there
                    buffer.write("\n")
                writer.writerow(map(csv_cell, astuple(line)[: len(self.columns)]))
                file.write(buffer.getvalue().encode("utf-8", "surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from None
        self.lines.append(line)


class ReviewSession:
    """Pictures of a review by number, from 0, with decisions and copies. Thread-safe.

    A decision concerns pixels: where the path of a decided picture now holds another picture, that one is
    undecided, and the copy of the decided one stays. A new session makes the copies of earlier decisions that
    `out` lacks. Only copies that the file names are removed; originals are only read. The copies are listed
    as flawscope's own files: a reader of a folder above this one does not take the pictures twice.

    Attributes:
        pictures: Pictures in the order of the review.
        problems: Lines on copies of earlier decisions that could not be made again.
        replaced: Paths that hold other pictures than those that were decided.
    """

    def __init__(self, pictures: Sequence[ReviewPicture], out: Path):
        self.pictures = pictures
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        check_replaceable(out / DECISIONS_FILE)
        self.log = DecisionLog(out / DECISIONS_FILE)
        self._own_files = OutputFiles(out)
        self._number_by_path = {picture.row.path: number for number, picture in enumerate(pictures)}
        self._lock = threading.RLock()
        self.problems: list[str] = []
        current = self.log.current
        decided = [picture for picture in pictures if picture.row.path in current]
        # paths of decided pictures that now hold other pictures, which are undecided
        self.replaced = [
            picture.row.path
            for picture in decided
            if not self._is_decided(picture, current[picture.row.path])
        ]
        self._undecided = {*self.replaced}
        self._shown: dict[int, tuple[int, int]] = {}
        for picture, decision, copy in self.copies():
            if not copy.exists():
                try:
                    self._save_copy(picture, decision, copy.name)
                except FlawscopeError as error:
                    self.problems.append(failure_of(error))

    def decisions(self) -> dict[int, str]:
        """Return the decision, good or defect, by number of the picture, the latest last."""
        with self._lock:
            numbers = self._number_by_path
            undecided = {*self._undecided}
            current = {path: line for path, line in self.log.current.items() if path not in undecided}
        return {numbers[path]: line.decision for path, line in current.items() if path in numbers}

    def tally(self) -> Counter[str]:
        """Count the good pictures and the defects."""
        return Counter(self.decisions().values())

    def copies(self) -> list[tuple[ReviewPicture, str, Path]]:
        """Return for each decision the picture, good or defect, and the path of the copy."""
        chosen = [(self.pictures[number], decision) for number, decision in self.decisions().items()]
        return [(picture, kind, self.out / kind / self._copy_name(picture)) for picture, kind in chosen]

    def decide(self, number: int, decision: str, mask: NDArray[np.bool_] | None = None) -> None:
        """Record a decision on a picture.

        Args:
            number: Number of the picture.
            decision: `GOOD` or `DEFECT`.
            mask: [H, W] bool at the picture's size, drawn by a person; None: the model's contour, unless
                there is a mask already.

        Raises:
            FlawscopeError: The decision cannot be recorded; nothing has changed.
        """
        if decision not in (GOOD, DEFECT) or not 0 <= number < len(self.pictures):
            raise InputError(f"no decision {decision!r} on picture {number}")
        picture = self.pictures[number]
        with self._lock:
            if number in self._shown and _file_stamp(picture.path) != self._shown[number]:
                raise InputError(
                    f"{picture.path} was written anew while it was reviewed: load the page again, and decide "
                    "on what lies there now"
                )
            self._save_copy(picture, decision, self._copy_name(picture), mask, is_new=True)
            self._undecided.discard(picture.row.path)

    def note_shown(self, number: int) -> None:
        """Note that a person sees a picture: `decide` refuses if its file is written anew afterwards."""
        self._shown[number] = _file_stamp(self.pictures[number].path)

    def undo(self, number: int) -> None:
        """Take the decision on a picture back, if there is one."""
        with self._lock:
            line = self.log.current.get(self.pictures[number].row.path)
            if line is not None and line.path not in self._undecided:
                self.log.add(line.path, UNDONE, line.copy)
                self._remove_copy(line.decision, line.copy)

    def mask_path(self, number: int) -> Path:
        """Return the path of a picture's mask, which need not exist."""
        return self.out / _mask_name(self._copy_name(self.pictures[number]))

    def _is_decided(self, picture: ReviewPicture, line: Decision) -> bool:
        """Whether the file at a picture's path is the picture that was decided; True where it is gone."""
        copy = self.out / line.decision / line.copy
        try:
            if not picture.path.is_file() or (
                copy.is_file() and filecmp.cmp(copy, picture.path, shallow=False)
            ):
                return True
            known = line.pixels or (_pixels(copy) if copy.is_file() else "")
            if known:
                return _pixels(picture.path) == known
        except OSError:
            return False
        return (line.severity, line.score) == _strength(picture.row)

    def _copy_name(self, picture: ReviewPicture) -> str:
        """Return the file name of a picture's copy.

        It is the name of an earlier decision's copy, or else a new one. A new name is unique also without its
        suffix: masks are named after it.
        """
        copies = {line.path: line.copy for line in self.log.lines}
        if picture.row.path in copies and picture.row.path not in self._undecided:
            return copies[picture.row.path]
        every = [line.copy for line in self.log.lines]
        base_name = picture.name.replace("/", "_").strip("_") or "picture"
        stems = {Path(name).stem.casefold() for name in every}
        name = base_name
        number = 1
        while name.casefold() in stems:
            number += 1
            name = f"{base_name}_{number}"
        return f"{name}{picture.path.suffix}"

    def _save_copy(
        self,
        picture: ReviewPicture,
        decision: str,
        copy: str,
        mask: NDArray[np.bool_] | None = None,
        is_new: bool = False,
    ) -> None:
        """Copy a picture, add a new decision to the file, and write a defect's mask.

        A crash at any point loses nothing.

        Args:
            picture: The picture.
            decision: `GOOD` or `DEFECT`.
            copy: File name of the copy.
            mask: [H, W] bool, drawn by a person; None: the model's contour, unless there is a mask already.
            is_new: Whether the decision is new, and is added to the file.

        Raises:
            FlawscopeError: The copy or the line cannot be written; nothing has changed.
        """
        target = self._own_files.path(f"{decision}/{copy}")
        partial = target.with_name(f"{target.name}.part")
        try:
            shutil.copyfile(picture.path, partial)
            if is_new:
                strength = _strength(picture.row)
                pixels = _pixels(partial)
                self.log.add(picture.row.path, decision, copy, *strength, pixels)
            partial.replace(target)
        except OSError as error:
            raise InputError(
                f"cannot copy {picture.path} to {target}: {error.strerror}; is it there, and is there space?"
            ) from None
        finally:
            partial.unlink(missing_ok=True)
        self._remove_copy(GOOD if decision == DEFECT else DEFECT, copy)
        mask_path = self.out / _mask_name(copy)
        if decision == DEFECT and (mask is not None or not mask_path.exists()):  # a person may have drawn it
            mask_to_save = proposed_mask(picture) if mask is None else mask
            if mask_to_save is not None:
                drawing.save_png(self._own_files.path(_mask_name(copy)), mask_to_save)

    def _remove_copy(self, decision: str, copy: str) -> None:
        (self.out / decision / copy).unlink(missing_ok=True)
        if decision == DEFECT:
            (self.out / _mask_name(copy)).unlink(missing_ok=True)


def _strength(row: ResultRow) -> tuple[str, str]:
    """Return the texts of a picture's severity and score for the file of decisions."""
    return f"{row.severity:.4g}", f"{row.score:.6g}"


def _pixels(file: Path) -> str:
    """Return the hash of a picture's pixels; that of the file's bytes where it cannot be decoded alone."""
    try:
        return pixel_hash(decode(file))
    except InputError:
        return f"file {file_sha256(file)}"


def _file_stamp(path: Path) -> tuple[int, int]:
    """Return size and time of a file, by which it is known again; (0, 0) where there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def _mask_name(copy: str) -> str:
    return f"masks/{DEFECT}/{Path(copy).stem}.png"
