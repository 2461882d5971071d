"""The frame: the place that a model inspects in a picture, as a picture of its own. Torch-free.

Without an alignment the frame is the picture. With one it shows the part in the pose of the reference, and
the part's surroundings. Regions of interest lie in the frame, and tiles are cut from it: both move with the
part. Where a picture has several parts, each has a frame. Other parts do not count in it, and are covered
with the ground: they lie differently in every picture, and a network's answer for a pixel depends on its
surroundings, too.
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

_RIM_WIDTH = 3  # pixels at half the small picture's size: the rim of other parts, which does not count


class Neighbours(NamedTuple):
    """Masks [h, w] of a small picture: `others` are the other parts with a rim, `body` is the part itself."""

    others: Mask
    body: Mask


@dataclass(frozen=True)
class Frame:
    """Frame of a picture.

    Attributes:
        picture: Picture that the frame lies in.
        divisor: Value of the picture that is white.
        size: (H, W) of the frame, in pixels of the picture's scale.
        turned: Place in the picture of the frame, scaled to the network's size; None: the frame is the
            whole picture.
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
        """Return the place of a view in the picture.

        Args:
            view: Place of the view in the frame.
        """
        frame_place = self.turned
        if frame_place is None or frame_place.matrix is None:
            return view
        height, width = self.size
        network_height, network_width = frame_place.size
        view_scale_y, view_scale_x = view.scale
        # `frame_place` maps from the picture to the frame at the network's size; y_factor and x_factor map
        # from there to the view
        network_scale_y = network_height / height
        network_scale_x = network_width / width
        y_factor = view_scale_y / network_scale_y
        x_factor = view_scale_x / network_scale_x
        yy, yx, xy, xx = frame_place.matrix
        y, x = frame_place.offset
        scale = frame_place.scale[0] * math.sqrt(y_factor * x_factor)
        return replace(
            frame_place,
            size=view.size,
            scale=(scale, scale),
            offset=(y * y_factor + view.offset[0], x * x_factor + view.offset[1]),
            matrix=(yy * y_factor, yx * y_factor, xy * x_factor, xx * x_factor),
        )

    def scaled(self, canvas: Geometry) -> tuple[Array, Mask | None]:
        """Scale the frame to a canvas.

        Args:
            canvas: Place of the canvas in the frame.

        Returns:
            The canvas in the picture's depth; and a mask [H, W] of its pixels that show the picture without
            other parts; None: all do.
        """
        if self.turned is None:
            return resized(self.picture, canvas.size, full_box(self.picture)), None
        placed = self.place(canvas)
        planes = warp_view(self.picture, placed)
        if self.neighbours is not None:
            planes = planes.copy()  # Pillow's array cannot be written to, and other parts are covered in it
        with_channel_axis = planes if planes.ndim == 3 else planes[..., None]
        return planes, self.visible(placed, with_channel_axis)

    def visible(self, placed: Geometry, planes: Array) -> Mask:
        """Cover other parts in a view; return the mask [H, W] of pixels that show the picture without them.

        Args:
            placed: Place of the view in the picture.
            planes: [H, W, C], the view's pixels, in which other parts are covered.
        """
        is_picture = placed.visible_mask()
        if self.neighbours is None:
            return is_picture
        others, body = self.neighbours
        small_place = placed.with_picture_size((others.shape[0], others.shape[1]))
        is_other_part = small_place.mask_to_network(others)
        is_this_part = small_place.mask_to_network(body)
        _cover(planes, hidden=is_other_part, ground=is_picture & ~is_other_part & ~is_this_part)
        return is_picture & ~is_other_part


class WholePicture:
    """Makes frames of pictures that are not aligned: a frame is the whole picture."""

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
        """Return the size of the frame, in pixels of the picture's scale.

        Args:
            picture: (H, W) of the picture.
            network: (H, W) at which the network sees the frame; the frame has the same aspect ratio.
        """
        # pixels of the picture per pixel of the network: the square of the part fills the shorter side
        factor = 2 * self.reference.extent * max(picture) / self.side / min(network)
        height, width = (max(1, round(length * factor)) for length in network)
        return height, width

    def find(self, small: Callable[[], Float32]) -> Pose | None:
        """Return the pose of the part in the small picture that `small` makes."""
        return self.reference.find(small())

    def frame(self, picture: Raster, divisor: float, network: Size, pose: Pose | None) -> Frame:
        """Return the frame around a part in this pose; `network` is its size (H, W) for the network."""
        assert pose is not None
        size = picture_size(picture)
        placed = self.reference.geometry(pose, size, network, self.side)
        return Frame(picture, divisor, self.size(size, network), placed, pose)


def _cover(planes: Array, hidden: Mask, ground: Mask) -> None:
    """Cover the hidden pixels of a frame, in place.

    A hidden pixel gets the value of its mirrored pixel if that shows the ground. The frame is mirrored
    horizontally, vertically, then both ways. Where no mirrored pixel shows the ground, the hidden pixel gets
    the ground's median colour.

    Args:
        planes: [H, W, C], the frame.
        hidden: [H, W], pixels to cover.
        ground: [H, W], pixels that show the ground.
    """
    if not hidden.any() or not ground.any():
        return
    original = planes.copy()
    planes[hidden] = np.median(planes[ground], axis=0)
    uncovered = hidden
    for axes in (1, 0, (0, 1)):
        has_mirrored_ground = uncovered & np.flip(ground, axes)
        planes[has_mirrored_ground] = np.flip(original, axes)[has_mirrored_ground]
        uncovered = uncovered & ~has_mirrored_ground


@dataclass(frozen=True)
class PartPose:
    """Place of a part, and the inspected square around it.

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
        """Convert a pose in the small picture to the picture.

        Args:
            pose: Pose of the part in the small picture.
            reference: Reference of the part.
            picture_size: (H, W) of the picture.
            side: Longer side of the small picture.
        """
        small_height, small_width = reduced_size(picture_size, side)
        height, width = picture_size
        y_factor = height / small_height
        x_factor = width / small_width
        angle = math.degrees(math.remainder(pose.angle, 2 * math.pi))
        square_side = 2 * reference.extent * pose.scale * math.sqrt(y_factor * x_factor)
        return cls(
            x=round(float(pose.x * x_factor), 4),
            y=round(float(pose.y * y_factor), 4),
            angle=round(float(angle), 4),
            scale=round(float(pose.scale), 4),
            mirrored=pose.mirrored,
            side=round(float(square_side), 4),
            error=round(float(pose.error), 4),
        )

    def corners(self) -> NDArray[np.float64]:
        """Return the corners (x, y) of the square [4, 2] in pixels.

        Their order is the reference's upper left, upper right, lower right and lower left corner.
        """
        cos = math.cos(math.radians(self.angle))
        sin = math.sin(math.radians(self.angle))
        rotation = np.array([[cos, sin], [-sin, cos]]) * self.side / 2
        unit_square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        square = unit_square * (-1 if self.mirrored else 1, 1)
        return np.asarray(square @ rotation + (self.x, self.y))

    def to_dict(self) -> Json:
        """Return the fields by their names, as JSON knows them."""
        return asdict(self)


class PartFrames(NamedTuple):
    """Parts in a picture, each with its frame.

    Attributes:
        frames: Frame of each part; without parts, a single frame of the whole picture.
        middle: Frame of a part that lies as the reference does.
        poses: Place of each part.
        objects: Boxes (x0, y0, x1, y1) around other objects, in the picture's pixels.
        count_error: Text on how the number of parts or objects differs from good pictures; empty: it does
            not differ.
    """

    frames: list[Frame]
    middle: Frame
    poses: list[PartPose]
    objects: list[tuple[float, float, float, float]]
    count_error: str


def find_frames(
    picture: Raster, divisor: float, network: tuple[int, int], framing: AlignedPart, several: SeveralParts
) -> PartFrames:
    """Find several parts in a picture, and return each with its frame.

    Args:
        picture: The picture.
        divisor: Value of the picture that is white.
        network: (H, W) at which the network sees the frames.
        framing: Makes the frames.
        several: Settings by which parts are found.
    """
    size = picture_size(picture)
    reference = framing.reference
    small = small_grey(picture, divisor, several.side)
    overview = small_grey(picture, divisor, OVERVIEW_SIDE)
    detections = several.find(small, overview, reference)
    not_found = Pose(0, 0)  # the frame of a pose without a part is the whole picture
    frame_poses = detections.poses or [not_found]
    frames = []
    for pose, neighbours in zip(frame_poses, _find_neighbours(detections), strict=True):
        frame = framing.frame(picture, divisor, network, pose)
        frames.append(replace(frame, neighbours=neighbours))
    height, width = size
    objects = [(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in detections.objects]
    poses = [PartPose.from_pose(pose, reference, size, several.side) for pose in detections.poses]
    count_error = several.count_error(len(poses), len(objects))
    upright = Pose(0, 0, error=0.0)  # at any place: this frame gives the scale of the picture's map
    middle = framing.frame(picture, divisor, network, upright)
    return PartFrames(frames, middle, poses, objects, count_error)


def _find_neighbours(detections: PartDetections) -> list[Neighbours]:
    """Return the neighbours of each part, as masks at half of the small picture's size.

    Without parts, the only neighbours are a pair of empty masks.
    """
    from scipy import ndimage

    bodies = detections.part_masks
    if not detections.poses:
        others, body = np.zeros((2, *bodies.shape[1:]), np.bool_)
        return [Neighbours(others, body)]
    with_rims = ndimage.binary_dilation(bodies, np.ones((1, 3, 3), np.bool_), _RIM_WIDTH)
    part_count = with_rims.sum(0)  # of each pixel
    neighbours = []
    for body, body_with_rim in zip(bodies, with_rims, strict=True):
        other_part_count = part_count - body_with_rim
        has_other_part = other_part_count > 0
        neighbours.append(Neighbours(others=has_other_part & ~body, body=body_with_rim))
    return neighbours
