"""Finds all parts of one kind in a picture, and what else lies there. Torch-free.

The reference is correlated with the picture at every place and every few degrees (as `pose` does, in a larger
picture), and the best places are refined one after the other; parts may overlap no more than a little. A
connected area that differs from the ground, is large enough and is no part is another object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError, pluralize
from flawscope.types import Facts, Json
from flawscope.views.pose import HALF_SIDE, SIDE, Float32, Mask, Pose, PoseReference, blur

OVERVIEW_SIDE = 256  # pixels of the longer side of the picture in which the ground is found
# spreads of the ground's pixels, rounds of its fit
_OUTLIER_DISTANCE = 3.0
_ITERATIONS = 8
MIN_DISTANCE = 5.0  # spreads by which a pixel differs from the ground
_MIN_SPREAD = 0.004
MAX_SIDE = 1024  # pixels of the longer side of the picture in which parts are found
_REDUCTION = 4  # by this factor for the correlation
_MIN_CORRELATION = 0.35  # correlation
# as `pose` has them
_MAX_POSES = 4
_MAX_GAP = 0.1
_MAX_OVERLAP = 0.3  # share of a part that may lie over others
_MIN_VISIBLE = 0.95  # share of a part that lies in the picture
_OUTLINE_WIDTH = 6  # pixels around the part in the reference
MAX_SOUGHT = 1000
DAMAGED = "the model's settings for several parts are damaged: fit anew"


Box = tuple[float, float, float, float]  # x0, y0, x1, y1, in shares of the picture


class PartDetections(NamedTuple):
    """Parts and other objects that were found.

    Attributes:
        poses: Poses in pixels of the small picture, by rows from the top.
        part_masks: [n, h / 2, w / 2] bool.
        objects: Boxes around other objects.
    """

    poses: list[Pose]
    part_masks: NDArray[np.bool_]
    objects: list[Box]


@dataclass(frozen=True)
class SeveralParts:
    """Settings by which several parts are found in a picture.

    Attributes:
        span: Side of the square that the reference shows, as a share of the picture's longer side.
        object_area: Least area of another object, as a share of a square of the longer side.
        sought: Number of places that are examined.
        least: Fewest parts in good pictures.
        most: Most parts in good pictures.
    """

    span: float
    object_area: float
    sought: int
    least: int = 1
    most: int = 1

    def __post_init__(self) -> None:
        if not (SIDE / MAX_SIDE <= self.span <= 1 and 0 < self.object_area <= 1):
            raise InputError(DAMAGED)
        if not 1 <= self.least <= self.most <= self.sought <= MAX_SOUGHT:
            raise InputError(DAMAGED)

    def to_dict(self) -> Json:
        """Return values that JSON knows, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Facts) -> SeveralParts:
        """Read what `to_dict` returned. InputError where it is damaged."""
        try:
            span, area, *counts = (data[field.name] for field in fields(cls))
            return cls(float(span), float(area), *map(int, counts))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(DAMAGED) from None

    @property
    def count_text(self) -> str:
        """Number of parts in good pictures, in words."""
        return f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"

    def count_error(self, count: int, objects: int) -> str:
        """Return how the number of parts differs, or that other objects are there; empty: all is right."""
        shown = f"{pluralize(count, 'part')} found, {self.count_text} expected"
        found = f"{self.least - count} missing: {shown}" if count < self.least else ""
        found = f"{count - self.most} too many: {shown}" if count > self.most else found
        other = f"{pluralize(objects, 'other object')}" if objects else ""
        return "; ".join(filter(None, (found, other)))

    @property
    def side(self) -> int:
        """Longer side of the small picture."""
        return round(SIDE / self.span)

    def find(self, small: Float32, overview: Float32, reference: PoseReference) -> PartDetections:
        """Find parts and other objects in a picture.

        Args:
            small: [h, w] float32 in 0..1, the longer side `side`.
            overview: The same picture, the longer side `OVERVIEW_SIDE`.
            reference: Reference of the part.
        """
        finder = _matcher(reference)
        covered = np.zeros([-(-length // 2) for length in small.shape], np.bool_)
        padded = np.pad(blur(small), SIDE // 2, mode="edge")
        poses: list[Pose] = []
        for starts in finder.candidates(small, self.sought):
            if finder.overlap(starts[0], covered) > 1 - _MAX_OVERLAP:
                continue
            x, y = (round(at) for at in (starts[0].x, starts[0].y))
            window = padded[y : y + SIDE, x : x + SIDE]
            near = [replace(start, x=start.x - x + HALF_SIDE, y=start.y - y + HALF_SIDE) for start in starts]
            pose = reference.refine(window, near)
            pose = replace(pose, x=pose.x + x - HALF_SIDE, y=pose.y + y - HALF_SIDE)
            if not (pose.found and finder.is_inside(pose, small.shape)):
                continue
            if finder.overlap(pose, covered) <= _MAX_OVERLAP:
                poses.append(pose)
                covered[finder.pixels(pose, covered.shape)[:2]] = True
        poses = _sort_into_rows(poses, reference.extent)
        bodies = np.zeros((len(poses), *covered.shape), np.bool_)
        for body, pose in zip(bodies, poses, strict=True):
            body[finder.pixels(pose, covered.shape)[:2]] = True
        return PartDetections(poses, bodies, self._other_objects(overview, covered))

    def _other_objects(self, overview: Float32, covered: Mask) -> list[Box]:
        """Objects that differ from the ground beside the parts that were found [h / 2, w / 2]."""
        from scipy import ndimage

        distance = ground_distance(overview)
        zoom = np.array(overview.shape) / covered.shape
        rows, columns = (
            np.minimum((np.arange(length) + 0.5) / by, most - 1).astype(np.intp)
            for length, by, most in zip(overview.shape, zoom, covered.shape, strict=True)
        )
        known = ndimage.binary_dilation(covered[rows][:, columns], iterations=4)
        areas = ndimage.binary_opening((distance > MIN_DISTANCE) & ~known, iterations=1)
        labels, count = ndimage.label(areas)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        inner = np.ones(count + 1, np.bool_)
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            inner[edge] = False  # an area at the picture's edge is neither a part nor another object
        inner[0] = False
        height, width = overview.shape
        return [
            (columns.start / width, rows.start / height, columns.stop / width, rows.stop / height)
            for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1)
            if inner[number] and sizes[number] >= self.object_area * OVERVIEW_SIDE**2
        ]


def _sort_into_rows(poses: Sequence[Pose], height: float) -> list[Pose]:
    """Sort poses from the top, and from the left where they lie beside each other."""
    rows = list[tuple[float, Pose]]()
    top = -np.inf
    for pose in sorted(poses, key=lambda part_pose: part_pose.y):
        top = pose.y if pose.y > top + height else top
        rows.append((top, pose))
    return [pose for _, pose in sorted(rows, key=lambda row: (row[0], row[1].x))]


@dataclass(frozen=True)
class _PartMatcher:
    """Matches a reference with pictures at every place.

    Attributes:
        reference: Reference of the part.
        part_points: [2, N], the part's pixels, from the middle.
        pose_angles: Poses of `PoseReference.kernels`.
    """

    reference: PoseReference
    part_points: Float32
    pose_angles: list[Pose]

    def pixels(self, pose: Pose, half: tuple[float, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp], Mask]:
        """Rows and columns of the part in the small picture at half its size, and which are in it."""
        x, y = (pose.matrix() @ self.part_points + np.array([[pose.x], [pose.y]])) / 2
        seen = (x >= 0) & (y >= 0) & (x < half[1]) & (y < half[0])
        return y[seen].astype(np.intp), x[seen].astype(np.intp), seen

    def overlap(self, pose: Pose, covered: Mask) -> float:
        """Share of the part that lies over others."""
        rows, columns, _ = self.pixels(pose, covered.shape)
        return float(covered[rows, columns].mean()) if len(rows) else 1.0

    def is_inside(self, pose: Pose, shape: tuple[int, ...]) -> bool:
        """Whether the part lies in the picture."""
        return float(self.pixels(pose, tuple(length / 2 for length in shape))[2].mean()) >= _MIN_VISIBLE

    def candidates(self, small: Float32, most: int) -> list[list[Pose]]:
        """Return places where the reference may lie, the best first: at each the best angles and sides."""
        from scipy import fft, ndimage

        size = [max(1, round(length / _REDUCTION)) for length in small.shape]
        image = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BOX), np.float32)
        margin = SIDE // _REDUCTION // 2
        image = np.pad(image - image.mean(), margin, mode="edge")
        whole = tuple(fft.next_fast_len(length, real=True) for length in image.shape)
        spectra = [fft.rfft2(values, s=whole) for values in (image, image**2)]
        of_parts, of_weights = _spectra(self.reference, whole)
        level, mean, square = (
            fft.irfft2(kernels * spectrum, s=whole)[:, : size[0], : size[1]]
            for kernels, spectrum in zip(
                (of_parts, of_weights, of_weights), (spectra[0], *spectra), strict=True
            )
        )
        found = np.asarray(level / np.sqrt(np.maximum(square - mean**2, 1e-4)), np.float32)
        best = found.max(0)
        peaks = (best == ndimage.maximum_filter(best, 5)) & (best > _MIN_CORRELATION)
        rows, columns = np.nonzero(peaks)
        order = np.argsort(-best[rows, columns], kind="stable")[:most]
        grow = np.array(small.shape) / size
        return [self._poses_at(found, int(rows[k]), int(columns[k]), grow) for k in order]

    def _poses_at(self, found: Float32, row: int, column: int, grow: NDArray[np.float64]) -> list[Pose]:
        """The best poses at a place of the correlation [K, h, w]."""
        near = found[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].max((1, 2))
        y, x = (row + 0.5) * grow[0], (column + 0.5) * grow[1]
        several = []
        sides = 2 if self.reference.kind == "full" else 1
        for side, peaks in enumerate(near.reshape(sides, -1)):
            up = (peaks >= np.roll(peaks, 1)) & (peaks >= np.roll(peaks, -1))
            several += [(float(peaks[k]), side * len(peaks) + int(k)) for k in np.flatnonzero(up)]
        several.sort(reverse=True)
        return [
            replace(self.pose_angles[k], x=x, y=y)
            for peak, k in several[:_MAX_POSES]
            if peak > several[0][0] - _MAX_GAP
        ]


@lru_cache(maxsize=8)
def _matcher(reference: PoseReference) -> _PartMatcher:
    from scipy import ndimage

    counted = reference.spread > 0
    body = ndimage.binary_erosion(counted, iterations=_OUTLINE_WIDTH)
    y, x = np.nonzero(body if body.any() else counted) + np.array([[0.5 - HALF_SIDE]] * 2)
    angles = [pose for pose, _, _ in reference.kernels(SIDE // _REDUCTION)]
    return _PartMatcher(reference, np.stack([x, y]).astype(np.float32), angles)


@lru_cache(maxsize=3)  # some 40 MB each
def _spectra(
    reference: PoseReference, whole: tuple[int, ...]
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Spectra of the reference and of its weights, by angle and side, for pictures of this size."""
    from scipy import fft

    _, parts, weights = zip(*reference.kernels(SIDE // _REDUCTION), strict=True)
    return tuple(np.conj(fft.rfft2(np.array(several), s=whole)) for several in (parts, weights))


# ------------------------------------------------------------------------------------------------- ground


def ground_distance(overview: Float32) -> Float32:
    """Distances of the pixels [h, w] from the ground, in its spreads.

    The ground is a quadratic surface that is fitted robustly to most pixels.
    """
    from scipy import ndimage

    height, width = overview.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    surfaces = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)
    values = ndimage.gaussian_filter(overview, 1).ravel().astype(np.float64)
    off = values - np.median(values)
    kept = np.ones(values.size, np.bool_)
    spread = 0.0
    for _ in range(_ITERATIONS):
        spread = max(_MIN_SPREAD, 1.4826 * float(np.median(np.abs(off[kept]))))
        kept = np.abs(off) < _OUTLIER_DISTANCE * spread
        factors = np.linalg.lstsq(surfaces[kept][::5], values[kept][::5], rcond=None)[0]
        off = values - surfaces @ factors
    spread = max(_MIN_SPREAD, 1.4826 * float(np.median(np.abs(off[kept]))))
    return np.asarray(np.abs(off) / spread, np.float32).reshape(height, width)
