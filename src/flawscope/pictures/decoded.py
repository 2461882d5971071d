"""Pictures of a fit: surveyed before they are read, and decoded once. Torch-free."""

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

KEPT_BYTES = 128 << 20  # of decoded pictures, while a model is fitted

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
    """Decoded pictures by their keys, as long as there is room, in bytes. Used by threads."""

    def __init__(self, room: int):
        self.pictures, self._room, self._lock = dict[int, NDArray[np.number]](), room, Lock()

    def keep(self, key: int, picture: NDArray[np.number]) -> None:
        """Keep a picture where there is room for it."""
        with self._lock:
            if key not in self.pictures and picture.nbytes <= self._room:
                self.pictures[key] = picture
                self._room -= picture.nbytes


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
    """Decodes pictures by their numbers and keeps the first ones in memory.

    As many are kept as fit in `KEPT_BYTES`, because a fit reads each several times. All channels are decoded
    where `channels` are given. Used by threads.
    """

    def __init__(self, sources: Sequence[PictureSource], channels: Channels | None = None):
        self.sources, self.channels, self._memory = sources, channels, _Memory(KEPT_BYTES)
        self._keys: Sequence[int] = range(len(sources))  # of the pictures in memory

    def subset(self, numbers: Sequence[int]) -> DecodedPictures:
        """Return some of the pictures, which share the decoded pictures in memory with these."""
        some = DecodedPictures([self.sources[number] for number in numbers], self.channels)
        some._memory = self._memory
        some._keys = [self._keys[number] for number in numbers]
        return some

    def read(self, index: int, name: str | None = None) -> NDArray[np.number]:
        """Return picture `index`, not to be changed.

        Args:
            index: Number of the picture.
            name: Name of the picture, for errors.

        Raises:
            InputError: As in `decode`.
        """
        source = self.sources[index]
        key = self._keys[index]
        kept = self._memory.pictures.get(key)
        if kept is not None:
            return kept
        picture = decode(source, name=name) if self.channels is None else self.channels.read(source, name)
        if not isinstance(source, np.ndarray):
            self._memory.keep(key, picture)
        return picture

    def read_or_none(self, index: int) -> NDArray[np.number] | None:
        """Return picture `index`; None where it cannot be read: loading it for a fit reports that."""
        return decoded_or_none(index, self.read)

    def survey(self) -> Survey:
        """Survey the pictures.

        Of 8-bit files only the headers are read; other files, and those with more channels, are decoded.
        """
        used: list[UsedRange] = []
        kinds = set[str]()
        largest = 0
        sizes: list[tuple[int, int] | None] = []
        for number in range(len(self.sources)):
            sizes.append(None)
            try:
                header = self._survey_header(number)
                largest, sizes[-1] = max(largest, header.size_bytes), header.size
                picture = self.read(number) if header.is_deep else None
            except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue  # reported when it is loaded
            if picture is None:
                continue
            largest = max(largest, picture.nbytes)
            sizes[-1] = (picture.shape[0], picture.shape[1])
            if picture.dtype != np.uint8:
                used.append(used_range(picture))
                kinds.add(picture.dtype.kind)
        kind = "f" if kinds == {"f"} else "u"
        levels, remarks = common_levels(used, kind) if used else (None, [])
        return Survey(levels, largest, sizes, remarks)

    def _survey_header(self, number: int) -> _Header:
        """Survey a picture without decoding it, as far as that is possible."""
        source = self.sources[number]
        if self.channels is not None:
            return _Header(is_deep=True)
        if isinstance(source, np.ndarray):
            size = (source.shape[0], source.shape[1]) if source.ndim > 1 else None
            return _Header(source.dtype != np.uint8, source.nbytes, size)
        if isinstance(source, bytes) or is_read_whole(source):
            return _Header(is_deep=True)
        opened = nullcontext(source) if isinstance(source, Image.Image) else Image.open(source)
        with opened as image:
            is_deep = image.mode.startswith(("I", "F")) or is_deep_colour(image)
            return _Header(is_deep, 3 * image.width * image.height, upright_size(image))


def decoded_or_none(source: S, read: Callable[[S], NDArray[np.number]]) -> NDArray[np.number] | None:
    """Return the picture that `read` returns; None where it cannot be read."""
    try:
        return read(source)
    except (InputError, MemoryError):
        return None  # reported when it is loaded for fitting
