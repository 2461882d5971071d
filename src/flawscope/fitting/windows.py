"""Places the windows that are learnt from on large frames.

They lie on the grid of tiles, each moved at random within the overlap; where there are too many of them, some
of every frame, moved farther. Where they lie follows from the seed and the frame's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.streams import Stream
from flawscope.views.preprocess import Preprocess
from flawscope.views.tiles import RegionOfInterest, TileGrid

MAX_VIEW_PIXELS = 500_000_000  # pixels of views that are learnt from; of as many pictures as there are
MIN_TILES = 4  # tiles of a frame, however many frames there are
Sizes = Sequence[tuple[int, int] | None]  # (H, W) of pictures; None: one cannot be read


@dataclass(frozen=True)
class Frame:
    """Frame with the views that are learnt from, and those by which it is judged.

    Attributes:
        windows: Places of the tiles on its canvas.
        grid: Grid of the tiles by which it is judged; None: it has one view.
        judged: Number of views by which it is judged.
    """

    windows: Sequence[tuple[int, int]] = ()
    grid: TileGrid | None = None
    judged: int = 1


def place_windows(how: Preprocess, sizes: Sizes, roi: NDArray[np.bool_] | None, seed: int) -> list[Frame]:
    """Place the windows on frames of these sizes; `roi` is the region of interest [H, W] at network size."""
    height, width = how.size
    room = max(MIN_TILES, MAX_VIEW_PIXELS // (height * width) // max(1, len(sizes)))
    frames = []
    for number, picture in enumerate(sizes):
        if picture is None:
            frames.append(Frame())
            continue
        size = how.frame_size(picture)
        grid = how.grid(size)
        if grid is None:
            frames.append(Frame())
            continue
        tiles = _counted_tiles(how, size, grid, roi)
        windows = [grid.corner(tile) for tile in tiles]
        if windows:
            windows = _jitter(how, windows, size, room, Stream.WINDOWS.rng(seed, number))
        frames.append(Frame(windows, grid, 1 + len(tiles)))
    return frames


def _counted_tiles(
    how: Preprocess, size: tuple[int, int], grid: TileGrid, roi: NDArray[np.bool_] | None
) -> list[int]:
    """Return the numbers of the tiles of a frame (H, W) with pixels that count.

    Empty where the whole view is the only one.
    """
    if len(grid) == 1:
        return []
    if roi is None:
        return list(range(len(grid)))
    return RegionOfInterest(roi, how.whole.geometry(size), grid.canvas).tiles(grid)


def _jitter(
    how: Preprocess,
    cells: list[tuple[int, int]],
    size: tuple[int, int],
    room: int,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
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
