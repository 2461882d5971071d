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
# share of a side, and pixels, by which tools mark over the border
OVERHANG = 0.01
MIN_OVERHANG = 2.0
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
        draw: Draws the mask [H, W] in a picture of a size.
        reach: Returns points [N, 2] that lie inside a picture of a size, if the mark belongs to it; None: the
            mark has the picture's size. A round or a turned shape may hang over the border: its point is the
            centre.
    """

    draw: Callable[[Size], Mask]
    reach: Callable[[Size], Polygon] | None = None

    def hangs_over(self, size: Size) -> bool:
        """Whether the mark reaches beyond the border by more than a hand slips in a labelling tool."""
        if self.reach is None:
            return False
        points = self.reach(size)
        sides = np.array(size[::-1], float)
        room = np.maximum(MIN_OVERHANG, OVERHANG * sides)
        return bool(((points < -room) | (points > sides + room)).any())


class Mark(NamedTuple):
    """Mark in a picture.

    Attributes:
        draw: Shape of the mark; None where it is left out.
        kind: Name of its label; where it is left out, the reason, such as "caption".
        is_box: Whether it is a box, which marks more than the defect.
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
    """Entry for a picture's path with its suffix."""
    stem = re.sub(r"\.[^./\\]*$", "", name)
    return Entry(stem, size, marks, name[len(stem) :])


def picture_path(address: object) -> str:
    """Return the path in a picture's address without a query; Label Studio's is the path in the query."""
    return re.sub(r"(\.\w+)\?.*|^.*\?d=", r"\1", str(address))  # ^: a long text is read once


def read_size(height: Number, width: Number) -> Size | None:
    """Return height and width of a picture; None where the file does not state them.

    Raises:
        ValueError: A side is negative, or the picture has more than `MAX_PIXELS`.
    """
    size = int(height or 0), int(width or 0)
    if min(size) < 0 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError
    return size if min(size) else None


def to_points(values: ArrayLike) -> Polygon:
    """Return coordinates as points [N, 2] in pixels.

    Raises:
        ValueError: A coordinate is NaN or not below `MAX_COORDINATE`.
    """
    points = np.array(values, float).reshape(-1, 2)
    if not (np.abs(points) < MAX_COORDINATE).all():  # nor is NaN
        raise ValueError
    return points


def box(edges: Iterable[float | str], degrees: float = 0) -> Polygon:
    """Return the corners of a box from its edges x0, y0, x1, y1, turned clockwise around its centre."""
    x0, y0, x1, y1 = map(float, edges)
    corners = to_points([x0, y0, x1, y0, x1, y1, x0, y1])
    return turn(corners, corners.mean(0), degrees)


def ellipse(centre: ArrayLike, radii: ArrayLike, degrees: float = 0.0) -> Polygon:
    """Return an ellipse as a polygon of 180 points, turned clockwise around its centre."""
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    middle = to_points(centre)
    return turn(middle + to_points(radii) * np.stack([np.cos(angles), np.sin(angles)], 1), middle, degrees)


def turn(points: Polygon, around: Polygon, degrees: float) -> Polygon:
    """Turn points clockwise as seen on the picture (y down)."""
    if not abs(degrees) < MAX_COORDINATE:
        raise ValueError
    if not degrees:
        return points
    sine = np.sin(np.radians(degrees))
    cosine = np.cos(np.radians(degrees))
    return to_points(around + (points - around) @ np.array([[cosine, sine], [-sine, cosine]]))


def filled(polygon: Polygon, *, is_loose: bool = False) -> Shape:
    """Return the shape of a polygon; `is_loose` where it is round or turned."""
    return placed(lambda _: polygon, is_loose=is_loose)


def placed(polygon_in: Callable[[Size], Polygon], *, is_loose: bool = False) -> Shape:
    """Shape of a polygon whose place in pixels follows from the picture's size."""

    def draw(size: Size) -> Mask:
        return fill_polygon(polygon_in(size), size)

    def reach(size: Size) -> Polygon:
        polygon = polygon_in(size)
        return polygon.mean(0, keepdims=True) if is_loose else polygon

    return Shape(draw, reach)


def mark_points(points: Polygon, label: str, is_closed: bool) -> Mark:
    """Mark of a polygon, or of a line or points, which are drawn one pixel wide."""
    if not len(points):
        return Mark(None, NO_PLACE)
    draw = fill_polygon if is_closed and len(points) > 2 else draw_line
    return Mark(Shape(partial(draw, points), lambda _: points), label)


def pasted(part: Mask, left: int, top: int) -> Shape:
    """Return the shape of a mask that lies with its upper left corner at (left, top), in pixels."""
    corners = np.array([[left, top], [left + part.shape[1], top + part.shape[0]]], float)
    return Shape(partial(_paste, part, left, top), lambda _: corners)


def _paste(part: Mask, left: int, top: int, size: Size) -> Mask:
    whole = np.zeros(size, np.bool_)
    part = part[max(0, -top) :, max(0, -left) :]
    room = whole[max(0, top) :, max(0, left) :][: part.shape[0], : part.shape[1]]
    room[:] = part[: room.shape[0], : room.shape[1]]
    return whole


def fill_polygon(polygon: Polygon, size: Size) -> Mask:
    """Fill a polygon, [H, W] bool: pixels whose centre lies inside, by the even-odd rule."""
    height, width = size
    crossings = np.zeros((height, width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if y0 == y1:
            continue
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((y0, y1)))
        rows = np.arange(first, last)
        at = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        crossings[rows, np.clip(np.ceil(at - 0.5), 0, width).astype(int)] ^= 1
    inside: Mask = np.bitwise_xor.accumulate(crossings[:, :width], axis=1).astype(np.bool_)
    return inside


def draw_line(points: Polygon, size: Size) -> Mask:
    """Draw a line through points, one pixel wide, [H, W] bool; a single point is drawn as a pixel."""
    canvas = Image.new("1", size[::-1])
    with_first_twice = points[[0, *range(len(points))]]  # a point alone is a line, too
    pixels = [(x, y) for x, y in np.floor(with_first_twice)]
    ImageDraw.Draw(canvas).line(pixels, fill=1)
    return np.asarray(canvas, np.bool_)


# ------------------------------------------------------------------------------------------------ run lengths


def from_runs(runs: NDArray[np.integer], size: Size) -> Mask:
    """A mask [H, W] from COCO's run lengths: down the columns, unmarked pixels first."""
    area = size[0] * size[1]
    if (runs < 0).any() or (runs > area).any() or runs.sum() != area:  # the sum of larger ones wraps around
        raise InputError(f"a mask's run lengths do not make {size[1]}x{size[0]} pixels: export it again")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(size, order="F")


def decompress_runs(text: str) -> NDArray[np.int64]:
    """Runs of COCO's compressed form.

    A character holds six bits from "0" on: five of the number, low ones first, and the sixth says that more
    follow. From the third run on, the number is the difference from the run before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            if shift > 40:
                raise ValueError
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return np.array(runs, np.int64)


def unpack_bitmask(address: str, size: Size) -> Mask:
    """Return a mask [H, W] from Label Studio's PNG in a `data:` address; more than half opaque is marked."""
    image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    if image.size != size[::-1]:
        raise InputError(f"a bitmask does not have {size[1]}x{size[0]} pixels: export it again")
    return np.asarray(image.convert("RGBA"))[..., 3] > 127


def unpack_brush(packed: bytes, size: Size) -> Mask:
    """Return a mask [H, W] from Label Studio's run lengths; more than half opaque is marked.

    They hold the bytes R, G, B, A of each pixel in a stream of bits: the number of values (32), bits of a
    value less 1 (5), and four widths less 1 (4 each). Then runs: whether a value is repeated (1), which width
    their length less 1 has (2), the length, and the value, or as many values.
    https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
    """
    bits = "".join(f"{byte:08b}" for byte in packed)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        if at > len(bits):
            raise InputError("a brush's run lengths are cut off: export them again")
        return int(bits[at - count : at], 2)

    total = read(32)
    width = read(5) + 1
    if total != 4 * size[0] * size[1] or width != 8:
        raise InputError(f"a brush's run lengths do not make {size[1]}x{size[0]} pixels: export them again")
    widths = [read(4) + 1 for _ in range(4)]
    values = bytearray()
    while len(values) < total:
        repeated = read(1)
        length = read(widths[read(2)]) + 1
        values += bytes([read(8)]) * length if repeated else bytes(read(8) for _ in range(length))
    return np.frombuffer(values, np.uint8, total).reshape(*size, 4)[..., 3] > 127
