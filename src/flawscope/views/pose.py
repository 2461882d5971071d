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
_COARSE_SIDE = SIDE // 2  # of the correlation
_ANGLE_STEP = 6  # degrees between two angles of it
# angles that are refined at most, and by how much less they may correlate
_MAX_CANDIDATES = 4
_MAX_GAP = 0.1
_BLUR_SIGMA = 1.0  # pixels
_MAX_POINTS = 2500  # of the reference that are compared, at the best angle
_MAX_FIRST_POINTS = 700  # points while the best angle is not known
_ITERATIONS = (4, 8)  # of the refinement, for every angle and for the best
_MAX_FACTORS = {"gain": 3.0, "scale": 1.25}  # a part differs from the reference by no larger factor
_MAX_DISTANCE = 3.0  # spreads: larger distances of a pixel are clipped
MAX_ERROR = 2.0  # spreads: farther from the good parts lies no part; broken ones lie within 1.5


@dataclass(frozen=True)
class Pose:
    """Pose of a part: a point q of the reference, from its middle, lies at centre + scale R(angle) F q.

    Attributes:
        x, y: The centre, in pixels of the small picture.
        angle: Angle of the rotation R, in radians.
        scale: Size against the reference.
        mirrored: Whether F turns x around before the part is turned.
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
    """Points of the reference, with what a step of the refinement needs.

    Attributes:
        positions: [2, N] from its middle.
        levels: [N].
        weights: [N].
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
        extent: From the middle to the edge of the square that shows the part, in pixels.
        period: Turns by a circle's share of 1 / period look the same; 0: every turn does.
        errors: Errors of good parts that the reference did not know, ascending.
    """

    kind: PoseKind
    levels: NDArray[np.uint8]
    spread: NDArray[np.uint8]
    extent: float
    period: int = 1
    errors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        arrays = all(a.shape == (SIDE, SIDE) and a.dtype == np.uint8 for a in (self.levels, self.spread))
        right = (
            arrays and self.kind in get_args(PoseKind) and 1 <= self.extent <= HALF_SIDE and self.period >= 0
        )
        if not right or not self.spread.any():
            raise InputError("the model's reference for poses is damaged: fit anew")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PoseReference) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.kind, self.extent, self.levels.tobytes()))

    def find(self, picture: Float32) -> Pose:
        """Find the part in a picture; the pose has an infinite error where there is none.

        Args:
            picture: [h, w] float32 in 0..1, the longer side `SIDE`.
        """
        square = _pad_to_square(picture)
        return self.refine(square, self._coarse_poses(square, picture))

    def refine(self, square: Float32, poses: Sequence[Pose]) -> Pose:
        """Refine poses in a blurred small picture [SIDE, SIDE], and return the nearest to the good parts.

        Its error is infinite where there is no part.
        """
        few, many = self._points
        fitted = [self._fit_pose(square, start, few, _ITERATIONS[0]) for start in poses]
        pose = min(fitted, key=lambda fit: fit.error)
        if pose.found:
            pose = self._fit_pose(square, pose, many, _ITERATIONS[1])
        return pose if pose.error <= MAX_ERROR else replace(pose, error=math.inf)

    def p_value(self, error: float) -> float:
        """Return the share of good parts that are as far from the reference; 1 where nothing is known."""
        n = len(self.errors)
        return (1 + sum(known_error >= error for known_error in self.errors)) / (1 + n) if n else 1.0

    def geometry(
        self, pose: Pose, picture_size: tuple[int, int], size: tuple[int, int], side: int = SIDE
    ) -> Geometry:
        """Return the place in a picture of a view that shows the part as the reference does.

        The view shows the part's surroundings, too. Where no part was found it shows the whole picture,
        upright.

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
        grow = np.array(picture_size) / small
        # from the view, (y, x), to the small picture, to the picture
        linear = grow[:, None] * pose.matrix()[::-1, ::-1] * (2 * extent / min(size))
        y, x = map(float, grow * (pose.y, pose.x) - linear @ (size[0] / 2, size[1] / 2))
        length = math.sqrt(abs(float(np.linalg.det(linear))))
        yy, yx, xy, xx = map(float, linear.ravel())
        return Geometry(size, picture_size, (length, length), (y, x), (yy, yx, xy, xx)).inverse()

    def describe(self) -> str:
        """Return a sentence on the poses, the errors of good parts, and how many were not found."""
        looks = f"turns by 1/{self.period} look" if self.period else "every angle looks"
        same = "" if self.period == 1 else f"; {looks} the same"
        known = [error for error in self.errors if math.isfinite(error)]
        far = f"at most {max(known):.2f} spreads off, {MAX_ERROR:g} allowed" if known else "all lost"
        text = f"parts aligned ({self.kind}{same}): {len(known)} good ones found, {far}, "
        text += f"{len(self.errors) - len(known)} not found"
        return text + (
            f"; expected of at most {self.p_value(MAX_ERROR):.1%} of new good ones" if self.errors else ""
        )

    def part_image(self) -> NDArray[np.uint8]:
        """The part and the square around it that is inspected, [S, S] uint8, 255 is white."""
        edges = slice(math.floor(HALF_SIDE - self.extent), math.ceil(HALF_SIDE + self.extent))
        return self.levels[edges, edges]

    @property
    def rotates(self) -> bool:
        """Whether the angle is looked for."""
        return self.kind != "shift" and self.period != 0

    # ---- coarse

    @cached_property
    def _angles(self) -> NDArray[np.float64]:
        if not self.rotates:
            return np.zeros(1)
        count = max(1, round(360 / self.period / _ANGLE_STEP))
        angles = (np.arange(count) - count // 2) * (2 * math.pi / self.period / count)
        return np.asarray(angles, np.float64)

    def kernels(self, size: int) -> list[tuple[Pose, Float32, Float32]]:
        """Return the normalized reference and its weights [size, size], turned by every few degrees.

        Where parts may be mirrored, both sides are there. Pixel i shows the reference at i - size / 2 from
        its middle, in steps of SIDE / size.
        """
        weights = self._weights
        levels = np.divide(self.levels, 255, dtype=np.float32)
        coarse = _downsample(weights, size)
        middle = size / 2
        shown = np.asarray(_downsample(weights * levels, size) / np.maximum(coarse, 1e-9), np.float32)
        images = [Image.fromarray(coarse), Image.fromarray(shown)]
        found = []
        for side in (1, -1) if self.kind == "full" else (1,):
            for angle in self._angles:
                cos, sin = math.cos(angle), math.sin(angle)
                (xx, xy), (yx, yy) = (side * cos, side * sin), (-sin, cos)
                x, y = (middle - (a + b) * (middle + 0.5) for a, b in ((xx, xy), (yx, yy)))
                affine = xx, xy, x, yx, yy, y
                turned = (image.transform(image.size, _AFFINE, affine, _BILINEAR) for image in images)
                weight, level = (np.asarray(kernel, np.float64) for kernel in turned)
                weight = weight / max(weight.sum(), 1e-9)
                level = level - (weight * level).sum()
                part = weight * level / math.sqrt(max((weight * level**2).sum(), 1e-12))
                pose = Pose(0.0, 0.0, float(angle), 1.0, side < 0)
                found.append((pose, np.asarray(part, np.float32), np.asarray(weight, np.float32)))
        return found

    @cached_property
    def _spectra(self) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
        """Spectra [A, C, C / 2 + 1] of the normalized reference and of its weights, by angle and side."""
        from scipy import fft

        def spectra(kernels: Sequence[Float32]) -> NDArray[np.complex64]:
            stack = np.fft.ifftshift(np.array(kernels, np.float32), axes=(1, 2))
            return np.asarray(np.conj(fft.rfft2(stack)), np.complex64)

        _, parts, wholes = zip(*self.kernels(_COARSE_SIDE), strict=True)
        return spectra([*parts]), spectra([*wholes])

    def _coarse_poses(self, square: Float32, picture: Float32) -> list[Pose]:
        """Return poses to refine: of the best angles, the places where the correlation is largest."""
        from scipy import fft

        image = _downsample(square)
        image -= image.mean()
        parts, wholes = self._spectra

        def correlated(kernels: NDArray[np.complex64], values: Float32) -> Float32:
            return np.asarray(fft.irfft2(kernels * fft.rfft2(values), s=image.shape), np.float32)

        found = correlated(parts, image)
        # divided by the standard deviation of the image below the part, in place: the arrays are large
        mean = correlated(wholes, image)
        variance = correlated(wholes, image**2)
        mean *= mean
        variance -= mean
        np.maximum(variance, 1e-4, out=variance)
        found /= np.sqrt(variance, out=variance)
        seen = found[:, : math.ceil(picture.shape[0] / 2), : math.ceil(picture.shape[1] / 2)]
        flat = seen.reshape(len(seen), -1)
        places = flat.argmax(1)
        count = len(self._angles)
        poses = []
        for mirrored in range(len(flat) // count):
            rows = np.arange(count) + mirrored * count
            peaks = flat[rows, places[rows]]
            left, right = np.roll(peaks, 1), np.roll(peaks, -1)
            for i in np.flatnonzero((peaks >= left) & (peaks >= right)):
                bend = left[i] - 2 * peaks[i] + right[i]
                off = 0.5 * (left[i] - right[i]) / bend if bend < 0 and count > 1 else 0.0
                y, x = divmod(int(places[rows[i]]), seen.shape[2])
                angle = float(self._angles[i] + off * (self._angles[1] - self._angles[0] if count > 1 else 0))
                poses.append((float(peaks[i]), Pose(2.0 * x, 2.0 * y, angle, 1.0, bool(mirrored))))
        poses.sort(key=lambda candidate: -candidate[0])
        return [pose for peak, pose in poses[:_MAX_CANDIDATES] if peak > poses[0][0] - _MAX_GAP]

    # ---- fine

    @cached_property
    def _weights(self) -> Float32:
        spread = np.divide(self.spread, SPREAD_SCALE, dtype=np.float32)
        return np.where(self.spread > 0, 1 / np.maximum(spread, 1e-3) ** 2, 0).astype(np.float32)

    @cached_property
    def _points(self) -> tuple[_Samples, _Samples]:
        return self._select_points(_MAX_FIRST_POINTS), self._select_points(_MAX_POINTS)

    def _select_points(self, most: int) -> _Samples:
        """Choose points: half of them those with the largest weighted gradients, the others at random."""
        levels = np.divide(self.levels, 255, dtype=np.float32)
        weights = self._weights
        down, across = (slope.astype(np.float32) for slope in np.gradient(levels))
        counted = np.flatnonzero(weights)
        if len(counted) > most:
            order = np.argsort(-(weights * (down**2 + across**2)).ravel()[counted], kind="stable")
            others = np.random.default_rng(0).permutation(order[most // 2 :])[: most - most // 2]
            counted = counted[np.sort(np.concatenate([order[: most // 2], others]))]
        y, x = (np.divmod(counted, SIDE) + np.array(0.5 - HALF_SIDE)).astype(np.float32)
        down = down.ravel()[counted]
        across = across.ravel()[counted]
        level = levels.ravel()[counted]
        slopes = [across, down]
        slopes += [(down * x - across * y) / HALF_SIDE] if self.rotates else []
        slopes += [(across * x + down * y) / HALF_SIDE] if self.kind == "full" else []
        slopes += [level, np.ones_like(level)]
        places = np.stack([x, y]).astype(np.float32)
        return _Samples(places, level, weights.ravel()[counted], np.stack(slopes))

    def _fit_pose(self, square: Float32, pose: Pose, points: _Samples, rounds: int) -> Pose:
        """Return the pose nearby at which the picture is most like the reference, with its error."""
        slopes = points.jacobian
        weights = points.weights
        roots = np.sqrt(points.weights)
        seen = _bilinear(square, *_project(pose, points.positions))
        light = slopes[-2:] * weights
        gain, offset = _solve_damped(light @ slopes[-2:].T, light @ seen)
        for turn in range(rounds + 1):
            # Huber's weights, by the usual distance in this picture
            far = np.abs(seen - gain * points.levels - offset) * roots
            usual = 2 * 1.4826 * float(np.median(far)) + 1e-6
            weighted = slopes * (weights / np.maximum(1, far / usual))
            *change, gain, offset = _solve_damped(weighted @ slopes.T, weighted @ seen)
            if not 1 / _MAX_FACTORS["gain"] < gain < _MAX_FACTORS["gain"]:
                return replace(pose, error=math.inf)
            if turn == rounds or max(map(abs, change)) < 0.01 * gain:
                break
            pose = self._update_pose(pose, [part / gain for part in change])
            seen = _bilinear(square, *_project(pose, points.positions))
        inside = 0 <= pose.x <= SIDE and 0 <= pose.y <= SIDE
        if not inside or not 1 / _MAX_FACTORS["scale"] < pose.scale < _MAX_FACTORS["scale"]:
            return replace(pose, error=math.inf)
        away = ((seen - np.float32(offset)) / np.float32(gain) - points.levels) * roots
        return replace(pose, error=float(np.sqrt(np.mean(np.minimum(away * away, _MAX_DISTANCE**2)))))

    def _update_pose(self, pose: Pose, change: list[float]) -> Pose:
        """The pose after the inverse of a change of the reference: x, y, then angle and scale if free."""
        x, y = (min(max(part, -2.0), 2.0) for part in change[:2])
        angle = min(max(change[2] / HALF_SIDE, -0.1), 0.1) if self.rotates else 0.0
        scale = 1 + min(max(change[-1] / HALF_SIDE, -0.05), 0.05) if self.kind == "full" else 1.0
        side = -1 if pose.mirrored else 1
        moved = replace(pose, angle=pose.angle - side * angle, scale=pose.scale / scale)
        (xx, xy), (yx, yy) = moved.matrix().tolist()
        return replace(moved, x=pose.x - xx * x - xy * y, y=pose.y - yx * x - yy * y)

    # ---- files

    def to_dict(self) -> Json:
        """Return values that JSON knows, for `from_dict`."""
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
        """Read what `to_dict` returned. InputError where it is damaged."""
        try:
            unpacker = zlib.decompressobj()
            pixels = unpacker.decompress(base64.b64decode(data["pixels"], validate=True), 2 * SIDE * SIDE)
            levels, spread = np.frombuffer(pixels, np.uint8).reshape(2, SIDE, SIDE)
            errors = tuple(math.inf if error is None else float(error) for error in data["errors"])
            return cls(data["kind"], levels, spread, float(data["extent"]), int(data["period"]), errors)
        except (KeyError, TypeError, ValueError, OverflowError, zlib.error):
            raise InputError("the model's reference for poses is damaged: fit anew") from None


def reduced_size(size: tuple[int, int], longer: int = SIDE) -> tuple[int, int]:
    """Size (h, w) of the small picture of one of (H, W) pixels."""
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
    return _bilinear(_pad_to_square(picture), at_x, at_y).reshape(SIDE, SIDE), inside.reshape(SIDE, SIDE)


def _pad_to_square(picture: Float32) -> Float32:
    """Pad a small picture to [SIDE, SIDE], edges repeated below or to the right, and blur it."""
    return blur(np.pad(picture, [(0, SIDE - side) for side in picture.shape], mode="edge"))


def blur(picture: Float32) -> Float32:
    """Blur a small picture as refining poses takes it."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(picture, _BLUR_SIGMA, truncate=3), np.float32)


def _downsample(image: NDArray[np.floating], size: int = _COARSE_SIDE) -> Float32:
    by = SIDE // size
    return np.asarray(image.reshape(size, by, size, by).mean((1, 3)), np.float32)


def _project(pose: Pose, places: Float32) -> tuple[Float32, Float32]:
    """Project points [2, N] of the reference into the small picture: x and y."""
    (xx, xy), (yx, yy) = pose.matrix().tolist()
    return xx * places[0] + xy * places[1] + pose.x, yx * places[0] + yy * places[1] + pose.y


def _bilinear(image: Float32, x: Float32, y: Float32) -> Float32:
    """Sample an image [SIDE, SIDE] at points [N], bilinear; edges are repeated."""
    x, y = (np.clip(at - np.float32(0.5), 0, np.float32(SIDE - 1.001)) for at in (x, y))
    left, top = x.astype(np.intp), y.astype(np.intp)
    x, y = x - left.astype(np.float32), y - top.astype(np.float32)
    flat = image.ravel()
    first = top * SIDE + left
    upper = flat[first] + (flat[first + 1] - flat[first]) * x
    first += SIDE
    lower = flat[first] + (flat[first + 1] - flat[first]) * x
    return np.asarray(upper + (lower - upper) * y, np.float32)


def _solve_damped(matrix: Array, right: Array) -> list[float]:
    """Solve a symmetric system, a little damped: a reference may not determine every parameter."""
    whole = matrix.astype(np.float64)
    whole += np.diag(1e-6 * np.diag(whole) + 1e-12)
    return list(map(float, np.linalg.solve(whole, right.astype(np.float64))))
