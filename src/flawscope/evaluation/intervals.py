"""Computes 95 % intervals of the metrics from the test pictures themselves.

The picture is the sampling unit, since pixels of one picture are not independent. The bootstrap is
stratified: good and defective ones are drawn apart, as a test set has them in numbers that somebody chose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import pluralize
from flawscope.evaluation import metrics
from flawscope.evaluation.result import EvaluatedPicture
from flawscope.types import Array

RESAMPLES = 1000
TAIL_PROBABILITY = 0.025  # on either side
PRO_LIMIT = 0.3
PRO_LIMIT_05 = 0.05
MAX_SAMPLED_PIXELS = 1 << 24  # that the thresholds of the pixel metrics are chosen from
THRESHOLDS_PER_SOURCE = 256  # thresholds from each of three sources
IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1", "image_f1_calibrated")

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """Bounds of a 95 % interval, and the way they were found."""

    low: float
    high: float
    method: str


def delong_auroc(anomalous: Flags, scores: Array) -> tuple[float, float]:
    """AUROC and its variance; (NaN, NaN) with fewer than two pictures of either class.

    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988): the variance over pictures of the share of the
    other class that each is ranked correctly against (its placement value).
    """
    bad = np.sort(scores[anomalous])
    good = np.sort(scores[~anomalous])
    if min(bad.size, good.size) < 2:
        return math.nan, math.nan
    of_bad = _share_below(good, bad)  # [bad]: good pictures that score less, ties half
    of_good = 1 - _share_below(bad, good)  # [good]: defective ones that score more
    variance = of_bad.var(ddof=1) / bad.size + of_good.var(ddof=1) / good.size
    return float(of_bad.mean()), float(variance)


def _share_below(ordered: Array, values: Array) -> Floats:
    both = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(both / (2 * ordered.size), dtype=np.float64)


def auroc_interval(anomalous: Flags, scores: Array) -> Interval | None:
    """95 % interval of the image AUROC; None where there are too few pictures.

    DeLong's variance on the logit scale, which keeps the bounds inside 0..1 (Pepe, 2003). Where the classes
    are separated that variance is zero and says nothing. Then the pictures are paired off, each good one
    with another defective one: independent trials whose rate is the AUROC, with the exact binomial interval.
    """
    area, variance = delong_auroc(anomalous, scores)
    if math.isnan(area):
        return None
    if 0 < area < 1 and variance > 0:
        logit = math.log(area / (1 - area))
        reach = NormalDist().inv_cdf(0.975) * math.sqrt(variance) / (area * (1 - area))
        low, high = (1 / (1 + math.exp(-v)) for v in (logit - reach, logit + reach))
        return Interval(low, high, "DeLong, logit scale")
    if area in (0.0, 1.0):
        pairs = int(min(anomalous.sum(), (~anomalous).sum()))
        low, high = metrics.confidence_interval_rate(round(area * pairs), pairs)
        return Interval(low, high, f"exact, {pluralize(pairs, 'separate pair')}")
    return None


def bootstrap_counts(anomalous: Flags, resamples: int, seed: int) -> NDArray[np.int64]:
    """Number of times that each resample draws each picture, [resamples, N], stratified by class."""
    rng = np.random.default_rng(seed)
    times = np.zeros((resamples, anomalous.size), dtype=np.int64)
    for members in (np.flatnonzero(anomalous), np.flatnonzero(~anomalous)):
        if members.size:
            shares = np.full(members.size, 1 / members.size)
            times[:, members] = rng.multinomial(members.size, shares, size=resamples)
    return times


def percentile_interval(values: Array, resamples: int) -> Interval | None:
    """Percentile bootstrap interval; None where all resamples are equal: too few mistakes, not certainty."""
    values = values[~np.isnan(values)]
    if values.size < resamples or np.ptp(values) == 0:
        return None
    low, high = np.quantile(values, [TAIL_PROBABILITY, 1 - TAIL_PROBABILITY])
    return Interval(float(low), float(high), f"bootstrap over pictures, {resamples:,} draws")


def image_intervals(
    anomalous: Flags, scores: Array, decisions: Flags, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval | None]:
    """95 % intervals of the image metrics, by the metrics' names. All arrays [N]."""
    found: dict[str, Interval | None] = {"image_auroc": auroc_interval(anomalous, scores)}
    if min(anomalous.sum(), (~anomalous).sum()) < 2:
        return found
    values = bootstrap_images(anomalous, scores, decisions, bootstrap_counts(anomalous, resamples, seed))
    return {name: percentile_interval(of_metric, resamples) for name, of_metric in values.items()} | found


def bootstrap_images(
    anomalous: Flags, scores: Array, decisions: Flags, times: NDArray[np.int64]
) -> dict[str, Floats]:
    """Image metrics of every resample, [B] by their names. `times` [B, N]: of `bootstrap_counts`."""
    found = {name: np.empty(len(times)) for name in IMAGE_METRICS}
    for k, drawn_times in enumerate(times):
        drawn = np.repeat(np.arange(anomalous.size), drawn_times)
        ranking = metrics.image_metrics(anomalous[drawn], scores[drawn])
        called = metrics.f1_at(anomalous[drawn], decisions[drawn])
        for name, value in zip(IMAGE_METRICS, (ranking.auroc, ranking.ap, ranking.f1, called), strict=True):
            found[name][k] = value
    return found


@dataclass(frozen=True)
class PixelCounts:
    """Counts of every picture's map at common thresholds: a resample is a weighted sum of them.

    Attributes:
        normal: [N, K], normal pixels at or above each threshold, which fall.
        anomalous: [N, K], anomalous pixels at or above each threshold.
        overlap: [N, K], sum over the picture's regions of the share found.
        marked: [N, 3], pixels that are marked and anomalous, marked, and anomalous, by the calibrated
            threshold.
        regions: [N], number of the picture's regions.
        defective: [N], whether the picture is defective.
    """

    normal: Floats
    anomalous: Floats
    overlap: Floats
    marked: Floats
    regions: Floats
    defective: Flags

    def curves(self, times: Array | None = None) -> Curves:
        """Pooled curves of resamples `times` [B, N]; by default of the pictures as they are."""
        weights = np.ones((1, len(self.normal))) if times is None else times.astype(np.float64)
        false, true, overlap = (weights @ counts for counts in (self.normal, self.anomalous, self.overlap))
        regions = weights @ self.regions
        with np.errstate(invalid="ignore", divide="ignore"):
            return Curves(
                fpr=_prepend_zero(false / false[:, -1:]),
                recall=_prepend_zero(true / true[:, -1:]),
                pro=_prepend_zero(overlap / regions[:, None]),
                precision=true / (true + false),
                f1=2 * true / (true + false + true[:, -1:]),
            )


class Curves(NamedTuple):
    """Curves [B, K + 1], each from 0 to 1 along falling thresholds; precision and f1 are [B, K]."""

    fpr: Floats
    recall: Floats
    pro: Floats
    precision: Floats
    f1: Floats

    def metrics(self) -> dict[str, Floats]:
        """Pixel metrics of each resample, [B]; as close to the exact ones as the thresholds allow."""
        gained = np.diff(self.recall, axis=1)
        return {
            "pixel_auroc": area_under_curves(self.fpr, self.recall, 1.0),
            "pixel_ap": np.where(gained > 0, gained * self.precision, 0).sum(axis=1),
            "pixel_f1": self.f1.max(axis=1),
            "au_pro": area_under_curves(self.fpr, self.pro, PRO_LIMIT),
            "au_pro_05": area_under_curves(self.fpr, self.pro, PRO_LIMIT_05),
        }


def area_under_curves(x: Floats, y: Floats, limit: float) -> Floats:
    """Area under curves [B, K], x rising from 0, up to x = `limit` and divided by it."""
    start = x[:, :-1]
    step = np.diff(x, axis=1)
    inside = np.clip(limit - start, 0, step)
    share = np.divide(inside, step, out=np.zeros_like(step), where=step > 0)
    end = y[:, :-1] + np.diff(y, axis=1) * share  # interpolated where the limit is crossed
    return np.asarray((inside * (y[:, :-1] + end) / 2).sum(axis=1) / limit)


def _prepend_zero(values: Floats) -> Floats:
    return np.concatenate([np.zeros((len(values), 1)), values], axis=1)


def count_pixels(pictures: Sequence[EvaluatedPicture]) -> PixelCounts | None:
    """Count the valid pixels of the pictures with a ground truth; None without an anomalous or a normal one.

    `pictures` are read one after the other.
    """
    thresholds = _choose_thresholds(pictures)
    if thresholds is None:
        return None
    rising = thresholds[::-1]

    def at_or_above(values: Array, weights: Array | None = None) -> Floats:
        place = np.searchsorted(rising, values, side="right")
        counts = np.bincount(place, weights, minlength=rising.size + 1)[1:]
        return np.asarray(np.cumsum(counts[::-1]), dtype=np.float64)

    from scipy.ndimage import label  # slow to import

    normal = []
    anomalous = []
    overlap = []
    marked = []
    regions = []
    defective = []
    for item, prediction, truth, valid in pictures:
        if truth is None:
            continue
        inside, outside = _split_by_truth(truth, valid)
        found = prediction.map[inside]
        normal.append(at_or_above(prediction.map[outside]))
        anomalous.append(at_or_above(found))
        numbers = label(truth, structure=np.ones((3, 3)))[0][inside] if found.size else np.zeros(0, np.intp)
        areas = np.bincount(numbers)
        overlap.append(at_or_above(found, 1 / areas[numbers]))
        hits = int(prediction.mask[inside].sum())
        marked.append([hits, hits + int(prediction.mask[outside].sum()), found.size])
        regions.append(np.count_nonzero(areas))
        defective.append(item.anomalous)
    return PixelCounts(
        normal=np.stack(normal),
        anomalous=np.stack(anomalous),
        overlap=np.stack(overlap),
        marked=np.asarray(marked, dtype=np.float64),
        regions=np.asarray(regions, dtype=np.float64),
        defective=np.asarray(defective, dtype=np.bool_),
    )


def _split_by_truth(truth: Flags, valid: Flags | None) -> tuple[Flags, Flags]:
    """Masks [H, W] of the anomalous and of the normal pixels that count."""
    return (truth, ~truth) if valid is None else (truth & valid, ~truth & valid)


def _choose_thresholds(pictures: Sequence[EvaluatedPicture]) -> Floats | None:
    """Return falling thresholds of the pixels' values; None without a pixel of either class.

    They are quantiles of normal pixels' values, even and in the tail, quantiles of anomalous ones', and last
    the least value.
    """
    good_values = []
    bad_values = []
    least = np.inf
    for _, prediction, truth, valid in pictures:
        if truth is None:
            continue
        inside, outside = _split_by_truth(truth, valid)
        step = max(1, len(pictures) * truth.size // MAX_SAMPLED_PIXELS)  # maps have one size
        good_values.append(prediction.map[outside][::step].copy())  # a slice would keep the whole map
        bad_values.append(prediction.map[inside])
        values = prediction.map[outside], bad_values[-1]
        least = min([least, *(float(part.min()) for part in values if part.size)])
    normal, anomalous = (np.concatenate([*values, np.empty(0)]) for values in (good_values, bad_values))
    if not normal.size or not anomalous.size:
        return None
    normal = np.sort(normal)[::-1]
    tail = np.geomspace(1, normal.size, THRESHOLDS_PER_SOURCE).astype(np.int64) - 1
    even = np.linspace(0, normal.size - 1, THRESHOLDS_PER_SOURCE).astype(np.int64)
    levels = np.quantile(anomalous, np.linspace(0, 1, THRESHOLDS_PER_SOURCE))
    return np.unique(np.concatenate([normal[tail], normal[even], levels, [least]]).astype(np.float64))[::-1]


def pixel_intervals(
    counts: PixelCounts, *, resamples: int = RESAMPLES // 2, seed: int = 0
) -> dict[str, Interval | None]:
    """95 % intervals of the pixel metrics, by their names; none with fewer than two defective pictures."""
    if int((counts.regions > 0).sum()) < 2:
        return {}
    values = bootstrap_pixels(counts, bootstrap_counts(counts.defective, resamples, seed))
    return {name: percentile_interval(found, resamples) for name, found in values.items()}


def bootstrap_pixels(counts: PixelCounts, times: NDArray[np.int64]) -> dict[str, Floats]:
    """Pixel metrics of every resample, [B] by their names. `times` [B, N]: of `bootstrap_counts`."""
    hits, marked, wanted = (times @ counts.marked).T
    with np.errstate(invalid="ignore"):
        calibrated = 2 * hits / (marked + wanted)
    return counts.curves(times).metrics() | {"pixel_f1_calibrated": calibrated}
