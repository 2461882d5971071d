"""Chooses the pictures that a method is fitted on, and reads them once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import InitVar, dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects, label

from flawscope.calibration.outliers import Seen
from flawscope.calibration.parts import PartPattern
from flawscope.datasets import Dataset, group_numbers
from flawscope.datasets.masks import union_masks
from flawscope.datasets.seen_defects import choose_seen
from flawscope.errors import InputError, pluralize
from flawscope.methods.detector import Detector
from flawscope.methods.good_pictures import pack_image
from flawscope.methods.method import Method
from flawscope.methods.task import SeenDefect
from flawscope.methods.threads import workers
from flawscope.pictures.appearance import FeatureValues, measure_appearance
from flawscope.pictures.decoding import PictureSource, decode, error_reason, pixel_hash
from flawscope.pictures.files import upright_size
from flawscope.pictures.levels import Levels, UsedRange, common_levels, used_range
from flawscope.pictures.listing import refuse_masks, relative_names
from flawscope.pictures.masks import marks_most
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.pixel_layouts import is_deep_colour, is_read_whole
from flawscope.progress import ProgressCallback, ProgressCounter
from flawscope.views.light import Light, Normalization, channel_statistics
from flawscope.views.pose import PoseKind
from flawscope.views.preprocess import Preprocess
from flawscope.views.several_parts import OVERVIEW_SIDE
from flawscope.views.several_parts_learning import LearnedParts, learn_several_parts
from flawscope.views.view_looks import thumbnail
from flawscope.views.views import Views, hide_outside_roi

KEPT_BYTES = 128 << 20  # of decoded pictures, while a model is fitted


class DecodedPictures:
    """Decodes pictures by their numbers, and keeps those that are read first, as many as fit in `KEPT_BYTES`:
    a fit asks for each several times. Used by threads."""

    def __init__(self, sources: Sequence[PictureSource], decode: Callable[..., NDArray[Any]]):
        self.sources, self._decode, self._lock = sources, decode, Lock()
        self._kept, self._room = dict[int, NDArray[Any]](), KEPT_BYTES

    def read(self, index: int, name: str | None = None) -> NDArray[Any]:
        """Picture `index`, not to be changed. name: for errors. InputError as of `decode`."""
        source = self.sources[index]
        if (kept := self._kept.get(index)) is not None:
            return kept
        picture = self._decode(source, name)
        with self._lock:
            if not isinstance(source, np.ndarray) and picture.nbytes <= self._room:
                self._kept[index], self._room = picture, self._room - picture.nbytes
        return picture

    def read_or_none(self, index: int) -> NDArray[Any] | None:
        """Picture `index`; None where it cannot be read, which is reported when it is loaded for fitting."""
        return decoded_or_none(index, self.read)


@dataclass
class Reader:
    """Loads training pictures, remembers their hashes, and knows copies and failures. Used by threads."""

    sources: list[PictureSource]
    preprocess: Preprocess
    known: set[str]  # hashes of pictures that are already in the model
    defects: dict[str, str] = field(default_factory=dict)  # hashes and names of the seen defects
    roi: NDArray[np.bool_] | None = None  # [H, W] at the network's size
    region: NDArray[np.bool_] | None = None  # the same where views mark what lies outside, which tiles need
    hidden: bool = False  # pixels outside of `roi` are not shown
    nearest: NDArray[np.int64] | None = None  # as `Detector` has it
    pictures: InitVar[DecodedPictures | None] = None  # the sources, where some are decoded already
    decoded: DecodedPictures = field(init=False)
    names: list[str] = field(init=False)
    hashes: dict[int, str] = field(default_factory=dict)
    measured: dict[int, FeatureValues] = field(default_factory=dict)  # the pictures' look as a whole
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # (H, W) of the pictures
    looks: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # as `view_looks` compares them
    failures: dict[int, str] = field(default_factory=dict)
    copies: list[int] = field(default_factory=list)

    def __post_init__(self, pictures: DecodedPictures | None) -> None:
        self._lock = Lock()
        self.decoded = pictures or DecodedPictures(self.sources, self.preprocess.decode)
        self.names = relative_names(self.sources)

    @classmethod
    def of_model(
        cls,
        model: Detector,
        preprocess: Preprocess,
        sources: Sequence[PictureSource],
        known: Iterable[str] = (),
    ) -> Reader:
        """Loads pictures as a fitted model sees them."""
        nearest = None if model.nearest is None else model.nearest.cpu().numpy()
        roi, hidden = model.roi.cpu().numpy(), model.config.hidden
        return cls([*sources], preprocess, {*known}, roi=roi, hidden=hidden, nearest=nearest)

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
            views = self.preprocess.views(light(picture), self.names[index], self.roi)
            if views.unusable:
                with self._lock:
                    self.failures[index] = f"with {light.name} {views.unusable}, in {self.names[index]}"
            yield None if views.unusable else views.with_roi(self.region)

    def views(self, index: int) -> Views | None:
        """Returns the network's views of picture `index`, or None where it cannot be read."""
        try:
            picture = self.decoded.read(index, self.names[index])
            self.hashes[index] = pixel_hash(picture)
            views = self.preprocess.views(picture, self.names[index], self.roi)
            if views.unusable:
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
SeenDefects = int | str | os.PathLike[str] | Sequence[tuple[PictureSource, PictureSource | list[Any]]]


def seen_defect_pairs(
    seen: SeenDefects,
    method: Method,
    seed: int,
    dataset: Dataset | None,
    say: Callable[[str], None] = lambda _: None,
) -> list[tuple[PictureSource, list[PictureSource]]]:
    """The defective pictures that `seen` means, each with its masks. say: as `choose_seen` takes it."""
    wanted = len(seen) if isinstance(seen, list | tuple) else str(seen).strip() != "0"
    if wanted and not method.takes_seen_defects:
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
    say: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, list[SeenDefect]], list[str]]:
    """Reads seen defects as the network sees them, in the whole picture and in a tile around each. Returns
    them by their pixels' hash, and for each unusable one the reason. `say` gets remarks on odd masks."""
    found: dict[str, list[SeenDefect]] = {}
    unusable = []
    names = relative_names([picture for picture, _ in pairs])
    for (source, masks), name in zip(pairs, names, strict=True):
        try:
            picture = preprocess.decode(source, name)
            marked = union_masks(masks, picture.shape[:2], name)
            if most := marks_most(marked):
                say(f"warning: the mask of {name} {most}")
            views = preprocess.views(picture, name, roi)
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


def told_parts(names: Sequence[str], group: str | None, pattern: PartPattern | None) -> list[int]:
    """Numbers [N] of the parts that names tell: by the pattern of parts and views, else by that of groups."""
    return group_numbers(names, group) if pattern is None else pattern.part_numbers(names)


class Survey(NamedTuple):
    """Sizes and levels of the pictures, known before a fit reads them.

    levels: of all deep pictures; None where all have 8 bits. remarks: what is clipped or stretched.
    largest: bytes of the largest one.
    sizes: (H, W) of each, upright; None where it cannot be read.
    """

    levels: Levels | None
    largest: int
    sizes: list[tuple[int, int] | None]
    remarks: list[str]


def survey(
    sources: Sequence[PictureSource], read: Callable[[PictureSource], NDArray[Any]] | None = None
) -> Survey:
    """Surveys the pictures; of 8-bit files only the headers are read. read: of pictures with more channels,
    which are read all."""
    used: list[UsedRange] = []
    kind, largest = "u", 0
    sizes: list[tuple[int, int] | None] = []
    for source in sources:
        sizes.append(None)
        try:
            if read is not None:
                deep = True
            elif isinstance(source, np.ndarray):
                deep, largest = source.dtype != np.uint8, max(largest, source.nbytes)
                sizes[-1] = (source.shape[0], source.shape[1]) if source.ndim > 1 else None
            elif isinstance(source, bytes) or is_read_whole(source):
                deep = True
            else:
                with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as header:
                    deep = header.mode.startswith(("I", "F")) or is_deep_colour(header)
                    largest = max(largest, 3 * header.width * header.height)
                    sizes[-1] = upright_size(header)
            picture = (read or decode)(source) if deep else None
        except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # reported when it is loaded
        if picture is not None:
            largest = max(largest, picture.nbytes)
            sizes[-1] = (picture.shape[0], picture.shape[1])
            if picture.dtype != np.uint8:
                used.append(used_range(picture))
                kind = picture.dtype.kind
    levels, remarks = common_levels(used, kind) if used else (None, [])
    return Survey(levels, largest, sizes, remarks)


def look_at(sources: Sequence[PictureSource], step: ProgressCallback, how: Preprocess) -> list[Look | None]:
    """Reads what each picture is compared by, of many channels the first group; None: it cannot be read."""
    return [one.look for one in see_pictures(DecodedPictures(sources, how.decode), step, how)]


def see_pictures(
    pictures: DecodedPictures, step: ProgressCallback, how: Preprocess, *, small: bool = False
) -> list[Seen]:
    """Reads each picture, and what is known of it before a fit; of one that cannot be read nothing."""
    numbers = range(len(pictures.sources))
    advance = ProgressCounter(step, "near-copies", len(numbers))

    def see(number: int) -> Seen:
        picture = pictures.read_or_none(number)
        advance()
        if picture is None:
            return Seen()
        return Seen(Look.of(how.first_picture(picture)), small=how.small(picture) if small else None)

    with workers() as each:
        return each(see, numbers)


def learn_normalization(
    pictures: DecodedPictures, preprocess: Preprocess, roi: NDArray[np.bool_] | None, share: float
) -> Normalization:
    """Normalization to the light of good pictures, those that can be read. InputError where none can."""

    def measured() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for number in range(len(pictures.sources)):
            try:
                views = preprocess.whole.views(pictures.read(number))
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


def decoded_or_none(source: Any, read: Callable[[Any], NDArray[Any]] = decode) -> NDArray[Any] | None:
    """Picture as `read` returns it; None where it cannot be read."""
    try:
        return read(source)
    except (InputError, MemoryError):
        return None  # reported when it is loaded for fitting
