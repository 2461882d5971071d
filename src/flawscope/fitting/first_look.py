"""Learns from decoded pictures what has to be known before views are cut: looks, light, and parts."""

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

    units: number of the part that each shows. remarks: on these. shown: what is known of each; empty: none
    was read.
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
    """Reads each picture, and finds the parts that they show. InputError: some show nothing.

    Args:
        part_of: as `units_of` takes it. force: pictures that show nothing are good.
        reduce: as `see_pictures` takes it.
    """
    shown = see_pictures(pictures, step, reduce)
    looks = [one.look for one in shown]
    remarks = refuse(find_unusual_looks(looks, names), force)
    units = units_of(named_rows(names, looks), part_of=part_of)
    return FirstLook([row.unit for row in units.rows], [*remarks, *units.remarks], shown)


def look_at_parts(
    pictures: DecodedPictures, units: Sequence[int], step: ProgressCallback, reduce: Reduce
) -> FirstLook:
    """Reads each picture, whose parts are known by their numbers. reduce: as `see_pictures` takes it."""
    return FirstLook(units, [], see_pictures(pictures, step, reduce))


class SeenPicture(NamedTuple):
    """Picture before a fit: what near-duplicates are compared by, and the picture in grey and small
    (`Preprocess.small`), where that was asked for; None: it cannot be read.
    """

    look: Look | None = None
    small: NDArray[np.float32] | None = None


def look_at(sources: Sequence[PictureSource], step: ProgressCallback, how: Preprocess) -> list[Look | None]:
    """Reads what each picture is compared by, of many channels the first group; None: it cannot be read."""
    return [one.look for one in see_pictures(DecodedPictures(sources, how.channels), step)]


def see_pictures(
    pictures: DecodedPictures,
    step: ProgressCallback,
    reduce: Reduce | None = None,
) -> list[SeenPicture]:
    """Reads each picture, and what is known of it before a fit; of one that cannot be read nothing. reduce:
    makes it small, where parts are to be found in it.
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
    """Normalization to the light of good pictures, those that can be read. InputError where none can."""

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
    """Learns how several parts in each picture are found, from the pictures that can be read; others are
    `UNREAD`. InputError: parts do not stand out, are too few, or are counted wrong.
    """
    every = range(len(pictures.sources))
    overviews = {
        i: preprocess.small(one, OVERVIEW_SIDE)
        for i in every
        if (one := pictures.read_or_none(i)) is not None
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
    """Counts the parts in each picture by a model that finds several, and says what is wrong with each count:
    as `LearnedParts`, of pictures that were not learnt from.
    """
    several, reference = preprocess.several, preprocess.reference
    assert several is not None
    assert reference is not None
    counts, errors = [], []
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
