"""Draws a picture and its findings small enough to lie in a page by the hundred.

The photo is stored once. Heat map and outline are transparent layers that the browser lays over it, drawn by
the same functions as elsewhere.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.datasets.masks import Mask, union_masks
from flawscope.errors import FlawscopeError, InputError
from flawscope.evaluation.result import EvaluatedPicture
from flawscope.pictures.channels import first_group
from flawscope.pictures.decoding import to_eight_bits
from flawscope.pictures.levels import Levels
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results import drawing
from flawscope.results.prediction import Prediction
from flawscope.types import Array

# Pixels of the side of a square picture
MAX_SIDE = 288
MIN_SIDE = 96
MAX_ASPECT = 3  # largest ratio of a flat picture's longer side to the square's
PAGE_BYTES = 9_000_000  # of all thumbnails together: the page stays below 10 MB
# Reasons why a picture is not shown
UNREADABLE = "picture not readable"
PAGE_FULL = "left out: the page is full"
QUALITY = 70  # of lossy WebP, 0..100
MAX_THREADS = 4  # that draw
SIZE_MARGIN = 0.97  # factor of a smaller side, as later pictures may take more bytes

Pixels = NDArray[np.uint8]


Layers = dict[str, str]
"""data: URIs of pictures that cover each other.

photo: the picture. heat, line: transparent layers over it. map: the map in colours. Maps are smooth, so that
heat and map have half the photo's size. truth: a transparent layer, the dashed contour of the ground truth,
if that is known.
"""


def thumbnails(
    pictures: Sequence[EvaluatedPicture],
    order: Sequence[int],
    levels: Levels | None = None,
    step: ProgressCallback = ignore_progress,
) -> list[Layers | str]:
    """Return the layers of every picture, or the reason why it has none.

    Pictures have sides of `MAX_SIDE`, or smaller ones if they would take more than `PAGE_BYTES` together. The
    reason is `UNREADABLE` if a picture is gone or has changed since it was evaluated. It is `PAGE_FULL` if
    even with sides of `MIN_SIDE` not all pictures fit.

    Args:
        pictures: The pictures.
        order: Indices of all pictures, the most important first; if not all fit, the last are left out.
        levels: Levels of pictures with more than 8 bits; None: `picture_layers` chooses them.
        step: Called with the progress.
    """

    def draw(index: int, side: int) -> Layers | str:
        picture = pictures[index]
        item = picture.item
        try:
            return picture_layers(item.path, picture.prediction, item.masks, side, levels)
        except (FlawscopeError, OSError, ValueError, MemoryError):  # the report has the other pictures
            return UNREADABLE

    side = MAX_SIDE
    while True:
        thumbnails_in_order: list[Layers | str] = []
        size = 0
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            for thumbnail in pool.map(draw, order, repeat(side)):
                if not isinstance(thumbnail, str):
                    size += sum(map(len, thumbnail.values()))
                if size > PAGE_BYTES:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
                thumbnails_in_order.append(thumbnail)
                step("report", len(thumbnails_in_order), len(order))
        if size <= PAGE_BYTES or side == MIN_SIDE:
            step("report", len(order), len(order))
            by_index = dict(zip(order, thumbnails_in_order, strict=False))  # the last ones may be missing
            return [by_index.get(index, PAGE_FULL) for index in range(len(pictures))]
        # `size` also counts the picture that did not fit any more
        counted = len(thumbnails_in_order) + 1
        # size of all pictures, which grows with the square of the side
        expected_size = size * len(order) / counted
        side = max(MIN_SIDE, int(SIZE_MARGIN * side * math.sqrt(PAGE_BYTES / expected_size)))


def picture_layers(
    path: Path,
    prediction: Prediction,
    masks: tuple[Mask, ...],
    side: int,
    levels: Levels | None,
) -> Layers:
    """Return the layers of a picture file, as large in area as a square of `side` pixels.

    Masks that cannot be read are left out: the evaluation reports them.

    Args:
        path: The picture file.
        prediction: The picture's prediction.
        masks: Masks of the picture's defects.
        side: Side of the square in pixels.
        levels: Levels of a picture with more than 8 bits; None: 0 to 65535, or 0 to 1 for floats.

    Raises:
        InputError: The picture cannot be read (any more).
    """
    picture, _ = first_group(path)
    if levels is None:  # the model sees the full range, too
        levels = Levels(0.0, 65535.0 if picture.dtype == np.uint16 else 1.0)
    layers, size = truth_layers(picture, masks, side, levels)
    layers |= _finding_layers(prediction, size)
    return layers


def truth_layers(
    picture: Array, masks: tuple[Mask, ...], side: int, levels: Levels | None
) -> tuple[Layers, tuple[int, int]]:
    """Return the layers of a decoded picture, with its marked defects, and the size (H, W) of the layers.

    Args:
        picture: [H, W] or [H, W, C], the picture.
        masks: Masks of the picture's defects.
        side: Side, in pixels, of a square with the area of the layers.
        levels: Levels of a picture with more than 8 bits; None: the picture's own (`to_eight_bits`).
    """
    photo = _fit_area(to_eight_bits(picture, levels), side)
    size = (photo.shape[0], photo.shape[1])
    layers = {"photo": _webp_uri(Image.fromarray(photo), QUALITY)}
    if masks:
        with suppress(InputError):  # the evaluation reports masks that cannot be read
            mask = drawing.shrink_mask(union_masks(masks, picture.shape[:2]), size)
            draw = partial(drawing.contour, mask=mask, colour=drawing.TRUTH_COLOUR, dashed=True)
            layers["truth"] = _webp_uri(rgba_layer(draw, size))
    return layers, size


def _finding_layers(prediction: Prediction, size: tuple[int, int]) -> Layers:
    """Return the layers heat, line and map (`Layers`) of a picture shown at `size` (height, width)."""
    marked = prediction.outlined(prediction.picture_map(size))
    height, width = size
    half_size = (math.ceil(height / 2), math.ceil(width / 2))

    def draw_lines(picture: Pixels) -> Pixels:
        with_contours = drawing.contour(picture, marked, drawing.outline_colour(prediction.is_tolerated))
        with_squares = drawing.draw_squares(with_contours, prediction.squares(size))
        return prediction.with_note(with_squares)

    low, high = prediction.levels.colour_range
    values = prediction.picture_map(half_size)
    draw_heat = partial(drawing.overlay, values=values, low=low, high=high)
    return {
        "heat": _webp_uri(rgba_layer(draw_heat, half_size), QUALITY),
        "line": _webp_uri(rgba_layer(draw_lines, size)),
        "map": _webp_uri(Image.fromarray(drawing.colour_map(values, low, high)), QUALITY),
    }


def rgba_layer(draw: Callable[[Pixels], Pixels], size: tuple[int, int]) -> Image.Image:
    """Return the transparent RGBA layer that has the same effect as drawing on a picture.

    Blending turns a pixel into `keep * pixel + added`. So drawing on black gives `added`, and drawing on
    white minus drawing on black gives `keep`, as 0..255.

    Args:
        draw: Draws on a picture [H, W, 3], only by blending, and returns it.
        size: (H, W) of the layer.
    """
    on_black = draw(np.zeros((*size, 3), np.uint8))
    on_white = draw(np.full((*size, 3), 255, np.uint8))
    keep = on_white.astype(np.int16) - on_black
    alpha = 255 - keep.max(axis=2)  # one alpha for all channels
    colour = on_black.astype(np.float32) * 255 / np.maximum(alpha, 1)[..., None]  # added = alpha * colour
    rgba = np.concatenate([np.clip(np.round(colour), 0, 255), alpha[..., None]], axis=2)
    return Image.fromarray(rgba.astype(np.uint8))


def image_uri(picture: Pixels, side: int) -> str:
    """Return a picture [H, W, 3], as large in area as a square of `side` pixels, as a data: URI."""
    return _webp_uri(Image.fromarray(_fit_area(picture, side)), QUALITY)


def _fit_area(picture: Pixels, side: int) -> Pixels:
    """Return a picture scaled to the area of a square of `side` pixels.

    A very long picture gets less: its longer side is at most `MAX_ASPECT * side`.
    """
    height, width = picture.shape[:2]
    scale = min(side / math.sqrt(height * width), MAX_ASPECT * side / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return np.asarray(drawing.fit_into(picture, size))


def _webp_uri(image: Image.Image, quality: int | None = None) -> str:
    """Return an image as a data: URI of WebP, of a quality 0..100; None: lossless."""
    buffer = io.BytesIO()
    if quality is None:
        # of a lossless WebP, `quality` is the effort spent on its size
        image.save(buffer, "WEBP", lossless=True, quality=50, method=3)
    else:
        image.save(buffer, "WEBP", quality=quality, alpha_quality=quality, method=3)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
