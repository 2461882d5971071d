"""What every metric here is made of: counting normal scores below anomalous ones.

Let `normal` be the sorted scores of what is normal. For an anomalous score a, the threshold "score >= a"
raises `size - below(a)` false alarms, and a threshold just above a raises `size - up_to(a)`. These two
integers give AUROC, AP, F1 and AU-PRO exactly, ties included, without ever forming a curve: normal scores
between two neighbouring anomalous ones only draw a straight horizontal line. So one sort of the normal scores
serves all, and the anomalous ones are looked up in pieces, which bounds the temporaries.

Sums run over integers, or through `math.fsum`: the results depend on the order of the scores alone, neither
on the order of the pictures nor on any strictly increasing transform, to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]

# Anomalous scores handled at a time: about a dozen int64 temporaries of 4 MB.
CHUNK = 1 << 19


@dataclass(frozen=True, slots=True)
class Ranking:
    """AUROC, AP and the best F1 with its threshold."""

    auroc: float
    ap: float
    f1: float
    f1_threshold: float


@dataclass(frozen=True, slots=True)
class Regions:
    """Anomalous scores in pieces; a piece adds `share / divisor` per pixel found to its region's overlap.

    An ordinary region is one piece with share 1 and its area as the divisor. A saturating region has a second
    piece only where its saturation is no whole number of pixels.
    """

    scores: Scores  # [A], piece after piece
    starts: Counts  # [P], where each piece begins; no piece is empty
    shares: NDArray[np.float64]  # [P]
    divisors: NDArray[np.float64]  # [P]
    count: int  # number of regions


def false_alarm_counts(normal: Scores, scores: Scores) -> tuple[Counts, Counts]:
    """How many of the sorted `normal` lie below each of `scores`, and how many below or at; [A] int64 each.

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


def rank(normal: Scores, anomalous: Scores) -> Ranking:
    """The threshold-free metrics of two ascending arrays of one dtype, without NaN.

    No anomalous score: everything is NaN. No normal score: only AUROC is NaN, AP and F1 are 1.
    """
    positives, negatives = anomalous.size, normal.size
    if positives == 0:
        return Ranking(math.nan, math.nan, math.nan, math.nan)
    twice_won = 0  # twice the Mann-Whitney U; a Python integer cannot overflow
    precisions: list[float] = []
    f1, threshold = -1.0, math.nan
    for start in range(0, positives, CHUNK):
        scores = anomalous[start : start + CHUNK]
        first = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
        times = np.diff(np.append(first, scores.size))
        distinct = scores[first]
        below, up_to = false_alarm_counts(normal, distinct)
        twice_won += int(((below + up_to) * times).sum())
        hits = positives - (start + first)  # true positives of "score >= distinct"
        # the first score may have begun in an earlier chunk
        hits[0] = positives - int(np.searchsorted(anomalous, distinct[0], side="left"))
        flagged = hits + (negatives - below)
        # AP = sum over thresholds of (recall step) x precision; recall steps only at anomalous scores
        precisions.append(float((times * (hits / flagged)).sum()))
        # For the same reason F1 is best at an anomalous score. Of equal ones take the highest threshold.
        f1_here = 2 * hits / (flagged + positives)
        best = f1_here.size - 1 - int(np.argmax(f1_here[::-1]))
        if f1_here[best] >= f1:
            f1, threshold = float(f1_here[best]), float(distinct[best])
    return Ranking(
        auroc=twice_won / (2 * positives * negatives) if negatives else math.nan,
        ap=math.fsum(precisions) / positives,
        f1=f1,
        f1_threshold=threshold,
    )


def overlap_area(normal: Scores, regions: Regions, limit: float) -> float:
    """Area under mean region overlap over false-positive rate, up to `limit`, divided by `limit`.

    The curve has one point per distinct score and straight lines between them, also to `limit`. Trapezoids
    are summed by region pixel instead of by threshold: a pixel with score a starts to count where the curve
    passes from the rate just above a to the rate at a, on average half-way, and then counts up to the limit.

    `normal` is ascending, of the dtype of `regions.scores`. NaN without a region or without a normal score.
    """
    negatives, pieces = normal.size, regions.starts.size
    if negatives == 0 or regions.count == 0:
        return math.nan
    width = limit * negatives  # the limit, as a number of false alarms: seldom whole
    # `edge` is the threshold at which the curve reaches the limit, on its way from `before` to `after`.
    edge = normal[negatives - math.ceil(width)]
    before = negatives - int(np.searchsorted(normal, edge, side="right"))
    after = negatives - int(np.searchsorted(normal, edge, side="left"))
    triangle = (width - before) ** 2 / (2 * (after - before))

    found = np.zeros(pieces, dtype=np.int64)  # pixels above the edge,
    twice_late = np.zeros(pieces, dtype=np.int64)  # twice the false alarms raised before they were found,
    at_edge = np.zeros(pieces, dtype=np.int64)  # and pixels at the edge
    for start in range(0, regions.scores.size, CHUNK):
        scores = regions.scores[start : start + CHUNK]
        above = scores > edge
        candidates = scores[above]
        order = np.argsort(candidates)
        below, up_to = false_alarm_counts(normal, candidates[order])
        late = np.empty(candidates.size, dtype=np.int64)
        late[order] = 2 * negatives - below - up_to
        per_pixel = np.zeros(scores.size, dtype=np.int64)
        per_pixel[above] = late

        here = slice(
            int(np.searchsorted(regions.starts, start, side="right")) - 1,
            int(np.searchsorted(regions.starts, start + scores.size, side="left")),
        )
        cuts = np.maximum(regions.starts[here] - start, 0)
        found[here] += np.add.reduceat(above, cuts, dtype=np.int64)
        twice_late[here] += np.add.reduceat(per_pixel, cuts)
        at_edge[here] += np.add.reduceat(scores == edge, cuts, dtype=np.int64)

    areas = found - twice_late / (2 * width) + at_edge * (triangle / width)
    return math.fsum(areas * regions.shares / regions.divisors) / regions.count
