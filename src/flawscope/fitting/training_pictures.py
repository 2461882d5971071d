"""Chooses the pictures that a method is fitted on, and reads them once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from flawscope.calibration.parts import PartPattern
from flawscope.datasets import Dataset
from flawscope.datasets.masks import union_masks
from flawscope.datasets.seen_defects import choose_seen
from flawscope.errors import InputError, pluralize
from flawscope.methods.detector import Detector
from flawscope.methods.good_pictures import pack_image
from flawscope.methods.method import Method
from flawscope.methods.options.arguments import Reading
from flawscope.methods.task import SeenDefect
from flawscope.methods.threads import workers
from flawscope.pictures.appearance import FeatureValues, measure_appearance
from flawscope.pictures.channels import first_channels
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import PictureSource, SeenDefects, error_reason, pixel_hash
from flawscope.pictures.listing import picture_names, refuse_masks, relative_names
from flawscope.pictures.masks import marks_most
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.table import FIT, Picture
from flawscope.pictures.units import PartReader, check_group, group_reader
from flawscope.progress import ProgressCallback, ProgressCounter, Say, discard
from flawscope.views.light import Light, Normalization, channel_statistics
from flawscope.views.pose import PoseKind
from flawscope.views.preprocess import Preprocess
from flawscope.views.several_parts import OVERVIEW_SIDE
from flawscope.views.several_parts_learning import LearnedParts, learn_several_parts
from flawscope.views.view_looks import thumbnail
from flawscope.views.views import Views, hide_outside_roi


@dataclass
class Reader:
    """Loads training pictures, remembers their hashes, and knows copies and failures. Used by threads."""

    sources: list[PictureSource]
    preprocess: Preprocess
    known: set[str]  # hashes of pictures that are already in the model
    defects: dict[str, str] = field(default_factory=dict)  # hashes and names of the seen defects
    near_looks: Mapping[int, Look] = field(default_factory=dict)  # as near-duplicates are compared
    origin: str = FIT  # of the rows
    roi: NDArray[np.bool_] | None = None  # [H, W] at the network's size
    region: NDArray[np.bool_] | None = None  # the same where views mark what lies outside, which tiles need
    hidden: bool = False  # pixels outside of `roi` are not shown
    nearest: NDArray[np.int64] | None = None  # as `Detector` has it
    pictures: InitVar[DecodedPictures | None] = None  # the sources, where some are decoded already
    names: list[str] = field(default_factory=list)  # by default those of the sources
    decoded: DecodedPictures = field(init=False)
    hashes: dict[int, str] = field(default_factory=dict)
    measured: dict[int, FeatureValues] = field(default_factory=dict)  # the pictures' look as a whole
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # (H, W) of the pictures
    looks: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # as `view_looks` compares them
    failures: dict[int, str] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  # pictures whose part is not found
    copies: list[int] = field(default_factory=list)

    def __post_init__(self, pictures: DecodedPictures | None) -> None:
        self._lock = Lock()
        self.decoded = pictures or DecodedPictures(self.sources, self.preprocess.channels)
        self.names = picture_names(self.sources, self.names)

    @classmethod
    def of_model(
        cls,
        model: Detector,
        preprocess: Preprocess,
        sources: Sequence[PictureSource],
        known: Iterable[str] = (),
        names: Sequence[str] = (),
        **others: Any,
    ) -> Reader:
        """Loads pictures as a model sees them. others: fields; `roi` is the model's where it is not given."""
        nearest = None if model.nearest is None else model.nearest.cpu().numpy()
        given = {"roi": model.roi.cpu().numpy(), **others, "hidden": model.config.hidden, "nearest": nearest}
        return cls([*sources], preprocess, {*known}, names=[*names], **given)

    def load(self, index: int) -> torch.Tensor | None:
        """Picture `index` as a whole, [3, H, W] float32 in 0..1, or None where it cannot be read."""
        views = self.views(index)
        return None if views is None else self.to_tensor(views.images([0])[0])

    def to_tensor(self, image: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(hide_outside_roi(image, self.nearest) if self.hidden else image)

    def load_in_light(self, index: int, light: Light) -> torch.Tensor | None:
        """Picture `index` in another light, as `load` gives it."""
        views = next(self.views_in_lights(index, [light]))
        return None if views is None else self.to_tensor(views.images([0])[0])

    def views_in_lights(self, index: int, lights: Sequence[Light]) -> Iterator[Views | None]:
        """Yields the network's views of picture `index` in other lights, as `views` returns them; None, with
        the reason in `failures`, also where its parts are not found in one, or counted wrong."""
        picture = self.decoded.read_or_none(index)
        for light in lights:
            if picture is None:
                yield None
                continue
            views = self.preprocess.cut(light(picture), self.names[index], self.roi)
            if views.unusable:
                with self._lock:
                    self.failures[index] = f"with {light.name} {views.unusable}, in {self.names[index]}"
            yield None if views.unusable else views.with_roi(self.region)

    def views(self, index: int) -> Views | None:
        """Returns the network's views of picture `index`, or None where it cannot be read."""
        try:
            picture = self.decoded.read(index, self.names[index])
            self.hashes[index] = pixel_hash(picture)
            views = self.preprocess.cut(picture, self.names[index], self.roi)
            if views.unusable:
                self.lost.add(index)
                raise InputError(f"cannot learn from {self.names[index]}: {views.unusable}; remove it")
        except (InputError, MemoryError) as error:
            with self._lock:
                self.failures[index] = error_reason(error, self.names[index])
            return None
        first = views.with_roi(self.region).images([0])[0]
        measured, look = self.measured.get(index) or measure_appearance(first, self.roi), thumbnail(first)
        with self._lock:
            self.measured[index], self.looks[index] = measured, look
            self.sizes[index] = views.geometry.picture_size
        return views

    def row(self, index: int, role: str, unit: int) -> Picture:
        """The row of picture `index`, which was loaded, without what is judged."""
        row = Picture(self.hashes[index], role, self.names[index], unit, origin=self.origin)
        size = self.sizes.get(index)
        return row.seen(self.near_looks.get(index), self.measured.get(index, ()), size)

    def check_any_readable(self) -> None:
        """InputError where no picture can be read."""
        if 0 < len(self.sources) <= len(self.failures):
            first = self.failures[min(self.failures)]
            many = f"none of the {len(self.sources)} pictures can be used; the first: "
            raise InputError(f"{many if len(self.sources) > 1 else ''}{first}") from None

    def without_copies(self, indices: list[int]) -> list[int]:
        """Returns the indices without pictures whose pixels the model, an earlier picture or a defect has."""
        kept = []
        for index in indices:
            if self.hashes[index] in self.defects:
                other = self.defects[self.hashes[index]]
                self.failures[index] = f"{self.names[index]} is not good: it is the seen defect {other}"
            elif self.hashes[index] in self.known:
                self.copies.append(index)
            else:
                self.known.add(self.hashes[index])
                kept.append(index)
        return kept


UNREAD = "unread"
Images = Dataset | str | os.PathLike[str] | Sequence[PictureSource] | NDArray[Any]


def seen_defect_pairs(
    seen: SeenDefects,
    method: Method,
    seed: int,
    dataset: Dataset | None,
    say: Say = discard,
) -> list[tuple[PictureSource, list[PictureSource]]]:
    """The defective pictures that `seen` means, each with its masks. say: as `choose_seen` takes it."""
    wanted = len(seen) if isinstance(seen, list | tuple) else str(seen).strip() != "0"
    if not wanted:
        return []
    if not method.takes_seen_defects:
        raise InputError(f"{method.name} learns from good pictures only: leave out --seen, or take prnet")
    if isinstance(seen, list | tuple) and all(isinstance(p, list | tuple) and len(p) == 2 for p in seen):
        pairs = [(picture, mask if isinstance(mask, list) else [mask]) for picture, mask in seen]
    elif isinstance(seen, int | str | os.PathLike):
        items = choose_seen(seen, dataset, seed, say)
        pairs = [(item.path, list(item.masks)) for item in items]
    else:
        raise InputError("seen is a number, a folder, a list file, or pairs of picture and mask")
    return pairs


def read_defects(
    pairs: Sequence[tuple[PictureSource, list[PictureSource]]],
    preprocess: Preprocess,
    roi: NDArray[np.bool_] | None = None,
    say: Say = discard,
) -> tuple[dict[str, list[SeenDefect]], list[str]]:
    """Reads seen defects as the network sees them, in the whole picture and in a tile around each. Returns
    them by their pixels' hash, and for each unusable one the reason. `say` gets remarks on odd masks."""
    found: dict[str, list[SeenDefect]] = {}
    unusable: list[str] = []
    names = relative_names([picture for picture, _ in pairs])
    for (source, masks), name in zip(pairs, names, strict=True):
        try:
            picture = preprocess.decode(source, name)
            marked = union_masks(masks, picture.shape[:2], name)
            if most := marks_most(marked):
                say(f"warning: the mask of {name} {most}")
            views = preprocess.cut(picture, name, roi)
            shown = list(_defect_images(views, preprocess.corrected_mask(marked)))
            if not shown:
                height, width = preprocess.network_size
                raise InputError(
                    f"cannot use {name} as a defect: its mask is empty, cut away, or less than a "
                    f"pixel at {width}x{height}; mark it, or take a larger --size or crop"
                )
            found[pixel_hash(picture)] = [
                SeenDefect(pack_image(torch.from_numpy(image)), mask, name) for image, mask in shown
            ]
        except (InputError, MemoryError) as error:
            unusable.append(error_reason(error, name))
    if pairs and not found:
        of = pluralize(len(pairs), "seen defect")
        raise InputError(f"none of {of} can be used; the first: {unusable[0]}")
    return found, unusable


def _defect_images(
    views: Views, marked: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Images [3, H, W] that show a part of the marked pixels, each with its mask [H, W]."""
    if views.frames[0] is not views:
        for frame in views.frames:
            yield from _defect_images(frame, marked)
        return
    if (mask := views.placed.mask_to_network(marked)).any():
        yield views.images([0])[0], mask
    if views.grid is None:
        return
    canvas = views.geometry.mask_to_network(marked)
    height, width = views.grid.tile
    for rows, columns in find_objects(label(canvas, structure=np.ones((3, 3)))[0]):
        y, x = (
            min(max((part.start + part.stop - side) // 2, 0), whole - side)
            for part, side, whole in zip((rows, columns), views.grid.tile, views.grid.canvas, strict=True)
        )
        yield views.window(y, x), canvas[y : y + height, x : x + width]


def split_sources(
    images: Images, category: str | None
) -> tuple[list[PictureSource], list[PictureSource], str]:
    """Good pictures to learn from, good ones that the data set keeps apart, and the category."""
    if isinstance(images, Dataset):
        sources: list[PictureSource] = [item.path for item in images.train]
        if not sources:
            raise InputError(f"there are no good pictures to learn from in {images.root}")
        return sources, [item.path for item in images.validation], images.category
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, list | tuple) or not images:
        raise InputError("give a folder, a data set, or a list with at least one good picture")
    refuse_masks(images)
    return list(images), [], category or ""


def pattern_of(which: Reading) -> PartPattern | None:
    """Pattern of parts and views that the options of a fit give; None: it judges single pictures."""
    return None if which.part is None else PartPattern(which.part, which.view)


def part_reader(names: Sequence[str], group: str | None, pattern: PartPattern | None) -> PartReader | None:
    """Reader of the parts that names tell: by the pattern of parts and views, else by that of groups.
    InputError: it does not fit the names."""
    if pattern is None:
        check_group(names, group)
        return group_reader(group)
    pattern.part_numbers(names)
    return pattern.part_key


class SeenPicture(NamedTuple):
    """Picture before a fit: what near-duplicates are compared by, and the picture in grey and small
    (`Preprocess.small`), where that was asked for; None: it cannot be read."""

    look: Look | None = None
    small: NDArray[np.float32] | None = None


def look_at(sources: Sequence[PictureSource], step: ProgressCallback, how: Preprocess) -> list[Look | None]:
    """Reads what each picture is compared by, of many channels the first group; None: it cannot be read."""
    return [one.look for one in see_pictures(DecodedPictures(sources, how.channels), step)]


def see_pictures(
    pictures: DecodedPictures,
    step: ProgressCallback,
    small: Callable[[NDArray[Any]], NDArray[np.float32]] | None = None,
) -> list[SeenPicture]:
    """Reads each picture, and what is known of it before a fit; of one that cannot be read nothing. small:
    reduces it, where parts are to be found in it."""
    numbers = range(len(pictures.sources))
    advance = ProgressCounter(step, "near-duplicates", len(numbers))

    def see(number: int) -> SeenPicture:
        picture = pictures.read_or_none(number)
        advance()
        if picture is None:
            return SeenPicture()
        look = Look.of(first_channels(picture, pictures.channels))
        return SeenPicture(look, None if small is None else small(picture))

    with workers() as each:
        return each(see, numbers)


def learn_normalization(
    pictures: DecodedPictures, preprocess: Preprocess, roi: NDArray[np.bool_] | None, share: float
) -> Normalization:
    """Normalization to the light of good pictures, those that can be read. InputError where none can."""

    def measured() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
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
    `UNREAD`. InputError: as `learn_several_parts`."""
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
    counts, wrong = (
        dict(zip(read, found.counts, strict=True)),
        dict(zip(read, found.count_errors, strict=True)),
    )
    return found._replace(
        counts=[counts.get(i, 0) for i in every], count_errors=[wrong.get(i, UNREAD) for i in every]
    )


def count_parts(pictures: DecodedPictures, preprocess: Preprocess) -> tuple[list[int], list[str]]:
    """Counts the parts in each picture by a model that finds several, and says what is wrong with each count:
    as `LearnedParts`, of pictures that were not learnt from."""
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
