"""Maps coordinates between the picture and a network's view of it. Torch-free.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5. Sizes are (height, width).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.pictures.form import positive_length
from flawscope.types import Array, Facts, Json

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
BLOCK_PIXELS = 1 << 18  # pixels that are warped together, so that they stay in the cache


@dataclass(frozen=True)
class Geometry:
    """Place of the network's view in the picture: network = picture * scale + offset, per axis (y, x).

    For a turned view, network = matrix @ picture + offset.

    Attributes:
        picture_size: (H, W) of the upright picture, in pixels.
        size: (H, W) of the network's input and of its map.
        scale: Length in the network of a pixel of the picture, along y and x; also of a turned view.
        offset: Place (y, x) in the network of the picture's upper left corner.
        matrix: (yy, yx, xy, xx) of a turned view; None: it is upright.
        mm_per_pixel: Length of a pixel of the picture in millimetres; None: not known.
        corrected: Place in the corrected picture, for a map that was brought back to the picture as taken;
            None for other maps. Not stored in files.
    """

    picture_size: tuple[int, int]
    size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]
    matrix: tuple[float, float, float, float] | None = None
    mm_per_pixel: float | None = None
    corrected: Geometry | None = None

    def to_picture(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Transform a box (x0, y0, x1, y1) in the network's view to the picture, clipped to the picture.

        For a turned view the result is the upright box around the turned box.
        """
        if self.matrix is not None:
            x0, y0, x1, y1 = self.inverse().to_network(box)  # the inverse maps from the view to the picture
        else:
            (scale_y, scale_x), (offset_y, offset_x) = self.scale, self.offset
            x0, y0, x1, y1 = box
            x0 = (x0 - offset_x) / scale_x
            y0 = (y0 - offset_y) / scale_y
            x1 = (x1 - offset_x) / scale_x
            y1 = (y1 - offset_y) / scale_y
        height, width = self.picture_size
        return _clip(x0, width), _clip(y0, height), _clip(x1, width), _clip(y1, height)

    def box_around(
        self, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> tuple[float, float, float, float]:
        """Return the box (x0, y0, x1, y1) in the picture around pixels of the view, clipped to the picture.

        Args:
            rows: [N], the pixels' rows.
            columns: [N], the pixels' columns.
        """
        if self.matrix is None:
            return self.to_picture((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        inverse = self.inverse()  # maps from the view to the picture
        height, width = self.picture_size
        y, x = inverse._to_view(rows + 0.5, columns + 0.5)
        # half sizes of a turned pixel: yy + yx along y, xy + xx along x
        (yy, yx), (xy, xx) = np.abs(inverse._linear) / 2
        x0 = _clip(x.min() - xy - xx, width)
        y0 = _clip(y.min() - yy - yx, height)
        x1 = _clip(x.max() + xy + xx, width)
        y1 = _clip(y.max() + yy + yx, height)
        return x0, y0, x1, y1

    def to_network(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Transform a box (x0, y0, x1, y1) in the picture to the network's view, not clipped.

        For a turned view the result is the upright box around the turned box.
        """
        x0, y0, x1, y1 = box
        if self.matrix is not None:
            corners_y = np.array([y0, y0, y1, y1])
            corners_x = np.array([x0, x1, x0, x1])
            y, x = self._to_view(corners_y, corners_x)
            return float(x.min()), float(y.min()), float(x.max()), float(y.max())
        (scale_y, scale_x), (offset_y, offset_x) = self.scale, self.offset
        return (
            x0 * scale_x + offset_x,
            y0 * scale_y + offset_y,
            x1 * scale_x + offset_x,
            y1 * scale_y + offset_y,
        )

    def locate(
        self, y: NDArray[np.float64], x: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Transform points (y, x) of the picture to the network's view, not clipped; return their y and x."""
        if self.matrix is not None:
            return self._to_view(y, x)
        return y * self.scale[0] + self.offset[0], x * self.scale[1] + self.offset[1]

    def with_picture_size(self, picture_size: tuple[int, int]) -> Geometry:
        """Return the geometry of the same view after the picture is scaled to this size (H, W)."""
        scale_y, scale_x = self.scale
        height, width = self.picture_size
        new_height, new_width = picture_size
        scale = (scale_y * height / new_height, scale_x * width / new_width)
        matrix = self.matrix
        if matrix is not None:
            yy, yx, xy, xx = matrix
            y_factor = height / new_height
            x_factor = width / new_width
            matrix = (yy * y_factor, yx * x_factor, xy * y_factor, xx * x_factor)
        return Geometry(picture_size, self.size, scale, self.offset, matrix)

    def window(self, top: int, left: int, height: int, width: int) -> Geometry:
        """Return the geometry of the same view after the picture is cropped to this window."""
        scale_y, scale_x = self.scale
        yy, yx, xy, xx = self.matrix or (scale_y, 0.0, 0.0, scale_x)
        offset_y, offset_x = self.offset
        window_offset = offset_y + top * yy + left * yx, offset_x + top * xy + left * xx
        return replace(self, picture_size=(height, width), offset=window_offset)

    def nearest_indices(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the view's row for each row of the picture, and the view's column for each column.

        The view must show the whole picture.
        """
        _, rows = self._nearest(0)
        _, columns = self._nearest(1)
        return rows, columns

    def visible_mask(self) -> Mask:
        """Return the mask [H, W] of the view's pixels whose centre shows the picture, not a letterbox."""
        inverse = self.inverse()
        if self.matrix is not None:
            return inverse._visible_in_view()
        rows, _ = inverse._centres(0)
        columns, _ = inverse._centres(1)
        visible = np.zeros(self.size, np.bool_)
        visible[rows, columns] = True
        return visible

    def warp(self, values: NDArray[np.floating], fill: float = math.nan) -> Float32:
        """Warp a map [H, W] at network size to the picture [Hp, Wp] float32, bilinear between pixel centres.

        Args:
            values: The map.
            fill: Value of the picture's pixels whose centre lies outside the network's view.
        """
        map_values = self._check_shape(np.asarray(values, dtype=np.float32), self.size)
        if self.matrix is not None:
            warped_values = self._affine_warp(map_values, order=1)
            return np.where(self._visible_in_view(), warped_values, np.float32(fill))
        rows, y0, y1, y_weights = self._bilinear(0)
        columns, x0, x1, x_weights = self._bilinear(1)
        warped = np.full(self.picture_size, fill, dtype=np.float32)
        visible_part = warped[rows, columns]  # a slice: writing into it changes `warped`
        step = max(1, BLOCK_PIXELS // max(1, visible_part.shape[1]))
        for start in range(0, visible_part.shape[0], step):
            block = slice(start, start + step)
            upper = map_values[y0[block]]  # [rows, W]
            mixed_rows = upper + (map_values[y1[block]] - upper) * y_weights[block, None]
            left = np.take(mixed_rows, x0, axis=1)  # [rows, columns]
            # left + (right - left) * weight, in place
            right = np.take(mixed_rows, x1, axis=1)
            right -= left
            right *= x_weights
            np.add(left, right, out=visible_part[block])
        return warped

    def warp_mask(self, mask: Mask) -> Mask:
        """Warp a mask [H, W] at network size to the picture [Hp, Wp], nearest; False outside the view."""
        return self.warp_labels(mask)

    def warp_labels(self, labels: Array) -> Array:
        """Warp whole numbers [H, W] at network size to the picture [Hp, Wp], nearest; 0 outside the view."""
        self._check_shape(labels, self.size)
        if self.matrix is not None:
            warped = self._affine_warp(labels.astype(np.float32), order=0).astype(labels.dtype)
            return np.where(self._visible_in_view(), warped, labels.dtype.type(0))
        warped = np.zeros(self.picture_size, dtype=labels.dtype)
        rows, map_rows = self._nearest(0)
        columns, map_columns = self._nearest(1)
        warped[rows, columns] = labels[map_rows][:, map_columns]
        return warped

    def mask_to_network(self, mask: Mask) -> Mask:
        """Warp a mask [Hp, Wp] of the picture to network size [H, W], nearest; False on a letterbox."""
        self._check_shape(mask, self.picture_size)
        return self.inverse().warp_mask(mask)

    def inverse(self) -> Geometry:
        """Return the geometry of the opposite direction: picture and view are exchanged."""
        scale_y, scale_x = self.scale
        offset_y, offset_x = self.offset
        scale = (1 / scale_y, 1 / scale_x)
        if self.matrix is None:
            offset = (-offset_y / scale_y, -offset_x / scale_x)
            return Geometry(self.size, self.picture_size, scale, offset)
        matrix = np.linalg.inv(self._linear)
        y, x = map(float, -matrix @ self.offset)
        yy, yx, xy, xx = map(float, matrix.ravel())
        return Geometry(self.size, self.picture_size, scale, offset=(y, x), matrix=(yy, yx, xy, xx))

    def to_dict(self) -> Json:
        """Convert to values for JSON, which `from_dict` reads."""
        values: Json = {}
        for name in _STORED_FIELDS:
            value = getattr(self, name)
            if value is not None:
                values[name] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_dict(cls, data: Facts) -> Geometry:
        """Read values that `to_dict` returned.

        Raises:
            InputError: Entries are unknown, missing or invalid.
        """
        try:
            picture_height, picture_width = data["picture_size"]
            height, width = data["size"]
            scale_y, scale_x = data["scale"]
            offset_y, offset_x = data["offset"]
            matrix = data.get("matrix")
            mm_per_pixel = data.get("mm_per_pixel")
            geometry = cls(
                picture_size=(positive_integer(picture_height), positive_integer(picture_width)),
                size=(positive_integer(height), positive_integer(width)),
                scale=(float(scale_y), float(scale_x)),
                offset=(float(offset_y), float(offset_x)),
                matrix=None if matrix is None else _parse_matrix(matrix),
                mm_per_pixel=None if mm_per_pixel is None else positive_length(mm_per_pixel),
            )
            unknown_entries = set(data) - set(_STORED_FIELDS)
            if unknown_entries or min(geometry.scale) <= 0:
                raise ValueError
            numbers = geometry.scale + geometry.offset + (geometry.matrix or ())
            if not all(map(math.isfinite, numbers)):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"not a geometry: {data!r}; expected picture_size, size, scale, offset"
            ) from None
        return geometry

    @property
    def _linear(self) -> NDArray[np.float64]:
        """Matrix [2, 2] of a turned view, for (y, x)."""
        return np.array(self.matrix).reshape(2, 2)

    def _to_view(self, y: Array, x: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Transform points (y, x) of the picture to a turned view; return their y and x."""
        (yy, yx), (xy, xx) = self._linear
        return yy * y + yx * x + self.offset[0], xy * y + xx * x + self.offset[1]

    def _visible_in_view(self) -> Mask:
        """Return the mask [Hp, Wp] of the picture's pixels whose centre a turned view shows."""
        picture_height, picture_width = self.picture_size
        centres_y = np.arange(picture_height) + 0.5
        centres_x = np.arange(picture_width) + 0.5
        y, x = self._to_view(centres_y[:, None], centres_x[None])
        visible: Mask = (y >= 0) & (y < self.size[0]) & (x >= 0) & (x < self.size[1])
        return visible

    def _affine_warp(self, values: Float32, order: int) -> Float32:
        """Warp values [H, W] of a turned view to the picture; edges are repeated.

        Args:
            values: The values.
            order: Order of the interpolation, 0: nearest, 1: bilinear.
        """
        from scipy import ndimage

        # scipy's coordinates begin at the middle of the first pixel, which is 0.5 in ours
        start = np.array(self._to_view(np.array(0.5), np.array(0.5))) - 0.5
        size = self.picture_size
        warped = ndimage.affine_transform(values, self._linear, start, size, order=order, mode="nearest")
        return np.asarray(warped, np.float32)

    def _centres(self, axis: int) -> tuple[slice, NDArray[np.float64]]:
        """Return which of the picture's rows or columns the network sees, and their centres in its pixels.

        Args:
            axis: 0: rows; 1: columns.
        """
        picture_centres = np.arange(self.picture_size[axis], dtype=np.float64) + 0.5
        centres = picture_centres * self.scale[axis] + self.offset[axis]
        start, stop = np.searchsorted(centres, (0.0, float(self.size[axis])))
        return slice(int(start), int(stop)), centres[start:stop]

    def _nearest(self, axis: int) -> tuple[slice, NDArray[np.intp]]:
        """Return which of the picture's rows or columns the network sees, and the view's pixel of each."""
        pixels, centres = self._centres(axis)
        return pixels, centres.astype(np.intp)  # rounded down: 0 <= centre < size

    def _bilinear(self, axis: int) -> tuple[slice, NDArray[np.intp], NDArray[np.intp], Float32]:
        """Return which of the picture's rows or columns the network sees, and their interpolation.

        Returns:
            The rows or columns; for each the lower and the upper neighbour in the network's map, edges
            repeated; and the upper neighbour's weight.
        """
        pixels, centres = self._centres(axis)
        last = self.size[axis] - 1
        position = np.clip(centres - 0.5, 0, last)  # pixel i of the view has its centre at i + 0.5
        lower = position.astype(np.intp)
        upper = np.minimum(lower + 1, last)
        upper_weights = (position - lower).astype(np.float32)
        return pixels, lower, upper, upper_weights

    @staticmethod
    def _check_shape(array: Array, size: tuple[int, int]) -> Array:
        if array.shape != size:
            raise InputError(f"array of shape {list(array.shape)} given; expected {list(size)}")
        return array


_STORED_FIELDS = [field.name for field in fields(Geometry) if field.name != "corrected"]


def _clip(place: float, length: int) -> float:
    """Return the place, moved into 0..length."""
    return min(max(float(place), 0.0), float(length))


def _parse_matrix(values: Iterable[float | str]) -> tuple[float, float, float, float]:
    """Read the four numbers of a matrix; raise ValueError where the matrix cannot be inverted."""
    yy, yx, xy, xx = map(float, values)
    if not yy * xx - yx * xy:
        raise ValueError(values)
    return yy, yx, xy, xx


def positive_integer(value: object) -> int:
    """Return an integer of at least 1.

    Raises:
        TypeError, ValueError: The value is no integer, or below 1.
    """
    number = operator.index(cast(SupportsIndex, value))
    if isinstance(value, bool) or number < 1:
        raise ValueError(value)
    return number
