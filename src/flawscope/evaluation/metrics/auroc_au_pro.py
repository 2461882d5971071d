"""Counts normal scores below anomalous ones, from which every metric here follows.

For an anomalous score a, the threshold "score >= a" raises `negatives - below(a)` false alarms, and a
threshold just above a raises `negatives - up_to(a)`. These two integers give AUROC, AP, F1 and AU-PRO
exactly, ties included, without ever forming a curve: normal scores between two neighbouring anomalous ones
only draw a straight horizontal line. So normal scores come in batches of any size, are counted and forgotten.

Sums run over integers, or through `math.fsum`: the results depend only on the order of the scores. Neither
the order of the pictures nor a strictly increasing transform of the scores changes the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flawscope.errors import InputError
from flawscope.types import Array

# A sequence of [H, W] arrays, of different sizes if need be, or one [N, H, W] array.
Maps = Sequence[NDArray[np.number]] | NDArray[np.number]
# Per picture the pixels that count, [H, W] bool; None: all of them.
Valid = Sequence[NDArray[np.bool_] | None] | NDArray[np.bool_]
Truth = TypeVar("Truth")
SomeTruth = TypeVar("SomeTruth", covariant=True)


class Truths(Protocol[SomeTruth]):
    """Ground truth of each picture, such as a mask; None for a picture without ground truth."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> SomeTruth | None: ...


def check_flags(flags: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Return `flags` as [N] bool.

    Raises:
        InputError: The flags have another shape, or values other than False, True, 0 and 1.
    """
    array = np.asarray(flags)
    if array.ndim != 1:
        raise InputError(f"{name} has shape {array.shape}, expected [N]")
    if array.dtype == np.bool_:
        return array
    if array.size == 0:
        return array.astype(np.bool_)
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} has dtype {array.dtype}, expected bool or integers 0 and 1")
    if array.min() < 0 or array.max() > 1:
        raise InputError(f"{name} runs from {array.min()} to {array.max()}, expected only 0 and 1")
    return array.astype(np.bool_)


def check_scores(scores: ArrayLike, labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return `scores` as [N] float64.

    Raises:
        InputError: There are more or fewer scores than labels, or a score is complex or NaN.
    """
    array = np.asarray(scores)
    if np.iscomplexobj(array):
        raise InputError(f"scores has dtype {array.dtype}, expected real numbers")
    array = array.astype(np.float64, copy=False)
    if array.shape != labels.shape:
        raise InputError(f"scores has shape {array.shape}, expected {labels.shape} as labels has")
    nan_indices = np.flatnonzero(np.isnan(array))
    if nan_indices.size:
        raise InputError(f"scores[{nan_indices[0]}] is NaN (of {nan_indices.size}); a metric cannot rank it")
    return array


def iterate_checked(
    maps: Maps, truths: Truths[Truth], valid: Valid | None, name: str
) -> Iterator[tuple[int, Array, Truth, NDArray[np.bool_] | None]]:
    """Yield index, map [H, W], truth and valid pixels of every picture with a ground truth.

    Every element of the arguments is read once.

    Args:
        maps: Maps of the pictures.
        truths: Ground truth of each picture; None for a picture without ground truth.
        valid: Mask of the pixels that count, for each picture; None where all count.
        name: What to call the ground truths in errors, such as "masks".

    Raises:
        InputError: The lengths differ, a map is not real or has NaN among the pixels that count, or a mask of
            valid pixels has another type or shape.
    """
    if len(maps) != len(truths):
        raise InputError(f"{len(maps)} maps and {len(truths)} {name}, expected as many of each")
    if valid is not None and len(valid) != len(maps):
        raise InputError(f"{len(maps)} maps and {len(valid)} masks of valid pixels, expected as many of each")
    for i in range(len(maps)):
        truth = truths[i]
        if truth is None:
            continue
        values = _check_map(maps[i], f"maps[{i}]")
        is_valid = None if valid is None else valid[i]
        if is_valid is not None:
            is_valid = check_mask(is_valid, values.shape, f"valid[{i}]")
        valid_values = values if is_valid is None else values[is_valid]
        if np.isnan(valid_values).any():
            raise InputError(f"maps[{i}] contains NaN; a metric cannot rank it")
        yield i, values, truth, is_valid


def _check_map(array: ArrayLike, name: str) -> Array:
    """Return a map [H, W] of real numbers as an array.

    Raises:
        InputError: The map has another shape, or other values.
    """
    values = np.asarray(array)
    if values.ndim != 2:
        raise InputError(f"{name} has shape {values.shape}, expected [H, W]")
    if values.dtype.kind not in "fiub":  # float, signed and unsigned integer, bool
        raise InputError(f"{name} has dtype {values.dtype}, expected real numbers")
    return values


def check_mask(mask: ArrayLike, shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """Return `mask` as an array.

    Raises:
        InputError: The mask is not bool (only the caller knows which grey values are defects), or its shape
            is not `shape`, that of the map.
    """
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise InputError(f"{name} has dtype {array.dtype}, expected bool; pass mask > 0")
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}, its map has {shape}; resize it to nearest first")
    return array


Scores = NDArray[np.floating]
Counts = NDArray[np.int64]

# Anomalous scores handled at a time: about a dozen int64 temporaries of 4 MB.
CHUNK = 1 << 19
# Normal scores sorted at a time: 128 MB of float32.
BATCH = 1 << 25


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """AUROC, AP and the best F1, of pictures or of pixels, 0..1, higher is better; NaN where undefined.

    Best F1 and its threshold are chosen on the labels that they judge: a bound on any threshold, never a
    threshold to use.

    Attributes:
        f1: Best F1 over all thresholds.
        f1_threshold: Threshold of the best F1, in the scores' own unit.
    """

    auroc: float
    ap: float
    f1: float
    f1_threshold: float


@dataclass(frozen=True, slots=True)
class Regions:
    """Anomalous scores of regions; each region is cut into pieces.

    A piece is a set of pixels of one region that all weigh the same. Each pixel of it that is found adds
    `share / divisor` to the overlap of the region. An ordinary region is one piece: its share is 1, its
    divisor is the region's area. A region whose saturation is not a whole number of pixels has a second
    piece.
    """

    scores: Scores  # [A], piece after piece
    starts: Counts  # [P], where each piece begins; no piece is empty
    shares: NDArray[np.float64]  # [P]
    divisors: NDArray[np.float64]  # [P]
    count: int  # number of regions


@dataclass(frozen=True, slots=True)
class RankCounts:
    """Anomalous scores [A], ascending, and where they lie among the normal ones."""

    scores: Scores
    piece: NDArray[np.uint32]  # [A], the piece that a score belongs to
    below: Counts  # [A], normal scores below it
    up_to: Counts  # [A], normal scores below or at it
    negatives: int  # number of normal scores


def gather_regions(
    pieces: Sequence[Array],
    shares: Sequence[float],
    divisors: Sequence[float],
    count: int,
    dtypes: set[np.dtype[np.generic]],
) -> Regions:
    """Return `Regions` of the anomalous scores of all pieces.

    Args:
        pieces: Scores of each piece, as in `Regions`.
        shares: Share of each piece, as in `Regions`.
        divisors: Divisor of each piece, as in `Regions`.
        count: Number of regions.
        dtypes: Types of the maps. The scores become float32, or wider if a map's values need more precision.
    """
    dtype = np.result_type(np.float32, *dtypes)
    sizes = np.array([piece.size for piece in pieces], np.int64)
    no_scores = np.empty(0, dtype)  # in case there is no piece
    return Regions(
        scores=np.concatenate([*pieces, no_scores]).astype(dtype, copy=False),
        starts=np.cumsum(sizes) - sizes,
        shares=np.array(shares, np.float64),
        divisors=np.array(divisors, np.float64),
        count=count,
    )


def count_normal(regions: Regions, normal: Iterable[Scores]) -> RankCounts:
    """Count, for each anomalous score, the normal scores below it, and those below or at it.

    The counts need about 32 bytes for each anomalous score.

    Args:
        regions: The anomalous scores.
        normal: Batches of normal scores, of the dtype of the anomalous ones; each is sorted in place.
    """
    order = np.argsort(regions.scores)
    scores = regions.scores[order]
    piece_sizes = np.diff(np.append(regions.starts, scores.size))
    # number of the piece that each score belongs to, in the order of the sorted scores
    piece_of_score = np.repeat(np.arange(piece_sizes.size, dtype=np.uint32), piece_sizes)[order]
    del order  # frees 8 bytes for each score
    below = np.zeros(scores.size, np.int64)
    up_to = np.zeros(scores.size, np.int64)
    negatives = 0
    for batch in normal:
        batch.sort()
        negatives += batch.size
        for start in range(0, scores.size, CHUNK):
            chunk = slice(start, start + CHUNK)
            batch_below, batch_up_to = false_alarm_counts(batch, scores[chunk])
            below[chunk] += batch_below
            up_to[chunk] += batch_up_to
    return RankCounts(scores, piece_of_score, below, up_to, negatives)


def batches(pieces: Iterable[Array], total: int, dtype: np.dtype[np.generic]) -> Iterator[Scores]:
    """Yield the values of all pieces in arrays [B], with B at most `BATCH`.

    The same array is filled again each time: use its values before you take the next one.

    Args:
        pieces: Arrays of any shape and size.
        total: Number of all values, or an upper bound of it.
        dtype: Type of the arrays.
    """
    batch = np.empty(min(BATCH, total), dtype=dtype)
    filled = 0  # values in the batch
    for piece in pieces:
        values_left = piece.ravel()
        while values_left.size:
            next_values = values_left[: batch.size - filled]  # as many as there is room for
            batch[filled : filled + next_values.size] = next_values
            filled += next_values.size
            values_left = values_left[next_values.size :]
            if filled == batch.size:
                yield batch
                filled = 0
    if filled:
        yield batch[:filled]


def false_alarm_counts(normal: Scores, scores: Scores) -> tuple[Counts, Counts]:
    """Count the normal scores below each of `scores`, and those below or at it; [A] int64 each.

    Args:
        normal: Normal scores, sorted.
        scores: Scores [A]. They have the dtype of `normal`, because NumPy would copy `normal` otherwise. If
            they are sorted, the search is about ten times as fast.
    """
    below = np.searchsorted(normal, scores, side="left").astype(np.int64, copy=False)
    up_to = below.copy()
    if normal.size:
        # a second search only where a normal score is equal, which is rare in real maps
        first_not_below = normal[np.minimum(below, normal.size - 1)]
        is_tied = first_not_below == scores
        up_to[is_tied] = np.searchsorted(normal, scores[is_tied], side="right")
    return below, up_to


def rank_metrics(counted: RankCounts) -> ImageMetrics:
    """Compute AUROC, AP and the best F1.

    All values are NaN if there is no anomalous or no normal score.
    """
    positives = counted.scores.size
    negatives = counted.negatives
    if positives == 0 or negatives == 0:
        return ImageMetrics(math.nan, math.nan, math.nan, math.nan)
    twice_u = 0  # twice the Mann-Whitney U; a Python integer cannot overflow
    precision_sums: list[float] = []  # one for each chunk
    best_f1 = -1.0
    best_threshold = math.nan
    for start in range(0, positives, CHUNK):
        scores = counted.scores[start : start + CHUNK]
        # for each distinct score, the index of its first occurrence in the chunk, and how often it occurs
        first_indices = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
        multiplicity = np.diff(np.append(first_indices, scores.size))
        distinct_scores = scores[first_indices]
        below = counted.below[start + first_indices]
        up_to = counted.up_to[start + first_indices]
        # `below + up_to` counts lower normal scores twice, equal ones once
        twice_u += int(((below + up_to) * multiplicity).sum())
        # true positives of the threshold "score >= distinct score"
        hits = positives - (start + first_indices)
        # scores equal to the first of this chunk may stand in an earlier chunk
        hits[0] = positives - int(np.searchsorted(counted.scores, distinct_scores[0], side="left"))
        flagged = hits + (negatives - below)
        # AP = sum over thresholds of (rise of recall) x precision; recall rises only at anomalous scores
        precision_sums.append(float((multiplicity * (hits / flagged)).sum()))
        # F1 = 2 TP / (flagged + positives) is best at an anomalous score, too
        f1 = 2 * hits / (flagged + positives)
        # the highest of the thresholds with the best F1: `argmax` finds the first one from the end
        last_best = f1.size - 1 - int(np.argmax(f1[::-1]))
        if f1[last_best] >= best_f1:  # the thresholds of later chunks are at least as high
            best_f1 = float(f1[last_best])
            best_threshold = float(distinct_scores[last_best])
    return ImageMetrics(
        auroc=twice_u / (2 * positives * negatives),
        ap=math.fsum(precision_sums) / positives,
        f1=best_f1,
        f1_threshold=best_threshold,
    )


def overlap_area(counted: RankCounts, regions: Regions, limit: float) -> float:
    """Return the area under the curve of the mean region overlap up to `limit`, divided by `limit`.

    The curve is over the false-positive rate. It has one point per distinct score, with straight lines
    between the points. Each anomalous pixel is found on one segment of the curve. Along this segment, the
    threshold falls to the pixel's score, and the number of false alarms rises from `alarms_above` to
    `alarms_at`. If the segment ends before the limit, the pixel adds
    `alarm_limit - (alarms_above + alarms_at) / 2` to the area.

    The result is NaN if there is no region or no normal score.

    Args:
        counted: Anomalous scores and their counts.
        regions: Regions of these scores, whose pieces (`Regions`) give the weight of each pixel.
        limit: False-positive rate at which the area ends.
    """
    negatives = counted.negatives
    piece_count = regions.starts.size
    if negatives == 0 or regions.count == 0:
        return math.nan
    alarm_limit = limit * negatives  # the limit as a number of false alarms, seldom whole
    # for each piece, the number of pixels whose segment ends before the limit
    found_counts = np.zeros(piece_count, dtype=np.int64)
    # for each piece, the sum of `alarms_above + alarms_at` over these pixels
    end_sums = np.zeros(piece_count, dtype=np.int64)
    # for each piece, the number of pixels whose segment crosses the limit; all of them have the same score
    crossing_counts = np.zeros(piece_count, dtype=np.int64)
    crossing_area = 0.0  # area that each crossing pixel adds before the limit, divided by the limit
    for start in range(0, counted.scores.size, CHUNK):
        chunk = slice(start, start + CHUNK)
        pieces = counted.piece[chunk]
        alarms_above = negatives - counted.up_to[chunk]
        alarms_at = negatives - counted.below[chunk]
        is_found = alarms_at < alarm_limit
        is_crossing = ~is_found & (alarms_above < alarm_limit)
        np.add.at(found_counts, pieces[is_found], 1)
        np.add.at(end_sums, pieces[is_found], (alarms_above + alarms_at)[is_found])
        if is_crossing.any():
            np.add.at(crossing_counts, pieces[is_crossing], 1)
            first_crossing = int(np.argmax(is_crossing))
            length = alarms_at[first_crossing] - alarms_above[first_crossing]
            width = alarm_limit - alarms_above[first_crossing]  # part of the segment before the limit
            # a triangle: over this width, the overlap rises from 0 to width / length
            crossing_area = float(width**2 / (2 * length) / alarm_limit)
    # sum of alarm_limit - (alarms_above + alarms_at) / 2 over the found pixels, divided by alarm_limit
    areas = found_counts - end_sums / (2 * alarm_limit) + crossing_counts * crossing_area
    return math.fsum(areas * regions.shares / regions.divisors) / regions.count
