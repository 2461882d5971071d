"""Scores of good pictures, which are rows of one table (`pictures.table`), and the calibration from them.

`judge` alone gives rows their scores, and `calibrate` alone makes a `Calibration` of them: a fit, an update,
a new calibration and an export do both, each with its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.threshold import (
    DEFAULT_OUTLINE,
    DEFAULT_RATE,
    NO_LINE,
    Calibration,
    LineSample,
    envelope,
)
from flawscope.errors import InputError
from flawscope.pictures.table import Picture
from flawscope.types import Array

SAMPLED_PIXELS = 1 << 20  # of a large map, that its median is taken from


class Values(NamedTuple):
    """Score of a picture, and its map's maximum and median over the pixels that count."""

    score: float
    maximum: float
    median: float

    @property
    def is_lost(self) -> bool:
        """Whether the picture has no score: its parts are not found, or counted wrong."""
        return math.isnan(self.score)


LOST = Values(math.nan, math.nan, math.nan)  # its parts are not found, or counted wrong


def map_values(score: float, drawn: Array, inside: NDArray[np.bool_]) -> Values:
    """Return the values of a picture with a map [H, W]; `inside` [H, W] marks the pixels that count."""
    some = slice(None, None, max(1, math.isqrt(drawn.size // SAMPLED_PIXELS)))
    counted = drawn[some, some][inside[some, some]]
    return Values(float(score), float(drawn.max()), float(np.median(counted if counted.size else drawn)))


def worst(several: Iterable[Values]) -> Values:
    """Return the values of a picture from those of its frames: largest score, largest maximum."""
    scores, maxima, medians = zip(*several, strict=True)
    return Values(max(scores), max(maxima), float(np.median(medians)))


def judge(rows: Sequence[Picture], values: NDArray[np.float64]) -> list[Picture]:
    """Return the rows with their scores, and marked as counted.

    Args:
        rows: N rows.
        values: [N, lights, 3], the `Values` of each row in each light, the pictures' own first. Of several
            lights the envelope counts: the rate holds in each. A picture that is `LOST` in a light counts
            above all scores.
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
    for k, *values_of_row in zip(known, scores, maxima, values[known, 0, 2].tolist(), strict=True):
        found[k] = replace(found[k], **dict(zip(Values._fields, values_of_row, strict=True)))
    return found


def calibrate(
    rows: Iterable[Picture],
    rate: float = DEFAULT_RATE,
    *,
    method: str = Calibration.method,
    runtime: str = Calibration.runtime,
    precision: str = Calibration.precision,
    promised: bool = Calibration.promised,
    outline: float = DEFAULT_OUTLINE,
) -> Calibration:
    """Make the calibration of the rows that count.

    Args:
        rows: Rows of good pictures.
        rate: Target false-alarm rate, 0..1.
        method: How the scores were made, for the reader.
        runtime: Engine that gave the scores.
        precision: Precision of the model that gave the scores.
        promised: Whether the scores are like those of new good pictures.
        outline: `Calibration.outline`.

    Raises:
        InputError: No row has a score.
    """
    every = counted(rows)
    known = scored(every)
    wrong = [row for row in every if row.score is None]
    if not known:
        raise InputError("calibration needs at least one good picture, each with a score and a map")
    scores = [row.score for row in known if row.score is not None]
    maxima = [math.nan if row.maximum is None else row.maximum for row in known]
    medians = [math.nan if row.median is None else row.median for row in known]
    units = list[int]()
    if promised:
        units = [row.unit for row in (*known, *wrong)]
    return Calibration(
        scores=tuple(scores),
        map_maxima=tuple(maxima),
        map_level=float(np.median(medians)),
        rate=rate,
        miscounted=len(wrong),
        units=tuple(units),
        line=_line_sample(every) if promised else NO_LINE,
        method=method,
        runtime=runtime,
        precision=precision,
        promised=promised,
        outline=outline,
    )


def _line_sample(rows: Sequence[Picture]) -> LineSample:
    """Return the sample of the rows that were drawn from the line by chance."""
    lost_of: dict[int, list[bool]] = {}
    for row in rows:
        if row.drawn:
            lost_of.setdefault(row.unit, []).append(row.is_lost)
    return LineSample(float(sum(np.mean(pictures) for pictures in lost_of.values())), len(lost_of))


def counted(rows: Iterable[Picture]) -> list[Picture]:
    """Return the rows that decide the threshold, in their order."""
    return [row for row in rows if row.counted]


def ranking_scores(rows: Iterable[Picture]) -> list[float]:
    """Return the scores by which counted rows are ranked; infinite for a lost one."""
    return [math.inf if row.score is None else row.score for row in rows]


def scored(rows: Iterable[Picture]) -> list[Picture]:
    """Return the counted rows with a score, in the order of a calibration's scores."""
    return [row for row in rows if row.counted and row.score is not None]
