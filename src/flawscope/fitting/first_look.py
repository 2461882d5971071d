"""Reads looks, light and parts from decoded pictures, as a fit needs them before views are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.outliers import find_unusual_looks, refuse
from flawscope.errors import InputError
from flawscope.methods.threads import workers
from flawscope.pictures.channels import first_channels
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import PartReader, named_rows, units_of
from flawscope.progress import ProgressCallback, ProgressCounter
from flawscope.views.light import Normalization, channel_statistics
from flawscope.views.pose import PoseKind
from flawscope.views.preprocess import Preprocess
from flawscope.views.several_parts import OVERVIEW_SIDE
from flawscope.views.several_parts_learning import LearnedParts, learn_several_parts

UNREAD = "unread"  # count error of a picture that cannot be read
Reduce = Callable[[NDArray[np.number]], NDArray[np.float32]]  # makes a decoded picture grey and small


class FirstLook(NamedTuple):
    """Good pictures before a fit.

    Attributes:
        units: Number of the part that each picture shows.
        remarks: Remarks on pictures that show nothing, and on the parts.
        seen_pictures: Look and small copy of each picture; empty: no picture was read.
    """

    units: Sequence[int]
    remarks: Sequence[str] = ()
    seen_pictures: Sequence[SeenPicture] = ()


def look_first(
    pictures: DecodedPictures,
    names: Sequence[str],
    part_of: PartReader | None,
    force: bool,
    step: ProgressCallback,
    reduce: Reduce | None = None,
) -> FirstLook:
    """Read each picture, and find the parts that the pictures show.

    Args:
        pictures: The pictures.
        names: Names of the pictures.
        part_of: Function that reads the part from a name; None: near-duplicates show one part (`units_of`).
        force: Whether pictures that show nothing count as good.
        step: Gets progress.
        reduce: Function that makes a small picture, in which parts are found; None: there are no small
            pictures.

    Raises:
        InputError: Some pictures show nothing, and `force` is not set.
    """
    seen_pictures = see_pictures(pictures, step, reduce)
    looks = [picture.look for picture in seen_pictures]
    remarks = refuse(find_unusual_looks(looks, names), force)
    units = units_of(named_rows(names, looks), part_of=part_of)
    return FirstLook([row.unit for row in units.rows], [*remarks, *units.remarks], seen_pictures)


def look_at_parts(
    pictures: DecodedPictures, units: Sequence[int], step: ProgressCallback, reduce: Reduce
) -> FirstLook:
    """Read each picture, as `look_first` does, if it is known which parts the pictures show.

    Args:
        pictures: The pictures.
        units: Number of the part that each picture shows.
        step: Gets progress.
        reduce: Function that makes a small picture, in which parts are found.
    """
    return FirstLook(units, [], see_pictures(pictures, step, reduce))


class SeenPicture(NamedTuple):
    """Picture before a fit; both fields are None where it cannot be read.

    Attributes:
        look: Look by which near-duplicates are compared.
        small: The picture in grey and small (`Preprocess.small`); None also where it is not needed.
    """

    look: Look | None = None
    small: NDArray[np.float32] | None = None


def look_at(sources: Sequence[PictureSource], step: ProgressCallback, how: Preprocess) -> list[Look | None]:
    """Return the look of each picture, by which near-duplicates are compared; None: it cannot be read.

    The look of a picture with many channels is that of its first group of channels.
    """
    decoded = DecodedPictures(sources, how.channels)
    return [picture.look for picture in see_pictures(decoded, step)]


def see_pictures(
    pictures: DecodedPictures,
    step: ProgressCallback,
    reduce: Reduce | None = None,
) -> list[SeenPicture]:
    """Read the look of each picture before a fit, in several threads.

    Args:
        pictures: The pictures.
        step: Gets progress.
        reduce: Function that makes a small picture, in which parts are found; None: there are no small
            pictures.
    """
    numbers = range(len(pictures.sources))
    advance = ProgressCounter(step, "near-duplicates", len(numbers))

    def see(number: int) -> SeenPicture:
        """Return picture `number` as it is before a fit."""
        picture = pictures.read_or_none(number)
        advance()
        if picture is None:
            return SeenPicture()
        look = Look.of(first_channels(picture, pictures.channels))
        small = None if reduce is None else reduce(picture)
        return SeenPicture(look, small)

    with workers() as map_in_threads:
        return map_in_threads(see, numbers)


def learn_normalization(
    pictures: DecodedPictures, preprocess: Preprocess, roi: NDArray[np.bool_] | None, share: float
) -> Normalization:
    """Learn the normalization of light from the good pictures that can be read.

    Args:
        pictures: The good pictures.
        preprocess: Preprocessing of the pictures.
        roi: Region of interest [H, W] at the network's size; None: all counts.
        share: Share by which the light may vary.

    Raises:
        InputError: No picture can be read.
    """
    return Normalization.from_statistics(_light_statistics(pictures, preprocess, roi), share)


def _light_statistics(
    pictures: DecodedPictures, preprocess: Preprocess, roi: NDArray[np.bool_] | None
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Yield the statistics of the channels in each frame of the pictures (`channel_statistics`).

    Pictures that cannot be read, or whose parts are not found, are left out.
    """
    for number in range(len(pictures.sources)):
        try:
            views = preprocess.whole.cut(pictures.read(number), "a picture")
        except (InputError, MemoryError):
            continue  # the fit reports it
        if views.unusable:
            continue
        for frame in views.frames:
            whole_view = frame.images([0])[0]
            statistics = channel_statistics(whole_view, roi)
            if statistics is not None:
                yield statistics


def learn_part_finding(pictures: DecodedPictures, preprocess: Preprocess, kind: PoseKind) -> LearnedParts:
    """Learn how several parts in each picture are found, from the pictures that can be read.

    For a picture that cannot be read, the result has the count 0 and the count error `UNREAD`.

    Args:
        pictures: The pictures.
        preprocess: Preprocessing of the pictures.
        kind: How the parts may lie.

    Raises:
        InputError: Parts do not stand out, are too few, or are counted wrong.
    """
    count = len(pictures.sources)
    overview_by_number = {}
    for number in range(count):
        picture = pictures.read_or_none(number)
        if picture is not None:
            overview_by_number[number] = preprocess.small(picture, OVERVIEW_SIDE)
    readable = [*overview_by_number]

    def read_small(place: int, side: int) -> NDArray[np.float32]:
        """Return a readable picture in grey and small, by its place among the readable ones."""
        return preprocess.small(pictures.read(readable[place]), side)

    learnt = learn_several_parts([*overview_by_number.values()], read_small, kind)
    counts = [0] * count
    errors = [UNREAD] * count
    for number, part_count, error in zip(readable, learnt.counts, learnt.count_errors, strict=True):
        counts[number] = part_count
        errors[number] = error
    return learnt._replace(counts=counts, count_errors=errors)


def count_parts(pictures: DecodedPictures, preprocess: Preprocess) -> tuple[list[int], list[str]]:
    """Count the parts in each picture by a preprocessing that finds several parts.

    Returns:
        The number of parts in each picture; and the count error of each picture (`LearnedParts`): a text,
        empty if the count is right, `UNREAD` if the picture cannot be read.
    """
    several = preprocess.several
    reference = preprocess.reference
    assert several is not None
    assert reference is not None
    counts = []
    errors = []
    for number in range(len(pictures.sources)):
        try:
            picture = pictures.read(number)
            small = preprocess.small(picture, several.side)
            overview = preprocess.small(picture, OVERVIEW_SIDE)
            detections = several.find(small, overview, reference)
        except (InputError, MemoryError):  # the fit reports it
            counts.append(0)
            errors.append(UNREAD)
            continue
        counts.append(len(detections.poses))
        errors.append(several.count_error(len(detections.poses), len(detections.objects)))
    return counts, errors
