"""The frame: what a model looks at in a picture, as a picture of its own. Torch-free.

Without an alignment it is the picture. With one it shows the part as the reference lies, and what is around
it: regions of interest lie in it and tiles are cut from it as in a picture, and so both move with the part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.geometry import Geometry
from flawscope.pictures.pose import SIDE, Pose, PoseReference
from flawscope.pictures.resampling import Raster, full_box, picture_size, resized, warp_view

Mask = NDArray[np.bool_]
Size = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """Frame of a picture.

    divisor: of the picture's values. size: (H, W) in pixels as large as the picture's. turned: place in the
    picture of the frame scaled to the network; None: the frame is the picture. pose: of the part.
    """

    picture: Raster
    divisor: float
    size: Size
    turned: Geometry | None = None
    pose: Pose | None = None

    @classmethod
    def around_part(
        cls,
        picture: Raster,
        divisor: float,
        reference: PoseReference,
        pose: Pose,
        network: Size,
        side: int = SIDE,
    ) -> Frame:
        """Frame of a part that lies so, which the network sees at (H, W). side: the longer one of the small
        picture that the pose is of."""
        whole = picture_size(picture)
        placed = reference.geometry(pose, whole, network, side)
        return cls(picture, divisor, aligned_size(reference, whole, network, side), placed, pose)

    def place(self, view: Geometry) -> Geometry:
        """Place in the picture of a view that lies so in the frame."""
        if (turned := self.turned) is None or turned.matrix is None:
            return view
        down, across = (
            scale / (part / whole)
            for scale, part, whole in zip(view.scale, turned.size, self.size, strict=True)
        )
        (yy, yx, xy, xx), (y, x) = turned.matrix, turned.offset
        scale = turned.scale[0] * math.sqrt(down * across)
        return replace(
            turned,
            size=view.size,
            scale=(scale, scale),
            offset=(y * down + view.offset[0], x * across + view.offset[1]),
            matrix=(yy * down, yx * down, xy * across, xx * across),
        )

    def scaled(self, canvas: Geometry) -> tuple[NDArray[Any], Mask | None]:
        """The frame scaled to a canvas that lies so in it, of the picture's depth, and which of its pixels
        [H, W] show the picture; None: all."""
        if self.turned is None:
            return resized(self.picture, canvas.size, full_box(self.picture)), None
        placed = self.place(canvas)
        return warp_view(self.picture, placed), placed.visible_mask()


def aligned_size(reference: PoseReference, picture: Size, network: Size, side: int = SIDE) -> Size:
    """Size of the frame of a part in a picture (H, W), in pixels as large as the picture's: of the shape in
    which the network (H, W) sees it."""
    pixel = 2 * reference.extent * max(picture) / side / min(network)
    height, width = (max(1, round(length * pixel)) for length in network)
    return height, width
