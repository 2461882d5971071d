"""Cuts large pictures into tiles that a method learns from like pictures of their own."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flawscope.fitting.picture_views import PictureViews
from flawscope.fitting.training_pictures import Reader
from flawscope.methods.task import Places, Task
from flawscope.pictures.views import Grid, Region, Views

STREAM = 60  # of random numbers
MOST = 500_000_000  # pixels of views that are learnt from; of as many pictures as there are
FEWEST = 4  # tiles of a picture, however many pictures there are
ENOUGH = 40  # views that a method itself calibrates on


class Windows(PictureViews):
    """Numbers the views of all pictures: for each picture the whole view, then its windows.

    Windows lie on the grid of its tiles, each moved at random within the overlap; where there are
    too many of them, some of every picture, moved farther. Where they lie follows from the seed and the
    picture's number. Where the model tells places apart they are the tiles themselves, and where there are
    too many, other ones of every picture.
    """

    def __init__(self, reader: Reader, sizes: Sequence[tuple[int, int] | None], seed: int):
        """
        Args:
            sizes: of the pictures; None: it cannot be read, and has a whole view alone.
        """
        self.reader, self.seed = reader, seed
        grids = [None if size is None else reader.preprocess.grid(size) for size in sizes]
        cells = [self._cells(*pair) for pair in zip(sizes, grids, strict=True)]
        views_of = [1 + len(tiles) for tiles in cells]  # as a picture is judged
        height, width = reader.preprocess.size
        room = max(FEWEST, MOST // (height * width) // max(1, len(sizes)))
        self.located = reader.preprocess.positions is not None
        if self.located:
            cells = [_in_turn(tiles, index, room) for index, tiles in enumerate(cells)]
        self.grids = grids
        # of every number which view of its picture it is, where these are its tiles
        self.positions = [k for tiles in cells for k in (0, *(t + 1 for t in tiles))] if self.located else []
        self.places = [
            [] if grid is None else self._moved(index, [grid.corner(k) for k in tiles], sizes[index], room)
            for index, (tiles, grid) in enumerate(zip(cells, grids, strict=True))
        ]
        super().__init__(reader, [1 + len(places) for places in self.places], views_of)

    # ---- where they lie

    def _cells(self, size: tuple[int, int] | None, grid: Grid | None) -> list[int]:
        """Numbers of the tiles with pixels that count; empty where the whole view is the only one, and for a
        picture that is too small, which is reported when it is loaded."""
        how, roi = self.reader.preprocess, self.reader.roi
        if size is None or grid is None or len(grid) == 1:
            return []
        if roi is None:
            return list(range(len(grid)))
        return Region(roi, how.whole.geometry(size), grid.canvas).tiles(grid)

    def _moved(
        self, index: int, cells: list[tuple[int, int]], size: tuple[int, int] | None, room: int
    ) -> list[tuple[int, int]]:
        if not cells or size is None or self.located:
            return cells
        how, rng = self.reader.preprocess, np.random.default_rng([self.seed, STREAM, index])
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

    def by_place(self, numbers: Iterable[int]) -> dict[tuple[int, int], int]:
        """Maps (picture, view) to the number of the tile, for the given numbers."""
        return {(self.picture(number), self.positions[number]): number for number in numbers}

    def tiles_of(self, picture: int, places: Collection[int] = ()) -> Sequence[int]:
        """Numbers of a picture's tiles, or of its whole view where it has none. places: only tiles at these
        places, if there are any."""
        numbers = self.numbers(picture)[1:] or self.numbers(picture)
        return [number for number in numbers if not places or self.positions[number] in places] or numbers

    def image(self, views: Views, picture: int, view: int) -> NDArray[np.float32]:
        # of the whole view a copy: the picture stays, and is asked again
        return views.window(*self.places[picture][view - 1]) if view else views.images([0])[0].copy()

    def task(self, task: Task) -> Task:
        task, shape = replace(super().task(task), enough=ENOUGH), self.reader.preprocess.positions
        if shape is None:
            return task
        pictures = [i for i in range(len(self.views_of)) for _ in self.numbers(i)]
        return replace(task, places=Places(1 + math.prod(shape), self.positions, pictures, self._alone))

    def _alone(self, number: int) -> tuple[slice, slice]:
        position, grid = self.positions[number], self.grids[self.picture(number)]
        if not position or grid is None:
            return slice(None), slice(None)
        return grid.alone(position - 1)


def _in_turn(tiles: list[int], picture: int, room: int) -> list[int]:
    """Chooses at most `room` of a picture's tiles; the next picture gives other ones, so that each tile is
    seen about as often."""
    if len(tiles) <= room:
        return tiles
    first = picture * room
    return sorted(tiles[(first + k) % len(tiles)] for k in range(room))
