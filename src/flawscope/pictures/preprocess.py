"""From a picture to the network's input and back; decided here once, for every runtime. Torch-free.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5. Sizes are (height, width).
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from flawscope.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    Float32 = NDArray[np.float32]
    Mask = NDArray[np.bool_]

from flawscope.pictures.decoding import (
    Source,
    cannot,
    load,
    name_of,
    read_mask,
)

# ---------------------------------------------------------------------------------------------- geometry


@dataclass(frozen=True)
class Geometry:
    """Where the network's view lies in the picture: network = picture * scale + offset, per axis (y, x)."""

    picture_size: tuple[int, int]
    """(H, W) of the upright picture, in pixels."""
    size: tuple[int, int]
    """(H, W) of the network's input and of its map."""
    scale: tuple[float, float]
    offset: tuple[float, float]

    def to_picture(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Network box (x0, y0, x1, y1) -> picture box, clipped to the picture."""
        (sy, sx), (oy, ox), (height, width) = self.scale, self.offset, self.picture_size
        x0, x1 = (min(max((x - ox) / sx, 0.0), float(width)) for x in (box[0], box[2]))
        y0, y1 = (min(max((y - oy) / sy, 0.0), float(height)) for y in (box[1], box[3]))
        return x0, y0, x1, y1

    def to_network(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Picture box (x0, y0, x1, y1) -> network box, not clipped."""
        (sy, sx), (oy, ox) = self.scale, self.offset
        return box[0] * sx + ox, box[1] * sy + oy, box[2] * sx + ox, box[3] * sy + oy

    def at(self, picture_size: tuple[int, int]) -> Geometry:
        """The same view of the picture scaled to another size."""
        (sy, sx), (height, width) = self.scale, self.picture_size
        scale = (sy * height / picture_size[0], sx * width / picture_size[1])
        return Geometry(picture_size, self.size, scale, self.offset)

    def inside(self) -> Mask:
        """[H, W] bool at network size: pixels whose centre shows the picture, not a letterbox's border."""
        rows, columns = (self.inverse()._centres(axis)[0] for axis in (0, 1))
        shown = np.zeros(self.size, np.bool_)
        shown[rows, columns] = True
        return shown

    def warp(self, values: NDArray[np.floating[Any]], fill: float = math.nan) -> Float32:
        """A map [H, W] at network size -> [Hp, Wp] float32 over the picture, bilinear between pixel centres.

        Picture pixels whose centre lies outside the network's view get `fill`.
        """
        values = self._sized(np.asarray(values, dtype=np.float32), self.size)
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
        mask = self._sized(mask, self.size)
        out = np.zeros(self.picture_size, dtype=np.bool_)
        (rows, y), (columns, x) = (self._nearest(axis) for axis in (0, 1))
        out[rows, columns] = mask[y][:, x]
        return out

    def mask_to_network(self, mask: Mask) -> Mask:
        """A mask [Hp, Wp] bool of the picture -> [H, W] bool, nearest; False on a letterbox's border."""
        mask = self._sized(mask, self.picture_size)
        return self.inverse().warp_mask(mask)

    def inverse(self) -> Geometry:
        """The same relation read the other way round: the network's view as the picture."""
        (sy, sx), (oy, ox) = self.scale, self.offset
        return Geometry(self.size, self.picture_size, (1 / sy, 1 / sx), (-oy / sy, -ox / sx))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Geometry:
        """Raises InputError for unknown, missing or invalid entries."""
        try:
            (hp, wp), (h, w), (sy, sx), (oy, ox) = (data[field.name] for field in fields(cls))
            geometry = cls(
                (_whole(hp), _whole(wp)),
                (_whole(h), _whole(w)),
                (float(sy), float(sx)),
                (float(oy), float(ox)),
            )
            if set(data) - {field.name for field in fields(cls)} or min(geometry.scale) <= 0:
                raise ValueError
            if not all(map(math.isfinite, geometry.scale + geometry.offset)):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"not a geometry: {data!r}; expected picture_size, size, scale, offset"
            ) from None
        return geometry

    def _centres(self, axis: int) -> tuple[slice, NDArray[np.float64]]:
        """The picture's pixels along `axis` that the network sees, and their centres in its coordinates."""
        centres = (np.arange(self.picture_size[axis], dtype=np.float64) + 0.5) * self.scale[
            axis
        ] + self.offset[axis]
        start, stop = np.searchsorted(centres, (0.0, float(self.size[axis])))
        return slice(int(start), int(stop)), centres[start:stop]

    def _nearest(self, axis: int) -> tuple[slice, NDArray[np.intp]]:
        seen, centres = self._centres(axis)
        return seen, centres.astype(np.intp)  # searchsorted keeps 0 <= centre < size

    def _bilinear(self, axis: int) -> tuple[slice, NDArray[np.intp], NDArray[np.intp], Float32]:
        """Seen pixels; lower and upper neighbour of each and the upper one's weight; edges are repeated."""
        seen, centres = self._centres(axis)
        last = self.size[axis] - 1
        position = np.clip(centres - 0.5, 0, last)
        lower = position.astype(np.intp)
        return seen, lower, np.minimum(lower + 1, last), (position - lower).astype(np.float32)

    @staticmethod
    def _sized(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        if array.shape != size:
            raise InputError(f"array of shape {list(array.shape)} given; expected {list(size)}")
        return array


# -------------------------------------------------------------------------------------------- preprocess


@dataclass(frozen=True)
class Preprocess:
    """Picture -> network input, the same for training and every runtime; stored in the manifest.

    `crop` None: the whole picture, stretched to `size`, or with `keep_aspect` fitted into it, centred, its
    edge pixels repeated outwards (letterbox). With `crop`: the picture is stretched to `size`, or with
    `keep_aspect` scaled until it covers `size` (the PatchCore paper's 256 -> 224), and the central `crop`
    is kept. Resampling is Pillow's antialiased bilinear, in 8 bits for 8-bit pictures (always over 255), in
    float32 for deep ones. These are divided by `white_level` (None: 65535 for uint16, 1 for floats) and
    clipped to 0..1; never by anything that one picture decides.

    `marks_padding`: detectors can tell the letterbox's border from the product, because the value v of a
    repeated edge pixel stands as -1 - v. Models from before that do not mark it.
    """

    size: tuple[int, int] = (256, 256)
    keep_aspect: bool = False
    crop: tuple[int, int] | None = None
    white_level: float | None = None
    marks_padding: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _size("size", self.size))
        if self.crop is not None:
            object.__setattr__(self, "crop", _size("crop", self.crop))
            if any(part > whole for part, whole in zip(self.crop, self.size, strict=True)):
                raise InputError(f"crop {self.crop} is larger than size {self.size}; make size larger")
        for name in ("keep_aspect", "marks_padding"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; give true or false")
        if self.white_level is not None:
            level = self.white_level
            if isinstance(level, bool) or not isinstance(level, Real) or not 0 < level < math.inf:
                raise InputError(f"white_level is {level!r}; give a number above 0, or none")
            object.__setattr__(self, "white_level", float(level))

    @property
    def network_size(self) -> tuple[int, int]:
        """(H, W) of the tensor."""
        return self.crop or self.size

    def __call__(self, source: Source, name: str | None = None) -> tuple[Float32, Geometry]:
        """Anything `decode` reads -> ([1, 3, H, W] float32 in 0..1, RGB, padding marked; where it
        lies in the picture)."""
        return self._apply(load(source, name), name or name_of(source))

    def from_array(self, picture: NDArray[Any], name: str | None = None) -> tuple[Float32, Geometry]:
        """The same for a picture that `decode` returned."""
        return self(picture, name)

    def geometry(self, picture_size: tuple[int, int]) -> Geometry:
        """The geometry that an upright picture of (H, W) pixels gets, without the picture."""
        (y0, x0, y1, x1), (h, w), (top, left) = self._placing(*picture_size)
        sy, sx = h / (y1 - y0), w / (x1 - x0)
        return Geometry(picture_size, self.network_size, (sy, sx), (top - y0 * sy, left - x0 * sx))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return {
            "size": list(self.size),
            "keep_aspect": self.keep_aspect,
            "crop": list(self.crop) if self.crop else None,
            "white_level": self.white_level,
            "marks_padding": self.marks_padding,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        """Raises InputError for unknown keys and for values that make no sense."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise InputError(f"unknown preprocess key {unknown[0]!r}; known are {', '.join(known)}")
        return cls(**{"marks_padding": False, **data})  # models from before it was marked

    def _placing(
        self, height: int, width: int
    ) -> tuple[tuple[float, float, float, float], tuple[int, int], tuple[int, int]]:
        """Part of the picture that is seen (y0, x0, y1, x1), its size in the tensor, its top left corner."""
        whole = (0.0, 0.0, float(height), float(width))
        sy, sx = self.size[0] / height, self.size[1] / width
        if self.crop is None and not self.keep_aspect:
            return whole, self.size, (0, 0)
        if self.crop is None:
            scale = min(sy, sx)
            h = min(max(round(height * scale), 1), self.size[0])
            w = min(max(round(width * scale), 1), self.size[1])
            return whole, (h, w), ((self.size[0] - h) // 2, (self.size[1] - w) // 2)
        if self.keep_aspect:
            sy = sx = max(sy, sx)
        y0, x0 = max(0.0, (height - self.crop[0] / sy) / 2), max(0.0, (width - self.crop[1] / sx) / 2)
        return (y0, x0, height - y0, width - x0), self.crop, (0, 0)

    def _apply(self, picture: Image.Image | NDArray[Any], name: str) -> tuple[Float32, Geometry]:
        if isinstance(picture, Image.Image):
            size = (picture.height, picture.width)
        else:
            size = (picture.shape[0], picture.shape[1])
        (y0, x0, y1, x1), (h, w), (top, left) = self._placing(*size)
        box = (x0, y0, x1, y1)

        def resize(image: Image.Image) -> NDArray[Any]:
            if image.size == (w, h) and box == (0, 0, w, h):
                return np.asarray(image)
            # The width first: Pillow 13 would take the height first in tall pictures, and round otherwise
            across = image.resize((w, image.height), Image.Resampling.BILINEAR, box=(x0, 0, x1, image.height))
            return np.asarray(across.resize((w, h), Image.Resampling.BILINEAR, box=(0, y0, w, y1)))

        tensor = np.empty((1, 3, *self.network_size), dtype=np.float32)
        target = tensor[0, :, top : top + h, left : left + w]
        if not isinstance(picture, Image.Image) and picture.dtype != np.uint8:
            white = self._white(picture, name)
            for channel in range(picture.shape[2]):
                plane = np.ascontiguousarray(picture[:, :, channel], dtype=np.float32)
                np.divide(resize(Image.fromarray(plane)), white, out=target[channel], dtype=np.float32)
            if picture.shape[2] == 1:
                target[1:] = target[0]
            np.clip(target, 0, 1, out=target)
        else:
            if not isinstance(picture, Image.Image):  # grey as a view needs only one of its channels
                grey = picture.strides[2] == 0
                picture = Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if grey else picture))
            pixels = resize(picture)
            if pixels.ndim == 2:
                np.divide(pixels, 255, out=target[0], dtype=np.float32)
                target[1:] = target[0]
            else:
                np.divide(pixels.transpose(2, 0, 1), 255, out=target, dtype=np.float32)
        if (h, w) != self.network_size:
            _repeat_edges(tensor[0], top, left, h, w)
            if self.marks_padding:
                padding = np.ones(self.network_size, np.bool_)
                padding[top : top + h, left : left + w] = False
                tensor[0][:, padding] = -1 - tensor[0][:, padding]
        return tensor, self.geometry(size)

    def _white(self, picture: NDArray[Any], name: str) -> float:
        """The divisor of a deep picture. Floats far off it would show all black or white."""
        if picture.dtype == np.uint16:
            return self.white_level or 65535.0
        largest = float(picture.max())
        if self.white_level is None and largest > 1:
            raise cannot(
                name, f"its floats go up to {largest:g} and no white level is set", "divide it first"
            )
        if self.white_level is not None and self.white_level >= 255 and 0 < largest <= 1:
            raise cannot(
                name, f"its floats are in 0..1, the white level is {self.white_level:g}", "multiply it"
            )
        return self.white_level or 1.0


def unmarked(images: Float32) -> tuple[Float32, Mask]:
    """Images `[..., 3, H, W]` without marks, in 0..1, and `[..., H, W]` bool: what is not padding."""
    inside: Mask = images[..., 0, :, :] >= 0
    return np.where(images < 0, -1 - images, images), inside


def white_level_for(maximum: float, dtype: DTypeLike) -> float:
    """The white level for a set of pictures whose largest value is `maximum`; for `Preprocess.white_level`.

    Integers: the next 2^k - 1 (a 12-bit camera gives 4095), at least 255. Floats: 1, or `maximum` above 1.
    """
    if not (math.isfinite(maximum) and maximum >= 0):
        raise InputError(f"the largest pixel value is {maximum}; expected a finite number of at least 0")
    if np.dtype(dtype).kind == "f":
        return max(1.0, float(maximum))
    return float((1 << max(8, math.ceil(maximum).bit_length())) - 1)


def _repeat_edges(planes: Float32, top: int, left: int, height: int, width: int) -> None:
    """Fill the border of [C, H, W] around the given window with the window's outermost pixels, in place."""
    bottom, right = top + height, left + width
    rows = planes[:, top:bottom]
    rows[:, :, :left] = rows[:, :, left : left + 1]
    rows[:, :, right:] = rows[:, :, right - 1 : right]
    planes[:, :top] = planes[:, top : top + 1]
    planes[:, bottom:] = planes[:, bottom - 1 : bottom]


def _whole(value: Any) -> int:
    """An integer of at least 1, or TypeError/ValueError."""
    if isinstance(value, bool) or operator.index(value) < 1:
        raise ValueError(value)
    return operator.index(value)


def _size(key: str, value: Any) -> tuple[int, int]:
    try:
        height, width = value
        return _whole(height), _whole(width)
    except (TypeError, ValueError):
        raise InputError(f"{key} is {value!r}; give two whole numbers, height and width") from None


# ------------------------------------------------------------------------------------ region of interest

_NUMBER = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
_BOX = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}(?:@\s*(\d+)\s*x\s*(\d+)\s*)?")


def roi_from(spec: str | os.PathLike[str] | NDArray[Any], preprocess: Preprocess) -> Mask:
    """The region of interest [H, W] bool at network size: the pixels whose centre lies in it.

    `spec` is a mask at the pictures' size (array or file; above 0 counts), or a box "x0,y0,x1,y1": fractions
    of the picture, or pixels of a picture of W x H as "x0,y0,x1,y1@WxH". Fractions alone say nothing about
    the picture's shape, so they are refused where it matters, with `keep_aspect`. Raises InputError; also
    where the region holds no pixel that the network sees.
    """
    box = _BOX.fullmatch(spec) if isinstance(spec, str) else None
    if box is not None:
        roi = _roi_from_box(str(spec), box, preprocess)
    else:
        if isinstance(spec, np.ndarray):
            if spec.ndim != 2 or spec.size == 0:
                raise InputError(f"region of interest of shape {list(spec.shape)}; give a mask [H, W]")
            mask: Mask = spec > 0
        else:
            mask = read_mask(spec)
        height, width = mask.shape
        roi = preprocess.geometry((height, width)).mask_to_network(mask)
    if not roi.any():
        shown = "given" if isinstance(spec, np.ndarray) else str(spec)
        raise InputError(f"region of interest {shown} holds no pixel the network sees; make it larger")
    return roi


def _roi_from_box(spec: str, match: re.Match[str], preprocess: Preprocess) -> Mask:
    x0, y0, x1, y1 = (float(match[i]) for i in range(1, 5))
    if match[5] is not None:
        width, height = int(match[5]), int(match[6])
        if min(width, height) < 1:
            raise InputError(
                f"region of interest {spec}: the picture after @ has no pixels; give WIDTHxHEIGHT"
            )
    else:
        if max(x0, y0, x1, y1) > 1:
            raise InputError(
                f"region of interest {spec}: values above 1 are pixels; add the picture's size, {spec}@WxH"
            )
        if preprocess.keep_aspect:
            raise InputError(
                f"region of interest {spec}: fractions need the picture's shape with keep_aspect; "
                "give pixels as x0,y0,x1,y1@WxH or a mask file"
            )
        width, height = 1, 1  # stretched: fractions mean the same in every picture
    if not (x0 < x1 <= (width if match[5] else 1) and y0 < y1 <= (height if match[5] else 1)):
        raise InputError(
            f"region of interest {spec} is empty or leaves the picture; give x0 < x1 and y0 < y1"
        )
    geometry = preprocess.geometry((height, width))
    left, upper, right, lower = geometry.to_network((x0, y0, x1, y1))
    rows, columns = (np.arange(length) + 0.5 for length in geometry.size)
    inside: Mask = ((rows >= upper) & (rows < lower))[:, None] & ((columns >= left) & (columns < right))
    return inside
