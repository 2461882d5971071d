"""Pictures of any depth as 8 bits a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_eight_bits(picture: NDArray[np.number], white: float | None = None) -> NDArray[np.uint8]:
    """What `decode` returns (uint8, uint16 or float) -> `[H, W, 3]` uint8 in 0..255, contiguous.

    Deep pictures are divided by `white`; pass one level for a whole data set. None takes the picture's own
    maximum. Grey is repeated in all three channels.
    """
    if picture.dtype != np.uint8:
        level = float(picture.max()) if white is None else white
        picture = np.clip(np.rint(picture * (255 / max(level, 1e-6))), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
