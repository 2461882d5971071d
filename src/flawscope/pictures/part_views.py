"""Views of several parts in a picture, one each, and the picture's map, put together from theirs. Torch-free.

Pixels of other parts do not count in a part's view, and are covered with the ground: neighbours lie
differently in every picture, and a network's answer for a pixel depends on its surroundings, too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.frames import Frame
from flawscope.pictures.geometry import Geometry
from flawscope.pictures.pose import SIDE, Pose, PoseReference, reduced_size
from flawscope.pictures.resampling import Raster, picture_size, small_grey, warp_view
from flawscope.pictures.several_parts import OVERVIEW_SIDE, PartDetections, SeveralParts
from flawscope.pictures.views import Fusion, RunModel, Views, write_planes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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


class PartViews(Views):
    """Views of the parts in a picture; of the picture as it lies where there are none.

    poses: of the parts. objects: boxes (x0, y0, x1, y1) around other objects, in the picture's pixels.
    view_geometries: places of the views in the picture. wrong: what is wrong with the number of parts and
    objects; empty: nothing.
    """

    def __init__(
        self,
        images: Float32,
        geometry: Geometry,
        placed: list[Geometry],
        poses: list[PartPose],
        objects: list[tuple[float, float, float, float]],
        wrong: str,
    ):
        super().__init__(images[:1], geometry)
        self.all_images, self.view_geometries = images, placed
        self.poses, self.objects, self.count_error = poses, objects, wrong

    def __len__(self) -> int:
        return len(self.all_images)

    @property
    def unusable(self) -> str:
        return f"its parts are counted wrong: {self.count_error}" if self.count_error else ""

    @property
    def geometries(self) -> list[Geometry]:
        return self.view_geometries

    def images(self, numbers: Iterable[int]) -> Float32:
        return self.all_images[list(numbers)]

    def predict(self, run: RunModel, fusion: Fusion | None, batch: int = 1) -> tuple[float, Float32]:
        scores, drawn = self.predict_parts(run, batch)
        return float(scores.max()), drawn

    def predict_parts(self, run: RunModel, batch: int | None = None) -> tuple[NDArray[Any], Float32]:
        """Scores of all parts [n], and the picture's map: the largest value where views overlap, and the
        middle one where there is none. batch: parts that are computed together; None: all."""
        step = batch or len(self)
        parts = [run(self.all_images[k : k + step], None) for k in range(0, len(self), step)]
        scores, maps = (np.concatenate(of) for of in zip(*parts, strict=True))
        whole = np.full(self.geometry.size, -np.inf, np.float32)
        for image, placed, values in zip(self.all_images, self.view_geometries, maps, strict=True):
            here = placed.with_picture_size(self.geometry.size)
            x0, y0, x1, y1 = (round(at) for at in here.to_picture((0, 0, *placed.size[::-1])))
            if x0 < x1 and y0 < y1:
                window = here.window(y0, x0, y1 - y0, x1 - x0)
                seen = np.where(window.warp_mask(image[0] >= 0), window.warp(values, -np.inf), -np.inf)
                whole[y0:y1, x0:x1] = np.maximum(whole[y0:y1, x0:x1], seen)
        shown = whole > -np.inf
        whole[~shown] = np.median(whole[shown]) if shown.any() else 0.0
        return np.asarray(scores), whole

    def valid_mask(self) -> Mask:
        return np.ones(self.geometry.size, np.bool_)


def cut_part_views(
    picture: Raster,
    divisor: float,
    network: tuple[int, int],
    view: Callable[[tuple[int, int]], Geometry],
    reference: PoseReference,
    several: SeveralParts,
) -> PartViews:
    """Finds the parts in a picture, and cuts a view of each.

    Args:
        network: size (H, W) at which the frame of a part is seen.
        view: place of the view in a frame of (H, W) pixels.
    """
    whole = picture_size(picture)
    small = small_grey(picture, divisor, several.side)
    found = several.find(small, small_grey(picture, divisor, OVERVIEW_SIDE), reference)
    frames = [
        Frame.around_part(picture, divisor, reference, pose, network, several.side)
        for pose in found.poses or [Pose(0, 0)]
    ]
    placed = [frame.place(view(frame.size)) for frame in frames]
    images = np.empty((len(placed), 3, *placed[0].size), np.float32)
    for image, here, (others, body) in zip(images, placed, _part_masks(found), strict=True):
        write_planes(warp_view(picture, here), divisor, image)
        half = here.with_picture_size((others.shape[0], others.shape[1]))
        hidden, inside = half.mask_to_network(others), here.visible_mask()
        _fill_hidden(image, hidden, inside & ~hidden & ~half.mask_to_network(body))
        image[:] = np.where(inside & ~hidden, image, -1 - image)
    height, width = whole
    objects = [(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in found.objects]
    poses = [PartPose.from_pose(pose, reference, whole, several.side) for pose in found.poses]
    wrong = several.count_error(len(poses), len(objects))
    return PartViews(images, _map_geometry(whole, network, reference, several), placed, poses, objects, wrong)


def _part_masks(found: PartDetections) -> list[tuple[Mask, Mask]]:
    """Returns for each part the masks of the others and of the part itself, with rims, [h / 2, w / 2]."""
    from scipy import ndimage

    if not found.poses:
        nothing = np.zeros(found.part_masks.shape[1:], np.bool_)
        return [(nothing, nothing)]
    rims = ndimage.binary_dilation(found.part_masks, np.ones((1, 3, 3), np.bool_), _RIM_WIDTH)
    count = rims.sum(0)
    return [((count > own) & ~body, own) for own, body in zip(rims, found.part_masks, strict=True)]


def _fill_hidden(image: Float32, hidden: Mask, ground: Mask) -> None:
    """Covers the hidden pixels of a view [3, H, W], in place, with the ground at the other sides of the part,
    else with its middle colour."""
    if not hidden.any() or not ground.any():
        return
    shown = image.copy()
    image[:, hidden] = np.median(image[:, ground], axis=1)[:, None]
    for axes in (1, 0, (0, 1)):
        there = hidden & np.flip(ground, axes)
        image[:, there] = np.flip(shown.transpose(1, 2, 0), axes)[there].T
        hidden = hidden & ~there


def _map_geometry(
    whole: tuple[int, int], size: tuple[int, int], reference: PoseReference, several: SeveralParts
) -> Geometry:
    """Place of the map of a picture (H, W): as fine as the views of the parts, no finer than the picture."""
    placed = reference.geometry(Pose(0, 0, error=0.0), whole, size, several.side)
    share = min(1.0, placed.scale[0])
    height, width = (max(1, math.ceil(side * share)) for side in whole)
    return Geometry(whole, (height, width), (height / whole[0], width / whole[1]), (0.0, 0.0))
