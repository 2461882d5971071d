"""Computes 95 % intervals of the metrics from the test pictures themselves.

The picture is the sampling unit, since pixels of one picture are not independent. The bootstrap is
stratified: good and defective pictures are resampled apart, because somebody chose their numbers.
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
MAX_SAMPLED_PIXELS = 1 << 24  # normal pixels that thresholds of the pixel metrics are chosen from
THRESHOLDS_PER_SOURCE = 256  # thresholds from each of the sources in `_choose_thresholds`
IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1", "image_f1_calibrated")

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """Bounds of a 95 % interval, and the way they were found."""

    low: float
    high: float
    method: str


def delong_auroc(anomalous: Flags, scores: Array) -> tuple[float, float]:
    """Return the AUROC and its variance; (NaN, NaN) where a class has fewer than two pictures.

    A picture's placement value is the share of pictures of the other class that are ranked correctly relative
    to it. The variance of the AUROC is var(values of defective) / their number + var(values of good) / their
    number: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).
    """
    defective = np.sort(scores[anomalous])
    good = np.sort(scores[~anomalous])
    if min(defective.size, good.size) < 2:
        return math.nan, math.nan
    defective_placements = _share_below(good, defective)
    good_placements = 1 - _share_below(defective, good)  # defective pictures rank correctly above it
    variance = defective_placements.var(ddof=1) / defective.size + good_placements.var(ddof=1) / good.size
    return float(defective_placements.mean()), float(variance)


def _share_below(reference: Array, values: Array) -> Floats:
    """Return, for each of `values`, the share of `reference` below it; equal values count half.

    `reference` is sorted.
    """
    # "left" counts the values below, "right" those below or equal
    twice_below = np.searchsorted(reference, values, "left") + np.searchsorted(reference, values, "right")
    return np.asarray(twice_below / (2 * reference.size), dtype=np.float64)


def auroc_interval(anomalous: Flags, scores: Array) -> Interval | None:
    """Return the 95 % interval of the image AUROC; None where no interval can be found.

    The interval comes from DeLong's variance on the logit scale, which keeps it inside 0..1 (Pepe, 2003). If
    the AUROC is 0 or 1, this variance is zero and says nothing. Then the exact binomial interval is taken,
    over pairs of a good and a defective picture, in which each picture occurs at most once.
    """
    area, variance = delong_auroc(anomalous, scores)
    if math.isnan(area):
        return None
    if 0 < area < 1 and variance > 0:
        logit = math.log(area / (1 - area))
        quantile = NormalDist().inv_cdf(1 - TAIL_PROBABILITY)
        # the logit's derivative, 1 / (area * (1 - area)), scales the deviation
        half_width = quantile * math.sqrt(variance) / (area * (1 - area))
        bounds = (logit - half_width, logit + half_width)
        low, high = (1 / (1 + math.exp(-bound)) for bound in bounds)  # back from the logit scale
        return Interval(low, high, "DeLong, logit scale")
    if area in (0.0, 1.0):
        pairs = int(min(anomalous.sum(), (~anomalous).sum()))
        correct_pairs = round(area * pairs)  # either all pairs or none
        low, high = metrics.confidence_interval_rate(correct_pairs, pairs)
        return Interval(low, high, f"exact, {pluralize(pairs, 'separate pair')}")
    return None


def bootstrap_counts(anomalous: Flags, resamples: int, seed: int) -> NDArray[np.int64]:
    """Return how often each resample has each picture, [resamples, N].

    Each resample has as many good and as many defective pictures as the test set.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, anomalous.size), dtype=np.int64)
    for members in (np.flatnonzero(anomalous), np.flatnonzero(~anomalous)):
        if members.size:
            shares = np.full(members.size, 1 / members.size)
            counts[:, members] = rng.multinomial(members.size, shares, size=resamples)
    return counts


def percentile_interval(values: Array, resamples: int) -> Interval | None:
    """Return the 95 % percentile interval of a metric.

    The result is None if a value is NaN, or if all are equal: there are too few mistakes to say anything.

    Args:
        values: Values of the metric in the resamples.
        resamples: Number of values that are needed; None is returned where there are fewer.
    """
    if np.isnan(values).any() or values.size < resamples or np.ptp(values) == 0:
        return None
    low, high = np.quantile(values, [TAIL_PROBABILITY, 1 - TAIL_PROBABILITY])
    return Interval(float(low), float(high), f"bootstrap over pictures, {resamples:,} draws")


def image_intervals(
    anomalous: Flags, scores: Array, decisions: Flags, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval | None]:
    """Return 95 % intervals of the image metrics by their names, None where no interval can be found.

    If a class has fewer than two pictures, only the interval of the AUROC is returned.

    Args:
        anomalous: [N], whether each picture is defective.
        scores: [N], score of each picture.
        decisions: [N], whether each picture is called anomalous.
        resamples: Number of resamples.
        seed: Seed of the resamples.
    """
    of_auroc: dict[str, Interval | None] = {"image_auroc": auroc_interval(anomalous, scores)}
    if min(anomalous.sum(), (~anomalous).sum()) < 2:
        return of_auroc
    times = bootstrap_counts(anomalous, resamples, seed)
    intervals = {}
    for name, values in bootstrap_images(anomalous, scores, decisions, times).items():
        intervals[name] = percentile_interval(values, resamples)
    return intervals | of_auroc  # DeLong's interval of the AUROC replaces the bootstrap's


def bootstrap_images(
    anomalous: Flags, scores: Array, decisions: Flags, times: NDArray[np.int64]
) -> dict[str, Floats]:
    """Return the image metrics of every resample by their names, [B] each.

    Args:
        anomalous: [N], whether each picture is defective.
        scores: [N], score of each picture.
        decisions: [N], whether each picture is called anomalous.
        times: [B, N], how often each resample has each picture (`bootstrap_counts`).
    """
    values = {name: np.empty(len(times)) for name in IMAGE_METRICS}
    for k, picture_times in enumerate(times):
        # index of each picture, as often as the resample has the picture
        indices = np.repeat(np.arange(anomalous.size), picture_times)
        ranking = metrics.image_metrics(anomalous[indices], scores[indices])
        values["image_auroc"][k] = ranking.auroc
        values["image_ap"][k] = ranking.ap
        values["image_f1"][k] = ranking.f1
        values["image_f1_calibrated"][k] = metrics.f1_at(anomalous[indices], decisions[indices])
    return values


@dataclass(frozen=True)
class PixelCounts:
    """Counts of pixels of each of N pictures, at the same K thresholds in falling order.

    The counts of a resample are weighted sums over the pictures.

    Attributes:
        normal: [N, K], normal pixels at or above each threshold.
        anomalous: [N, K], anomalous pixels at or above each threshold.
        overlap: [N, K], sum over the picture's regions of the share found.
        marked: [N, 3], three counts: anomalous pixels that the model's calibrated mask marks, all pixels that
            it marks, and all anomalous pixels.
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
        """Return the curves of each resample, over all of its pictures.

        Args:
            times: [B, N], how often each resample has each picture; None: each picture once.
        """
        weights = np.ones((1, len(self.normal))) if times is None else times.astype(np.float64)
        false_positives = weights @ self.normal
        true_positives = weights @ self.anomalous
        overlap = weights @ self.overlap
        regions = weights @ self.regions
        # at the lowest threshold, all pixels are at or above it
        all_normal, all_anomalous = false_positives[:, -1:], true_positives[:, -1:]
        flagged = true_positives + false_positives
        with np.errstate(invalid="ignore", divide="ignore"):
            return Curves(
                fpr=_prepend_zero(false_positives / all_normal),
                recall=_prepend_zero(true_positives / all_anomalous),
                pro=_prepend_zero(overlap / regions[:, None]),
                precision=true_positives / flagged,
                f1=2 * true_positives / (flagged + all_anomalous),
            )


class Curves(NamedTuple):
    """Curves of B resamples along K falling thresholds.

    `fpr`, `recall` and `pro` are [B, K + 1] and rise from 0 to 1; `precision` and `f1` are [B, K].
    """

    fpr: Floats
    recall: Floats
    pro: Floats
    precision: Floats
    f1: Floats

    def metrics(self) -> dict[str, Floats]:
        """Return the pixel metrics of each resample by their names, [B] each.

        The values are approximate: with more thresholds, they are closer to the exact metrics.
        """
        recall_steps = np.diff(self.recall, axis=1)
        return {
            "pixel_auroc": area_under_curves(self.fpr, self.recall, limit=1.0),
            "pixel_ap": np.where(recall_steps > 0, recall_steps * self.precision, 0).sum(axis=1),
            "pixel_f1": self.f1.max(axis=1),
            "au_pro": area_under_curves(self.fpr, self.pro, PRO_LIMIT),
            "au_pro_05": area_under_curves(self.fpr, self.pro, PRO_LIMIT_05),
        }


def area_under_curves(x: Floats, y: Floats, limit: float) -> Floats:
    """Return the area [B] under curves up to x = `limit`, divided by the limit.

    Args:
        x: [B, K], rising from 0.
        y: [B, K], value at each x.
        limit: Value of x at which the area ends.
    """
    x_start, y_start = x[:, :-1], y[:, :-1]
    x_step, y_step = np.diff(x, axis=1), np.diff(y, axis=1)
    width = np.clip(limit - x_start, 0, x_step)  # width of each segment's part before the limit
    share = np.divide(width, x_step, out=np.zeros_like(x_step), where=x_step > 0)
    y_end = y_start + y_step * share
    return np.asarray((width * (y_start + y_end) / 2).sum(axis=1) / limit)


def _prepend_zero(values: Floats) -> Floats:
    """Return curves [B, K] with a zero before each, [B, K + 1]."""
    return np.concatenate([np.zeros((len(values), 1)), values], axis=1)


def count_pixels(pictures: Sequence[EvaluatedPicture]) -> PixelCounts | None:
    """Count the valid pixels of the pictures with a ground truth, at common thresholds.

    The result is None if there is no anomalous or no normal pixel. `pictures` are read one after the other.
    """
    thresholds = _choose_thresholds(pictures)
    if thresholds is None:
        return None
    rising_thresholds = thresholds[::-1]

    def count_at_or_above(values: Array, weights: Array | None = None) -> Floats:
        """Return the number of values, or the sum of their weights, at or above each threshold, [K]."""
        # number of thresholds that each value reaches
        reached = np.searchsorted(rising_thresholds, values, side="right")
        counts_by_reached = np.bincount(reached, weights, minlength=rising_thresholds.size + 1)
        counts = counts_by_reached[1:]  # without the values that reach no threshold
        # a value that reaches n thresholds reaches the n lowest: summed from the highest threshold down
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
        is_anomalous, is_normal = _split_by_truth(truth, valid)
        anomalous_values = prediction.map[is_anomalous]
        normal.append(count_at_or_above(prediction.map[is_normal]))
        anomalous.append(count_at_or_above(anomalous_values))
        region_of_pixel = np.zeros(0, np.intp)
        if anomalous_values.size:
            number_map, _ = label(truth, structure=np.ones((3, 3)))
            region_of_pixel = number_map[is_anomalous]
        areas = np.bincount(region_of_pixel)
        # each pixel counts as its share of its region
        overlap.append(count_at_or_above(anomalous_values, weights=1 / areas[region_of_pixel]))
        hits = int(prediction.mask[is_anomalous].sum())
        false_positives = int(prediction.mask[is_normal].sum())
        # found anomalous pixels, pixels called anomalous, anomalous pixels
        marked.append([hits, hits + false_positives, anomalous_values.size])
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
    """Return the anomalous and the normal pixels that count, [H, W] bool each."""
    if valid is None:
        return truth, ~truth
    return truth & valid, ~truth & valid


def _choose_thresholds(pictures: Sequence[EvaluatedPicture]) -> Floats | None:
    """Choose thresholds among the pixels' values, in falling order; None if a class has no pixels.

    The thresholds come from four sources: quantiles of the normal pixels' values, which lie denser among
    higher values; evenly spaced quantiles of the same values; quantiles of the anomalous pixels' values; and
    the least value.
    """
    normal_samples = []
    anomalous_values = []
    least = np.inf
    for _, prediction, truth, valid in pictures:
        if truth is None:
            continue
        is_anomalous, is_normal = _split_by_truth(truth, valid)
        pixel_count = len(pictures) * truth.size  # all maps have this size
        step = max(1, pixel_count // MAX_SAMPLED_PIXELS)
        normal_values = prediction.map[is_normal]
        normal_samples.append(normal_values[::step].copy())  # a slice would keep the full array in memory
        anomalous_values.append(prediction.map[is_anomalous])
        for values in (normal_values, anomalous_values[-1]):
            if values.size:
                least = min(least, float(values.min()))
    no_values = np.empty(0)  # in case no picture has a ground truth
    normal = np.concatenate([*normal_samples, no_values])
    anomalous = np.concatenate([*anomalous_values, no_values])
    if not normal.size or not anomalous.size:
        return None
    falling_normal = np.sort(normal)[::-1]
    tail_indices = np.geomspace(1, normal.size, THRESHOLDS_PER_SOURCE).astype(np.int64) - 1
    even_indices = np.linspace(0, normal.size - 1, THRESHOLDS_PER_SOURCE).astype(np.int64)
    anomalous_quantiles = np.quantile(anomalous, np.linspace(0, 1, THRESHOLDS_PER_SOURCE))
    sources = [falling_normal[tail_indices], falling_normal[even_indices], anomalous_quantiles, [least]]
    return np.unique(np.concatenate(sources).astype(np.float64))[::-1]


def pixel_intervals(
    counts: PixelCounts, *, resamples: int = RESAMPLES // 2, seed: int = 0
) -> dict[str, Interval | None]:
    """Return 95 % intervals of the pixel metrics by their names, None where no interval can be found.

    The result is empty if fewer than two pictures have a region.
    """
    if int((counts.regions > 0).sum()) < 2:
        return {}
    times = bootstrap_counts(counts.defective, resamples, seed)
    intervals = {}
    for name, values in bootstrap_pixels(counts, times).items():
        intervals[name] = percentile_interval(values, resamples)
    return intervals


def bootstrap_pixels(counts: PixelCounts, times: NDArray[np.int64]) -> dict[str, Floats]:
    """Return the pixel metrics of every resample by their names, [B] each.

    Args:
        counts: Counts of the pictures.
        times: [B, N], how often each resample has each picture (`bootstrap_counts`).
    """
    hits, marked, anomalous = (times @ counts.marked).T  # sums over the pictures of a resample, [B] each
    with np.errstate(invalid="ignore"):
        calibrated_f1 = 2 * hits / (marked + anomalous)
    return counts.curves(times).metrics() | {"pixel_f1_calibrated": calibrated_f1}
