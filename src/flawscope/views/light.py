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

RED = 0  # number of the channel
BLUE = 2
MAX_RANGE = 0.3  # widest range of light: beyond it pictures are clipped at white, and contrast is lost


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
        """Return the changed picture, clipped to the type's range; floats are clipped at 0 only."""
        gains = np.full(picture.shape[2], self.brightness)
        if picture.shape[2] >= 3:  # a grey picture has no white balance
            gains[RED] *= 1 + self.white_balance
            gains[BLUE] *= 1 - self.white_balance
        means = picture.mean(axis=(0, 1), dtype=np.float64) * gains
        # mean + contrast * (gain * picture - mean)
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
        clipped: Array = changed.clip(0, limit).astype(picture.dtype)
        return clipped


def check_range(share: float) -> None:
    """Raise InputError where a range of light is wider than `MAX_RANGE`."""
    if share > MAX_RANGE:
        raise InputError(f"light {share:.0%}: a range above {MAX_RANGE:.0%} is no small change; give 10%")


def light_variations(share: float) -> list[Light]:
    """Return the unchanged light, then the extremes of each kind of change alone.

    The extremes are 1 - share and 1 + share for brightness and contrast, and -share / 2 and share / 2 for
    white balance.
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
        """Correct an image [3, H, W] in 0..1 whose padding is marked, and clip it to 0..1."""
        padded = image < 0  # a padded value v is marked as -1 - v
        changed = np.where(padded, -1 - image, image)
        changed *= self.gain[:, None, None]
        changed += self.shift[:, None, None]
        np.clip(changed, 0, 1, out=changed)
        return np.where(padded, -1 - changed, changed) if padded.any() else changed


@dataclass(frozen=True)
class Normalization:
    """Brings pictures to the light of the good training pictures.

    The mean and the standard deviation of each channel become those of the middle picture (Reinhard et al.,
    Color Transfer between Images, IEEE CG&A 21, 2001), as far as light within a range explains them:
    differences because of the content are kept.

    Attributes:
        share: Range of the light (`light_variations`), 0..1.
        means: Values of the good pictures' means for each channel, 0..1.
        deviations: Values of the good pictures' standard deviations for each channel, 0..1.
    """

    share: float
    means: tuple[ValueRange, ...]
    deviations: tuple[ValueRange, ...]

    def __post_init__(self) -> None:
        """Raise InputError for values that no good pictures can have."""
        is_valid = len(self.means) == len(self.deviations) == 3 and 0 < self.share < 1
        for bounds in (*self.means, *self.deviations):
            is_valid &= len(bounds) == 3 and 0 <= bounds[0] <= bounds[1] <= bounds[2] <= 1
        if not is_valid:
            raise InputError("the model's normalization of light is damaged: fit anew")

    @classmethod
    def from_statistics(cls, measured: Iterable[tuple[Array, Array]], share: float) -> Normalization:
        """Return the normalization to the light of good pictures.

        Args:
            measured: Means and standard deviations of each picture's channels (`channel_statistics`).
            share: Range of the light (`light_variations`), 0..1.

        Raises:
            InputError: No picture was measured.
        """
        statistics = np.array(list(measured))  # [pictures, 2, channels]
        if not len(statistics):
            raise InputError("no picture shows its light inside the region of interest: give another --roi")
        lowest = statistics.min(0)
        median = np.median(statistics, axis=0)
        highest = statistics.max(0)
        ranges = np.stack([lowest, median, highest], axis=-1).tolist()  # [2, channels, 3]
        means, deviations = map(_range_tuples, ranges)
        return cls(share, means, deviations)

    def correction(self, image: Float32, counted: Mask | None = None) -> ToneCorrection:
        """Return the correction of a whole picture's light.

        Args:
            image: [3, H, W], 0..1; padding is marked by negative values.
            counted: [H, W], pixels whose light is measured; None: all.
        """
        statistics = channel_statistics(image, counted)
        if statistics is None:
            return ToneCorrection(np.ones(3, np.float32), np.zeros(3, np.float32), inside=True)
        means, deviations = statistics
        clipped_means, good_means, means_in_range = self._clip_to_range(means, self.means)
        clipped_deviations, good_deviations, deviations_in_range = self._clip_to_range(
            deviations, self.deviations
        )
        gain = np.maximum(good_deviations, MIN_DEVIATION) / np.maximum(clipped_deviations, MIN_DEVIATION)
        shift = good_means - gain * clipped_means
        is_inside = means_in_range and deviations_in_range
        return ToneCorrection(gain.astype(np.float32), shift.astype(np.float32), inside=is_inside)

    def _clip_to_range(
        self, values: NDArray[np.float64], ranges: tuple[ValueRange, ...]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
        """Clip a picture's statistics to the values that good pictures have in the range of light.

        Args:
            values: [3], means or standard deviations of the picture's channels.
            ranges: Lowest, middle and highest value of good pictures, for each channel.

        Returns:
            The clipped values [3]; the middle values of good pictures [3]; and whether the picture's values
            lie in the range: clipping hardly changed them.
        """
        # brightness, or contrast, changes by up to `share`, and white balance by up to half of it
        least_factor = (1 - self.share) * (1 - self.share / 2)
        largest_factor = (1 + self.share) * (1 + self.share / 2)
        low, middle, high = np.array(ranges).T
        clipped = values.clip(low * least_factor, high * largest_factor)
        is_in_range = bool(np.abs(clipped - values).max() < MIN_DEVIATION)
        return clipped, middle, is_in_range

    def to_dict(self) -> Json:
        """Return values that JSON knows, for the model file."""
        return {"share": self.share, "means": [*self.means], "deviations": [*self.deviations]}

    @classmethod
    def from_dict(cls, data: Facts) -> Normalization:
        """Read values that `to_dict` returned.

        Raises:
            InputError: Values are missing or invalid.
        """
        try:
            means = _range_tuples(data["means"])
            deviations = _range_tuples(data["deviations"])
            return cls(float(data["share"]), means, deviations)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError("the model's normalization of light is damaged: fit anew") from None


def _range_tuples(channels: Iterable[Iterable[float]]) -> tuple[ValueRange, ...]:
    """Return the range of each channel as a tuple."""
    ranges = []
    for lowest, middle, highest in channels:
        ranges.append((float(lowest), float(middle), float(highest)))
    return tuple(ranges)


def within_range(normalization: Normalization | None) -> str:
    """Return the range of light in which the rate holds, as the end of a sentence on the calibration.

    The text is empty where light is not corrected.
    """
    return "" if normalization is None else f", in each light within {normalization.share:.0%}"


def channel_statistics(
    image: Float32, counted: Mask | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the mean and the standard deviation of each channel; None: no pixel counts.

    Args:
        image: [3, H, W], 0..1, padding marked; padding does not count.
        counted: [H, W], pixels that count; None: all.
    """
    is_picture = image[0] >= 0  # padding is negative
    mask = is_picture if counted is None else counted & is_picture
    pixels = image.reshape(3, -1) if mask.all() else image[:, mask]
    if not pixels.size:
        return None
    return pixels.mean(axis=1, dtype=np.float64), pixels.std(axis=1, dtype=np.float64)
