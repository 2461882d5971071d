"""Loads JPEG pictures and describes what is missing in them.

libjpeg fills missing pixels with grey, and Pillow does not pass its warnings on.

Each stretch of compressed data, from a marker to the next, has to hold as many blocks as the header states.
Decoding shows whether it does. libjpeg takes in the bytes of a block only when the block is complete. Behind
the last block it takes in all bytes at once, because it looks for the marker there. So each stretch is given
to libjpeg in pieces, and a few bytes more at its end: if they are taken in at once, all blocks are there.
"""

from __future__ import annotations

import math
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
_ALL_BITS = 99  # number of missing bits of a coefficient before the first scan: more than it has
_END = 0xD9
_START_OF_SCAN = 0xDA
_RESTART_INTERVAL = 0xDD
_HUFFMAN_TABLES = 0xC4
_AC = 0x10
_END_OF_BLOCK = 0
_ZEROS = bytes(64)  # more bytes than a block of the shortest codes has
_COEFFICIENTS = 64  # number of coefficients of a block
_SPARE = 8  # number of bytes that an encoder may leave behind the last block
_SHORT = 128  # shorter stretches, in bytes, are only counted, to save time
_BEYOND = b"\xfe" * 8  # as many bytes as libjpeg reads ahead; long codes make few blocks


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
    """Load an image that was opened and not loaded yet, and look for damage of its file.

    Args:
        image: The image.
        data: Bytes of the file.

    Returns:
        Damage of the file in words; empty where no damage is found.

    Raises:
        OSError: The file is damaged; Pillow raises other errors, too.
    """
    layout = read_layout(data)
    if layout.fault:
        return layout.fault
    image_file = cast(ImageFile.ImageFile, image)
    ((name, extents, _, args),) = image_file.tile
    image_file.load_prepare()
    decoder = Image._getdecoder(image.mode, name, args, image_file.decoderconfig)
    try:
        decoder.setimage(image_file.im, extents)
        # stretches of arithmetic codes are not checked: libjpeg does not read these codes in pieces, and
        # their encoder may leave out zero bytes at the end
        has_huffman_codes = layout.kind in (_BASELINE, _EXTENDED, _PROGRESSIVE)
        fault = _decode(decoder, data, layout.stretches if has_huffman_codes else [])
    finally:
        decoder.cleanup()
    image_file.tile = []
    return fault


@dataclass
class _Segments:
    """Facts from the segments of a JPEG that were read so far, which are needed to check its scans.

    Attributes:
        kind: Kind of the frame.
        frame: Content of the frame's segment; empty: not read yet.
        interval: Number of units between restart markers; 0: there are none.
        missing: For each component, the number of bits of each coefficient that no scan has brought yet.
        shortest: By class and number of a Huffman table, the symbol of its shortest code, which consists of
            zero bits.
    """

    kind: int = 0
    frame: bytes = b""
    interval: int = 0
    missing: dict[int, list[int]] = field(default_factory=dict)
    shortest: dict[int, int] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether the scans have brought all bits of all coefficients."""
        return not any(any(bits) for bits in self.missing.values())

    def read(self, code: int, content: bytes) -> None:
        """Read a segment; segments that do not matter for the scans are ignored.

        Args:
            code: Marker of the segment.
            content: Content of the segment.
        """
        if code in _FRAMES:
            self.kind = code
            self.frame = content
            # from byte 6 on, each component has 3 bytes, of which the first is its number
            component_numbers = content[6::3]
            self.missing = {number: [_ALL_BITS] * _COEFFICIENTS for number in component_numbers}
        elif code == _HUFFMAN_TABLES:
            self.shortest |= _shortest_codes(content)
        elif code == _RESTART_INTERVAL:
            self.interval = int.from_bytes(content, "big")

    def begins_scan(self, code: int, content: bytes) -> bool:
        """Whether a segment begins a scan, and the frame is known."""
        return code == _START_OF_SCAN and len(content) > 5 and bool(self.frame)

    def read_scan(self, content: bytes) -> None:
        """Record in `missing` how many bits the coefficients of a scan still lack after the scan.

        Args:
            content: Content of the segment that begins the scan.
        """
        if self.kind == _PROGRESSIVE:
            first, last, bit_positions = content[-3:]  # first and last coefficient of the scan
            lowest_bit = bit_positions & 15  # lower bits come with later scans
        else:
            first, last, lowest_bit = 0, _COEFFICIENTS - 1, 0
        for component in _scan_components(content):
            missing_bits = self.missing.get(component)
            if missing_bits is not None:
                missing_bits[first : last + 1] = [lowest_bit] * (last + 1 - first)

    def count_stretches(self, content: bytes) -> int:
        """Return the number of stretches that a scan should have; restart markers separate them.

        Args:
            content: Content of the segment that begins the scan.
        """
        if not self.interval:
            return 1
        unit_count = _count_units(self.frame, _scan_components(content))
        return math.ceil(unit_count / self.interval)

    def find_scan_fault(self, data: bytes, stretches: list[tuple[int, int]], content: bytes) -> str:
        """Return the fault of a scan; empty where no fault is found.

        Args:
            data: Bytes of the file.
            stretches: Begin and end of each stretch of the scan's data.
            content: Content of the segment that begins the scan.
        """
        if len(stretches) != self.count_stretches(content):
            return _fault_at_end(data, stretches)
        if self.kind not in (_BASELINE, _EXTENDED):
            return ""
        table_number = content[2] & 15  # number of the table of the first component's AC coefficients
        symbol = self.shortest.get(_AC | table_number, 0)
        begin, _ = stretches[0]
        _, end = stretches[-1]
        return INCOMPLETE if _has_zeros(data, begin, end, symbol) else ""


def _scan_components(content: bytes) -> bytes:
    """Return the numbers of a scan's components, given the content of the segment that begins it."""
    return content[1:-3:2]


def _fault_at_end(data: bytes, stretches: list[tuple[int, int]]) -> str:
    """Return the fault of an incomplete scan: the file is truncated if the last stretch ends with it."""
    _, end = stretches[-1]
    return TRUNCATED if end == len(data) else INCOMPLETE


def read_layout(data: bytes) -> Layout:
    """Read the markers of a JPEG up to its end mark, and check that its scans are complete."""
    segments = _Segments()
    stretches: list[tuple[int, int]] = []
    position = 2
    while marker := _MARKER.search(data, position):
        position = marker.end()
        code = data[position - 1]
        if code == _END:
            is_complete = stretches and segments.is_complete
            return Layout(stretches, segments.kind, "" if is_complete else INCOMPLETE)
        if code in _ALONE:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        content = data[position + 2 : position + length]
        position += length
        if not segments.begins_scan(code, content):
            segments.read(code, content)
            continue
        segments.read_scan(content)
        scan_stretches, is_in_order = _scan_stretches(data, position)
        if is_in_order:
            fault = segments.find_scan_fault(data, scan_stretches, content)
        else:
            fault = _fault_at_end(data, scan_stretches)
        if fault:
            return Layout(stretches, segments.kind, fault)
        stretches += scan_stretches
        _, position = scan_stretches[-1]
    return Layout(stretches, segments.kind, TRUNCATED)


def _shortest_codes(tables: bytes) -> dict[int, int]:
    """Return the symbol of the shortest code of each Huffman table, by the table's class and number.

    Args:
        tables: Content of a segment. Each table has a byte with its class and number, 16 bytes with the
            number of codes of each length, and a byte for each symbol, that of the shortest code first.
    """
    symbol_by_table = {}
    position = 0
    while len(tables) > position + 17:
        class_and_number = tables[position]
        code_counts = tables[position + 1 : position + 17]
        symbol_by_table[class_and_number] = tables[position + 17]
        position += 17 + sum(code_counts)
    return symbol_by_table


def _has_zeros(data: bytes, begin: int, end: int, symbol: int) -> bool:
    """Whether a scan holds a longer run of zero bytes than a picture has.

    In such a run, all coefficients of a block would be equal. If zero bits end a block, long runs are usual,
    and the result is False.

    Args:
        data: Bytes of the file.
        begin: Begin of the scan's data.
        end: End of the scan's data.
        symbol: Symbol that zero bits mean.
    """
    return symbol != _END_OF_BLOCK and data.find(_ZEROS, begin, end) >= 0


def _count_units(frame: bytes, components: bytes) -> int:
    """Return the number of units of a scan; a JPEG states the distance of restart markers in such units.

    If the scan has a single component, a unit is a block of 8 x 8 of its pixels. Otherwise it is a group of
    blocks of all components.

    Args:
        frame: Content of the frame's segment.
        components: Numbers of the scan's components.
    """
    # each component has three bytes: its number, its factors across and down, and a table
    factors_by_component = {
        component: (factors >> 4, factors & 15)
        for component, factors in zip(frame[6::3], frame[7::3], strict=False)
    }
    single_factors = factors_by_component.get(components[0]) if len(components) == 1 else None
    count = 1
    for axis, position in enumerate((3, 1)):  # positions of width and height in the frame's segment
        length = int.from_bytes(frame[position : position + 2], "big")
        max_factor = max(factors[axis] for factors in factors_by_component.values())
        if len(components) == 1:  # the component has fewer pixels than the picture if its factor is smaller
            length *= max_factor if single_factors is None else single_factors[axis]
        count *= math.ceil(length / (8 * max_factor))
    return count


def _scan_stretches(data: bytes, begin: int) -> tuple[list[tuple[int, int]], bool]:
    """Find the stretches of a scan, which restart markers separate.

    Args:
        data: Bytes of the file.
        begin: Begin of the scan's data.

    Returns:
        Begin and end of each stretch, and whether the restart markers are in order. If they are not, the
        stretches end before the first wrong marker.
    """
    stretches = []
    while marker := _MARKER.search(data, begin):
        end = marker.start()
        while end > begin and data[end - 1] == 0xFF:  # any number of these bytes may come before a marker
            end -= 1
        stretches.append((begin, end))
        code = data[marker.end() - 1]
        begin = marker.end()
        if code not in _RESTARTS:
            # a restart marker may stand behind the last stretch, so that an empty stretch follows
            is_last_empty = len(stretches) > 1 and stretches[-1] == (end, end)
            if is_last_empty:
                stretches.pop()
            return stretches, True
        expected_code = _RESTARTS[(len(stretches) - 1) % len(_RESTARTS)]
        if code != expected_code:
            return stretches, False
    return [*stretches, (begin, len(data))], True


class Decoder(Protocol):
    """A decoder of Pillow, which takes data in pieces."""

    def decode(self, buffer: bytes) -> tuple[int, int]:
        """Decode a piece of data.

        Returns:
            The number of bytes that were taken in, or -1 when decoding ended; and a number below 0 if it
            ended with an error.
        """


class _Feed:
    """Gives a JPEG's data to a decoder, piece by piece."""

    def __init__(self, decoder: Decoder, data: bytes) -> None:
        self.decoder = decoder
        self.data = data
        self.position = 0  # number of bytes of `data` that were given
        self.pending = b""  # bytes that were given, and not taken in yet

    def give(self, more: bytes) -> int:
        """Give more data to the decoder.

        Returns:
            The number of bytes that are not taken in yet; -1 when all pixels are there.

        Raises:
            OSError: The data are damaged.
        """
        self.pending += more
        taken_count, error = self.decoder.decode(self.pending)
        if taken_count >= 0:
            self.pending = self.pending[taken_count:]
            return len(self.pending)
        if error < 0:
            raise OSError(f"broken data, {error}")
        self.pending = b""
        return -1

    def completes_stretch(self, end: int) -> bool:
        """Give the data up to `end` to the decoder, and return whether they complete the stretch's blocks.

        To find out, one byte more is given: if all blocks are there, the decoder takes it in at once.
        """
        pending_count = self.give(self.data[self.position : end])
        self.position = end
        if pending_count < 0:
            return True
        if pending_count > 0:
            return False
        self.position += 1
        # 0: the byte is taken in; -1: all pixels are there
        return self.give(self.data[end : end + 1]) <= 0


def _decode(decoder: Decoder, data: bytes, stretches: list[tuple[int, int]]) -> str:
    """Decode all data; return the fault where a stretch holds too few blocks or too many bytes, else "".

    Args:
        decoder: The decoder.
        data: Bytes of the file.
        stretches: Begin and end of each stretch to check; empty: none is checked.

    Raises:
        OSError: The data are damaged.
    """
    feed = _Feed(decoder, data)
    for begin, end in stretches:
        if end - begin < _SHORT and (begin, end) != stretches[-1]:
            continue
        probe = _position_before_end(data, begin, end)
        if probe > begin and feed.completes_stretch(probe):
            return TOO_MUCH
        pending_count = feed.give(data[feed.position : end] + _BEYOND)
        if pending_count < 0:  # all pixels of the picture are there
            return ""
        # a decoder that has all blocks of the stretch also takes in one byte more
        has_all_blocks = pending_count == 0 and feed.give(b"\0") == 0
        if not has_all_blocks:
            return INCOMPLETE
        feed.position = end
    return "" if feed.give(data[feed.position :]) < 0 else TRUNCATED


def _position_before_end(data: bytes, begin: int, end: int) -> int:
    """Return a position `_SPARE` bytes or more before the end of a stretch, and not beside a byte 0xFF.

    A byte 0xFF may begin a marker, so the decoder does not take it in before it has the next byte.
    """
    position = end - _SPARE
    while position > begin and 0xFF in data[position - 1 : position + 1]:
        position -= 1
    return position
