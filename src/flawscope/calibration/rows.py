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

SAMPLED_PIXELS = 1 << 20  # about the number of pixels from which the median of a large map is taken


class Values(NamedTuple):
    """Score of a picture, and its map's maximum and median over the pixels that count."""

    score: float
    maximum: float
    median: float

    @property
    def is_lost(self) -> bool:
        """Whether the picture has no score: its parts are not found, or counted wrong."""
        return math.isnan(self.score)


LOST = Values(math.nan, math.nan, math.nan)  # a picture whose parts are not found, or counted wrong


def map_values(score: float, anomaly_map: Array, inside: NDArray[np.bool_]) -> Values:
    """Return the score of a picture, and the maximum and the median of its map.

    Args:
        score: Score of the picture.
        anomaly_map: Map [H, W] of the picture.
        inside: Mask [H, W] of the pixels whose median is taken. In a large map only every n-th row and
            column is used. If no pixel remains, the median is that of the whole map.
    """
    step = max(1, math.isqrt(anomaly_map.size // SAMPLED_PIXELS))
    sampled = anomaly_map[::step, ::step][inside[::step, ::step]]
    median = np.median(sampled if sampled.size else anomaly_map)
    return Values(float(score), float(anomaly_map.max()), float(median))


def worst(frames: Iterable[Values]) -> Values:
    """Combine the values of a picture's frames: largest score, largest maximum, median of the medians."""
    scores, maxima, medians = zip(*frames, strict=True)
    return Values(max(scores), max(maxima), float(np.median(medians)))


def judge(rows: Sequence[Picture], values: NDArray[np.float64]) -> list[Picture]:
    """Return the rows with their scores, and marked as counted.

    If there are several lights, the rows get the `envelope` of their values, so that the rate holds in each
    light. A picture that is `LOST` in any light gets no score; it ranks above all scores.

    Args:
        rows: N rows.
        values: `Values` of each row in each light, [N, lights, 3]; the picture's own light is the first.
    """
    if not rows:
        return []
    scores, maxima, medians = np.moveaxis(values, 2, 0)  # each [N, lights]
    is_lost = (np.isnan(scores) | np.isnan(maxima)).any(axis=1)
    scored_places = np.flatnonzero(~is_lost).tolist()
    units = [rows[place].unit for place in scored_places]
    judged_rows = [replace(row.forgotten(), counted=True, drawn=row.drawn) for row in rows]
    if not scored_places:
        return judged_rows
    row_scores = envelope(scores[scored_places], units).tolist()
    row_maxima = envelope(maxima[scored_places], units).tolist()
    row_medians = medians[scored_places, 0].tolist()  # in the picture's own light
    values_of_rows = zip(scored_places, row_scores, row_maxima, row_medians, strict=True)
    for place, score, maximum, median in values_of_rows:
        judged_rows[place] = replace(judged_rows[place], score=score, maximum=maximum, median=median)
    return judged_rows


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
    counted_rows = counted(rows)
    scored_rows = scored(counted_rows)
    lost_rows = [row for row in counted_rows if row.score is None]
    if not scored_rows:
        raise InputError("calibration needs at least one good picture, each with a score and a map")
    scores = [row.score for row in scored_rows if row.score is not None]
    maxima = [math.nan if row.maximum is None else row.maximum for row in scored_rows]
    medians = [math.nan if row.median is None else row.median for row in scored_rows]
    units = list[int]()
    if promised:
        units = [row.unit for row in (*scored_rows, *lost_rows)]
    return Calibration(
        scores=tuple(scores),
        map_maxima=tuple(maxima),
        map_level=float(np.median(medians)),
        rate=rate,
        miscounted=len(lost_rows),
        units=tuple(units),
        line=_line_sample(counted_rows) if promised else NO_LINE,
        method=method,
        runtime=runtime,
        precision=precision,
        promised=promised,
        outline=outline,
    )


def _line_sample(rows: Sequence[Picture]) -> LineSample:
    """Count the units that were drawn from the line by chance, and those of them that were lost.

    A unit with several pictures counts as the share of its pictures that were lost.
    """
    losses_by_unit: dict[int, list[bool]] = {}
    for row in rows:
        if row.drawn:
            losses_by_unit.setdefault(row.unit, []).append(row.is_lost)
    lost = float(sum(np.mean(losses) for losses in losses_by_unit.values()))
    return LineSample(lost, units=len(losses_by_unit))


def counted(rows: Iterable[Picture]) -> list[Picture]:
    """Return the rows on which the threshold depends, in their order."""
    return [row for row in rows if row.counted]


def ranking_scores(rows: Iterable[Picture]) -> list[float]:
    """Return the scores by which counted rows are ranked; infinite for a row without a score."""
    return [math.inf if row.score is None else row.score for row in rows]


def scored(rows: Iterable[Picture]) -> list[Picture]:
    """Return the counted rows with a score, in the order of a calibration's scores."""
    return [row for row in rows if row.counted and row.score is not None]
