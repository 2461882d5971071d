"""Place of a part in a picture, in the picture's own pixels. Torch-free."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.pose import SIDE, Pose, Reference, small_size


@dataclass(frozen=True)
class PartPose:
    """Place of a part, and the square around it that is inspected.

    x, y: middle of the square in pixels, x to the right, y down. angle: degrees from the reference,
    clockwise, -180 to 180. scale: size against the reference. mirrored: the reference was mirrored before it
    was turned. side: of the square, pixels. error: root mean square distance to the good parts, in spreads.
    """

    x: float
    y: float
    angle: float
    scale: float
    mirrored: bool
    side: float
    error: float

    @classmethod
    def of(
        cls, pose: Pose, reference: Reference, picture_size: tuple[int, int], side: int = SIDE
    ) -> PartPose:
        """Converts a pose that was found in the small picture of one of (H, W) pixels. side: the longer one
        of the small picture."""
        small = small_size(picture_size, side)
        down, across = picture_size[0] / small[0], picture_size[1] / small[1]
        angle = math.degrees(math.remainder(pose.angle, 2 * math.pi))
        square = 2 * reference.extent * pose.scale * math.sqrt(down * across)
        x, y, angle, scale, square, error = (
            round(float(number), 4)
            for number in (pose.x * across, pose.y * down, angle, pose.scale, square, pose.error)
        )
        return cls(x, y, angle, scale, pose.mirrored, square, error)

    def corners(self) -> NDArray[np.float64]:
        """Corners (x, y) of the square [4, 2] in pixels: those of the reference from the upper left one,
        clockwise as the reference shows them."""
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        turn = np.array([[cos, sin], [-sin, cos]]) * self.side / 2
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (-1 if self.mirrored else 1, 1)
        return np.asarray(square @ turn + (self.x, self.y))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
