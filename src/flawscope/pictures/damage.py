"""Finds pictures whose pixels are not all there, although they can be decoded. Torch-free.

What is known of a JPEG stands in `jpeg`. Where a transfer ended in another file, the rest is zeros, or what
the memory held: rows of exactly equal values that begin in the middle of a row.
"""

from __future__ import annotations

import io
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.pictures import jpeg
from flawscope.pictures.files import TRUNCATED, png_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

CUT = "the file is damaged (a stretch of its pixels is empty, from within a row on)"
_CHECKSUM = "the file is damaged (a checksum differs)"
_EXACT = frozenset({"PNG", "BMP", "DIB", "TIFF", "PPM", "GIF", "WEBP"})  # pixels may be as they were stored
_WEBP_SPARE = 8  # bytes that an encoder may leave at the end
_EMPTY = bytes(64)  # at the end of an AVIF, whose data never ends so
_NEAR = 16  # pixels beside the end of a transfer that are looked at
_MIN_CUT = 8  # pixels of a row that are missing, for that to be known
_MAX_EQUAL = 0.1  # share of the pixels above these that may be like them
_MIN_VALUES = 3  # different ones among as many pixels; what is drawn has fewer
_SHARP = 0.75  # of the step to the equal values, below which a row is like the one before


def load(image: Image.Image) -> str:
    """Loads an image that was opened and not loaded yet. Returns what is missing; empty where nothing is
    known to be. OSError and what else Pillow raises: it is damaged."""
    tiles: Any = getattr(image, "tile", ())
    stream, kind, data = getattr(image, "fp", None), image.format or "", b""
    if stream is not None:
        place = stream.tell()
        stream.seek(0)
        data = stream.read()
        stream.seek(place)
    if kind in ("JPEG", "MPO") and data and len(tiles) == 1:
        return jpeg.load(image, data)
    facts: Any = tiles[0][3] if tiles else None
    upwards = isinstance(facts, tuple) and facts[-1] == -1
    if fault := _more_than_told(kind, tiles, data):
        return fault
    image.load()
    if not data:
        return ""
    if kind in _EXACT and _may_be_cut(image) and has_cut(np.asarray(image)[:: -1 if upwards else 1]):
        return CUT
    return _FAULTS.get(kind, lambda _: "")(data)


def _more_than_told(kind: str, tiles: Any, data: bytes) -> str:
    """Whether a BMP or PPM has rows more than its header tells. Whoever appends something to one, changes not
    all of its sizes."""
    if kind not in ("BMP", "PPM") or len(tiles) != 1 or tiles[0][0] != "raw":
        return ""
    _, (_, _, width, height), offset, args = tiles[0]
    if kind == "BMP":
        stride = args[1]
        told = [int.from_bytes(data[2:6], "little") - offset, int.from_bytes(data[34:38], "little")]
    else:
        deep = "16" in str(args[0] if isinstance(args, tuple) else args)
        stride, told = width * (3 if data[1:2] == b"6" else 1) * (1 + deep), []
    sizes = [len(data) - offset, *(size for size in told if size > 0)]
    return jpeg.TOO_MUCH if min(sizes) >= stride * (height + 1) else ""


# ------------------------------------------------------------------------------------------------------ rows


def _may_be_cut(image: Image.Image) -> bool:
    """Whether a picture has rows whose first, middle and last pixel are equal."""
    width, height = image.size
    columns = [np.asarray(image.crop((x, 0, x + 1, height))) for x in (0, width // 2, width - 1)]
    return any(_equal_rows(np.concatenate(columns, axis=1)))


def _equal_rows(values: NDArray[Any]) -> NDArray[np.bool_]:
    flat = values.reshape(len(values), -1)
    return np.asarray((flat == flat[:, :1]).all(1))


def has_cut(values: NDArray[Any]) -> bool:
    """Whether a transfer ended within a picture, [H, W] or [H, W, C] in the order in which it is stored: rows
    of equal values begin in the middle of a row up to which the picture goes on; if others follow, they end
    so, too. Bands, masks and backgrounds begin with a row, or where something ends that the row before shows
    as well."""
    values = values.reshape(*values.shape[:2], -1)
    for begin, end in _runs(_equal_rows(values), values[:, 0, 0]):
        above, below = values[:begin], values[end:][::-1, ::-1]
        value = values[begin, 0, 0]
        if (len(above) or len(below)) and all(_ends_within(one, value) for one in (above, below) if len(one)):
            return True
    return False


def _runs(rows: NDArray[np.bool_], values: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yields begin and end of consecutive rows that have one value."""
    changes = np.flatnonzero((rows[1:] != rows[:-1]) | (rows[1:] & (values[1:] != values[:-1]))) + 1
    ends = [0, *changes.tolist(), len(rows)]
    for begin, end in pairwise(ends):
        if rows[begin]:
            yield begin, end


def _ends_within(rows: NDArray[Any], value: Any) -> bool:
    """Whether pictures' rows [H, W, C] end in the middle of the last one, with `value` behind."""
    if len(rows) < 2:
        return False
    last, before = rows[-1].astype(np.float64), rows[-2].astype(np.float64)
    end = int(np.flatnonzero((rows[-1] != value).any(1))[-1]) + 1
    if not _MIN_CUT <= end <= len(last) - _MIN_CUT:
        return False
    behind = slice(end, end + _NEAR)
    if (before[end:] == value).all(1).mean() > _MAX_EQUAL:
        return False
    shown = slice(max(0, end - _NEAR - 1), end - 1)  # the last pixel may be there in part
    if min(len(np.unique(one)) for one in (last[shown], before[behind])) < _MIN_VALUES:
        return False
    step = np.abs(last[shown] - before[shown]).mean()
    return bool(step < _SHARP * min(np.abs(one - value).mean() for one in (last[shown], before[behind])))


# ----------------------------------------------------------------------------------------------------- files


def _png_fault(data: bytes) -> str:
    """Pillow checks no checksum of the pixel data of a PNG, and stops reading after the last row."""
    stream = io.BytesIO(data)
    for kind, length in png_chunks(stream):
        body, check = stream.read(length), stream.read(4)
        if len(check) < 4:
            break
        critical = not kind[0] & 0x20  # upper case first letter
        if critical and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(check, "big"):
            return _CHECKSUM
        if kind == b"IEND":
            return ""
    return TRUNCATED


def _webp_fault(data: bytes) -> str:
    """The data of a WebP ends with what its last pixels need; where these do without, it is not theirs."""
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
    """The codestream of a JPEG 2000 ends with a mark; zeros in its place are read as empty packets."""
    return "" if data.rstrip(b"\0\n").endswith(b"\xff\xd9") else TRUNCATED


def _avif_fault(data: bytes) -> str:
    """The data of an AV1 picture never ends with zeros."""
    at = last = 0
    while 0 <= at < len(data) - 8:
        last, size = at, int.from_bytes(data[at : at + 4], "big")
        at = at + size if size > 1 else len(data)
    return TRUNCATED if data[last + 4 : last + 8] == b"mdat" and data.endswith(_EMPTY) else ""


_FAULTS = {
    **{"PNG": _png_fault, "WEBP": _webp_fault, "JPEG2000": _jpeg2000_fault},
    **{"AVIF": _avif_fault, "HEIF": _avif_fault},
}
