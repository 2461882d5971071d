"""One scene, written in every form of the common formats, is read as it was drawn: none is nearly right."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from deep_files import deep_png
from flawscope.pictures.decoding import decode

HEIGHT, WIDTH = 29, 22
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
COLOUR = np.dstack([40 + 8 * COLUMNS, 30 + 6 * ROWS, 20 + 3 * ROWS + 4 * COLUMNS]).astype(np.uint8)
GREY = COLOUR[:, :, 2].copy()
DEEP_GREY, DEEP_COLOUR = GREY.astype(np.uint16) * 257, COLOUR.astype(np.uint16) * 257
LOSSY = 12 / 255  # that a compression may be off in the mean


def levels(bits):
    """The grey scene in so few bits."""
    return GREY.astype(int) * (1 << bits) // 256


def packed_row(values, bits):
    text = "".join(format(int(value), f"0{bits}b") for value in values)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def png_of_bits(bits):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + packed_row(row, bits) for row in levels(bits))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bmp_row(row, bits, is_packed):
    if is_packed:
        shift = 8 - bits
        return b"".join(bytes([1, int(value) << shift]) for value in levels(bits)[row]) + b"\0\0"
    if bits <= 8:
        stored = packed_row(levels(bits)[row], bits)
    elif bits == 16:
        red, green, blue = (COLOUR[row].astype(int) >> 3).T
        stored = ((red << 10) | (green << 5) | blue).astype("<u2").tobytes()
    else:
        unused = np.zeros((WIDTH, bits // 8 - 3), np.uint8)
        stored = np.hstack([COLOUR[row, :, ::-1], unused]).tobytes()
    return stored + bytes(-len(stored) % 4)


def bmp(bits, is_from_top=False, is_packed=False):
    greys = 1 << bits if bits <= 8 else 0
    palette = b"".join(bytes([k * 255 // (greys - 1)] * 3) + b"\0" for k in range(greys))
    order = range(HEIGHT) if is_from_top else reversed(range(HEIGHT))
    body = b"".join(bmp_row(row, bits, is_packed) for row in order) + (b"\0\1" if is_packed else b"")
    compression = {8: 1, 4: 2}[bits] if is_packed else 0
    height = -HEIGHT if is_from_top else HEIGHT
    facts = (40, WIDTH, height, 1, bits, compression, len(body), 0, 0, greys, 0)
    begin = 54 + len(palette)
    head = b"BM" + struct.pack("<IHHI", begin + len(body), 0, 0, begin) + struct.pack("<IiiHHIIiiII", *facts)
    return head + palette + body


def by_pillow(values, kind, **how):
    stream = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(stream, kind, **how)
    return stream.getvalue()


def by_tifffile(values, **how):
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **how)
    return stream.getvalue()


def shares(values, largest):
    return np.asarray(values, float).reshape(HEIGHT, WIDTH, -1) / largest


SHOWN, SHOWN_GREY = shares(COLOUR, 255), shares(GREY, 255)
CMYK = Image.fromarray(COLOUR).convert("CMYK")
FORMS = {  # file, what it shows in 0..1, how far off its values may be in the mean
    **{f"PNG of {n} bits": (png_of_bits(n), shares(levels(n), (1 << n) - 1), 0.002) for n in (1, 2, 4)},
    **{
        f"BMP of {n} bits, {'top' if top else 'bottom'} first{', packed' if packed else ''}": (
            bmp(n, top, packed),
            shares(levels(n), (1 << n) - 1) if n <= 8 else SHOWN,
            0.002 if n <= 8 else 0.02 if n == 16 else 0,
        )
        for n, packed in ((1, 0), (4, 0), (8, 0), (16, 0), (24, 0), (32, 0), (4, 1), (8, 1))
        for top in ((False,) if packed else (False, True))
    },
    "PNG of 16 bits, interlaced": (deep_png(DEEP_COLOUR, interlaced=True), SHOWN, 0),
    "PNG of 16 bits, grey": (by_pillow(DEEP_GREY, "PNG"), SHOWN_GREY, 0),
    "JPEG, progressive": (by_pillow(COLOUR, "JPEG", quality=98, progressive=True), SHOWN, LOSSY),
    "JPEG, grey": (by_pillow(GREY, "JPEG", quality=98), SHOWN_GREY, LOSSY),
    "JPEG, RGB": (by_pillow(COLOUR, "JPEG", quality=98, keep_rgb=True), SHOWN, LOSSY),
    "JPEG, CMYK": (by_pillow(CMYK, "JPEG", quality=98), SHOWN, LOSSY),
    "WebP": (by_pillow(COLOUR, "WEBP", quality=98), SHOWN, LOSSY),
    "WebP, lossless": (by_pillow(COLOUR, "WEBP", lossless=True), SHOWN, 0),
    "JPEG 2000": (by_pillow(COLOUR, "JPEG2000"), SHOWN, 0),
    "JPEG 2000, grey of 16 bits": (by_pillow(DEEP_GREY, "JPEG2000"), SHOWN_GREY, 0),
    "GIF, interlaced": (by_pillow(GREY, "GIF", interlace=1), SHOWN_GREY, 0),
    "TIFF, CMYK": (by_pillow(CMYK, "TIFF"), SHOWN, 0),
    **{
        f"TIFF, {kind} {how}": (by_tifffile(values, photometric=photometric, **how), shown, near)
        for kind, values, photometric, shown, near in (
            ("grey", GREY, "minisblack", SHOWN_GREY, 0),
            ("white is 0", 255 - GREY, "miniswhite", SHOWN_GREY, 0),
            ("grey of 16 bits", DEEP_GREY, "minisblack", SHOWN_GREY, 0),
            ("float", (GREY / 255).astype(np.float32), "minisblack", SHOWN_GREY, 1e-6),
            ("double", GREY / 255, "minisblack", SHOWN_GREY, 1e-6),
            ("half", (GREY / 255).astype(np.float16), "minisblack", SHOWN_GREY, 1e-3),
            ("colour", COLOUR, "rgb", SHOWN, 0),
            ("colour of 16 bits", DEEP_COLOUR, "rgb", SHOWN, 0),
        )
        for how in ({}, {"byteorder": ">", "compression": "zlib"}, {"tile": (16, 16), "compression": "lzw"})
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_shows_the_scene(name):
    data, shown, near = FORMS[name]
    got = decode(data)
    largest = {"u1": 255, "u2": 65535, "f4": 1}[got.dtype.str[1:]]
    off = np.abs(got / largest - shown)
    assert off.mean() <= near
    assert near or off.max() == 0
