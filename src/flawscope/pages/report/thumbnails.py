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

# of a square picture, pixels
MAX_SIDE = 288
MIN_SIDE = 96
MAX_ASPECT = 3  # the longer side of a flat picture is at most that many times the square's
PAGE_BYTES = 9_000_000  # of all thumbnails together: the page stays below 10 MB
# why a picture is not shown
UNREADABLE = "picture not readable"
PAGE_FULL = "left out: the page is full"
QUALITY = 70  # of lossy WebP, 0..100

Pixels = NDArray[np.uint8]


Layers = dict[str, str]
"""data: URIs of pictures that cover each other.

photo: the picture. heat, line: transparent layers over it. map: the map in colours. Maps are smooth, so that
heat and map have half the photo's size. truth: a transparent layer, the dashed outline of the ground truth,
where one is known.
"""


def thumbnails(
    pictures: Sequence[EvaluatedPicture],
    order: Sequence[int],
    levels: Levels | None = None,
    step: ProgressCallback = ignore_progress,
) -> list[Layers | str]:
    """Return the layers of every picture, or the reason why there are none.

    Pictures are `MAX_SIDE` large, or smaller where `PAGE_BYTES` requires it. The reason is `UNREADABLE` where
    a picture is gone or was changed since it was evaluated, and `PAGE_FULL` where not all pictures fit even
    at `MIN_SIDE`.

    Args:
        pictures: The pictures.
        order: Indices of all pictures, those to be shown first at the front.
        levels: Levels of deep pictures; None: `picture_layers` chooses them.
        step: Gets the progress.
    """

    def draw(k: int, side: int) -> Layers | str:
        item, prediction, *_ = pictures[k]  # read here: not all of them wait in memory
        try:
            return picture_layers(item.path, prediction, item.masks, side, levels)
        except (FlawscopeError, OSError, ValueError, MemoryError):  # one picture costs no report
            return UNREADABLE

    side = MAX_SIDE
    while True:
        made: list[Layers | str] = []
        size = 0
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for thumbnail in pool.map(draw, order, repeat(side)):
                size += 0 if isinstance(thumbnail, str) else sum(map(len, thumbnail.values()))
                if size > PAGE_BYTES:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
                made.append(thumbnail)
                step("report", len(made), len(order))
        if size <= PAGE_BYTES or side == MIN_SIDE:
            step("report", len(order), len(order))
            found = dict(zip(order, made, strict=False))
            return [found.get(k, PAGE_FULL) for k in range(len(pictures))]
        needed = size * len(order) / (len(made) + 1)
        side = max(MIN_SIDE, int(0.97 * side * math.sqrt(PAGE_BYTES / needed)))


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
        prediction: Its prediction.
        masks: Masks of its defects.
        side: Side of the square in pixels.
        levels: Levels of a deep picture; None: 0 to 65535, or 0 to 1 for floats.

    Raises:
        InputError: The picture cannot be read (any more).
    """
    picture, _ = first_group(path)
    levels = levels or Levels(0.0, 65535.0 if picture.dtype == np.uint16 else 1.0)  # as the model sees it
    found, size = truth_layers(picture, masks, side, levels)
    found |= _finding_layers(prediction, size)
    return found


def truth_layers(
    picture: Array, masks: tuple[Mask, ...], side: int, levels: Levels | None
) -> tuple[Layers, tuple[int, int]]:
    """Return the layers of a decoded picture and its marked defects, and their size (height, width).

    Args:
        picture: [H, W] or [H, W, C], the picture.
        masks: Masks of its defects.
        side: Side of a square of the same area, in pixels.
        levels: Levels of a deep picture; None: the picture's own (`to_eight_bits`).
    """
    photo = _fit_area(to_eight_bits(picture, levels), side)
    size = (photo.shape[0], photo.shape[1])
    found = {"photo": _webp_uri(Image.fromarray(photo), QUALITY)}
    with suppress(InputError):
        if masks:
            small = drawing.shrink_mask(union_masks(masks, picture.shape[:2]), size)
            line = partial(drawing.contour, mask=small, colour=drawing.TRUTH_COLOUR, dashed=True)
            found["truth"] = _webp_uri(rgba_layer(line, size))
    return found, size


def _finding_layers(prediction: Prediction, size: tuple[int, int]) -> Layers:
    """Return heat map and contour as layers, and the map, of a picture shown at `size` (height, width)."""
    marked = prediction.outlined(prediction.picture_map(size))
    half = (-(-size[0] // 2), -(-size[1] // 2))

    def outlined(picture: Pixels) -> Pixels:
        lined = drawing.contour(picture, marked, drawing.outline_colour(prediction.is_tolerated))
        return prediction.with_note(drawing.draw_squares(lined, prediction.squares(size)))

    low, high = prediction.levels.colour_range
    values = prediction.picture_map(half)
    heat = partial(drawing.overlay, values=values, low=low, high=high)
    return {
        "heat": _webp_uri(rgba_layer(heat, half), QUALITY),
        "line": _webp_uri(rgba_layer(outlined, size)),
        "map": _webp_uri(Image.fromarray(drawing.colour_map(values, low, high)), QUALITY),
    }


def rgba_layer(draw: Callable[[Pixels], Pixels], size: tuple[int, int]) -> Image.Image:
    """Return the RGBA layer that `draw` adds to a picture [H, W, 3] of `size`; `draw` may only blend.

    Blending makes `keep * picture + added` of a pixel: on black that shows what is added, on white also how
    much is kept.
    """
    black = draw(np.zeros((*size, 3), np.uint8))
    white = draw(np.full((*size, 3), 255, np.uint8))
    alpha = 255 - (white.astype(np.int16) - black).max(axis=2)
    colour = black.astype(np.float32) * 255 / np.maximum(alpha, 1)[..., None]
    rgba = np.concatenate([np.clip(np.round(colour), 0, 255), alpha[..., None]], axis=2)
    return Image.fromarray(rgba.astype(np.uint8))


def image_uri(picture: Pixels, side: int) -> str:
    """Return a picture [H, W, 3], as large in area as a square of `side` pixels, as a data: URI."""
    return _webp_uri(Image.fromarray(_fit_area(picture, side)), QUALITY)


def _fit_area(picture: Pixels, side: int) -> Pixels:
    height, width = picture.shape[:2]
    scale = min(side / math.sqrt(height * width), MAX_ASPECT * side / max(height, width))
    cell = (max(1, round(height * scale)), max(1, round(width * scale)))
    return np.asarray(drawing.fit_into(picture, cell))


def _webp_uri(image: Image.Image, quality: int | None = None) -> str:
    """Return a data: URI; lossless without a quality."""
    buffer = io.BytesIO()
    if quality is None:
        image.save(buffer, "WEBP", lossless=True, quality=50, method=3)
    else:
        image.save(buffer, "WEBP", quality=quality, alpha_quality=quality, method=3)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
