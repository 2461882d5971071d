"""Frames and tiles that a method learns from like pictures of their own: frames of pictures that have
several, and tiles of large frames. Those of a picture are held out or left out together, and results for them
become results for pictures again."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flawscope.calibration import MIN_HELD_OUT
from flawscope.errors import InputError
from flawscope.fitting.training_pictures import UNREAD, JudgeInLights, Reader, count_parts
from flawscope.methods.task import Fitted, Task, TaskViews, TilePositions
from flawscope.views.light import Light
from flawscope.views.preprocess import Preprocess
from flawscope.views.several_parts_learning import LearnedParts
from flawscope.views.tiles import RegionOfInterest, TileGrid
from flawscope.views.views import Views

CACHE_BYTES = 512 << 20  # bytes of pictures that stay decoded
WINDOW_STREAM, PART_STREAM = 60, 62  # streams of random numbers
MAX_VIEW_PIXELS = 500_000_000  # pixels of views that are learnt from; of as many pictures as there are
MIN_TILES = 4  # tiles of a picture, however many pictures there are
MIN_VIEWS = 40  # views that a method itself calibrates on
MAX_CALIBRATION_TILES = 5000  # in about as many as `MIN_PICTURES` pictures at least
MIN_PICTURES = 60  # pictures, however many tiles they have
Sizes = Sequence[tuple[int, int] | None]  # (H, W) of pictures; None: one cannot be read


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
    """Numbers the views of all pictures, those of a picture one after the other.

    reader: of the pictures; of tiles also of frames. counts: number of each
    picture's views for learning. judged_counts: of those by which it is judged.
    """

    def __init__(self, reader: Reader | TrainingFrames, counts: Sequence[int], judged_counts: Sequence[int]):
        self.reader, self.judged_counts = reader, list(judged_counts)
        self.first: list[int] = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
        self._kept: dict[int, bool] = {}  # of pictures that were checked: whether they are no copies
        self._lock = Lock()
        self._held: OrderedDict[tuple[int, Light | None], _CachedPicture] = OrderedDict()

    def __len__(self) -> int:
        return int(self.first[-1])

    def picture_of(self, number: int) -> int:
        """Number of the picture that a view belongs to."""
        return int(np.searchsorted(self.first, number, side="right")) - 1

    def numbers(self, picture: int) -> range:
        return range(self.first[picture], self.first[picture + 1])

    def load(self, number: int) -> Tensor | None:
        """Loads a view, [3, H, W] float32 in 0..1; None where its picture cannot be read, and for a tile that
        shows nothing of it."""
        picture = self.picture_of(number)
        return self.tensor(number, self.of_picture(picture))

    def tensor(self, number: int, views: Views | None) -> Tensor | None:
        """View as `load` gives it. views: of its picture."""
        if views is None:
            return None
        picture = self.picture_of(number)
        image = self.image(views, picture, number - self.first[picture])
        return None if (image[0] < 0).all() else self.reader.to_tensor(image)

    def image(self, views: Views, picture: int, view: int) -> NDArray[np.float32]:
        """View of a picture, [3, H, W] float32 in 0..1, which may be written to."""
        image: NDArray[np.float32] = views.images([view])[0]
        return image

    def of_picture(self, picture: int, light: Light | None = None) -> Views | None:
        """Views of a picture, as it is or in another light; those of the last few pictures stay decoded."""
        key, read = (picture, light), self.reader
        with self._lock:
            held = self._held.setdefault(key, _CachedPicture())
            self._held.move_to_end(key)
        with held.lock:
            if not held.read:
                views = read.views(picture) if light is None else read.views_in_light(picture, light)
                held.views, held.read = views, True
        with self._lock:
            room = CACHE_BYTES
            for k, one in reversed(list(self._held.items())):
                room -= one.bytes
                if room < 0 and one is not held:
                    del self._held[k]
        return held.views

    def task(self, task: Task) -> Task:
        """Converts a task for pictures into one for their views."""
        task = self.reader.task(task)
        pictures = [i for i in range(task.count) for _ in self.numbers(i)]
        return replace(
            task,
            load=self.load,
            groups=[task.groups[i] for i in pictures],
            reserved=[number for i in task.reserved for number in self.numbers(i)],
            settle=self.without_copies,
            views=TaskViews(
                len(self) / max(1, task.count),
                [task.views.picture_of[i] for i in pictures] if task.views.picture_of else pictures,
            ),
        )

    def without_copies(self, numbers: list[int]) -> list[int]:
        """Returns the numbers without those of pictures that are copies."""
        new = [picture for picture in self.pictures(numbers) if picture not in self._kept]
        if new:  # once each: its views may come in several parts
            kept = set(self.reader.without_copies(new))
            self._kept.update((picture, picture in kept) for picture in new)
        return [number for number in numbers if self._kept[self.picture_of(number)]]

    def pictures(self, numbers: Iterable[int]) -> list[int]:
        """Numbers of the pictures that views belong to, each once, in their order."""
        return list(dict.fromkeys(self.picture_of(number) for number in numbers))

    def to_pictures(self, fitted: Fitted) -> Fitted:
        """Converts a fit's numbers of views into numbers of pictures; its calibration stays that of views."""
        suspects: dict[int, float] = {}
        for number, score in fitted.suspects.items():
            suspects.setdefault(self.picture_of(number), score)
        return replace(
            fitted,
            pictures=self.pictures(fitted.pictures),
            used=self.pictures(fitted.used),
            held={role: self.pictures(numbers) for role, numbers in fitted.held.items()},
            dropped=self.pictures(fitted.dropped),
            suspects=suspects,
        )


# -------------------------------------------------------------------------------------------- large pictures


class TrainingTiles(TrainingViews):
    """Numbers the views of all pictures: for each picture the whole view, then its tiles.

    They lie on the grid of tiles, each moved at random within the overlap; where there are too many of
    them, some of every picture, moved farther. Where they lie follows from the seed and the
    picture's number. Where the model tells places apart they are the tiles themselves, and where there are
    too many, other ones of every picture.

    reader: of the frames. sizes: of the pictures; None: it cannot be read, and has a whole view alone.
    """

    def __init__(self, reader: Reader | TrainingFrames, sizes: Sizes, seed: int):
        self.reader, self.seed = reader, seed
        how = reader.preprocess
        sizes = [sizes[reader.picture_of(frame)] for frame in range(len(reader))]
        sizes = [None if size is None else how.frame_size(size) for size in sizes]
        grids = [None if size is None else how.grid(size) for size in sizes]
        cells = [self._counted_tiles(*pair) for pair in zip(sizes, grids, strict=True)]
        views_of = [1 + len(tiles) for tiles in cells]  # as a picture is judged
        height, width = how.size
        room = max(MIN_TILES, MAX_VIEW_PIXELS // (height * width) // max(1, len(sizes)))
        self.located = how.positions is not None
        if self.located:
            cells = [_rotate_tiles(tiles, index, room) for index, tiles in enumerate(cells)]
        self.grids = grids
        # of every number which view of its picture it is, where these are its tiles
        self.positions = [k for tiles in cells for k in (0, *(t + 1 for t in tiles))] if self.located else []
        self.places = [
            [] if grid is None else self._jitter(index, [grid.corner(k) for k in tiles], sizes[index], room)
            for index, (tiles, grid) in enumerate(zip(cells, grids, strict=True))
        ]
        super().__init__(reader, [1 + len(places) for places in self.places], views_of)

    def _counted_tiles(self, size: tuple[int, int] | None, grid: TileGrid | None) -> list[int]:
        """Numbers of the tiles of a frame (H, W) with pixels that count; empty where the whole view is the
        only one, and for a picture that is too small, which is reported when it is loaded."""
        how, roi = self.reader.preprocess, self.reader.roi
        if size is None or grid is None or len(grid) == 1:
            return []
        if roi is None:
            return list(range(len(grid)))
        return RegionOfInterest(roi, how.whole.geometry(size), grid.canvas).tiles(grid)

    def _jitter(
        self, index: int, cells: list[tuple[int, int]], size: tuple[int, int] | None, room: int
    ) -> list[tuple[int, int]]:
        if not cells or size is None or self.located:
            return cells
        how, rng = self.reader.preprocess, np.random.default_rng([self.seed, WINDOW_STREAM, index])
        canvas = how.canvas(size)
        few = len(cells) > room
        chosen = sorted(rng.permutation(len(cells))[:room].tolist()) if few else range(len(cells))
        # all together show everything; some of them show any place
        reach = [round((1 - how.overlap if few else how.overlap) * side / 2) for side in how.size]
        moved = []
        for k in chosen:
            corner = [cells[k][0], cells[k][1]]
            for axis in (0, 1):
                last = canvas[axis] - how.size[axis]
                if few or 0 < corner[axis] < last:
                    step = int(rng.integers(-reach[axis], reach[axis] + 1))
                    corner[axis] = min(max(corner[axis] + step, 0), last)
            moved.append((corner[0], corner[1]))
        return moved

    def draw(self, frames: Sequence[int], seed: int) -> list[int]:
        """Draws the frames to calibrate on, in order: all, or as many as `MAX_CALIBRATION_TILES` allows. Of
        several parts all or none of a picture's are drawn."""
        whole = list(dict.fromkeys(map(self.reader.picture_of, frames)))
        tiles = sum(self.judged_counts[i] for i in frames) / len(whole)
        most = max(MIN_PICTURES, int(MAX_CALIBRATION_TILES / tiles))
        if len(whole) <= most:
            return list(frames)
        drawn = {*np.random.default_rng(seed).choice(whole, most, replace=False).tolist()}
        return sorted(i for i in frames if self.reader.picture_of(i) in drawn)

    def by_place(self, numbers: Iterable[int]) -> dict[tuple[int, int], int]:
        """Maps (picture, view) to the number of the tile, for the given numbers."""
        return {(self.picture_of(number), self.positions[number]): number for number in numbers}

    def tiles_of(self, picture: int, places: Collection[int] = ()) -> Sequence[int]:
        """Numbers of a picture's tiles, or of its whole view where it has none. places: only tiles at these
        places, if there are any."""
        numbers = self.numbers(picture)[1:] or self.numbers(picture)
        return [number for number in numbers if not places or self.positions[number] in places] or numbers

    def image(self, views: Views, picture: int, view: int) -> NDArray[np.float32]:
        # of the whole view a copy: the picture stays, and is asked again
        return views.window(*self.places[picture][view - 1]) if view else views.images([0])[0].copy()

    def task(self, task: Task) -> Task:
        few = None if task.drop_suspects else MIN_VIEWS  # any view may be the suspicious one
        task, shape = replace(super().task(task), calibration_pictures=few), self.reader.preprocess.positions
        if shape is None:
            return task
        frames = [i for i in range(len(self.judged_counts)) for _ in self.numbers(i)]
        positions = TilePositions(1 + math.prod(shape), self.positions, frames, self._own_area)
        return replace(task, views=replace(task.views, positions=positions))

    def _own_area(self, number: int) -> tuple[slice, slice]:
        position, grid = self.positions[number], self.grids[self.picture_of(number)]
        if not position or grid is None:
            return slice(None), slice(None)
        return grid.unshared_window(position - 1)


def _rotate_tiles(tiles: list[int], picture: int, room: int) -> list[int]:
    """Chooses at most `room` of a picture's tiles; the next picture gives other ones, so that each tile is
    seen about as often."""
    if len(tiles) <= room:
        return tiles
    first = picture * room
    return sorted(tiles[(first + k) % len(tiles)] for k in range(room))


# ---------------------------------------------------------------------- pictures that show several parts


class TrainingFrames(TrainingViews):
    """Numbers the parts of all pictures, and reads the frame of each like a picture of its own. A picture is
    judged by its worst part, and its own rate holds (`calibration.threshold`), since its parts are left out
    together.

    Args:
        counts: of parts in each picture. errors: what is wrong with each count by a model that has not learnt
            from the picture; empty: nothing.
    """

    reader: Reader

    def __init__(self, reader: Reader, counts: Sequence[int], errors: Sequence[str]):
        counts = [max(1, count) for count in counts]  # one without parts is reported when it is loaded
        super().__init__(reader, counts, counts)
        self.to_tensor = reader.to_tensor
        self.wrong = {i for i, reason in enumerate(errors) if reason not in ("", UNREAD)}

    @property
    def preprocess(self) -> Preprocess:
        return self.reader.preprocess

    @property
    def roi(self) -> NDArray[np.bool_] | None:
        return self.reader.roi

    def views(self, number: int, light: Light | None = None) -> Views | None:
        """Views of a part, as `Reader.views` has them of a picture."""
        picture = self.picture_of(number)
        views = self.of_picture(picture, light)
        return None if views is None else views.parts[number - self.first[picture]]

    def views_in_light(self, number: int, light: Light) -> Views | None:
        """Views of a part in another light, as `Reader.views_in_light` has them."""
        return self.views(number, light)

    def load_in_light(self, number: int, light: Light) -> Tensor | None:
        """Part in another light, as `load` gives it."""
        return self.tensor(number, self.of_picture(self.picture_of(number), light))

    def image(self, views: Views, picture: int, view: int) -> NDArray[np.float32]:
        image: NDArray[np.float32] = views.parts[view].images([0])[0].copy()
        return image

    def calibrated(self, fit: Fitted, checked: Fitted, seed: int, task: Task) -> tuple[Fitted, Fitted]:
        """Turns a fit of parts into one of whole pictures, calibrated by their worst parts; and `checked`,
        the fit with a view of each part to put simulated defects on, into one with a view of each picture.
        task: of the pictures."""
        fitted, before, groups = self.to_pictures(fit), fit.calibration, task.groups
        first = len(before.scores) - len(fit.pictures)  # an extended model has the earlier ones before
        rows: dict[int, list[tuple[float, float]]] = {}
        new = zip(fit.pictures, before.scores[first:], before.map_maxima[first:], strict=True)
        for number, *values in new:
            rows.setdefault(self.picture_of(number), []).append((values[0], values[1]))
        whole = [i for i, of in rows.items() if i not in self.wrong and len(of) == self.judged_counts[i]]
        if not whole:
            raise InputError("no good picture has all its parts calibrated on: give fewer pictures")
        scores, maxima = (tuple(max(values[k] for values in rows[i]) for i in whole) for k in (0, 1))
        # of as many pictures as calibrate, where some were held out
        share = len(whole) / max(1, len(self.judged_counts) - len(self.wrong))
        wrong = math.ceil(len(self.wrong) * share - 1e-9)
        units = tuple(groups[i] for i in (*whole, *sorted(self.wrong)[:wrong]))
        units = units if before.promised else ()
        calibration = replace(before, scores=scores, map_maxima=maxima, miscounted=wrong, units=units)
        if task.old is not None:
            calibration = calibration.after(task.old.manifest.calibration)
        fitted.calibration, fitted.pictures = calibration, whole
        rng, view_of = (
            np.random.default_rng([seed, PART_STREAM]),
            dict(zip(fit.pictures, checked.pictures, strict=True)),
        )
        some = [view_of[int(rng.choice(self.numbers(i)))] for i in whole]
        return fitted, replace(checked, calibration=calibration, pictures=some)

    def judge_in_lights(self, judge: JudgeInLights) -> JudgeInLights:
        """Judges pictures in lights by their worst parts, which `judge` judges."""

        def worst(pictures: Sequence[int], lights: Sequence[Light]) -> NDArray[np.float64]:
            numbers = [self.numbers(i) for i in pictures]
            values = judge([number for each in numbers for number in each], lights)
            starts = np.cumsum([0, *map(len, numbers[:-1])])
            return np.asarray(np.maximum.reduceat(values, starts), dtype=np.float64)

        return worst


Frames = Reader | TrainingFrames
ViewSet = Frames | TrainingTiles


def held_out_views(counts: Sequence[int]) -> int:
    """Approximate number of views that are judged if a tenth of the pictures is held out. counts: of each."""
    return round(max(MIN_HELD_OUT, len(counts) // 10) * sum(counts) / max(1, len(counts)))


def views_of(frames: Frames, sizes: Sizes, seed: int) -> ViewSet:
    """Numbers the views that are learnt from: windows of large frames, or the frames. sizes: of the
    pictures."""
    return frames if frames.preprocess.tile is None else TrainingTiles(frames, sizes, seed)


def frames_of(reader: Reader, learnt: LearnedParts | None = None) -> Frames:
    """Numbers the parts, or the views of channels, of pictures that have several; else these have one frame.
    learnt: of several parts in a picture; None: they are counted."""
    how, count = reader.preprocess, len(reader.sources)
    if how.channels is not None:
        return TrainingFrames(reader, [len(how.channels.groups)] * count, [""] * count)
    if how.several is None:
        return reader
    if learnt is None:
        return TrainingFrames(reader, *count_parts(reader.sources, how))
    return TrainingFrames(reader, learnt.counts, learnt.count_errors)


def grid_shape(
    how: Preprocess, needed: bool | None, sizes: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    """Rows and columns of tiles, if they are the same in frames of these sizes; else None, or where they are
    `needed` an InputError."""
    if how.tile is None:
        if needed:
            raise InputError("--positions each is for tiles: give --tile or --min-defect, or leave it out")
        return None
    grids = [how.grid(size) for size in sizes]
    shapes = {grid.shape for grid in grids if grid is not None}
    if len(shapes) == 1 and math.prod(one := shapes.pop()) > 1:
        return one
    if not needed:
        return None
    found = " and ".join(sorted(f"{width}x{height}" for height, width in {*sizes}))
    raise InputError(
        f"--positions each needs pictures with the same tiles, at least two, and these have {found:.100} "
        "pixels: leave it out, or choose another --tile"
    )
