"""Reads the pictures that a method learns from, and numbers their views.

A picture has one or more frames. A small frame is one view; a large one has a view of the whole frame, and
windows on it. The views of a picture are held out or left out together.
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

CACHE_BYTES = 512 << 20  # bytes of decoded pictures that stay in memory
MIN_VIEWS = 40  # views that a method itself calibrates on


@dataclass
class Reader:
    """Loads training pictures, and remembers their hashes, copies and failures; several threads may use it.

    Attributes:
        sources: The pictures.
        preprocess: Preprocessing of the pictures.
        known: Hashes of pictures that are already in the model; `without_copies` adds the new ones.
        defects: Names of the seen defects, by hash.
        near_looks: Looks by which near-duplicates are compared, by the picture's number.
        origin: Origin of the rows.
        roi: Region of interest [H, W] at the network's size; None: all counts.
        region: The same region, where views mark the pixels outside it, as tiles need; else None.
        hidden: Whether pixels outside of `roi` are hidden.
        nearest: Pixels that replace the hidden ones, as `Detector.nearest`.
        pictures: The sources, where some of them are decoded already.
        names: Names of the pictures; by default those of the sources.
        decoded: The sources, decoded when they are read.
        hashes: Hashes of the pictures that were read, by number.
        measured: Appearance of each picture as a whole, by number.
        sizes: (H, W) of the pictures, by number.
        looks: Thumbnails as `view_looks` compares them, by the picture's number.
        failures: Why a picture cannot be used, by its number.
        lost: Numbers of the pictures whose part is not found.
        copies: Numbers of the pictures whose pixels another picture has.
    """

    sources: list[PictureSource]
    preprocess: Preprocess
    known: set[str]
    defects: dict[str, str] = field(default_factory=dict)
    near_looks: Mapping[int, Look] = field(default_factory=dict)
    origin: str = FIT
    roi: NDArray[np.bool_] | None = None
    region: NDArray[np.bool_] | None = None
    hidden: bool = False
    nearest: NDArray[np.int64] | None = None
    pictures: InitVar[DecodedPictures | None] = None
    names: list[str] = field(default_factory=list)
    decoded: DecodedPictures = field(init=False)
    hashes: dict[int, str] = field(default_factory=dict)
    measured: dict[int, FeatureValues] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    looks: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    copies: list[int] = field(default_factory=list)

    def __post_init__(self, pictures: DecodedPictures | None) -> None:
        self._lock = Lock()
        self.decoded = pictures or DecodedPictures(self.sources, self.preprocess.channels)
        if not self.names:
            self.names = picture_names(self.sources)

    def load(self, index: int) -> torch.Tensor | None:
        """Return picture `index` as a whole, [3, H, W] float32 in 0..1; None: the picture cannot be used."""
        views = self.views(index)
        return None if views is None else self.to_tensor(views.images([0])[0])

    def to_tensor(self, image: NDArray[np.float32]) -> torch.Tensor:
        """Return an image as a tensor; if `hidden`, pixels outside the region of interest are hidden."""
        return torch.from_numpy(hide_outside_roi(image, self.nearest) if self.hidden else image)

    def load_in_light(self, index: int, light: Light) -> torch.Tensor | None:
        """Return picture `index` in another light, in the form of `load`; None: it cannot be used there."""
        views = next(self.views_in_lights(index, [light]))
        return None if views is None else self.to_tensor(views.images([0])[0])

    def views_in_lights(self, index: int, lights: Sequence[Light]) -> Iterator[Views | None]:
        """Yield the network's views of picture `index` in each light, as `views` returns them.

        None is yielded if the picture cannot be read, or if its parts are not found, or counted wrong, in
        this light. The reason is stored in `failures`, except for a picture that cannot be read.
        """
        picture = self.decoded.read_or_none(index)
        for light in lights:
            if picture is None:
                yield None
                continue
            views = self.preprocess.cut(light(picture), self.names[index], self.roi)
            reason = views.unusable  # empty: the views can be used
            if reason:
                with self._lock:
                    self.failures[index] = f"with {light.name} {reason}, in {self.names[index]}"
            yield None if reason else views.with_roi(self.region)

    def views(self, index: int) -> Views | None:
        """Return the network's views of picture `index`, and store its hash, appearance, look and size.

        If the picture cannot be read, or its part is not found, the reason is stored in `failures`, and the
        result is None.
        """
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
        first_image = views.with_roi(self.region).images([0])[0]
        appearance = self.measured.get(index) or measure_appearance(first_image, self.roi)
        look = thumbnail(first_image)
        with self._lock:
            self.measured[index] = appearance
            self.looks[index] = look
            self.sizes[index] = views.geometry.picture_size
        return views

    def rows(self, units: Sequence[int]) -> dict[int, Picture]:
        """Return rows of the loaded pictures, by number, without scores.

        Args:
            units: Unit of each picture.
        """
        rows = dict[int, Picture]()
        for index, digest in sorted(self.hashes.items()):
            row = Picture(digest, CALIBRATION, self.names[index], units[index], origin=self.origin)
            look = self.near_looks.get(index)
            size = self.sizes.get(index)
            rows[index] = row.seen(look, self.measured.get(index, ()), size)
        return rows

    def check_any_readable(self) -> None:
        """Raise InputError where no picture can be read."""
        count = len(self.sources)
        have_all_failed = 0 < count <= len(self.failures)
        if not have_all_failed:
            return
        first_reason = self.failures[min(self.failures)]
        if count == 1:
            raise InputError(first_reason) from None
        raise InputError(f"none of the {count} pictures can be used; the first: {first_reason}") from None

    def without_copies(self, indices: list[int]) -> list[int]:
        """Leave out copies: of a picture of the model, of an earlier picture, or of a seen defect.

        Copies of seen defects are added to `failures`, the other copies to `copies`. Hashes of the remaining
        pictures are added to `known`.
        """
        new_indices = []
        for index in indices:
            digest = self.hashes[index]
            if digest in self.defects:
                defect = self.defects[digest]
                self.failures[index] = f"{self.names[index]} is not good: it is the seen defect {defect}"
            elif digest in self.known:
                self.copies.append(index)
            else:
                self.known.add(digest)
                new_indices.append(index)
        return new_indices


def nearest_of(model: Detector) -> NDArray[np.int64] | None:
    """Return the detector's `nearest` in the form of `Reader.nearest`."""
    return None if model.nearest is None else model.nearest.cpu().numpy()


@dataclass
class _CachedPicture:
    """Picture that is being decoded, or has been; `views` are None where it cannot be read."""

    lock: Lock = field(default_factory=Lock)
    views: Views | None = None
    is_read: bool = False

    @property
    def bytes(self) -> int:
        return 0 if self.views is None else self.views.nbytes


class TrainingViews:
    """Numbers the views of all pictures, those of a picture one after the other.

    Args:
        reader: Reader of the pictures.
        frame_counts: Number of frames of each picture.
        sizes: (H, W) of the pictures; None: a picture cannot be read, and its frames have no windows.
        seed: Seed of the windows' places.
        wrong: Numbers of the pictures whose parts are counted wrong.

    Attributes:
        first_frame: Number of each picture's first frame; at the end the number of all frames.
        frames: The frames, with their windows.
        first: Number of each frame's first view; at the end the number of all views.
        are_pictures: Whether each view is a picture of its own.
    """

    def __init__(
        self,
        reader: Reader,
        frame_counts: Sequence[int],
        sizes: Sizes,
        seed: int,
        wrong: Collection[int] = (),
    ):
        self.reader = reader
        self.wrong = {*wrong}
        self.first_frame: list[int] = np.cumsum([0, *frame_counts]).tolist()
        frame_sizes = [size for size, count in zip(sizes, frame_counts, strict=True) for _ in range(count)]
        if reader.preprocess.tile is None:
            self.frames = [Frame()] * len(frame_sizes)
        else:
            self.frames = place_windows(reader.preprocess, frame_sizes, reader.roi, seed)
        view_counts = [1 + len(frame.windows) for frame in self.frames]
        self.first: list[int] = np.cumsum([0, *view_counts]).tolist()
        picture_count = len(frame_counts)
        self.are_pictures = len(self) == picture_count
        self._is_new: dict[int, bool] = {}  # number of a compared picture -> whether it is no copy
        self._lock = Lock()
        # by number of the picture; the picture used last stands at the end
        self._cache: OrderedDict[int, _CachedPicture] = OrderedDict()

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
        frames = self.frames_of(picture)
        return range(self.first[frames.start], self.first[frames.stop])

    def judged_count(self, picture: int) -> int:
        """Return the number of views by which a picture is judged."""
        return sum(self.frames[frame].judged for frame in self.frames_of(picture))

    def held_out_count(self) -> int:
        """Estimate the number of views that are judged again if a tenth of the pictures is held out.

        Without tiles it is 0.
        """
        if self.reader.preprocess.tile is None:
            return 0
        count = len(self.pictures)
        held_out_pictures = max(MIN_HELD_OUT, count // 10)
        judged_views = sum(map(self.judged_count, self.pictures))
        return round(held_out_pictures * judged_views / max(1, count))

    def carriers(self, picture: int) -> list[int]:
        """Return the numbers of a picture's views that may carry a simulated defect.

        For a frame with windows these are its windows, without the view of the whole frame.
        """
        carriers = list[int]()
        for frame in self.frames_of(picture):
            numbers = range(self.first[frame], self.first[frame + 1])
            windows = numbers[1:]  # the first view is the whole frame
            carriers += windows if windows else numbers
        return carriers

    # ---- pixels

    def load(self, number: int) -> Tensor | None:
        """Load a view, [3, H, W] float32 in 0..1; None: the picture cannot be read, or all is padding."""
        frame = self.frame_of(number)
        picture = self.picture_of(number)
        views = self.load_views(picture)
        if views is None:
            return None
        frame_views = views.frames[frame - self.first_frame[picture]]
        number_in_frame = number - self.first[frame]  # 0: the view of the whole frame
        is_window = number_in_frame > 0
        if is_window:
            y, x = self.frames[frame].windows[number_in_frame - 1]
            image: NDArray[np.float32] = frame_views.window(y, x)
        else:
            image = frame_views.images([0])[0]
        if self.are_pictures:
            return self.reader.to_tensor(image)
        if (image[0] < 0).all():  # padding is negative
            return None
        # the view of the whole frame stays in the cache, and must not change with this tensor
        return self.reader.to_tensor(image if is_window else image.copy())

    def load_views(self, picture: int) -> Views | None:
        """Return the views of a picture; None: it cannot be read.

        If pictures have several views, the pictures used last are kept in memory, up to `CACHE_BYTES`.
        """
        if self.are_pictures:
            return self.reader.views(picture)
        with self._lock:
            cached = self._cache.setdefault(picture, _CachedPicture())
            self._cache.move_to_end(picture)
        with cached.lock:
            if not cached.is_read:
                cached.views = self.reader.views(picture)
                cached.is_read = True
        # The pictures used last stay, as many as `CACHE_BYTES` holds; the one asked for always stays
        with self._lock:
            free_bytes = CACHE_BYTES
            for number, item in reversed(list(self._cache.items())):
                free_bytes -= item.bytes
                if free_bytes < 0 and item is not cached:
                    del self._cache[number]
        return cached.views

    def samples(self, used: Sequence[int], count: int) -> dict[str, NDArray[np.float32]]:
        """Load up to `count` of the pictures learnt from, evenly spaced; return images [3, H, W] by name.

        Args:
            used: Numbers of all pictures learnt from.
            count: Number of pictures to load.
        """
        if not count:
            return {}
        stride = max(1, len(used) // count)
        images = dict[str, NDArray[np.float32]]()
        for picture in used[::stride][:count]:
            first_view = self.numbers(picture)[0]
            image = self.load(first_view)
            if image is not None:
                images[self.reader.names[picture]] = image.numpy()
        return images

    # ---- a method's fit

    def task(self, task: Task) -> Task:
        """Convert a task for pictures into one for their views."""
        if self.are_pictures:
            return replace(task, load=self.load)
        picture_of_view = [picture for picture in self.pictures for _ in self.numbers(picture)]
        calibration_pictures = task.calibration_pictures
        # Pictures in tiles are judged as wholes after the fit, so the method needs to calibrate on few views
        # only. To drop suspects, it must score all views, because any view may be the suspicious one.
        if self.reader.preprocess.tile is not None and not task.drop_suspects:
            calibration_pictures = MIN_VIEWS
        return replace(
            task,
            load=self.load,
            groups=[task.groups[picture] for picture in picture_of_view],
            reserved=[number for picture in task.reserved for number in self.numbers(picture)],
            settle=self._without_copies,
            views=TaskViews(per_picture=len(self) / max(1, task.count), picture_of=picture_of_view),
            calibration_pictures=calibration_pictures,
        )

    def _without_copies(self, numbers: list[int]) -> list[int]:
        """Return the numbers of views without the views of pictures that are copies."""
        # a picture is compared once, although its views may come in several calls
        unchecked = [picture for picture in self.pictures_of(numbers) if picture not in self._is_new]
        if unchecked:
            new = set(self.reader.without_copies(unchecked))
            self._is_new.update((picture, picture in new) for picture in unchecked)
        return [number for number in numbers if self._is_new[self.picture_of(number)]]

    def pictures_of(self, numbers: Iterable[int]) -> list[int]:
        """Return the numbers of the pictures that views belong to, each once, in the order of the views."""
        return list(dict.fromkeys(self.picture_of(number) for number in numbers))

    def to_pictures(self, fitted: Fitted) -> Fitted:
        """Convert a fit of views into one of pictures.

        A picture gets the score of its worst view. A picture gets no score if any of its views has none, or,
        with tiles, if all of its views have none.
        """
        score_by_suspect: dict[int, float] = {}
        for number, score in fitted.suspects.items():
            score_by_suspect.setdefault(self.picture_of(number), score)
        cells: dict[int, NDArray[np.float32]] = {}
        for number in sorted(fitted.cells):  # a picture gets the cells of its first view
            cells.setdefault(self.picture_of(number), fitted.cells[number])
        values_by_picture: dict[int, list[Values]] = {}
        for number, values in fitted.scored.items():
            values_by_picture.setdefault(self.picture_of(number), []).append(values)
        # only some tiles are scored here: pictures in tiles are judged again as wholes
        is_tiled = self.reader.preprocess.tile is not None
        scored = {}  # number of a picture -> values of the picture's worst view
        for picture, view_values in values_by_picture.items():
            is_complete = is_tiled or len(view_values) == len(self.numbers(picture))
            if is_complete and picture not in self.wrong:
                scored[picture] = worst(view_values)
        return replace(
            fitted,
            scored=scored,
            used=self.pictures_of(fitted.used),
            held={role: self.pictures_of(numbers) for role, numbers in fitted.held.items()},
            dropped=self.pictures_of(fitted.dropped),
            suspects=score_by_suspect,
            cells=cells,
        )


def number_views(
    reader: Reader, sizes: Sizes, seed: int, learnt: LearnedParts | None = None
) -> TrainingViews:
    """Number the views that are learnt from.

    Args:
        reader: Reader of the pictures.
        sizes: (H, W) of the pictures; None where one cannot be read.
        seed: Seed of the windows' places.
        learnt: Counts of several parts in each picture. None: if the preprocessing finds several parts, they
            are counted here.
    """
    preprocess = reader.preprocess
    count = len(reader.sources)
    if preprocess.channels is not None:
        return TrainingViews(reader, [len(preprocess.channels.groups)] * count, sizes, seed)
    if preprocess.several is None:
        return TrainingViews(reader, [1] * count, sizes, seed)
    if learnt is None:
        counts, errors = count_parts(reader.decoded, preprocess)
    else:
        counts, errors = learnt.counts, learnt.count_errors
    wrong = [number for number, error in enumerate(errors) if error not in ("", UNREAD)]
    # a picture without parts has one view: loading this view reports that no part is found
    return TrainingViews(reader, [max(1, part_count) for part_count in counts], sizes, seed, wrong)
