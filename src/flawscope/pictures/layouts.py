"""Reads what Pillow would cut or drop without a word, and names the layouts of files that it cannot read.

Pillow holds colour with 8 bits a channel. Of a file with 16 it unpacks the upper byte of each value. Told
that the bytes lie the other way round, it unpacks the lower one: read twice, nothing is lost.
"""

from __future__ import annotations

import struct
import sys
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, TiffImagePlugin

if TYPE_CHECKING:
    from numpy.typing import NDArray

STORE_AGAIN = "store it as grey or RGB with 8 or 16 bits, PNG or TIFF"
CHANNELS_ONLY = "store it as grey, RGB or RGBA"
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_DEEP_MODES = frozenset({"RGB;16", "RGBA;16", "LA;16"})  # without the order of the bytes
_HEAD = 4096  # bytes of a JPEG 2000 in which its layout stands
_FOUR_BYTES = "RGBA"  # of a pixel, as grey with alpha of 16 bits has
_EXTRA_SAMPLES, _BITS, _CHANNELS, _FORMAT, _PLANAR, _COMPRESSION = 338, 258, 277, 339, 284, 259
_FORMATS = {1: "", 2: "signed ", 3: "floating-point "}


def raw_mode(image: Image.Image) -> str:
    """Returns Pillow's name of how the values of an image that was not loaded yet lie in its file; empty
    for others."""
    for _, _, _, args in getattr(image, "tile", ()):
        return args if isinstance(args, str) else str(args[0]) if args else ""
    return ""


def is_deep_colour(image: Image.Image) -> bool:
    """Whether the file of an image that was not loaded yet has 16 bits a channel, more than one of them."""
    return raw_mode(image)[:-1] in _DEEP_MODES


def take_lower_bytes(image: Image.Image) -> bool:
    """Makes an image of deep colour that was not loaded yet load the lower bytes of its values; of grey with
    alpha all four bytes of a pixel. Returns whether it is that."""
    grey = raw_mode(image).startswith("LA")
    if grey:
        image._mode = _FOUR_BYTES

    def other(args: Any) -> Any:
        raw, *rest = (args,) if isinstance(args, str) else args
        raw = _FOUR_BYTES if grey else raw[:-1] + _OTHER_BYTE[raw[-1]]
        return raw if isinstance(args, str) else (raw, *rest)

    opened: Any = image  # `_make`: a tile of Pillow 11 and later is a named tuple
    opened.tile = [getattr(tile, "_make", tuple)((*tile[:3], other(tile[3]))) for tile in opened.tile]
    return grey


def join_bytes(upper: Image.Image, lower: Image.Image, grey: bool) -> NDArray[np.uint16]:
    """Values [H, W, C] of deep colour, or of grey with alpha [H, W, 2], from both loaded images."""
    if grey:
        return np.ascontiguousarray(lower).view(">u2").astype(np.uint16)
    values = np.asarray(upper).astype(np.uint16)
    values <<= 8
    values |= np.asarray(lower)
    key = upper.info.get("transparency")
    if isinstance(key, tuple) and len(key) == 3 == values.shape[2]:  # this colour is transparent
        opaque = (values != np.array(key)).any(2, keepdims=True)
        values = np.concatenate([values, np.where(opaque, 65535, 0).astype(np.uint16)], 2)
    return values


def lost_in_reading(image: Image.Image) -> tuple[str, str]:
    """Says what reading a file would lose, and what to do; empty where nothing is lost. image: opened, and
    not loaded yet, or an opened TIFF."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None and 0 in tags.get(_EXTRA_SAMPLES, ()):
        count = tags.get(_CHANNELS, 1)
        return f"it has {count} channels, of which {_unexplained(tags)}", CHANNELS_ONLY
    raw, bands = raw_mode(image), len(image.getbands())
    planes = tags is not None and tags.get(_PLANAR) == 2 and max(tags.get(_BITS, (1,))) > 8
    if planes and bands > 1:
        return "its channels of 16 bits lie one after the other", f"{STORE_AGAIN}, channels side by side"
    if ";16" in raw and bands > 1 and not is_deep_colour(image):
        return f"it is {image.mode} with 16 bits a channel", STORE_AGAIN
    if bands > 1 and (bits := _bits(image)) > 8:
        return f"it is colour of {bits} bits, of which Pillow keeps 8", STORE_AGAIN
    return "", ""


def _bits(image: Image.Image) -> int:
    """Bits of a value in a PPM or JPEG 2000 that was not loaded yet; 0 for others."""
    tiles = getattr(image, "tile", ())
    if image.format == "PPM":
        return max((int(args[-1]).bit_length() for *_, args in tiles if isinstance(args, tuple)), default=0)
    stream: Any = getattr(image, "fp", None)
    if image.format != "JPEG2000" or not tiles or stream is None:
        return 0
    place = stream.tell()
    stream.seek(0)
    bits = _jpeg2000_layout(stream.read(_HEAD))[1]
    stream.seek(place)
    return bits


def _unexplained(tags: Any) -> str:
    extra = tags.get(_EXTRA_SAMPLES, ())
    number = sum(kind == 0 for kind in extra)
    return "one is neither colour nor alpha" if number == 1 else f"{number} are neither colour nor alpha"


def _jpeg2000_layout(head: bytes) -> tuple[int, int]:
    """Number of channels of a JPEG 2000 and their most bits, from its first bytes; (0, 0) where they do not
    tell."""
    at = head.find(b"\xff\x4f\xff\x51")
    try:
        (count,) = struct.unpack_from(">H", head, at + 40)
        bits = max((head[at + 42 + 3 * k] & 0x7F) + 1 for k in range(count))
    except (struct.error, IndexError, ValueError):
        return 0, 0
    return (count, bits) if at >= 0 else (0, 0)


def unread_layout(stream: IO[bytes], head: bytes) -> str:
    """Describes an undamaged file of a known format in a layout that Pillow does not read; empty where it
    seems to be damaged."""
    stream.seek(0)
    if head[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_layout(stream)
    if head.startswith(b"\xff\xd8"):
        return _jpeg_layout(stream)
    if head.startswith(b"\0\0\0\x0cjP  "):
        count, bits = _jpeg2000_layout(stream.read(_HEAD))
        return (
            f"it is a JPEG 2000 of {_channels(count)} with {bits} bits" if count not in (0, 1, 3, 4) else ""
        )
    return ""


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _tiff_layout(stream: IO[bytes]) -> str:
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
        bits, count, kind = tags.get(_BITS, (1,)), tags.get(_CHANNELS, 1), tags.get(_FORMAT, (1,))
        compression = tags.get(_COMPRESSION, 1)
        if not (tags.get(256) and tags.get(257) and (273 in tags or 324 in tags)):
            return ""
    except Exception:  # what Pillow raises on a damaged directory
        return ""
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"it is a TIFF with compression {compression}"
    numbers = _FORMATS.get(kind[0], "complex ")
    depth = str(bits[0]) if len(set(bits)) == 1 else " and ".join(map(str, bits))
    return f"it is a TIFF of {_channels(count)} with {numbers}values of {depth} bits"


def _jpeg_layout(stream: IO[bytes]) -> str:
    stream.seek(2)
    while len(head := stream.read(4)) == 4 and head[0] == 0xFF:
        length = int.from_bytes(head[2:], "big")
        if head[1] in range(0xC0, 0xD0) and head[1] not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            bits = int.from_bytes(stream.read(1), "big")
            if bits != 8:
                return f"it is a JPEG of {bits} bits"
            return "" if head[1] in (0xC0, 0xC1, 0xC2) else "it is a lossless or arithmetic JPEG"
        stream.seek(length - 2, 1)
    return ""
