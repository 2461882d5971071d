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


@dataclass(frozen=True)
class Geometry:
    """Place of the network's view in the picture: network = picture * scale + offset, per axis (y, x).

    Of a turned view it is network = matrix picture + offset.

    Attributes:
        scale: Length in the network of a pixel of the picture, also of a turned view.
        matrix: (yy, yx, xy, xx) of a turned view; None: it is upright.
    """

    picture_size: tuple[int, int]
    """(H, W) of the upright picture, in pixels."""
    size: tuple[int, int]
    """(H, W) of the network's input and of its map."""
    scale: tuple[float, float]
    offset: tuple[float, float]
    matrix: tuple[float, float, float, float] | None = None
    mm_per_pixel: float | None = None
    """Length of a pixel of the picture in millimetres; None: not known."""
    corrected: Geometry | None = None
    """Place in the corrected picture of a view whose map was brought back to the picture as taken; None: of
    another view, or in a file."""

    def to_picture(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Return the picture's box of a box (x0, y0, x1, y1) in the network's view, clipped to the picture.

        Of a turned view it is the box around the turned one.
        """
        (sy, sx), (oy, ox), (height, width) = self.scale, self.offset, self.picture_size
        if self.matrix is not None:
            box, (sy, sx), (oy, ox) = self.inverse().to_network(box), (1.0, 1.0), (0.0, 0.0)
        x0, x1 = (float(min(max((x - ox) / sx, 0.0), width)) for x in (box[0], box[2]))
        y0, y1 = (float(min(max((y - oy) / sy, 0.0), height)) for y in (box[1], box[3]))
        return x0, y0, x1, y1

    def box_around(
        self, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> tuple[float, float, float, float]:
        """Picture box (x0, y0, x1, y1) around pixels [N] of the network, clipped to the picture."""
        if self.matrix is None:
            return self.to_picture((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        back, (height, width) = self.inverse(), self.picture_size
        y, x = back._to_view(rows + 0.5, columns + 0.5)
        (yy, yx), (xy, xx) = np.abs(back._linear) / 2  # from a pixel's middle to its edges
        x0 = _clip(x.min() - xy - xx, width)
        y0 = _clip(y.min() - yy - yx, height)
        x1 = _clip(x.max() + xy + xx, width)
        y1 = _clip(y.max() + yy + yx, height)
        return x0, y0, x1, y1

    def to_network(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Return the box in the network's view of a box (x0, y0, x1, y1) in the picture, not clipped.

        Of a turned view it is the box around the turned one.
        """
        (sy, sx), (oy, ox) = self.scale, self.offset
        if self.matrix is not None:
            y, x = self._to_view(np.array(box)[[1, 1, 3, 3]], np.array(box)[[0, 2, 0, 2]])
            return float(x.min()), float(y.min()), float(x.max()), float(y.max())
        return box[0] * sx + ox, box[1] * sy + oy, box[2] * sx + ox, box[3] * sy + oy

    def locate(
        self, y: NDArray[np.float64], x: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points of the picture in the network's view, y and x, not clipped."""
        if self.matrix is not None:
            return self._to_view(y, x)
        return y * self.scale[0] + self.offset[0], x * self.scale[1] + self.offset[1]

    def with_picture_size(self, picture_size: tuple[int, int]) -> Geometry:
        """Geometry of the same view, of the picture scaled to another size."""
        (sy, sx), (height, width) = self.scale, self.picture_size
        scale = (sy * height / picture_size[0], sx * width / picture_size[1])
        matrix = self.matrix
        if matrix is not None:
            down = height / picture_size[0]
            across = width / picture_size[1]
            matrix = (matrix[0] * down, matrix[1] * across, matrix[2] * down, matrix[3] * across)
        return Geometry(picture_size, self.size, scale, self.offset, matrix)

    def window(self, top: int, left: int, height: int, width: int) -> Geometry:
        """Geometry of the same view, of a part of the picture."""
        yy, yx, xy, xx = self.matrix or (self.scale[0], 0.0, 0.0, self.scale[1])
        offset = self.offset[0] + top * yy + left * yx, self.offset[1] + top * xy + left * xx
        return replace(self, picture_size=(height, width), offset=offset)

    def nearest_indices(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the network's row of each row of the picture, and its column of each column.

        The view must show the whole picture.
        """
        return self._nearest(0)[1], self._nearest(1)[1]

    def visible_mask(self) -> Mask:
        """Mask [H, W] bool at network size: pixels whose centre shows the picture, not a letterbox."""
        if self.matrix is not None:
            return self.inverse()._visible_in_view()
        rows, columns = (self.inverse()._centres(axis)[0] for axis in (0, 1))
        shown = np.zeros(self.size, np.bool_)
        shown[rows, columns] = True
        return shown

    def warp(self, values: NDArray[np.floating], fill: float = math.nan) -> Float32:
        """A map [H, W] at network size -> [Hp, Wp] float32 over the picture, bilinear between pixel centres.

        Picture pixels whose centre lies outside the network's view get `fill`.
        """
        values = self._check_shape(np.asarray(values, dtype=np.float32), self.size)
        if self.matrix is not None:
            return np.where(self._visible_in_view(), self._affine_warp(values, 1), np.float32(fill))
        (rows, y0, y1, wy), (columns, x0, x1, wx) = (self._bilinear(axis) for axis in (0, 1))
        out = np.full(self.picture_size, fill, dtype=np.float32)
        view = out[rows, columns]
        step = max(1, (1 << 18) // max(1, view.shape[1]))  # blocks that stay in the cache
        for start in range(0, view.shape[0], step):
            part = slice(start, start + step)
            above = values[y0[part]]  # [rows, W]
            across = above + (values[y1[part]] - above) * wy[part, None]
            left = np.take(across, x0, axis=1)  # [rows, columns]
            right = np.take(across, x1, axis=1)
            right -= left
            right *= wx
            np.add(left, right, out=view[part])
        return out

    def warp_mask(self, mask: Mask) -> Mask:
        """A mask [H, W] bool at network size -> [Hp, Wp] bool, nearest; False outside the network's view."""
        return self.warp_labels(mask)

    def warp_labels(self, mask: Array) -> Array:
        """Whole numbers [H, W] at network size -> [Hp, Wp], nearest; 0 outside the network's view."""
        mask = self._check_shape(mask, self.size)
        if self.matrix is not None:
            warped = self._affine_warp(mask.astype(np.float32), 0).astype(mask.dtype)
            return np.where(self._visible_in_view(), warped, mask.dtype.type(0))
        out = np.zeros(self.picture_size, dtype=mask.dtype)
        (rows, y), (columns, x) = (self._nearest(axis) for axis in (0, 1))
        out[rows, columns] = mask[y][:, x]
        return out

    def mask_to_network(self, mask: Mask) -> Mask:
        """A mask [Hp, Wp] bool of the picture -> [H, W] bool, nearest; False on a letterbox's border."""
        mask = self._check_shape(mask, self.picture_size)
        return self.inverse().warp_mask(mask)

    def inverse(self) -> Geometry:
        """Geometry with picture and view exchanged."""
        (sy, sx), (oy, ox) = self.scale, self.offset
        if self.matrix is None:
            return Geometry(self.size, self.picture_size, (1 / sy, 1 / sx), (-oy / sy, -ox / sx))
        back = np.linalg.inv(self._linear)
        y, x = map(float, -back @ self.offset)
        yy, yx, xy, xx = map(float, back.ravel())
        return Geometry(self.size, self.picture_size, (1 / sy, 1 / sx), (y, x), (yy, yx, xy, xx))

    def to_dict(self) -> Json:
        """Return values that JSON knows, for `from_dict`."""
        known = {field.name: getattr(self, field.name) for field in fields(self)[:-1]}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in known.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, data: Facts) -> Geometry:
        """Read what `to_dict` returned. InputError for unknown, missing or invalid entries."""
        try:
            known = [field.name for field in fields(cls)[:-1]]
            (hp, wp), (h, w), (sy, sx), (oy, ox) = (data[name] for name in known[:4])
            matrix = data.get("matrix")
            length = data.get("mm_per_pixel")
            geometry = cls(
                (positive_integer(hp), positive_integer(wp)),
                (positive_integer(h), positive_integer(w)),
                (float(sy), float(sx)),
                (float(oy), float(ox)),
                None if matrix is None else _parse_matrix(matrix),
                None if length is None else positive_length(length),
            )
            if set(data) - {*known} or min(geometry.scale) <= 0:
                raise ValueError
            if not all(map(math.isfinite, geometry.scale + geometry.offset + (geometry.matrix or ()))):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"not a geometry: {data!r}; expected picture_size, size, scale, offset"
            ) from None
        return geometry

    @property
    def _linear(self) -> NDArray[np.float64]:
        return np.array(self.matrix).reshape(2, 2)

    def _to_view(self, y: Array, x: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points of the picture in a turned view, y and x."""
        (yy, yx), (xy, xx) = self._linear
        return yy * y + yx * x + self.offset[0], xy * y + xx * x + self.offset[1]

    def _visible_in_view(self) -> Mask:
        """Mask [Hp, Wp] of the picture's pixels whose centre a turned view shows."""
        y, x = (np.arange(length) + 0.5 for length in self.picture_size)
        y, x = self._to_view(y[:, None], x[None])
        shown: Mask = (y >= 0) & (y < self.size[0]) & (x >= 0) & (x < self.size[1])
        return shown

    def _affine_warp(self, values: Float32, order: int) -> Float32:
        """Values [H, W] of a turned view over the picture, nearest (0) or bilinear (1); edges repeated."""
        from scipy import ndimage

        start = np.array(self._to_view(np.array(0.5), np.array(0.5))) - 0.5
        size = self.picture_size
        turned = ndimage.affine_transform(values, self._linear, start, size, order=order, mode="nearest")
        return np.asarray(turned, np.float32)

    def _centres(self, axis: int) -> tuple[slice, NDArray[np.float64]]:
        """The picture's pixels along `axis` that the network sees, and their centres in its coordinates."""
        pixels = np.arange(self.picture_size[axis], dtype=np.float64) + 0.5
        centres = pixels * self.scale[axis] + self.offset[axis]
        start, stop = np.searchsorted(centres, (0.0, float(self.size[axis])))
        return slice(int(start), int(stop)), centres[start:stop]

    def _nearest(self, axis: int) -> tuple[slice, NDArray[np.intp]]:
        seen, centres = self._centres(axis)
        return seen, centres.astype(np.intp)  # searchsorted keeps 0 <= centre < size

    def _bilinear(self, axis: int) -> tuple[slice, NDArray[np.intp], NDArray[np.intp], Float32]:
        """Return the picture's pixels along an axis that the network sees, and how each is interpolated.

        Returns:
            The pixels; the lower and the upper neighbour of each in the network's map, edges repeated; and
            the upper neighbour's weight.
        """
        seen, centres = self._centres(axis)
        last = self.size[axis] - 1
        position = np.clip(centres - 0.5, 0, last)
        lower = position.astype(np.intp)
        return seen, lower, np.minimum(lower + 1, last), (position - lower).astype(np.float32)

    @staticmethod
    def _check_shape(array: Array, size: tuple[int, int]) -> Array:
        if array.shape != size:
            raise InputError(f"array of shape {list(array.shape)} given; expected {list(size)}")
        return array


def _clip(place: float, length: int) -> float:
    """The nearest place on a side of this length."""
    return min(max(float(place), 0.0), float(length))


def _parse_matrix(values: Iterable[float | str]) -> tuple[float, float, float, float]:
    yy, yx, xy, xx = map(float, values)
    if not yy * xx - yx * xy:
        raise ValueError(values)
    return yy, yx, xy, xx


def positive_integer(value: object) -> int:
    """Return an integer of at least 1. TypeError or ValueError for any other value."""
    number = operator.index(cast(SupportsIndex, value))
    if isinstance(value, bool) or number < 1:
        raise ValueError(value)
    return number
