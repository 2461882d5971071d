"""Views that a method learns from like pictures of their own: the frames of each picture, and of a large
frame its whole view and windows on it. Those of a picture are held out or left out together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flawscope.calibration.holding_out import MIN_HELD_OUT
from flawscope.calibration.rows import Values, worst
from flawscope.calibration.streams import Stream
from flawscope.fitting.training_pictures import UNREAD, Reader, count_parts
from flawscope.methods.task import Fitted, Task, TaskViews
from flawscope.views.several_parts_learning import LearnedParts
from flawscope.views.tiles import RegionOfInterest, TileGrid
from flawscope.views.views import Views

CACHE_BYTES = 512 << 20  # bytes of pictures that stay decoded
MAX_VIEW_PIXELS = 500_000_000  # pixels of views that are learnt from; of as many pictures as there are
MIN_TILES = 4  # tiles of a frame, however many frames there are
MIN_VIEWS = 40  # views that a method itself calibrates on
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


@dataclass(frozen=True)
class _Frame:
    """Frame: what is learnt from it, and how it is judged.

    windows: places of the tiles on its canvas. grid: of the tiles by which it is judged; None: it has one
    view. judged: how many views these are.
    """

    windows: Sequence[tuple[int, int]] = ()
    grid: TileGrid | None = None
    judged: int = 1


class TrainingViews:
    """Numbers the views of all pictures, those of a picture one after the other.

    The windows on a large frame lie on the grid of tiles, each moved at random within the overlap; where
    there are too many of them, some of every frame, moved farther. Where they lie follows from the seed and
    the frame's number.

    Args:
        parts: number of frames of each picture. wrong: numbers of the pictures whose parts are counted wrong.
        sizes: of the pictures; None: it cannot be read, and has a whole view alone.
    """

    def __init__(
        self, reader: Reader, parts: Sequence[int], sizes: Sizes, seed: int, wrong: Collection[int] = ()
    ):
        self.reader, self.wrong = reader, {*wrong}
        self.first_frame: list[int] = np.cumsum([0, *parts]).tolist()
        frames = [size for size, count in zip(sizes, parts, strict=True) for _ in range(count)]
        self.frames = self._tiled(frames, seed) if reader.preprocess.tile else [_Frame()] * len(frames)
        self.first: list[int] = np.cumsum([0, *(1 + len(one.windows) for one in self.frames)]).tolist()
        self.are_pictures = len(self) == len(parts)  # each view is a picture of its own
        self._kept: dict[int, bool] = {}  # of pictures that were checked: whether they are no copies
        self._lock = Lock()
        self._held: OrderedDict[int, _CachedPicture] = OrderedDict()

    # ---- large frames

    def _tiled(self, sizes: Sizes, seed: int) -> list[_Frame]:
        how = self.reader.preprocess
        height, width = how.size
        room = max(MIN_TILES, MAX_VIEW_PIXELS // (height * width) // max(1, len(sizes)))
        frames = []
        for number, picture in enumerate(sizes):
            size = None if picture is None else how.frame_size(picture)
            grid = None if size is None else how.grid(size)
            tiles = self._counted_tiles(size, grid)
            windows = [] if grid is None else [grid.corner(tile) for tile in tiles]
            if windows and size is not None:
                windows = self._jitter(windows, size, room, Stream.WINDOWS.rng(seed, number))
            frames.append(_Frame(windows, grid, 1 + len(tiles)))
        return frames

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
        self, cells: list[tuple[int, int]], size: tuple[int, int], room: int, rng: np.random.Generator
    ) -> list[tuple[int, int]]:
        how = self.reader.preprocess
        canvas, few = how.canvas(size), len(cells) > room
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

    # ---- numbers

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def pictures(self) -> range:
        return range(len(self.first_frame) - 1)

    def frame_of(self, number: int) -> int:
        return int(np.searchsorted(self.first, number, side="right")) - 1

    def picture_of(self, number: int) -> int:
        return int(np.searchsorted(self.first_frame, self.frame_of(number), side="right")) - 1

    def frames_of(self, picture: int) -> range:
        return range(self.first_frame[picture], self.first_frame[picture + 1])

    def numbers(self, picture: int) -> range:
        return range(*(self.first[self.first_frame[k]] for k in (picture, picture + 1)))

    def judged_count(self, picture: int) -> int:
        """Number of views by which a picture is judged."""
        return sum(self.frames[frame].judged for frame in self.frames_of(picture))

    def held_out_count(self) -> int:
        """Approximate number of views that are judged again if a tenth of the pictures is held out; 0: none
        are."""
        if self.reader.preprocess.tile is None:
            return 0
        count = len(self.pictures)
        return round(
            max(MIN_HELD_OUT, count // 10) * sum(map(self.judged_count, self.pictures)) / max(1, count)
        )

    def carriers(self, picture: int) -> list[int]:
        """Numbers of a picture's views that a simulated defect may lie on: of a large frame its tiles."""
        found = list[int]()
        for frame in self.frames_of(picture):
            numbers = range(self.first[frame], self.first[frame + 1])
            found += numbers[1:] or numbers
        return found

    # ---- pixels

    def load(self, number: int) -> Tensor | None:
        """Loads a view, [3, H, W] float32 in 0..1; None where its picture cannot be read, and for a tile that
        shows nothing of it."""
        frame, picture = self.frame_of(number), self.picture_of(number)
        views = self.of_picture(picture)
        if views is None:
            return None
        shown, window = views.frames[frame - self.first_frame[picture]], number - self.first[frame]
        if window:
            image: NDArray[np.float32] = shown.window(*self.frames[frame].windows[window - 1])
        else:  # a copy, where the picture stays and is asked again
            image = shown.images([0])[0] if self.are_pictures else shown.images([0])[0].copy()
        return None if (image[0] < 0).all() and not self.are_pictures else self.reader.to_tensor(image)

    def of_picture(self, picture: int) -> Views | None:
        """Views of a picture; where it has several, those of the last few pictures stay decoded."""
        if self.are_pictures:
            return self.reader.views(picture)
        with self._lock:
            held = self._held.setdefault(picture, _CachedPicture())
            self._held.move_to_end(picture)
        with held.lock:
            if not held.read:
                held.views, held.read = self.reader.views(picture), True
        with self._lock:
            room = CACHE_BYTES
            for k, one in reversed(list(self._held.items())):
                room -= one.bytes
                if room < 0 and one is not held:
                    del self._held[k]
        return held.views

    # ---- a method's fit

    def task(self, task: Task) -> Task:
        """Converts a task for pictures into one for their views."""
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
        """Returns the numbers without those of pictures that are copies."""
        new = [picture for picture in self.pictures_of(numbers) if picture not in self._kept]
        if new:  # once each: its views may come in several parts
            kept = set(self.reader.without_copies(new))
            self._kept.update((picture, picture in kept) for picture in new)
        return [number for number in numbers if self._kept[self.picture_of(number)]]

    def pictures_of(self, numbers: Iterable[int]) -> list[int]:
        """Numbers of the pictures that views belong to, each once, in their order."""
        return list(dict.fromkeys(self.picture_of(number) for number in numbers))

    def to_pictures(self, fitted: Fitted) -> Fitted:
        """Converts a fit of views into one of pictures; each is scored as its worst view, if all have
        scores."""
        suspects: dict[int, float] = {}
        for number, score in fitted.suspects.items():
            suspects.setdefault(self.picture_of(number), score)
        several: dict[int, list[Values]] = {}
        for number, values in fitted.scored.items():
            several.setdefault(self.picture_of(number), []).append(values)
        # in tiles, of which a few are scored, the pictures are judged again
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
        )


def views_of(reader: Reader, sizes: Sizes, seed: int, learnt: LearnedParts | None = None) -> TrainingViews:
    """Numbers the views that are learnt from.

    Args:
        sizes: of the pictures.
        learnt: of several parts in a picture; None: they are counted.
    """
    how, count = reader.preprocess, len(reader.sources)
    if how.channels is not None:
        return TrainingViews(reader, [len(how.channels.groups)] * count, sizes, seed)
    if how.several is None:
        return TrainingViews(reader, [1] * count, sizes, seed)
    counts, errors = (
        count_parts(reader.decoded, how) if learnt is None else (learnt.counts, learnt.count_errors)
    )
    wrong = [i for i, reason in enumerate(errors) if reason not in ("", UNREAD)]
    # one without parts is reported when it is loaded
    return TrainingViews(reader, [max(1, one) for one in counts], sizes, seed, wrong)
