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
    """Return the part of a picture in a box, scaled to a size.

    Args:
        picture: Picture of any depth.
        size: (H, W) of the result.
        box: (y0, x0, y1, x1) of the part, in pixels.

    Returns:
        uint8 [H, W] or [H, W, 3], or float32 [H, W, C] for a deep picture.
    """
    (h, w), (y0, x0, y1, x1) = size, box

    def resize(image: Image.Image) -> Array:
        if image.size == (w, h) and box == (0, 0, h, w):
            return np.asarray(image)
        # The width first: Pillow 13 would take the height first in tall pictures, and round otherwise
        across = image.resize((w, image.height), Image.Resampling.BILINEAR, box=(x0, 0, x1, image.height))
        return np.asarray(across.resize((w, h), Image.Resampling.BILINEAR, box=(0, y0, w, y1)))

    if isinstance(picture, Image.Image):
        return resize(picture)
    if picture.dtype == np.uint8:  # grey as a view needs only one of its channels
        grey = picture.strides[2] == 0
        shown = picture[:, :, 0] if grey else picture
        if picture.shape[:2] == size and box == (0, 0, h, w):
            return shown.copy()  # tiles are cut later: whoever gave it may write into it
        return resize(Image.fromarray(np.ascontiguousarray(shown)))
    planes = np.empty((h, w, picture.shape[2]), np.float32)
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
    """Warp a picture to a turned view, [H, W] or [H, W, C] as `resized` gives it; edges are repeated."""
    size, (height, width) = picture_size(picture), placed.size
    reduction = max(1.0, 1 / placed.scale[0])  # first, so that no pixel is skipped
    size = max(1, round(size[0] / reduction)), max(1, round(size[1] / reduction))
    planes = resized(picture, size, full_box(picture))
    view = placed.with_picture_size(size).inverse()
    left, top, right, bottom = view.to_network((0.0, 0.0, float(width), float(height)))
    (above, below), (before, after) = (
        (max(0, math.ceil(-low) + 1), max(0, math.ceil(high) + 1))
        for low, high in ((top, bottom - size[0]), (left, right - size[1]))
    )
    padded = np.pad(planes, ((above, below), (before, after), (0, 0))[: planes.ndim], mode="edge")
    yy, yx, xy, xx = view.matrix or (1.0, 0.0, 0.0, 1.0)
    affine = (xx, xy, view.offset[1] + before, yx, yy, view.offset[0] + above)

    def transformed(image: Image.Image) -> Array:
        return np.asarray(
            image.transform((width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
        )

    if planes.dtype == np.uint8:
        return transformed(Image.fromarray(padded))
    return np.stack([transformed(Image.fromarray(plane)) for plane in np.moveaxis(padded, 2, 0)], 2)


def write_planes(planes: Array, divisor: float, target: Float32) -> None:
    """Write pixels [H, W] or [H, W, C] of any depth into [3, H, W], in 0..1."""
    if planes.ndim == 2 or planes.shape[2] == 1:
        np.divide(planes.reshape(planes.shape[:2]), divisor, out=target[0], dtype=np.float32)
        target[1:] = target[0]
    else:
        np.divide(planes.transpose(2, 0, 1), divisor, out=target, dtype=np.float32)
    if planes.dtype != np.uint8:
        np.clip(target, 0, 1, out=target)
