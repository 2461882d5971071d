"""Counts normal scores below anomalous ones, from which every metric here follows.

For an anomalous score a, the threshold "score >= a" raises `negatives - below(a)` false alarms, and a
threshold just above a raises `negatives - up_to(a)`. These two integers give AUROC, AP, F1 and AU-PRO
exactly, ties included, without ever forming a curve: normal scores between two neighbouring anomalous ones
only draw a straight horizontal line. So normal scores come in batches of any size, are counted and forgotten.

Sums run over integers, or through `math.fsum`: the results depend on the order of the scores alone, neither
on the order of the pictures nor on any strictly increasing transform, to the last bit.
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
    """Ground truth of each picture, such as a mask; None where there is none."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> SomeTruth | None: ...


def check_flags(flags: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Return `flags` as [N] bool; integers must be 0 or 1."""
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
    """Return `scores` as [N] float64, unchanged, without NaN and as many as there are labels."""
    array = np.asarray(scores)
    if np.iscomplexobj(array):
        raise InputError(f"scores has dtype {array.dtype}, expected real numbers")
    array = array.astype(np.float64, copy=False)
    if array.shape != labels.shape:
        raise InputError(f"scores has shape {array.shape}, expected {labels.shape} as labels has")
    if np.isnan(array).any():
        where = int(np.flatnonzero(np.isnan(array))[0])
        raise InputError(f"scores[{where}] is NaN (of {np.isnan(array).sum()}); a metric cannot rank it")
    return array


def iterate_checked(
    maps: Maps, truths: Truths[Truth], valid: Valid | None, name: str
) -> Iterator[tuple[int, Array, Truth, NDArray[np.bool_] | None]]:
    """Yield index, map [H, W], truth and valid pixels of every picture with a ground truth.

    Maps are checked to be real, without NaN where they count. Every element is read once.

    Args:
        maps: Maps of the pictures.
        truths: Ground truth of each picture; None: it has none.
        valid: Pixels that count, of each picture; None: all.
        name: Names the truths in errors.

    Raises:
        InputError: The lengths differ, or a map or mask is invalid.
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
        keep = None if valid is None else valid[i]
        if keep is not None:
            keep = check_mask(keep, values.shape, f"valid[{i}]")
        if np.isnan(values if keep is None else values[keep]).any():
            raise InputError(f"maps[{i}] contains NaN; a metric cannot rank it")
        yield i, values, truth, keep


def _check_map(given: ArrayLike, name: str) -> Array:
    """Return a map [H, W] of real numbers as an array."""
    values = np.asarray(given)
    if values.ndim != 2:
        raise InputError(f"{name} has shape {values.shape}, expected [H, W]")
    if values.dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {values.dtype}, expected real numbers")
    return values


def check_mask(mask: ArrayLike, shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """Return `mask` as bool of the shape of its map.

    Other types are refused: only the caller knows which grey value is a defect.
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
    """Anomalous scores in pieces; a piece adds `share / divisor` per pixel found to its region's overlap.

    An ordinary region is one piece with share 1 and its area as the divisor. A saturating region has a second
    piece only where its saturation is not a whole number of pixels.
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
    """Gather the anomalous scores of `count` regions from their pieces.

    The scores are float32, or wider where a map of `dtypes` needs it to be kept exactly.
    """
    dtype = np.result_type(np.float32, *dtypes)
    sizes = np.array([piece.size for piece in pieces], np.int64)
    return Regions(
        scores=np.concatenate([*pieces, np.empty(0, dtype)]).astype(dtype, copy=False),
        starts=np.cumsum(sizes) - sizes,
        shares=np.array(shares, np.float64),
        divisors=np.array(divisors, np.float64),
        count=count,
    )


def count_normal(regions: Regions, normal: Iterable[Scores]) -> RankCounts:
    """Count normal scores below anomalous ones, and up to them.

    It needs about 32 bytes for each anomalous score.

    Args:
        regions: The anomalous scores.
        normal: Batches of normal scores, of the dtype of the anomalous ones; each is sorted in place.
    """
    order = np.argsort(regions.scores)
    scores = regions.scores[order]
    pieces = np.diff(np.append(regions.starts, scores.size))
    owner = np.repeat(np.arange(pieces.size, dtype=np.uint32), pieces)[order]
    del order
    below = np.zeros(scores.size, np.int64)
    up_to = np.zeros(scores.size, np.int64)
    negatives = 0
    for batch in normal:
        batch.sort()
        negatives += batch.size
        for start in range(0, scores.size, CHUNK):
            here = slice(start, start + CHUNK)
            below_here, up_to_here = false_alarm_counts(batch, scores[here])
            below[here] += below_here
            up_to[here] += up_to_here
    return RankCounts(scores, owner, below, up_to, negatives)


def batches(pieces: Iterable[Array], total: int, dtype: np.dtype[np.generic]) -> Iterator[Scores]:
    """Yield the values of all pieces, `total` at the most, in arrays of up to `BATCH`.

    An array is valid until the next one is taken.
    """
    batch = np.empty(min(BATCH, total), dtype=dtype)
    end = 0
    for piece in pieces:
        values = piece.ravel()
        while values.size:
            part = values[: batch.size - end]
            batch[end : end + part.size] = part
            end += part.size
            values = values[part.size :]
            if end == batch.size:
                yield batch
                end = 0
    if end:
        yield batch[:end]


def false_alarm_counts(normal: Scores, scores: Scores) -> tuple[Counts, Counts]:
    """Count the sorted `normal` below each of `scores`, and below or at it; [A] int64 each.

    Both arrays must have one dtype, or NumPy would copy `normal`. Sorted `scores` are about ten times as
    fast.
    """
    below = np.searchsorted(normal, scores, side="left").astype(np.int64, copy=False)
    up_to = below.copy()
    if normal.size:
        # a second search only where there is a tie: rare in real maps
        tied = normal[np.minimum(below, normal.size - 1)] == scores
        up_to[tied] = np.searchsorted(normal, scores[tied], side="right")
    return below, up_to


def rank_metrics(counted: RankCounts) -> ImageMetrics:
    """Compute the threshold-free metrics.

    Without an anomalous or without a normal score all are NaN: there is nothing to rank.
    """
    positives = counted.scores.size
    negatives = counted.negatives
    if positives == 0 or negatives == 0:
        return ImageMetrics(math.nan, math.nan, math.nan, math.nan)
    twice_won = 0  # twice the Mann-Whitney U; a Python integer cannot overflow
    precisions: list[float] = []
    f1 = -1.0
    threshold = math.nan
    for start in range(0, positives, CHUNK):
        scores = counted.scores[start : start + CHUNK]
        first = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
        multiplicity = np.diff(np.append(first, scores.size))
        distinct = scores[first]
        below = counted.below[start + first]
        up_to = counted.up_to[start + first]
        twice_won += int(((below + up_to) * multiplicity).sum())
        hits = positives - (start + first)  # true positives of "score >= distinct"
        # the first score may have begun in an earlier chunk
        hits[0] = positives - int(np.searchsorted(counted.scores, distinct[0], side="left"))
        flagged = hits + (negatives - below)
        # AP = sum over thresholds of (recall step) x precision; recall steps only at anomalous scores
        precisions.append(float((multiplicity * (hits / flagged)).sum()))
        # For the same reason F1 is best at an anomalous score. Of equal ones take the highest threshold.
        f1_here = 2 * hits / (flagged + positives)
        best = f1_here.size - 1 - int(np.argmax(f1_here[::-1]))
        if f1_here[best] >= f1:
            f1 = float(f1_here[best])
            threshold = float(distinct[best])
    return ImageMetrics(
        auroc=twice_won / (2 * positives * negatives),
        ap=math.fsum(precisions) / positives,
        f1=f1,
        f1_threshold=threshold,
    )


def overlap_area(counted: RankCounts, regions: Regions, limit: float) -> float:
    """Area under mean region overlap over false-positive rate, up to `limit`, divided by `limit`.

    The curve has one point per distinct score and straight lines between them, also to `limit`. Trapezoids
    are summed by region pixel instead of by threshold: a pixel with score a starts to count where the curve
    passes from the rate just above a to the rate at a, on average half-way, and then counts up to the limit.

    NaN without a region or without a normal score.
    """
    negatives = counted.negatives
    pieces = regions.starts.size
    if negatives == 0 or regions.count == 0:
        return math.nan
    width = limit * negatives  # the limit, as a number of false alarms: seldom whole
    found = np.zeros(pieces, dtype=np.int64)  # pixels found before the limit,
    twice_late = np.zeros(pieces, dtype=np.int64)  # twice the false alarms raised before they were found,
    at_limit = np.zeros(pieces, dtype=np.int64)  # and pixels on whose way the curve reaches the limit,
    share = 0.0  # with what they add until then: all have the same score
    for start in range(0, counted.scores.size, CHUNK):
        here = slice(start, start + CHUNK)
        before = negatives - counted.up_to[here]
        after = negatives - counted.below[here]
        early = after < width
        across = ~early & (before < width)
        np.add.at(found, counted.piece[here][early], 1)
        np.add.at(twice_late, counted.piece[here][early], (before + after)[early])
        if across.any():
            np.add.at(at_limit, counted.piece[here][across], 1)
            first = int(np.argmax(across))
            share = float((width - before[first]) ** 2 / (2 * (after[first] - before[first])) / width)
    areas = found - twice_late / (2 * width) + at_limit * share
    return math.fsum(areas * regions.shares / regions.divisors) / regions.count
