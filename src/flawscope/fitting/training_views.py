"""Reads the pictures that a method learns from, and numbers their views.

Views are the frames of each picture, and of a large frame its whole view and windows on it. The views of a
picture are held out or left out together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.calibration.holding_out import MIN_HELD_OUT
from flawscope.calibration.rows import Values, worst
from flawscope.errors import InputError
from flawscope.fitting.first_look import UNREAD, count_parts
from flawscope.fitting.windows import Frame, Sizes, place_windows
from flawscope.methods.detector import Detector
from flawscope.methods.task import Fitted, Task, TaskViews
from flawscope.pictures.appearance import FeatureValues, measure_appearance
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import PictureSource, error_reason, pixel_hash
from flawscope.pictures.listing import picture_names
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.table import CALIBRATION, FIT, Picture
from flawscope.views.light import Light
from flawscope.views.preprocess import Preprocess
from flawscope.views.several_parts_learning import LearnedParts
from flawscope.views.view_looks import thumbnail
from flawscope.views.views import Views, hide_outside_roi

CACHE_BYTES = 512 << 20  # bytes of pictures that stay decoded
MIN_VIEWS = 40  # views that a method itself calibrates on


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
    region: NDArray[np.bool_] | None = None  # the region where views mark pixels outside it, for tiles
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
        if not self.names:
            self.names = picture_names(self.sources)

    def load(self, index: int) -> torch.Tensor | None:
        """Return picture `index` as a whole, [3, H, W] float32 in 0..1, or None where it cannot be read."""
        views = self.views(index)
        return None if views is None else self.to_tensor(views.images([0])[0])

    def to_tensor(self, image: NDArray[np.float32]) -> torch.Tensor:
        """Return an image as a tensor, without pixels outside the region of interest if they are hidden."""
        return torch.from_numpy(hide_outside_roi(image, self.nearest) if self.hidden else image)

    def load_in_light(self, index: int, light: Light) -> torch.Tensor | None:
        """Return picture `index` in another light, in the form of `load`."""
        views = next(self.views_in_lights(index, [light]))
        return None if views is None else self.to_tensor(views.images([0])[0])

    def views_in_lights(self, index: int, lights: Sequence[Light]) -> Iterator[Views | None]:
        """Yield the network's views of picture `index` in other lights, in the form of `views`.

        None, with the reason in `failures`, also where its parts are not found in a light, or counted wrong.
        """
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
        """Return the network's views of picture `index`, or None where it cannot be read."""
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
        measured = self.measured.get(index) or measure_appearance(first, self.roi)
        look = thumbnail(first)
        with self._lock:
            self.measured[index], self.looks[index] = measured, look
            self.sizes[index] = views.geometry.picture_size
        return views

    def rows(self, units: Sequence[int]) -> dict[int, Picture]:
        """Return rows of the loaded pictures, by number, without judgement; `units` has those of all."""
        found = dict[int, Picture]()
        for index, digest in sorted(self.hashes.items()):
            row = Picture(digest, CALIBRATION, self.names[index], units[index], origin=self.origin)
            look = self.near_looks.get(index)
            size = self.sizes.get(index)
            found[index] = row.seen(look, self.measured.get(index, ()), size)
        return found

    def check_any_readable(self) -> None:
        """Raise InputError where no picture can be read."""
        if 0 < len(self.sources) <= len(self.failures):
            first = self.failures[min(self.failures)]
            many = f"none of the {len(self.sources)} pictures can be used; the first: "
            raise InputError(f"{many if len(self.sources) > 1 else ''}{first}") from None

    def without_copies(self, indices: list[int]) -> list[int]:
        """Return the indices without pictures whose pixels the model, an earlier picture or a defect has."""
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


def nearest_of(model: Detector) -> NDArray[np.int64] | None:
    """Return the detector's `nearest` in the form of `Reader.nearest`."""
    return None if model.nearest is None else model.nearest.cpu().numpy()


@dataclass
class _CachedPicture:
    """Picture that is being decoded, or has been."""

    lock: Lock = field(default_factory=Lock)
    views: Views | None = None
    read: bool = False

    @property
    def bytes(self) -> int:
        return 0 if self.views is None else self.views.nbytes


class TrainingViews:
    """Numbers the views of all pictures, those of a picture one after the other (`windows`).

    Args:
        reader: Reader of the pictures.
        parts: Number of frames of each picture.
        sizes: Sizes of the pictures; None: a picture cannot be read, and has a whole view alone.
        seed: Seed of the windows' places.
        wrong: Numbers of the pictures whose parts are counted wrong.
    """

    def __init__(
        self, reader: Reader, parts: Sequence[int], sizes: Sizes, seed: int, wrong: Collection[int] = ()
    ):
        self.reader = reader
        self.wrong = {*wrong}
        self.first_frame: list[int] = np.cumsum([0, *parts]).tolist()
        frames = [size for size, count in zip(sizes, parts, strict=True) for _ in range(count)]
        if reader.preprocess.tile is None:
            self.frames = [Frame()] * len(frames)
        else:
            self.frames = place_windows(reader.preprocess, frames, reader.roi, seed)
        self.first: list[int] = np.cumsum([0, *(1 + len(frame.windows) for frame in self.frames)]).tolist()
        self.are_pictures = len(self) == len(parts)  # each view is a picture of its own
        self._kept: dict[int, bool] = {}  # of pictures that were checked: whether they are no copies
        self._lock = Lock()
        self._held: OrderedDict[int, _CachedPicture] = OrderedDict()

    # ---- numbers

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def pictures(self) -> range:
        """Numbers of all pictures."""
        return range(len(self.first_frame) - 1)

    def frame_of(self, number: int) -> int:
        """Return the number of the frame that a view belongs to."""
        return int(np.searchsorted(self.first, number, side="right")) - 1

    def picture_of(self, number: int) -> int:
        """Return the number of the picture that a view belongs to."""
        return int(np.searchsorted(self.first_frame, self.frame_of(number), side="right")) - 1

    def frames_of(self, picture: int) -> range:
        """Return the numbers of a picture's frames."""
        return range(self.first_frame[picture], self.first_frame[picture + 1])

    def numbers(self, picture: int) -> range:
        """Return the numbers of a picture's views."""
        return range(*(self.first[self.first_frame[k]] for k in (picture, picture + 1)))

    def judged_count(self, picture: int) -> int:
        """Return the number of views by which a picture is judged."""
        return sum(self.frames[frame].judged for frame in self.frames_of(picture))

    def held_out_count(self) -> int:
        """Return about how many views are judged again if a tenth of the pictures is held out; 0: none."""
        if self.reader.preprocess.tile is None:
            return 0
        count = len(self.pictures)
        return round(
            max(MIN_HELD_OUT, count // 10) * sum(map(self.judged_count, self.pictures)) / max(1, count)
        )

    def carriers(self, picture: int) -> list[int]:
        """Return a picture's views that a simulated defect may lie on: of a large frame its tiles."""
        found = list[int]()
        for frame in self.frames_of(picture):
            numbers = range(self.first[frame], self.first[frame + 1])
            found += numbers[1:] or numbers
        return found

    # ---- pixels

    def load(self, number: int) -> Tensor | None:
        """Load a view, [3, H, W] float32 in 0..1.

        None where its picture cannot be read, and for a tile that shows nothing of it.
        """
        frame = self.frame_of(number)
        picture = self.picture_of(number)
        views = self.of_picture(picture)
        if views is None:
            return None
        shown = views.frames[frame - self.first_frame[picture]]
        window = number - self.first[frame]
        if window:
            image: NDArray[np.float32] = shown.window(*self.frames[frame].windows[window - 1])
        else:  # a copy, where the picture stays and is asked again
            image = shown.images([0])[0] if self.are_pictures else shown.images([0])[0].copy()
        return None if (image[0] < 0).all() and not self.are_pictures else self.reader.to_tensor(image)

    def of_picture(self, picture: int) -> Views | None:
        """Return the views of a picture; of pictures with several, the last few pictures stay decoded."""
        if self.are_pictures:
            return self.reader.views(picture)
        with self._lock:
            held = self._held.setdefault(picture, _CachedPicture())
            self._held.move_to_end(picture)
        with held.lock:
            if not held.read:
                held.views = self.reader.views(picture)
                held.read = True
        with self._lock:
            room = CACHE_BYTES
            for k, item in reversed(list(self._held.items())):
                room -= item.bytes
                if room < 0 and item is not held:
                    del self._held[k]
        return held.views

    def samples(self, used: Sequence[int], count: int) -> dict[str, NDArray[np.float32]]:
        """Load `count` of the pictures learnt from, [3, H, W] in 0..1, by name.

        Args:
            used: Numbers of all pictures learnt from.
            count: Number of pictures to load.
        """
        chosen = used[:: max(1, len(used) // count)][:count] if count else []
        images = dict[str, NDArray[np.float32]]()
        for picture in chosen:
            image = self.load(self.numbers(picture)[0])
            if image is not None:
                images[self.reader.names[picture]] = image.numpy()
        return images

    # ---- a method's fit

    def task(self, task: Task) -> Task:
        """Convert a task for pictures into one for their views."""
        if self.are_pictures:
            return replace(task, load=self.load)
        pictures = [i for i in self.pictures for _ in self.numbers(i)]
        tiled = self.reader.preprocess.tile is not None
        return replace(
            task,
            load=self.load,
            groups=[task.groups[i] for i in pictures],
            reserved=[number for i in task.reserved for number in self.numbers(i)],
            settle=self._without_copies,
            views=TaskViews(len(self) / max(1, task.count), pictures),
            # whole pictures are judged again; but any view may be the suspicious one
            calibration_pictures=MIN_VIEWS if tiled and not task.drop_suspects else task.calibration_pictures,
        )

    def _without_copies(self, numbers: list[int]) -> list[int]:
        """Return the numbers without those of pictures that are copies."""
        new = [picture for picture in self.pictures_of(numbers) if picture not in self._kept]
        if new:  # once each: its views may come in several parts
            kept = set(self.reader.without_copies(new))
            self._kept.update((picture, picture in kept) for picture in new)
        return [number for number in numbers if self._kept[self.picture_of(number)]]

    def pictures_of(self, numbers: Iterable[int]) -> list[int]:
        """Return the numbers of the pictures that views belong to, each once, in their order."""
        return list(dict.fromkeys(self.picture_of(number) for number in numbers))

    def to_pictures(self, fitted: Fitted) -> Fitted:
        """Convert a fit of views into one of pictures.

        A picture has the score of its worst view, if all of its views have scores.
        """
        suspects: dict[int, float] = {}
        for number, score in fitted.suspects.items():
            suspects.setdefault(self.picture_of(number), score)
        cells: dict[int, NDArray[np.float32]] = {}
        for number in sorted(fitted.cells):  # of the first view of each that has such
            cells.setdefault(self.picture_of(number), fitted.cells[number])
        several: dict[int, list[Values]] = {}
        for number, values in fitted.scored.items():
            several.setdefault(self.picture_of(number), []).append(values)
        # a few tiles are scored; pictures in tiles are judged again as wholes
        whole = self.reader.preprocess.tile is not None
        return replace(
            fitted,
            scored={
                i: worst(of)
                for i, of in several.items()
                if i not in self.wrong and (whole or len(of) == len(self.numbers(i)))
            },
            used=self.pictures_of(fitted.used),
            held={role: self.pictures_of(numbers) for role, numbers in fitted.held.items()},
            dropped=self.pictures_of(fitted.dropped),
            suspects=suspects,
            cells=cells,
        )


def views_of(reader: Reader, sizes: Sizes, seed: int, learnt: LearnedParts | None = None) -> TrainingViews:
    """Number the views that are learnt from.

    Args:
        reader: Reader of the pictures.
        sizes: Sizes of the pictures; None where one cannot be read.
        seed: Seed of the windows' places.
        learnt: Settings and counts of several parts in a picture; None: they are counted where needed.
    """
    how = reader.preprocess
    count = len(reader.sources)
    if how.channels is not None:
        return TrainingViews(reader, [len(how.channels.groups)] * count, sizes, seed)
    if how.several is None:
        return TrainingViews(reader, [1] * count, sizes, seed)
    counts, errors = (
        count_parts(reader.decoded, how) if learnt is None else (learnt.counts, learnt.count_errors)
    )
    wrong = [i for i, reason in enumerate(errors) if reason not in ("", UNREAD)]
    # one without parts is reported when it is loaded
    return TrainingViews(reader, [max(1, view_count) for view_count in counts], sizes, seed, wrong)
