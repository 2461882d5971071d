"""Undistorts pictures by a lens's coefficients, Brown-Conrady as OpenCV has it. Torch-free.

Model files of format 5 may hold coefficients, and their pictures have to be seen as they were learnt. No fit
makes such a model any more: a camera's SDK or OpenCV straighten pictures before they are written.

A pixel (u, v) of the undistorted picture, with x = (u - cx) / fx, y = (v - cy) / fy and r² = x² + y², shows
the picture as taken at u' = fx x' + cx, v' = fy y' + cy, where

    x' = x (1 + k1 r² + k2 r⁴ + k3 r⁶) + 2 p1 x y + p2 (r² + 2 x²)
    y' = y (1 + k1 r² + k2 r⁴ + k3 r⁶) + p1 (r² + 2 y²) + 2 p2 x y

Middles of pixels are whole numbers in u and v. Parts, the squares around them and frames are of the
undistorted picture. Regions of interest, seen defects, maps and regions are of the picture as taken: a person
draws on that one, and masks and overlays lie on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.arrays import picture_error
from flawscope.types import Array, Facts, Json
from flawscope.views.geometry import Geometry
from flawscope.views.resampling import Raster, picture_size

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
_ROUNDS = 30  # of the fixed-point iteration that inverts the distortion
_BLOCK = 1 << 18  # pixels that are sampled together


@dataclass(frozen=True)
class Undistortion:
    """Camera matrix and coefficients of a lens.

    Attributes:
        width: Width of the pictures that it was calibrated on, in pixels; 0: unknown, and taken for any
            picture's.
        height: Height of those pictures, in pixels; 0: unknown, and taken for any picture's.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0
    width: int = 0
    height: int = 0

    def __post_init__(self) -> None:
        values = [getattr(self, field.name) for field in fields(self)]
        if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise InputError("the lens has values that are no numbers: fx, fy, cx, cy, k1, k2, p1, p2, k3")
        if min(self.fx, self.fy) <= 0:
            raise InputError(f"the lens has focal lengths {self.fx:g} and {self.fy:g}; they are above 0")

    def to_dict(self) -> Json:
        """Convert to values for JSON, which `from_dict` reads."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: Facts) -> Undistortion:
        """Read values that `to_dict` returned.

        Raises:
            InputError: Values are missing, or there are unknown ones.
        """
        try:
            return cls(**data)
        except TypeError:
            names = ", ".join(field.name for field in fields(cls))
            raise InputError(f"the lens is described by {names}, and nothing else") from None

    @property
    def _changes_nothing(self) -> bool:
        return not (self.k1 or self.k2 or self.p1 or self.p2 or self.k3)

    def __call__(self, picture: Raster, divisor: float, name: str = "a picture") -> Raster:
        """Undistort a picture of any depth; edges are repeated.

        Args:
            picture: The picture.
            divisor: Value that is white; it has no effect here.
            name: Name for errors.

        Raises:
            InputError: The picture has another size than those that the lens was calibrated on.
        """
        height, width = picture_size(picture)
        is_size_known = bool(self.width)
        if is_size_known and (width, height) != (self.width, self.height):
            raise picture_error(
                name,
                f"it has {width} x {height} pixels, and those of the lens {self.width} x {self.height}",
                "give pictures of that size, or calibrate at theirs",
            )
        if self._changes_nothing:
            return picture
        values = np.asarray(picture)
        places = _places_as_taken(self, (height, width))
        is_grey = values.ndim == 3 and values.strides[2] == 0  # stride 0: one channel, repeated as three
        if is_grey:
            grey = _sample(values[..., 0], *places)
            return np.broadcast_to(grey[..., None], values.shape)
        sampled = _sample(values, *places)
        return Image.fromarray(sampled) if isinstance(picture, Image.Image) else sampled

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Undistort a mask [H, W] of a picture as taken."""
        size = (mask.shape[0], mask.shape[1])
        if self._changes_nothing:
            return mask
        return np.asarray(_sample(mask.astype(np.float32), *_places_as_taken(self, size)) > 0.5)

    def restored(self, drawn: Array, placed: Geometry, fill: float | None = None) -> tuple[Array, Geometry]:
        """Transform a map of the undistorted picture into a map of the picture as taken.

        Args:
            drawn: Map of the undistorted picture.
            placed: Place of that map in the undistorted picture.
            fill: Value of pixels outside that map; None: its median.

        Returns:
            The transformed map, and its place in the picture as taken.
        """
        if self._changes_nothing:
            return drawn, placed
        picture_height, picture_width = placed.picture_size
        scale_y, scale_x = placed.scale
        # the result is no finer than the picture
        height = max(1, round(picture_height * min(1.0, scale_y)))
        width = max(1, round(picture_width * min(1.0, scale_x)))
        scale = height / picture_height, width / picture_width
        # Places of the result's pixels: (rows, columns) in the picture as taken, (v, u) in the undistorted
        # picture, and (y, x) in the map of that picture. In (v, u) the middles of pixels are whole numbers,
        # in the others they end in .5.
        rows = (np.arange(height) + 0.5) / scale[0]
        columns = (np.arange(width) + 0.5) / scale[1]
        v, u = self._undistorted(*np.meshgrid(rows - 0.5, columns - 0.5, indexing="ij"))
        yy, yx, xy, xx = placed.matrix or (scale_y, 0.0, 0.0, scale_x)
        y = yy * (v + 0.5) + yx * (u + 0.5) + placed.offset[0]
        x = xy * (v + 0.5) + xx * (u + 0.5) + placed.offset[1]
        is_inside = (y >= 0) & (y < drawn.shape[0]) & (x >= 0) & (x < drawn.shape[1])
        outside = np.median(drawn) if fill is None else fill
        values = np.where(is_inside, _sample(drawn, y - 0.5, x - 0.5), outside)
        geometry = Geometry(placed.picture_size, (height, width), scale, offset=(0.0, 0.0))
        return values.astype(drawn.dtype), geometry

    def as_taken(self, v: NDArray[np.float64], u: NDArray[np.float64]) -> Points:
        """Transform points (v, u) of the undistorted picture to places (v, u) in the picture as taken."""
        y = (v - self.cy) / self.fy
        x = (u - self.cx) / self.fx
        radial, dy, dx = self._distortion(y, x)
        return self.fy * (y * radial + dy) + self.cy, self.fx * (x * radial + dx) + self.cx

    def _undistorted(self, v: NDArray[np.float64], u: NDArray[np.float64]) -> Points:
        """Transform places (v, u) in the picture as taken to points (v, u) of the undistorted picture.

        A fixed-point iteration inverts `as_taken`.
        """
        distorted_y = (v - self.cy) / self.fy
        distorted_x = (u - self.cx) / self.fx
        y, x = distorted_y, distorted_x
        for _ in range(_ROUNDS):
            radial, dy, dx = self._distortion(y, x)
            y = (distorted_y - dy) / radial
            x = (distorted_x - dx) / radial
        return self.fy * y + self.cy, self.fx * x + self.cx

    def _distortion(
        self, y: NDArray[np.float64], x: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the radial factor, and the tangential shifts along y and x."""
        r2 = x * x + y * y
        radial = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        dy = self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y
        dx = 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x)
        return radial, dy, dx


@lru_cache(maxsize=2)  # 8 bytes a pixel each
def _places_as_taken(
    lens: Undistortion, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return row and column, in the picture as taken, of each pixel of the undistorted picture (H, W)."""
    rows, columns = (np.arange(length, dtype=np.float64) for length in size)
    v, u = lens.as_taken(*np.meshgrid(rows, columns, indexing="ij"))
    return v.astype(np.float32), u.astype(np.float32)


def _sample(values: Array, rows: Array, columns: Array) -> Array:
    """Return values interpolated bilinearly at places, with repeated edges, in the type of the values.

    Args:
        values: [H, W] or [H, W, C].
        rows: [h, w], rows of the places.
        columns: [h, w], columns of the places.
    """
    sampled = np.empty((*rows.shape, *values.shape[2:]), values.dtype)
    last_row = values.shape[0] - 1
    last_column = values.shape[1] - 1
    step = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        y = np.clip(rows[block], 0, last_row)
        x = np.clip(columns[block], 0, last_column)
        top = y.astype(np.intp)
        left = x.astype(np.intp)
        bottom = np.minimum(top + 1, last_row)
        right = np.minimum(left + 1, last_column)
        lower_weights = (y - top).astype(np.float32)
        right_weights = (x - left).astype(np.float32)
        if values.ndim == 3:
            lower_weights = lower_weights[..., None]
            right_weights = right_weights[..., None]
        upper = values[top, left] * (1 - right_weights) + values[top, right] * right_weights
        lower = values[bottom, left] * (1 - right_weights) + values[bottom, right] * right_weights
        mixed = upper * (1 - lower_weights) + lower * lower_weights
        is_integer = values.dtype.kind in "iu"
        sampled[block] = np.rint(mixed) if is_integer else mixed
    return sampled
