"""Scales and warps pictures of any depth, through Pillow. Sizes are (height, width). Torch-free."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.types import Array
from flawscope.views.geometry import Geometry
from flawscope.views.pose import SIDE, Float32, reduced_size

Raster = Image.Image | NDArray[np.number]
Box = tuple[float, float, float, float]  # y0, x0, y1, x1
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def picture_size(picture: Raster) -> tuple[int, int]:
    """Return the size (H, W) of a picture."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return picture.shape[0], picture.shape[1]


def full_box(picture: Raster) -> Box:
    """Return the box (y0, x0, y1, x1) of a whole picture."""
    height, width = picture_size(picture)
    return 0.0, 0.0, float(height), float(width)


def resized(picture: Raster, size: tuple[int, int], box: Box) -> Array:
    """Crop a picture to a box, and scale the crop to a size.

    Args:
        picture: Picture of any depth.
        size: (H, W) of the result.
        box: (y0, x0, y1, x1) of the crop, in pixels of the picture.

    Returns:
        uint8 [H, W] or [H, W, 3], or float32 [H, W, C] for a deep picture.
    """
    height, width = size
    y0, x0, y1, x1 = box
    # the crop begins at the picture's corner, and is as large as the result
    is_unscaled = box == (0, 0, height, width)

    def resize(image: Image.Image) -> Array:
        if image.size == (width, height) and is_unscaled:
            return np.asarray(image)
        # The width first: Pillow 13 would take the height first in tall pictures, and round differently
        narrowed = image.resize(
            (width, image.height), Image.Resampling.BILINEAR, box=(x0, 0, x1, image.height)
        )
        return np.asarray(narrowed.resize((width, height), Image.Resampling.BILINEAR, box=(0, y0, width, y1)))

    if isinstance(picture, Image.Image):
        return resize(picture)
    if picture.dtype == np.uint8:
        is_grey = picture.strides[2] == 0  # stride 0: one channel, repeated as three; it is resized once
        pixels = picture[:, :, 0] if is_grey else picture
        if picture.shape[:2] == size and is_unscaled:
            return pixels.copy()  # tiles are cut later, and the caller may change the picture until then
        return resize(Image.fromarray(np.ascontiguousarray(pixels)))
    planes = np.empty((height, width, picture.shape[2]), np.float32)
    for channel in range(picture.shape[2]):
        plane = np.ascontiguousarray(picture[:, :, channel], dtype=np.float32)
        planes[:, :, channel] = resize(Image.fromarray(plane))
    return planes


def small_grey(picture: Raster, divisor: float = 255.0, side: int = SIDE) -> Float32:
    """Reduce a picture of any size and depth to a grey one [h, w] in 0..1, for `PoseReference.find`.

    Args:
        picture: Picture of any depth.
        divisor: Value that becomes 1.
        side: Longer side of the result, in pixels.
    """
    planes = resized(picture, reduced_size(picture_size(picture), side), full_box(picture))
    image = np.empty((3, *planes.shape[:2]), np.float32)
    write_planes(planes, divisor, image)
    return np.asarray(np.tensordot(_LUMINANCE, image, 1), np.float32)


def warp_view(picture: Raster, placed: Geometry) -> Array:
    """Warp a picture to a turned view; edges are repeated.

    Args:
        picture: Picture of any depth.
        placed: Place of the view in the picture.

    Returns:
        [H, W] or [H, W, C], as `resized` returns a picture of that depth.
    """
    picture_height, picture_width = picture_size(picture)
    height, width = placed.size
    # the picture is reduced first: the warp mixes four neighbours only, and would skip the other pixels
    reduction = max(1.0, 1 / placed.scale[0])
    size = max(1, round(picture_height / reduction)), max(1, round(picture_width / reduction))
    planes = resized(picture, size, full_box(picture))
    from_view = placed.with_picture_size(size).inverse()  # maps from the view to the reduced picture
    # the box of the reduced picture that the view covers
    left, top, right, bottom = from_view.to_network((0.0, 0.0, float(width), float(height)))
    # pixels to pad before and after the rows and the columns, where the view leaves the picture
    rows = (_padding(-top), _padding(bottom - size[0]))
    columns = (_padding(-left), _padding(right - size[1]))
    padding = (rows, columns) if planes.ndim == 2 else (rows, columns, (0, 0))
    padded = np.pad(planes, padding, mode="edge")
    yy, yx, xy, xx = from_view.matrix or (1.0, 0.0, 0.0, 1.0)
    offset_y, offset_x = from_view.offset
    # Pillow's order: factors of x and y, and the summand, that give x in the padded picture; then those for y
    affine = (xx, xy, offset_x + columns[0], yx, yy, offset_y + rows[0])

    def transform(image: Image.Image) -> Array:
        return np.asarray(
            image.transform((width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
        )

    if planes.dtype == np.uint8:
        return transform(Image.fromarray(padded))
    return np.stack([transform(Image.fromarray(plane)) for plane in np.moveaxis(padded, 2, 0)], 2)


def _padding(reach: float) -> int:
    """Return the pixels to pad at an edge: `reach`, by which a view exceeds the edge, and a spare one."""
    return max(0, math.ceil(reach) + 1)


def write_planes(planes: Array, divisor: float, target: Float32) -> None:
    """Write pixels [H, W] or [H, W, C] of any depth into `target` [3, H, W], divided by the divisor."""
    if planes.ndim == 2 or planes.shape[2] == 1:
        np.divide(planes.reshape(planes.shape[:2]), divisor, out=target[0], dtype=np.float32)
        target[1:] = target[0]
    else:
        np.divide(planes.transpose(2, 0, 1), divisor, out=target, dtype=np.float32)
    if planes.dtype != np.uint8:
        np.clip(target, 0, 1, out=target)
