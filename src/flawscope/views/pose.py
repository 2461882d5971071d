"""Finds the pose of a part in a picture, its place, angle, scale and side, against a reference. Torch-free.

First the reference is correlated with the picture at every place and every few degrees (template matching
by normalized cross-correlation with FFTs: Lewis, Fast Normalized Cross-Correlation, 1995). The best poses are
refined by the inverse compositional Lucas-Kanade algorithm with gain and offset of the light and robust
weights (Baker and Matthews, Lucas-Kanade 20 Years On, IJCV 56, 2004). The nearest to the good parts wins.

Pictures are grey and small here, `SIDE` pixels along the longer side. Coordinates are continuous: pixel i
covers [i, i + 1). Angles are in radians, from the x axis (right) to the y axis (down).
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.apart import NORMAL_MAD
from flawscope.types import Array, Facts, Json
from flawscope.views.geometry import Geometry

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
PoseKind = Literal["shift", "turn", "full"]
Align = PoseKind | Literal["none", "auto"]  # how a fit is told to find parts

SIDE = 128  # of small pictures and of the reference
HALF_SIDE = SIDE / 2
SPREAD_SCALE = 1000.0  # steps of a stored spread per 1.0
_AFFINE = Image.Transform.AFFINE
_BILINEAR = Image.Resampling.BILINEAR
_COARSE_SIDE = SIDE // 2  # pixels of a side of the pictures that are correlated
_ANGLE_STEP = 6  # degrees between two angles of the correlation
_MAX_CANDIDATES = 4  # angles that are refined, at most
_MAX_GAP = 0.1  # difference from the best correlation, beyond which an angle is not refined
_BLUR_SIGMA = 1.0  # pixels
_MAX_POINTS = 2500  # points of the reference that are compared, at the best angle
_MAX_FIRST_POINTS = 700  # points while the best angle is not known
_FIRST_ITERATIONS = 4  # rounds of the refinement, for every angle
_ITERATIONS = 8  # rounds of the refinement, for the best angle
_MAX_FACTORS = {"gain": 3.0, "scale": 1.25}  # a part differs from the reference by no larger factor
_MAX_DISTANCE = 3.0  # spreads: larger distances of a pixel are clipped
MAX_ERROR = 2.0  # spreads: farther from the good parts lies no part; broken ones lie within 1.5


@dataclass(frozen=True)
class Pose:
    """Pose of a part: point q of the reference lies at centre + scale R(angle) F q in the small picture.

    Attributes:
        x, y: The centre, in pixels of the small picture; q is measured from the reference's middle.
        angle: Angle of the rotation R, in radians.
        scale: Size against the reference.
        mirrored: Whether F changes the sign of x before the part is turned; else F changes nothing.
        error: Root mean square distance to the good parts, in their spreads; infinite where none was found.
    """

    x: float
    y: float
    angle: float = 0.0
    scale: float = 1.0
    mirrored: bool = False
    error: float = math.inf

    @property
    def found(self) -> bool:
        """Whether the part was found: its error is finite."""
        return math.isfinite(self.error)

    def matrix(self) -> NDArray[np.float64]:
        """Matrix [2, 2] of scale, turn and mirror, for (x, y)."""
        cos = self.scale * math.cos(self.angle)
        sin = self.scale * math.sin(self.angle)
        side = -1.0 if self.mirrored else 1.0
        return np.array([[side * cos, -sin], [side * sin, cos]])


class _Samples(NamedTuple):
    """Points of the reference, with the values that a step of the refinement needs.

    Attributes:
        positions: [2, N], x and y from the reference's middle.
        levels: [N], grey levels of the points.
        weights: [N], weights of the points.
        jacobian: [n + 2, N], derivatives of the levels by each parameter of the pose, the gain and the
            offset.
    """

    positions: Float32
    levels: Float32
    weights: Float32
    jacobian: Float32


@dataclass(frozen=True, eq=False)
class PoseReference:
    """The good part: its grey levels, and how far good parts are from them.

    Attributes:
        kind: Poses that occur: "shift", "turn" (and shifted), "full" (mirrored and at another scale, too).
        levels: [SIDE, SIDE] uint8, 255 is white; the part is in the middle.
        spread: [SIDE, SIDE] uint8, standard deviation in 1 / `SPREAD_SCALE`; 0: the pixel does not count.
        extent: Half the side of the square that shows the part, in pixels.
        period: The part looks the same after 1 / period of a full turn; 0: after every turn.
        errors: Errors of good parts that the reference did not know, ascending.
    """

    kind: PoseKind
    levels: NDArray[np.uint8]
    spread: NDArray[np.uint8]
    extent: float
    period: int = 1
    errors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        has_arrays = all(
            array.shape == (SIDE, SIDE) and array.dtype == np.uint8 for array in (self.levels, self.spread)
        )
        has_kind = self.kind in get_args(PoseKind)
        has_numbers = 1 <= self.extent <= HALF_SIDE and self.period >= 0
        if not (has_arrays and has_kind and has_numbers and self.spread.any()):
            raise InputError("the model's reference for poses is damaged: fit anew")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PoseReference) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.kind, self.extent, self.levels.tobytes()))

    def find(self, picture: Float32) -> Pose:
        """Find the part in a picture; if there is none, the pose has an infinite error.

        Args:
            picture: [h, w] float32 in 0..1, the longer side `SIDE`.
        """
        square = _pad_to_square(picture)
        return self.refine(square, self._coarse_poses(square, picture))

    def refine(self, square: Float32, poses: Sequence[Pose]) -> Pose:
        """Refine poses, and return the pose at which the picture is most like the good parts.

        If there is no part, the pose has an infinite error.

        Args:
            square: [SIDE, SIDE], blurred small picture.
            poses: Poses to start from.
        """
        few_points, many_points = self._points
        fitted = [self._fit_pose(square, start, few_points, _FIRST_ITERATIONS) for start in poses]
        pose = min(fitted, key=lambda fit: fit.error)
        if pose.found:
            pose = self._fit_pose(square, pose, many_points, _ITERATIONS)
        return pose if pose.error <= MAX_ERROR else replace(pose, error=math.inf)

    def p_value(self, error: float) -> float:
        """Return the conformal p-value of an error, (1 + #{good errors >= error}) / (n + 1).

        The p-value is 1 if no errors of good parts are known.
        """
        if not self.errors:
            return 1.0
        count_as_large = sum(good_error >= error for good_error in self.errors)
        return (1 + count_as_large) / (1 + len(self.errors))

    def geometry(
        self, pose: Pose, picture_size: tuple[int, int], size: tuple[int, int], side: int = SIDE
    ) -> Geometry:
        """Return the place of a view in a picture; the view shows the part in the reference's pose.

        The view includes the part's surroundings. If no part was found, it is the whole picture, upright.

        Args:
            pose: Pose of the part.
            picture_size: (H, W) of the picture.
            size: (H, W) of the view.
            side: Longer side of the small picture that the pose is in.
        """
        small = reduced_size(picture_size, side)
        extent = self.extent
        if not pose.found:
            pose = Pose(small[1] / 2, small[0] / 2)
            extent = HALF_SIDE
        enlargement = np.array(picture_size) / small  # factors from the small picture to the picture
        matrix_yx = pose.matrix()[::-1, ::-1]  # for (y, x) instead of (x, y)
        # from the view to the small picture (matrix_yx and its factor), then to the picture
        linear = enlargement[:, None] * matrix_yx * (2 * extent / min(size))
        view_middle = (size[0] / 2, size[1] / 2)
        y, x = map(float, enlargement * (pose.y, pose.x) - linear @ view_middle)
        length = math.sqrt(abs(float(np.linalg.det(linear))))
        yy, yx, xy, xx = map(float, linear.ravel())
        from_view = Geometry(size, picture_size, (length, length), offset=(y, x), matrix=(yy, yx, xy, xx))
        return from_view.inverse()

    def describe(self) -> str:
        """Return a sentence on the poses, the errors of good parts, and how many were not found."""
        symmetry = ""
        if self.period == 0:
            symmetry = "; every angle looks the same"
        elif self.period > 1:
            symmetry = f"; turns by 1/{self.period} look the same"
        finite_errors = [error for error in self.errors if math.isfinite(error)]
        distance = "all lost"
        if finite_errors:
            distance = f"at most {max(finite_errors):.2f} spreads off, {MAX_ERROR:g} allowed"
        lost_count = len(self.errors) - len(finite_errors)
        text = f"parts aligned ({self.kind}{symmetry}): {len(finite_errors)} good ones found, {distance}, "
        text += f"{lost_count} not found"
        if self.errors:
            text += f"; expected of at most {self.p_value(MAX_ERROR):.1%} of new good ones"
        return text

    def part_image(self) -> NDArray[np.uint8]:
        """Return the reference's inspected square, with the part, [S, S] uint8; 255 is white."""
        edges = slice(math.floor(HALF_SIDE - self.extent), math.ceil(HALF_SIDE + self.extent))
        return self.levels[edges, edges]

    @property
    def rotates(self) -> bool:
        """Whether the angle is searched: parts may be turned, and turned parts look different."""
        return self.kind != "shift" and self.period != 0

    # ---- coarse

    @cached_property
    def _angles(self) -> NDArray[np.float64]:
        """Angles of the correlation, in radians, ascending."""
        if not self.rotates:
            return np.zeros(1)
        count = max(1, round(360 / self.period / _ANGLE_STEP))
        angles = (np.arange(count) - count // 2) * (2 * math.pi / self.period / count)
        return np.asarray(angles, np.float64)

    def kernels(self, size: int) -> list[tuple[Pose, Float32, Float32]]:
        """Return the normalized reference and its weights [size, size], rotated in steps of a few degrees.

        If parts may be mirrored, the mirrored kernels follow. A kernel's pixel in row and
        column size / 2 shows the middle of the reference.

        Returns:
            The pose, the normalized reference and the weights of each kernel.
        """
        levels = np.divide(self.levels, 255, dtype=np.float32)
        small_weights = _downsample(self._weights, size)
        weighted_levels = _downsample(self._weights * levels, size)
        small_levels = np.asarray(weighted_levels / np.maximum(small_weights, 1e-9), np.float32)
        weight_image = Image.fromarray(small_weights)
        level_image = Image.fromarray(small_levels)
        middle = size / 2
        kernels = []
        for side in (1, -1) if self.kind == "full" else (1,):  # -1: mirrored
            for angle in self._angles:
                cos, sin = math.cos(angle), math.sin(angle)
                (xx, xy), (yx, yy) = (side * cos, side * sin), (-sin, cos)
                # pixel `middle`, whose centre Pillow takes at + 0.5, shows the middle of the image
                x = middle - (xx + xy) * (middle + 0.5)
                y = middle - (yx + yy) * (middle + 0.5)
                affine = xx, xy, x, yx, yy, y
                turned_weights = weight_image.transform(weight_image.size, _AFFINE, affine, _BILINEAR)
                turned_levels = level_image.transform(level_image.size, _AFFINE, affine, _BILINEAR)
                raw_weights = np.asarray(turned_weights, np.float64)
                raw_levels = np.asarray(turned_levels, np.float64)
                # normalized, so that a product with a picture is a weighted covariance
                weight = raw_weights / max(raw_weights.sum(), 1e-9)
                level = raw_levels - (weight * raw_levels).sum()
                part = weight * level / math.sqrt(max((weight * level**2).sum(), 1e-12))
                pose = Pose(0.0, 0.0, float(angle), 1.0, mirrored=side < 0)
                kernels.append((pose, np.asarray(part, np.float32), np.asarray(weight, np.float32)))
        return kernels

    @cached_property
    def _spectra(self) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
        """Spectra [K, C, C / 2 + 1] of the normalized reference and of its weights, for each of `kernels`."""
        from scipy import fft

        def compute_spectra(images: Sequence[Float32]) -> NDArray[np.complex64]:
            stack = np.fft.ifftshift(np.array(images, np.float32), axes=(1, 2))
            return np.asarray(np.conj(fft.rfft2(stack)), np.complex64)

        kernels = self.kernels(_COARSE_SIDE)
        parts = [part for _, part, _ in kernels]
        weights = [weight for _, _, weight in kernels]
        return compute_spectra(parts), compute_spectra(weights)

    def _coarse_poses(self, square: Float32, picture: Float32) -> list[Pose]:
        """Return poses to refine: the best angles, each at the place where its correlation is largest.

        Args:
            square: [SIDE, SIDE], the blurred picture with its edges repeated.
            picture: [h, w], the picture; only its size is used.
        """
        from scipy import fft

        image = _downsample(square)
        image -= image.mean()
        part_spectra, weight_spectra = self._spectra

        def correlate(kernel_spectra: NDArray[np.complex64], values: Float32) -> Float32:
            return np.asarray(fft.irfft2(kernel_spectra * fft.rfft2(values), s=image.shape), np.float32)

        correlation = correlate(part_spectra, image)
        # divided by the standard deviation of the image below the part, in place: the arrays are large
        mean = correlate(weight_spectra, image)
        variance = correlate(weight_spectra, image**2)
        mean *= mean
        variance -= mean
        np.maximum(variance, 1e-4, out=variance)
        correlation /= np.sqrt(variance, out=variance)
        height, width = picture.shape
        # places inside the picture; the correlation has half of the picture's resolution
        inside = correlation[:, : math.ceil(height / 2), : math.ceil(width / 2)]
        flat = inside.reshape(len(inside), -1)  # [kernels, places]
        best_places = flat.argmax(1)
        angle_count = len(self._angles)
        angle_step = self._angles[1] - self._angles[0] if angle_count > 1 else 0
        candidates = []  # correlation and pose
        for side in range(len(flat) // angle_count):  # 1: mirrored
            kernels = np.arange(angle_count) + side * angle_count
            places = best_places[kernels]
            peaks = flat[kernels, places]  # largest correlation at each angle
            left, right = np.roll(peaks, 1), np.roll(peaks, -1)
            for i in np.flatnonzero((peaks >= left) & (peaks >= right)):
                # vertex of the parabola through the peak and both neighbouring angles, in steps
                curvature = left[i] - 2 * peaks[i] + right[i]
                shift = 0.5 * (left[i] - right[i]) / curvature if curvature < 0 and angle_count > 1 else 0.0
                y, x = divmod(int(places[i]), inside.shape[2])
                angle = float(self._angles[i] + shift * angle_step)
                pose = Pose(2.0 * x, 2.0 * y, angle, 1.0, mirrored=bool(side))
                candidates.append((float(peaks[i]), pose))
        candidates.sort(key=lambda candidate: -candidate[0])
        best_peak, _ = candidates[0]
        return [pose for peak, pose in candidates[:_MAX_CANDIDATES] if peak > best_peak - _MAX_GAP]

    # ---- fine

    @cached_property
    def _weights(self) -> Float32:
        """Weights [SIDE, SIDE] of the reference's pixels: 1 / variance, 0 where a pixel does not count."""
        spread = np.divide(self.spread, SPREAD_SCALE, dtype=np.float32)
        return np.where(self.spread > 0, 1 / np.maximum(spread, 1e-3) ** 2, 0).astype(np.float32)

    @cached_property
    def _points(self) -> tuple[_Samples, _Samples]:
        """Points of the reference: few for refining every angle, and more for refining the best angle."""
        return self._select_points(_MAX_FIRST_POINTS), self._select_points(_MAX_POINTS)

    def _select_points(self, max_count: int) -> _Samples:
        """Choose points: one half with the largest weighted gradients, the other half at random."""
        levels = np.divide(self.levels, 255, dtype=np.float32)
        weights = self._weights
        slope_y, slope_x = (slope.astype(np.float32) for slope in np.gradient(levels))
        chosen = np.flatnonzero(weights)
        if len(chosen) > max_count:
            half = max_count // 2
            weighted_gradients = (weights * (slope_y**2 + slope_x**2)).ravel()[chosen]
            order = np.argsort(-weighted_gradients, kind="stable")  # the largest first
            at_random = np.random.default_rng(0).permutation(order[half:])[: max_count - half]
            chosen = chosen[np.sort(np.concatenate([order[:half], at_random]))]
        y, x = (np.divmod(chosen, SIDE) + np.array(0.5 - HALF_SIDE)).astype(np.float32)  # from the middle
        by_y = slope_y.ravel()[chosen]
        by_x = slope_x.ravel()[chosen]
        level = levels.ravel()[chosen]
        # derivatives by x, y, angle and scale, as far as these are free, then by gain and offset; those by
        # angle and scale are divided by HALF_SIDE, as `_update_pose` expects
        derivatives = [by_x, by_y]
        if self.rotates:
            derivatives.append((by_y * x - by_x * y) / HALF_SIDE)
        if self.kind == "full":
            derivatives.append((by_x * x + by_y * y) / HALF_SIDE)
        derivatives += [level, np.ones_like(level)]
        positions = np.stack([x, y]).astype(np.float32)
        return _Samples(positions, level, weights.ravel()[chosen], np.stack(derivatives))

    def _fit_pose(self, square: Float32, pose: Pose, points: _Samples, rounds: int) -> Pose:
        """Refine a pose step by step until the picture is most like the reference.

        Args:
            square: [SIDE, SIDE], blurred small picture.
            pose: Pose to start from.
            points: Points of the reference that are compared.
            rounds: Largest number of steps.

        Returns:
            The pose with its error; infinite: the part differs too much from the reference.
        """
        jacobian = points.jacobian
        weights = points.weights
        root_weights = np.sqrt(points.weights)
        values = _bilinear(square, *_project(pose, points.positions))
        # gain and offset of the light first (the last two rows), then all parameters together
        weighted_light = jacobian[-2:] * weights
        gain, offset = _solve_damped(weighted_light @ jacobian[-2:].T, weighted_light @ values)
        for round_number in range(rounds + 1):
            # robust weights (Huber): points farther off than usual in this picture count less
            distances = np.abs(values - gain * points.levels - offset) * root_weights
            usual_distance = 2 * NORMAL_MAD * float(np.median(distances)) + 1e-6
            weighted_jacobian = jacobian * (weights / np.maximum(1, distances / usual_distance))
            *change, gain, offset = _solve_damped(weighted_jacobian @ jacobian.T, weighted_jacobian @ values)
            if not 1 / _MAX_FACTORS["gain"] < gain < _MAX_FACTORS["gain"]:
                return replace(pose, error=math.inf)
            if round_number == rounds or max(map(abs, change)) < 0.01 * gain:
                break
            # the solution is the change times the gain
            pose = self._update_pose(pose, [component / gain for component in change])
            values = _bilinear(square, *_project(pose, points.positions))
        is_inside = 0 <= pose.x <= SIDE and 0 <= pose.y <= SIDE
        has_scale = 1 / _MAX_FACTORS["scale"] < pose.scale < _MAX_FACTORS["scale"]
        if not is_inside or not has_scale:
            return replace(pose, error=math.inf)
        residuals = ((values - np.float32(offset)) / np.float32(gain) - points.levels) * root_weights
        mean_square = np.mean(np.minimum(residuals * residuals, _MAX_DISTANCE**2))
        return replace(pose, error=float(np.sqrt(mean_square)))

    def _update_pose(self, pose: Pose, change: list[float]) -> Pose:
        """Return the pose after a step of the refinement.

        The step is a change of the reference: the pose is changed by its inverse.

        Args:
            pose: The pose.
            change: Change of x and y, then of angle and scale, each times `HALF_SIDE`, as far as these are
                free. The change is limited to a small step.
        """
        x, y = (min(max(component, -2.0), 2.0) for component in change[:2])
        angle = min(max(change[2] / HALF_SIDE, -0.1), 0.1) if self.rotates else 0.0
        scale = 1 + min(max(change[-1] / HALF_SIDE, -0.05), 0.05) if self.kind == "full" else 1.0
        side = -1 if pose.mirrored else 1  # a mirrored part turns the other way
        moved = replace(pose, angle=pose.angle - side * angle, scale=pose.scale / scale)
        (xx, xy), (yx, yy) = moved.matrix().tolist()
        return replace(moved, x=pose.x - xx * x - xy * y, y=pose.y - yx * x - yy * y)

    # ---- files

    def to_dict(self) -> Json:
        """Convert to values for JSON, which `from_dict` reads."""
        pixels = zlib.compress(self.levels.tobytes() + self.spread.tobytes(), 9)
        return {
            "kind": self.kind,
            "extent": self.extent,
            "period": self.period,
            "errors": [error if math.isfinite(error) else None for error in self.errors],  # None: not found
            "pixels": base64.b64encode(pixels).decode(),
        }

    @classmethod
    def from_dict(cls, data: Facts) -> PoseReference:
        """Read values that `to_dict` returned.

        Raises:
            InputError: Values are missing or invalid.
        """
        try:
            unpacker = zlib.decompressobj()
            pixels = unpacker.decompress(base64.b64decode(data["pixels"], validate=True), 2 * SIDE * SIDE)
            levels, spread = np.frombuffer(pixels, np.uint8).reshape(2, SIDE, SIDE)
            errors = tuple(math.inf if error is None else float(error) for error in data["errors"])
            return cls(data["kind"], levels, spread, float(data["extent"]), int(data["period"]), errors)
        except (KeyError, TypeError, ValueError, OverflowError, zlib.error):
            raise InputError("the model's reference for poses is damaged: fit anew") from None


def reduced_size(size: tuple[int, int], longer: int = SIDE) -> tuple[int, int]:
    """Return the size (h, w) of the small picture of a picture; `longer` is its longer side."""
    height, width = (max(1, round(side * longer / max(size))) for side in size)
    return height, width


def align(picture: Float32, pose: Pose) -> tuple[Float32, Mask]:
    """Warp the part in a picture [h, w] to the reference's frame [SIDE, SIDE].

    Returns:
        The warped picture; and a mask of its pixels that lie in the picture.
    """
    y, x = np.mgrid[:SIDE, :SIDE] + np.float32(0.5 - HALF_SIDE)
    at_x, at_y = _project(pose, np.stack([x, y]).reshape(2, -1).astype(np.float32))
    inside = (at_x >= 0) & (at_x < picture.shape[1]) & (at_y >= 0) & (at_y < picture.shape[0])
    square = _pad_to_square(picture)  # `_bilinear` samples squares
    warped = _bilinear(square, at_x, at_y)
    return warped.reshape(SIDE, SIDE), inside.reshape(SIDE, SIDE)


def _pad_to_square(picture: Float32) -> Float32:
    """Pad a small picture to [SIDE, SIDE], edges repeated below or to the right, and blur it."""
    return blur(np.pad(picture, [(0, SIDE - side) for side in picture.shape], mode="edge"))


def blur(picture: Float32) -> Float32:
    """Blur a small picture, as the refinement of poses needs it."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(picture, _BLUR_SIGMA, truncate=3), np.float32)


def _downsample(image: NDArray[np.floating], size: int = _COARSE_SIDE) -> Float32:
    """Reduce an image [SIDE, SIDE] to [size, size] by the means of its blocks."""
    block = SIDE // size
    return np.asarray(image.reshape(size, block, size, block).mean((1, 3)), np.float32)


def _project(pose: Pose, places: Float32) -> tuple[Float32, Float32]:
    """Project points [2, N] of the reference into the small picture: x and y."""
    (xx, xy), (yx, yy) = pose.matrix().tolist()
    return xx * places[0] + xy * places[1] + pose.x, yx * places[0] + yy * places[1] + pose.y


def _bilinear(image: Float32, x: Float32, y: Float32) -> Float32:
    """Sample an image [SIDE, SIDE] at points [N], bilinear; edges are repeated."""
    last = np.float32(SIDE - 1.001)  # below SIDE - 1: each point has a right and a lower neighbour
    columns = np.clip(x - np.float32(0.5), 0, last)
    rows = np.clip(y - np.float32(0.5), 0, last)
    left = columns.astype(np.intp)
    top = rows.astype(np.intp)
    right_weights = columns - left.astype(np.float32)
    lower_weights = rows - top.astype(np.float32)
    flat = image.ravel()
    index = top * SIDE + left
    upper = flat[index] + (flat[index + 1] - flat[index]) * right_weights
    index += SIDE
    lower = flat[index] + (flat[index + 1] - flat[index]) * right_weights
    return np.asarray(upper + (lower - upper) * lower_weights, np.float32)


def _solve_damped(matrix: Array, right: Array) -> list[float]:
    """Solve a symmetric system with a little damping: the reference may leave a parameter undetermined."""
    damped = matrix.astype(np.float64)
    damped += np.diag(1e-6 * np.diag(damped) + 1e-12)
    return list(map(float, np.linalg.solve(damped, right.astype(np.float64))))
