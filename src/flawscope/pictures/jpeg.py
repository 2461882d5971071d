"""Loads JPEG pictures and says what is missing in them. Pillow passes no warning of libjpeg on, and libjpeg
fills with grey what is not there.

Each stretch of compressed data, from one marker to the next, holds as many blocks as the header tells.
Whether it does is seen while it is decoded: libjpeg takes in bytes of a block only when the block is whole,
and those behind the last block at once, for there it looks for the marker. So each stretch is given in
pieces, and with a few bytes more, which are passed over behind the last block.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol, cast

from PIL import Image, ImageFile

from flawscope.pictures.files import TRUNCATED

INCOMPLETE = "the file is damaged (some of its pixels are missing)"
TOO_MUCH = "the file is damaged (it holds more than its pixels)"
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAMES = {*range(_BASELINE, 0xD0)} - {0xC4, 0xC8, 0xCC}
_RESTARTS = range(0xD0, 0xD8)
_ALONE = {0x01, 0xD8, *_RESTARTS}  # markers without a length
_END, _START_OF_SCAN, _RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
_HUFFMAN_TABLES, _AC, _END_OF_BLOCK = 0xC4, 0x10, 0
_ZEROS = bytes(64)  # more than a block of the shortest codes has
_COEFFICIENTS = 64  # of a block
_SPARE = 8  # bytes that an encoder may leave behind the last block
_SHORT = 128  # bytes below which a stretch is counted by restart markers alone, to save time
_BEYOND = b"\xfe" * 8  # as many as libjpeg reads ahead; of long codes, so that few blocks are made of them


class Layout(NamedTuple):
    """Begin and end of each stretch of compressed data; kind of the frame; what the markers tell is
    missing."""

    stretches: list[tuple[int, int]]
    kind: int
    fault: str


def load(image: Image.Image, data: bytes) -> str:
    """Loads an image, opened and not loaded yet, from its file's bytes. Returns what is missing, where the
    image is not whole; empty where nothing is known to be. OSError and others: it is damaged."""
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


def read_layout(data: bytes) -> Layout:
    """Walks the markers of a JPEG to its end; what lies behind is none of it."""
    stretches: list[tuple[int, int]] = []
    missing: dict[int, list[int]] = {}  # bits of each coefficient of each component that are still to come
    shortest: dict[int, int] = {}  # symbol that zero bits mean, by the number of the table
    at, kind, interval, frame = 2, 0, 0, b""
    while (marker := _MARKER.search(data, at)) and (code := data[marker.end() - 1]) != _END:
        at = marker.end()
        if code in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        head = data[at + 2 : at + length]
        at += length
        if code in _FRAMES:
            kind, frame, missing = code, head, {one: [99] * _COEFFICIENTS for one in head[6::3]}
        elif code == _HUFFMAN_TABLES:
            shortest |= _shortest_codes(head)
        elif code == _RESTART_INTERVAL:
            interval = int.from_bytes(head, "big")
        elif code == _START_OF_SCAN and len(head) > 5 and frame:
            first, last, bits = head[-3:] if kind == _PROGRESSIVE else (0, _COEFFICIENTS - 1, 0)
            for one in head[1:-3:2]:
                missing.get(one, [0] * _COEFFICIENTS)[first : last + 1] = [bits & 15] * (last + 1 - first)
            found, in_order = _stretches(data, at)
            count = -(-_units(frame, head[1:-3:2]) // interval) if interval else 1
            if not in_order or len(found) != count:
                return Layout(stretches, kind, TRUNCATED if found[-1][1] == len(data) else INCOMPLETE)
            is_filled = _has_zeros(data, at, found[-1][1], shortest.get(head[2] & 15 | _AC, 0))
            if kind in (_BASELINE, _EXTENDED) and is_filled:
                return Layout(stretches, kind, INCOMPLETE)
            stretches += found
            at = found[-1][1]
    whole = stretches and not any(map(any, missing.values()))
    return Layout(stretches, kind, TRUNCATED if marker is None else "" if whole else INCOMPLETE)


def _shortest_codes(tables: bytes) -> dict[int, int]:
    """Symbol of the shortest code of each Huffman table, by its class and number."""
    found, at = {}, 0
    while len(tables) > at + 17:
        found[tables[at]] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return found


def _has_zeros(data: bytes, begin: int, end: int, symbol: int) -> bool:
    """Whether so many zero bytes lie in a scan that a block would consist of the same value again and again.
    symbol: what zero bits mean; where they end a block, many are nothing odd."""
    return symbol != _END_OF_BLOCK and data.find(_ZEROS, begin, end) >= 0


def _units(frame: bytes, components: bytes) -> int:
    """Number of units between which restart markers of a scan are counted: blocks of its only component, or
    squares of all."""
    factors = {one: (both >> 4, both & 15) for one, both in zip(frame[6::3], frame[7::3], strict=False)}
    count = 1
    for k, at in enumerate((3, 1)):  # across and down
        length, most = int.from_bytes(frame[at : at + 2], "big"), max(both[k] for both in factors.values())
        own = factors.get(components[0], (most, most))[k]
        blocks = -(-length // (8 * most)) if len(components) > 1 else -(-(length * own) // (8 * most))
        count *= blocks
    return count


def _stretches(data: bytes, begin: int) -> tuple[list[tuple[int, int]], bool]:
    """Finds the stretches of a scan, between restart markers, and whether these are in order."""
    found = []
    while marker := _MARKER.search(data, begin):
        end = marker.start()
        while end > begin and data[end - 1] == 0xFF:  # any number of them may come before a marker
            end -= 1
        found.append((begin, end))
        code, begin = data[marker.end() - 1], marker.end()
        if code not in _RESTARTS:
            is_empty = len(found) > 1 and found[-1] == (end, end)  # behind a marker that nothing follows
            return found[:-1] if is_empty else found, True
        if code != _RESTARTS[(len(found) - 1) % len(_RESTARTS)]:
            return found, False
    return [*found, (begin, len(data))], True


class Decoder(Protocol):
    """A decoder of Pillow, which takes data in pieces."""

    def decode(self, buffer: bytes) -> tuple[int, int]:
        """Returns how many bytes it has taken in, -1 when all pixels are there, and an error below 0."""


def _decode(decoder: Decoder, data: bytes, stretches: list[tuple[int, int]]) -> str:
    """Decodes all data, and says which stretch holds too few blocks, or too much. OSError: it is broken."""
    waiting = b""

    def give(more: bytes) -> int:
        """Returns the number of bytes that are not taken in yet; -1 when all pixels are there."""
        nonlocal waiting
        waiting += more
        taken, error = decoder.decode(waiting)
        if taken < 0 and error < 0:
            raise OSError(f"broken data, {error}")
        waiting = waiting[taken:] if taken >= 0 else b""
        return len(waiting) if taken >= 0 else -1

    done = 0
    for begin, end in stretches:
        if end - begin < _SHORT and (begin, end) != stretches[-1]:
            continue
        probe = end - _SPARE
        while probe > begin and 0xFF in data[probe - 1 : probe + 1]:  # a marker's first byte is kept back
            probe -= 1
        if probe > begin:
            left = give(data[done:probe])
            if left < 0 or (left == 0 and give(data[probe : probe + 1]) <= 0):
                return TOO_MUCH
            done = probe + (left == 0)
        left = give(data[done:end] + _BEYOND)
        if left < 0:
            return ""
        if left or give(b"\0"):
            return INCOMPLETE
        done = end
    return "" if give(data[done:]) < 0 else TRUNCATED
