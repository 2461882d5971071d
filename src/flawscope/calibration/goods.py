"""Good pictures as rows of one table, and the calibration that follows from them.

A row is what a model knows of a picture. `judge` alone gives rows their scores, and `calibrate` alone makes a
`Calibration` of them: a fit, an update, a new calibration and an export do both with other rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.threshold import DEFAULT_OUTLINE, DEFAULT_RATE, Calibration, envelope
from flawscope.errors import InputError

TRAIN, CALIBRATION = "train", "calibration"
SAMPLED_PIXELS = 1 << 20  # of a large map, that its median is taken from


@dataclass(frozen=True)
class Picture:
    """A picture that a model knows: a row.

    hash: of its decoded pixels. name: as people know it.
    role: train; calibration, not learnt from; duplicate; dropped; quantile or reserve, held out for another
        purpose; seen, a defect.
    unit: number of the part that it shows; near-copies share one, and a memory bank numbers its elements so.
        -1: none.
    score, maximum, median: of its map, as if the model had never learnt from it; None: not known.
    counted: it decides the threshold. Without a score it counts as above all: its parts were counted wrong,
        or lost in some light.
    drawn: one of the line's pictures, drawn by chance.
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

    @property
    def learnt(self) -> bool:
        """Whether the model knows it otherwise than by its score."""
        return self.role != CALIBRATION

    def forgotten(self) -> Picture:
        """Returns the row without what was judged."""
        return replace(self, score=None, maximum=None, median=None, counted=False, drawn=False)


COLUMNS = tuple(one.name for one in fields(Picture))


class Values(NamedTuple):
    """Score of a picture, and its map's maximum and median over the pixels that count."""

    score: float
    maximum: float
    median: float

    @property
    def is_lost(self) -> bool:
        return math.isnan(self.score)


LOST = Values(math.nan, math.nan, math.nan)  # its parts are not found, or counted wrong


def map_values(score: float, drawn: NDArray[Any], inside: NDArray[np.bool_]) -> Values:
    """Values of a picture with a map [H, W]. inside: the pixels that count."""
    some = slice(None, None, max(1, math.isqrt(drawn.size // SAMPLED_PIXELS)))
    counted = drawn[some, some][inside[some, some]]
    return Values(float(score), float(drawn.max()), float(np.median(counted if counted.size else drawn)))


def worst(several: Iterable[Values]) -> Values:
    """Values of a picture by those of its frames: the worst decides."""
    scores, maxima, medians = zip(*several, strict=True)
    return Values(max(scores), max(maxima), float(np.median(medians)))


def judge(rows: Sequence[Picture], values: NDArray[np.float64]) -> list[Picture]:
    """Gives rows their scores, and counts them.

    Args:
        values: [N, lights, 3], the `Values` of each row in each light, the pictures' own first; of several
            lights the envelope counts, so that the rate holds in each. Those of a picture that is `LOST` in
            one are above all scores.
    """
    if not rows:
        return []
    lost = np.isnan(values[:, :, :2]).any(axis=(1, 2))
    known = np.flatnonzero(~lost).tolist()
    units = [rows[k].unit for k in known]
    found = [replace(row.forgotten(), counted=True, drawn=row.drawn) for row in rows]
    if not known:
        return found
    scores, maxima = (envelope(values[known, :, k], units).tolist() for k in (0, 1))
    for k, *of in zip(known, scores, maxima, values[known, 0, 2].tolist(), strict=True):
        found[k] = replace(found[k], **dict(zip(Values._fields, of, strict=True)))
    return found


def calibrate(rows: Iterable[Picture], rate: float = DEFAULT_RATE, **how: Any) -> Calibration:
    """Makes the calibration of the rows that count.

    Args:
        **how: fields of `Calibration` that do not follow from rows: method, runtime, precision, promised,
            outline.

    Raises:
        InputError: no row has a score.
    """
    counted = [row for row in rows if row.counted]
    known, wrong = scored(counted), [row for row in counted if row.score is None]
    if not known:
        raise InputError("calibration needs at least one good picture, each with a score and a map")
    promised = how.get("promised", True)
    return Calibration(
        scores=tuple(row.score for row in known if row.score is not None),
        map_maxima=tuple(math.nan if row.maximum is None else row.maximum for row in known),
        map_level=float(np.median([math.nan if row.median is None else row.median for row in known])),
        rate=rate,
        miscounted=len(wrong),
        units=tuple(row.unit for row in (*known, *wrong)) if promised else (),
        **{"outline": DEFAULT_OUTLINE, **how},
    )


def scored(rows: Iterable[Picture]) -> list[Picture]:
    """The rows of a calibration's scores, in their order."""
    return [row for row in rows if row.counted and row.score is not None]


def learnt_units(rows: Iterable[Picture]) -> dict[str, int]:
    """Returns the unit of each picture that was learnt from, by its hash."""
    return {row.hash: row.unit for row in rows if row.role == TRAIN and row.unit >= 0}


def next_unit(rows: Iterable[Picture]) -> int:
    """The first number of a unit that no row has."""
    return 1 + max((row.unit for row in rows), default=-1)


def renumber(new: Iterable[Picture], known: Iterable[Picture]) -> tuple[Picture, ...]:
    """Returns new rows whose units are none of the known ones': the only place that renumbers units."""
    first = next_unit(known)
    return tuple(replace(row, unit=first + row.unit) if row.unit >= 0 else row for row in new)


def rows_to_table(rows: Iterable[Picture]) -> dict[str, list[Any]]:
    """The rows as columns, for a file."""
    every = list(rows)
    return {name: [getattr(row, name) for row in every] for name in COLUMNS}


def rows_from_table(table: Mapping[str, Sequence[Any]]) -> tuple[Picture, ...]:
    """Reads the rows of a file; a column that it lacks is a later version's, and has its default. KeyError,
    TypeError or ValueError where it is damaged."""
    count = len(table["hash"])
    columns = [table[one.name] if one.name in table else [one.default] * count for one in fields(Picture)]
    return tuple(_parse_row(Picture(*values)) for values in zip(*columns, strict=True))


def _parse_row(row: Picture) -> Picture:
    if not all(isinstance(one, str) for one in (row.hash, row.role, row.name)) or type(row.unit) is not int:
        raise ValueError("a picture without a name, or a unit")
    if not (isinstance(row.counted, bool) and isinstance(row.drawn, bool)):
        raise ValueError("counted")
    given = [getattr(row, name) for name in Values._fields]
    known = [None if one is None else float(one) for one in given]
    if not all(one is None or math.isfinite(one) for one in known) or len({one is None for one in known}) > 1:
        raise ValueError("a score without a map")
    return replace(row, score=known[0], maximum=known[1], median=known[2])
