"""Finds pictures with missing pixels that can be decoded nevertheless. Torch-free.

- `jpeg` finds missing pixels of a JPEG.
- A cut: a transfer of the file ended early. The rest is zeros or other equal values, which begin in the
  middle of a row.
- A hole: sectors of a disk or pages of memory were lost. A stretch of the file's bytes is 0 or 255, and
  begins or ends within a pixel, or at the bounds of sectors. Areas of one colour that belong to the picture
  begin and end with pixels, anywhere in the file.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.pictures import jpeg
from flawscope.pictures.files import TRUNCATED, png_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

CUT = "the file is damaged (a stretch of its pixels is empty, from within a row on)"
HOLE = "the file is damaged (a stretch of its bytes is empty)"
_CHECKSUM = "the file is damaged (a checksum differs)"
_EXACT = frozenset({"PNG", "BMP", "DIB", "TIFF", "PPM", "GIF", "WEBP"})  # formats without loss
_WEBP_SPARE = 8  # number of bytes that an encoder may leave at the end
_EMPTY = bytes(64)  # end of a cut AVIF: complete data never end with it
_NEAR = 16  # number of pixels beside the end of a transfer that are compared
_MIN_CUT = 8  # fewest pixels of a row that are missing
_MAX_EQUAL = 0.1  # share of the pixels above the missing pixels that may be equal to these
_MIN_VALUES = 3  # fewest different values among `_NEAR` pixels; areas of one colour have fewer
_HOLE = 128  # bytes of the shortest stretch that may be a hole
_SECTOR = 512  # bytes of the smallest sector of a disk
_TORN_PIXELS = 2  # number of torn pixels of a hole, at most: one at each end
_ROWS_AT_ONCE = 16
# A pixel is like its neighbour if their values differ by less than `_STEP` + `_SHARE` of the value
_STEP = 16
_SHARE = 0.2
_FILLS = {0: re.compile(b"\0+"), 255: re.compile(b"\xff+")}
_LOST_LEVEL = 16  # smallest difference, of 255, of a torn pixel's lost channels from its neighbours'
_PIXELS = {  # bytes of a pixel of uncompressed files, by Pillow's name of the layout
    **dict.fromkeys(("L", "P"), 1), "I;16": 2, **dict.fromkeys(("RGB", "BGR"), 3),
    **dict.fromkeys(("RGBA", "RGBX", "BGRA", "BGRX", "CMYK"), 4),
}  # fmt: skip
# A row is like the row above if they differ by less than this share of the difference to the equal values
_SHARP = 0.75


# A tile of Pillow: codec, box in the picture, offset in the file, arguments. The arguments of the codec "raw"
# are the layout of pixels, the bytes of a row, and the direction of rows.
Tile = tuple[str, tuple[int, int, int, int], int, str | tuple[str, int, int]]


def load(image: Image.Image) -> str:
    """Load the pixels of an open image, and look for damage of its file.

    Returns:
        The damage in words; empty where none is found.

    Raises:
        OSError: The file is so damaged that it cannot be loaded; Pillow raises other errors, too.
    """
    tiles: Sequence[Tile] = getattr(image, "tile", ())
    kind = image.format or ""
    data = _file_data(image)
    if kind in ("JPEG", "MPO") and data and len(tiles) == 1:
        return jpeg.load(image, data)
    fault = _excess_rows_fault(kind, tiles, data) or _stored_fault(image, tiles, data)
    if fault:
        return fault
    upwards = _is_upwards(tiles)
    image.load()
    if not data:
        return ""
    if kind in _EXACT and _ends_in_cut(image, upwards):
        return CUT
    find_fault_of_format = _FAULTS.get(kind)
    return find_fault_of_format(data) if find_fault_of_format else ""


def _is_upwards(tiles: Sequence[Tile]) -> bool:
    """Whether a picture's lowest row is stored first."""
    if not tiles:
        return False
    _, _, _, arguments = tiles[0]
    return isinstance(arguments, tuple) and arguments[-1] == -1


def _ends_in_cut(image: Image.Image, upwards: bool) -> bool:
    """Whether the transfer of a loaded image ended within its rows (`has_cut`).

    Args:
        image: The image.
        upwards: Whether the lowest row is stored first.
    """
    if not _may_be_cut(image):
        return False
    pixels = np.asarray(image)
    return has_cut(pixels[::-1] if upwards else pixels)


def _file_data(image: Image.Image) -> bytes:
    """Return the bytes of the file of an open image; empty where the image was not opened from a file."""
    stream: IO[bytes] | None = getattr(image, "fp", None)
    if stream is None:
        return b""
    position = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(position)
    return data


def _excess_rows_fault(kind: str, tiles: Sequence[Tile], data: bytes) -> str:
    """Return the fault of a BMP or PPM that holds more rows than its header states; empty: no fault.

    A BMP states its size in several places. The smallest of these sizes counts, because programs that append
    something to a file do not change all of them.
    """
    if kind not in ("BMP", "PPM") or len(tiles) != 1:
        return ""
    codec, (_, _, width, height), offset, arguments = tiles[0]
    if codec != "raw":
        return ""
    sizes = [len(data) - offset]
    if kind == "BMP" and isinstance(arguments, tuple):
        _, stride, _ = arguments
        sizes += _sizes_in_header(data, offset)
    else:
        stride = width * _bytes_of_pixel(arguments, data)
    return jpeg.TOO_MUCH if min(sizes) >= stride * (height + 1) else ""


def _sizes_in_header(data: bytes, offset: int) -> list[int]:
    """Return the sizes in bytes of all pixels that follow from a BMP's header.

    One is the stated size of the file less the position of the pixels, the other is the stated size of the
    pixels. A size of 0 states nothing, and is left out.

    Args:
        data: Bytes of the file.
        offset: Position of the pixels in the file.
    """
    size_by_file = int.from_bytes(data[2:6], "little") - offset
    size_of_pixels = int.from_bytes(data[34:38], "little")
    return [size for size in (size_by_file, size_of_pixels) if size > 0]


def _bytes_of_pixel(arguments: str | tuple[str, int, int], data: bytes) -> int:
    """Return the number of bytes of a pixel of a PPM, which has one or three channels of 8 or 16 bits.

    Args:
        arguments: Arguments of Pillow's tile.
        data: Bytes of the file.
    """
    mode = arguments[0] if isinstance(arguments, tuple) else arguments
    channels = 3 if data[1:2] == b"6" else 1
    return channels * (2 if "16" in mode else 1)


# ------------------------------------------------------------------------------------------------------ rows


def _may_be_cut(image: Image.Image) -> bool:
    """Whether a picture has rows whose first, middle and last pixel are equal, as a cut has. A quick test."""
    width, height = image.size
    columns = [np.asarray(image.crop((x, 0, x + 1, height))) for x in (0, width // 2, width - 1)]
    return any(_equal_rows(np.concatenate(columns, axis=1)))


def _equal_rows(values: NDArray[np.number]) -> NDArray[np.bool_]:
    """Return a mask [H] of the rows of [H, W] or [H, W, C] that have a single value."""
    flat = values.reshape(len(values), -1)
    return np.asarray((flat == flat[:, :1]).all(1))


def has_cut(values: NDArray[np.number]) -> bool:
    """Whether a picture has a stretch of missing rows, because a transfer of its file ended early.

    Missing pixels have one value. They begin in the middle of a row; if other rows follow them, they also end
    in the middle of a row. Areas of one value that belong to the picture, such as bands and backgrounds,
    begin with a row, or at an edge that the row above shows, too.

    Args:
        values: Picture, [H, W] or [H, W, C], with rows in the order of the file.
    """
    rows = values.reshape(*values.shape[:2], -1)
    for begin, end in _runs(_equal_rows(rows), rows[:, 0, 0]):
        above = rows[:begin]
        # turned by 180 degrees, so that `_ends_within` finds the equal values at the end of these rows, too
        below = rows[end:][::-1, ::-1]
        blocks = [block for block in (above, below) if len(block)]
        value = rows[begin, 0, 0]
        if blocks and all(_ends_within(block, value) for block in blocks):
            return True
    return False


def _runs(has_one_value: NDArray[np.bool_], values: NDArray[np.number]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each run of consecutive rows that are filled with one and the same value.

    Args:
        has_one_value: [H], True for rows that have a single value.
        values: [H], first value of each row.
    """
    begins_or_ends = has_one_value[1:] != has_one_value[:-1]
    has_new_value = has_one_value[1:] & (values[1:] != values[:-1])
    starts = np.flatnonzero(begins_or_ends | has_new_value) + 1
    bounds = [0, *starts.tolist(), len(has_one_value)]
    for begin, end in pairwise(bounds):
        if has_one_value[begin]:
            yield begin, end


def _ends_within(rows: NDArray[np.number], value: np.number) -> bool:
    """Whether a picture breaks off in the middle of its last row, whose rest has a single value.

    The row above must show no edge at the place where the last row breaks off: up to that place, both rows
    are alike; after that place, the row above has other values than the single one.

    Args:
        rows: Rows [H, W, C] of the picture.
        value: Value of missing pixels.
    """
    if len(rows) < 2:
        return False
    last_row = rows[-1].astype(np.float64)
    row_above = rows[-2].astype(np.float64)
    is_there = (rows[-1] != value).any(1)
    end = int(np.flatnonzero(is_there)[-1]) + 1
    if not _MIN_CUT <= end <= len(last_row) - _MIN_CUT:
        return False
    equal_share_above = (row_above[end:] == value).all(1).mean()
    if equal_share_above > _MAX_EQUAL:
        return False
    before_end = slice(max(0, end - _NEAR - 1), end - 1)  # without the last pixel, which may be there in part
    after_end = slice(end, end + _NEAR)
    pieces = (
        last_row[before_end],
        row_above[after_end],
    )  # pixels that are not missing, before and after `end`
    if min(len(np.unique(piece)) for piece in pieces) < _MIN_VALUES:
        return False
    difference_of_rows = np.abs(last_row[before_end] - row_above[before_end]).mean()
    difference_to_value = min(np.abs(piece - value).mean() for piece in pieces)
    return bool(difference_of_rows < _SHARP * difference_to_value)


# ---------------------------------------------------------------------------------------------------- stored


def _stored_fault(image: Image.Image, tiles: Sequence[Tile], data: bytes) -> str:
    """Return the fault of uncompressed pixels, or of JPEGs within a TIFF; empty: there is none.

    Args:
        image: The image, opened and not loaded yet.
        tiles: Tiles of the image.
        data: Bytes of the file.
    """
    tags: Mapping[int, object] = getattr(image, "tag_v2", {})
    if tags.get(_COMPRESSION) == _TIFF_JPEG:
        for inner_jpeg in _inner_jpegs(tags, data):
            fault = _jpeg_fault(inner_jpeg)
            if fault:
                return fault
        return ""
    rows = _stored_rows(tiles, image.width) if data else None
    if rows is None:
        return ""
    for begin, end in rows.stretches:
        if has_hole(data[begin:end], begin, rows.stride, rows.pixel_bytes):
            return HOLE
    return ""


class _StoredRows(NamedTuple):
    """Place of uncompressed pixels in a file.

    Attributes:
        stretches: Begin and end, in bytes, of each stretch of rows without a gap between them.
        stride: Number of bytes of a row.
        pixel_bytes: Number of bytes of a pixel.
    """

    stretches: list[tuple[int, int]]
    stride: int
    pixel_bytes: int


def _stored_rows(tiles: Sequence[Tile], width: int) -> _StoredRows | None:
    """Find the rows of uncompressed pixels.

    None where pixels are compressed or have another layout than those of `_PIXELS`, or where a tile does not
    hold whole rows.
    """
    stretches: list[tuple[int, int]] = []
    row_bytes = pixel_bytes = 0  # after the loop, those of the last tile
    for codec, (left, top, right, bottom), offset, arguments in tiles:
        mode, stated_row_bytes = arguments[:2] if isinstance(arguments, tuple) else (arguments, 0)
        pixel_bytes = _PIXELS.get(mode, 0)
        holds_whole_rows = left == 0 and right == width
        if codec != "raw" or not pixel_bytes or not holds_whole_rows:
            return None
        row_bytes = stated_row_bytes or right * pixel_bytes
        begin = offset
        if stretches:
            previous_begin, previous_end = stretches[-1]
            if previous_end == offset:  # the tile follows the previous one without a gap: one stretch
                begin = previous_begin
                stretches.pop()
        stretches.append((begin, offset + row_bytes * (bottom - top)))
    return _StoredRows(stretches, stride=row_bytes, pixel_bytes=pixel_bytes)


def has_hole(stored: bytes, offset: int, stride: int, pixel_bytes: int) -> bool:
    """Whether a stretch of the bytes of uncompressed pixels was lost.

    The bytes of a lost stretch are all 0 or all 255. Such a stretch counts as lost in these cases:

    - It begins or ends within a pixel of colour, and the picture has no other pixels of colour.
    - The rows above and below show something else, and it begins and ends inside rows, at bounds of sectors.
    - The rows above and below show something else, and it begins or ends within a pixel of colour whose lost
      channels had other values (`_is_torn`).

    Args:
        stored: Bytes of the pixels.
        offset: Position of these bytes in the file.
        stride: Number of bytes of a row.
        pixel_bytes: Number of bytes of a pixel.
    """
    values = np.frombuffer(stored, np.uint8)
    coloured_pixels = None
    for fill, begin, end in _equal_bytes(stored):
        torn_ends = _torn_ends((begin, end), stride, pixel_bytes, size=len(stored))
        if torn_ends:
            if coloured_pixels is None:  # computed only once, and only if it is needed
                coloured_pixels = _coloured_pixels(values, stride, pixel_bytes)
            torn_pixels: set[int] = set()  # positions of their first bytes
            for position in torn_ends:
                position_in_pixel = position % stride % pixel_bytes
                torn_pixels.add(position - position_in_pixel)
            if torn_pixels == coloured_pixels:
                return True
        if not _rows_go_on(values, fill, begin, end, stride):
            continue
        if _fills_sectors((begin, end), offset, stride, size=len(stored)):
            return True
        for position in torn_ends:
            if _is_torn(values, fill, position, stride, pixel_bytes, is_end=position == end):
                return True
    return False


def _torn_ends(ends: tuple[int, int], stride: int, pixel_bytes: int, size: int) -> list[int]:
    """Return those ends of a stretch of equal bytes that lie within a pixel of colour.

    Args:
        ends: Begin and end of the stretch.
        stride: Number of bytes of a row.
        pixel_bytes: Number of bytes of a pixel.
        size: Number of bytes of all pixels.
    """
    if pixel_bytes <= 2:  # grey
        return []
    return [position for position in ends if position % stride % pixel_bytes and position < size]


def _fills_sectors(ends: tuple[int, int], offset: int, stride: int, size: int) -> bool:
    """Whether a stretch of equal bytes begins and ends inside rows, and at bounds of the file's sectors.

    Args:
        ends: Begin and end of the stretch.
        offset: Position of the pixels in the file.
        stride: Number of bytes of a row.
        size: Number of bytes of all pixels.
    """
    for position in ends:
        if position % stride == 0:
            return False
        is_sector_bound = (offset + position) % _SECTOR == 0
        if not is_sector_bound and position != size:
            return False
    return True


def _rows_go_on(values: NDArray[np.uint8], fill: int, begin: int, end: int, stride: int) -> bool:
    """Whether the picture has other values right above and right below a stretch of equal bytes.

    Args:
        values: Bytes of the pixels.
        fill: Value of the stretch's bytes.
        begin: Begin of the stretch.
        end: End of the stretch.
        stride: Number of bytes of a row.
    """
    length = min(end - begin, stride)
    start_above = begin - stride
    start_below = end + stride - length  # one row below the last `length` bytes of the stretch
    rows = [values[start : start + length] for start in (start_above, start_below) if start >= 0]
    complete_rows = [row for row in rows if len(row) == length]
    if not complete_rows:
        return False
    return all((row == fill).mean() <= _MAX_EQUAL for row in complete_rows)


def _equal_bytes(stored: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield value, begin and end of each stretch of at least `_HOLE` bytes that are all 0 or all 255."""
    for fill, run in _FILLS.items():
        end = 0
        while (begin := stored.find(bytes([fill]) * _HOLE, end)) >= 0:
            match = run.match(stored, begin)
            assert match is not None
            end = match.end()
            yield fill, begin, end


def _coloured_pixels(values: NDArray[np.uint8], stride: int, pixel_bytes: int) -> set[int]:
    """Return the positions in bytes of the pixels that are not grey.

    The search ends where more than `_TORN_PIXELS` are found.

    Args:
        values: Bytes of the pixels.
        stride: Number of bytes of a row.
        pixel_bytes: Number of bytes of a pixel.
    """
    row_count = len(values) // stride
    rows = values[: row_count * stride].reshape(-1, stride)
    unpadded_bytes = stride // pixel_bytes * pixel_bytes  # bytes of a row without its padding
    colours = rows[:, :unpadded_bytes].reshape(len(rows), -1, pixel_bytes)[..., :3]
    positions: set[int] = set()
    for top in range(0, len(rows), _ROWS_AT_ONCE):
        block = colours[top : top + _ROWS_AT_ONCE]
        is_coloured = (block != block[..., :1]).any(2)
        places = np.argwhere(is_coloured)[: _TORN_PIXELS + 1]
        for row, column in places:
            positions.add((top + int(row)) * stride + int(column) * pixel_bytes)
        if len(positions) > _TORN_PIXELS:
            break
    return positions


def _is_torn(
    values: NDArray[np.uint8], fill: int, position: int, stride: int, pixel_bytes: int, is_end: bool
) -> bool:
    """Whether some channels of a pixel of colour were lost, and only show the value `fill`.

    This is the case if the pixel's intact channels are like a neighbour's, and its lost channels would
    differ from `fill` if the pixel had its neighbours' colours.

    Args:
        values: Bytes of the pixels.
        fill: Value of the lost bytes, 0 or 255.
        position: Position in the bytes, inside the pixel, where a stretch of lost bytes begins or ends.
        stride: Number of bytes of a row.
        pixel_bytes: Number of bytes of a pixel.
        is_end: Whether the stretch ends at the position; otherwise it begins there.
    """
    channel = position % stride % pixel_bytes  # first channel behind the position
    pixel_start = position - channel
    if is_end:
        lost, intact = slice(channel), slice(channel, pixel_bytes)
        direction = 1  # the intact neighbours are right of and below the pixel
    else:
        intact, lost = slice(channel), slice(channel, pixel_bytes)
        direction = -1  # left and above

    def levels(start: int) -> NDArray[np.float64]:
        """Return the absolute difference of the channels of the pixel at `start` from the lost bytes."""
        # exclusive or with 0 leaves a value as it is, with 255 it subtracts the value from 255
        return (values[start : start + pixel_bytes] ^ fill).astype(np.float64)

    starts = (pixel_start + direction * pixel_bytes, pixel_start + direction * stride)
    neighbours = [levels(start) for start in starts if start >= 0]
    neighbours = [neighbour for neighbour in neighbours if len(neighbour) == pixel_bytes]
    intact_level = levels(pixel_start)[intact].sum()
    max_difference = _STEP + _SHARE * intact_level
    is_like_neighbour = False
    expected_levels = []  # levels of the lost channels if the pixel had each neighbour's colour
    for neighbour in neighbours:
        neighbour_level = neighbour[intact].sum()
        if abs(intact_level - neighbour_level) < max_difference:
            is_like_neighbour = True
        has_colour = neighbour[intact].any()
        expected_levels.append(neighbour[lost].max() * intact_level / neighbour_level if has_colour else 0)
    return is_like_neighbour and min(expected_levels, default=0) >= _LOST_LEVEL


def _inner_jpegs(tags: Mapping[int, Any], data: bytes) -> Iterator[bytes]:
    """Yield the strips or tiles of a TIFF, each as a JPEG of its own."""
    tables = bytes(tags.get(_JPEG_TABLES, b""))[:-2]  # without the end mark
    offsets = _first_tag(tags, _OFFSET_TAGS)
    sizes = _first_tag(tags, _SIZE_TAGS)
    for offset, size in zip(offsets, sizes, strict=False):
        strip = data[offset : offset + size]
        if tables:
            yield tables + strip[2:]  # without the start mark: the tables begin with one
        else:
            yield strip


def _first_tag(tags: Mapping[int, Any], numbers: Sequence[int]) -> Sequence[int]:
    """Return the values of the first tag of `numbers` that a file has; empty where it has none of them."""
    for number in numbers:
        if number in tags:
            values: Sequence[int] = tags[number]
            return values
    return ()


def _jpeg_fault(data: bytes) -> str:
    """Return the damage of a JPEG in words, as `load` does; empty where none is found."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return jpeg.load(image, data)


# ----------------------------------------------------------------------------------------------------- files


def _png_fault(data: bytes) -> str:
    """Return the fault of a PNG: a wrong checksum, or a missing end; empty: there is none.

    Pillow does not check the checksums of pixel data.
    """
    stream = io.BytesIO(data)
    for kind, length in png_chunks(stream):
        body = stream.read(length)
        checksum = stream.read(4)
        if len(checksum) < 4:
            break
        is_critical = not kind[0] & 0x20  # the first letter is upper case
        # the checksum is that of kind and body
        if is_critical and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            return _CHECKSUM
        if kind == b"IEND":
            return ""
    return TRUNCATED


def _webp_fault(data: bytes) -> str:
    """Return `TOO_MUCH` if a WebP can be decoded without its last bytes, else an empty text.

    Bytes that are not needed belong to another file.
    """
    position = 12  # first chunk; each has a name and a size of 4 bytes, and an even number of bytes
    while (name := data[position : position + 4]) not in (b"VP8 ", b"VP8L", b""):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + (size + 1) // 2 * 2
    size = int.from_bytes(data[position + 4 : position + 8], "little")
    shortened_size = size - size % 2 - _WEBP_SPARE  # an even number of bytes
    body = data[position + 8 : position + 8 + shortened_size]
    file_size = (len(body) + 12).to_bytes(4, "little")
    body_size = len(body).to_bytes(4, "little")
    shortened = b"RIFF" + file_size + b"WEBP" + name + body_size + body
    try:
        with Image.open(io.BytesIO(shortened), formats=["WEBP"]) as image:
            image.load()
    except Exception:  # the bytes are needed
        return ""
    return jpeg.TOO_MUCH


def _jpeg2000_fault(data: bytes) -> str:
    """Return the fault of a JPEG 2000 without its end mark; zeros in its place are read as empty packets."""
    return "" if data.rstrip(b"\0\n").endswith(b"\xff\xd9") else TRUNCATED


def _avif_fault(data: bytes) -> str:
    """Return the fault of an AVIF or HEIF whose data end with zeros, which complete data never do."""
    position = last_box = 0  # begin of a box: 4 bytes of size, 4 of name, the content
    while 0 <= position < len(data) - 8:
        last_box = position
        size = int.from_bytes(data[position : position + 4], "big")
        position = position + size if size > 1 else len(data)  # 0 and 1 are no plain sizes
    name = data[last_box + 4 : last_box + 8]
    return TRUNCATED if name == b"mdat" and data.endswith(_EMPTY) else ""


# Tags of a TIFF
_COMPRESSION = 259
_JPEG_TABLES = 347
_OFFSET_TAGS = (273, 324)  # offsets of strips, of tiles
_SIZE_TAGS = (279, 325)  # numbers of bytes of strips, of tiles
_TIFF_JPEG = 7  # value of the tag `_COMPRESSION`
_FAULTS = {
    **{"PNG": _png_fault, "WEBP": _webp_fault, "JPEG2000": _jpeg2000_fault},
    **{"AVIF": _avif_fault, "HEIF": _avif_fault},
}
