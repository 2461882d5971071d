"""Reads facts other than pixels from picture files: the orientation, and the chunks of a PNG."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, TYPE_CHECKING, TypeVar

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T", bound="np.generic")

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


def png_chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield type and length of each chunk of a PNG, with the stream at the begin of the chunk's data."""
    chunk_start = stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        yield head[4:], length
        chunk_start = stream.seek(chunk_start + 8 + length + 4)  # head, data, checksum


def turn_array(values: NDArray[T], orientation: int) -> NDArray[T]:
    """Return stored values [H, W, ...] turned upright by an EXIF orientation."""
    if orientation in TRANSPOSING:
        values = values.swapaxes(0, 1)
    row_step = -1 if orientation in (3, 4, 7, 8) else 1
    column_step = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::row_step, ::column_step]


def apply_orientation(image: Image.Image) -> Image.Image:
    """Return a loaded image turned upright by its EXIF orientation."""
    turn = _ORIENTATIONS.get(_orientation(image.getexif))
    if turn is None:
        return image
    upright_image = image.transpose(turn)
    upright_image.format = image.format
    return upright_image


def stored_turn(path: str | os.PathLike[str]) -> int:
    """Return the EXIF orientation of a picture as it is stored; 1, upright, where none can be read."""
    try:
        with Image.open(path) as image:
            return _orientation(image.getexif)
    except Exception:  # reading the picture reports the fault
        return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return, from a picture's header, the (H, W) that it has when `decode` has turned it upright."""
    stream = getattr(image, "fp", None)
    getexif = image.getexif
    if image.format == "PNG" and stream is not None and _pixels_last(stream):
        # a PNG's method would decode all pixels, to look for metadata behind them
        getexif = partial(Image.Image.getexif, image)
    is_transposed = _orientation(getexif) in TRANSPOSING
    return (image.width, image.height) if is_transposed else (image.height, image.width)


def _orientation(getexif: Callable[[], Image.Exif]) -> int:
    """Return an EXIF orientation; 1, upright, where there is none or it is damaged."""
    try:
        return int(getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _pixels_last(stream: IO[bytes]) -> bool:
    """Whether a PNG has no metadata after its pixels. The position in the stream is restored."""
    position = stream.tell()
    try:
        kinds = [kind for kind, _ in png_chunks(stream)]
    finally:
        stream.seek(position)
    return kinds[-2:] == [b"IDAT", b"IEND"]
