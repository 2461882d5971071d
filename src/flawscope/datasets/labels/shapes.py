"""Draws what labelling tools mark: polygons, ellipses, lines, boxes and run lengths, as masks [H, W] bool."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from flawscope.errors import InputError

MAX_PIXELS = 1 << 30  # of a picture by its labels: no file makes a larger mask
MAX_COORDINATE = 1e7
# How far marks may reach beyond the border: a share of the side, and at least some pixels
OVERHANG = 0.01
MIN_OVERHANG = 2.0
ELLIPSE_POINTS = 180
OPAQUE = 127  # level of the alpha channel above which a pixel is marked
NO_PLACE = "mark without a place"
NO_DEFECT = ("background", "ignore")  # labels of LabelMe, CVAT and others, also with underscores around them

Number = float | str | None  # as files of labels write it; None where they leave it out
Size = tuple[int, int]  # H, W
Mask = NDArray[np.bool_]
Polygon = NDArray[np.float64]  # [N, 2]: x, y in pixels


@dataclass(frozen=True, eq=False)
class Shape:
    """Mark that can be drawn.

    Attributes:
        draw: Function of a picture's size that returns the mask [H, W].
        reach: Function of a picture's size that returns those points [N, 2] of the mark that must lie in the
            picture. These are the corners; for a round or turned shape, which may reach beyond the border,
            the centre. None: the mark has the size of the picture.
    """

    draw: Callable[[Size], Mask]
    reach: Callable[[Size], Polygon] | None = None

    def hangs_over(self, size: Size) -> bool:
        """Whether the mark reaches beyond the border by more than is usual with labelling tools."""
        if self.reach is None:
            return False
        points = self.reach(size)
        height, width = size
        sides = np.array([width, height], float)
        tolerance = np.maximum(MIN_OVERHANG, OVERHANG * sides)
        is_outside = (points < -tolerance) | (points > sides + tolerance)
        return bool(is_outside.any())


class Mark(NamedTuple):
    """Mark in a picture.

    Attributes:
        draw: Shape of the mark; None where the mark is left out.
        kind: Name of the mark's label; where the mark is left out, the reason, such as "caption".
        is_box: Whether the mark is a box, which holds more than the defect.
    """

    draw: Shape | None
    kind: str
    is_box: bool = False


class Entry(NamedTuple):
    """Entry of a label file for a picture.

    Attributes:
        name: Path of the picture in the file, without suffix.
        size: Height and width of the picture; None where the file does not state it.
        marks: Marks in the picture.
        suffix: Suffix of the picture, where the file states it.
        about: Texts on the whole picture, each under the name of a column, a tag or a question.
    """

    name: str
    size: Size | None
    marks: list[Mark]
    suffix: str = ""
    about: tuple[tuple[str, str], ...] = ()


def name_entry(name: str, size: Size | None, marks: list[Mark]) -> Entry:
    """Return the entry for a picture, with its path `name` divided into stem and suffix."""
    stem = re.sub(r"\.[^./\\]*$", "", name)
    suffix = name[len(stem) :]
    return Entry(stem, size, marks, suffix)


def picture_path(address: object) -> str:
    """Return the path in a picture's address, without a query.

    Label Studio's addresses of local files, such as /data/local-files/?d=PATH, have the path in the query.
    """
    # group 1 is a suffix before a query, or is empty where the query has the path;
    # without "^", ".*" would be tried from each character of a long text
    return re.sub(r"(\.\w+)\?.*|^.*\?d=", r"\1", str(address))


def read_size(height: Number, width: Number) -> Size | None:
    """Return height and width of a picture as numbers; None where the file does not state both.

    Raises:
        ValueError: A side is negative or no number, or the picture has more than `MAX_PIXELS`.
    """
    height_pixels, width_pixels = int(height or 0), int(width or 0)
    if height_pixels < 0 or width_pixels < 0 or height_pixels * width_pixels > MAX_PIXELS:
        raise ValueError
    return (height_pixels, width_pixels) if height_pixels and width_pixels else None


def to_points(values: ArrayLike) -> Polygon:
    """Return coordinates as points [N, 2] in pixels.

    Raises:
        ValueError: A coordinate is NaN or not below `MAX_COORDINATE`.
    """
    points = np.array(values, float).reshape(-1, 2)
    is_valid = np.abs(points) < MAX_COORDINATE  # false for NaN
    if not is_valid.all():
        raise ValueError
    return points


def box(edges: Iterable[float | str], degrees: float = 0) -> Polygon:
    """Return the corners of a box, turned around its centre.

    Args:
        edges: Edges x0, y0, x1, y1 of the box before it is turned.
        degrees: Angle, clockwise.
    """
    x0, y0, x1, y1 = map(float, edges)
    corners = to_points([x0, y0, x1, y0, x1, y1, x0, y1])
    return turn(corners, corners.mean(0), degrees)


def ellipse(centre: ArrayLike, radii: ArrayLike, degrees: float = 0.0) -> Polygon:
    """Return an ellipse as a polygon of `ELLIPSE_POINTS` points.

    Args:
        centre: Its centre x, y.
        radii: Its radii along x and y, before it is turned.
        degrees: Angle by which it is turned around its centre, clockwise.
    """
    angles = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)
    unit_circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    centre_point = to_points(centre)
    upright = centre_point + to_points(radii) * unit_circle
    return turn(upright, centre_point, degrees)


def turn(points: Polygon, centre: Polygon, degrees: float) -> Polygon:
    """Return points turned around a point, clockwise on the picture, where y points down.

    Args:
        points: Points [N, 2] to turn.
        centre: Point x, y around which they are turned.
        degrees: Angle.

    Raises:
        ValueError: `degrees` is NaN or too large.
    """
    if not abs(degrees) < MAX_COORDINATE:  # true for NaN, too
        raise ValueError
    if not degrees:
        return points
    sine = np.sin(np.radians(degrees))
    cosine = np.cos(np.radians(degrees))
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    return to_points(centre + (points - centre) @ rotation)


def filled(polygon: Polygon, *, is_loose: bool = False) -> Shape:
    """Return the shape of a polygon in pixels; `is_loose` is as in `placed`."""
    return placed(lambda _: polygon, is_loose=is_loose)


def placed(polygon_in: Callable[[Size], Polygon], *, is_loose: bool = False) -> Shape:
    """Return the shape of a polygon whose coordinates depend on the picture's size.

    Args:
        polygon_in: Function of the picture's size (H, W) that returns the polygon in pixels.
        is_loose: Whether the shape is round or turned. It may reach beyond the border: only its centre must
            lie in the picture.
    """

    def draw(size: Size) -> Mask:
        return fill_polygon(polygon_in(size), size)

    def reach(size: Size) -> Polygon:
        polygon = polygon_in(size)
        return polygon.mean(0, keepdims=True) if is_loose else polygon

    return Shape(draw, reach)


def mark_points(points: Polygon, label: str, is_closed: bool) -> Mark:
    """Return the mark of a filled polygon, or of a line one pixel wide.

    Args:
        points: Points [N, 2] in pixels.
        label: Name of the mark's label.
        is_closed: Whether the points are corners of a polygon. If not, or if there are fewer than three, they
            are joined by a line.
    """
    if not len(points):
        return Mark(draw=None, kind=NO_PLACE)
    draw = fill_polygon if is_closed and len(points) > 2 else draw_line
    # the points are in pixels, so `reach` needs no size of the picture
    return Mark(Shape(draw=partial(draw, points), reach=lambda _: points), label)


def pasted(part: Mask, left: int, top: int) -> Shape:
    """Return the shape of a mask whose upper left corner lies at (left, top) in the picture, in pixels."""
    height, width = part.shape
    corners = np.array([[left, top], [left + width, top + height]], float)
    return Shape(draw=partial(_paste, part, left, top), reach=lambda _: corners)


def _paste(part: Mask, left: int, top: int, size: Size) -> Mask:
    """Return a mask of the picture's size with `part` at (left, top), cut off at the border."""
    mask = np.zeros(size, np.bool_)
    part_from_border = part[max(0, -top) :, max(0, -left) :]  # without rows above and columns to the left
    height, width = part_from_border.shape
    mask_from_corner = mask[max(0, top) :, max(0, left) :]
    target = mask_from_corner[:height, :width]  # a view of the mask
    target_height, target_width = target.shape
    target[:] = part_from_border[:target_height, :target_width]
    return mask


def fill_polygon(polygon: Polygon, size: Size) -> Mask:
    """Return the mask [H, W] of the pixels whose centres lie in a polygon, by the even-odd rule.

    A pixel is inside if an odd number of edges cross its row to the left of its centre.
    """
    height, width = size
    # [r, c] is 1 where an odd number of edges cross row r between the centres of pixels c - 1 and c;
    # the last column takes the crossings to the right of all centres
    crossings = np.zeros((height, width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if y0 == y1:
            continue
        top, bottom = sorted((y0, y1))
        first_row, end_row = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in (top, bottom))
        rows = np.arange(first_row, end_row)  # rows whose centres, at y = row + 0.5, the edge crosses
        crossing_x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(crossing_x - 0.5), 0, width).astype(int)
        crossings[rows, columns] ^= 1
    is_inside: Mask = np.bitwise_xor.accumulate(crossings[:, :width], axis=1).astype(np.bool_)
    return is_inside


def draw_line(points: Polygon, size: Size) -> Mask:
    """Return the mask [H, W] of a line through points, one pixel wide; of a single point, of its pixel."""
    canvas = Image.new("1", size[::-1])
    with_first_twice = points[[0, *range(len(points))]]  # a line needs two points
    pixels = [(x, y) for x, y in np.floor(with_first_twice)]
    ImageDraw.Draw(canvas).line(pixels, fill=1)
    return np.asarray(canvas, np.bool_)


# ------------------------------------------------------------------------------------------------ run lengths


def from_runs(runs: NDArray[np.integer], size: Size) -> Mask:
    """Return a mask [H, W] from COCO's run lengths.

    Runs of unmarked and of marked pixels alternate, down the columns; the first run is unmarked.

    Raises:
        InputError: The runs do not make a mask of this size.
    """
    height, width = size
    area = height * width
    # each run is checked, too, because the sum of very large runs may overflow and equal the area
    if (runs < 0).any() or (runs > area).any() or runs.sum() != area:
        raise InputError(f"a mask's run lengths do not make {width}x{height} pixels: export it again")
    is_marked_run = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_marked_run, runs).reshape(size, order="F")


def decompress_runs(text: str) -> NDArray[np.int64]:
    """Return the runs of COCO's compressed form (`rleToString` in cocoapi/common/maskApi.c).

    A character stands for six bits, its code minus that of "0": five bits of a number, and a bit that says
    whether more characters of the number follow. The lowest five bits of a number come first. The first three
    numbers are runs. Each later number is a run minus the run two places before it.

    Raises:
        ValueError: A number has more than 45 bits.
    """
    runs: list[int] = []
    number = bit_count = 0
    for character in text:
        bits = ord(character) - ord("0")
        number |= (bits & 0b11111) << bit_count
        bit_count += 5
        if bits & 0b100000:  # more follow
            if bit_count > 40:  # with the next character, the number has more than 45 bits
                raise ValueError
            continue
        is_negative = bits & 0b10000
        if is_negative:
            number -= 1 << bit_count
        if len(runs) > 2:
            number += runs[-2]
        runs.append(number)
        number = bit_count = 0
    return np.array(runs, np.int64)


def unpack_bitmask(address: str, size: Size) -> Mask:
    """Return a mask [H, W] from Label Studio's PNG in a `data:` address.

    Pixels that are more than half opaque are marked.

    Raises:
        InputError: The PNG has another size.
    """
    height, width = size
    _, _, data = address.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    if image.size != (width, height):
        raise InputError(f"a bitmask does not have {width}x{height} pixels: export it again")
    return np.asarray(image.convert("RGBA"))[..., 3] > OPAQUE


def unpack_brush(packed: bytes, size: Size) -> Mask:
    """Return a mask [H, W] from Label Studio's run lengths.

    Pixels that are more than half opaque are marked. The run lengths hold the bytes R, G, B, A of each pixel,
    in a stream of bits (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack). The stream begins
    with:

    - the number of values (32 bits),
    - the size of a value in bits, less 1 (5 bits),
    - four possible sizes of a run's length in bits, each less 1 (4 bits each).

    Then come the runs, each with:

    - whether a value is repeated (1 bit),
    - which of the four sizes the run's length has (2 bits),
    - the length of the run, less 1 (in that size),
    - the repeated value, or as many values as the run is long.

    Raises:
        InputError: The stream is cut off, or is not of a picture of this size.
    """
    bits = _BitReader(packed)
    height, width = size
    value_count = bits.read(32)
    value_bits = bits.read(5) + 1
    if value_count != 4 * height * width or value_bits != 8:
        raise InputError(f"a brush's run lengths do not make {width}x{height} pixels: export them again")
    possible_length_bits = [bits.read(4) + 1 for _ in range(4)]
    values = bytearray()
    while len(values) < value_count:
        is_repeated = bits.read(1)
        length_bits = possible_length_bits[bits.read(2)]
        length = bits.read(length_bits) + 1
        if is_repeated:
            values += bytes([bits.read(8)]) * length
        else:
            values += bytes(bits.read(8) for _ in range(length))
    pixels = np.frombuffer(values, np.uint8, value_count).reshape(height, width, 4)
    return pixels[..., 3] > OPAQUE


class _BitReader:
    """Reads numbers of any width from a stream of bits, the highest bit first."""

    def __init__(self, data: bytes):
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._position = 0

    def read(self, count: int) -> int:
        """Return the number in the next `count` bits.

        Raises:
            InputError: The stream has fewer bits left.
        """
        end = self._position + count
        if end > len(self._bits):
            raise InputError("a brush's run lengths are cut off: export them again")
        number = int(self._bits[self._position : end], 2)
        self._position = end
        return number
