"""Reads TIFF files that Pillow would cut, or does not open, through tifffile.

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
_PALETTE = 3
_YCBCR = 6
_COLOURS = {2: 3, 5: 4, _YCBCR: 3, 8: 3, 9: 3, 10: 3}  # channels of RGB, CMYK and LAB; one of others
_NAMES = {_PALETTE: " of a palette", 5: " CMYK", _YCBCR: " YCbCr", 8: " LAB"}


class MissingCodecError(Exception):
    """Error of a compression that needs imagecodecs, which is not installed."""


@dataclass(frozen=True)
class Page:
    """Picture of a TIFF file, as its directory describes it; pixels are read while the file is open.

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
        is_preview: Whether it is a smaller copy of another picture, or that one's mask of transparency.
        holds_more: Whether it has more strips or tiles than its size, or uncompressed values of a row more.
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
        """Read a directory; ValueError, TypeError and others where it is torn."""
        return cls(
            page,
            (int(page.imagelength), int(page.imagewidth)),
            int(page.samplesperpixel),
            _one_number(page.bitspersample),
            _one_number(page.sampleformat),
            int(page.photometric or 0),
            int(page.compression),
            tuple(map(int, page.extrasamples)),
            _one_number(page.tags.valueof(_ORIENTATION, 1)),
            int(page.imagedepth),
            bool(page.is_reduced or page.is_mask),
            _holds_more(page),
        )

    @property
    def colours(self) -> int:
        """Number of channels that are grey or colour; the others are extra ones."""
        return _COLOURS.get(self.photometric, 1)

    @property
    def unexplained(self) -> int:
        """Number of channels that are neither grey, colour nor transparency."""
        return self.channels - self.colours - sum(kind in (PREMULTIPLIED, ALPHA) for kind in self.extra)

    @property
    def is_mosaic(self) -> bool:
        """Whether the values are those behind a camera's colour filters, not colours."""
        return self.photometric in _MOSAICS

    @property
    def is_raw(self) -> bool:
        """Whether a camera's raw file begins with it: a small preview, with the sensor's values within."""
        tags = self.page.tags
        return _RAW_VERSION in tags or (self.is_preview and _SUB_PICTURES in tags)

    @property
    def is_readable(self) -> bool:
        """Whether it is known what its values mean."""
        known = (0, 1, 2, _YCBCR) if self.compression in _JPEG else (0, 1, 2)  # JPEG becomes RGB
        return (
            self.bits in _READ_BITS.get(self.format, ())
            and self.photometric in known
            and (self.format, self.photometric) != (_SIGNED, 0)  # its white is not known
            and min(*self.size, self.channels) > 0
            and self.slices == 1
            and (self.compression == 1 or self.page.fillorder == 1)
        )

    @property
    def is_beyond_pillow(self) -> bool:
        """Whether Pillow would cut its values, drop some, take a mosaic for grey, or not open it."""
        if self.is_mosaic or self.slices > 1 or self._is_packed_beyond_pillow:
            return True
        kind = (self.format, self.bits)
        if self.channels > 1:
            return kind != (_UNSIGNED, 8) or self.unexplained > 0
        if self.format == _UNSIGNED and self.bits in (1, 2, 4, 8):
            return False
        whole = ((_UNSIGNED, 16), (_SIGNED, 16), (_SIGNED, 32), (_FLOAT, 32))
        return kind not in whole or self.photometric == 0

    @property
    def _is_packed_beyond_pillow(self) -> bool:
        """Whether Pillow cannot undo the compression, or reads the bytes in the wrong order."""
        if self.compression not in TiffImagePlugin.COMPRESSION_INFO or self.compression == _WEBP:
            return True
        if self.compression == _PACKBITS and self.page.predictor != 1:
            return True
        if self.page.parent.byteorder != ">":
            return False
        return self.page.parent.is_bigtiff or (self.format != _UNSIGNED and self.compression != 1)

    def describe(self) -> str:
        """Describe its layout for a person."""
        if self.is_mosaic:
            return "it is a Bayer mosaic"
        depth = f"{self.bits} bits" if self.bits else "different numbers of bits"
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        kind = f"{_NAMES.get(self.photometric, '')} with {_NUMBERS.get(self.format, 'complex ')}"
        white = ", whose white is 0" if self.photometric == 0 else ""
        slices = f", in {self.slices} slices" if self.slices != 1 else ""
        order = "" if self.page.fillorder == 1 else ", the last bit first"
        return f"it is a TIFF of {channels}{kind}values of {depth}{white}{slices}{order}"


def _holds_more(page: TiffPage) -> bool:
    sizes = [int(size) for size in page.databytecounts]
    bits = page.bitspersample
    row = (int(page.imagewidth) * int(page.samplesperpixel) * (bits if isinstance(bits, int) else 0) + 7) // 8
    whole = row * int(page.imagelength) * int(page.imagedepth)
    is_raw = int(page.compression) == 1 and not page.is_tiled and row > 0
    more = is_raw and whole + row <= sum(sizes) <= page.parent.filehandle.size
    return len(sizes) > math.prod(page.chunked) or more


def read_pages(stream: IO[bytes]) -> Iterator[Page]:
    """Yield the pages of a file, each once, as far as its directories can be read."""
    stream.seek(0)
    if stream.read(4) not in MAGIC:
        return
    import tifffile

    seen: set[int] = set()
    try:
        stream.seek(0)
        pages = tifffile.TiffFile(stream).pages
        for number in range(MAX_PAGES):
            page = pages[number]
            if page.offset in seen or not isinstance(page, tifffile.TiffPage):
                return
            seen.add(page.offset)
            if _torn_tags(stream, page):
                return
            yield Page.of(page)
    except Exception:  # errors of tifffile on a damaged directory, and after the last one
        return


def _torn_tags(stream: IO[bytes], page: TiffPage) -> set[int]:
    """Return the tags that describe pixels and that tifffile left out because it could not read them."""
    form = page.parent.tiff
    stream.seek(page.offset)
    (count,) = struct.unpack(form.tagnoformat, stream.read(form.tagnosize))
    entries = stream.read(count * form.tagsize)
    codes = {int(code) for (code, _) in struct.iter_unpack(f"{form.byteorder}H{form.tagsize - 2}s", entries)}
    return {code for code in codes if code <= _SAMPLE_FORMAT} - {*page.tags.keys()}


def _one_number(value: int | tuple[int, ...] | list[int]) -> int:
    """Return a number that a tag holds once, or for each channel; 0 where the channels' numbers differ."""
    several = {int(item) for item in value} if isinstance(value, tuple | list) else {int(value)}
    return several.pop() if len(several) == 1 else 0


def first_page(stream: IO[bytes]) -> Page | None:
    """Read the directory of the first picture; None where the file is no TIFF, or is damaged."""
    return next(read_pages(stream), None)


def read(stream: IO[bytes], page: Page) -> NDArray[np.number]:
    """Read a page, [H, W, C], as it is stored: integers or floats. Black is 0; 1 to 7 bits become 8.

    Raises:
        MissingCodecError: Imagecodecs is needed.
        ValueError: It is damaged or truncated; OSError, zlib.error and others, too.
    """
    found = page.page
    own = page.compression in (*_DEFLATE, *_PILLOW)
    strips = math.prod(found.chunked)
    if min(len(found.dataoffsets), len(found.databytecounts)) < strips or not all(found.databytecounts):
        raise ValueError("it is truncated")
    if own:  # here, because tifffile unpacks without a bound, and lacks some compressions
        found.compression = 1
    values: NDArray[np.number] | None = None
    for number in range(strips):
        strip = _read_strip(stream, page, number, own)
        if values is None:
            values = np.empty((*page.size, page.channels), strip.values.dtype)
        planes = slice(strip.plane, strip.plane + 1) if found.shaped[0] > 1 else slice(None)
        part = values[strip.top : strip.top + strip.height, strip.left : strip.left + strip.width, planes]
        part[...] = strip.values[: part.shape[0], : part.shape[1]]
    assert values is not None
    return _scale_values(values, page)


def _scale_values(values: NDArray[np.number], page: Page) -> NDArray[np.number]:
    """Return stored values where 0 is black; those of 1 to 7 bits are scaled to 8."""
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if page.photometric == 0:  # white is 0
        values = (1 << page.bits) - 1 - values if values.dtype.kind == "u" else 1 - values
    if page.bits < 8:
        values = (values.astype(np.uint16) * 255 // ((1 << page.bits) - 1)).astype(np.uint8)
    return values


class _Strip(NamedTuple):
    """A strip or tile of a page: its values [h, w, c] and its place."""

    values: NDArray[np.number]
    plane: int
    top: int
    left: int
    height: int
    width: int


def _read_strip(stream: IO[bytes], page: Page, number: int, own: bool) -> _Strip:
    """Read a strip or tile; with `own`, its compression is undone here. Raises the errors of `read`."""
    found = page.page
    stream.seek(found.dataoffsets[number])
    packed = stream.read(found.databytecounts[number])
    try:
        _, (plane, _, top, left, _), (_, *shape) = found.decode(None, number)
        if own:
            wide = -(-shape[1] * shape[2] * page.bits // 8)
            packed = _decompressed(packed, page.compression, shape[0], wide)
        decoded, *_ = found.decode(packed, number, jpegtables=found.jpegtables)
    except (ValueError, NotImplementedError) as error:
        if "'imagecodecs' package" in str(error):
            reason = str(error).split(" requires")[0].strip("\"'")
            raise MissingCodecError(f"{reason} needs imagecodecs") from None
        raise
    return _Strip(np.asarray(decoded)[0], plane, top, left, shape[0], shape[1])


def _decompressed(packed: bytes, compression: int, rows: int, wide: int) -> bytes:
    """Return the bytes of a strip or tile: rows of `wide` bytes, and no more."""
    if compression in _DEFLATE:
        packed = zlib.decompressobj().decompress(packed, rows * wide)
    else:  # Pillow reads it as a grey picture of bytes
        entries = {256: wide, 257: rows, 258: 8, 259: compression, 262: 1, 277: 1, 278: rows}
        entries |= {273: 8 + 2 + 12 * 9 + 4, 279: len(packed)}
        table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
        file = io.BytesIO(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + b"\0\0\0\0" + packed)
        with Image.open(file, formats=["TIFF"]) as image:
            packed = image.tobytes()
    if len(packed) < rows * wide:
        raise ValueError("it is truncated")
    return packed[: rows * wide]
