"""Draws maps as colours, overlays and outlines; writes colour bars and map files. Torch-free.

Every scale is given by the caller (`low`, `high`: from the calibration) and never stretched per picture, so
that a good part looks good beside a bad one.
"""

from __future__ import annotations

import functools
import math
import os
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flawscope.artefact.files import write_error
from flawscope.errors import FlawscopeError, InputError, one_line_message
from flawscope.types import Array
from flawscope.views.geometry import Geometry

Pixels = NDArray[np.uint8]
Values = NDArray[np.floating]

Colour: TypeAlias = tuple[int, int, int]
Drawable: TypeAlias = np.ndarray[Any, Any] | Image.Image
"""uint8 [H, W, 3] or [H, W]; bool [H, W] (black and white); or a PIL image."""

BAD_COLOUR: Colour = (213, 94, 0)
"""Frames of defects; vermilion, which colour-blind people see (Okabe and Ito)."""

OUTLINE_COLOUR: Colour = (0, 255, 255)  # in neither photos of parts nor the colour map
WITHIN_COLOUR: Colour = (240, 228, 66)
"""Outlines of a part within tolerance; yellow, which colour-blind people tell from cyan (Okabe and Ito)."""
TRUTH_COLOUR: Colour = (255, 0, 170)
"""The ground truth's outline, which is also dashed, so that no colour is needed to tell it."""
POSE_COLOUR: Colour = (124, 255, 124)
"""The square around a part that was found."""
_RIM_DARKENING = 5  # times: an outline's rim is the darkened picture, so that it shows on bright metal, too
_TRANSPARENT_SHARE = 0.15  # share of a heat map's scale up to which it is transparent: good parts stay clear
_PEAK_OPACITY = 0.1  # share of the opacity at the peak of a heat map: the defect must be seen
TEXT: Colour = (32, 32, 36)
WHITE: Colour = (255, 255, 255)
_NAN_GREY = 128
# Night blue, violet, magenta, coral, amber, light yellow: lightness rises throughout, and blue to yellow is
# the axis that the common colour-vision deficiencies keep.
_ANCHORS = (
    (8, 8, 32),
    (48, 26, 118),
    (128, 34, 138),
    (206, 64, 100),
    (243, 130, 52),
    (250, 190, 40),
    (255, 247, 118),
)


@functools.cache
def colour_table() -> Pixels:
    """The colour map [256, 3] uint8, dark to bright in equal steps of CIE lightness."""
    anchors = np.asarray(_ANCHORS, dtype=np.float64)
    fine = np.linspace(0, len(anchors) - 1, 4096)
    colours = np.stack([np.interp(fine, np.arange(len(anchors)), channel) for channel in anchors.T], axis=1)
    light = lightness(colours)
    wanted = np.linspace(light[0], light[-1], 256)
    table = np.stack([np.interp(wanted, light, channel) for channel in colours.T], axis=1)
    rounded: Pixels = np.round(table).astype(np.uint8)
    rounded.flags.writeable = False
    return rounded


def lightness(rgb: Array) -> NDArray[np.float64]:
    """CIE L* (0..100) of sRGB colours [..., 3] in 0..255."""
    share = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    result: NDArray[np.float64] = np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)
    return result


def colour_map(values: Values, low: float, high: float) -> Pixels:
    """Values [H, W] -> colours [H, W, 3] uint8; darkest at `low`, brightest at `high`, NaN grey."""
    colours = colour_table()[_colour_indices(values, low, high)]
    colours[np.isnan(values)] = _NAN_GREY
    return colours


def overlay(picture: Pixels, values: Values, low: float, high: float, *, opacity: float = 0.5) -> Pixels:
    """Return the map `values` [H, W] over the photo [H, W, 3] uint8.

    It is invisible at `low`, has the `opacity` (0..1) in the middle, which is the mask threshold, and is
    nearly invisible again at `high` and above: a defect shows inside its halo.
    """
    size = (picture.shape[0], picture.shape[1])
    share = np.linspace(0, 1, 256, dtype=np.float32)
    alpha = np.float32(opacity) * _opacity_curve(share)
    keep = (1 - alpha)[:, None]
    add = colour_table() * alpha[:, None] + np.float32(0.5)
    out = np.empty_like(picture, order="C")
    step = max(1, (1 << 18) // max(1, size[1]))
    for start in range(0, size[0], step):  # blocks: a float copy of 100 megapixels would take 1.2 GB
        part = slice(start, start + step)
        levels = _colour_indices(values[part], low, high)
        blended = picture[part] * keep[levels]
        blended += add[levels]
        out[part] = blended
    return out


def _opacity_curve(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Opacity of a heat map, as a share of the largest, at a share 0..1 of its scale."""

    def smooth(x: NDArray[np.float32]) -> NDArray[np.float32]:
        x = np.clip(x, 0, 1)
        return x * x * (3 - 2 * x)

    rise = (share - np.float32(_TRANSPARENT_SHARE)) / np.float32(0.5 - _TRANSPARENT_SHARE)
    return smooth(rise) * (1 - np.float32(1 - _PEAK_OPACITY) * smooth(2 * share - 1))


def outline_colour(tolerated: bool) -> Colour:
    """Colour of the outlines of a part: another one within tolerance."""
    return WITHIN_COLOUR if tolerated else OUTLINE_COLOUR


def contour(
    picture: Pixels,
    mask: NDArray[np.bool_],
    colour: Colour = OUTLINE_COLOUR,
    width: int | None = None,
    *,
    dashed: bool = False,
) -> Pixels:
    """Return a copy of the picture with a line just outside the mask's edge and a dark rim around the line.

    Args:
        picture: The picture.
        mask: [H, W] bool at the picture's size, or smaller and then stretched over it.
        colour: Colour of the line.
        width: Width in pixels; None: 1/150 of the shorter side, which a thumbnail of a large picture still
            shows.
        dashed: Whether the line has gaps.
    """
    size = (picture.shape[0], picture.shape[1])
    if mask.shape != size:
        mask = _covering_geometry(size, mask).warp_mask(mask)
    if width is None:
        width = max(1, round(min(size) / 150))
    out = picture.copy()
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return out
    rim = max(1, width // 3)
    reach = width + rim
    window = (
        slice(max(0, rows[0] - reach), rows[-1] + reach + 1),
        slice(max(0, columns[0] - reach), columns[-1] + reach + 1),
    )
    inside = mask[window]
    drawn_on = out[window]
    from scipy import ndimage  # slow to import

    squared = ndimage.distance_transform_edt(~inside) ** 2
    line, dark = (squared < (r + 0.5) ** 2 + 0.5 for r in (width, reach))  # rounded at the corners
    dark &= ~line
    line &= ~inside
    # At the picture's border there is no room outside: there the line lies on the mask.
    near = [
        (np.minimum(np.arange(length), length - 1 - np.arange(length)) < width)[span]
        for length, span in zip(size, window, strict=True)
    ]
    line |= inside & (near[0][:, None] | near[1])
    if dashed:
        drawn = _dash_pattern(line, 4 * reach)
        dark = dark & drawn
        line = line & drawn
    drawn_on[dark] //= _RIM_DARKENING
    drawn_on[line] = colour
    return out


class Square(NamedTuple):
    """Square around a part.

    Attributes:
        corners: [4, 2], corners (x, y), the reference's upper left one first.
        text: Text beside it; empty: none.
        colour: Colour of its lines.
    """

    corners: NDArray[np.floating]
    text: str = ""
    colour: Colour = POSE_COLOUR

    def scaled(self, across: float, down: float) -> Square:
        """The square in a picture that is so many times as wide and as high."""
        return self._replace(corners=self.corners * (across, down))


def draw_squares(picture: Pixels, squares: Sequence[Square]) -> Pixels:
    """Return a copy of the picture [H, W, 3] with squares and their texts.

    A dot marks the first corner: it shows turn and side.
    """
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    width = max(1, math.ceil(min(image.size) / 200))
    font = load_font(max(10, round(min(image.size) / 16)))
    for corners, _, colour in squares:
        points = [(float(x), float(y)) for x, y in corners]
        for line, thick in ((TEXT, 3 * width), (colour, width)):
            draw.line([*points, points[0], points[1]], fill=line, width=thick)
        (x, y), reach = points[0], 3 * width + 1
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour, outline=TEXT, width=width)
    for corners, text, colour in squares:  # above all lines
        if text:
            x, y = _text_place(corners, draw.textbbox((0, 0), f" {text} ", font, "mm"), image.size)
            draw.rectangle(draw.textbbox((x, y), f" {text} ", font, "mm"), fill=TEXT)
            draw.text((x, y), text, colour, font, "mm")
    return np.asarray(image)


def _text_place(
    corners: NDArray[np.floating], box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float]:
    """Middle (x, y) of a text in the square's lowest corner, within a picture (W, H)."""
    lowest = corners[corners[:, 1].argmax()]
    middle = corners.mean(axis=0)
    at = middle + 0.8 * (lowest - middle)
    return tuple(  # type: ignore[return-value]
        float(min(max(coordinate, -low), side - high))
        for coordinate, low, high, side in zip(at, box[:2], box[2:], size, strict=True)
    )


def draw_names(picture: Pixels, places: Sequence[tuple[float, float, str]]) -> Pixels:
    """Return the picture [H, W, 3] with a name at each place (x, y), below and to the right of it."""
    if not places:
        return picture
    image = Image.fromarray(picture)
    font = load_font(max(10, round(min(image.size) / 24)))
    draw = ImageDraw.Draw(image)
    for x, y, name in places:
        left, top, right, bottom = draw.textbbox((0, 0), name, font)
        at = (max(0.0, min(x, image.width - right - 2)), max(0.0, min(y, image.height - bottom - 2)))
        draw.rectangle((at[0] + left - 2, at[1] + top - 1, at[0] + right + 2, at[1] + bottom + 1), fill=TEXT)
        draw.text(at, name, WHITE, font)
    return np.asarray(image)


def draw_note(picture: Pixels, words: str, squares: Sequence[Square] = ()) -> Pixels:
    """Return the picture [H, W, 3] with a text in a corner; an empty text leaves it as it is.

    The corner is the one where the text covers the least of the squares, the upper left one where all are
    equal. A longer text takes two small lines, and is cut at their end.
    """
    if not words:
        return picture
    image = Image.fromarray(picture)
    font = load_font(max(10, round(min(image.size) / 14)))
    if font.getlength(words) > image.width - 8:
        font = load_font(max(10, round(min(image.size) / 20)))
        room = int((image.width - 8) / font.getlength("n"))
        words = "\n".join(textwrap.wrap(words, max(room, 8), max_lines=2, placeholder="…"))
    draw = ImageDraw.Draw(image)
    box = draw.textbbox((4, 2), words, font)
    width, height = box[2] + 4, box[3] + 4
    right, bottom = image.width - width, image.height - height

    def covered(corner: tuple[float, float]) -> float:
        left, top = corner
        return _covered((left, top, left + width, top + height), squares)

    x, y = min(((0, 0), (right, 0), (0, bottom), (right, bottom)), key=covered)
    draw.rectangle((x, y, x + width, y + height), fill=BAD_COLOUR)
    draw.text((x + 4, y + 2), words, WHITE, font)
    return np.asarray(image)


def _covered(box: tuple[float, float, float, float], squares: Sequence[Square]) -> float:
    """Pixels of the squares, taken as upright boxes, that lie in a box (x0, y0, x1, y1)."""
    total = 0.0
    for square in squares:
        low = square.corners.min(axis=0)
        high = square.corners.max(axis=0)
        sides = np.minimum(high, box[2:]) - np.maximum(low, box[:2])
        total += float(np.prod(np.maximum(sides, 0)))
    return total


def _dash_pattern(line: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Return the pixels of a line [H, W] bool that are drawn: dashes of a length; of short lines all.

    The dashes are squares of a chequerboard. It is turned: no line along an edge or a diagonal of the picture
    stays on squares of the same kind.
    """
    from scipy import ndimage

    rows, columns = np.ogrid[: line.shape[0], : line.shape[1]]
    across = columns * 0.92 - rows * 0.39
    along = columns * 0.39 + rows * 0.92
    drawn = np.asarray((np.floor(across / length) + np.floor(along / length)) % 2 == 0)
    labels, _ = ndimage.label(line, structure=np.ones((3, 3)))
    for place in ndimage.find_objects(labels):
        if max(part.stop - part.start for part in place) < 4 * length:
            around = tuple(slice(max(0, part.start - length), part.stop + length) for part in place)
            drawn[around] = True
    return drawn


def fit_into(image: Drawable, cell: tuple[int, int]) -> Image.Image:
    """Scale an image to fit into `cell` (height, width), proportions kept; RGB."""
    image = _as_image(image)
    scale = min(cell[0] / image.height, cell[1] / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size == image.size:
        return image
    # enlarged a lot, pixels should look like pixels
    resampling = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.BICUBIC
    return image.resize(size, resampling)


def shrink_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Shrink a mask [H, W] to `size`: a region smaller than a pixel there becomes a pixel."""
    grey = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.asarray(grey.resize(size[::-1], Image.Resampling.BOX)) > 0


def save_png(path: str | os.PathLike[str] | IO[bytes], picture: Drawable) -> None:
    """Write a picture as 8-bit PNG, to a path or an open file. FlawscopeError if it cannot be written."""
    _save(_as_image(picture), path, "PNG", compress_level=2)


def save_map(path: Path, values: Values, low: float, high: float) -> None:
    """Write a map [H, W] in the format of the path's suffix. OSError or FlawscopeError if it cannot be.

    .png: 16-bit grey, 0 at `low` and below, 65535 at `high` and above, linear between. .tiff: unscaled
    float32, the layout that MVTec's evaluation code reads. .npy: unscaled float32.
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"the map for {path} is not finite; fit the model again")
    if path.suffix == ".png":
        _check_scale(low, high)
        share = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
        _save(Image.fromarray(np.round(share * 65535).astype(np.uint16)), path, "PNG", compress_level=2)
    elif path.suffix == ".tiff":
        _save(Image.fromarray(values), path, "TIFF")
    else:
        np.save(path, values, allow_pickle=False)


def _save(
    image: Image.Image, path: str | os.PathLike[str] | IO[bytes], file_format: str, **options: int
) -> None:
    try:
        image.save(path, file_format, **options)
    except OSError as error:
        if not isinstance(path, str | os.PathLike):
            raise FlawscopeError(
                f"cannot write a picture: {one_line_message(error)}; check the disk"
            ) from None
        with suppress(OSError):
            Path(path).unlink()  # the rest of a broken write
        raise write_error(Path(path), error) from None


def _check_scale(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"colour scale from {low} to {high}; give two numbers, low below high")


def _colour_indices(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    _check_scale(low, high)
    share = (np.asarray(values, dtype=np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    share = np.nan_to_num(share, copy=False, nan=0.0)
    levels: NDArray[np.uint8] = (np.clip(share, 0, 255, out=share) + np.float32(0.5)).astype(np.uint8)
    return levels


def _covering_geometry(size: tuple[int, int], array: Array) -> Geometry:
    """Geometry of an array [H, W] that covers a whole picture of `size`."""
    height, width = array.shape
    return Geometry(size, (height, width), (height / size[0], width / size[1]), (0.0, 0.0))


def _as_image(image: Drawable) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * np.uint8(255)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        raise InputError(f"image of shape {list(image.shape)}, {image.dtype}; give uint8 [H, W, 3] or [H, W]")
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")


@functools.lru_cache(maxsize=8)
def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font in a size in pixels."""
    return ImageFont.load_default(size=size)
