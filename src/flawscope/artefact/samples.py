"""Pictures as a network sees them, in as few bytes as lose nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_images(images: NDArray[np.float32]) -> NDArray[np.uint8] | NDArray[np.int16] | NDArray[np.float32]:
    """Images of any shape, float32 in 0..1, a value v of padding marked as -1 - v.

    k/255 becomes k, padding -1 - k: uint8, or int16 where something is padded. Where that would lose
    something, the images themselves.
    """
    padded = images < 0
    levels = np.rint(np.where(padded, -1 - images, images) * np.float32(255))
    if not np.all((levels >= 0) & (levels <= 255)):  # NaN too
        return images
    if padded.any():
        packed: NDArray[Any] = np.where(padded, -1 - levels, levels).astype(np.int16)
    else:
        packed = levels.astype(np.uint8)
    return packed if np.array_equal(unpack_images(packed), images) else images


def unpack_images(packed: NDArray[Any]) -> NDArray[np.float32]:
    """Undo `pack_images`."""
    if packed.dtype == np.uint8:
        return packed.astype(np.float32) / np.float32(255)
    if packed.dtype != np.int16:
        return packed.astype(np.float32, copy=False)
    padded = packed < 0
    images = np.where(padded, -1 - packed, packed).astype(np.float32) / np.float32(255)
    return np.where(padded, -1 - images, images)
