"""Views of several parts in a picture, a frame each, and the picture's map, put together from theirs.
Torch-free."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.frames import AlignedPart, Frame, Neighbours
from flawscope.pictures.geometry import Geometry
from flawscope.pictures.pose import SIDE, Pose, PoseReference, reduced_size
from flawscope.pictures.resampling import Raster, picture_size, small_grey
from flawscope.pictures.several_parts import OVERVIEW_SIDE, PartDetections, SeveralParts
from flawscope.pictures.views import Fusion, RunModel, SeveralViews, Views

if TYPE_CHECKING:
    from collections.abc import Sequence

    Float32 = NDArray[np.float32]
    Mask = NDArray[np.bool_]

_RIM_WIDTH = 3  # pixels around another part that do not count either, at half the small picture's size


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
    def from_pose(
        cls, pose: Pose, reference: PoseReference, picture_size: tuple[int, int], side: int = SIDE
    ) -> PartPose:
        """Converts a pose in the small picture, of longer side `side`, to the picture of (H, W) pixels."""
        small = reduced_size(picture_size, side)
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


class PartFrames(NamedTuple):
    """Parts in a picture. frames: of each; of the picture as it lies where there are none. middle: frame of a
    part that lies as the reference does. objects: boxes (x0, y0, x1, y1) around other objects, in the
    picture's pixels. count_error: what is wrong with the number of parts and objects; empty: nothing."""

    frames: list[Frame]
    middle: Frame
    poses: list[PartPose]
    objects: list[tuple[float, float, float, float]]
    count_error: str


class PartViews(SeveralViews):
    """Views of all parts in a picture, those of a part one after the other.

    parts: views of each. found: the parts. scale: pixels of their maps for one of the picture's.
    """

    def __init__(self, parts: Sequence[Views], found: PartFrames, scale: float):
        picture, share = picture_size(found.middle.picture), min(1.0, scale)  # no finer than the picture
        height, width = (max(1, math.ceil(side * share)) for side in picture)
        placed = Geometry(picture, (height, width), (height / picture[0], width / picture[1]), (0.0, 0.0))
        super().__init__(parts, placed)
        self.poses, self.objects = found.poses, found.objects
        self.count_error = found.count_error

    @property
    def unusable(self) -> str:
        return f"its parts are counted wrong: {self.count_error}" if self.count_error else ""

    def predict(self, run: RunModel, fusion: Fusion | None, batch: int = 1) -> tuple[float, Float32]:
        scores, drawn, _ = self.predict_parts(run, fusion, batch)
        return float(scores.max()), drawn

    def predict_parts(
        self, run: RunModel, fusion: Fusion | None, batch: int | None = None, roi: Mask | None = None
    ) -> tuple[NDArray[Any], Float32, NDArray[np.uint16]]:
        """Scores of all parts [n], the picture's map: the largest value where parts overlap, and the middle
        one where there is none, and the number of the part that is inspected there, from 1; 0: none, or
        several.

        Args:
            batch: views that are computed together; None: all, of tiles one.
            roi: region of interest [H, W] that the network knows, as a part's view shows it.
        """
        scores, maps = self.predict_each(run, fusion, batch)
        whole = np.full(self.geometry.size, -np.inf, np.float32)
        numbers = np.zeros(self.geometry.size, np.uint16)
        for number, (part, values) in enumerate(zip(self.parts, maps, strict=True), 1):
            here = part.geometry.with_picture_size(self.geometry.size)
            x0, y0, x1, y1 = (round(at) for at in here.to_picture((0, 0, *values.shape[::-1])))
            if x0 < x1 and y0 < y1:
                window = here.window(y0, x0, y1 - y0, x1 - x0)
                valid, other = window.warp_mask(part.valid_mask()), whole[y0:y1, x0:x1] > -np.inf
                seen = np.where(valid, window.warp(values, -np.inf), -np.inf)
                whole[y0:y1, x0:x1] = np.maximum(whole[y0:y1, x0:x1], seen)
                inspected = valid if roi is None else valid & window.warp_mask(roi)
                numbers[y0:y1, x0:x1][valid & other] = 0
                numbers[y0:y1, x0:x1][inspected & ~other] = number
        covered = whole > -np.inf
        whole[~covered] = np.median(whole[covered]) if covered.any() else 0.0
        return scores, whole, numbers

    def valid_mask(self) -> Mask:
        return np.ones(self.geometry.size, np.bool_)


def find_parts(
    picture: Raster, divisor: float, network: tuple[int, int], framing: AlignedPart, several: SeveralParts
) -> PartFrames:
    """Finds the parts in a picture, whose frames are seen at `network` (H, W)."""
    whole, reference = picture_size(picture), framing.reference
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
