"""Reads from decoded pictures their looks, light and parts, which a fit needs before views are cut."""

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

UNREAD = "unread"
Reduce = Callable[[NDArray[np.number]], NDArray[np.float32]]  # a decoded picture, to one in grey and small


class FirstLook(NamedTuple):
    """Good pictures before a fit.

    Attributes:
        units: Number of the part that each shows.
        remarks: Remarks on the parts.
        shown: Look of each picture, and its small copy where asked for; empty: none was read.
    """

    units: Sequence[int]
    remarks: Sequence[str] = ()
    shown: Sequence[SeenPicture] = ()


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
        part_of: Returns the part for a name, or None; without it near-duplicates decide (`units_of`).
        force: Whether pictures that show nothing count as good.
        step: Gets progress.
        reduce: Makes a picture small, where parts are to be found in it (`see_pictures`).

    Raises:
        InputError: Some pictures show nothing, and `force` is not set.
    """
    shown = see_pictures(pictures, step, reduce)
    looks = [picture.look for picture in shown]
    remarks = refuse(find_unusual_looks(looks, names), force)
    units = units_of(named_rows(names, looks), part_of=part_of)
    return FirstLook([row.unit for row in units.rows], [*remarks, *units.remarks], shown)


def look_at_parts(
    pictures: DecodedPictures, units: Sequence[int], step: ProgressCallback, reduce: Reduce
) -> FirstLook:
    """Read each picture, whose part is known by its number; `reduce` makes it small (`see_pictures`)."""
    return FirstLook(units, [], see_pictures(pictures, step, reduce))


class SeenPicture(NamedTuple):
    """Picture before a fit; both fields are None where it cannot be read.

    Attributes:
        look: Look by which near-duplicates are compared.
        small: The picture in grey and small (`Preprocess.small`), where asked for; else None.
    """

    look: Look | None = None
    small: NDArray[np.float32] | None = None


def look_at(sources: Sequence[PictureSource], step: ProgressCallback, how: Preprocess) -> list[Look | None]:
    """Return the look of each picture, of many channels that of the first group; None: it cannot be read."""
    return [picture.look for picture in see_pictures(DecodedPictures(sources, how.channels), step)]


def see_pictures(
    pictures: DecodedPictures,
    step: ProgressCallback,
    reduce: Reduce | None = None,
) -> list[SeenPicture]:
    """Read the look of each picture before a fit; nothing of a picture that cannot be read.

    Args:
        pictures: The pictures.
        step: Gets progress.
        reduce: Makes a picture small, where parts are to be found in it; None: no small pictures are kept.
    """
    numbers = range(len(pictures.sources))
    advance = ProgressCounter(step, "near-duplicates", len(numbers))

    def see(number: int) -> SeenPicture:
        picture = pictures.read_or_none(number)
        advance()
        if picture is None:
            return SeenPicture()
        look = Look.of(first_channels(picture, pictures.channels))
        return SeenPicture(look, None if reduce is None else reduce(picture))

    with workers() as each:
        return each(see, numbers)


def learn_normalization(
    pictures: DecodedPictures, preprocess: Preprocess, roi: NDArray[np.bool_] | None, share: float
) -> Normalization:
    """Learn the normalization to the light of those good pictures that can be read.

    Raises:
        InputError: None can be read.
    """

    def measured() -> Iterator[tuple[NDArray[np.floating], NDArray[np.floating]]]:
        for number in range(len(pictures.sources)):
            try:
                views = preprocess.whole.cut(pictures.read(number), "a picture")
            except (InputError, MemoryError):
                continue  # reported when it is loaded for fitting
            for frame in () if views.unusable else views.frames:
                if (found := channel_statistics(frame.images([0])[0], roi)) is not None:
                    yield found

    return Normalization.from_statistics(measured(), share)


def learn_part_finding(pictures: DecodedPictures, preprocess: Preprocess, kind: PoseKind) -> LearnedParts:
    """Learn how several parts in each picture are found, from the pictures that can be read.

    Pictures that cannot be read have the error `UNREAD`.

    Raises:
        InputError: Parts do not stand out, are too few, or are counted wrong.
    """
    every = range(len(pictures.sources))
    overviews = {
        i: preprocess.small(picture, OVERVIEW_SIDE)
        for i in every
        if (picture := pictures.read_or_none(i)) is not None
    }
    read = [*overviews]
    found = learn_several_parts(
        [*overviews.values()], lambda k, side: preprocess.small(pictures.read(read[k]), side), kind
    )
    counts = dict(zip(read, found.counts, strict=True))
    wrong = dict(zip(read, found.count_errors, strict=True))
    return found._replace(
        counts=[counts.get(i, 0) for i in every], count_errors=[wrong.get(i, UNREAD) for i in every]
    )


def count_parts(pictures: DecodedPictures, preprocess: Preprocess) -> tuple[list[int], list[str]]:
    """Count the parts in pictures that a model was not fitted on, where it finds several in each.

    Returns:
        The number of parts in each picture, and the fault of each count, empty where it is right; as in
        `LearnedParts`.
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
            small, overview = (preprocess.small(picture, side) for side in (several.side, OVERVIEW_SIDE))
            detections = several.find(small, overview, reference)
        except (InputError, MemoryError):  # reported when it is loaded for fitting
            counts.append(0)
            errors.append(UNREAD)
            continue
        counts.append(len(detections.poses))
        errors.append(several.count_error(len(detections.poses), len(detections.objects)))
    return counts, errors
