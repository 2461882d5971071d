"""Reads TIFF files that Pillow cuts, or does not open: any number of channels, side by side or plane after
plane, with 8 to 16 bits or floats.

Pillow, through libtiff, decompresses each strip or tile as a grey picture as wide as its bytes, in a file of
its own with the same compression. What the bytes mean is settled here, after TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, TiffImagePlugin

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = (b"II*\0", b"MM\0*")
MAX_PAGES = 4096  # a file whose directories lie in a ring ends here
_TYPES = {(1, 8): "u1", (1, 16): "u2", (3, 16): "f2", (3, 32): "f4", (3, 64): "f8"}  # sample format and bits
_PACKED = (10, 12, 14)  # bits of unsigned values that lie without a gap, rows filled up to a byte
_DEFLATE = (8, 32946)
_READ = (1, 5, *_DEFLATE, 32773, 34925, 50000)  # uncompressed, LZW, deflate, PackBits, LZMA, Zstandard
_MOSAICS = (32803, 34892)  # photometric interpretations: colour filter array, linear raw
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}  # channels of RGB, CMYK, YCbCr and LAB; one of others
_NUMBERS = {1: "", 2: "signed ", 3: "floating-point "}


@dataclass(frozen=True)
class Page:
    """Picture of a TIFF file, as its directory describes it. order: of the bytes."""

    tags: Any
    order: Literal["<", ">"]

    def all(self, tag: int, default: int = 0) -> tuple[int, ...]:
        """Values of a tag."""
        value = self.tags.get(tag, default)
        return tuple(value) if isinstance(value, tuple | list) else (value,)

    def first(self, tag: int, default: int = 0) -> int:
        return int((self.all(tag, default) or (default,))[0])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) as stored."""
        return self.first(257), self.first(256)

    @property
    def channels(self) -> int:
        return self.first(277, 1)

    @property
    def bits(self) -> int:
        return max(self.all(258, 1))

    @property
    def colours(self) -> int:
        """Number of channels that are grey or colour; the others are extra ones."""
        return _COLOURS.get(self.first(262), 1)

    @property
    def unexplained(self) -> int:
        """Number of channels that are neither grey, colour nor transparency."""
        return self.channels - self.colours - sum(kind in (1, 2) for kind in self.all(338))

    @property
    def is_mosaic(self) -> bool:
        return self.first(262) in _MOSAICS

    @property
    def is_readable(self) -> bool:
        """Whether `read` can read it."""
        formats, bits = {*self.all(339, 1)}, {*self.all(258, 1)}
        kind = (min(formats), min(bits))
        return (
            len(formats) == len(bits) == 1
            and (kind in _TYPES or (kind[0] == 1 and kind[1] in _PACKED))
            and self.first(259, 1) in _READ
            and self.first(262) in (0, 1, 2)
            and self.first(266, 1) == 1
            and self.first(317, 1) in (1, 2, 3)
            and min(*self.size, self.channels) > 0
        )

    @property
    def is_beyond_pillow(self) -> bool:
        """Whether Pillow would cut its values, drop some, take a mosaic for grey, or not open it."""
        if self.is_mosaic:
            return True
        if self.channels == 1:
            odd = self.bits in _PACKED or (self.first(339, 1) == 3 and self.bits != 32)
            return odd or (self.bits == 16 and self.first(262) == 0)  # whose black and white Pillow swaps
        return self.bits > 8 or self.unexplained > 0

    def describe(self) -> str:
        """Describes its layout for a person; empty where the directory is damaged."""
        if not (all(self.size) and (273 in self.tags or 324 in self.tags)):
            return ""
        if self.is_mosaic:
            return "it is a Bayer mosaic"
        compression = self.first(259, 1)
        if compression not in (*_READ, *TiffImagePlugin.COMPRESSION_INFO):
            return f"it is a TIFF with compression {compression}"
        numbers = _NUMBERS.get(self.first(339, 1), "complex ")
        depth = " and ".join(map(str, dict.fromkeys(self.all(258, 1))))
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return f"it is a TIFF of {channels} with {numbers}values of {depth} bits"


def read_pages(stream: IO[bytes]) -> Iterator[Page]:
    """Yields the pages of a file, as far as its directories can be read."""
    stream.seek(0)
    head = stream.read(8)
    if head[:4] not in MAGIC:
        return
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        for _ in range(MAX_PAGES):
            if not tags.next:
                return
            stream.seek(tags.next)
            tags.load(stream)
            following = tags.next
            yield Page(dict(tags), "<" if head[:2] == b"II" else ">")
            tags = TiffImagePlugin.ImageFileDirectory_v2(head)
            tags.next = following
    except Exception:  # what Pillow raises on a damaged directory
        return


def first_page(stream: IO[bytes]) -> Page | None:
    """Reads the directory of the first picture; None where the file is no TIFF, or is damaged."""
    return next(read_pages(stream), None)


def read(stream: IO[bytes], page: Page) -> NDArray[Any]:
    """Reads a page, [H, W, C], as it is stored: uint8, uint16, float16, float32 or float64.

    Raises:
        ValueError, OSError, zlib.error: it is damaged or truncated.
    """
    (height, width), channels = page.size, page.channels
    planar = page.first(284, 1) == 2 and channels > 1
    tiled = 324 in page.tags
    offsets, counts = (page.all(tag) for tag in ((324, 325) if tiled else (273, 279)))
    rows, columns = (
        (page.first(323), page.first(322)) if tiled else (min(page.first(278, height), height), width)
    )
    if min(rows, columns) < 1 or len(offsets) != len(counts):
        raise ValueError("its strips are not described")
    corners = [(y, x) for y in range(0, height, rows) for x in range(0, width, columns)]
    planes = channels if planar else 1
    if len(offsets) < planes * len(corners):
        raise ValueError("strips are missing")
    values: NDArray[Any] | None = None
    for number, (plane, (y, x)) in enumerate((p, at) for p in range(planes) for at in corners):
        stream.seek(offsets[number])
        packed = stream.read(counts[number])
        shape = (rows if tiled else min(rows, height - y), columns, 1 if planar else channels)
        block = _unpacked(_decompressed(packed, page, shape), page, shape)
        if values is None:
            values = np.empty((height, width, channels), block.dtype)
        part = values[y : y + rows, x : x + columns, plane : plane + 1 if planar else None]
        part[...] = block[: part.shape[0], : part.shape[1]]
    assert values is not None
    if page.first(262) == 0:  # white is 0
        values = (1 << page.bits) - 1 - values if values.dtype.kind == "u" else 1 - values
    return values


def _decompressed(packed: bytes, page: Page, shape: tuple[int, int, int]) -> bytes:
    """Bytes of a strip or tile [h, w, C]."""
    rows, compression = shape[0], page.first(259, 1)
    wide = (shape[1] * shape[2] * page.bits + 7) // 8
    if compression in _DEFLATE:
        packed = zlib.decompressobj().decompress(packed, rows * wide)
    elif compression != 1:
        entries = {
            256: wide,
            257: rows,
            258: 8,
            259: compression,
            262: 1,
            277: 1,
            278: rows,
            279: len(packed),
        }
        entries[273] = 8 + 2 + 12 * (len(entries) + 1) + 4
        table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
        file = io.BytesIO(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + b"\0\0\0\0" + packed)
        with Image.open(file, formats=["TIFF"]) as image:
            packed = image.tobytes()
    if len(packed) < rows * wide:
        raise ValueError("it is truncated")
    return packed[: rows * wide]


def _unpacked(data: bytes, page: Page, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Values [h, w, C] of the bytes of a strip or tile."""
    rows, columns, channels = shape
    predictor, bits = page.first(317, 1), page.bits
    if bits in _PACKED:
        lines = np.frombuffer(data, np.uint8).reshape(rows, -1)
        single = np.unpackbits(lines, axis=1)[:, : columns * channels * bits].reshape(*shape, bits)
        return np.asarray(single @ (1 << np.arange(bits)[::-1]).astype(np.uint16), np.uint16)
    kind = np.dtype(_TYPES[page.first(339, 1), bits])
    if predictor == 3:  # bytes of a row, the upper ones of all values first, as differences
        flat = np.frombuffer(data, np.uint8).reshape(rows, columns * kind.itemsize, channels)
        flat = np.cumsum(flat, axis=1, dtype=np.uint8).reshape(rows, kind.itemsize, columns * channels)
        return (
            np.ascontiguousarray(flat.transpose(0, 2, 1))
            .view(kind.newbyteorder(">"))
            .reshape(shape)
            .astype(kind)
        )
    values = np.frombuffer(data, kind.newbyteorder(page.order)).reshape(shape).astype(kind)
    if predictor == 2:
        whole = values.view(f"u{kind.itemsize}")
        values = np.cumsum(whole, axis=1, dtype=whole.dtype).view(kind)
    return values
