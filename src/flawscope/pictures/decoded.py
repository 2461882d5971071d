"""Surveys the pictures of a fit before they are read, and decodes them once, if memory allows. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.channels import Channels
from flawscope.pictures.decoding import PictureSource, decode
from flawscope.pictures.files import upright_size
from flawscope.pictures.levels import Levels, UsedRange, common_levels, used_range
from flawscope.pictures.pixel_layouts import is_deep_colour, is_read_whole

KEPT_BYTES = 128 << 20  # largest size of the decoded pictures that are kept while a model is fitted

S = TypeVar("S")


class Survey(NamedTuple):
    """Sizes and levels of the pictures, known before a fit reads them.

    Attributes:
        levels: Levels of all deep pictures; None where all have 8 bits.
        largest: Bytes of the largest picture.
        sizes: (H, W) of each picture, upright; None where it cannot be read.
        remarks: Remarks on values that are clipped or stretched.
    """

    levels: Levels | None
    largest: int
    sizes: list[tuple[int, int] | None]
    remarks: list[str]


class _Memory:
    """Decoded pictures by their keys, up to a size in bytes. Used by threads."""

    def __init__(self, max_bytes: int):
        self.pictures = dict[int, NDArray[np.number]]()
        self._free_bytes = max_bytes
        self._lock = Lock()

    def keep(self, key: int, picture: NDArray[np.number]) -> None:
        """Keep a picture if the size allows it."""
        with self._lock:
            if key not in self.pictures and picture.nbytes <= self._free_bytes:
                self.pictures[key] = picture
                self._free_bytes -= picture.nbytes


class _Header(NamedTuple):
    """Survey of a picture that is not decoded.

    Attributes:
        is_deep: Whether it has to be decoded, because its values may have more than 8 bits.
        size_bytes: Bytes of its pixels; 0 where not known.
        size: (H, W); None where not known.
    """

    is_deep: bool
    size_bytes: int = 0
    size: tuple[int, int] | None = None


class DecodedPictures:
    """Decodes pictures by their numbers, and keeps the first pictures in memory.

    As many are kept as fit in `KEPT_BYTES`, because a fit reads each picture several times. Used by threads.

    Args:
        sources: The pictures.
        channels: Channels of each picture, all of which are decoded; None: three at most.
    """

    def __init__(self, sources: Sequence[PictureSource], channels: Channels | None = None):
        self.sources = sources
        self.channels = channels
        self._memory = _Memory(KEPT_BYTES)
        self._keys: Sequence[int] = range(len(sources))  # key of each picture in `_memory`

    def subset(self, numbers: Sequence[int]) -> DecodedPictures:
        """Return the pictures of some numbers, renumbered from 0 in this order.

        Both objects share the decoded pictures in memory.
        """
        pictures = DecodedPictures([self.sources[number] for number in numbers], self.channels)
        pictures._memory = self._memory
        pictures._keys = [self._keys[number] for number in numbers]
        return pictures

    def read(self, index: int, name: str | None = None) -> NDArray[np.number]:
        """Return a decoded picture. The caller must not change it.

        Args:
            index: Number of the picture.
            name: Name of the picture, for errors.

        Raises:
            InputError: As in `decode`.
        """
        source = self.sources[index]
        key = self._keys[index]
        decoded_picture = self._memory.pictures.get(key)
        if decoded_picture is not None:
            return decoded_picture
        picture = decode(source, name=name) if self.channels is None else self.channels.read(source, name)
        if not isinstance(source, np.ndarray):  # an array is in memory already
            self._memory.keep(key, picture)
        return picture

    def read_or_none(self, index: int) -> NDArray[np.number] | None:
        """Return picture `index`; None where it cannot be read, which the fit reports when it loads it."""
        return decoded_or_none(index, self.read)

    def survey(self) -> Survey:
        """Return the levels and the sizes of the pictures, and remarks on them.

        Pictures that cannot be read are left out; the fit reports them later.

        Of 8-bit files only the headers are read. Other files, and all files if there are `channels`, are
        decoded.
        """
        used_ranges: list[UsedRange] = []
        dtype_kinds = set[str]()
        largest_bytes = 0
        sizes: list[tuple[int, int] | None] = [None] * len(self.sources)
        for number in range(len(self.sources)):
            try:
                header = self._survey_header(number)
                largest_bytes = max(largest_bytes, header.size_bytes)
                sizes[number] = header.size
                picture = self.read(number) if header.is_deep else None
            except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue  # reported when it is loaded for the fit
            if picture is None:
                continue
            largest_bytes = max(largest_bytes, picture.nbytes)
            sizes[number] = (picture.shape[0], picture.shape[1])
            if picture.dtype != np.uint8:
                used_ranges.append(used_range(picture))
                dtype_kinds.add(picture.dtype.kind)
        if not used_ranges:
            return Survey(levels=None, largest=largest_bytes, sizes=sizes, remarks=[])
        kind = "f" if dtype_kinds == {"f"} else "u"  # floats and unsigned integers together count as integers
        levels, remarks = common_levels(used_ranges, kind)
        return Survey(levels, largest_bytes, sizes, remarks)

    def _survey_header(self, number: int) -> _Header:
        """Return what can be known of a picture without decoding it."""
        source = self.sources[number]
        if self.channels is not None:
            return _Header(is_deep=True)  # the picture has to be decoded
        if isinstance(source, np.ndarray):
            size = (source.shape[0], source.shape[1]) if source.ndim > 1 else None
            return _Header(is_deep=source.dtype != np.uint8, size_bytes=source.nbytes, size=size)
        if isinstance(source, bytes) or is_read_whole(source):
            return _Header(is_deep=True)
        with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as image:
            is_deep = image.mode.startswith(("I", "F")) or is_deep_colour(image)
            rgb_bytes = 3 * image.width * image.height
            return _Header(is_deep, rgb_bytes, upright_size(image))


def decoded_or_none(source: S, read: Callable[[S], NDArray[np.number]]) -> NDArray[np.number] | None:
    """Return the picture that `read` returns for a source; None where it cannot be read.

    The error is not reported here, since the fit loads the picture again and reports it then.
    """
    try:
        return read(source)
    except (InputError, MemoryError):
        return None
