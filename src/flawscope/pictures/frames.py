"""The frame: what a model looks at in a picture, as a picture of its own. Torch-free.

Without an alignment it is the picture. With one it shows the part as the reference lies, and what is around
it: regions of interest lie in it and tiles are cut from it as in a picture, and so both move with the part.
Of several parts each has a frame. Others do not count in it, and are covered with the ground: neighbours lie
differently in every picture, and a network's answer for a pixel depends on its surroundings, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.geometry import Geometry
from flawscope.pictures.pose import SIDE, Pose, PoseReference
from flawscope.pictures.resampling import Raster, full_box, picture_size, resized, warp_view

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Size = tuple[int, int]


class Neighbours(NamedTuple):
    """Masks [h, w] of a small picture: the other parts, with a rim, and the part itself."""

    others: Mask
    body: Mask


@dataclass(frozen=True)
class Frame:
    """Frame of a picture.

    divisor: of the picture's values. size: (H, W) in pixels as large as the picture's. turned: place in the
    picture of the frame scaled to the network; None: the frame is the picture. pose: of the part. neighbours:
    of a part among several.
    """

    picture: Raster
    divisor: float
    size: Size
    turned: Geometry | None = None
    pose: Pose | None = None
    neighbours: Neighbours | None = None

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
        [H, W] show the picture and no other part; None: all."""
        if self.turned is None:
            return resized(self.picture, canvas.size, full_box(self.picture)), None
        placed = self.place(canvas)
        planes = warp_view(self.picture, placed)
        if self.neighbours is not None:
            planes = planes.copy()
        return planes, self.visible(placed, planes if planes.ndim == 3 else planes[..., None])

    def visible(self, placed: Geometry, planes: NDArray[Any]) -> Mask:
        """Mask [H, W] of the pixels of a view that show the picture and no other part. Other parts in the
        view's pixels [H, W, C] are covered, in place."""
        shown = placed.visible_mask()
        if self.neighbours is None:
            return shown
        others, body = self.neighbours
        small = placed.with_picture_size((others.shape[0], others.shape[1]))
        hidden = small.mask_to_network(others)
        _cover(planes, hidden, shown & ~hidden & ~small.mask_to_network(body))
        return shown & ~hidden


class WholePicture:
    """Makes frames of pictures that are not aligned: each is the picture."""

    words = "it has"

    def size(self, picture: Size, network: Size) -> Size:
        return picture

    def find(self, small: Callable[[], Float32]) -> Pose | None:
        return None

    def frame(self, picture: Raster, divisor: float, network: Size, pose: Pose | None) -> Frame:
        return Frame(picture, divisor, picture_size(picture))


@dataclass(frozen=True)
class AlignedPart:
    """Makes frames around the part in a picture. side: the longer one of the small picture in which it is
    found."""

    reference: PoseReference
    side: int = SIDE
    words = "its part and what is around it have"

    def size(self, picture: Size, network: Size) -> Size:
        """Size of the frame in a picture (H, W), in pixels as large as the picture's: of the shape in which
        the network (H, W) sees it."""
        pixel = 2 * self.reference.extent * max(picture) / self.side / min(network)
        height, width = (max(1, round(length * pixel)) for length in network)
        return height, width

    def find(self, small: Callable[[], Float32]) -> Pose | None:
        """Pose of the part in the small picture."""
        return self.reference.find(small())

    def frame(self, picture: Raster, divisor: float, network: Size, pose: Pose | None) -> Frame:
        """Frame of a part that lies so, which the network sees at (H, W)."""
        assert pose is not None
        whole = picture_size(picture)
        placed = self.reference.geometry(pose, whole, network, self.side)
        return Frame(picture, divisor, self.size(whole, network), placed, pose)


def _cover(planes: NDArray[Any], hidden: Mask, ground: Mask) -> None:
    """Covers the hidden pixels [H, W, C], in place, with the ground at the other sides of the part, else with
    its middle colour."""
    if not hidden.any() or not ground.any():
        return
    before = planes.copy()
    planes[hidden] = np.median(planes[ground], axis=0)
    for axes in (1, 0, (0, 1)):
        there = hidden & np.flip(ground, axes)
        planes[there] = np.flip(before, axes)[there]
        hidden = hidden & ~there
