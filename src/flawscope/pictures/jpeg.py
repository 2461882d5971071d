"""Loads JPEG pictures and describes what is missing in them.

Pillow passes no warning of libjpeg on, and libjpeg fills missing pixels with grey.

Each stretch of compressed data, from one marker to the next, holds as many blocks as the header states.
Decoding shows whether it does: libjpeg takes in bytes of a block only when the block is whole, and those
behind the last block at once, because it looks for the marker there. So each stretch is given in pieces, and
with a few bytes more, which are passed over behind the last block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

from PIL import Image, ImageFile

from flawscope.pictures.files import TRUNCATED

INCOMPLETE = "the file is damaged (some of its pixels are missing)"
TOO_MUCH = "the file is damaged (it holds more than its pixels)"
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_BASELINE = 0xC0
_EXTENDED = 0xC1
_PROGRESSIVE = 0xC2
_FRAMES = {*range(_BASELINE, 0xD0)} - {0xC4, 0xC8, 0xCC}
_RESTARTS = range(0xD0, 0xD8)
_ALONE = {0x01, 0xD8, *_RESTARTS}  # markers without a length
_ALL_BITS = 99  # of a coefficient are missing: more than there are
_END = 0xD9
_START_OF_SCAN = 0xDA
_RESTART_INTERVAL = 0xDD
_HUFFMAN_TABLES = 0xC4
_AC = 0x10
_END_OF_BLOCK = 0
_ZEROS = bytes(64)  # more than a block of the shortest codes has
_COEFFICIENTS = 64  # of a block
_SPARE = 8  # bytes that an encoder may leave behind the last block
_SHORT = 128  # bytes below which a stretch is counted by restart markers alone, to save time
_BEYOND = b"\xfe" * 8  # as many as libjpeg reads ahead; long codes make few blocks


class Layout(NamedTuple):
    """Layout of a JPEG by its markers.

    Attributes:
        stretches: Begin and end of each stretch of compressed data.
        kind: Kind of the frame.
        fault: Description of missing data; empty where nothing is known to be missing.
    """

    stretches: list[tuple[int, int]]
    kind: int
    fault: str


def load(image: Image.Image, data: bytes) -> str:
    """Load an image, opened and not loaded yet, from its file's bytes.

    Returns:
        What is missing, where the image is not whole; empty where nothing is known to be.

    Raises:
        OSError: It is damaged; Pillow raises other errors, too.
    """
    layout = read_layout(data)
    if layout.fault:
        return layout.fault
    opened = cast(ImageFile.ImageFile, image)
    ((name, extents, _, args),) = opened.tile
    opened.load_prepare()
    decoder = Image._getdecoder(image.mode, name, args, opened.decoderconfig)
    try:
        decoder.setimage(opened.im, extents)
        # Arithmetic codes are not read in pieces, and may leave zeros out
        known = layout.kind in (_BASELINE, _EXTENDED, _PROGRESSIVE)
        fault = _decode(decoder, data, layout.stretches if known else [])
    finally:
        decoder.cleanup()
    opened.tile = []
    return fault


@dataclass
class _Segments:
    """Facts from the segments of a JPEG read up to now, by which its scans are read."""

    kind: int = 0  # of the frame
    frame: bytes = b""
    interval: int = 0  # units between restart markers; 0: there are none
    # bits of each coefficient of each component that are still to come
    missing: dict[int, list[int]] = field(default_factory=dict)
    shortest: dict[int, int] = field(
        default_factory=dict
    )  # symbol that zero bits mean, by the table's number

    @property
    def is_complete(self) -> bool:
        return not any(map(any, self.missing.values()))

    def read(self, code: int, head: bytes) -> None:
        """Read a segment; those that say nothing of the scans are passed over."""
        if code in _FRAMES:
            self.kind = code
            self.frame = head
            self.missing = {component: [_ALL_BITS] * _COEFFICIENTS for component in head[6::3]}
        elif code == _HUFFMAN_TABLES:
            self.shortest |= _shortest_codes(head)
        elif code == _RESTART_INTERVAL:
            self.interval = int.from_bytes(head, "big")

    def begins_scan(self, code: int, head: bytes) -> bool:
        """Whether a segment begins a scan, and the frame is known."""
        return code == _START_OF_SCAN and len(head) > 5 and bool(self.frame)

    def read_scan(self, head: bytes) -> None:
        """Note which bits of which coefficients a scan brings."""
        first, last, bits = head[-3:] if self.kind == _PROGRESSIVE else (0, _COEFFICIENTS - 1, 0)
        for component in head[1:-3:2]:
            missing = self.missing.get(component)
            if missing is not None:
                missing[first : last + 1] = [bits & 15] * (last + 1 - first)

    def count_stretches(self, head: bytes) -> int:
        """Number of stretches that a scan should have."""
        if not self.interval:
            return 1
        return -(-_units(self.frame, head[1:-3:2]) // self.interval)

    def find_scan_fault(self, data: bytes, stretches: list[tuple[int, int]], head: bytes) -> str:
        """Return what is missing in the stretches of a scan's data; empty where nothing is known to be."""
        if len(stretches) != self.count_stretches(head):
            return _fault_at_end(data, stretches)
        if self.kind not in (_BASELINE, _EXTENDED):
            return ""
        symbol = self.shortest.get(head[2] & 15 | _AC, 0)
        is_filled = _has_zeros(data, stretches[0][0], stretches[-1][1], symbol)
        return INCOMPLETE if is_filled else ""


def _fault_at_end(data: bytes, stretches: list[tuple[int, int]]) -> str:
    return TRUNCATED if stretches[-1][1] == len(data) else INCOMPLETE


def read_layout(data: bytes) -> Layout:
    """Walk the markers of a JPEG to its end; bytes behind it are left out."""
    segments = _Segments()
    stretches: list[tuple[int, int]] = []
    at = 2
    while marker := _MARKER.search(data, at):
        at = marker.end()
        code = data[marker.end() - 1]
        if code == _END:
            whole = stretches and segments.is_complete
            return Layout(stretches, segments.kind, "" if whole else INCOMPLETE)
        if code in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        head = data[at + 2 : at + length]
        at += length
        if not segments.begins_scan(code, head):
            segments.read(code, head)
            continue
        segments.read_scan(head)
        found, in_order = _stretches(data, at)
        fault = segments.find_scan_fault(data, found, head) if in_order else _fault_at_end(data, found)
        if fault:
            return Layout(stretches, segments.kind, fault)
        stretches += found
        at = found[-1][1]
    return Layout(stretches, segments.kind, TRUNCATED)


def _shortest_codes(tables: bytes) -> dict[int, int]:
    """Symbol of the shortest code of each Huffman table, by its class and number."""
    found = {}
    at = 0
    while len(tables) > at + 17:
        found[tables[at]] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return found


def _has_zeros(data: bytes, begin: int, end: int, symbol: int) -> bool:
    """Whether a scan holds so many zero bytes that a block would repeat one value again and again.

    `symbol` is the meaning of zero bits; where they end a block, many are usual.
    """
    return symbol != _END_OF_BLOCK and data.find(_ZEROS, begin, end) >= 0


def _units(frame: bytes, components: bytes) -> int:
    """Return the number of units between which restart markers of a scan are counted.

    Units are blocks of a scan's only component, or squares of blocks of all components.
    """
    factors = {
        component: (both >> 4, both & 15) for component, both in zip(frame[6::3], frame[7::3], strict=False)
    }
    count = 1
    for k, at in enumerate((3, 1)):  # across and down
        length = int.from_bytes(frame[at : at + 2], "big")
        most = max(both[k] for both in factors.values())
        factors_of_component = factors.get(components[0], (most, most))[k]
        blocks = (
            -(-length // (8 * most))
            if len(components) > 1
            else -(-(length * factors_of_component) // (8 * most))
        )
        count *= blocks
    return count


def _stretches(data: bytes, begin: int) -> tuple[list[tuple[int, int]], bool]:
    """Return the stretches of a scan, between restart markers, and whether the markers are in order."""
    found = []
    while marker := _MARKER.search(data, begin):
        end = marker.start()
        while end > begin and data[end - 1] == 0xFF:  # any number of them may come before a marker
            end -= 1
        found.append((begin, end))
        code = data[marker.end() - 1]
        begin = marker.end()
        if code not in _RESTARTS:
            is_empty = len(found) > 1 and found[-1] == (end, end)  # behind a marker that nothing follows
            return found[:-1] if is_empty else found, True
        if code != _RESTARTS[(len(found) - 1) % len(_RESTARTS)]:
            return found, False
    return [*found, (begin, len(data))], True


class Decoder(Protocol):
    """A decoder of Pillow, which takes data in pieces."""

    def decode(self, buffer: bytes) -> tuple[int, int]:
        """Return how many bytes were taken in, -1 when all pixels are there, and an error below 0."""


class _Feed:
    """Gives a JPEG's data to a decoder, piece by piece."""

    def __init__(self, decoder: Decoder, data: bytes) -> None:
        self.decoder = decoder
        self.data = data
        self.done = 0  # bytes of the data that were given
        self.waiting = b""

    def give(self, more: bytes) -> int:
        """Give more data to the decoder.

        Returns:
            The number of bytes that are not taken in yet; -1 when all pixels are there.
        """
        self.waiting += more
        taken, error = self.decoder.decode(self.waiting)
        if taken < 0 and error < 0:
            raise OSError(f"broken data, {error}")
        self.waiting = self.waiting[taken:] if taken >= 0 else b""
        return len(self.waiting) if taken >= 0 else -1

    def needs_no_more(self, place: int) -> bool:
        """Give the data up to a place; return whether all blocks of their stretch are there by then.

        If they are, the bytes that follow, even the byte at the place itself, are not looked at any more.
        """
        left = self.give(self.data[self.done : place])
        self.done = place
        if left < 0:
            return True
        if left > 0:
            return False
        self.done += 1
        return self.give(self.data[place : place + 1]) <= 0


def _decode(decoder: Decoder, data: bytes, stretches: list[tuple[int, int]]) -> str:
    """Decode all data and return which stretch holds too few blocks, or too much; OSError: it is broken."""
    feed = _Feed(decoder, data)
    for begin, end in stretches:
        if end - begin < _SHORT and (begin, end) != stretches[-1]:
            continue
        probe = _place_before_end(data, begin, end)
        if probe > begin and feed.needs_no_more(probe):
            return TOO_MUCH
        left = feed.give(data[feed.done : end] + _BEYOND)
        if left < 0:
            return ""
        if left or feed.give(b"\0"):
            return INCOMPLETE
        feed.done = end
    return "" if feed.give(data[feed.done :]) < 0 else TRUNCATED


def _place_before_end(data: bytes, begin: int, end: int) -> int:
    """Return a place some bytes before the end of a stretch, beside no 0xFF.

    A marker's first byte is kept back.
    """
    place = end - _SPARE
    while place > begin and 0xFF in data[place - 1 : place + 1]:
        place -= 1
    return place
