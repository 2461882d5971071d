"""Checks files of pictures beside their pixels: whether a file is whole, and which way is up."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRUNCATED = "the file is truncated"
_ORIENTATION_TAG = 0x0112
TRANSPOSING = range(5, 9)  # values that exchange height and width
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def find_damage(stream: IO[bytes], kind: str) -> str:
    """Says what is wrong with a picture that Pillow decodes without an error; empty where no fault is known.
    kind: the format, as Pillow calls it."""
    if kind == "PNG":
        return _png_damage(stream)
    return _jpeg_damage(stream) if kind in ("JPEG", "MPO") else ""


def _chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yields type and length of each chunk of a PNG; the stream stands at the chunk's data then."""
    place = stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        yield head[4:], length
        place = stream.seek(place + 8 + length + 4)


def _png_damage(stream: IO[bytes]) -> str:
    """Damage in a PNG: Pillow checks no checksum of the pixel data, and stops reading after the last row."""
    for kind, length in _chunks(stream):
        body, check = stream.read(length), stream.read(4)
        if len(check) < 4:
            break
        critical = not kind[0] & 0x20  # upper case first letter
        if critical and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(check, "big"):
            return "the file is damaged (a checksum differs)"
        if kind == b"IEND":
            return ""
    return TRUNCATED


def _jpeg_damage(stream: IO[bytes]) -> str:
    """Damage in a JPEG: one that was cut off and filled with zeros decodes, but lacks its end marker."""
    stream.seek(2)
    while len(head := stream.read(4)) == 4:
        if head[0] != 0xFF or head[1] in (0xDA, 0xFF):  # start of scan, or bytes that only libjpeg skips
            break
        stream.seek(int.from_bytes(head[2:], "big") - 2, os.SEEK_CUR)
    # FF D9 never stands inside the compressed data.
    return "" if b"\xff\xd9" in stream.read() else TRUNCATED


def turn_array(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turns stored values [H, W, ...] as an EXIF orientation says."""
    if orientation in TRANSPOSING:
        values = values.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::down, ::across]


def apply_orientation(image: Image.Image) -> Image.Image:
    """Turns a loaded image as its EXIF orientation says."""
    turn = _ORIENTATIONS.get(_orientation(image.getexif))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.format = image.format
    return turned


def stored_turn(path: str | os.PathLike[str]) -> int:
    """EXIF orientation of a picture as it is stored: 1 is upright; also where there is none to be read."""
    try:
        with Image.open(path) as image:
            return _orientation(image.getexif)
    except Exception:  # who reads the picture tells what is wrong
        return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Reads (H, W) of the picture as `decode` gives it from the header."""
    stream, getexif = getattr(image, "fp", None), image.getexif
    if image.format == "PNG" and stream is not None and _pixels_last(stream):
        getexif = partial(Image.Image.getexif, image)  # a PNG's own decodes all pixels to look behind them
    turned = _orientation(getexif) in TRANSPOSING
    return (image.width, image.height) if turned else (image.height, image.width)


def _orientation(getexif: Callable[[], Image.Exif]) -> int:
    try:
        return int(getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken metadata beside good pixels
        return 1


def _pixels_last(stream: IO[bytes]) -> bool:
    """Whether a PNG has no metadata after its pixels. The stream stays where it is."""
    place = stream.tell()
    try:
        kinds = [kind for kind, _ in _chunks(stream)]
    finally:
        stream.seek(place)
    return kinds[-2:] == [b"IDAT", b"IEND"]
