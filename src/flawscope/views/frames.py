"""The frame: the place that a model inspects in a picture, as a picture of its own. Torch-free.

Without an alignment it is the picture. With one it shows the part as the reference lies, and its
surroundings. Regions of interest lie in the frame and tiles are cut from it as from a picture: both move with
the part. Of several parts each has a frame. Other parts do not count in it, and are covered with the ground:
neighbours lie differently in every picture, and a network's answer for a pixel depends on its surroundings,
too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.types import Array, Json
from flawscope.views.geometry import Geometry
from flawscope.views.pose import SIDE, Pose, PoseReference, reduced_size
from flawscope.views.resampling import Raster, full_box, picture_size, resized, small_grey, warp_view
from flawscope.views.several_parts import OVERVIEW_SIDE, PartDetections, SeveralParts

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Size = tuple[int, int]

_RIM_WIDTH = 3  # pixels around another part that do not count either, at half the small picture's size


class Neighbours(NamedTuple):
    """Masks [h, w] of a small picture: the other parts, with a rim, and the part itself."""

    others: Mask
    body: Mask


@dataclass(frozen=True)
class Frame:
    """Frame of a picture.

    Attributes:
        picture: Picture that the frame lies in.
        divisor: Value of the picture that is white.
        size: (H, W) in pixels as large as the picture's.
        turned: Place in the picture of the frame scaled to the network; None: the frame is the picture.
        pose: Pose of the part.
        neighbours: Other parts and objects, of a part among several.
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

    def scaled(self, canvas: Geometry) -> tuple[Array, Mask | None]:
        """Return the frame scaled to a canvas, and which of the canvas's pixels show its part.

        Args:
            canvas: Place of the canvas in the frame.

        Returns:
            The canvas in the picture's depth; and a mask [H, W] of the pixels that show the picture and no
            other part, None: all do.
        """
        if self.turned is None:
            return resized(self.picture, canvas.size, full_box(self.picture)), None
        placed = self.place(canvas)
        planes = warp_view(self.picture, placed)
        if self.neighbours is not None:
            planes = planes.copy()
        return planes, self.visible(placed, planes if planes.ndim == 3 else planes[..., None])

    def visible(self, placed: Geometry, planes: Array) -> Mask:
        """Mask [H, W] of the pixels of a view that show the picture and no other part.

        Other parts in the view's pixels [H, W, C] are covered, in place.
        """
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
        """Return the size of the frame, which is the picture's."""
        return picture

    def find(self, small: Callable[[], Float32]) -> Pose | None:
        """Return None: no part is looked for, and `small` is not computed."""
        return None

    def frame(self, picture: Raster, divisor: float, network: Size, pose: Pose | None) -> Frame:
        """Return the frame of the picture, which is all of it."""
        return Frame(picture, divisor, picture_size(picture))


@dataclass(frozen=True)
class AlignedPart:
    """Makes frames around the part in a picture.

    Attributes:
        reference: Reference by which the part is found.
        side: Longer side of the small picture in which it is found.
    """

    reference: PoseReference
    side: int = SIDE
    words = "its part and what is around it have"

    def size(self, picture: Size, network: Size) -> Size:
        """Return the size of the frame in a picture (H, W), in pixels as large as the picture's.

        Its shape is that in which the network (H, W) sees it.
        """
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


def _cover(planes: Array, hidden: Mask, ground: Mask) -> None:
    """Cover the hidden pixels of a frame, in place, with the ground at the other sides of the part.

    Where there is no ground, they get its median colour.

    Args:
        planes: [H, W, C], the frame.
        hidden: [H, W], pixels to cover.
        ground: [H, W], pixels that show the ground.
    """
    if not hidden.any() or not ground.any():
        return
    before = planes.copy()
    planes[hidden] = np.median(planes[ground], axis=0)
    for axes in (1, 0, (0, 1)):
        mirrored_ground = hidden & np.flip(ground, axes)
        planes[mirrored_ground] = np.flip(before, axes)[mirrored_ground]
        hidden = hidden & ~mirrored_ground


@dataclass(frozen=True)
class PartPose:
    """Place of a part, and the square around it that is inspected.

    Attributes:
        x, y: Middle of the square in pixels, x to the right, y down.
        angle: Degrees from the reference, clockwise, -180 to 180.
        scale: Size against the reference.
        mirrored: Whether the reference was mirrored before it was turned.
        side: Side of the square in pixels.
        error: Root mean square distance to the good parts, in spreads.
    """

    x: float
    y: float
    angle: float
    scale: float
    mirrored: bool
    side: float
    error: float

    @classmethod
    def from_pose(
        cls, pose: Pose, reference: PoseReference, picture_size: tuple[int, int], side: int = SIDE
    ) -> PartPose:
        """Convert a pose in the small picture, of longer side `side`, to the picture of (H, W) pixels."""
        small = reduced_size(picture_size, side)
        down = picture_size[0] / small[0]
        across = picture_size[1] / small[1]
        angle = math.degrees(math.remainder(pose.angle, 2 * math.pi))
        square = 2 * reference.extent * pose.scale * math.sqrt(down * across)
        x, y, angle, scale, square, error = (
            round(float(number), 4)
            for number in (pose.x * across, pose.y * down, angle, pose.scale, square, pose.error)
        )
        return cls(x, y, angle, scale, pose.mirrored, square, error)

    def corners(self) -> NDArray[np.float64]:
        """Return the corners (x, y) of the square [4, 2] in pixels.

        The first is the reference's upper left one; the others follow clockwise as the reference shows them.
        """
        cos = math.cos(math.radians(self.angle))
        sin = math.sin(math.radians(self.angle))
        turn = np.array([[cos, sin], [-sin, cos]]) * self.side / 2
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (-1 if self.mirrored else 1, 1)
        return np.asarray(square @ turn + (self.x, self.y))

    def to_dict(self) -> Json:
        """Return the fields by their names, as JSON knows them."""
        return asdict(self)


class PartFrames(NamedTuple):
    """Parts in a picture, each with its frame.

    Attributes:
        frames: Frame of each part; where there are none, that of the picture as it lies.
        middle: Frame of a part that lies as the reference does.
        poses: Place of each part.
        objects: Boxes (x0, y0, x1, y1) around other objects, in the picture's pixels.
        count_error: Says how the number of parts or objects differs from good pictures; empty: it does not.
    """

    frames: list[Frame]
    middle: Frame
    poses: list[PartPose]
    objects: list[tuple[float, float, float, float]]
    count_error: str


def find_frames(
    picture: Raster, divisor: float, network: tuple[int, int], framing: AlignedPart, several: SeveralParts
) -> PartFrames:
    """Find the parts in a picture, whose frames are seen at `network` (H, W)."""
    whole = picture_size(picture)
    reference = framing.reference
    detections = several.find(
        small_grey(picture, divisor, several.side), small_grey(picture, divisor, OVERVIEW_SIDE), reference
    )

    frames = [
        replace(framing.frame(picture, divisor, network, pose), neighbours=masks)
        for pose, masks in zip(detections.poses or [Pose(0, 0)], _neighbours(detections), strict=True)
    ]
    height, width = whole
    objects = [(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in detections.objects]
    poses = [PartPose.from_pose(pose, reference, whole, several.side) for pose in detections.poses]
    count_error = several.count_error(len(poses), len(objects))
    middle = framing.frame(picture, divisor, network, Pose(0, 0, error=0.0))
    return PartFrames(frames, middle, poses, objects, count_error)


def _neighbours(detections: PartDetections) -> list[Neighbours]:
    """Masks of the others and of the part itself, of each part, with rims, [h / 2, w / 2]."""
    from scipy import ndimage

    bodies = detections.part_masks
    if not detections.poses:
        return [Neighbours(*np.zeros((2, *bodies.shape[1:]), np.bool_))]
    rims = ndimage.binary_dilation(bodies, np.ones((1, 3, 3), np.bool_), _RIM_WIDTH)
    count = rims.sum(0)
    return [Neighbours((count > rim) & ~body, rim) for rim, body in zip(rims, bodies, strict=True)]
