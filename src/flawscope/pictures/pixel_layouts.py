"""Reads values that Pillow would cut or drop silently, and names the layouts of files that nobody reads.

Pillow holds colour with 8 bits a channel. Of a PNG with 16 it unpacks the upper byte of each value. With the
opposite order of the bytes, it unpacks the lower one: read twice, nothing is lost.
"""

from __future__ import annotations

import math
import os
import struct
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from flawscope.errors import data_checks, install_command
from flawscope.pictures import netpbm, tiff
from flawscope.pictures.arrays import narrow_integers, picture_error
from flawscope.pictures.damage import CUT, has_cut
from flawscope.pictures.files import TRUNCATED, turn_array
from flawscope.pictures.jpeg import TOO_MUCH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flawscope.errors import InputError

STORE_AGAIN = "store it as grey or RGB with 8 or 16 bits, PNG or TIFF"
CHANNELS_ONLY = "fit with --channels all, or store it as grey, RGB or RGBA"
DAMAGED = "the file is damaged"
TRUNCATED_OR_DAMAGED = "the file is truncated or damaged"
COPY_AGAIN = data_checks.DAMAGED_FILE.coded("copy it again")
_DEEP_MODES = frozenset({"RGB;16", "RGBA;16", "LA;16"})  # of PNG, without the order of the bytes
_HEAD = 4096  # bytes of a JPEG 2000 in which its layout stands
_JPEG_LS = 0xF7  # marker of the start of a frame
_FOUR_BYTES = "RGBA"  # of a pixel, as grey with alpha of 16 bits has


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of how an image's values lie in its file; empty where the image has none.

    The image is not loaded yet.
    """
    for _, _, _, args in getattr(image, "tile", ()):
        return args if isinstance(args, str) else str(args[0]) if args else ""
    return ""


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an image that was not loaded yet is a PNG of 16 bits a channel, more than one of them."""
    return image.format == "PNG" and raw_mode(image)[:-1] in _DEEP_MODES


def take_lower_bytes(image: Image.Image) -> bool:
    """Make an image of deep colour load the lower bytes of its values; of grey with alpha all four bytes.

    The image is not loaded yet. Return whether it is grey with alpha.
    """
    grey = raw_mode(image).startswith("LA")
    if grey:
        image._mode = _FOUR_BYTES

    def other(args: str) -> str:
        return _FOUR_BYTES if grey else args[:-1] + "L"

    opened: Any = image  # `_make`: a tile of Pillow 11 and later is a named tuple
    opened.tile = [getattr(tile, "_make", tuple)((*tile[:3], other(tile[3]))) for tile in opened.tile]
    return grey


def join_bytes(upper: Image.Image, lower: Image.Image, grey: bool) -> NDArray[np.uint16]:
    """Return values [H, W, C] of deep colour, or of grey with alpha [H, W, 2], from both loaded images."""
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


def read_whole(stream: IO[bytes], name: str, most: int) -> NDArray[np.number] | None:
    """Read the first picture of a TIFF, PGM or PPM of which Pillow would lose values, [H, W, C] upright.

    Args:
        stream: The file.
        name: Name of the picture, for errors.
        most: Number of pixels up to which it is read.

    Returns:
        The values; None for other files.

    Raises:
        InputError: It has channels that nobody explains, or a layout that nobody reads; is damaged or too
            large.
    """
    stream.seek(0)
    if stream.read(4) not in tiff.MAGIC:
        return _read_netpbm(stream, name, most)
    page = tiff.first_page(stream)
    if page is None:
        return None
    if page.holds_more:
        raise picture_error(name, TOO_MUCH, COPY_AGAIN)
    if not page.is_beyond_pillow:
        return None
    if page.is_mosaic:
        raise picture_error(name, "it is a Bayer mosaic", "have the camera's software turn it into colour")
    if count := page.unexplained:
        which = "one is" if count == 1 else f"{count} are"
        reason = f"it has {page.channels} channels, of which {which} neither colour nor alpha"
        raise picture_error(name, reason, CHANNELS_ONLY)
    values = read_page(stream, page, name, most)
    if tiff.PREMULTIPLIED in page.extra and np.ptp(values[:, :, page.colours]) > 0:
        raise picture_error(name, "its colours are multiplied by its alpha", "store it without alpha")
    return values


def is_read_whole(source: str | os.PathLike[str] | Image.Image) -> bool:
    """Whether `read_whole` reads a picture, or refuses it."""
    if isinstance(source, Image.Image):
        return False
    with open(source, "rb") as stream:
        if page := tiff.first_page(stream):
            return page.is_beyond_pillow
        return netpbm.read_header(stream) is not None


def read_page(stream: IO[bytes], page: tiff.Page, name: str, most: int) -> NDArray[np.number]:
    """Read a picture of a TIFF, [H, W, C] upright; InputError as in `read_whole`."""
    if math.prod(page.size) > most:
        raise size_error(name, most)
    if not page.is_readable:
        raise picture_error(name, page.describe(), STORE_AGAIN)
    try:
        stored = tiff.read(stream, page)
    except MemoryError:
        raise
    except tiff.MissingCodecError as error:
        remedy = f"{install_command('imagecodecs', extras='tiff')}, or {STORE_AGAIN}"
        raise picture_error(name, str(error), remedy) from None
    except Exception as error:  # of a damaged directory, of numpy, of libtiff
        reason = TRUNCATED if "truncated" in str(error) else f"{DAMAGED} ({error})"
        raise picture_error(name, reason, COPY_AGAIN) from None
    if has_cut(stored):
        raise picture_error(name, CUT, COPY_AGAIN)
    return narrow_integers(turn_array(stored, page.orientation))


def size_error(name: str, most: int) -> InputError:
    """Return the error of a picture of more pixels than are read."""
    return picture_error(name, f"it has more than {most // 1_000_000} megapixels", "cut it into parts")


def _read_netpbm(stream: IO[bytes], name: str, most: int) -> NDArray[np.uint16] | None:
    """Read a PGM or PPM of more than 8 bits, [H, W, C]; None for others; InputError as in `read_whole`."""
    header = netpbm.read_header(stream)
    if header is None:
        return None
    if math.prod(header.size) > most:
        raise size_error(name, most)
    values, has_more = netpbm.read_values(stream, header)
    if values is None:
        raise picture_error(name, TRUNCATED_OR_DAMAGED, COPY_AGAIN)
    if has_more:
        raise picture_error(name, TOO_MUCH, COPY_AGAIN)
    if has_cut(values):
        raise picture_error(name, CUT, COPY_AGAIN)
    return values


def lost_in_reading(image: Image.Image) -> tuple[str, str]:
    """Return why reading a file would lose values, and the remedy; empty where nothing is lost.

    `image` is opened and not loaded yet, and is not one that `read_whole` reads.
    """
    raw = raw_mode(image)
    bands = len(image.getbands())
    if ";16" in raw and bands > 1 and not is_deep_colour(image):
        return f"it is {image.mode} with 16 bits a channel", STORE_AGAIN
    if bands > 1 and (bits := _bits(image)) > 8:
        return f"it is colour of {bits} bits, of which Pillow keeps 8", STORE_AGAIN
    return "", ""


def _bits(image: Image.Image) -> int:
    """Return the bits of a value in a JPEG 2000 that was not loaded yet; 0 for others."""
    tiles = getattr(image, "tile", ())
    stream: IO[bytes] | None = getattr(image, "fp", None)
    if image.format != "JPEG2000" or not tiles or stream is None:
        return 0
    place = stream.tell()
    stream.seek(0)
    bits = _jpeg2000_layout(stream.read(_HEAD))[1]
    stream.seek(place)
    return bits


def _jpeg2000_layout(head: bytes) -> tuple[int, int]:
    """Return the number of channels of a JPEG 2000 and their most bits; (0, 0) where not stated.

    `head` holds its first bytes.
    """
    at = head.find(b"\xff\x4f\xff\x51")
    try:
        (count,) = struct.unpack_from(">H", head, at + 40)
        bits = max((head[at + 42 + 3 * k] & 0x7F) + 1 for k in range(count))
    except (struct.error, IndexError, ValueError):
        return 0, 0
    return (count, bits) if at >= 0 else (0, 0)


def unread_layout(stream: IO[bytes], head: bytes) -> str:
    """Describe an undamaged file of a known format in a layout that Pillow does not read.

    Empty where the file seems to be damaged.
    """
    stream.seek(0)
    if head[:4] in tiff.MAGIC:
        page = tiff.first_page(stream)
        return page.describe() if page is not None and all(page.size) else ""
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


def _jpeg_layout(stream: IO[bytes]) -> str:
    stream.seek(2)
    while len(head := stream.read(4)) == 4 and head[0] == 0xFF:
        length = int.from_bytes(head[2:], "big")
        if head[1] == _JPEG_LS:
            return "it is a JPEG-LS"
        if head[1] in range(0xC0, 0xD0) and head[1] not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            bits = int.from_bytes(stream.read(1), "big")
            if bits != 8:
                return f"it is a JPEG of {bits} bits"
            return "" if head[1] in (0xC0, 0xC1, 0xC2) else "it is a lossless or arithmetic JPEG"
        stream.seek(length - 2, 1)
    return ""
