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
    """Picture file whose pixels are hashed when it is decoded, so that it is decoded only once.

    Predictors take it in place of a `PictureSource`.

    Attributes:
        data: Content of the file.
        pixels: `pixel_hash` of the picture; "" before it is decoded.
    """

    data: bytes = field(repr=False)
    pixels: str = ""


PillowSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
PictureSource: TypeAlias = PillowSource | np.ndarray[Any, Any]
# Defects to learn from: how many test pictures, a folder or a list, or pairs of picture and masks
DefectAndMasks: TypeAlias = tuple[PictureSource, PictureSource | list[Any]]
SeenDefects: TypeAlias = int | str | os.PathLike[str] | Sequence[DefectAndMasks]

# Formats that Pillow may try. Its other formats never hold a photo, and some start other programs (EPS).
_FORMATS = ["PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF"]
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", *tiff.MAGIC, b"BM", b"RIFF", b"GIF8", b"\0\0\0\x0cjP  ")
_NUMPY = b"\x93NUMPY"
_AVIF = (b"ftypavif", b"ftypavis")  # bytes 4 to 11
_HEIF = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))
_MEMORY_HUNGRY = frozenset({"WEBP", "JPEG2000"})  # their libraries hold a picture several times
_HASHED_BYTES = 1 << 20  # size of a strip that is hashed at a time
_ONE_BY_ONE = "store them one by one"
_WARNINGS_LOCK = threading.Lock()
_filters: list[warnings.catch_warnings[None]] = []  # one object, listed once for each thread that decodes


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of a picture, in upper or lower case. The file is not opened."""
    return Path(path).suffix.lower() in PICTURE_SUFFIXES


def is_encoded(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 12 or more, is a picture in a supported format."""
    return head.startswith(_MAGIC) or head[4:12] in (*_AVIF, *_HEIF)


# ---------------------------------------------------------------------------------------------- decoding


def decode(source: PictureSource | HashedPicture, *, name: str | None = None) -> NDArray[np.number]:
    """Return a picture as an array [H, W, 3] RGB or [H, W, 1] deep grey; dtype uint8, uint16 or float32.

    - 8-bit, 1-bit, palette, CMYK, YCbCr and LAB pictures: uint8 RGB. Grey is repeated in all three channels.
    - 9- to 16-bit grey (and 32-bit grey up to 65535): uint16, one channel.
    - Other deep grey: float32, one channel.
    - 9- to 16-bit colour of PNG, TIFF and PPM: uint16, three channels.
    - Floating-point colour of TIFF: float32.
    - Values of deep pictures are those in the file; they are not scaled by a largest value in the header.
    - numpy: [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA; uint8, uint16 or float (0..1, or whatever
      `Preprocess.white_level` says); float64 becomes float32.
    - Transparency is composited over white, as a viewer shows it; an alpha that is the same everywhere is
      left out. Further channels are refused. EXIF orientation is applied; embedded colour profiles are not.
      Files with several pictures are refused; PIL images give the current one.

    The result may be read-only and may share memory with `source`: copy it before writing into it. A partly
    decoded picture is never returned.

    Args:
        source: The picture.
        name: Name of the picture for errors; None: its path, or the kind of `source`.

    Raises:
        InputError: The picture is missing, damaged, truncated, or no picture.
    """
    loaded = load_picture(source, name)
    if isinstance(loaded, Image.Image):
        return grey_as_rgb(np.asarray(loaded))
    return loaded


def pixel_hash(picture: NDArray[np.number]) -> str:
    """Return the SHA-256 (hex) of a decoded picture: of shape, dtype and pixels, not of name or encoding."""
    # a strip of about 1 MB at a time, since copies of grey have all three channels
    step = max(1, _HASHED_BYTES // max(1, picture[0].nbytes))
    strips = (picture[top : top + step] for top in range(0, len(picture), step))
    return _hash_strips(picture.shape, picture.dtype, strips)


def _image_hash(image: Image.Image) -> str:
    """Return the `pixel_hash` of the array that `decode` returns for a loaded image, strip by strip."""
    step = max(1, _HASHED_BYTES // (3 * image.width))
    boxes = ((0, top, image.width, min(top + step, image.height)) for top in range(0, image.height, step))
    strips = (grey_as_rgb(np.asarray(image.crop(box))) for box in boxes)
    return _hash_strips((image.height, image.width, 3), np.dtype(np.uint8), strips)


def _hash_strips(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], strips: Iterable[NDArray[np.number]]
) -> str:
    """Return the `pixel_hash` of a picture.

    Args:
        shape: Shape of the picture.
        dtype: Dtype of the picture.
        strips: Strips of the picture's rows, the topmost first.
    """
    digest = hashlib.sha256(f"{shape} {dtype.kind}{dtype.itemsize}".encode())
    for strip in strips:
        digest.update(np.ascontiguousarray(strip, dtype=dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def to_eight_bits(picture: NDArray[np.number], levels: Levels | None = None) -> NDArray[np.uint8]:
    """Turn a decoded picture (uint8, uint16 or float) into `[H, W, 3]` uint8 in 0..255, contiguous.

    Grey is repeated in all three channels.

    Args:
        picture: The decoded picture.
        levels: Values of a deep picture that become 0 and 255; pass the same for a whole data set. None: the
            levels follow from the picture.
    """
    eight_bits = picture
    if picture.dtype != np.uint8:
        black, white = levels or own_levels(picture)
        above_black = np.subtract(picture, np.float32(black), dtype=np.float32)
        eight_bits = np.clip(np.rint(above_black * (255 / (white - black))), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(eight_bits, (*picture.shape[:2], 3)))


def load_picture(source: PictureSource | HashedPicture, name: str | None) -> Image.Image | NDArray[np.number]:
    """Load a picture: 8-bit pictures as a PIL image of mode L or RGB, others as the array of `decode`.

    8-bit numpy arrays remain arrays. The arguments and errors are those of `decode`. The hash of a
    `HashedPicture` is set.
    """
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
        The image, and its values [H, W, C]. The values are None where Pillow reads all bits. If they
        are not None, only the size of the image may be used.

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
    with _open_file(source, name) as stream:
        suffix = Path(source).suffix.lower()
        kind = other_files.by_suffix(suffix)
        is_video_or_raw = suffix in VIDEO_SUFFIXES or suffix in RAW_SUFFIXES
        if kind is not None and is_video_or_raw:
            raise _other_file_error(name, kind)
        return _open_stream(stream, name)


def _open_file(path: str | os.PathLike[str], name: str) -> IO[bytes]:
    """Open a file for reading.

    Raises:
        InputError: The file cannot be opened; the message has the reason.
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
    """Silence warnings about large pictures and unusual metadata.

    All threads share Python's filters of warnings. So the first thread that enters silences warnings, and the
    last that leaves restores them. No thread waits while another decodes.
    """
    with _WARNINGS_LOCK:
        if _filters:  # one entry for each thread that is within, all of them the same
            _filters.append(_filters[0])
        else:
            _filters.append(warnings.catch_warnings())
            _filters[0].__enter__()
            warnings.simplefilter("ignore")
    try:
        yield
    finally:
        with _WARNINGS_LOCK:
            catch_warnings = _filters.pop()
            if not _filters:
                catch_warnings.__exit__(None, None, None)


class Header(NamedTuple):
    """Header of an encoded picture.

    Attributes:
        format: Format as Pillow calls it.
        height: Height as stored, before a rotation by EXIF.
        width: Width as stored, before a rotation by EXIF.
        memory: Largest number of bytes that decoding takes.
    """

    format: str
    height: int
    width: int
    memory: int


def read_picture_header(data: bytes, name: str) -> Header:
    """Read the header of an encoded picture without decoding pixels.

    Raises:
        InputError: The data are no picture.
    """
    with without_warnings():
        page = tiff.first_page(io.BytesIO(data))
    if page is not None and page.is_beyond_pillow and page.is_readable:
        height, width = page.size
        bytes_per_pixel = max(20, 10 * page.channels)
        return Header("TIFF", height, width, memory=height * width * bytes_per_pixel)
    deep_netpbm = netpbm.read_header(io.BytesIO(data))
    if deep_netpbm is not None:
        height, width = deep_netpbm.size
        bytes_per_pixel = 20 * deep_netpbm.channels
        return Header("PPM", height, width, memory=height * width * bytes_per_pixel)
    image = _open_header(io.BytesIO(data), name)
    is_deep = image.mode[0] in "IF" or pixel_layouts.is_deep_colour(image)
    bytes_per_pixel = 20 if is_deep or image.format in _MEMORY_HUNGRY else 10
    memory = image.height * image.width * bytes_per_pixel
    return Header(image.format or "", image.height, image.width, memory)


def read_array(stream: IO[bytes], name: str) -> NDArray[np.number] | None:
    """Read a .npy file; None for other files.

    Raises:
        InputError: The .npy file is damaged, or holds Python objects.
    """
    stream.seek(0)
    if stream.read(len(_NUMPY)) != _NUMPY:
        return None
    stream.seek(0)
    try:
        with without_warnings():
            if np.lib.format.read_magic(stream) == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
            begin = stream.tell()
            end = stream.seek(0, os.SEEK_END)
    except Exception as error:  # Python parses the header: a damaged one may raise any error
        raise picture_error(name, f"the file is damaged ({error})", pixel_layouts.COPY_AGAIN) from None
    if dtype.hasobject:
        raise picture_error(name, "it holds Python objects", "store an array of numbers")
    # checked before memory for the stated shape is taken
    if min(shape, default=0) < 0 or end - begin < math.prod(shape) * dtype.itemsize:
        raise picture_error(name, TRUNCATED, pixel_layouts.COPY_AGAIN)
    stream.seek(0)
    try:
        return np.asarray(np.load(stream, allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise picture_error(name, f"the file is damaged ({error})", pixel_layouts.COPY_AGAIN) from None


def _open_stream(stream: IO[bytes], name: str) -> tuple[Image.Image, NDArray[np.number] | None]:
    """Load a picture from a stream; see `open_upright_deep` for the result and the errors."""
    numpy_array = read_array(stream, name)
    with without_warnings():  # unusual directories of a TIFF raise them
        _refuse_half_read(stream, name)
        remedy = data_checks.SEVERAL_PICTURES.coded(f"{_ONE_BY_ONE}, or fit with --channels all")
        _refuse_if(picture_count.describe_pages(stream), remedy, name)
        if numpy_array is None:
            values = pixel_layouts.read_whole(stream, name, max_pixels())  # None: Pillow reads it
        else:
            values = from_numpy(numpy_array, name)
    if numpy_array is not None and values is not None and damage.has_cut(values):
        raise picture_error(name, damage.CUT, pixel_layouts.COPY_AGAIN)
    if values is not None:
        height, width = values.shape[:2]
        image = Image.new("L", (width, height))  # empty: only its size is used
        image.format = "TIFF"
        return image, values
    stream.seek(0)
    image = _open_header(stream, name)
    remedy = data_checks.SEVERAL_PICTURES.coded(_ONE_BY_ONE)
    _refuse_if(picture_count.describe_several(image), remedy, name)
    is_deep = pixel_layouts.is_deep_colour(image)
    upper_bytes = _load_upright(image, name)  # all bytes if the image is not deep
    if not is_deep:
        return upper_bytes, None
    # Pillow reads only the upper 8 of 16 bits; the file is read once more for the lower 8
    stream.seek(0)
    second_image = _open_header(stream, name)
    has_grey_alpha = pixel_layouts.take_lower_bytes(second_image)
    lower_bytes = _load_upright(second_image, name)
    return upper_bytes, pixel_layouts.join_bytes(upper_bytes, lower_bytes, has_grey_alpha)


def _refuse_half_read(stream: IO[bytes], name: str) -> None:
    """Raise InputError for a camera's raw file and for a PFM, recognised by their content.

    Pillow would read only a small preview from a raw file, and would report a PFM as damaged.
    """
    stream.seek(0)
    kind = other_files.by_beginning(stream.read(HEAD_BYTES))
    page = tiff.first_page(stream)
    if page is not None and page.is_raw:
        kind = RAW
    if kind in (RAW, PFM):
        raise _other_file_error(name, kind)


def _refuse_if(reason: str, remedy: str, name: str) -> None:
    """Raise InputError with a reason and its remedy; do nothing where the reason is empty."""
    if reason:
        raise picture_error(name, reason, remedy)


def max_pixels() -> int:
    """Return the number of pixels up to which a picture is read."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow warns from the limit on, and refuses twice as many


def raise_pixel_limit(most: int) -> None:
    """Let this process read pictures of up to `most` pixels, beyond Pillow's limit of 178 million."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, (most + 1) // 2)


def _open_header(stream: IO[bytes], name: str) -> Image.Image:
    """Open an encoded picture without decoding its pixels. InputError where Pillow does not open it."""
    head = stream.read(HEAD_BYTES)
    if not head:
        raise picture_error(name, "it is empty", pixel_layouts.COPY_AGAIN)
    stream.seek(0)
    is_heif = head[4:12] in _HEIF
    if is_heif:
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
    """Return the error of a file that Pillow does not open.

    Args:
        stream: The file.
        head: First `HEAD_BYTES` bytes of the file, or all if they are fewer.
        name: Name of the picture.
    """
    if head[4:12] in _AVIF and not features.check("avif"):
        return picture_error(name, "this Pillow reads no AVIF", "upgrade Pillow, or convert it to PNG")
    kind = other_files.by_beginning(head)
    # some formats of pictures begin with letters, so that TEXT does not exclude a picture
    if is_encoded(head) and kind in (None, TEXT):
        layout = pixel_layouts.unread_layout(stream, head)
        if layout:
            return picture_error(name, f"{layout}, which Pillow does not read", pixel_layouts.STORE_AGAIN)
        return picture_error(name, pixel_layouts.TRUNCATED_OR_DAMAGED, pixel_layouts.COPY_AGAIN)
    if not head.strip(b"\0"):
        return picture_error(name, "it begins with nothing but zeros", pixel_layouts.COPY_AGAIN)
    kind_by_suffix = other_files.by_suffix(Path(name).suffix.lower())
    # the suffix says more than TEXT or ARCHIVE: files of tables and documents are archives, too
    if kind_by_suffix is not None and kind in (None, TEXT, ARCHIVE):
        kind = kind_by_suffix
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
    """Load the pixels of an open image, and turn it upright.

    Raises:
        InputError: Pixels are missing, or Pillow would not read all bits or channels.
    """
    if 0 in image.size:
        raise picture_error(name, f"it has no pixels ({image.width} x {image.height})", "give at least 1 x 1")
    reason, remedy = pixel_layouts.lost_in_reading(image)
    if reason or remedy:
        raise picture_error(name, reason, remedy)
    # Pillow warns of a large picture when it is opened, and of a large TIFF again when it is loaded
    is_large = image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf)
    try:
        with without_warnings() if is_large else nullcontext():
            fault = damage.load(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = _damage_in_words(error)
        raise picture_error(name, reason, pixel_layouts.COPY_AGAIN) from None
    _refuse_if(fault, pixel_layouts.COPY_AGAIN, name)
    return apply_orientation(image)


def _damage_in_words(error: Exception) -> str:
    """Return the reason, in words, why Pillow could not load the pixels of a file."""
    # Pillow could not open a picture within the file; the error's text has only an address in memory
    if isinstance(error, UnidentifiedImageError):
        return pixel_layouts.TRUNCATED_OR_DAMAGED
    return TRUNCATED if "truncated" in str(error).lower() else f"the file is damaged ({error})"


def open_upright(source: PillowSource, name: str) -> Image.Image:
    """Open a picture upright with its stored values, for masks.

    Raises:
        InputError: As in `decode`.
    """
    image, _ = open_upright_deep(source, name)
    return image
