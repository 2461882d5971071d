"""Reads pictures and masks: everything that Pillow opens becomes an array, or an error of one line."""

from __future__ import annotations

import hashlib
import io
import math
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from flawscope.errors import (
    Failure,
    FlawscopeError,
    InputError,
    data_checks,
    describe_value,
    failure_of,
    install_command,
    message_with_type,
)
from flawscope.pictures import damage, netpbm, other_files, picture_count, pixel_layouts, tiff
from flawscope.pictures.arrays import (
    composite_over_white,
    from_numpy,
    grey_as_rgb,
    grey_with_alpha,
    narrow_integers,
    picture_error,
    require_finite,
)
from flawscope.pictures.files import TRUNCATED, apply_orientation
from flawscope.pictures.levels import Levels, own_levels
from flawscope.pictures.other_files import (
    ARCHIVE,
    HEAD_BYTES,
    PFM,
    RAW,
    TEXT,
    VIDEO_SUFFIXES,
    OtherFile,
)
from flawscope.pictures.other_files import RAW_SUFFIXES as RAW_SUFFIXES  # for other packages

Float32 = NDArray[np.float32]

PICTURE_SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif", ".heic", ".heif"}
    | {".jp2", ".pgm", ".ppm", ".npy"}
)


@dataclass
class HashedPicture:
    """A picture's file whose pixels are hashed when it is decoded, so that nobody decodes it again for that.

    Predictors take it in place of a `PictureSource`.

    Attributes:
        data: Content of the file.
        pixels: Its `pixel_hash`; "" before it is decoded.
    """

    data: bytes = field(repr=False)
    pixels: str = ""


PillowSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
PictureSource: TypeAlias = PillowSource | np.ndarray[Any, Any]
# Defects to learn from: how many test pictures, a folder or a list, or pairs of picture and masks
DefectAndMasks: TypeAlias = tuple[PictureSource, PictureSource | list[Any]]
SeenDefects: TypeAlias = int | str | os.PathLike[str] | Sequence[DefectAndMasks]

# What Pillow may try. Its other plugins never hold a photo, and some start other programs (EPS).
_FORMATS = ["PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF"]
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", *tiff.MAGIC, b"BM", b"RIFF", b"GIF8", b"\0\0\0\x0cjP  ")
_NUMPY = b"\x93NUMPY"
_AVIF = (b"ftypavif", b"ftypavis")  # from byte 4 on
_HEIF = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))
_MEMORY_HUNGRY = frozenset({"WEBP", "JPEG2000"})  # their libraries hold a picture several times
_ONE_BY_ONE = "store them one by one"
_WARNINGS_LOCK = threading.Lock()
_filters: list[warnings.catch_warnings[None]] = []  # the same object, once for each thread that decodes


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether the name ends like a picture's, in upper or lower case. The file is not opened."""
    return Path(path).suffix.lower() in PICTURE_SUFFIXES


def is_encoded(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 12 or more, is a picture in a supported format."""
    return head.startswith(_MAGIC) or head[4:12] in (*_AVIF, *_HEIF)


# ---------------------------------------------------------------------------------------------- decoding


def decode(source: PictureSource | HashedPicture, *, name: str | None = None) -> NDArray[np.number]:
    """A picture as an array [H, W, 3] RGB or [H, W, 1] deep grey; dtype uint8, uint16 or float32.

    - 8-bit, 1-bit, palette, CMYK, YCbCr and LAB pictures: uint8 RGB. Grey is repeated in all three channels.
    - 9- to 16-bit grey (and 32-bit grey up to 65535): uint16, one channel. Other deep grey: float32, one
      channel. 9- to 16-bit colour of PNG, TIFF and PPM: uint16, three channels. Floating-point colour of
      TIFF: float32. Values are those in the file, whatever it says to be the largest.
    - numpy: [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA; uint8, uint16 or float (0..1, or whatever
      `Preprocess.white_level` says); float64 becomes float32.
    - Transparency is composited over white, as a viewer shows it; an alpha that is the same everywhere is
      left out. Further channels are refused. EXIF orientation is applied; embedded colour profiles are not.
      Files with several pictures are refused; PIL images give the current one.

    The result may be read-only and may share memory with `source`: copy it before writing into it.
    `name` stands in the error for sources without a path. Raises InputError for anything missing, damaged,
    truncated or not a picture; never returns a partly decoded picture.
    """
    loaded = load_picture(source, name)
    if isinstance(loaded, Image.Image):
        return grey_as_rgb(np.asarray(loaded))
    return loaded


def pixel_hash(picture: NDArray[np.number]) -> str:
    """Return the SHA-256 (hex) of a decoded picture: of shape, dtype and pixels, not of name or encoding."""
    step = max(1, (1 << 20) // max(1, picture[0].nbytes))  # rows: repeated channels are not expanded at once
    rows = (picture[start : start + step] for start in range(0, len(picture), step))
    return _hash_rows(picture.shape, picture.dtype, rows)


def _image_hash(image: Image.Image) -> str:
    """Return the `pixel_hash` of a loaded image as `decode` would return it, without a copy of the whole."""
    step = max(1, (1 << 20) // (3 * image.width))
    strips = ((0, top, image.width, min(top + step, image.height)) for top in range(0, image.height, step))
    rows = (grey_as_rgb(np.asarray(image.crop(strip))) for strip in strips)
    return _hash_rows((image.height, image.width, 3), np.dtype(np.uint8), rows)


def _hash_rows(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], rows: Iterable[NDArray[np.number]]
) -> str:
    digest = hashlib.sha256(f"{shape} {dtype.kind}{dtype.itemsize}".encode())
    for several in rows:
        digest.update(np.ascontiguousarray(several, dtype=dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def to_eight_bits(picture: NDArray[np.number], levels: Levels | None = None) -> NDArray[np.uint8]:
    """Turn a decoded picture (uint8, uint16 or float) into `[H, W, 3]` uint8 in 0..255, contiguous.

    Grey is repeated in all three channels.

    Args:
        picture: The decoded picture.
        levels: Values of deep pictures that become 0 and 255; pass the same for a whole data set. None: the
            picture's own.
    """
    if picture.dtype != np.uint8:
        black, white = levels or own_levels(picture)
        shown = np.subtract(picture, np.float32(black), dtype=np.float32)
        picture = np.clip(np.rint(shown * (255 / (white - black))), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def load_picture(source: PictureSource | HashedPicture, name: str | None) -> Image.Image | NDArray[np.number]:
    """Return 8-bit pictures in files as a PIL image of mode L or RGB, all others as the array of `decode`."""
    name = name or source_name(source)
    if isinstance(source, HashedPicture):
        loaded = load_picture(source.data, name)
        source.pixels = _image_hash(loaded) if isinstance(loaded, Image.Image) else pixel_hash(loaded)
        return loaded
    if isinstance(source, np.ndarray):
        return from_numpy(source, name)
    image, values = open_upright_deep(source, name)
    if values is None:
        return _convert_mode(image, name)
    return grey_with_alpha(values, name) if values.shape[2] == 2 else from_numpy(values, name)


def _convert_mode(image: Image.Image, name: str) -> Image.Image | NDArray[np.number]:
    """Convert a loaded image of any mode to the form of `load_picture`."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16, copy=False)[:, :, None]
    if image.mode == "I":
        return narrow_integers(np.asarray(image))[:, :, None]
    if image.mode == "F":
        return require_finite(np.asarray(image), name)[:, :, None]
    return composite_over_white(image)


def error_reason(error: Exception, name: str) -> Failure:
    """Return the reason why a picture cannot be decoded, in one line."""
    if isinstance(error, MemoryError):
        return Failure(f"{name}: not enough memory to decode it; make it smaller")
    if isinstance(error, FlawscopeError):
        return failure_of(error)
    if isinstance(error, PermissionError):
        return Failure(f"{name}: {error.strerror}; give this user the rights to it")
    unexpected = message_with_type(error)
    return Failure(f"{name}: it could not be read (unexpected {unexpected}); convert it to PNG")


def source_name(source: PictureSource | HashedPicture) -> str:
    """Return the name of a picture for errors: its path, or its kind where it has none."""
    if isinstance(source, HashedPicture):
        source = source.data
    if isinstance(source, np.ndarray):
        return "(a numpy array)"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "(a PIL image)")
    if isinstance(source, bytes):
        return f"({len(source)} bytes)"
    return str(source) if isinstance(source, str | os.PathLike) else f"({describe_value(source)})"


def open_upright_deep(source: PillowSource, name: str) -> tuple[Image.Image, NDArray[np.number] | None]:
    """Load an image fully and upright, in its stored mode.

    Returns:
        The image; and its values [H, W, C] where Pillow would cut them, else None. The image has the values'
        size.

    Raises:
        InputError: As in `decode`.
    """
    if isinstance(source, Image.Image):
        if pixel_layouts.is_deep_colour(source):
            raise picture_error(
                name, "Pillow cuts its 16-bit colour to 8 bits", "give the file's path or bytes"
            )
        return _load_upright(source, name), None
    if isinstance(source, bytes):
        return _open_stream(io.BytesIO(source), name)
    if not isinstance(source, str | os.PathLike):
        raise picture_error(name, f"it is {describe_value(source)}", "give a path, bytes, PIL or numpy")
    stream = _open_file(source, name)
    suffix = Path(source).suffix.lower()
    kind = other_files.by_suffix(suffix)
    if kind is not None and (suffix in VIDEO_SUFFIXES or suffix in RAW_SUFFIXES):
        raise _other_file_error(name, kind)
    with stream:
        return _open_stream(stream, name)


def _open_file(path: str | os.PathLike[str], name: str) -> IO[bytes]:
    """Open a file for reading.

    Raises:
        InputError: It cannot be opened; the message says why.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise picture_error(name, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise picture_error(name, "it is a folder", "name the pictures in it") from None
    except PermissionError as error:
        raise picture_error(name, str(error.strerror), "give this user the rights to it") from None
    except (OSError, ValueError) as error:
        raise picture_error(name, getattr(error, "strerror", None) or str(error), "check the path") from None


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence warnings about large pictures and odd metadata.

    Filters are the whole process's: the first thread changes them, the last one changes them back, and none
    waits while another decodes.
    """
    with _WARNINGS_LOCK:
        _filters.append(warnings.catch_warnings() if not _filters else _filters[0])
        if len(_filters) == 1:
            _filters[0].__enter__()
            warnings.simplefilter("ignore")
    try:
        yield
    finally:
        with _WARNINGS_LOCK:
            last = _filters.pop()
            if not _filters:
                last.__exit__(None, None, None)


class Header(NamedTuple):
    """The header of an encoded picture: its format as Pillow calls it, and its size as stored."""

    format: str
    height: int
    width: int
    memory: int  # bytes that decoding takes at most


def read_picture_header(data: bytes, name: str) -> Header:
    """Read the header of an encoded picture without decoding pixels.

    Raises:
        InputError: It is no picture.
    """
    with without_warnings():
        page = tiff.first_page(io.BytesIO(data))
    if page is not None and page.is_beyond_pillow and page.is_readable:
        return Header("TIFF", *page.size, math.prod(page.size) * max(20, 10 * page.channels))
    if (deep_netpbm := netpbm.read_header(io.BytesIO(data))) is not None:
        return Header("PPM", *deep_netpbm.size, math.prod(deep_netpbm.size) * 20 * deep_netpbm.channels)
    image = _open_header(io.BytesIO(data), name)
    deep = image.mode[0] in "IF" or pixel_layouts.is_deep_colour(image)
    costly = image.format in _MEMORY_HUNGRY or deep
    memory = image.height * image.width * (20 if costly else 10)
    return Header(image.format or "", image.height, image.width, memory)


def read_array(stream: IO[bytes], name: str) -> NDArray[np.number] | None:
    """Read a .npy file; None for other files.

    Raises:
        InputError: It is damaged, or holds Python objects.
    """
    stream.seek(0)
    if stream.read(len(_NUMPY)) != _NUMPY:
        return None
    stream.seek(0)
    try:
        with without_warnings():
            old = np.lib.format.read_magic(stream) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            begin, end = stream.tell(), stream.seek(0, os.SEEK_END)
    except Exception as error:  # errors of Python's parser on a torn header, MemoryError among them
        raise picture_error(name, f"the file is damaged ({error})", pixel_layouts.COPY_AGAIN) from None
    if dtype.hasobject:
        raise picture_error(name, "it holds Python objects", "store an array of numbers")
    if min(shape, default=0) < 0 or end - begin < math.prod(shape) * dtype.itemsize:
        raise picture_error(name, TRUNCATED, pixel_layouts.COPY_AGAIN)  # before as much memory is taken
    stream.seek(0)
    try:
        return np.asarray(np.load(stream, allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise picture_error(name, f"the file is damaged ({error})", pixel_layouts.COPY_AGAIN) from None


def _open_stream(stream: IO[bytes], name: str) -> tuple[Image.Image, NDArray[np.number] | None]:
    array = read_array(stream, name)
    with without_warnings():  # about odd directories of a TIFF
        _refuse_half_read(stream, name)
        by_channels = f"{_ONE_BY_ONE}, or fit with --channels all"
        remedy = data_checks.SEVERAL_PICTURES.coded(by_channels)
        _refuse(picture_count.describe_pages(stream), remedy, name)
        values = (
            pixel_layouts.read_whole(stream, name, max_pixels()) if array is None else from_numpy(array, name)
        )
    if array is not None and values is not None and damage.has_cut(values):
        _refuse(damage.CUT, pixel_layouts.COPY_AGAIN, name)
    if values is not None:
        image = Image.new("L", (values.shape[1], values.shape[0]))
        image.format = "TIFF"
        return image, values
    stream.seek(0)
    image = _open_header(stream, name)
    _refuse(picture_count.describe_several(image), data_checks.SEVERAL_PICTURES.coded(_ONE_BY_ONE), name)
    deep = pixel_layouts.is_deep_colour(image)
    loaded = _load_upright(image, name)
    if not deep:
        return loaded, None
    stream.seek(0)
    again = _open_header(stream, name)
    grey = pixel_layouts.take_lower_bytes(again)
    return loaded, pixel_layouts.join_bytes(loaded, _load_upright(again, name), grey)


def _refuse_half_read(stream: IO[bytes], name: str) -> None:
    """Raise InputError for a camera's raw file, whatever its name, and for a PFM.

    Pillow would return a preview of a raw file, and takes a PFM for damaged.
    """
    stream.seek(0)
    kind = other_files.by_beginning(stream.read(HEAD_BYTES))
    first = tiff.first_page(stream)
    if first is not None and first.is_raw:
        kind = RAW
    if kind in (RAW, PFM):
        raise _other_file_error(name, kind)


def _refuse(reason: str, remedy: str, name: str) -> None:
    if reason:
        raise picture_error(name, reason, remedy)


def max_pixels() -> int:
    """Return the number of pixels up to which a picture is read."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)


def raise_pixel_limit(most: int) -> None:
    """Let this process read pictures of up to `most` pixels, beyond Pillow's limit of 178 million."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, -(-most // 2))


def _open_header(stream: IO[bytes], name: str) -> Image.Image:
    head = stream.read(HEAD_BYTES)
    if not head:
        raise picture_error(name, "it is empty", pixel_layouts.COPY_AGAIN)
    stream.seek(0)
    if is_heif := head[4:12] in _HEIF:
        _register_heif(name)
    with without_warnings():
        try:
            image = Image.open(stream, formats=["HEIF"] if is_heif else _FORMATS)
        except Image.DecompressionBombError:
            raise pixel_layouts.size_error(name, max_pixels()) from None
        except MemoryError:
            raise
        except Exception:  # UnidentifiedImageError, and errors of plugins on a damaged header
            raise _unread_error(stream, head, name) from None
    return image


def _unread_error(stream: IO[bytes], head: bytes, name: str) -> InputError:
    """Return the error of a file that Pillow does not open; `head` holds its first `HEAD_BYTES`, or all."""
    if head[4:12] in _AVIF and not features.check("avif"):
        return picture_error(name, "this Pillow reads no AVIF", "upgrade Pillow, or convert it to PNG")
    kind = other_files.by_beginning(head)
    if is_encoded(head) and kind in (None, TEXT):  # some formats begin with letters
        if layout := pixel_layouts.unread_layout(stream, head):
            return picture_error(name, f"{layout}, which Pillow does not read", pixel_layouts.STORE_AGAIN)
        return picture_error(name, pixel_layouts.TRUNCATED_OR_DAMAGED, pixel_layouts.COPY_AGAIN)
    if not head.strip(b"\0"):
        return picture_error(name, "it begins with nothing but zeros", pixel_layouts.COPY_AGAIN)
    by_suffix = other_files.by_suffix(Path(name).suffix.lower())
    if by_suffix is not None and kind in (None, TEXT, ARCHIVE):  # tables and documents are archives, too
        kind = by_suffix
    if kind is None:
        return picture_error(name, "it is not a picture we know", "convert it to PNG")
    return _other_file_error(name, kind)


def _other_file_error(name: str, kind: OtherFile) -> InputError:
    """Return the error of a file that is no picture, or of a format that is not read."""
    return picture_error(name, f"it is {kind.singular}", kind.remedy.format("it"))


def _register_heif(name: str) -> None:
    """Add the plugin with which Pillow reads HEIC, the format of phones.

    Raises:
        InputError: The plugin is missing.
    """
    try:
        import pillow_heif
    except ImportError:
        remedy = f"{install_command('pillow-heif', extras='heic')}, or convert it to JPEG"
        raise picture_error(name, "HEIC needs pillow-heif", remedy) from None
    with _WARNINGS_LOCK:
        if "HEIF" not in Image.OPEN:
            pillow_heif.register_heif_opener()


def _load_upright(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise picture_error(name, f"it has no pixels ({image.width} x {image.height})", "give at least 1 x 1")
    if any(lost := pixel_layouts.lost_in_reading(image)):
        raise picture_error(name, *lost)
    large = image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf)  # TIFF warns here once more
    try:
        with without_warnings() if large else nullcontext():
            fault = damage.load(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = _damage_in_words(error)
        raise picture_error(name, reason, pixel_layouts.COPY_AGAIN) from None
    _refuse(fault, pixel_layouts.COPY_AGAIN, name)
    return apply_orientation(image)


def _damage_in_words(error: Exception) -> str:
    """Return in words why Pillow could not load the pixels of a file."""
    if isinstance(error, UnidentifiedImageError):  # of a picture within it: its text names an address
        return pixel_layouts.TRUNCATED_OR_DAMAGED
    return TRUNCATED if "truncated" in str(error).lower() else f"the file is damaged ({error})"


def open_upright(source: PillowSource, name: str) -> Image.Image:
    """Open a picture upright with its stored values, for masks.

    Raises:
        InputError: As in `decode`.
    """
    return open_upright_deep(source, name)[0]
