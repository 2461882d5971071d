"""Changes a picture as light and lens do, and brings pictures to one light. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.types import Array, Facts, Json

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

# channels
RED = 0
BLUE = 2
MAX_RANGE = 0.3  # of light: beyond it pictures are clipped at white, and contrast is lost


@dataclass(frozen=True)
class Light:
    """Change of a decoded picture `[H, W, C]` of any depth; the default changes nothing.

    Attributes:
        brightness: Factor of all channels.
        contrast: Factor of the distance from the picture's mean, of each channel.
        white_balance: Share by which red rises and blue falls; negative: the other way.
        blur: Standard deviation of a Gaussian, as a share of the picture's longer side.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    white_balance: float = 0.0
    blur: float = 0.0

    @property
    def name(self) -> str:
        """Describe the change for a person."""
        changes = []
        if self.brightness != 1:
            changes.append(f"brightness {self.brightness:g}")
        if self.contrast != 1:
            changes.append(f"contrast {self.contrast:g}")
        if self.white_balance:
            changes.append(f"white balance {self.white_balance:+.0%}")
        if self.blur:
            changes.append(f"blur {self.blur:.1%}")
        return ", ".join(changes) or "unchanged"

    def __call__(self, picture: Array) -> Array:
        """Return the changed picture, clipped to the values that its type can have; floats at 0 only."""
        gains = np.full(picture.shape[2], self.brightness)
        if picture.shape[2] >= 3:  # a grey picture has no white balance
            gains[RED] *= 1 + self.white_balance
            gains[BLUE] *= 1 - self.white_balance
        means = picture.mean(axis=(0, 1), dtype=np.float64) * gains
        changed = picture * (gains * self.contrast).astype(np.float32)
        changed += (means * (1 - self.contrast)).astype(np.float32)
        if self.blur:
            from scipy import ndimage

            sigma = self.blur * max(picture.shape[:2])
            ndimage.gaussian_filter(changed, (sigma, sigma, 0), output=changed, mode="nearest")
        if np.issubdtype(picture.dtype, np.floating):
            limit = np.inf
        else:
            limit = np.iinfo(picture.dtype).max
            np.rint(changed, out=changed)
        kept: Array = changed.clip(0, limit).astype(picture.dtype)
        return kept


def check_range(share: float) -> None:
    """InputError where a range of light is wider than `MAX_RANGE`."""
    if share > MAX_RANGE:
        raise InputError(f"light {share:.0%}: a range above {MAX_RANGE:.0%} is no small change; give 10%")


def light_variations(share: float) -> list[Light]:
    """Return the ends of a range of light, one change at a time, the unchanged light first.

    Brightness and contrast go from 1 - share to 1 + share, white balance from -share / 2 to share / 2.
    """
    lights = [Light()]
    lights += [Light(brightness=factor) for factor in (1 - share, 1 + share)]
    lights += [Light(contrast=factor) for factor in (1 - share, 1 + share)]
    lights += [Light(white_balance=balance) for balance in (-share / 2, share / 2)]
    return lights


ValueRange = tuple[float, float, float]  # lowest, middle and highest value of good pictures
MIN_DEVIATION = 1 / 255  # standard deviation: a flat picture has no contrast to be corrected


class ToneCorrection(NamedTuple):
    """Linear correction of a picture's light.

    Attributes:
        gain: [3], factor of each channel.
        shift: [3], summand of each channel.
        inside: Whether the picture's light lies within the range that can be corrected wholly.
    """

    gain: Float32
    shift: Float32
    inside: bool

    def __call__(self, image: Float32) -> Float32:
        """Return the image [3, H, W], 0..1, padding marked, corrected and clipped to 0..1."""
        padded = image < 0
        changed = np.where(padded, -1 - image, image)
        changed *= self.gain[:, None, None]
        changed += self.shift[:, None, None]
        np.clip(changed, 0, 1, out=changed)
        return np.where(padded, -1 - changed, changed) if padded.any() else changed


@dataclass(frozen=True)
class Normalization:
    """Brings pictures to the light of the good training pictures.

    The mean and the standard deviation of each channel become those of the middle picture (Reinhard et al.,
    Color Transfer between Images, IEEE CG&A 21, 2001), as far as light within a range explains them: content
    is not explained away.

    Attributes:
        share: Range of the light (`light_variations`), 0..1.
        means: Values of the good pictures' means for each channel, 0..1.
        deviations: Values of the good pictures' standard deviations for each channel, 0..1.
    """

    share: float
    means: tuple[ValueRange, ...]
    deviations: tuple[ValueRange, ...]

    def __post_init__(self) -> None:
        """InputError for values that no good pictures can have."""
        ranges = (*self.means, *self.deviations)
        right = len(self.means) == len(self.deviations) == 3 and 0 < self.share < 1
        if not right or not all(
            len(bounds) == 3 and 0 <= bounds[0] <= bounds[1] <= bounds[2] <= 1 for bounds in ranges
        ):
            raise InputError("the model's normalization of light is damaged: fit anew")

    @classmethod
    def from_statistics(cls, measured: Iterable[tuple[Array, Array]], share: float) -> Normalization:
        """Normalization to good pictures, given what `channel_statistics` found. InputError without any."""
        rows = np.array(list(measured))
        if not len(rows):
            raise InputError("no picture shows its light inside the region of interest: give another --roi")
        low = rows.min(0)
        middle = np.median(rows, axis=0)
        high = rows.max(0)
        ranges = []
        for lowest, median, highest in zip(low, middle, high, strict=True):
            channels = zip(lowest, median, highest, strict=True)
            ranges.append(tuple((float(a), float(b), float(c)) for a, b, c in channels))
        return cls(share, ranges[0], ranges[1])

    def correction(self, image: Float32, counted: Mask | None = None) -> ToneCorrection:
        """Correction of a whole picture [3, H, W], 0..1, padding marked, by its pixels that count [H, W]."""
        found = channel_statistics(image, counted)
        if found is None:
            return ToneCorrection(np.ones(3, np.float32), np.zeros(3, np.float32), inside=True)
        # the widest that a good picture's mean and contrast can become in light of the range
        least = (1 - self.share) * (1 - self.share / 2)
        most = (1 + self.share) * (1 + self.share / 2)
        explained = []
        wanted = []
        inside = True
        for values, ranges in zip(found, (self.means, self.deviations), strict=True):
            low, middle, high = np.array(ranges).T
            explained.append(values.clip(low * least, high * most))
            wanted.append(middle)
            inside &= bool(np.abs(explained[-1] - values).max() < MIN_DEVIATION)
        gain = np.maximum(wanted[1], MIN_DEVIATION) / np.maximum(explained[1], MIN_DEVIATION)
        shift = wanted[0] - gain * explained[0]
        return ToneCorrection(gain.astype(np.float32), shift.astype(np.float32), inside)

    def to_dict(self) -> Json:
        """Return values that JSON knows, for the model file."""
        return {"share": self.share, "means": [*self.means], "deviations": [*self.deviations]}

    @classmethod
    def from_dict(cls, data: Facts) -> Normalization:
        """Read what `to_dict` returned. InputError where it is damaged."""
        try:
            means, deviations = (
                tuple((float(a), float(b), float(c)) for a, b, c in data[key])
                for key in ("means", "deviations")
            )
            return cls(float(data["share"]), means, deviations)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError("the model's normalization of light is damaged: fit anew") from None


def within_range(normalization: Normalization | None) -> str:
    """Return words that end a sentence on the calibration: the range of light in which the rate holds.

    They are empty where light is not corrected.
    """
    return "" if normalization is None else f", in each light within {normalization.share:.0%}"


def channel_statistics(
    image: Float32, counted: Mask | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the mean and the standard deviation of each channel; None where no pixel counts.

    Args:
        image: [3, H, W], 0..1, padding marked, which does not count.
        counted: [H, W], pixels that count; None: all.
    """
    mask = image[0] >= 0 if counted is None else counted & (image[0] >= 0)
    pixels = image.reshape(3, -1) if mask.all() else image[:, mask]
    if not pixels.size:
        return None
    return pixels.mean(axis=1, dtype=np.float64), pixels.std(axis=1, dtype=np.float64)
