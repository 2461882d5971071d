"""Reads pictures of more than three channels, and splits them into pictures of one or three channels each.

Further channels are near infrared beside colour, or a part under several lights. Channels are the samples of
a pixel of all pages of a TIFF file that have one size and type, or the last axis of an array [H, W, N] or of
a .npy file. No channel is taken for transparency. Torch-free.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError, pluralize
from flawscope.pictures import pixel_layouts, tiff
from flawscope.pictures.arrays import check_values, picture_error
from flawscope.pictures.decoding import (
    HashedPicture,
    PictureSource,
    PillowSource,
    decode,
    max_pixels,
    open_upright_deep,
    pixel_hash,
    read_array,
    source_name,
    to_eight_bits,
    without_warnings,
)
from flawscope.types import Facts, Json

Groups = tuple[tuple[int, ...], ...]
ALL = "all"
MAX_VALUES = 1 << 30  # largest number of values of all channels of a picture
_GROUP = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Channels:
    """Channels of a picture, and the groups in which they are seen.

    Attributes:
        count: Number of channels.
        groups: Numbers, from 0, of the channels seen together: one as grey, or three as red, green and blue.
    """

    count: int
    groups: Groups

    def __post_init__(self) -> None:
        numbers = [number for group in self.groups for number in group]
        sizes = {len(group) for group in self.groups}
        if not numbers or not sizes <= {1, 3} or not all(isinstance(number, int) for number in numbers):
            raise InputError("groups are of one channel or of three; write --channels 1-3,4 or the like")
        for number in (min(numbers), max(numbers)):
            if not 0 <= number < self.count:
                raise InputError(
                    f"--channels names channel {number + 1}; the pictures have {self.count}, from 1 on"
                )

    @classmethod
    def of(cls, wanted: str, sources: Sequence[PictureSource]) -> Channels:
        """Return the wanted channels; the first readable picture says how many there are.

        Args:
            wanted: "all", for the groups that the picture's file states; or groups of channels, numbered
                from 1, such as "1-3,4".
            sources: The pictures.

        Raises:
            InputError: No picture can be read, or the first that can has no such channels.
        """
        groups = None if wanted == ALL else _parse_groups(wanted)
        reason = "there are no pictures"
        for source in sources:
            try:
                values, file_groups = read_channels(source, source_name(source))
            except InputError as error:
                reason = str(error)
                continue
            return cls(values.shape[2], file_groups if groups is None else groups)
        raise InputError(reason)

    def to_dict(self) -> Json:
        """Return values that JSON can hold, for `from_dict`."""
        return {"count": self.count, "groups": [list(group) for group in self.groups]}

    @classmethod
    def from_dict(cls, data: Facts) -> Channels:
        """Read the values that `to_dict` returned.

        Raises:
            InputError: The values are damaged.
        """
        try:
            return cls(int(data["count"]), tuple(tuple(group) for group in data["groups"]))
        except (KeyError, TypeError, ValueError):
            raise InputError("the channels of the model cannot be read: fit anew") from None

    def read(self, source: PictureSource | HashedPicture, name: str | None = None) -> NDArray[np.number]:
        """Read all channels of a picture, [H, W, N] uint8, uint16 or float32.

        Raises:
            InputError: The picture cannot be read, or has another number of channels than `count`.
        """
        name = name or source_name(source)
        values, _ = read_channels(source, name)
        if values.shape[2] != self.count:
            raise picture_error(
                name,
                f"it has {pluralize(values.shape[2], 'channel')}, and the model learnt from {self.count}",
                "give pictures like those",
            )
        return values

    def split(self, picture: NDArray[np.number]) -> Iterator[NDArray[np.number]]:
        """Yield a picture for each group, in the form of `decode`: [H, W, 3], or [H, W, 1] if deep grey."""
        for group in self.groups:
            yield decode(np.ascontiguousarray(picture[:, :, list(group)]))

    def describe(self) -> str:
        """Return the groups in words for a person, such as "4 channels, seen as 1-3, 4"."""
        group_texts = []
        for group in self.groups:
            first, last = group[0] + 1, group[-1] + 1
            group_texts.append(str(first) if len(group) == 1 else f"{first}-{last}")
        return f"{self.count} channels, seen as {', '.join(group_texts)}"


def first_channels(picture: NDArray[np.number], channels: Channels | None) -> NDArray[np.number]:
    """Return the picture of the first group of channels; without `channels` the whole decoded picture."""
    return picture if channels is None else next(channels.split(picture))


def mean_channel(values: NDArray[np.number]) -> NDArray[np.number]:
    """Return the mean of a picture's channels as grey, of the picture's dtype and in the form of `decode`."""
    mean = values.mean(2, keepdims=True, dtype=np.float32)
    if values.dtype.kind != "f":
        mean = np.rint(mean)
    return decode(mean.astype(values.dtype))


def _parse_groups(wanted: str) -> Groups:
    """Parse groups given by the numbers of their channels, from 1."""
    groups = []
    for word in wanted.split(","):
        match = _GROUP.fullmatch(word.strip())
        if match is None:
            raise InputError(
                f"--channels is {wanted!r:.40}; give all, groups by numbers such as 1-3,4, or the pattern "
                "of file names such as {part}_{light}.png"
            )
        first = int(match[1])
        last = int(match[2] or match[1])
        # cut to four channels, which `Channels` refuses as it refuses more: "1-999999999" takes no memory
        end = min(last, first + 3)
        groups.append(tuple(range(first - 1, end)))
    return tuple(groups)


def read_channels(source: PictureSource | HashedPicture, name: str) -> tuple[NDArray[np.number], Groups]:
    """Read all channels of a picture and their groups; the hash of a `HashedPicture` is set.

    Returns:
        Values [H, W, N] uint8, uint16 or float32, and the groups that the file states: colours together,
        every other channel by itself.

    Raises:
        InputError: The picture cannot be read.
    """
    if isinstance(source, HashedPicture):
        values, groups = read_channels(source.data, name)
        source.pixels = pixel_hash(values)
        return values, groups
    if isinstance(source, np.ndarray):
        return _channels_of_array(source, name)
    values_and_groups = _read_beyond_pillow(source, name)
    if values_and_groups is not None:
        return values_and_groups
    image, deep_values = open_upright_deep(source, name)
    if deep_values is not None:
        array = deep_values
    elif image.mode in ("L", "LA", "RGB", "RGBA"):
        array = np.asarray(image)
    else:
        array = decode(source, name=name)
    values = check_values(np.atleast_3d(array), name)
    has_colour = values.shape[2] in (3, 4)
    return values, _groups([3 if has_colour else 1], values)


def _read_beyond_pillow(source: PillowSource, name: str) -> tuple[NDArray[np.number], Groups] | None:
    """Read the channels and groups of a file or its bytes, where Pillow would not read all channels.

    None where Pillow reads all channels, where the source is an image of Pillow, or where there is no such
    file.
    """
    if isinstance(source, bytes):
        return _read_stream(io.BytesIO(source), name)
    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        return None
    with Path(source).open("rb") as stream:
        return _read_stream(stream, name)


def _channels_of_array(array: NDArray[np.number], name: str) -> tuple[NDArray[np.number], Groups]:
    """Return the checked values [H, W, N] of an array, and their groups: three channels are colour."""
    values = check_values(np.atleast_3d(array), name)
    return values, _groups([values.shape[2] if values.shape[2] == 3 else 1], values)


def _read_stream(stream: IO[bytes], name: str) -> tuple[NDArray[np.number], Groups] | None:
    """Read a .npy file, or the pages of a TIFF that have the first page's size and depth.

    None where Pillow reads all channels of the file.
    """
    array = read_array(stream, name)
    if array is not None:
        return _channels_of_array(array, name)
    with without_warnings():
        pages = [*tiff.read_pages(stream)]
    channel_pages = [page for page in pages if (page.size, page.bits) == (pages[0].size, pages[0].bits)]
    if not channel_pages:
        return None
    if len(channel_pages) == 1 and not channel_pages[0].is_beyond_pillow:
        return None
    return _read_pages(stream, channel_pages, name)


def _read_pages(
    stream: IO[bytes], pages: Sequence[tiff.Page], name: str
) -> tuple[NDArray[np.number], Groups]:
    """Read the channels of pages of one size and depth, and their groups.

    Raises:
        InputError: The channels are too many to hold at once.
    """
    count = sum(page.channels for page in pages)
    if count * math.prod(pages[0].size) > MAX_VALUES:
        raise picture_error(name, f"it has {count} channels of many pixels", "cut it into parts")
    planes = [pixel_layouts.read_page(stream, page, name, max_pixels()) for page in pages]
    values = check_values(np.concatenate(planes, axis=2), name)
    group_widths: list[int] = []
    for page in pages:
        further_count = page.channels - page.colours
        group_widths.append(page.colours)
        group_widths += [1] * further_count  # each further channel is a group
    return values, _groups(group_widths, values)


def _groups(widths: Sequence[int], values: NDArray[np.number]) -> Groups:
    """Divide a picture's channels, in their order, into groups.

    Args:
        widths: Number of channels of each of the first groups; each channel behind them is a group.
        values: Values [H, W, N] of the picture.
    """
    single_count = values.shape[2] - sum(widths)
    all_widths = [*widths, *([1] * single_count)]
    groups = []
    first = 0
    for width in all_widths:
        groups.append(tuple(range(first, first + width)))
        first += width
    return tuple(groups)


def first_group(source: PictureSource) -> tuple[NDArray[np.number], str]:
    """Read a picture as `decode` does, or the first group of its channels if `decode` refuses so many.

    Returns:
        The picture, and a description of its channels, which is empty where `decode` reads the picture.

    Raises:
        InputError: The picture cannot be read.
    """
    try:
        return decode(source), ""
    except InputError:
        values, groups = read_channels(source, source_name(source))
        if len(groups) == 1:  # `decode` refused it for another reason than its channels
            raise
        channels = Channels(values.shape[2], groups)
        return next(channels.split(values)), channels.describe()


def displayed(source: PictureSource) -> NDArray[np.uint8]:
    """Read a picture for display, [H, W, 3] uint8; of a picture with more channels the first group.

    Raises:
        InputError: The picture cannot be read.
    """
    picture, _ = first_group(source)
    return to_eight_bits(picture)
