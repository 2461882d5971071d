"""Finds all parts of one kind in a picture, and what else lies there. Torch-free.

The reference is correlated with the picture at every place and every few degrees, as `pose` does in a smaller
picture. The best places are refined one after the other; parts may overlap only a little. A connected area
that differs from the ground, is large enough and is no part is another object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError, pluralize
from flawscope.pictures.apart import NORMAL_MAD
from flawscope.types import Facts, Json
from flawscope.views.pose import HALF_SIDE, SIDE, Float32, Mask, Pose, PoseReference, blur

OVERVIEW_SIDE = 256  # pixels of the longer side of the picture in which the ground is found
_OUTLIER_DISTANCE = 3.0  # spreads, beyond which a pixel is left out of the ground's fit
_ITERATIONS = 8  # rounds of the ground's fit
_FIT_STEP = 5  # every 5th pixel of the ground is fitted
MIN_DISTANCE = 5.0  # spreads by which a pixel differs from the ground
_MIN_SPREAD = 0.004  # least spread of the ground
MAX_SIDE = 1024  # pixels of the longer side of the picture in which parts are found
_REDUCTION = 4  # factor by which the picture is reduced for the correlation
_MIN_CORRELATION = 0.35  # least correlation of a place with the reference
_MAX_POSES = 4  # poses that are refined at a place, at most
_MAX_GAP = 0.1  # difference from the best correlation, beyond which a pose is not refined
_MAX_OVERLAP = 0.3  # share of a part that may lie over others
_MIN_VISIBLE = 0.95  # share of a part that lies in the picture
_OUTLINE_WIDTH = 6  # pixels around the part in the reference
MAX_SOUGHT = 1000  # places that are examined, at most
DAMAGED = "the model's settings for several parts are damaged: fit anew"


Box = tuple[float, float, float, float]  # x0, y0, x1, y1, in shares of the picture


class PartDetections(NamedTuple):
    """Parts and other objects that were found.

    Attributes:
        poses: Poses in pixels of the small picture, by rows from the top.
        part_masks: [n, h / 2, w / 2] bool, the pixels of each part at half the small picture's size.
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
        """Convert to values for JSON, which `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Facts) -> SeveralParts:
        """Read values that `to_dict` returned.

        Raises:
            InputError: Values are missing or invalid.
        """
        try:
            return cls(
                span=float(data["span"]),
                object_area=float(data["object_area"]),
                sought=int(data["sought"]),
                least=int(data["least"]),
                most=int(data["most"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(DAMAGED) from None

    @property
    def count_text(self) -> str:
        """Number of parts in good pictures, in words."""
        return f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"

    def count_error(self, count: int, objects: int) -> str:
        """Describe how the number of parts or objects differs from good pictures; empty: it does not.

        Args:
            count: Number of parts in the picture.
            objects: Number of other objects.
        """
        summary = f"{pluralize(count, 'part')} found, {self.count_text} expected"
        errors = []
        if count < self.least:
            errors.append(f"{self.least - count} missing: {summary}")
        if count > self.most:
            errors.append(f"{count - self.most} too many: {summary}")
        if objects:
            errors.append(pluralize(objects, "other object"))
        return "; ".join(errors)

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
        matcher = _matcher(reference)
        # mask of the pixels of parts that were found, at half of the small picture's size
        covered = np.zeros([math.ceil(length / 2) for length in small.shape], np.bool_)
        padded = np.pad(blur(small), SIDE // 2, mode="edge")
        unsorted_poses: list[Pose] = []
        for starts in matcher.candidates(small, self.sought):
            best_start = starts[0]
            # a larger overlap than in the end, since the refinement may still move the pose
            if matcher.overlap(best_start, covered) > 1 - _MAX_OVERLAP:
                continue
            x = round(best_start.x)
            y = round(best_start.y)
            window = padded[y : y + SIDE, x : x + SIDE]  # the place (x, y) is its middle
            starts_in_window = [
                replace(start, x=start.x - x + HALF_SIDE, y=start.y - y + HALF_SIDE) for start in starts
            ]
            refined = reference.refine(window, starts_in_window)
            pose = replace(refined, x=refined.x + x - HALF_SIDE, y=refined.y + y - HALF_SIDE)
            if not (pose.found and matcher.is_inside(pose, small.shape)):
                continue
            if matcher.overlap(pose, covered) <= _MAX_OVERLAP:
                unsorted_poses.append(pose)
                rows, columns, _ = matcher.pixels(pose, covered.shape)
                covered[rows, columns] = True
        poses = _sort_into_rows(unsorted_poses, reference.extent)
        part_masks = np.zeros((len(poses), *covered.shape), np.bool_)
        for part_mask, pose in zip(part_masks, poses, strict=True):
            rows, columns, _ = matcher.pixels(pose, covered.shape)
            part_mask[rows, columns] = True
        return PartDetections(poses, part_masks, self._find_other_objects(overview, covered))

    def _find_other_objects(self, overview: Float32, covered: Mask) -> list[Box]:
        """Return boxes around objects that differ from the ground, and are no parts.

        Args:
            overview: The picture, scaled to a longer side of `OVERVIEW_SIDE` pixels.
            covered: Mask of the parts' pixels, at half the size of the picture in which the parts were found.
        """
        from scipy import ndimage

        distance = ground_distance(overview)
        height, width = overview.shape
        covered_height, covered_width = covered.shape
        # for each row and column of the overview, the row and column of the mask
        row_factor = height / covered_height
        column_factor = width / covered_width
        mask_rows = np.minimum((np.arange(height) + 0.5) / row_factor, covered_height - 1)
        mask_columns = np.minimum((np.arange(width) + 0.5) / column_factor, covered_width - 1)
        is_part = covered[mask_rows.astype(np.intp)][:, mask_columns.astype(np.intp)]
        near_part = ndimage.binary_dilation(is_part, iterations=4)
        differs = ndimage.binary_opening((distance > MIN_DISTANCE) & ~near_part, iterations=1)
        labels, count = ndimage.label(differs)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        is_object = sizes >= self.object_area * OVERVIEW_SIDE**2
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            # `edge` holds labels of areas
            is_object[edge] = False  # an area at the picture's edge is neither a part nor another object
        boxes = []
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            if not is_object[label]:
                continue
            x0, x1 = columns.start / width, columns.stop / width
            y0, y1 = rows.start / height, rows.stop / height
            boxes.append((x0, y0, x1, y1))
        return boxes


def _sort_into_rows(poses: Sequence[Pose], height: float) -> list[Pose]:
    """Sort poses into rows from the top, and from the left within a row.

    Args:
        poses: The poses.
        height: Height of a row: its poses lie at most this far below its first pose.
    """
    rows = list[list[Pose]]()
    row_top = -np.inf
    for pose in sorted(poses, key=lambda part_pose: part_pose.y):
        if pose.y > row_top + height:
            row_top = pose.y
            rows.append([])
        rows[-1].append(pose)
    return [pose for row in rows for pose in sorted(row, key=lambda part_pose: part_pose.x)]


@dataclass(frozen=True)
class _PartMatcher:
    """Matches a reference with pictures at every place.

    Attributes:
        reference: Reference of the part.
        part_points: [2, N], the part's pixels, from the middle.
        pose_angles: Pose of each of `PoseReference.kernels`: its angle, and whether it is mirrored.
    """

    reference: PoseReference
    part_points: Float32
    pose_angles: list[Pose]

    def pixels(self, pose: Pose, half: tuple[float, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp], Mask]:
        """Return the part's pixels in the small picture, reduced to half its size.

        Args:
            pose: Pose of the part in the small picture.
            half: (h / 2, w / 2), half the small picture's size.

        Returns:
            The rows and the columns of the part's points that lie in the picture; and a mask [N], True for
            these points.
        """
        x, y = (pose.matrix() @ self.part_points + np.array([[pose.x], [pose.y]])) / 2
        is_inside = (x >= 0) & (y >= 0) & (x < half[1]) & (y < half[0])
        return y[is_inside].astype(np.intp), x[is_inside].astype(np.intp), is_inside

    def overlap(self, pose: Pose, covered: Mask) -> float:
        """Return the share of a part that lies over other parts; 1 if the part lies outside the picture."""
        rows, columns, _ = self.pixels(pose, covered.shape)
        return float(covered[rows, columns].mean()) if len(rows) else 1.0

    def is_inside(self, pose: Pose, shape: tuple[int, ...]) -> bool:
        """Whether nearly all of the part lies in the picture."""
        _, _, is_inside = self.pixels(pose, tuple(length / 2 for length in shape))
        return float(is_inside.mean()) >= _MIN_VISIBLE

    def candidates(self, small: Float32, max_count: int) -> list[list[Pose]]:
        """Return the places where the reference may lie, the best first, each with its best poses.

        Args:
            small: [h, w], the picture in which parts are found.
            max_count: Largest number of places.
        """
        from scipy import fft, ndimage

        height, width = (max(1, round(length / _REDUCTION)) for length in small.shape)
        reduced = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BOX), np.float32)
        margin = SIDE // _REDUCTION // 2
        image = np.pad(reduced - reduced.mean(), margin, mode="edge")
        fft_size = tuple(fft.next_fast_len(length, real=True) for length in image.shape)
        part_spectra, weight_spectra = _spectra(self.reference, fft_size)

        def correlate(kernel_spectra: NDArray[np.complex64], spectrum: NDArray[np.complex64]) -> Float32:
            correlation = fft.irfft2(kernel_spectra * spectrum, s=fft_size)
            # the padding is half a kernel: at (y, x) the kernel's middle lies at (y, x) of `reduced`
            return correlation[:, :height, :width]  # type: ignore[no-any-return]

        spectrum = fft.rfft2(image, s=fft_size)
        squared_spectrum = fft.rfft2(image**2, s=fft_size)
        covariance = correlate(part_spectra, spectrum)
        # mean, mean square and standard deviation of the image below the part
        mean = correlate(weight_spectra, spectrum)
        mean_square = correlate(weight_spectra, squared_spectrum)
        deviation = np.sqrt(np.maximum(mean_square - mean**2, 1e-4))
        correlation = np.asarray(covariance / deviation, np.float32)
        best = correlation.max(0)  # largest correlation of a kernel, at each place
        is_peak = (best == ndimage.maximum_filter(best, 5)) & (best > _MIN_CORRELATION)
        rows, columns = np.nonzero(is_peak)
        order = np.argsort(-best[rows, columns], kind="stable")[:max_count]  # the largest first
        factors = np.array(small.shape) / (height, width)  # from the correlation to the small picture
        return [self._best_poses(correlation, int(rows[k]), int(columns[k]), factors) for k in order]

    def _best_poses(
        self, correlation: Float32, row: int, column: int, factors: NDArray[np.float64]
    ) -> list[Pose]:
        """Return the best poses at a place of the correlation, the best first.

        Args:
            correlation: [K, h, w], correlation with each kernel at each place.
            row: Row of the place.
            column: Column of the place.
            factors: [2], from the correlation's size to the small picture's, along y and x.
        """
        rows = slice(max(0, row - 1), row + 2)
        columns = slice(max(0, column - 1), column + 2)
        kernel_peaks = correlation[:, rows, columns].max((1, 2))
        y = (row + 0.5) * factors[0]
        x = (column + 0.5) * factors[1]
        candidates = []  # (correlation, number) of each kernel that is a peak among the neighbouring angles
        side_count = 2 if self.reference.kind == "full" else 1  # 2: mirrored kernels follow the others
        peaks_by_side = kernel_peaks.reshape(side_count, -1)  # [sides, angles]
        for side, peaks in enumerate(peaks_by_side):
            is_peak = (peaks >= np.roll(peaks, 1)) & (peaks >= np.roll(peaks, -1))
            first_kernel = side * len(peaks)
            for angle_number in np.flatnonzero(is_peak):
                candidates.append((float(peaks[angle_number]), first_kernel + int(angle_number)))
        candidates.sort(reverse=True)
        best_peak, _ = candidates[0]
        return [
            replace(self.pose_angles[kernel], x=x, y=y)
            for peak, kernel in candidates[:_MAX_POSES]
            if peak > best_peak - _MAX_GAP
        ]


@lru_cache(maxsize=8)
def _matcher(reference: PoseReference) -> _PartMatcher:
    """Return the matcher of a reference; the part's pixels are those within the border around the part."""
    from scipy import ndimage

    with_border = reference.spread > 0
    body = ndimage.binary_erosion(with_border, iterations=_OUTLINE_WIDTH)
    from_corner = np.nonzero(body if body.any() else with_border)
    y, x = from_corner + np.array([[0.5 - HALF_SIDE], [0.5 - HALF_SIDE]])  # from the middle
    angles = [pose for pose, _, _ in reference.kernels(SIDE // _REDUCTION)]
    return _PartMatcher(reference, np.stack([x, y]).astype(np.float32), angles)


@lru_cache(maxsize=3)  # an entry takes some 40 MB
def _spectra(
    reference: PoseReference, fft_size: tuple[int, ...]
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Return the spectra of all kernels: of the turned reference, and of its weights.

    Args:
        reference: Reference of the part.
        fft_size: Size (H, W) of the transform, at least that of the padded picture.
    """
    from scipy import fft

    kernels = reference.kernels(SIDE // _REDUCTION)
    parts = [part for _, part, _ in kernels]
    weights = [weight for _, _, weight in kernels]
    part_spectra = np.conj(fft.rfft2(np.array(parts), s=fft_size))
    weight_spectra = np.conj(fft.rfft2(np.array(weights), s=fft_size))
    return part_spectra, weight_spectra


# ------------------------------------------------------------------------------------------------- ground


def ground_distance(overview: Float32) -> Float32:
    """Return the distances [h, w] of the pixels from the ground, in units of the ground's spread.

    The ground is a quadratic surface that is fitted robustly to most pixels.
    """
    from scipy import ndimage

    height, width = overview.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    # [pixels, 6]: terms of a quadratic surface, x and y in -1..1
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)
    values = ndimage.gaussian_filter(overview, 1).ravel().astype(np.float64)
    residuals = values - np.median(values)
    is_ground = np.ones(values.size, np.bool_)
    for _ in range(_ITERATIONS):
        spread = _robust_spread(residuals[is_ground])
        is_ground = np.abs(residuals) < _OUTLIER_DISTANCE * spread
        ground_terms = terms[is_ground][::_FIT_STEP]
        ground_values = values[is_ground][::_FIT_STEP]
        coefficients, *_ = np.linalg.lstsq(ground_terms, ground_values, rcond=None)
        residuals = values - terms @ coefficients
    spread = _robust_spread(residuals[is_ground])
    return np.asarray(np.abs(residuals) / spread, np.float32).reshape(height, width)


def _robust_spread(residuals: NDArray[np.float64]) -> float:
    """Return the standard deviation of residuals, at least `_MIN_SPREAD`; outliers hardly count."""
    return max(_MIN_SPREAD, NORMAL_MAD * float(np.median(np.abs(residuals))))
