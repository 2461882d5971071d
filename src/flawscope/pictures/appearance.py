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

APPEARANCE_KEY = "appearance"  # of the range among a model's facts
SAMPLES_PER_SIDE = 64  # pixels that are measured, along each side
MIN_SAMPLES = 16  # measured pixels that must show the product
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
    """Measure a network's input [3, H, W], 0..1, padding marked: return a number for each of `FEATURES`.

    Only pixels of the picture inside the region of interest [H, W] count; empty where too few of them do.
    """
    height, width = image.shape[1:]
    rows, columns = (max(1, side // SAMPLES_PER_SIDE) for side in (height, width))
    here, right, below = (
        image[:, y : height - 1 + y : rows, x : width - 1 + x : columns] for y, x in ((0, 0), (0, 1), (1, 0))
    )
    counts = np.minimum(np.minimum(here[0], right[0]), below[0]) >= 0  # padding is below 0
    if roi is not None:
        counts &= roi[: height - 1 : rows, : width - 1 : columns]
    if np.count_nonzero(counts) < MIN_SAMPLES:
        return ()
    red, green, blue = (float(channel[counts].mean(dtype=np.float64)) for channel in here)
    grey = here.mean(axis=0)
    fine = (np.abs(right - here) + np.abs(below - here)).mean(axis=0)[counts].mean(dtype=np.float64) / 2
    steps = [
        np.abs(np.diff(grey, axis=axis))[_adjacent_pairs(counts, axis)].mean(dtype=np.float64)
        for axis in (0, 1)
        if _adjacent_pairs(counts, axis).any()
    ]
    return (
        (red + green + blue) / 3,
        red - green,
        blue - green,
        float(grey[counts].std(dtype=np.float64)),
        math.log2(fine + LOG_OFFSET),
        math.log2((float(np.mean(steps)) if steps else 0.0) + LOG_OFFSET),
    )


def _adjacent_pairs(counts: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Mask of the points that count together with the next one along the axis."""
    return counts[1:] & counts[:-1] if axis == 0 else counts[:, 1:] & counts[:, :-1]


@dataclass(frozen=True)
class AppearanceRange:
    """Range of good pictures: (low, high) of each of `FEATURES`, and the number of pictures.

    A feature that a model of an earlier version did not measure has no bounds, and no picture lies outside.
    """

    ranges: tuple[tuple[float, float], ...]
    pictures: int

    @classmethod
    def from_measures(cls, measured: Iterable[FeatureValues]) -> AppearanceRange | None:
        """Return the range of measured pictures; None where they are fewer than `MIN_PICTURES`."""
        rows = [measures for measures in measured if measures]
        if len(rows) < MIN_PICTURES:
            return None
        return cls(tuple((min(values), max(values)) for values in zip(*rows, strict=True)), len(rows))

    def shifts(self, measured: FeatureValues) -> FeatureValues:
        """Return distances from the range, in its widths: below 0 under it, 0 within, above 0 over it."""
        found = []
        for value, (low, high), feature in zip(measured, self.ranges, FEATURES, strict=bool(measured)):
            outside = min(value - low, 0.0) + max(value - high, 0.0)
            found.append(outside / max(high - low, feature.min_width))
        return tuple(found)

    def widen(self, shifts: Iterable[FeatureValues]) -> AppearanceRange:
        """Return the range that also covers other pictures, which are given by their `shifts`."""
        rows = [row for row in shifts if row]
        ranges = list(self.ranges)
        for row in rows:
            for k, (shift, (low, high)) in enumerate(zip(row, self.ranges, strict=True)):
                width = max(high - low, FEATURES[k].min_width)
                reach = shift * width if math.isfinite(width) else 0.0
                ranges[k] = min(ranges[k][0], low + reach), max(ranges[k][1], high + reach)
        return AppearanceRange(tuple(ranges), self.pictures + len(rows))

    # ---- facts of a model

    def to_dict(self) -> Json:
        """Return values that JSON can hold, for a model's facts; features without bounds are left out."""
        ranges = {
            feature.name: [round(value, 6) for value in pair]
            for feature, pair in zip(FEATURES, self.ranges, strict=True)
            if pair != UNBOUNDED
        }
        return {"ranges": ranges, "pictures": self.pictures}

    @classmethod
    def from_facts(cls, facts: Facts) -> AppearanceRange | None:
        """Read the range from a model's facts; None where there is none, or none of a known feature."""
        try:
            kept = facts[APPEARANCE_KEY]
            names = [feature.name for feature in FEATURES if feature.name in kept["ranges"]]
            known = {name: _parse_range(kept["ranges"][name]) for name in names}
            ranges = tuple(known.get(feature.name, UNBOUNDED) for feature in FEATURES)
            return cls(ranges, int(kept["pictures"])) if known else None
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
    """Name the features in which most of these pictures lie outside the range, at most three.

    The feature that lies farthest outside comes first.
    """
    middle = np.median(np.asarray(shifts, dtype=np.float64), axis=0)
    order = sorted(range(len(FEATURES)), key=lambda k: -abs(middle[k]))
    chosen = [k for k in order if abs(middle[k]) > 0.5] or order[:1]
    return ", ".join(FEATURES[k].low_label if middle[k] < 0 else FEATURES[k].high_label for k in chosen[:3])


def pixel_format(picture: NDArray[np.number]) -> str:
    """Return the kind of a decoded picture's pixels, in words: "colour", "grey", "16-bit grey", ..."""
    if picture.dtype != np.uint8:
        return f"{8 * picture.dtype.itemsize}-bit {'grey' if picture.shape[2] < 3 else 'colour'}"
    if picture.shape[2] < 3 or picture.strides[2] == 0:
        return "grey"
    looks = (picture[::step, ::step] for step in (16, 1))  # a few pixels settle most cases
    return "colour" if any((p[:, :, 1:] != p[:, :, :1]).any() for p in looks) else "grey"
