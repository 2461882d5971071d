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
from typing import IO

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
        row: The picture's row in the table of results.
        path: The picture's file.
        name: Name of its result files, without suffix.
        overlay: File with the overlay; None: the run wrote none.
        mask: File with the mask; None: the run wrote none.
    """

    row: ResultRow
    path: Path
    name: str
    overlay: Path | None = None
    mask: Path | None = None


def read_review_pictures(results: str | os.PathLike[str], *, every: bool = False) -> list[ReviewPicture]:
    """Return a run's anomalous pictures, and good ones near the threshold, most severe first.

    If the table has several rows of a path, the last one counts.

    Args:
        results: Folder that `predict --out` or `evaluate --out` wrote, or a table of results.
        every: Whether to return all other good pictures, too.

    Raises:
        InputError: There is no table, it has no such picture, or none of the pictures' files exists.
    """
    folder = Path(results)
    table = folder / TABLE_NAME if folder.is_dir() else folder
    judged_rows = _last_judged_rows(read_table(table))
    if every:
        rows = judged_rows
    else:
        rows = [row for row in judged_rows if row.decision == "anomalous" or row.near == "true"]
    if not rows:
        kind = "judged" if every else "anomalous"
        remedy = "; --all takes the good ones, too" if judged_rows and not every else ""
        raise InputError(f"{table} has no {kind} picture: there is nothing to review{remedy}")
    name_by_path = _result_names(folder)
    pictures = [_review_picture(row, folder, name_by_path.get(row.path)) for row in rows]
    if not any(picture.path.is_file() for picture in pictures):
        raise InputError(
            f"none of the pictures of {table} is there, such as {pictures[0].path}: run `review` in the "
            "folder in which they were judged"
        )
    return sorted(pictures, key=lambda picture: -(picture.row.severity or 0.0))


def _last_judged_rows(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Return the rows of judged pictures; for each path, its last row."""
    last_rows = {}
    for row in rows:
        if row.score is not None and row.severity is not None:
            last_rows[row.path] = row
    return [*last_rows.values()]


def _review_picture(row: ResultRow, folder: Path, name: str | None) -> ReviewPicture:
    """Return the picture of a row.

    Args:
        row: The row.
        folder: The results folder.
        name: Name of the picture's result files; None: it has none.
    """
    path = Path(row.path)
    if name is None:
        return ReviewPicture(row, path, path.stem)
    overlay = folder / "overlays" / f"{name}.png"
    mask = folder / "masks" / f"{name}.png"
    return ReviewPicture(
        row,
        path,
        name,
        overlay=overlay if overlay.is_file() else None,
        mask=mask if mask.is_file() else None,
    )


def _result_names(folder: Path) -> dict[str, str]:
    """Return the name of each picture's result files, by the picture's path, from the run's JSON files."""
    name_by_path = {}
    predictions_folder = folder / PREDICTIONS_FOLDER
    for file in predictions_folder.rglob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged file is left out
            document = json.loads(file.read_text(encoding="utf-8"))
            name_by_path[str(document["path"])] = (
                file.relative_to(predictions_folder).with_suffix("").as_posix()
            )
    return name_by_path


def proposed_mask(picture: ReviewPicture) -> NDArray[np.bool_] | None:
    """Return the model's mask, [H, W] bool at the picture's size; None if the model marked nothing.

    The mask that the run wrote has the network's size, while the boxes of its regions are in the picture's
    pixels. So the marked rectangle of the mask is resized to the bounding box of all regions. Without a mask,
    the boxes are filled.
    """
    boxes = [[round(edge) for edge in box] for box in picture.row.boxes]
    if not boxes:
        return None
    pixels, _ = first_group(picture.path)
    height, width = pixels.shape[:2]
    mask = Image.new("L", (width, height))
    run_mask = _read_run_mask(picture)
    mask_box = None if run_mask is None else run_mask.getbbox()
    if run_mask is not None and mask_box is not None:
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        left = min(lefts)
        top = min(tops)
        size = (max(1, max(rights) - left), max(1, max(bottoms) - top))  # width, height
        resized = run_mask.crop(mask_box).resize(size, Image.Resampling.BILINEAR)
        mask.paste(resized, (left, top))
    else:
        for left, top, right, bottom in boxes:
            mask.paste(255, (left, top, max(right, left + 1), max(bottom, top + 1)))
    return np.asarray(mask) > 127  # half of 255, since resizing made the edges grey


def _read_run_mask(picture: ReviewPicture) -> Image.Image | None:
    """Return the mask that the run wrote, as a grey image; None: there is none, or it cannot be read."""
    if picture.mask is None:
        return None
    try:
        return Image.fromarray(read_mask(picture.mask)).convert("L")
    except InputError:
        return None


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
EARLIER_COLUMNS = COLUMNS[:-1]  # of files of earlier versions
_COMPLETE_HASH = re.compile(r"(?:(?:file )?[0-9a-f]{64})?")  # as `_hash_pixels` makes it, or no hash


class DecisionLog:
    """File `review.csv`. Lines are only appended; they are on the disk when `add` returns.

    The last line on a picture counts: `undone` takes the picture's earlier decision back.

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
        for row in rows[1:]:
            if len(row) != len(self.columns):
                continue  # the power failed while the line was written
            line = Decision(*map(from_csv_cell, row))  # rows of earlier versions lack the last field
            if line.decision in (GOOD, DEFECT, UNDONE) and _COMPLETE_HASH.fullmatch(line.pixels):
                self.lines.append(line)

    @property
    def current(self) -> dict[str, Decision]:
        """Decision on each picture, by the picture's path, the latest last."""
        decision_by_path: dict[str, Decision] = {}
        for line in self.lines:
            decision_by_path.pop(line.path, None)  # so that the latest decision is last
            if line.decision != UNDONE:
                decision_by_path[line.path] = line
        return decision_by_path

    def add(
        self, path: str, decision: str, copy: str, severity: str = "", score: str = "", pixels: str = ""
    ) -> None:
        """Add a decision; the arguments are those of `Decision`.

        Raises:
            FlawscopeError: The decision cannot be written, and does not count.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = Decision(now, path, decision, copy, severity, score, pixels)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        try:
            with open(self.path, "ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if not size:
                    buffer.write("\ufeff")  # byte order mark, by which Excel recognises UTF-8
                    writer.writerow(self.columns)
                elif not _ends_in_newline(file, size):  # the power failed while a line was written
                    buffer.write("\n")
                values = astuple(line)[: len(self.columns)]  # files of earlier versions lack the last column
                writer.writerow(map(csv_cell, values))
                file.write(buffer.getvalue().encode("utf-8", "surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from None
        self.lines.append(line)


def _ends_in_newline(file: IO[bytes], size: int) -> bool:
    """Return whether the last byte of an open file of `size` bytes ends a line."""
    file.seek(size - 1)
    return file.read(1) == b"\n"


class ReviewSession:
    """Pictures of a review by number, from 0, with decisions and copies. Thread-safe.

    A decision is on the pixels, not on the path: if the file of a decided picture now holds another picture,
    the new one is undecided, and the copy of the old one stays. A new session makes missing copies of earlier
    decisions again. Only copies that the file of decisions names are removed; originals are only read. The
    copies are listed as files that flawscope wrote, so that a command that reads a parent folder does not
    read a picture twice.

    Args:
        pictures: Pictures in the order of the review.
        out: Folder of decisions and copies.

    Attributes:
        pictures: Pictures in the order of the review.
        problems: A line on each copy of an earlier decision that could not be made again.
        replaced: Paths that now hold another picture than the decided one.
    """

    def __init__(self, pictures: Sequence[ReviewPicture], out: Path):
        self.pictures = pictures
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        check_replaceable(out / DECISIONS_FILE)
        self.log = DecisionLog(out / DECISIONS_FILE)
        self._output = OutputFiles(out)
        self._number_by_path = {picture.row.path: number for number, picture in enumerate(pictures)}
        self._lock = threading.RLock()
        self.problems: list[str] = []
        current = self.log.current
        self.replaced: list[str] = []
        for picture in pictures:
            line = current.get(picture.row.path)
            if line is not None and not self._is_decided(picture, line):
                self.replaced.append(picture.row.path)
        self._undecided_paths = {*self.replaced}  # paths whose decisions do not count
        self._shown_stamps: dict[int, tuple[int, int]] = {}  # `_file_stamp` of pictures that a person sees
        for picture, decision, copy in self.copies():
            if not copy.exists():
                try:
                    self._save_copy(picture, decision, copy.name)
                except FlawscopeError as error:
                    self.problems.append(failure_of(error))

    def decisions(self) -> dict[int, str]:
        """Return the decisions, `GOOD` or `DEFECT`, by the picture's number, the latest last."""
        with self._lock:
            line_by_path = self.log.current
            undecided_paths = {*self._undecided_paths}
        decision_by_number = {}
        for path, line in line_by_path.items():
            number = self._number_by_path.get(path)
            if number is not None and path not in undecided_paths:
                decision_by_number[number] = line.decision
        return decision_by_number

    def tally(self) -> Counter[str]:
        """Count the good pictures and the defects."""
        return Counter(self.decisions().values())

    def copies(self) -> list[tuple[ReviewPicture, str, Path]]:
        """Return the picture, `GOOD` or `DEFECT`, and the path of the copy, for each decision."""
        copies = []
        for number, decision in self.decisions().items():
            picture = self.pictures[number]
            copies.append((picture, decision, self.out / decision / self._copy_name(picture)))
        return copies

    def decide(self, number: int, decision: str, mask: NDArray[np.bool_] | None = None) -> None:
        """Record a decision on a picture.

        Args:
            number: Number of the picture.
            decision: `GOOD` or `DEFECT`.
            mask: [H, W] bool at the picture's size, drawn by a person; None: an earlier mask stays, or the
                model's mask is taken.

        Raises:
            FlawscopeError: The decision cannot be recorded; nothing has changed.
        """
        if decision not in (GOOD, DEFECT) or not 0 <= number < len(self.pictures):
            raise InputError(f"no decision {decision!r} on picture {number}")
        picture = self.pictures[number]
        with self._lock:
            if number in self._shown_stamps and _file_stamp(picture.path) != self._shown_stamps[number]:
                raise InputError(
                    f"{picture.path} was written anew while it was reviewed: load the page again, and decide "
                    "on what lies there now"
                )
            self._save_copy(picture, decision, self._copy_name(picture), mask, is_new=True)
            self._undecided_paths.discard(picture.row.path)

    def note_shown(self, number: int) -> None:
        """Note that a person sees a picture: `decide` refuses if its file is written anew afterwards."""
        self._shown_stamps[number] = _file_stamp(self.pictures[number].path)

    def undo(self, number: int) -> None:
        """Take the decision on a picture back, if there is one."""
        with self._lock:
            line = self.log.current.get(self.pictures[number].row.path)
            if line is not None and line.path not in self._undecided_paths:
                self.log.add(line.path, UNDONE, line.copy)
                self._remove_copy(line.decision, line.copy)

    def mask_path(self, number: int) -> Path:
        """Return the path of a picture's mask, which need not exist."""
        return self.out / _mask_name(self._copy_name(self.pictures[number]))

    def _is_decided(self, picture: ReviewPicture, line: Decision) -> bool:
        """Return whether a picture's file still holds the decided picture; True if there is no file."""
        copy = self.out / line.decision / line.copy
        try:
            if not picture.path.is_file():
                return True
            has_copy = copy.is_file()
            if has_copy and filecmp.cmp(copy, picture.path, shallow=False):
                return True
            decided_hash = line.pixels or (_hash_pixels(copy) if has_copy else "")
            if decided_hash:
                return _hash_pixels(picture.path) == decided_hash
        except OSError:
            return False
        # there is no hash and no copy: a picture with the same severity and score is taken for the same one
        return (line.severity, line.score) == _strength(picture.row)

    def _copy_name(self, picture: ReviewPicture) -> str:
        """Return the file name of a picture's copy.

        A picture that was decided before keeps the name of its earlier copy. Any other picture gets a new
        name, unique even without its suffix, since masks have the copy's name with another suffix.
        """
        copy_by_path = {line.path: line.copy for line in self.log.lines}
        if picture.row.path in copy_by_path and picture.row.path not in self._undecided_paths:
            return copy_by_path[picture.row.path]
        stems = {Path(line.copy).stem.casefold() for line in self.log.lines}
        base_name = picture.name.replace("/", "_").strip("_") or "picture"
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
        """Copy a decided picture, add the decision to the file if it is new, and write a defect's mask.

        A crash at any point loses nothing.

        Args:
            picture: The picture.
            decision: `GOOD` or `DEFECT`.
            copy: File name of the copy.
            mask: [H, W] bool, drawn by a person; None: an earlier mask stays, or the model's mask is taken.
            is_new: Whether the decision is new, and not in the file of decisions.

        Raises:
            FlawscopeError: The copy or the decision cannot be written; nothing has changed.
        """
        target = self._output.path(f"{decision}/{copy}")
        partial = target.with_name(f"{target.name}.part")
        try:
            shutil.copyfile(picture.path, partial)
            if is_new:
                severity, score = _strength(picture.row)
                picture_hash = _hash_pixels(partial)
                self.log.add(picture.row.path, decision, copy, severity, score, pixels=picture_hash)
            partial.replace(target)
        except OSError as error:
            raise InputError(
                f"cannot copy {picture.path} to {target}: {error.strerror}; is it there, and is there space?"
            ) from None
        finally:
            partial.unlink(missing_ok=True)
        self._remove_copy(GOOD if decision == DEFECT else DEFECT, copy)
        has_mask = (self.out / _mask_name(copy)).exists()  # a person may have drawn it
        if decision == DEFECT and (mask is not None or not has_mask):
            mask_to_save = proposed_mask(picture) if mask is None else mask
            if mask_to_save is not None:
                drawing.save_png(self._output.path(_mask_name(copy)), mask_to_save)

    def _remove_copy(self, decision: str, copy: str) -> None:
        """Remove a copy, and the mask of a defect, if they exist."""
        (self.out / decision / copy).unlink(missing_ok=True)
        if decision == DEFECT:
            (self.out / _mask_name(copy)).unlink(missing_ok=True)


def _strength(row: ResultRow) -> tuple[str, str]:
    """Return severity and score of a picture as texts for the file of decisions."""
    return f"{row.severity:.4g}", f"{row.score:.6g}"


def _hash_pixels(file: Path) -> str:
    """Return the hash of a picture's pixels; if it cannot be decoded, of the file's bytes, with a prefix."""
    try:
        return pixel_hash(decode(file))
    except InputError:
        return f"file {file_sha256(file)}"


def _file_stamp(path: Path) -> tuple[int, int]:
    """Return size and time (ns) of a file, which change when it is written; (0, 0) without a file."""
    try:
        facts = os.stat(path)
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def _mask_name(copy: str) -> str:
    return f"masks/{DEFECT}/{Path(copy).stem}.png"
