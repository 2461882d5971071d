"""Reads values that Pillow would cut or drop silently, and describes layouts of files that are not read.

Pillow holds colour with 8 bits a channel. Of a PNG with 16 bits it reads the upper byte of each value. If the
order of the bytes is exchanged, it reads the lower byte. So the file is read twice, and nothing is lost.
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
_DEEP_MODES = frozenset({"RGB;16", "RGBA;16", "LA;16"})  # layouts of PNG, without the order of the bytes
_HEAD = 4096  # number of bytes of a JPEG 2000 that hold its layout
_JPEG_LS = 0xF7  # marker of a JPEG-LS frame
_FOUR_BYTES = "RGBA"  # layout that reads all four bytes of a pixel of grey with alpha in 16 bits


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of the layout of an image's values in its file, such as "RGB;16B".

    Empty where Pillow states none.

    Args:
        image: The image, opened and not loaded yet.
    """
    tiles = getattr(image, "tile", ())
    if not tiles:
        return ""
    _, _, _, arguments = tiles[0]
    if isinstance(arguments, str):
        return arguments
    return str(arguments[0]) if arguments else ""


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an image that was not loaded yet is a PNG of several channels of 16 bits."""
    return image.format == "PNG" and raw_mode(image)[:-1] in _DEEP_MODES


def take_lower_bytes(image: Image.Image) -> bool:
    """Change an image of deep colour so that Pillow will load the lower byte of each value.

    If the image is grey with alpha, Pillow will load all four bytes of each pixel.

    Args:
        image: The image, not loaded yet.

    Returns:
        Whether the image is grey with alpha.
    """
    has_grey_alpha = raw_mode(image).startswith("LA")
    if has_grey_alpha:
        image._mode = _FOUR_BYTES
    image_file: Any = image
    tiles = []
    for tile in image_file.tile:
        codec, box, offset, layout = tile
        # with the bytes in the other order ("L"), Pillow keeps the lower byte
        new_layout = _FOUR_BYTES if has_grey_alpha else layout[:-1] + "L"
        make_tile = getattr(tile, "_make", tuple)  # a tile of Pillow 11 and later is a named tuple
        tiles.append(make_tile((codec, box, offset, new_layout)))
    image_file.tile = tiles
    return has_grey_alpha


def join_bytes(upper: Image.Image, lower: Image.Image, has_grey_alpha: bool) -> NDArray[np.uint16]:
    """Return the 16-bit values of a picture that was loaded twice.

    Args:
        upper: Image of the upper bytes.
        lower: Image of the lower bytes; of all four bytes of each pixel if the picture is grey with alpha.
        has_grey_alpha: Whether the picture is grey with alpha.

    Returns:
        The values [H, W, C]; [H, W, 2] for grey with alpha.
    """
    if has_grey_alpha:
        return np.ascontiguousarray(lower).view(">u2").astype(np.uint16)
    values = np.asarray(upper).astype(np.uint16)
    values <<= 8
    values |= np.asarray(lower)
    transparent_colour = upper.info.get("transparency")
    is_rgb = values.shape[2] == 3
    if isinstance(transparent_colour, tuple) and len(transparent_colour) == 3 and is_rgb:
        is_opaque = (values != np.array(transparent_colour)).any(2, keepdims=True)
        values = np.concatenate([values, np.where(is_opaque, 65535, 0).astype(np.uint16)], 2)
    return values


def read_whole(stream: IO[bytes], name: str, max_pixels: int) -> NDArray[np.number] | None:
    """Read the first picture of a TIFF, PGM or PPM if Pillow would lose some of its values.

    Args:
        stream: The file.
        name: Name of the picture, for errors.
        max_pixels: Largest number of pixels that is read.

    Returns:
        The values [H, W, C], upright; None for other files.

    Raises:
        InputError: The picture has channels without a stated meaning, or a layout that is not read. Or it is
            damaged or too large.
    """
    stream.seek(0)
    if stream.read(4) not in tiff.MAGIC:
        return _read_netpbm(stream, name, max_pixels)
    page = tiff.first_page(stream)
    if page is None:
        return None
    if page.holds_more:
        raise picture_error(name, TOO_MUCH, COPY_AGAIN)
    if not page.is_beyond_pillow:
        return None
    if page.is_mosaic:
        raise picture_error(name, "it is a Bayer mosaic", "have the camera's software turn it into colour")
    if page.unexplained:
        unexplained = "one is" if page.unexplained == 1 else f"{page.unexplained} are"
        reason = f"it has {page.channels} channels, of which {unexplained} neither colour nor alpha"
        raise picture_error(name, reason, CHANNELS_ONLY)
    values = read_page(stream, page, name, max_pixels)
    if tiff.PREMULTIPLIED in page.extra and np.ptp(values[:, :, page.colours]) > 0:
        raise picture_error(name, "its colours are multiplied by its alpha", "store it without alpha")
    return values


def is_read_whole(source: str | os.PathLike[str] | Image.Image) -> bool:
    """Whether `read_whole` handles the picture's layout: reads the picture, or refuses it with an error."""
    if isinstance(source, Image.Image):
        return False
    with open(source, "rb") as stream:
        page = tiff.first_page(stream)
        if page is not None:
            return page.is_beyond_pillow
        return netpbm.read_header(stream) is not None


def read_page(stream: IO[bytes], page: tiff.Page, name: str, max_pixels: int) -> NDArray[np.number]:
    """Read a picture of a TIFF, [H, W, C] upright.

    Raises:
        InputError: As in `read_whole`.
    """
    if math.prod(page.size) > max_pixels:
        raise size_error(name, max_pixels)
    if not page.is_readable:
        raise picture_error(name, page.describe(), STORE_AGAIN)
    try:
        stored = tiff.read(stream, page)
    except MemoryError:
        raise
    except tiff.MissingCodecError as error:
        remedy = f"{install_command('imagecodecs', extras='tiff')}, or {STORE_AGAIN}"
        raise picture_error(name, str(error), remedy) from None
    except Exception as error:  # numpy, libtiff and tifffile raise many errors for damaged files
        reason = TRUNCATED if "truncated" in str(error) else f"{DAMAGED} ({error})"
        raise picture_error(name, reason, COPY_AGAIN) from None
    if has_cut(stored):
        raise picture_error(name, CUT, COPY_AGAIN)
    return narrow_integers(turn_array(stored, page.orientation))


def size_error(name: str, max_pixels: int) -> InputError:
    """Return the error of a picture of more pixels than are read."""
    return picture_error(name, f"it has more than {max_pixels // 1_000_000} megapixels", "cut it into parts")


def _read_netpbm(stream: IO[bytes], name: str, max_pixels: int) -> NDArray[np.uint16] | None:
    """Read a PGM or PPM of more than 8 bits, [H, W, C]; None for other files.

    Raises:
        InputError: As in `read_whole`.
    """
    header = netpbm.read_header(stream)
    if header is None:
        return None
    if math.prod(header.size) > max_pixels:
        raise size_error(name, max_pixels)
    values, has_more = netpbm.read_values(stream, header)
    if values is None:
        raise picture_error(name, TRUNCATED_OR_DAMAGED, COPY_AGAIN)
    if has_more:
        raise picture_error(name, TOO_MUCH, COPY_AGAIN)
    if has_cut(values):
        raise picture_error(name, CUT, COPY_AGAIN)
    return values


def lost_in_reading(image: Image.Image) -> tuple[str, str]:
    """Return the reason why Pillow would lose values of a file, and the remedy; both empty: it loses none.

    Args:
        image: Image that was opened and not loaded yet, and that `read_whole` does not read.
    """
    if len(image.getbands()) == 1:
        return "", ""
    if ";16" in raw_mode(image) and not is_deep_colour(image):
        return f"it is {image.mode} with 16 bits a channel", STORE_AGAIN
    bits = _bits(image)
    if bits > 8:
        return f"it is colour of {bits} bits, of which Pillow keeps 8", STORE_AGAIN
    return "", ""


def _bits(image: Image.Image) -> int:
    """Return the number of bits of a value in a JPEG 2000; 0 for other files.

    Args:
        image: The image, not loaded yet.
    """
    tiles = getattr(image, "tile", ())
    stream: IO[bytes] | None = getattr(image, "fp", None)
    if image.format != "JPEG2000" or not tiles or stream is None:
        return 0
    position = stream.tell()
    stream.seek(0)
    _, bits = _jpeg2000_layout(stream.read(_HEAD))
    stream.seek(position)
    return bits


def _jpeg2000_layout(head: bytes) -> tuple[int, int]:
    """Return the number of channels of a JPEG 2000, and the bits of its deepest channel; (0, 0): not known.

    Args:
        head: First bytes of the file.
    """
    start = head.find(b"\xff\x4f\xff\x51")  # markers of the code stream and of its sizes
    if start < 0:
        return 0, 0
    try:
        (count,) = struct.unpack_from(">H", head, start + 40)
        # three bytes for each channel; the lower seven bits of the first are its bits less 1
        bits = max((head[start + 42 + 3 * channel] & 0x7F) + 1 for channel in range(count))
    except (struct.error, IndexError, ValueError):
        return 0, 0
    return count, bits


def unread_layout(stream: IO[bytes], head: bytes) -> str:
    """Describe the layout that keeps Pillow from reading a file of a known format.

    Empty where no such layout is found: then the file seems to be damaged.

    Args:
        stream: The file.
        head: First bytes of the file.
    """
    stream.seek(0)
    if head[:4] in tiff.MAGIC:
        page = tiff.first_page(stream)
        return page.describe() if page is not None and all(page.size) else ""
    if head.startswith(b"\xff\xd8"):
        return _jpeg_layout(stream)
    if head.startswith(b"\0\0\0\x0cjP  "):
        count, bits = _jpeg2000_layout(stream.read(_HEAD))
        if count not in (0, 1, 3, 4):
            return f"it is a JPEG 2000 of {_channels(count)} with {bits} bits"
    return ""


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _jpeg_layout(stream: IO[bytes]) -> str:
    """Describe a JPEG in a layout that Pillow does not read; empty for others."""
    stream.seek(2)
    while len(head := stream.read(4)) == 4 and head[0] == 0xFF:
        marker = head[1]
        length = int.from_bytes(head[2:], "big")
        if marker == _JPEG_LS:
            return "it is a JPEG-LS"
        # 0xC0..0xCF begin a frame, apart from Huffman tables, JPG (reserved) and arithmetic conditioning
        is_frame = marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC)
        if is_frame:
            bits = int.from_bytes(stream.read(1), "big")
            if bits != 8:
                return f"it is a JPEG of {bits} bits"
            is_read_by_pillow = marker in (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
            return "" if is_read_by_pillow else "it is a lossless or arithmetic JPEG"
        stream.seek(length - 2, 1)
    return ""
