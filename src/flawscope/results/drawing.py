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
    """Return the colour map [256, 3] uint8, dark to bright in equal steps of CIE lightness."""
    anchors = np.asarray(_ANCHORS, dtype=np.float64)
    anchor_positions = np.arange(len(anchors))
    # first a fine map between the anchors, then 256 of its colours at equal steps of lightness
    positions = np.linspace(0, len(anchors) - 1, 4096)
    colours = np.stack([np.interp(positions, anchor_positions, channel) for channel in anchors.T], axis=1)
    colour_lightness = lightness(colours)  # rises throughout
    even_lightness = np.linspace(colour_lightness[0], colour_lightness[-1], 256)
    table = np.stack([np.interp(even_lightness, colour_lightness, channel) for channel in colours.T], axis=1)
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
    """Return values [H, W] as colours [H, W, 3] uint8: darkest at `low`, brightest at `high`, NaN grey."""
    colours = colour_table()[_colour_indices(values, low, high)]
    colours[np.isnan(values)] = _NAN_GREY
    return colours


def overlay(picture: Pixels, values: Values, low: float, high: float, *, opacity: float = 0.5) -> Pixels:
    """Return the photo [H, W, 3] uint8 with the map `values` [H, W] drawn over it as colours.

    The colours are invisible at `low`. In the middle of the scale, which is the mask threshold, they have the
    `opacity` (0..1). At `high` and above they are nearly invisible again, so that a defect can be seen inside
    its halo.
    """
    height, width = picture.shape[:2]
    shares_of_scale = np.linspace(0, 1, 256, dtype=np.float32)
    alpha = np.float32(opacity) * _opacity_curve(shares_of_scale)
    # for each index of the colour table, the weight of the photo, and the weighted colour of the map
    photo_weights = (1 - alpha)[:, None]
    weighted_colours = colour_table() * alpha[:, None] + np.float32(0.5)  # 0.5: uint8 cuts decimals off
    out = np.empty_like(picture, order="C")
    block_height = max(1, (1 << 18) // max(1, width))
    # the rows are blended in blocks: a float copy of a photo of 100 megapixels would take 1.2 GB
    for start in range(0, height, block_height):
        block = slice(start, start + block_height)
        indices = _colour_indices(values[block], low, high)
        blended = picture[block] * photo_weights[indices]
        blended += weighted_colours[indices]
        out[block] = blended
    return out


def _opacity_curve(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the opacity at each share 0..1 of the colour scale: 0..1, largest in the middle of the scale."""

    def smooth_step(x: NDArray[np.float32]) -> NDArray[np.float32]:
        x = np.clip(x, 0, 1)
        return x * x * (3 - 2 * x)

    # the opacity rises to 1 in the middle of the scale, and falls to `_PEAK_OPACITY` at its end
    rise = smooth_step((share - np.float32(_TRANSPARENT_SHARE)) / np.float32(0.5 - _TRANSPARENT_SHARE))
    fall = smooth_step(2 * share - 1)
    return rise * (1 - np.float32(1 - _PEAK_OPACITY) * fall)


def outline_colour(tolerated: bool) -> Colour:
    """Return the colour of a part's outlines: yellow where the part is within tolerance, else cyan."""
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
        picture: The picture, [H, W, 3].
        mask: [H, W] bool, the mask at the picture's size. A mask of another size is stretched over the
            picture.
        colour: Colour of the line.
        width: Width of the line in pixels; None: 1/150 of the picture's shorter side, so that a thumbnail of
            a large picture still shows the line.
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
    window = (  # the part of the picture where something is drawn
        slice(max(0, rows[0] - reach), rows[-1] + reach + 1),
        slice(max(0, columns[0] - reach), columns[-1] + reach + 1),
    )
    inside = mask[window]
    window_picture = out[window]  # a view: drawing on it changes `out`
    from scipy import ndimage  # slow to import

    # + 0.5 rounds the corners of the line and the rim
    squared_distances = ndimage.distance_transform_edt(~inside) ** 2
    line_pixels = squared_distances < (width + 0.5) ** 2 + 0.5
    rim_pixels = squared_distances < (reach + 0.5) ** 2 + 0.5
    rim_pixels &= ~line_pixels
    line_pixels &= ~inside
    # At the picture's border there is no room outside: there the line lies on the mask.
    # for each row of the window, whether it is near the picture's border; then the same for each column
    near_border = []
    for length, span in zip(size, window, strict=True):
        indices = np.arange(length)
        border_distances = np.minimum(indices, length - 1 - indices)
        near_border.append((border_distances < width)[span])
    rows_near, columns_near = near_border
    line_pixels |= inside & (rows_near[:, None] | columns_near)
    if dashed:
        dashes = _dash_pattern(line_pixels, 4 * reach)
        rim_pixels = rim_pixels & dashes
        line_pixels = line_pixels & dashes
    window_picture[rim_pixels] //= _RIM_DARKENING
    window_picture[line_pixels] = colour
    return out


class Square(NamedTuple):
    """Square around a part.

    Attributes:
        corners: [4, 2], corners (x, y); the first is the upper left one of the reference.
        text: Text beside the square; empty: none.
        colour: Colour of the lines.
    """

    corners: NDArray[np.floating]
    text: str = ""
    colour: Colour = POSE_COLOUR

    def scaled(self, across: float, down: float) -> Square:
        """Return the square for a picture that is `across` times as wide and `down` times as high."""
        return self._replace(corners=self.corners * (across, down))


def draw_squares(picture: Pixels, squares: Sequence[Square]) -> Pixels:
    """Return a copy of the picture [H, W, 3] with squares and their texts.

    A dot at the first corner shows how the part is turned, and whether the part is mirrored.
    """
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    width = max(1, math.ceil(min(image.size) / 200))
    font = load_font(max(10, round(min(image.size) / 16)))
    for corners, _, colour in squares:
        points = [(float(x), float(y)) for x, y in corners]
        closed_line = [*points, points[0], points[1]]  # the first side twice, so that all corners are joined
        draw.line(closed_line, fill=TEXT, width=3 * width)  # a dark rim
        draw.line(closed_line, fill=colour, width=width)
        x, y = points[0]
        radius = 3 * width + 1
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=TEXT, width=width)
    for corners, text, colour in squares:  # texts come last, above all lines
        if not text:
            continue
        padded_text = f" {text} "
        # "mm": a text is placed by its middle
        x, y = _text_place(corners, draw.textbbox((0, 0), padded_text, font, anchor="mm"), image.size)
        draw.rectangle(draw.textbbox((x, y), padded_text, font, anchor="mm"), fill=TEXT)
        draw.text((x, y), text, colour, font, anchor="mm")
    return np.asarray(image)


def _text_place(
    corners: NDArray[np.floating], box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float]:
    """Return the middle (x, y) of a text near the square's lowest corner, where it fits into the picture.

    Args:
        corners: [4, 2], corners (x, y) of the square.
        box: Box x0, y0, x1, y1 of the text around its middle at (0, 0).
        size: Width and height of the picture.
    """
    lowest_corner = corners[corners[:, 1].argmax()]
    middle = corners.mean(axis=0)
    x, y = middle + 0.8 * (lowest_corner - middle)
    left, top, right, bottom = box
    width, height = size
    # moved to the right and down to enter the picture, then to the left and up to stay in it
    inside_x = min(max(x, -left), width - right)
    inside_y = min(max(y, -top), height - bottom)
    return float(inside_x), float(inside_y)


def draw_names(picture: Pixels, places: Sequence[tuple[float, float, str]]) -> Pixels:
    """Return the picture [H, W, 3] with names written in it.

    Args:
        picture: The picture.
        places: Points x, y, each with a name, which is drawn below and to the right of the point.
    """
    if not places:
        return picture
    image = Image.fromarray(picture)
    font = load_font(max(10, round(min(image.size) / 24)))
    draw = ImageDraw.Draw(image)
    for x, y, name in places:
        left, top, right, bottom = draw.textbbox((0, 0), name, font)
        # moved to the left and up where the text would leave the picture
        text_x = max(0.0, min(x, image.width - right - 2))
        text_y = max(0.0, min(y, image.height - bottom - 2))
        background = (text_x + left - 2, text_y + top - 1, text_x + right + 2, text_y + bottom + 1)
        draw.rectangle(background, fill=TEXT)
        draw.text((text_x, text_y), name, WHITE, font)
    return np.asarray(image)


def draw_note(picture: Pixels, words: str, squares: Sequence[Square] = ()) -> Pixels:
    """Return the picture [H, W, 3] with a text in a corner; an empty text leaves it as it is.

    The text stands in the corner where it covers the smallest area of squares; if all corners are equal, in
    the upper left one. A text that is too long for one line is written in a smaller font, in two lines at
    most; what does not fit is cut off.
    """
    if not words:
        return picture
    image = Image.fromarray(picture)
    font = load_font(max(10, round(min(image.size) / 14)))
    if font.getlength(words) > image.width - 8:
        font = load_font(max(10, round(min(image.size) / 20)))
        line_length = int((image.width - 8) / font.getlength("n"))
        words = "\n".join(textwrap.wrap(words, max(line_length, 8), max_lines=2, placeholder="…"))
    draw = ImageDraw.Draw(image)
    _, _, text_right, text_bottom = draw.textbbox((4, 2), words, font)
    width = text_right + 4
    height = text_bottom + 4
    right = image.width - width
    bottom = image.height - height
    # x, y of the note in each corner
    places: list[tuple[float, float]] = [(0, 0), (right, 0), (0, bottom), (right, bottom)]

    def covered_pixels(place: tuple[float, float]) -> float:
        left, top = place
        return _covered((left, top, left + width, top + height), squares)

    x, y = min(places, key=covered_pixels)
    draw.rectangle((x, y, x + width, y + height), fill=BAD_COLOUR)
    draw.text((x + 4, y + 2), words, WHITE, font)
    return np.asarray(image)


def _covered(box: tuple[float, float, float, float], squares: Sequence[Square]) -> float:
    """Return the area of squares that a box (x0, y0, x1, y1) covers, in pixels.

    A turned square counts as its upright bounding box.
    """
    covered_area = 0.0
    for square in squares:
        upper_left = square.corners.min(axis=0)
        lower_right = square.corners.max(axis=0)
        overlap = np.minimum(lower_right, box[2:]) - np.maximum(upper_left, box[:2])  # width, height
        covered_area += float(np.prod(np.maximum(overlap, 0)))
    return covered_area


def _dash_pattern(line: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Return a mask [H, W] of the pixels where a dashed line is drawn; a short line has no gaps.

    The mask is a chequerboard: the line is drawn on every other field. The board is turned by 23°, so that a
    line along an edge or a diagonal of the picture also crosses both kinds of fields.

    Args:
        line: [H, W] bool, pixels of the line.
        length: Side of a field in pixels, which is about the length of a dash.
    """
    from scipy import ndimage

    rows, columns = np.ogrid[: line.shape[0], : line.shape[1]]
    # 0.92 is the cosine of 23°, 0.39 its sine
    board_x = columns * 0.92 - rows * 0.39
    board_y = columns * 0.39 + rows * 0.92
    drawn = np.asarray((np.floor(board_x / length) + np.floor(board_y / length)) % 2 == 0)
    labels, _ = ndimage.label(line, structure=np.ones((3, 3)))
    for box in ndimage.find_objects(labels):
        longer_side = max(span.stop - span.start for span in box)
        if longer_side < 4 * length:
            enlarged_box = tuple(slice(max(0, span.start - length), span.stop + length) for span in box)
            drawn[enlarged_box] = True
    return drawn


def fit_into(image: Drawable, cell: tuple[int, int]) -> Image.Image:
    """Return an image as RGB, scaled to fit into `cell` (height, width); its proportions stay."""
    image = _as_image(image)
    cell_height, cell_width = cell
    scale = min(cell_height / image.height, cell_width / image.width)
    new_size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if new_size == image.size:
        return image
    # in a picture that is enlarged a lot, single pixels stay visible
    resampling = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.BICUBIC
    return image.resize(new_size, resampling)


def shrink_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Shrink a mask [H, W] to `size`; a region that would be smaller than a pixel becomes a pixel."""
    grey = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.asarray(grey.resize(size[::-1], Image.Resampling.BOX)) > 0


def save_png(path: str | os.PathLike[str] | IO[bytes], picture: Drawable) -> None:
    """Write a picture as 8-bit PNG, to a path or an open file. FlawscopeError if it cannot be written."""
    _save(_as_image(picture), path, "PNG", compress_level=2)


def save_map(path: Path, values: Values, low: float, high: float) -> None:
    """Write a map [H, W] in the format of the path's suffix.

    A .png is 16-bit grey: 0 at `low` and below, 65535 at `high` and above, linear between. A .tiff has the
    unscaled values as float32, as MVTec's evaluation code reads them. A .npy has the unscaled values as
    float32.

    Raises:
        InputError: A value is not finite.
        FlawscopeError: The .png or .tiff file cannot be written.
        OSError: The .npy file cannot be written.
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
    """Save an image with Pillow's `options` of the format; remove the file if it cannot be written.

    Raises:
        FlawscopeError: The file cannot be written.
    """
    try:
        image.save(path, file_format, **options)
    except OSError as error:
        if not isinstance(path, str | os.PathLike):
            raise FlawscopeError(
                f"cannot write a picture: {one_line_message(error)}; check the disk"
            ) from None
        with suppress(OSError):
            Path(path).unlink()  # the file may be incomplete
        raise write_error(Path(path), error) from None


def _check_scale(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"colour scale from {low} to {high}; give two numbers, low below high")


def _colour_indices(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """Return each value's index in the colour table: 0 at `low` and below, 255 at `high`; NaN as `low`."""
    _check_scale(low, high)
    scaled = (np.asarray(values, dtype=np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    scaled = np.nan_to_num(scaled, copy=False, nan=0.0)
    clipped = np.clip(scaled, 0, 255, out=scaled)
    indices: NDArray[np.uint8] = (clipped + np.float32(0.5)).astype(np.uint8)  # rounded
    return indices


def _covering_geometry(size: tuple[int, int], array: Array) -> Geometry:
    """Geometry of an array [H, W] that covers a whole picture of `size`."""
    height, width = array.shape
    return Geometry(size, (height, width), (height / size[0], width / size[1]), (0.0, 0.0))


def _as_image(image: Drawable) -> Image.Image:
    """Return an RGB image of the picture; raise InputError for an array of another form than `Drawable`."""
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
