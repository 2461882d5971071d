"""From a picture to the network's input and back; decided here once, for every runtime. Torch-free.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5. Sizes are (height, width).
"""

from __future__ import annotations

import hashlib
import io
import math
import operator
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from flawscope.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    Float32 = NDArray[np.float32]
    Mask = NDArray[np.bool_]

PICTURE_SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

Stored: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
Source: TypeAlias = Stored | np.ndarray[Any, Any]

# What Pillow may try. Its other plugins never hold a photo, and some start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000")
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"RIFF", b"GIF8")
_COPY_AGAIN = "copy it again"
_TRUNCATED = "the file is truncated"
_WARNINGS = threading.Lock()
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether the name ends like a picture's, in upper or lower case. The file is not opened."""
    return Path(path).suffix.lower() in PICTURE_SUFFIXES


# ---------------------------------------------------------------------------------------------- decoding


def decode(source: Source, *, name: str | None = None) -> NDArray[Any]:
    """A picture as an array [H, W, 3] RGB or [H, W, 1] deep grey; dtype uint8, uint16 or float32.

    - 8-bit, 1-bit, palette, CMYK, YCbCr and LAB pictures: uint8 RGB. Grey is repeated in all three channels.
    - 16-bit grey (and 32-bit grey up to 65535): uint16, one channel. Other deep grey: float32, one channel.
      Deep *colour* files are cut to 8 bits by Pillow; give them as numpy arrays to keep the depth.
    - numpy: [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA; uint8, uint16 or float (0..1, or whatever
      `Preprocess.white_level` says); float64 becomes float32.
    - Transparency is composited over white, as a viewer shows it. EXIF orientation is applied; embedded
      colour profiles are not. Files with several frames give the first, PIL images the current one.

    The result may be read-only and may share memory with `source`: copy it before writing into it.
    `name` stands in the error for sources without a path. Raises InputError for anything missing, damaged,
    truncated or not a picture; never returns a partly decoded picture.
    """
    loaded = _load(source, name)
    if isinstance(loaded, Image.Image):
        return _rgb_view(np.asarray(loaded))
    return loaded


def pixel_hash(picture: NDArray[Any]) -> str:
    """SHA-256 (hex) of a decoded picture: of its shape, dtype and pixels, not of its name or encoding."""
    little_endian = picture.dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{picture.shape} {picture.dtype.kind}{picture.dtype.itemsize}".encode())
    step = max(
        1, (1 << 20) // max(1, picture[0].nbytes)
    )  # blocks: repeated channels are never expanded whole
    for start in range(0, len(picture), step):
        digest.update(np.ascontiguousarray(picture[start : start + step], dtype=little_endian).data)
    return digest.hexdigest()


def _load(source: Source, name: str | None) -> Image.Image | NDArray[Any]:
    """A PIL image of mode L or RGB for 8-bit pictures in files, an array as `decode` returns it otherwise."""
    name = name or _name_of(source)
    if isinstance(source, np.ndarray):
        return _from_numpy(source, name)
    image = _open(source, name)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16, copy=False)[:, :, None]
    if image.mode == "I":
        values = np.asarray(image)
        deep = values.min() >= 0 and values.max() <= 65535
        return values.astype(np.uint16 if deep else np.float32)[:, :, None]
    if image.mode == "F":
        return _finite(np.asarray(image), name)[:, :, None]
    return _over_white(image)


def _over_white(image: Image.Image) -> Image.Image:
    """Any 8-bit mode -> L or RGB; transparent pixels show white."""
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    if image.mode in ("1", "L", "LA"):
        opaque, with_alpha = "L", "LA"
    else:
        opaque, with_alpha = "RGB", "RGBA"
    if image.mode not in ("LA", "RGBA", "PA") and "transparency" not in image.info:
        return image.convert(opaque)
    image = image.convert(with_alpha)
    alpha = image.getchannel("A")
    colours = image.convert(opaque)
    if alpha.getextrema()[0] == 255:
        return colours
    paper = Image.new(opaque, image.size, "white")
    paper.paste(colours, mask=alpha)
    return paper


def _from_numpy(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Checked array -> what `decode` returns; uint8 of three channels comes back as it is."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise _cannot(
            name,
            f"its shape is {list(array.shape)}",
            "give [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], one picture at a time, channels last",
        )
    if array.size == 0:
        raise _cannot(name, f"it has no pixels (shape {list(array.shape)})", "give at least 1 x 1 pixels")
    if array.dtype.kind == "f":
        array = _finite(array.astype(np.float32, copy=False), name)
    elif array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise _cannot(name, f"its dtype is {array.dtype}", "give uint8, uint16 or floats in 0..1")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.shape[2] == 4:
        full = {"B": 255, "H": 65535}.get(array.dtype.char, 1.0)
        colours, alpha = array[:, :, :3], array[:, :, 3:]
        if alpha.min() >= full:
            return colours
        if array.dtype == np.uint8:
            return np.asarray(_over_white(Image.fromarray(np.ascontiguousarray(array))))
        share = alpha.astype(np.float32) / np.float32(full)
        blended: NDArray[Any] = colours * share + np.float32(full) * (1 - share)
        blended += 0.5 if array.dtype == np.uint16 else 0.0
        return blended.astype(array.dtype)
    return _rgb_view(array) if array.dtype == np.uint8 else array


def _rgb_view(array: NDArray[Any]) -> NDArray[Any]:
    """uint8 [H, W] or [H, W, 1 or 3] -> [H, W, 3]; grey channels share their memory (stride 0)."""
    if array.ndim == 2:
        array = array[:, :, None]
    return np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[2] == 1 else array


def _finite(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    if not (math.isfinite(values.min()) and math.isfinite(values.max())):  # NaN goes through min and max
        raise _cannot(name, "some pixels are not finite numbers", "replace NaN and infinity first")
    return values


def _cannot(name: str, reason: str, remedy: str) -> InputError:
    return InputError(f"cannot read picture {name}: {' '.join(reason.split())}; {remedy}")


def _name_of(source: Source) -> str:
    if isinstance(source, np.ndarray):
        return "(a numpy array)"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "(a PIL image)")
    return f"({len(source)} bytes)" if isinstance(source, bytes) else str(source)


def _open(source: Stored, name: str) -> Image.Image:
    """The fully loaded, upright image in the mode it was stored in. InputError says what is wrong."""
    if isinstance(source, Image.Image):
        return _load_upright(source, name)
    if isinstance(source, bytes):
        return _open_stream(io.BytesIO(source), name)
    if not isinstance(source, str | os.PathLike):
        raise _cannot(name, f"it is a {type(source).__name__}", "give a path, bytes, PIL or numpy")
    try:
        stream = open(source, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        raise _cannot(name, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise _cannot(name, "it is a folder", "name the pictures in it") from None
    except (OSError, ValueError) as error:
        raise _cannot(name, getattr(error, "strerror", None) or str(error), "check the path") from None
    with stream:
        return _open_stream(stream, name)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Large pictures and odd metadata are no news. The filters are the whole process's: hence the lock."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open_stream(stream: IO[bytes], name: str) -> Image.Image:
    head = stream.read(8)
    if not head:
        raise _cannot(name, "it is empty", _COPY_AGAIN)
    stream.seek(0)
    with _without_warnings():
        try:
            image = Image.open(stream, formats=_FORMATS)
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
            raise _cannot(name, f"it has more than {limit} megapixels", "cut it into parts") from None
        except MemoryError:
            raise
        except Exception:  # UnidentifiedImageError, and what plugins raise on a damaged header
            if head.startswith(_MAGIC):
                raise _cannot(name, "the file is truncated or damaged", _COPY_AGAIN) from None
            raise _cannot(name, "it is not a picture we know", "convert it to PNG") from None
    upright = _load_upright(image, name)
    damage = _DAMAGE_OF.get(image.format or "", lambda _: None)(stream)
    if damage:
        raise _cannot(name, damage, _COPY_AGAIN)
    return upright


def _load_upright(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise _cannot(name, f"it has no pixels ({image.width} x {image.height})", "give at least 1 x 1")
    large = image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf)  # TIFF warns here once more
    try:
        with _without_warnings() if large else nullcontext():
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = _TRUNCATED if "truncated" in str(error).lower() else f"the file is damaged ({error})"
        raise _cannot(name, reason, _COPY_AGAIN) from None
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken metadata beside good pixels
        orientation = 1
    if orientation in _ORIENTATIONS:
        return image.transpose(_ORIENTATIONS[orientation])
    return image


def _png_damage(stream: IO[bytes]) -> str | None:
    """Pillow checks no checksum of the pixel data, and stops reading as soon as it has all rows."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        body, check = stream.read(length), stream.read(4)
        if len(check) < 4:
            break
        critical = not kind[0] & 0x20  # upper case first letter
        if critical and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(check, "big"):
            return "the file is damaged (a checksum differs)"
        if kind == b"IEND":
            return None
    return _TRUNCATED


def _jpeg_damage(stream: IO[bytes]) -> str | None:
    """A transfer that broke off and left zeros decodes without an error; the end marker is then missing."""
    stream.seek(2)
    while len(head := stream.read(4)) == 4:
        if head[0] != 0xFF or head[1] in (0xDA, 0xFF):  # start of scan, or bytes that only libjpeg skips
            break
        stream.seek(int.from_bytes(head[2:], "big") - 2, io.SEEK_CUR)
    # FF D9 never stands inside the compressed data.
    return None if b"\xff\xd9" in stream.read() else _TRUNCATED


_DAMAGE_OF = {"PNG": _png_damage, "JPEG": _jpeg_damage, "MPO": _jpeg_damage}


# ------------------------------------------------------------------------------------------------- masks


def read_mask(path: Stored) -> Mask:
    """A ground-truth mask [H, W] bool: above 0 in any channel, or palette index above 0.

    Alpha is ignored, unless the colours are the same everywhere and alpha is not: then alpha above 0 counts.
    """
    name = _name_of(path)
    image = _open(path, name)
    if image.mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA")
    if image.mode not in ("1", "L", "P", "LA", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "F":
        _finite(values, name)
    if image.mode in ("LA", "RGBA"):
        colours, alpha = values[:, :, :-1], values[:, :, -1]
        only_alpha = (colours == colours[0, 0]).all() and (alpha != alpha[0, 0]).any()
        values = alpha if only_alpha else colours
    marked: Mask = np.greater(values, 0)
    return marked if marked.ndim == 2 else np.any(marked, axis=2)


def read_labels(path: Stored) -> NDArray[np.int32]:
    """Raw grey values (or palette indices) [H, W] int32, as MVTec LOCO's masks use them."""
    name = _name_of(path)
    image = _open(path, name)
    if image.mode in ("L", "P", "I") or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.int32)
    if image.mode == "F":
        raise _cannot(name, "labels are whole numbers, the file holds floats", "store it as 8 or 16 bits")
    rgb = np.asarray(image.convert("RGB"))
    if (rgb != rgb[:, :, :1]).any():
        raise _cannot(name, "labels are grey values, the file has colours", "store it as a grey picture")
    return rgb[:, :, 0].astype(np.int32)


# ---------------------------------------------------------------------------------------------- geometry


@dataclass(frozen=True)
class Geometry:
    """Where the network's view lies in the picture: network = picture * scale + offset, per axis (y, x)."""

    picture_size: tuple[int, int]
    """(H, W) of the upright picture, in pixels."""
    size: tuple[int, int]
    """(H, W) of the network's input and of its map."""
    scale: tuple[float, float]
    offset: tuple[float, float]

    def to_picture(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Network box (x0, y0, x1, y1) -> picture box, clipped to the picture."""
        (sy, sx), (oy, ox), (height, width) = self.scale, self.offset, self.picture_size
        x0, x1 = (min(max((x - ox) / sx, 0.0), float(width)) for x in (box[0], box[2]))
        y0, y1 = (min(max((y - oy) / sy, 0.0), float(height)) for y in (box[1], box[3]))
        return x0, y0, x1, y1

    def to_network(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Picture box (x0, y0, x1, y1) -> network box, not clipped."""
        (sy, sx), (oy, ox) = self.scale, self.offset
        return box[0] * sx + ox, box[1] * sy + oy, box[2] * sx + ox, box[3] * sy + oy

    def warp(self, values: NDArray[np.floating[Any]], fill: float = 0.0) -> Float32:
        """A map [H, W] at network size -> [Hp, Wp] float32 over the picture, bilinear between pixel centres.

        Picture pixels whose centre lies outside the network's view get `fill`.
        """
        values = self._sized(np.asarray(values, dtype=np.float32), self.size)
        (rows, y0, y1, wy), (columns, x0, x1, wx) = (self._bilinear(axis) for axis in (0, 1))
        out = np.full(self.picture_size, fill, dtype=np.float32)
        view = out[rows, columns]
        step = max(1, (1 << 18) // max(1, view.shape[1]))  # blocks that stay in the cache
        for start in range(0, view.shape[0], step):
            part = slice(start, start + step)
            above = values[y0[part]]  # [rows, W]
            across = above + (values[y1[part]] - above) * wy[part, None]
            left = np.take(across, x0, axis=1)  # [rows, columns]
            right = np.take(across, x1, axis=1)
            right -= left
            right *= wx
            np.add(left, right, out=view[part])
        return out

    def warp_mask(self, mask: Mask) -> Mask:
        """A mask [H, W] bool at network size -> [Hp, Wp] bool, nearest; False outside the network's view."""
        mask = self._sized(mask, self.size)
        out = np.zeros(self.picture_size, dtype=np.bool_)
        (rows, y), (columns, x) = (self._nearest(axis) for axis in (0, 1))
        out[rows, columns] = mask[y][:, x]
        return out

    def mask_to_network(self, mask: Mask) -> Mask:
        """A mask [Hp, Wp] bool of the picture -> [H, W] bool, nearest; False on a letterbox's border."""
        mask = self._sized(mask, self.picture_size)
        return self.inverse().warp_mask(mask)

    def inverse(self) -> Geometry:
        """The same relation read the other way round: the network's view as the picture."""
        (sy, sx), (oy, ox) = self.scale, self.offset
        return Geometry(self.size, self.picture_size, (1 / sy, 1 / sx), (-oy / sy, -ox / sx))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Geometry:
        """Raises InputError for unknown, missing or senseless entries."""
        try:
            (hp, wp), (h, w), (sy, sx), (oy, ox) = (data[field.name] for field in fields(cls))
            geometry = cls(
                (_whole(hp), _whole(wp)),
                (_whole(h), _whole(w)),
                (float(sy), float(sx)),
                (float(oy), float(ox)),
            )
            if set(data) - {field.name for field in fields(cls)} or min(geometry.scale) <= 0:
                raise ValueError
            if not all(map(math.isfinite, geometry.scale + geometry.offset)):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"not a geometry: {data!r}; expected picture_size, size, scale, offset"
            ) from None
        return geometry

    def _centres(self, axis: int) -> tuple[slice, NDArray[np.float64]]:
        """The picture's pixels along `axis` that the network sees, and their centres in its coordinates."""
        centres = (np.arange(self.picture_size[axis], dtype=np.float64) + 0.5) * self.scale[
            axis
        ] + self.offset[axis]
        start, stop = np.searchsorted(centres, (0.0, float(self.size[axis])))
        return slice(int(start), int(stop)), centres[start:stop]

    def _nearest(self, axis: int) -> tuple[slice, NDArray[np.intp]]:
        seen, centres = self._centres(axis)
        return seen, centres.astype(np.intp)  # searchsorted keeps 0 <= centre < size

    def _bilinear(self, axis: int) -> tuple[slice, NDArray[np.intp], NDArray[np.intp], Float32]:
        """Seen pixels; lower and upper neighbour of each and the upper one's weight; edges are repeated."""
        seen, centres = self._centres(axis)
        last = self.size[axis] - 1
        position = np.clip(centres - 0.5, 0, last)
        lower = position.astype(np.intp)
        return seen, lower, np.minimum(lower + 1, last), (position - lower).astype(np.float32)

    @staticmethod
    def _sized(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        if array.shape != size:
            raise InputError(f"array of shape {list(array.shape)} given; expected {list(size)}")
        return array


# -------------------------------------------------------------------------------------------- preprocess


@dataclass(frozen=True)
class Preprocess:
    """Picture -> network input, the same for training and every runtime; stored in the manifest.

    `crop` None: the whole picture, stretched to `size`, or with `keep_aspect` fitted into it, centred, its
    edge pixels repeated outwards (letterbox). With `crop`: the picture is stretched to `size`, or with
    `keep_aspect` scaled until it covers `size` (the PatchCore paper's 256 -> 224), and the central `crop`
    is kept. Resampling is Pillow's antialiased bilinear, in 8 bits for 8-bit pictures (always over 255),
    in float32 for deep ones. These are divided by `white_level` (None: 65535 for uint16, 1 for floats) and
    clipped to 0..1; never by anything that one picture decides.
    """

    size: tuple[int, int] = (256, 256)
    keep_aspect: bool = False
    crop: tuple[int, int] | None = None
    white_level: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _size("size", self.size))
        if self.crop is not None:
            object.__setattr__(self, "crop", _size("crop", self.crop))
            if any(part > whole for part, whole in zip(self.crop, self.size, strict=True)):
                raise InputError(f"crop {self.crop} is larger than size {self.size}; make size larger")
        if not isinstance(self.keep_aspect, bool):
            raise InputError(f"keep_aspect is {self.keep_aspect!r}; give true or false")
        if self.white_level is not None:
            level = self.white_level
            if isinstance(level, bool) or not isinstance(level, Real) or not 0 < level < math.inf:
                raise InputError(f"white_level is {level!r}; give a number above 0, or none")
            object.__setattr__(self, "white_level", float(level))

    @property
    def network_size(self) -> tuple[int, int]:
        """(H, W) of the tensor."""
        return self.crop or self.size

    def __call__(self, source: Source, name: str | None = None) -> tuple[Float32, Geometry]:
        """Anything `decode` reads -> ([1, 3, H, W] float32 in 0..1, RGB; where it lies in the picture)."""
        return self._apply(_load(source, name), name or _name_of(source))

    def from_array(self, picture: NDArray[Any], name: str | None = None) -> tuple[Float32, Geometry]:
        """The same for a picture that `decode` returned."""
        return self(picture, name)

    def geometry(self, picture_size: tuple[int, int]) -> Geometry:
        """The geometry that an upright picture of (H, W) pixels gets, without the picture."""
        (y0, x0, y1, x1), (h, w), (top, left) = self._placing(*picture_size)
        sy, sx = h / (y1 - y0), w / (x1 - x0)
        return Geometry(picture_size, self.network_size, (sy, sx), (top - y0 * sy, left - x0 * sx))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return {
            "size": list(self.size),
            "keep_aspect": self.keep_aspect,
            "crop": list(self.crop) if self.crop else None,
            "white_level": self.white_level,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        """Raises InputError for unknown keys and for values that make no sense."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise InputError(f"unknown preprocess key {unknown[0]!r}; known are {', '.join(known)}")
        return cls(**data)

    def _placing(
        self, height: int, width: int
    ) -> tuple[tuple[float, float, float, float], tuple[int, int], tuple[int, int]]:
        """Part of the picture that is seen (y0, x0, y1, x1), its size in the tensor, its top left corner."""
        whole = (0.0, 0.0, float(height), float(width))
        sy, sx = self.size[0] / height, self.size[1] / width
        if self.crop is None and not self.keep_aspect:
            return whole, self.size, (0, 0)
        if self.crop is None:
            scale = min(sy, sx)
            h = min(max(round(height * scale), 1), self.size[0])
            w = min(max(round(width * scale), 1), self.size[1])
            return whole, (h, w), ((self.size[0] - h) // 2, (self.size[1] - w) // 2)
        if self.keep_aspect:
            sy = sx = max(sy, sx)
        y0, x0 = max(0.0, (height - self.crop[0] / sy) / 2), max(0.0, (width - self.crop[1] / sx) / 2)
        return (y0, x0, height - y0, width - x0), self.crop, (0, 0)

    def _apply(self, picture: Image.Image | NDArray[Any], name: str) -> tuple[Float32, Geometry]:
        if isinstance(picture, Image.Image):
            size = (picture.height, picture.width)
        else:
            size = (picture.shape[0], picture.shape[1])
        (y0, x0, y1, x1), (h, w), (top, left) = self._placing(*size)
        box = (x0, y0, x1, y1)

        def resize(image: Image.Image) -> NDArray[Any]:
            if image.size == (w, h) and box == (0, 0, w, h):
                return np.asarray(image)
            return np.asarray(image.resize((w, h), Image.Resampling.BILINEAR, box=box))

        tensor = np.empty((1, 3, *self.network_size), dtype=np.float32)
        target = tensor[0, :, top : top + h, left : left + w]
        if not isinstance(picture, Image.Image) and picture.dtype != np.uint8:
            white = self._white(picture, name)
            for channel in range(picture.shape[2]):
                plane = np.ascontiguousarray(picture[:, :, channel], dtype=np.float32)
                np.divide(resize(Image.fromarray(plane)), white, out=target[channel], dtype=np.float32)
            if picture.shape[2] == 1:
                target[1:] = target[0]
            np.clip(target, 0, 1, out=target)
        else:
            if not isinstance(picture, Image.Image):  # grey as a view needs only one of its channels
                grey = picture.strides[2] == 0
                picture = Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if grey else picture))
            pixels = resize(picture)
            if pixels.ndim == 2:
                np.divide(pixels, 255, out=target[0], dtype=np.float32)
                target[1:] = target[0]
            else:
                np.divide(pixels.transpose(2, 0, 1), 255, out=target, dtype=np.float32)
        if (h, w) != self.network_size:
            _repeat_edges(tensor[0], top, left, h, w)
        return tensor, self.geometry(size)

    def _white(self, picture: NDArray[Any], name: str) -> float:
        """The divisor of a deep picture. Floats far off it would show all black or white."""
        if picture.dtype == np.uint16:
            return self.white_level or 65535.0
        largest = float(picture.max())
        if self.white_level is None and largest > 1:
            raise _cannot(
                name, f"its floats go up to {largest:g} and no white level is set", "divide it first"
            )
        if self.white_level is not None and self.white_level >= 255 and 0 < largest <= 1:
            raise _cannot(
                name, f"its floats are in 0..1, the white level is {self.white_level:g}", "multiply it"
            )
        return self.white_level or 1.0


def white_level_for(maximum: float, dtype: DTypeLike) -> float:
    """The white level for a set of pictures whose largest value is `maximum`; for `Preprocess.white_level`.

    Integers: the next 2^k - 1 (a 12-bit camera gives 4095), at least 255. Floats: 1, or `maximum` above 1.
    """
    if not (math.isfinite(maximum) and maximum >= 0):
        raise InputError(f"the largest pixel value is {maximum}; expected a finite number of at least 0")
    if np.dtype(dtype).kind == "f":
        return max(1.0, float(maximum))
    return float((1 << max(8, math.ceil(maximum).bit_length())) - 1)


def _repeat_edges(planes: Float32, top: int, left: int, height: int, width: int) -> None:
    """Fill the border of [C, H, W] around the given window with the window's outermost pixels, in place."""
    bottom, right = top + height, left + width
    rows = planes[:, top:bottom]
    rows[:, :, :left] = rows[:, :, left : left + 1]
    rows[:, :, right:] = rows[:, :, right - 1 : right]
    planes[:, :top] = planes[:, top : top + 1]
    planes[:, bottom:] = planes[:, bottom - 1 : bottom]


def _whole(value: Any) -> int:
    """An integer of at least 1, or TypeError/ValueError."""
    if isinstance(value, bool) or operator.index(value) < 1:
        raise ValueError(value)
    return operator.index(value)


def _size(key: str, value: Any) -> tuple[int, int]:
    try:
        height, width = value
        return _whole(height), _whole(width)
    except (TypeError, ValueError):
        raise InputError(f"{key} is {value!r}; give two whole numbers, height and width") from None


# ------------------------------------------------------------------------------------ region of interest

_NUMBER = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
_BOX = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}(?:@\s*(\d+)\s*x\s*(\d+)\s*)?")


def roi_from(spec: str | os.PathLike[str] | NDArray[Any], preprocess: Preprocess) -> Mask:
    """The region of interest [H, W] bool at network size: the pixels whose centre lies in it.

    `spec` is a mask at the pictures' size (array or file; above 0 counts), or a box "x0,y0,x1,y1": fractions
    of the picture, or pixels of a picture of W x H as "x0,y0,x1,y1@WxH". Fractions alone say nothing about
    the picture's shape, so they are refused where it matters, with `keep_aspect`. Raises InputError; also
    where the region holds no pixel that the network sees.
    """
    box = _BOX.fullmatch(spec) if isinstance(spec, str) else None
    if box is not None:
        roi = _roi_from_box(str(spec), box, preprocess)
    else:
        if isinstance(spec, np.ndarray):
            if spec.ndim != 2 or spec.size == 0:
                raise InputError(f"region of interest of shape {list(spec.shape)}; give a mask [H, W]")
            mask: Mask = spec > 0
        else:
            mask = read_mask(spec)
        height, width = mask.shape
        roi = preprocess.geometry((height, width)).mask_to_network(mask)
    if not roi.any():
        shown = "given" if isinstance(spec, np.ndarray) else str(spec)
        raise InputError(f"region of interest {shown} holds no pixel the network sees; make it larger")
    return roi


def _roi_from_box(spec: str, match: re.Match[str], preprocess: Preprocess) -> Mask:
    x0, y0, x1, y1 = (float(match[i]) for i in range(1, 5))
    if match[5] is not None:
        width, height = int(match[5]), int(match[6])
        if min(width, height) < 1:
            raise InputError(
                f"region of interest {spec}: the picture after @ has no pixels; give WIDTHxHEIGHT"
            )
    else:
        if max(x0, y0, x1, y1) > 1:
            raise InputError(
                f"region of interest {spec}: values above 1 are pixels; add the picture's size, {spec}@WxH"
            )
        if preprocess.keep_aspect:
            raise InputError(
                f"region of interest {spec}: fractions need the picture's shape with keep_aspect; "
                "give pixels as x0,y0,x1,y1@WxH or a mask file"
            )
        width, height = 1, 1  # stretched: fractions mean the same in every picture
    if not (x0 < x1 <= (width if match[5] else 1) and y0 < y1 <= (height if match[5] else 1)):
        raise InputError(
            f"region of interest {spec} is empty or leaves the picture; give x0 < x1 and y0 < y1"
        )
    geometry = preprocess.geometry((height, width))
    left, upper, right, lower = geometry.to_network((x0, y0, x1, y1))
    rows, columns = (np.arange(length) + 0.5 for length in geometry.size)
    inside: Mask = ((rows >= upper) & (rows < lower))[:, None] & ((columns >= left) & (columns < right))
    return inside
