"""The table of good pictures: a row for each picture that a model knows.

A row holds the values that later work compares by (hash, name, size, look, appearance), the picture's use
(role, unit, origin), and its judgement (score, maximum, median, counted, drawn). `units.units_of` gives rows
their units, `calibration.rows` their scores.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.appearance import FEATURES, FeatureValues
from flawscope.pictures.channels import first_channels
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import error_reason, pixel_hash, source_name
from flawscope.pictures.near_duplicates import SIDE, Look
from flawscope.progress import ProgressCallback, ProgressCounter, ignore_progress
from flawscope.types import Facts

TRAIN = "train"
CALIBRATION = "calibration"
DUPLICATE = "duplicate"
SEEN = "seen"
# origins
FIT = "fit"
UPDATE = "update"
CALIBRATE = "calibrate"
LINE = "line"
JUDGED = ("score", "maximum", "median")
# Tensors of a model file: looks [K, 64, 64] float16 with their noise [K] float32, of the rows [K] int32
LOOKS = "looks"
LOOK_NOISE = "look_noise"
LOOK_ROWS = "look_rows"
LOOK_TENSORS: Mapping[str, np.dtype[np.generic]]
LOOK_TENSORS = {
    LOOKS: np.dtype(np.float16),
    LOOK_NOISE: np.dtype(np.float32),
    LOOK_ROWS: np.dtype(np.int32),
}
MAX_LOOKS = 2000  # largest number of looks that a model file keeps: 16 MB
MAX_READERS = 4  # largest number of threads that read pictures


@dataclass(frozen=True)
class Picture:
    """Row of a picture that a model knows.

    Attributes:
        hash: Hash of its decoded pixels.
        role: train; calibration, not learnt from; duplicate; dropped; quantile or reserve, held out for
            another purpose; seen, a defect.
        name: Name for people.
        unit: Number of the part that it shows; -1: no part. Near-duplicates share a number, and the elements
            of a memory bank are numbered by it.
        score: Score, as if the model had never learnt from the picture; None: not known.
        maximum: Maximum of its map, also as if never learnt from; None: not known.
        median: Median of its map, also as if never learnt from; None: not known.
        counted: Whether the threshold depends on it. A counted picture without a score ranks above all
            scores, because its parts were not found, were counted wrong, or were lost in some light.
        drawn: Whether it was drawn from the line's pictures by chance.
        size: (height, width) in pixels; None: not known.
        measured: Its appearance as a whole (`appearance.FEATURES`); empty: not known.
        origin: Command that added it: fit, update, calibrate or line; empty: not known.
        look: Look that near-duplicates compare; None: not known. Rows are compared without it: it follows
            from the hash.
    """

    hash: str
    role: str
    name: str
    unit: int = -1
    score: float | None = None
    maximum: float | None = None
    median: float | None = None
    counted: bool = False
    drawn: bool = False
    size: tuple[int, int] | None = None
    measured: FeatureValues = ()
    origin: str = ""
    look: Look | None = field(default=None, compare=False, repr=False)

    @property
    def learnt(self) -> bool:
        """Whether the picture has another role than calibration, such as training."""
        return self.role != CALIBRATION

    @property
    def is_lost(self) -> bool:
        """Whether it ranks above all scores, since it is counted but has no score."""
        return self.counted and self.score is None

    def forgotten(self) -> Picture:
        """Return the row without its judgement."""
        return replace(self, score=None, maximum=None, median=None, counted=False, drawn=False)

    def seen(self, look: Look | None, measured: FeatureValues, size: tuple[int, int] | None) -> Picture:
        """Return the row with its picture's look, appearance and size.

        Args:
            look: Look for the comparison of near-duplicates; None: not known.
            measured: Appearance as a whole (`appearance.FEATURES`); empty: not known.
            size: (height, width) in pixels; None: not known.
        """
        rounded = tuple(round(value, MEASURED_DIGITS) for value in measured)
        return replace(self, look=look, measured=rounded, size=size)


COLUMNS = tuple(field.name for field in fields(Picture) if field.name != "look")
MEASURED_DIGITS = 6  # of a row's appearance


def learnt_units(rows: Iterable[Picture]) -> dict[str, int]:
    """Return the unit of each picture that was learnt from, by its hash."""
    return {row.hash: row.unit for row in rows if row.role == TRAIN and row.unit >= 0}


def next_unit(rows: Iterable[Picture]) -> int:
    """Return the lowest number above all units of the rows."""
    return 1 + max((row.unit for row in rows), default=-1)


# ---------------------------------------------------------------------------------------------- new pictures


@dataclass(frozen=True)
class PictureTable:
    """Pictures that are read in one pass.

    Attributes:
        pictures: Decoded pictures, by their numbers.
        rows: Rows of the pictures that can be read, by number, rising; without units.
        failures: Reasons why the other pictures cannot be read, by number.
    """

    pictures: DecodedPictures
    rows: dict[int, Picture]
    failures: dict[int, str]

    @classmethod
    def read(
        cls,
        pictures: DecodedPictures,
        names: Sequence[str],
        origin: str,
        step: ProgressCallback = ignore_progress,
    ) -> PictureTable:
        """Read the pictures, and make their rows.

        The rows do not have the pictures' appearance yet: it is measured on the network's input, which does
        not exist here.

        Args:
            pictures: The pictures.
            names: Names of the pictures, in their rows.
            origin: Origin of the rows.
            step: Is called with the progress.
        """
        numbers = range(len(pictures.sources))
        advance = ProgressCounter(step, "reading pictures", len(numbers))

        def read_row(number: int) -> Picture | str:
            """Return the row of a picture, or the reason why it cannot be read."""
            try:
                picture = pictures.read(number, names[number] or None)
            except Exception as error:  # a reader of pictures may raise errors of any kind
                return error_reason(error, names[number] or source_name(pictures.sources[number]))
            finally:
                advance()
            look = Look.of(first_channels(picture, pictures.channels))
            row = Picture(hash=pixel_hash(picture), role=CALIBRATION, name=names[number], origin=origin)
            height, width = picture.shape[:2]
            return row.seen(look=look, measured=(), size=(height, width))

        with ThreadPoolExecutor(min(MAX_READERS, os.cpu_count() or 1)) as pool:
            rows_or_reasons = list(pool.map(read_row, numbers))
        rows = {number: row for number, row in enumerate(rows_or_reasons) if isinstance(row, Picture)}
        failures = {
            number: reason for number, reason in enumerate(rows_or_reasons) if isinstance(reason, str)
        }
        return cls(pictures, rows, failures)

    def distinct(self) -> list[int]:
        """Return the numbers of the pictures that can be read; of several equal pictures only the first."""
        number_by_hash: dict[str, int] = {}
        for number, row in self.rows.items():
            number_by_hash.setdefault(row.hash, number)
        return list(number_by_hash.values())


# ------------------------------------------------------------------------------------------------- in a file


def rows_to_table(rows: Iterable[Picture]) -> dict[str, list[object]]:
    """Return the rows as columns, for a file; `looks_to_tensors` returns their looks."""
    all_rows = list(rows)
    return {name: [getattr(row, name) for row in all_rows] for name in COLUMNS}


def rows_from_table(table: Facts) -> tuple[Picture, ...]:
    """Read the rows of a file. A column that an earlier version did not write has its default.

    Raises:
        KeyError, TypeError, ValueError: The file is damaged.
    """
    count = len(table["hash"])
    columns = []
    for column in fields(Picture):
        if column.name in COLUMNS:
            columns.append(table.get(column.name, [column.default] * count))
    rows = [Picture(*values) for values in zip(*columns, strict=True)]
    return tuple(map(_parse_row, rows))


def _parse_row(row: Picture) -> Picture:
    """Check a row that was read from a file, and convert its values to the types of `Picture`.

    Raises:
        ValueError, TypeError: The row is damaged.
    """
    texts = (row.hash, row.role, row.name, row.origin)
    if not all(isinstance(text, str) for text in texts) or type(row.unit) is not int:
        raise ValueError("a picture without a name, or a unit")
    if not (isinstance(row.counted, bool) and isinstance(row.drawn, bool)):
        raise ValueError("counted")
    score, maximum, median = (_parse_score(getattr(row, name)) for name in JUDGED)
    missing_count = [score, maximum, median].count(None)
    if missing_count not in (0, 3):
        raise ValueError("a score without a map")
    measured = tuple(float(value) for value in row.measured)
    if len(measured) not in (0, len(FEATURES)) or not all(map(math.isfinite, measured)):
        raise ValueError("an appearance")
    return replace(
        row, score=score, maximum=maximum, median=median, size=_parse_size(row.size), measured=measured
    )


def _parse_score(value: float | None) -> float | None:
    """Return a score or a map's level as a finite number; None: it was not measured."""
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a score without a map")
    return number


def _parse_size(size: Sequence[object] | None) -> tuple[int, int] | None:
    """Return (height, width) from a file's list; None: the size is not known."""
    if size is None:
        return None
    height, width = size
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise ValueError("a size")
    return height, width


def looks_to_tensors(rows: Sequence[Picture]) -> dict[str, NDArray[np.number]]:
    """Return the looks of the rows as tensors, for a file; empty where no look is known.

    At most `MAX_LOOKS` looks are kept, chosen evenly.
    """
    numbered_looks = [(number, row.look) for number, row in enumerate(rows) if row.look is not None]
    if not numbered_looks:
        return {}
    step = math.ceil(len(numbered_looks) / MAX_LOOKS)
    chosen_looks = numbered_looks[::step]
    thumbnails = [look.thumbnail for _, look in chosen_looks]
    noise = [look.noise for _, look in chosen_looks]
    numbers = [number for number, _ in chosen_looks]
    return {
        LOOKS: np.stack(thumbnails),
        LOOK_NOISE: np.array(noise, np.float32),
        LOOK_ROWS: np.array(numbers, np.int32),
    }


def with_looks(rows: Sequence[Picture], tensors: Mapping[str, NDArray[np.number]]) -> tuple[Picture, ...]:
    """Return the rows with the looks that `looks_to_tensors` returned.

    If there are no looks among the tensors, the rows are unchanged.

    Args:
        rows: The rows, without looks.
        tensors: Tensors of a model file; those that are not of looks are ignored.

    Raises:
        ValueError: The looks are damaged.
    """
    look_tensors = {name: tensors[name] for name in LOOK_TENSORS if name in tensors}
    if not look_tensors:
        return tuple(rows)
    if {name: tensor.dtype for name, tensor in look_tensors.items()} != LOOK_TENSORS:
        raise ValueError("looks")
    thumbnails, noise, numbers = look_tensors.values()
    _check_looks(thumbnails, noise, numbers, len(rows))
    new_rows = list(rows)
    for number, thumbnail, noise_level in zip(numbers.tolist(), thumbnails, noise.tolist(), strict=True):
        new_rows[number] = replace(new_rows[number], look=Look(thumbnail, noise_level))
    return tuple(new_rows)


def _check_looks(
    looks: NDArray[np.number], noise: NDArray[np.number], places: NDArray[np.number], row_count: int
) -> None:
    """Raise ValueError where the tensors of looks do not fit each other, or have impossible values.

    Args:
        looks: Thumbnails [K, 64, 64].
        noise: Noise [K] of each thumbnail, above 0.
        places: Number [K] of the row of each look.
        row_count: Number of rows.
    """
    count = len(places)
    if looks.shape != (count, SIDE, SIDE) or noise.shape != (count,) or places.ndim != 1:
        raise ValueError("looks")
    is_row = (places >= 0) & (places < row_count)
    if not (is_row.all() and np.isfinite(looks).all() and (noise > 0).all()):
        raise ValueError("looks")
