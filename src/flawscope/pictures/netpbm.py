"""Reads PGM and PPM files of more than 8 bits with the values that are in them. Torch-free.

Pillow stretches grey to 16 bits by the largest value in each file's header, and cuts colour to 8 bits. A
camera's values mean the same in every file: the white level is set once, when a model is fitted.
"""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GAP = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P([2356])" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)\s")
_HEADER_BYTES = 4096  # in which a header ends, comments included
_CHANNELS = {b"2": 1, b"5": 1, b"3": 3, b"6": 3}
_IN_WORDS = (b"2", b"3")  # kinds whose values are written as decimal numbers


class Netpbm(NamedTuple):
    """Header of a PGM or PPM file.

    Attributes:
        kind: Digit of the file's kind, 2, 3, 5 or 6.
        size: (H, W).
        channels: Number of channels.
        largest: Largest value that the file may hold.
        begin: Byte at which the values begin.
    """

    kind: bytes
    size: tuple[int, int]
    channels: int
    largest: int
    begin: int


def read_header(stream: IO[bytes]) -> Netpbm | None:
    """Read the header of a PGM or PPM of 9 to 16 bits; None for other files."""
    stream.seek(0)
    found = _HEADER.match(stream.read(_HEADER_BYTES))
    if found is None:
        return None
    kind = found[1]
    width = int(found[2])
    height = int(found[3])
    largest = int(found[4])
    if not 255 < largest < 65536 or min(width, height) < 1:
        return None
    return Netpbm(kind, (height, width), _CHANNELS[kind], largest, found.end())


def read_values(stream: IO[bytes], header: Netpbm) -> tuple[NDArray[np.uint16] | None, bool]:
    """Read values [H, W, C], and whether a row or more follows them.

    The values are None where some are missing, or are no numbers from 0 to the largest.
    """
    shape = (*header.size, header.channels)
    row = header.size[1] * header.channels
    count = header.size[0] * row
    stream.seek(header.begin)
    if header.kind in _IN_WORDS:
        words = re.sub(rb"#[^\n]*", b" ", stream.read()).split()
        has_more = len(words) >= count + row
        try:
            values = np.array(words[:count], dtype=np.int64)
        except (ValueError, OverflowError):
            return None, has_more
    else:
        data = stream.read(2 * count)
        has_more = len(stream.read(2 * row)) == 2 * row
        values = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype(np.int64)
    if values.size < count or values.min() < 0 or values.max() > header.largest:
        return None, has_more
    return values.astype(np.uint16).reshape(shape), has_more
