"""Changes a picture as light and lens do: brightness, contrast, white balance, blur. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RED, BLUE = 0, 2  # channels


@dataclass(frozen=True)
class Light:
    """Change of a decoded picture `[H, W, C]` of any depth; the default changes nothing.

    brightness: factor of all channels.
    contrast: factor of the distance from the picture's mean, of each channel.
    white_balance: share by which red rises and blue falls; negative: the other way.
    blur: standard deviation of a Gaussian, as a share of the picture's longer side.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    white_balance: float = 0.0
    blur: float = 0.0

    @property
    def name(self) -> str:
        """Describes the change for a person."""
        parts = [
            *([f"brightness {self.brightness:g}"] if self.brightness != 1 else []),
            *([f"contrast {self.contrast:g}"] if self.contrast != 1 else []),
            *([f"white balance {self.white_balance:+.0%}"] if self.white_balance else []),
            *([f"blur {self.blur:.1%}"] if self.blur else []),
        ]
        return ", ".join(parts) or "unchanged"

    def __call__(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Returns the changed picture, clipped to the values that its type can have; floats at 0 only."""
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
        kept: NDArray[Any] = changed.clip(0, limit).astype(picture.dtype)
        return kept
