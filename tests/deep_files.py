"""Writes files of pictures that Pillow cannot write."""

import struct
import zlib

import numpy as np

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def deep_png(values, *extra, interlaced=False):
    """A PNG of 16 bits a channel; each row with another filter. extra: chunks before the pixels."""
    height, width, channels = values.shape
    unit = 2 * channels

    def filtered(rows):
        before = np.zeros(rows.shape[1] * unit, np.uint8)
        for y, row in enumerate(rows):
            line = np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
            left = np.concatenate([np.zeros(unit, np.uint8), line[:-unit]])
            upper_left = np.concatenate([np.zeros(unit, np.uint8), before[:-unit]])
            a, b, c = (v.astype(int) for v in (left, before, upper_left))
            near = np.abs(np.stack([b - c, a - c, a + b - 2 * c]))
            paeth = np.choose(near.argmin(0), [a, b, c])
            predicted = (0 * a, a, b, (a + b) // 2, paeth)[y % 5]
            yield bytes([y % 5]) + (line - predicted).astype(np.uint8).tobytes()
            before = line

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)]
    passes += [(0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [values[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [values]
    raw = b"".join(b"".join(filtered(part)) for part in parts if part.size)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, int(interlaced))
    chunks = [chunk(b"IHDR", header), *(chunk(*one) for one in extra)]
    chunks += [chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values, *, order="<", extra=(), bits=None, planar=False, compression=1, kind=None, photometric=None):
    """A TIFF of one strip. bits: that the tags say. kind: sample format."""
    height, width, channels = values.shape
    size = values.dtype.itemsize * 8
    body = values.transpose(2, 0, 1) if planar else values
    body = np.ascontiguousarray(body).astype(values.dtype.newbyteorder(order))
    strips = [plane.tobytes() for plane in body] if planar else [body.tobytes()]
    strips = [zlib.compress(strip) if compression == 8 else strip for strip in strips]
    body = b"".join(strips)
    photometric = (2 if channels - len(extra) == 3 else 1) if photometric is None else photometric
    kind = kind or {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    planes = channels if planar else 1
    tags = {256: [width], 257: [height], 258: [bits or size] * channels, 259: [compression]}
    tags |= {262: [photometric], 277: [channels], 278: [height], 284: [2 if planar else 1]}
    tags |= {339: [kind] * channels}
    tags |= {338: list(extra)} if extra else {}
    tags |= {273: [0] * planes, 279: [*map(len, strips)]}
    at = 8 + 2 + 12 * len(tags) + 4
    room, entries = b"", []
    long_tags = {273, 279}
    need = {tag: len(v) * (4 if tag in long_tags else 2) for tag, v in tags.items()}
    start = at + sum(n for n in need.values() if n > 4)
    tags[273] = [start + sum(map(len, strips[:k])) for k in range(planes)]
    for tag in sorted(tags):
        letter, code = ("I", 4) if tag in long_tags else ("H", 3)
        packed = struct.pack(f"{order}{len(tags[tag])}{letter}", *tags[tag])
        if len(packed) > 4:
            field, room = struct.pack(f"{order}I", at + len(room)), room + packed
        else:
            field = packed.ljust(4, b"\0")
        entries.append(struct.pack(f"{order}HHI", tag, code, len(tags[tag])) + field)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(f"{order}H", len(entries))
    head = magic + struct.pack(f"{order}I", 8)
    return head + count + b"".join(entries) + b"\0\0\0\0" + room + body
