"""Views of a picture for a network, and its answers put together. Torch-free. Sizes are (height, width)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from flawscope.pictures.geometry import Geometry
from flawscope.pictures.tiles import Blended, Fusion, Grid, Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Mask = NDArray[np.bool_]

GREY = 128 / 255  # of tiles outside of the region of interest

# Answers for images [n, 3, H, W], and their places in the picture [n] int64 or None, with scores [n] and maps
# [n, H, W]
Run = Callable[[Any, Any], Any]


class Views:
    """The views of one picture: it as a whole, and with tiles these too.

    View 0 is the whole picture, the others are the tiles, row by row. A picture of exactly one tile has
    that one view. Tiles are made when they are asked for.

    geometry: where the map of the picture lies in it: at the canvas's size with tiles. whole: where view 0
    does. grid: of the tiles; None: there is one view. located: the model is told which view is which.
    """

    def __init__(
        self,
        first: Float32,
        geometry: Geometry,
        whole: Geometry | None = None,
        grid: Grid | None = None,
        canvas: NDArray[Any] | None = None,
        divisor: float = 255.0,
        located: bool = False,
    ):
        self.first, self.geometry, self.whole = first, geometry, whole or geometry
        self.grid = None if grid is None or len(grid) == 1 else grid
        self.canvas, self.divisor, self.located = canvas, divisor, located
        self.region: Region | None = None

    def within(self, mask: Mask | None) -> Views:
        """The same with a region of interest [H, W], as the whole view shows it: what lies outside is marked
        as padding is, and `numbers` leaves out tiles that hold nothing of it."""
        if mask is not None:
            self.region = Region(mask, self.whole, self.geometry.size)
        return self

    def __len__(self) -> int:
        return 1 if self.grid is None else 1 + len(self.grid)

    def numbers(self) -> list[int]:
        """The views that hold something that counts."""
        region, grid = self.region, self.grid
        if region is None or grid is None:
            return list(range(len(self)))
        return [0, *(tile + 1 for tile in region.tiles(grid))]

    def images(self, numbers: Iterable[int]) -> Float32:
        """Views `[n, 3, H, W]` float32 in 0..1, padding marked."""
        images = [self._image(number) for number in numbers]
        return images[0][None] if len(images) == 1 else np.stack(images)  # one is not copied

    def answer(self, run: Run, fusion: Fusion | None, batch: int = 1) -> tuple[float, Float32]:
        """The picture's score, and its map at `geometry.size`.

        Args:
            run: answers for views `[n, 3, H, W]` with scores `[n]` and maps `[n, H, W]`; it is given their
                numbers `[n]` too where the model knows where a tile lies, else None.
            fusion: how views are put together; None: there is one.
            batch: views that are run at a time.
        """
        if self.grid is None or fusion is None:
            scores, maps = run(self.images([0]), None)
            return float(scores[0]), maps[0]
        blended, numbers = Blended(self.grid, self.whole, fusion, self.region), self.numbers()
        for start in range(0, len(numbers), batch):
            these = numbers[start : start + batch]
            where = np.array(these, np.int64) if self.located else None
            for number, score, drawn in zip(these, *run(self.images(these), where), strict=True):
                blended.add(number, float(score), drawn)
        return blended.result()

    def counted(self) -> Mask:
        """[H, W] at `geometry.size`: what lies in the region of interest, and shows the picture."""
        if self.grid is None:
            counted: Mask = self.images([0])[0, 0] >= 0
            return counted
        size = self.geometry.size
        return np.ones(size, np.bool_) if self.region is None else self.region.window(0, 0, *size)

    def window(self, y: int, x: int) -> Float32:
        """`[3, H, W]`: a tile at any place of the canvas."""
        assert self.canvas is not None
        height, width = self.first.shape[2:]
        image = np.empty((3, height, width), np.float32)
        put(self.canvas[y : y + height, x : x + width], self.divisor, image)
        return self._marked(image, None if self.region is None else self.region.window(y, x, height, width))

    def _image(self, number: int) -> Float32:
        if number and self.grid is not None:
            return self.window(*self.grid.corner(number - 1))
        return self._marked(self.first[0], None if self.region is None else self.region.mask)

    @staticmethod
    def _marked(image: Float32, inside: Mask | None) -> Float32:
        return image if inside is None else np.where(inside | (image < 0), image, -1 - image)


def put(planes: NDArray[Any], divisor: float, target: Float32) -> None:
    """Write pixels [H, W] or [H, W, C] of any depth into [3, H, W], in 0..1."""
    if planes.ndim == 2 or planes.shape[2] == 1:
        np.divide(planes.reshape(planes.shape[:2]), divisor, out=target[0], dtype=np.float32)
        target[1:] = target[0]
    else:
        np.divide(planes.transpose(2, 0, 1), divisor, out=target, dtype=np.float32)
    if planes.dtype != np.uint8:
        np.clip(target, 0, 1, out=target)


def unmarked(images: Float32) -> tuple[Float32, Mask]:
    """Images `[..., 3, H, W]` without marks, in 0..1, and `[..., H, W]` bool: what is not padding."""
    inside: Mask = images[..., 0, :, :] >= 0
    return np.where(images < 0, -1 - images, images), inside


def hidden(image: Float32, source: NDArray[np.int64] | None) -> Float32:
    """An image `[3, H, W]`, padding marked, that shows nothing from outside of the region of interest.

    Args:
        source: [H W], the pixel whose value each one gets; None: the image is a tile's, which is grey where
            it is marked.
    """
    if source is None:
        return np.where(image < 0, -1 - GREY, image)
    return image.reshape(3, -1)[:, source].reshape(image.shape)
