"""Measures the look of pictures as a whole: light, colour, contrast, detail. Torch-free, below a millisecond.

A model keeps the range of its training pictures. Another product, camera or light lies far outside of it; a
defect, which covers a small part of a picture, hardly changes these measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.types import Facts, Json

APPEARANCE_KEY = "appearance"  # key of the range in a model's facts
SAMPLES_PER_SIDE = 64  # number of pixels that are measured along each side
MIN_SAMPLES = 16  # fewest measured pixels that must show the product
MIN_PICTURES = 10  # with fewer, the next good pictures may lie outside of the range
FAR_SHIFT = 1.0  # distance of a picture outside of the training pictures' range, in widths of the range
LOG_OFFSET = 1 / 512  # half a grey level: flat pictures have a logarithm, too


class Feature(NamedTuple):
    """Measured feature of a picture's appearance.

    Attributes:
        name: Name of the feature.
        low_label: Words for a picture that has less of it than the training pictures.
        high_label: Words for a picture that has more of it than the training pictures.
        min_width: Least width of a range, so that a set of equal pictures does not make the next one strange.
    """

    name: str
    low_label: str
    high_label: str
    min_width: float


FEATURES = (
    Feature("brightness", "darker", "brighter", 0.02),  # mean of the channels, 0..1
    Feature("red", "less red", "redder", 0.01),  # above green, -1..1
    Feature("blue", "less blue", "bluer", 0.01),
    Feature("contrast", "less contrast", "more contrast", 0.02),  # standard deviation of the grey values
    Feature("fine_detail", "less fine detail", "more fine detail", 0.1),  # log2 of the mean step between
    Feature("coarse_detail", "less coarse detail", "more coarse detail", 0.1),  # pixels, and grid points
)
UNBOUNDED = (-math.inf, math.inf)
FeatureValues = tuple[float, ...]
"""A number for each of `FEATURES`; empty where nothing was measured."""


def measure_appearance(image: NDArray[np.float32], roi: NDArray[np.bool_] | None = None) -> FeatureValues:
    """Measure the appearance of a network's input.

    Args:
        image: [3, H, W] in 0..1; pixels of padding are below 0.
        roi: Region of interest [H, W]; None: the whole picture.

    Returns:
        A number for each of `FEATURES`, measured on a grid of pixels; empty where fewer than `MIN_SAMPLES`
        of these lie in the picture and in the region of interest.
    """
    height, width = image.shape[1:]
    row_step = max(1, height // SAMPLES_PER_SIDE)
    column_step = max(1, width // SAMPLES_PER_SIDE)
    points = image[:, : height - 1 : row_step, : width - 1 : column_step]
    right = image[:, : height - 1 : row_step, 1:width:column_step]  # pixel to the right of each point
    below = image[:, 1:height:row_step, : width - 1 : column_step]
    is_counted = np.minimum(np.minimum(points[0], right[0]), below[0]) >= 0  # padding is below 0
    if roi is not None:
        is_counted &= roi[: height - 1 : row_step, : width - 1 : column_step]
    if np.count_nonzero(is_counted) < MIN_SAMPLES:
        return ()
    red, green, blue = (float(channel[is_counted].mean(dtype=np.float64)) for channel in points)
    grey = points.mean(axis=0)
    pixel_steps = (np.abs(right - points) + np.abs(below - points)).mean(axis=0)
    fine_step = pixel_steps[is_counted].mean(dtype=np.float64) / 2
    coarse_steps = []
    for axis in (0, 1):
        has_pair = _adjacent_pairs(is_counted, axis)
        if has_pair.any():
            coarse_steps.append(np.abs(np.diff(grey, axis=axis))[has_pair].mean(dtype=np.float64))
    coarse_step = float(np.mean(coarse_steps)) if coarse_steps else 0.0
    return (
        (red + green + blue) / 3,
        red - green,
        blue - green,
        float(grey[is_counted].std(dtype=np.float64)),
        math.log2(fine_step + LOG_OFFSET),
        math.log2(coarse_step + LOG_OFFSET),
    )


def _adjacent_pairs(counts: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Return a mask of the points that count together with the next point along the axis."""
    return counts[1:] & counts[:-1] if axis == 0 else counts[:, 1:] & counts[:, :-1]


@dataclass(frozen=True)
class AppearanceRange:
    """Range of good pictures' appearance.

    Attributes:
        ranges: (low, high) of each of `FEATURES`; infinite for a feature that a model of an earlier version
            did not measure, so that no picture lies outside.
        pictures: Number of pictures.
    """

    ranges: tuple[tuple[float, float], ...]
    pictures: int

    @classmethod
    def from_measures(cls, measured: Iterable[FeatureValues]) -> AppearanceRange | None:
        """Return the range of measured pictures; None where they are fewer than `MIN_PICTURES`."""
        rows = [measures for measures in measured if measures]
        if len(rows) < MIN_PICTURES:
            return None
        ranges = tuple((min(values), max(values)) for values in zip(*rows, strict=True))
        return cls(ranges, pictures=len(rows))

    def shifts(self, measured: FeatureValues) -> FeatureValues:
        """Return the distance of each feature from its range, in widths of the range.

        The distance is negative below the range, 0 within it and positive above it. Where nothing was
        measured, the result is empty.
        """
        distances = []
        # strict, unless nothing was measured
        for value, (low, high), feature in zip(measured, self.ranges, FEATURES, strict=bool(measured)):
            outside = min(value - low, 0.0) + max(value - high, 0.0)
            distances.append(outside / max(high - low, feature.min_width))
        return tuple(distances)

    def widen(self, shifts: Iterable[FeatureValues]) -> AppearanceRange:
        """Return the range widened so that it also covers other pictures.

        Args:
            shifts: Result of `shifts` for each of these pictures; empty results are skipped.
        """
        known_shifts = [picture_shifts for picture_shifts in shifts if picture_shifts]
        widened_ranges = list(self.ranges)
        for picture_shifts in known_shifts:
            for k, (shift, (low, high)) in enumerate(zip(picture_shifts, self.ranges, strict=True)):
                width = max(high - low, FEATURES[k].min_width)
                distance = shift * width if math.isfinite(width) else 0.0
                widened_low, widened_high = widened_ranges[k]
                widened_ranges[k] = min(widened_low, low + distance), max(widened_high, high + distance)
        return AppearanceRange(tuple(widened_ranges), self.pictures + len(known_shifts))

    # ---- facts of a model

    def to_dict(self) -> Json:
        """Return values that JSON can hold, for a model's facts; features without bounds are left out."""
        range_by_name = {
            feature.name: [round(value, 6) for value in pair]
            for feature, pair in zip(FEATURES, self.ranges, strict=True)
            if pair != UNBOUNDED
        }
        return {"ranges": range_by_name, "pictures": self.pictures}

    @classmethod
    def from_facts(cls, facts: Facts) -> AppearanceRange | None:
        """Read the range from a model's facts.

        None where the facts have no range, a damaged one, or ranges for none of `FEATURES`.
        """
        try:
            stored = facts[APPEARANCE_KEY]
            names = [feature.name for feature in FEATURES if feature.name in stored["ranges"]]
            range_by_name = {name: _parse_range(stored["ranges"][name]) for name in names}
            ranges = tuple(range_by_name.get(feature.name, UNBOUNDED) for feature in FEATURES)
            return cls(ranges, int(stored["pictures"])) if range_by_name else None
        except (KeyError, TypeError, ValueError, OverflowError):
            return None


def _parse_range(pair: Sequence[float]) -> tuple[float, float]:
    """Return the range of a feature; raise ValueError or another error where it is damaged."""
    low, high = map(float, pair)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError("a range")
    return low, high


def is_far(shifts: FeatureValues) -> bool:
    """Whether a picture's look as a whole lies far outside the training pictures' range."""
    return max(map(abs, shifts), default=0.0) > FAR_SHIFT


def describe_shifts(shifts: Sequence[FeatureValues]) -> str:
    """Describe in words how pictures differ from the range, such as "darker, less contrast".

    At most three features are named, the one farthest outside the range (by the median picture) first.

    Args:
        shifts: `AppearanceRange.shifts` of each picture.
    """
    medians = np.median(np.asarray(shifts, dtype=np.float64), axis=0)
    farthest_first = sorted(range(len(FEATURES)), key=lambda k: -abs(medians[k]))
    clear_features = [k for k in farthest_first if abs(medians[k]) > 0.5] or farthest_first[:1]
    labels = []
    for k in clear_features[:3]:
        labels.append(FEATURES[k].low_label if medians[k] < 0 else FEATURES[k].high_label)
    return ", ".join(labels)


def pixel_format(picture: NDArray[np.number]) -> str:
    """Return the kind of a decoded picture's pixels, in words: "colour", "grey", "16-bit grey", ..."""
    if picture.dtype != np.uint8:
        return f"{8 * picture.dtype.itemsize}-bit {'grey' if picture.shape[2] < 3 else 'colour'}"
    if picture.shape[2] < 3 or picture.strides[2] == 0:  # stride 0: one channel, repeated
        return "grey"
    for step in (16, 1):  # a few pixels of most colour pictures suffice
        pixels = picture[::step, ::step]
        if (pixels[:, :, 1:] != pixels[:, :, :1]).any():
            return "colour"
    return "grey"
