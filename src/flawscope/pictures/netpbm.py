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
_HEADER_BYTES = 4096  # a header ends within as many bytes, comments included
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
    """Read the header of a PGM or PPM of 9 to 16 bits; None for other files, such as those of 8 bits."""
    stream.seek(0)
    match = _HEADER.match(stream.read(_HEADER_BYTES))
    if match is None:
        return None
    kind = match[1]
    width = int(match[2])
    height = int(match[3])
    largest = int(match[4])
    if not 255 < largest < 65536 or min(width, height) < 1:
        return None
    return Netpbm(kind, (height, width), _CHANNELS[kind], largest, begin=match.end())


def read_values(stream: IO[bytes], header: Netpbm) -> tuple[NDArray[np.uint16] | None, bool]:
    """Read the values of a file.

    Returns:
        The values [H, W, C], and whether at least one more row follows them. The values are None if some are
        missing, are no numbers, or lie outside of 0..`header.largest`.
    """
    height, width = header.size
    values_per_row = width * header.channels
    value_count = height * values_per_row
    stream.seek(header.begin)
    if header.kind in _IN_WORDS:
        without_comments = re.sub(rb"#[^\n]*", b" ", stream.read())
        words = without_comments.split()
        has_more = len(words) >= value_count + values_per_row
        try:
            values = np.array(words[:value_count], dtype=np.int64)
        except (ValueError, OverflowError):
            return None, has_more
    else:
        data = stream.read(2 * value_count)
        row_bytes = 2 * values_per_row
        has_more = len(stream.read(row_bytes)) == row_bytes
        complete_values = data[: len(data) // 2 * 2]  # a truncated file may end within a value of two bytes
        values = np.frombuffer(complete_values, ">u2").astype(np.int64)
    if values.size < value_count or values.min() < 0 or values.max() > header.largest:
        return None, has_more
    return values.astype(np.uint16).reshape(height, width, header.channels), has_more
