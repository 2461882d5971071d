"""Reads TIFF files through tifffile whose values Pillow would cut, or that it does not open.

Classic and BigTIFF, any number of channels, 1 to 32 bits, signed values and floats. Rarer compressions need
imagecodecs, of the extra `tiff`.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tifffile import TiffPage

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the reader of a file reports its faults

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# kinds of extra channels
PREMULTIPLIED = 1
ALPHA = 2
MAX_PAGES = 4096
# tags
_ORIENTATION = 274
_SAMPLE_FORMAT = 339
# sample formats
_UNSIGNED = 1
_SIGNED = 2
_FLOAT = 3
_NUMBERS = {_UNSIGNED: "", _SIGNED: "signed ", _FLOAT: "floating-point "}
_READ_BITS = {_UNSIGNED: range(1, 33), _SIGNED: (8, 16, 32), _FLOAT: (16, 32, 64)}
# compressions
_DEFLATE = (8, 32946)
_PACKBITS = 32773
_JPEG = (6, 7)
_PILLOW = (5, _PACKBITS, 34925, 50000)  # with LZW, LZMA and Zstandard
_WEBP = 50001  # in which libtiff, as Pillow brings it along, is not able to read
# tags: of a DNG; places of pictures within another one
_RAW_VERSION = 50706
_SUB_PICTURES = 330
_MOSAICS = (32803, 34892)  # photometric interpretations: colour filter array, linear raw
_WHITE_IS_ZERO = 0
_BLACK_IS_ZERO = 1
_RGB = 2
_PALETTE = 3
_YCBCR = 6
_COLOURS = {_RGB: 3, 5: 4, _YCBCR: 3, 8: 3, 9: 3, 10: 3}  # channels of RGB, CMYK and LAB; one of others
_NAMES = {_PALETTE: " of a palette", 5: " CMYK", _YCBCR: " YCbCr", 8: " LAB"}


class MissingCodecError(Exception):
    """Error of a compression that needs imagecodecs, which is not installed."""


@dataclass(frozen=True)
class Page:
    """Picture of a TIFF file, as its directory describes it.

    The pixels can be read as long as the file is open.

    Attributes:
        page: The page of tifffile.
        size: (H, W) as stored.
        channels: Number of channels.
        bits: Bits of a value; 0 where channels differ.
        format: Sample format of a value; 0 where channels differ.
        photometric: Photometric interpretation.
        compression: Number of the compression.
        extra: Kinds of the channels behind the colours.
        orientation: EXIF orientation.
        slices: Number of slices of a volume.
        is_preview: Whether it is a smaller copy of another picture, or a mask of another's transparency.
        holds_more: Whether the file holds more of it than its size says: strips, tiles, or a row.
    """

    page: TiffPage
    size: tuple[int, int]
    channels: int
    bits: int
    format: int
    photometric: int
    compression: int
    extra: tuple[int, ...]
    orientation: int
    slices: int
    is_preview: bool
    holds_more: bool

    @classmethod
    def of(cls, page: TiffPage) -> Page:
        """Read a page's directory; ValueError, TypeError and other errors where it is damaged."""
        return cls(
            page=page,
            size=(int(page.imagelength), int(page.imagewidth)),
            channels=int(page.samplesperpixel),
            bits=_one_number(page.bitspersample),
            format=_one_number(page.sampleformat),
            photometric=int(page.photometric or 0),
            compression=int(page.compression),
            extra=tuple(map(int, page.extrasamples)),
            orientation=_one_number(page.tags.valueof(_ORIENTATION, 1)),
            slices=int(page.imagedepth),
            is_preview=bool(page.is_reduced or page.is_mask),
            holds_more=_holds_more(page),
        )

    @property
    def colours(self) -> int:
        """Number of channels that are grey or colour; the others are extra channels."""
        return _COLOURS.get(self.photometric, 1)

    @property
    def unexplained(self) -> int:
        """Number of channels that are neither grey, colour nor transparency."""
        return self.channels - self.colours - sum(kind in (PREMULTIPLIED, ALPHA) for kind in self.extra)

    @property
    def is_mosaic(self) -> bool:
        """Whether the values are those of a sensor behind colour filters, not colours."""
        return self.photometric in _MOSAICS

    @property
    def is_raw(self) -> bool:
        """Whether it is the first picture of a camera's raw file, such as a small preview."""
        tags = self.page.tags
        return _RAW_VERSION in tags or (self.is_preview and _SUB_PICTURES in tags)

    @property
    def is_readable(self) -> bool:
        """Whether the meaning of the page's values is known."""
        readable_photometrics = [_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB]
        if self.compression in _JPEG:
            readable_photometrics.append(_YCBCR)  # becomes RGB
        return (
            self.bits in _READ_BITS.get(self.format, ())
            and self.photometric in readable_photometrics
            # among values with a sign, it is not known which one is white
            and (self.format, self.photometric) != (_SIGNED, _WHITE_IS_ZERO)
            and min(*self.size, self.channels) > 0
            and self.slices == 1
            # compressed values are read only if the first bit comes first
            and (self.compression == 1 or self.page.fillorder == 1)
        )

    @property
    def is_beyond_pillow(self) -> bool:
        """Whether Pillow would refuse the page, cut or drop values of it, or take a mosaic for grey."""
        if self.is_mosaic or self.slices > 1 or self._is_packed_beyond_pillow:
            return True
        kind = (self.format, self.bits)
        if self.channels > 1:
            return kind != (_UNSIGNED, 8) or self.unexplained > 0
        if self.format == _UNSIGNED and self.bits in (1, 2, 4, 8):
            return False
        read_by_pillow = ((_UNSIGNED, 16), (_SIGNED, 16), (_SIGNED, 32), (_FLOAT, 32))
        return kind not in read_by_pillow or self.photometric == _WHITE_IS_ZERO

    @property
    def _is_packed_beyond_pillow(self) -> bool:
        """Whether Pillow cannot decompress the values, or reads their bytes in the wrong order."""
        if self.compression not in TiffImagePlugin.COMPRESSION_INFO or self.compression == _WEBP:
            return True
        if self.compression == _PACKBITS and self.page.predictor != 1:
            return True
        is_big_endian = self.page.parent.byteorder == ">"
        if not is_big_endian:
            return False
        is_compressed = self.compression != 1
        return self.page.parent.is_bigtiff or (self.format != _UNSIGNED and is_compressed)

    def describe(self) -> str:
        """Return the layout in words for a person."""
        if self.is_mosaic:
            return "it is a Bayer mosaic"
        depth = f"{self.bits} bits" if self.bits else "different numbers of bits"
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        kind = f"{_NAMES.get(self.photometric, '')} with {_NUMBERS.get(self.format, 'complex ')}"
        white = ", whose white is 0" if self.photometric == _WHITE_IS_ZERO else ""
        slices = f", in {self.slices} slices" if self.slices != 1 else ""
        order = "" if self.page.fillorder == 1 else ", the last bit first"
        return f"it is a TIFF of {channels}{kind}values of {depth}{white}{slices}{order}"


def _holds_more(page: TiffPage) -> bool:
    """Whether a page has more strips, tiles or (uncompressed) rows than its size needs."""
    sizes = [int(size) for size in page.databytecounts]
    if len(sizes) > math.prod(page.chunked):
        return True
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 0
    row_bytes = (int(page.imagewidth) * int(page.samplesperpixel) * bits + 7) // 8
    if int(page.compression) != 1 or page.is_tiled or not row_bytes:
        return False
    page_bytes = row_bytes * int(page.imagelength) * int(page.imagedepth)
    stored_bytes = sum(sizes)
    has_further_row = stored_bytes >= page_bytes + row_bytes
    # more bytes than the file has are another error
    return has_further_row and stored_bytes <= page.parent.filehandle.size


def read_pages(stream: IO[bytes]) -> Iterator[Page]:
    """Yield the pages of a file, each once, up to the first one that cannot be read."""
    stream.seek(0)
    if stream.read(4) not in MAGIC:
        return
    import tifffile

    offsets: set[int] = set()  # offsets of the pages that were read
    try:
        stream.seek(0)
        pages = tifffile.TiffFile(stream).pages
        for number in range(MAX_PAGES):
            page = pages[number]
            if page.offset in offsets or not isinstance(page, tifffile.TiffPage):
                return
            offsets.add(page.offset)
            if _unread_tags(stream, page):
                return
            yield Page.of(page)
    except Exception:  # tifffile raises errors at a damaged page, and after the last page
        return


def _unread_tags(stream: IO[bytes], page: TiffPage) -> set[int]:
    """Return the tags about pixels in a page's directory that tifffile could not read."""
    variant = page.parent.tiff  # TIFF or BigTIFF, with its byte order
    stream.seek(page.offset)
    (count,) = struct.unpack(variant.tagnoformat, stream.read(variant.tagnosize))
    entries = stream.read(count * variant.tagsize)
    entry_format = f"{variant.byteorder}H{variant.tagsize - 2}s"  # each entry begins with its tag, 2 bytes
    tags = {int(tag) for tag, _ in struct.iter_unpack(entry_format, entries)}
    # higher tags do not change how pixels are read
    pixel_tags = {tag for tag in tags if tag <= _SAMPLE_FORMAT}
    return pixel_tags - {*page.tags.keys()}


def _one_number(value: int | tuple[int, ...] | list[int]) -> int:
    """Return the number of a tag that holds it once or once for each channel; 0 where channels differ."""
    if not isinstance(value, tuple | list):
        return int(value)
    numbers = {int(number) for number in value}
    return numbers.pop() if len(numbers) == 1 else 0


def first_page(stream: IO[bytes]) -> Page | None:
    """Read the directory of the first picture; None where the file is no TIFF, or is damaged."""
    return next(read_pages(stream), None)


def read(stream: IO[bytes], page: Page) -> NDArray[np.number]:
    """Read the values [H, W, C] of a page, integers or floats, not turned upright.

    Black is 0, also where white is 0 in the file. Values of 1 to 7 bits are scaled to 8.

    Raises:
        MissingCodecError: Imagecodecs is needed.
        ValueError: The page is damaged or truncated; OSError, zlib.error and others, too.
    """
    tiff_page = page.page
    strip_count = math.prod(tiff_page.chunked)
    stored_count = min(len(tiff_page.dataoffsets), len(tiff_page.databytecounts))
    if stored_count < strip_count or not all(tiff_page.databytecounts):
        raise ValueError("it is truncated")
    # tifffile decompresses without a bound, and lacks some compressions
    is_decompressed_here = page.compression in (*_DEFLATE, *_PILLOW)
    if is_decompressed_here:
        tiff_page.compression = 1  # tifffile gets uncompressed bytes
    values: NDArray[np.number] | None = None
    for number in range(strip_count):
        strip = _read_strip(stream, page, number, is_decompressed_here)
        if values is None:
            values = np.empty((*page.size, page.channels), strip.values.dtype)
        has_planes = tiff_page.shaped[0] > 1
        planes = slice(strip.plane, strip.plane + 1) if has_planes else slice(None)
        bottom = strip.top + strip.height
        right = strip.left + strip.width
        target = values[strip.top : bottom, strip.left : right, planes]
        target[...] = strip.values[: target.shape[0], : target.shape[1]]
    assert values is not None
    return _scale_values(values, page)


def _scale_values(values: NDArray[np.number], page: Page) -> NDArray[np.number]:
    """Return stored values scaled so that 0 is black, and 255 is white if they have 1 to 7 bits."""
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    max_value = (1 << page.bits) - 1  # used only for integers
    if page.photometric == _WHITE_IS_ZERO:
        values = max_value - values if values.dtype.kind == "u" else 1 - values
    if page.bits < 8:
        values = (values.astype(np.uint16) * 255 // max_value).astype(np.uint8)
    return values


class _Strip(NamedTuple):
    """Strip or tile of a page.

    Attributes:
        values: Values [h, w, c].
        plane: First channel, where each channel has strips of its own.
        top: First row.
        left: First column.
        height: Number of rows.
        width: Number of columns.
    """

    values: NDArray[np.number]
    plane: int
    top: int
    left: int
    height: int
    width: int


def _read_strip(stream: IO[bytes], page: Page, number: int, is_decompressed_here: bool) -> _Strip:
    """Read a strip or tile.

    Args:
        stream: The file.
        page: The page.
        number: Number of the strip or tile.
        is_decompressed_here: Whether it is decompressed here; otherwise tifffile does it.

    Raises:
        MissingCodecError: As in `read`.
        ValueError: The strip is damaged; tifffile raises other errors, too.
    """
    tiff_page = page.page
    stream.seek(tiff_page.dataoffsets[number])
    data = stream.read(tiff_page.databytecounts[number])
    try:
        # without data, tifffile returns only the place and the shape of the strip
        _, place, shape = tiff_page.decode(None, number)
        plane, _, top, left, _ = place
        _, height, width, channels = shape
        if is_decompressed_here:
            row_bytes = math.ceil(width * channels * page.bits / 8)
            data = _decompress(data, page.compression, height, row_bytes)
        decoded, *_ = tiff_page.decode(data, number, jpegtables=tiff_page.jpegtables)
    except (ValueError, NotImplementedError) as error:
        if "'imagecodecs' package" in str(error):
            reason = str(error).split(" requires")[0].strip("\"'")
            raise MissingCodecError(f"{reason} needs imagecodecs") from None
        raise
    return _Strip(np.asarray(decoded)[0], plane, top, left, height, width)


def _decompress(data: bytes, compression: int, rows: int, row_bytes: int) -> bytes:
    """Return the decompressed bytes of a strip or tile: `rows` rows of `row_bytes` bytes, and no more.

    Args:
        data: The compressed bytes.
        compression: Number of the compression.
        rows: Number of rows.
        row_bytes: Number of bytes of a row.

    Raises:
        ValueError: The data are truncated; zlib.error or OSError where they are damaged.
    """
    size = rows * row_bytes
    if compression in _DEFLATE:
        decompressed = zlib.decompressobj().decompress(data, size)
    else:
        decompressed = _decompress_by_pillow(data, compression, rows, row_bytes)
    if len(decompressed) < size:
        raise ValueError("it is truncated")
    return decompressed[:size]


def _decompress_by_pillow(data: bytes, compression: int, rows: int, row_bytes: int) -> bytes:
    """Return decompressed bytes with the help of Pillow.

    Pillow reads them as the pixels of a grey picture, from a TIFF that is put together here.
    """
    # tags: width, height, bits, compression, photometric interpretation, channels, rows of a strip
    value_by_tag = {256: row_bytes, 257: rows, 258: 8, 259: compression, 262: 1, 277: 1, 278: rows}
    # behind the header, the number of entries, 9 entries and an end mark
    data_offset = 8 + 2 + 12 * 9 + 4
    value_by_tag |= {273: data_offset, 279: len(data)}  # offset and number of the data's bytes
    # each entry: tag, type (4: 32-bit integer), number of values, value
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(value_by_tag.items()))
    header = b"II*\0" + struct.pack("<IH", 8, len(value_by_tag))
    file = io.BytesIO(header + table + b"\0\0\0\0" + data)
    with Image.open(file, formats=["TIFF"]) as image:
        return image.tobytes()
