"""Finds pictures whose pixels are not all there, although they can be decoded. Torch-free.

`jpeg` finds missing pixels of a JPEG. Where a transfer of another file ended, the rest is zeros, or old
content of the memory: rows of exactly equal values that begin in the middle of a row. Where sectors of a disk
or pages of memory were lost, bytes of a file are zeros or ones: they begin or end within a pixel, or at the
bounds of sectors. Drawn areas begin and end with pixels, anywhere in the file.
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
_EXACT = frozenset({"PNG", "BMP", "DIB", "TIFF", "PPM", "GIF", "WEBP"})  # pixels may be as they were stored
_WEBP_SPARE = 8  # bytes that an encoder may leave at the end
_EMPTY = bytes(64)  # end of a cut AVIF: whole data never ends with it
_NEAR = 16  # pixels beside the end of a transfer that are looked at
_MIN_CUT = 8  # pixels of a row that are missing, at least
_MAX_EQUAL = 0.1  # share of the pixels above the missing ones that may be like them
_MIN_VALUES = 3  # different ones among as many pixels; drawn areas have fewer
# bytes: shortest stretch that is looked at; smallest sector of a disk
_HOLE = 128
_SECTOR = 512
_TORN_PIXELS = 2  # of a stretch, at most: one at each end
_ROWS_AT_ONCE = 16
# levels, and share of a value, from a pixel to its neighbour
_STEP = 16
_SHARE = 0.2
_FILLS = {0: re.compile(b"\0+"), 255: re.compile(b"\xff+")}
_LOST_LEVEL = 16  # of 255: least difference of a torn pixel's colour from its neighbours'
_PIXELS = {  # bytes of a pixel of uncompressed files, by Pillow's name of how they lie there
    **dict.fromkeys(("L", "P"), 1), "I;16": 2, **dict.fromkeys(("RGB", "BGR"), 3),
    **dict.fromkeys(("RGBA", "RGBX", "BGRA", "BGRX", "CMYK"), 4),
}  # fmt: skip
_SHARP = 0.75  # of the step to the equal values, below which a row is like the one before


# of Pillow: codec, place in the picture, offset in the file, arguments; of the codec raw these are
# the kind of pixels, the bytes of a row, and the direction
Tile = tuple[str, tuple[int, int, int, int], int, str | tuple[str, int, int]]


def load(image: Image.Image) -> str:
    """Load an image that was opened and not loaded yet.

    Returns:
        What is missing; empty where nothing is known to be.

    Raises:
        OSError: It is damaged; Pillow raises other errors, too.
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
    find_fault = _FAULTS.get(kind)
    return find_fault(data) if find_fault else ""


def _is_upwards(tiles: Sequence[Tile]) -> bool:
    """Whether a picture's lowest row is stored first."""
    if not tiles:
        return False
    args = tiles[0][3]
    return isinstance(args, tuple) and args[-1] == -1


def _ends_in_cut(image: Image.Image, upwards: bool) -> bool:
    """Whether the rows of a loaded image, in the order that they are stored in, end in a cut."""
    if not _may_be_cut(image):
        return False
    pixels = np.asarray(image)
    return has_cut(pixels[::-1] if upwards else pixels)


def _file_data(image: Image.Image) -> bytes:
    """The bytes of the file of an open image; none where it is of no file."""
    stream: IO[bytes] | None = getattr(image, "fp", None)
    if stream is None:
        return b""
    place = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(place)
    return data


def _excess_rows_fault(kind: str, tiles: Sequence[Tile], data: bytes) -> str:
    """Return the fault of a BMP or PPM that has more rows than its header states; empty: it has none.

    Programs that append to a file do not change all the sizes in it.
    """
    if kind not in ("BMP", "PPM") or len(tiles) != 1 or tiles[0][0] != "raw":
        return ""
    _, (_, _, width, height), offset, args = tiles[0]
    sizes = [len(data) - offset]
    if kind == "BMP" and isinstance(args, tuple):
        stride = args[1]
        sizes += _sizes_in_header(data, offset)
    else:
        stride = width * _bytes_of_pixel(args, data)
    return jpeg.TOO_MUCH if min(sizes) >= stride * (height + 1) else ""


def _sizes_in_header(data: bytes, offset: int) -> list[int]:
    """Return the bytes of a BMP's pixels as its header states them, by the file's size and by their own.

    A size of 0 states nothing and is left out. `offset` is where the pixels begin.
    """
    by_file = int.from_bytes(data[2:6], "little") - offset
    by_header = int.from_bytes(data[34:38], "little")
    return [size for size in (by_file, by_header) if size > 0]


def _bytes_of_pixel(args: str | tuple[str, int, int], data: bytes) -> int:
    """Bytes of a pixel of a PPM, of one channel or three, of 8 or 16 bits."""
    mode = args[0] if isinstance(args, tuple) else args
    channels = 3 if data[1:2] == b"6" else 1
    return channels * (2 if "16" in mode else 1)


# ------------------------------------------------------------------------------------------------------ rows


def _may_be_cut(image: Image.Image) -> bool:
    """Whether a picture has rows whose first, middle and last pixel are equal."""
    width, height = image.size
    columns = [np.asarray(image.crop((x, 0, x + 1, height))) for x in (0, width // 2, width - 1)]
    return any(_equal_rows(np.concatenate(columns, axis=1)))


def _equal_rows(values: NDArray[np.number]) -> NDArray[np.bool_]:
    flat = values.reshape(len(values), -1)
    return np.asarray((flat == flat[:, :1]).all(1))


def has_cut(values: NDArray[np.number]) -> bool:
    """Whether a transfer ended within a picture, [H, W] or [H, W, C] in the order in which it is stored.

    Then rows of equal values begin in the middle of a row, up to which the picture goes on; if other rows
    follow, the equal values also end within a row. Bands, masks and backgrounds begin with a row, or where
    something ends that the row before shows as well.
    """
    values = values.reshape(*values.shape[:2], -1)
    for begin, end in _runs(_equal_rows(values), values[:, 0, 0]):
        above = values[:begin]
        below = values[end:][::-1, ::-1]
        value = values[begin, 0, 0]
        if (len(above) or len(below)) and all(
            _ends_within(block, value) for block in (above, below) if len(block)
        ):
            return True
    return False


def _runs(rows: NDArray[np.bool_], values: NDArray[np.number]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of consecutive rows that have one value."""
    changes = np.flatnonzero((rows[1:] != rows[:-1]) | (rows[1:] & (values[1:] != values[:-1]))) + 1
    ends = [0, *changes.tolist(), len(rows)]
    for begin, end in pairwise(ends):
        if rows[begin]:
            yield begin, end


def _ends_within(rows: NDArray[np.number], value: np.number) -> bool:
    """Whether pictures' rows [H, W, C] end in the middle of the last one, with `value` behind."""
    if len(rows) < 2:
        return False
    last = rows[-1].astype(np.float64)
    before = rows[-2].astype(np.float64)
    end = int(np.flatnonzero((rows[-1] != value).any(1))[-1]) + 1
    if not _MIN_CUT <= end <= len(last) - _MIN_CUT:
        return False
    behind = slice(end, end + _NEAR)
    if (before[end:] == value).all(1).mean() > _MAX_EQUAL:
        return False
    shown = slice(max(0, end - _NEAR - 1), end - 1)  # the last pixel may be there in part
    if min(len(np.unique(block)) for block in (last[shown], before[behind])) < _MIN_VALUES:
        return False
    step = np.abs(last[shown] - before[shown]).mean()
    return bool(step < _SHARP * min(np.abs(block - value).mean() for block in (last[shown], before[behind])))


# ---------------------------------------------------------------------------------------------------- stored


def _stored_fault(image: Image.Image, tiles: Sequence[Tile], data: bytes) -> str:
    """Return what is missing in uncompressed pixels, or in JPEGs within a TIFF.

    The image is not loaded yet.
    """
    tags: Mapping[int, object] = getattr(image, "tag_v2", {})
    if tags.get(_COMPRESSION) == _TIFF_JPEG:
        return next(filter(None, map(_jpeg_fault, _inner_jpegs(tags, data))), "")
    rows = _stored_rows(tiles, image.width) if data else None
    if rows is None:
        return ""
    for begin, end in rows.stretches:
        if has_hole(data[begin:end], begin, rows.stride, rows.pixel):
            return HOLE
    return ""


class _StoredRows(NamedTuple):
    """Place of uncompressed pixels in a file.

    Attributes:
        stretches: Begin and end of each stretch of rows that lie one after another, in bytes.
        stride: Bytes of a row.
        pixel: Bytes of a pixel.
    """

    stretches: list[tuple[int, int]]
    stride: int
    pixel: int


def _stored_rows(tiles: Sequence[Tile], width: int) -> _StoredRows | None:
    """Find the rows of uncompressed pixels.

    None where pixels are compressed or of another kind, or where a tile does not hold whole rows.
    """
    stretches: list[tuple[int, int]] = []
    stride = pixel = 0
    for codec, (left, top, right, bottom), offset, args in tiles:
        mode, stride = args[:2] if isinstance(args, tuple) else (args, 0)
        pixel = _PIXELS.get(mode, 0)
        if codec != "raw" or not pixel or left or right != width:
            return None
        stride = stride or right * pixel
        begin = offset
        if stretches and stretches[-1][1] == offset:
            begin, _ = stretches.pop()
        stretches.append((begin, offset + stride * (bottom - top)))
    return _StoredRows(stretches, stride, pixel)


def has_hole(stored: bytes, offset: int, stride: int, pixel: int) -> bool:
    """Whether a stretch of uncompressed pixels' bytes was lost: all are 0 or all 255.

    It begins or ends within a pixel of colour, in a picture that has no colour elsewhere or beside rows that
    go on; or it begins and ends where sectors of the file do, within rows.

    Args:
        stored: Bytes of the pixels.
        offset: Where in the file they begin.
        stride: Bytes of a row.
        pixel: Bytes of a pixel.
    """
    values = np.frombuffer(stored, np.uint8)
    coloured = None
    for fill, begin, end in _equal_bytes(stored):
        torn = _torn_ends((begin, end), stride, pixel, len(stored))
        if torn:
            if coloured is None:
                coloured = _coloured(values, stride, pixel)
            if {at - at % stride % pixel for at in torn} == coloured:
                return True
        if not _rows_go_on(values, fill, begin, end, stride):
            continue
        if _fills_sectors((begin, end), offset, stride, len(stored)):
            return True
        if any(_is_torn(values, fill, at, stride, pixel, at == end) for at in torn):
            return True
    return False


def _torn_ends(ends: tuple[int, int], stride: int, pixel: int, size: int) -> list[int]:
    """Return the ends of a stretch of equal bytes that lie within a pixel of colour.

    Args:
        ends: Begin and end of the stretch.
        stride: Bytes of a row.
        pixel: Bytes of a pixel.
        size: Number of bytes of all pixels.
    """
    if pixel <= 2:
        return []
    return [at for at in ends if at % stride % pixel and at < size]


def _fills_sectors(ends: tuple[int, int], offset: int, stride: int, size: int) -> bool:
    """Whether a stretch of equal bytes begins and ends where sectors of the file do, within rows.

    Args:
        ends: Begin and end of the stretch.
        offset: Where in the file the pixels begin.
        stride: Bytes of a row.
        size: Number of bytes of all pixels.
    """
    for at in ends:
        if at % stride == 0:
            return False
        if (offset + at) % _SECTOR != 0 and at != size:
            return False
    return True


def _rows_go_on(values: NDArray[np.uint8], fill: int, begin: int, end: int, stride: int) -> bool:
    """Whether the rows beside a stretch of equal bytes are there, and show something else."""
    length = min(end - begin, stride)
    places = [at for at in (begin - stride, end + stride - length) if at >= 0]
    beside = [row for row in (values[at : at + length] for at in places) if len(row) == length]
    return bool(beside) and all((row == fill).mean() <= _MAX_EQUAL for row in beside)


def _equal_bytes(stored: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield value, begin and end of stretches of zeros and of ones."""
    for fill, run in _FILLS.items():
        end = 0
        while (begin := stored.find(bytes([fill]) * _HOLE, end)) >= 0:
            match = run.match(stored, begin)
            assert match is not None
            end = match.end()
            yield fill, begin, end


def _coloured(values: NDArray[np.uint8], stride: int, pixel: int) -> set[int]:
    """Find where pixels lie that are not grey, as far as they are few."""
    rows = values[: len(values) // stride * stride].reshape(-1, stride)
    colours = rows[:, : stride // pixel * pixel].reshape(len(rows), -1, pixel)[..., :3]
    found: set[int] = set()
    for top in range(0, len(rows), _ROWS_AT_ONCE):
        several = colours[top : top + _ROWS_AT_ONCE]
        places = np.argwhere((several != several[..., :1]).any(2))[: _TORN_PIXELS + 1]
        found |= {(top + int(row)) * stride + int(column) * pixel for row, column in places}
        if len(found) > _TORN_PIXELS:
            break
    return found


def _is_torn(values: NDArray[np.uint8], fill: int, at: int, stride: int, pixel: int, is_end: bool) -> bool:
    """Whether a pixel of colour has lost channels on one side of a place, where they are `fill`.

    By its other channels and by the colours of its neighbours, the lost channels had other values.

    Args:
        values: Bytes of the pixels.
        fill: Value of the lost bytes, 0 or 255.
        at: The place, where a stretch of lost bytes begins or ends.
        stride: Bytes of a row.
        pixel: Bytes of a pixel.
        is_end: Whether the stretch ends there.
    """
    phase = at % stride % pixel
    first = at - phase
    ahead = 1 if is_end else -1
    kept, lost = (slice(phase, pixel), slice(phase)) if is_end else (slice(phase), slice(phase, pixel))

    def levels(place: int) -> NDArray[np.float64]:  # 0: equal to the lost bytes
        return (values[place : place + pixel] ^ fill).astype(np.float64)

    places = [place for place in (first + ahead * pixel, first + ahead * stride) if place >= 0]
    beside = [block for block in map(levels, places) if len(block) == pixel]
    value = levels(first)[kept].sum()
    lacks = [block[lost].max() * value / block[kept].sum() if block[kept].any() else 0 for block in beside]
    is_like = any(abs(value - block[kept].sum()) < _STEP + _SHARE * value for block in beside)
    return is_like and min(lacks, default=0) >= _LOST_LEVEL


def _inner_jpegs(tags: Mapping[int, Any], data: bytes) -> Iterator[bytes]:
    """Yield the strips or tiles of a TIFF, each as a JPEG of its own."""
    tables = bytes(tags.get(_JPEG_TABLES, b""))[:-2]
    offsets, counts = (next((tags[tag] for tag in kinds if tag in tags), ()) for kinds in _PLACES)
    for offset, count in zip(offsets, counts, strict=False):
        strip = data[offset : offset + count]
        yield tables + strip[2:] if tables else strip


def _jpeg_fault(data: bytes) -> str:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return jpeg.load(image, data)


# ----------------------------------------------------------------------------------------------------- files


def _png_fault(data: bytes) -> str:
    """Return the fault of a PNG by its checksums, which Pillow does not check for pixel data."""
    stream = io.BytesIO(data)
    for kind, length in png_chunks(stream):
        body = stream.read(length)
        check = stream.read(4)
        if len(check) < 4:
            break
        critical = not kind[0] & 0x20  # upper case first letter
        if critical and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(check, "big"):
            return _CHECKSUM
        if kind == b"IEND":
            return ""
    return TRUNCATED


def _webp_fault(data: bytes) -> str:
    """Return the fault of a WebP whose last bytes its pixels do not need: they belong to another file."""
    at = 12
    while (name := data[at : at + 4]) not in (b"VP8 ", b"VP8L", b""):
        at += 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
    length = int.from_bytes(data[at + 4 : at + 8], "little")
    body = data[at + 8 : at + 8 + length - length % 2 - _WEBP_SPARE]
    head = b"RIFF" + (len(body) + 12).to_bytes(4, "little") + b"WEBP" + name
    try:
        with Image.open(io.BytesIO(head + len(body).to_bytes(4, "little") + body), formats=["WEBP"]) as image:
            image.load()
    except Exception:  # the bytes were needed
        return ""
    return jpeg.TOO_MUCH


def _jpeg2000_fault(data: bytes) -> str:
    """Return the fault of a JPEG 2000 without its end mark; zeros in its place are read as empty packets."""
    return "" if data.rstrip(b"\0\n").endswith(b"\xff\xd9") else TRUNCATED


def _avif_fault(data: bytes) -> str:
    """Return the fault of an AV1 picture that ends with zeros, which whole data never does."""
    at = last = 0
    while 0 <= at < len(data) - 8:
        last = at
        size = int.from_bytes(data[at : at + 4], "big")
        at = at + size if size > 1 else len(data)
    return TRUNCATED if data[last + 4 : last + 8] == b"mdat" and data.endswith(_EMPTY) else ""


# tags of a TIFF, and a value
_COMPRESSION = 259
_TIFF_JPEG = 7
_JPEG_TABLES = 347
_PLACES = (273, 324), (279, 325)  # tags: offsets of strips or tiles, and their numbers of bytes
_FAULTS = {
    **{"PNG": _png_fault, "WEBP": _webp_fault, "JPEG2000": _jpeg2000_fault},
    **{"AVIF": _avif_fault, "HEIF": _avif_fault},
}
