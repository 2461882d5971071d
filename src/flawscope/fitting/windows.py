"""Places the windows that are learnt from on large frames.

The windows are the tiles of a grid, each moved at random within the overlap. Where a frame has more tiles
than there is room for, some of its tiles are drawn, and moved farther. The places follow from the seed and
the frame's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.streams import Stream
from flawscope.views.preprocess import Preprocess
from flawscope.views.tiles import RegionOfInterest, TileGrid

MAX_VIEW_PIXELS = 500_000_000  # pixels of all windows together
MIN_TILES = 4  # tiles that a frame may have, however many frames there are
Sizes = Sequence[tuple[int, int] | None]  # (H, W) of pictures; None: one cannot be read


@dataclass(frozen=True)
class Frame:
    """Frame with the windows that are learnt from, and the tiles by which it is judged.

    Attributes:
        windows: Upper left corners (y, x) of the windows on its canvas.
        grid: Grid of the tiles by which it is judged; None: it has one view.
        judged: Number of views by which it is judged, the view of the whole frame included.
    """

    windows: Sequence[tuple[int, int]] = ()
    grid: TileGrid | None = None
    judged: int = 1


def place_windows(how: Preprocess, sizes: Sizes, roi: NDArray[np.bool_] | None, seed: int) -> list[Frame]:
    """Place the windows on frames.

    Args:
        how: Preprocessing of the pictures.
        sizes: (H, W) of the frames; None where one cannot be read.
        roi: Region of interest [H, W] at the network's size; None: all counts.
        seed: Seed of the places.
    """
    height, width = how.size
    max_windows_of_all = MAX_VIEW_PIXELS // (height * width)
    max_windows = max(MIN_TILES, max_windows_of_all // max(1, len(sizes)))  # of each frame
    frames = []
    for number, picture_size in enumerate(sizes):
        if picture_size is None:
            frames.append(Frame())
            continue
        size = how.frame_size(picture_size)
        grid = how.grid(size)
        if grid is None:
            frames.append(Frame())
            continue
        tiles = _counted_tiles(how, size, grid, roi)
        windows = [grid.corner(tile) for tile in tiles]
        if windows:
            windows = _jitter(how, windows, size, max_windows, Stream.WINDOWS.rng(seed, number))
        judged_views = 1 + len(tiles)  # the whole frame and its tiles
        frames.append(Frame(windows, grid, judged=judged_views))
    return frames


def _counted_tiles(
    how: Preprocess, size: tuple[int, int], grid: TileGrid, roi: NDArray[np.bool_] | None
) -> list[int]:
    """Return the numbers of a frame's tiles that show pixels of the region of interest.

    The list is empty if a single tile shows the whole frame.
    """
    if len(grid) == 1:
        return []
    if roi is None:
        return list(range(len(grid)))
    return RegionOfInterest(roi, how.whole.geometry(size), grid.canvas).tiles(grid)


def _jitter(
    how: Preprocess,
    corners: list[tuple[int, int]],
    size: tuple[int, int],
    max_windows: int,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Move the tiles of a frame at random; if there are too many, choose `max_windows` of them at random.

    Args:
        how: Preprocessing of the pictures.
        corners: Upper left corners (y, x) of the tiles.
        size: (H, W) of the frame.
        max_windows: Largest number of windows.
        rng: Generator of the draw and the moves.
    """
    canvas = how.canvas(size)
    is_drawn = len(corners) > max_windows
    tiles: Sequence[int] = range(len(corners))
    if is_drawn:
        tiles = sorted(rng.permutation(len(corners))[:max_windows].tolist())
    # If only some tiles are used, each moves by up to half of (side - overlap): any place of the frame may be
    # shown. If all are used, each moves by up to half of the overlap: together they show every place.
    moved_share = 1 - how.overlap if is_drawn else how.overlap
    max_offsets = [round(moved_share * side / 2) for side in how.size]
    windows = []
    for tile in tiles:
        corner = [*corners[tile]]
        for axis in (0, 1):
            last = canvas[axis] - how.size[axis]
            is_between_edges = 0 < corner[axis] < last
            if is_drawn or is_between_edges:
                offset = int(rng.integers(-max_offsets[axis], max_offsets[axis] + 1))
                corner[axis] = min(max(corner[axis] + offset, 0), last)
        windows.append((corner[0], corner[1]))
    return windows
