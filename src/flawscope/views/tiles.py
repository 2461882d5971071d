"""Places tiles on a picture's canvas, and blends their maps into the picture's. Torch-free.

Sizes are (height, width), places (y, x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.types import Facts, Json
from flawscope.views.geometry import Geometry

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
PIXEL_STEP = 8  # of the canvas pixels that the middle map value is taken from


@dataclass(frozen=True)
class TileGrid:
    """Places of tiles on a canvas: rows of tiles from the top, from the left in each.

    The last ones are moved inwards, so that nothing is padded.
    """

    canvas: tuple[int, int]
    tile: tuple[int, int]
    overlap: float

    def __post_init__(self) -> None:
        if any(part > whole for part, whole in zip(self.tile, self.canvas, strict=True)):
            raise ValueError("a tile is larger than the canvas")

    @cached_property
    def starts(self) -> tuple[list[int], list[int]]:
        """Upper edges of the rows of tiles, and left edges of the columns."""
        found = []
        for whole, part in zip(self.canvas, self.tile, strict=True):
            stride = max(1, part - round(self.overlap * part))
            count = -(-(whole - part) // stride) + 1
            found.append([min(i * stride, whole - part) for i in range(count)])
        rows, columns = found
        return rows, columns

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return len(self.starts[0]), len(self.starts[1])

    def __len__(self) -> int:
        return math.prod(self.shape)

    def row_and_column(self, tile: int) -> tuple[int, int]:
        """Row and column of a tile in the grid."""
        return divmod(tile, len(self.starts[1]))

    def tiles_at(self, y: int, x: int) -> list[int]:
        """Numbers of the tiles that show a pixel of the canvas."""
        rows, columns = (
            [i for i, start in enumerate(starts) if start <= at < start + side]
            for starts, at, side in zip(self.starts, (y, x), self.tile, strict=True)
        )
        return [row * len(self.starts[1]) + column for row in rows for column in columns]

    def corner(self, tile: int) -> tuple[int, int]:
        """Upper left corner of a tile on the canvas."""
        row, column = self.row_and_column(tile)
        return self.starts[0][row], self.starts[1][column]

    @cached_property
    def weights(self) -> tuple[Float32, Float32]:
        """Weights of the tiles along their height [rows, h] and width [columns, w].

        They are 1 where a tile is alone, and fall linearly to the edge where a neighbour overlaps. The
        products of all tiles that show a pixel sum to 1.
        """
        return self._axis_weights(0), self._axis_weights(1)

    def _axis_weights(self, axis: int) -> Float32:
        starts = self.starts[axis]
        part = self.tile[axis]
        whole = self.canvas[axis]
        middles = np.arange(part) + 0.5
        ramps = np.ones((len(starts), part))
        for before, after in zip(range(len(starts)), range(1, len(starts)), strict=False):
            shared = starts[before] + part - starts[after]
            if shared > 0:
                ramps[before] *= np.clip((part - middles) / shared, 0, 1)
                ramps[after] *= np.clip(middles / shared, 0, 1)
        total = np.zeros(whole)
        for start, ramp in zip(starts, ramps, strict=True):
            total[start : start + part] += ramp
        return np.stack(
            [ramp / total[start : start + part] for start, ramp in zip(starts, ramps, strict=True)]
        ).astype(np.float32)


@dataclass(frozen=True)
class Fusion:
    """Settings that combine the maps of a picture's views into its score and its map; stored in the model.

    The whole view's map, and its score, are brought to the scale of the tiles': value * factor + shift.

    Attributes:
        score: "map": the score is the map's maximum; "views": the largest score of a view.
        factor: Factor of the whole view's values.
        shift: Summand of the whole view's values.
    """

    score: str = "map"
    factor: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.score not in ("map", "views"):
            raise InputError(f"fusion by {self.score!r:.40}; choose map or views")
        with np.errstate(over="ignore"):  # maps are computed with in float32
            factor = np.float32(self.factor)
            shift = np.float32(self.shift)
        if not 0 < factor < math.inf or not math.isfinite(shift):
            raise InputError(
                f"fusion with factor {self.factor:g}, shift {self.shift:g}; both finite, factor above 0"
            )

    def to_dict(self) -> Json:
        """Return values that JSON knows, for `from_dict`."""
        return {"score": self.score, "factor": self.factor, "shift": self.shift}

    @classmethod
    def from_dict(cls, data: Facts) -> Fusion:
        """Read a fusion. InputError for other entries, and for invalid values."""
        if set(data) != {"score", "factor", "shift"}:
            raise InputError("fusion has score, factor and shift, and nothing else")
        numbers = data["factor"], data["shift"]
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            raise InputError("fusion: factor and shift are numbers")
        return cls(data["score"], float(numbers[0]), float(numbers[1]))


class RegionOfInterest:
    """Region of interest on a canvas, never expanded to the canvas's size, which may be large.

    Args:
        mask: [H, W], as the view of the whole frame shows it.
        whole: Place of that view in the frame.
        canvas: (H, W) of the canvas.
        visible: [H, W], pixels of the canvas that show the picture; None: all.
    """

    def __init__(self, mask: Mask, whole: Geometry, canvas: tuple[int, int], visible: Mask | None = None):
        self.mask = mask
        self.visible = visible
        self.rows, self.columns = whole.with_picture_size(canvas).nearest_indices()

    def window(self, y: int, x: int, height: int, width: int) -> Mask:
        """Mask [height, width] of the region at this place."""
        inside = self.mask[self.rows[y : y + height]][:, self.columns[x : x + width]]
        return inside if self.visible is None else inside & self.visible[y : y + height, x : x + width]

    def tiles(self, grid: TileGrid) -> list[int]:
        """Numbers of the tiles that show a pixel of the region."""
        shown = []
        for number in range(len(grid)):
            top, left = grid.corner(number)
            if self.window(top, left, *grid.tile).any():
                shown.append(number)
        return shown


class TileSummary(NamedTuple):
    """Answers for a frame, of its tiles and of its whole view.

    Attributes:
        scores: Largest score of a tile, and the whole view's score.
        maxima: Maxima of both maps.
        means: Means of both maps.
        whole_peak: Maximum of the whole view's map at its own size.
        pixels: [2, n], some values of both maps, at the same places.
    """

    scores: tuple[float, float]
    maxima: tuple[float, float]
    means: tuple[float, float]
    whole_peak: float
    pixels: Float32

    @classmethod
    def of_view(cls, score: float, view_map: Float32, inside: Mask) -> TileSummary:
        """Return the answers for a frame of one view. `inside` are the pixels [H, W] that count."""
        counted = view_map[inside] if inside.any() else view_map.ravel()
        pixels = np.stack([counted, np.full(counted.shape, -np.inf, np.float32)])
        tops = (score, -math.inf), (float(view_map.max()), -math.inf)
        return cls(*tops, (float(counted.mean()), 0.0), -math.inf, pixels)

    def fused(self, fusion: Fusion) -> tuple[float, float, float]:
        """Score, maximum and middle value of the map, as `TileBlender.result` gives them."""
        score, maximum = (
            max(of[0], of[1] * fusion.factor + fusion.shift) for of in (self.scores, self.maxima)
        )
        both = np.maximum(self.pixels[0], self.pixels[1] * fusion.factor + fusion.shift)
        return (maximum if fusion.score == "map" else score), maximum, float(np.median(both))


class TileBlender:
    """Map and score of a picture, put together from its views one by one.

    Args:
        grid: Places of the tiles.
        whole: Place in the frame of its whole view.
        region: Pixels that count; None: all.
    """

    def __init__(self, grid: TileGrid, whole: Geometry, region: RegionOfInterest | None = None):
        self.grid = grid
        self.whole = whole
        self.region = region
        self.tiles = np.zeros(grid.canvas, np.float32)  # blended
        self.lowest = math.inf  # of the tiles' maps
        self.score = -math.inf  # the largest of a tile
        self.view: tuple[float, Float32] | None = None  # of the whole picture

    def add(self, view: int, score: float, view_map: Float32) -> None:
        """Add the answer for a view, its map [H, W]; 0 is the whole picture. In any order, each once."""
        if view == 0:
            self.view = score, view_map
            return
        self._add_weighted(view, view_map)
        self.lowest = min(self.lowest, float(view_map.min()))
        self.score = float(np.maximum(self.score, score))  # NaN stays NaN

    def confirm_maximum(
        self, unsure: dict[int, Float32], sure_maps: Callable[[list[int]], Iterable[Float32]]
    ) -> None:
        """Replace maps of tiles that may be too high by sure ones, until the maximum lies in sure ones.

        Args:
            unsure: The maps, by the number of the view; it is emptied.
            sure_maps: Returns sure maps for numbers of views.
        """
        width = self.grid.canvas[1]
        region = self.region
        counted = None if region is None else region.window(0, 0, *self.grid.canvas)
        while unsure:
            drawn = self.tiles if counted is None else np.where(counted, self.tiles, -np.inf)
            showing = self.grid.tiles_at(*divmod(int(drawn.argmax()), width))
            numbers = [tile + 1 for tile in showing if tile + 1 in unsure]
            if not numbers:
                return
            for number, sure in zip(numbers, sure_maps(numbers), strict=True):
                before = unsure.pop(number)
                # a bank selected anew may also lack patches of the other: over many tiles that adds up
                self._add_weighted(number, np.minimum(before, sure) - before)

    def _add_weighted(self, view: int, view_map: Float32) -> None:
        row, column = self.grid.row_and_column(view - 1)
        (y, x), (height, width) = self.grid.corner(view - 1), self.grid.tile
        down = self.grid.weights[0][row]
        across = self.grid.weights[1][column]
        self.tiles[y : y + height, x : x + width] += view_map * down[:, None] * across

    def summary(self, shown: Mask) -> TileSummary:
        """Summarise the answers for a fusion that is not known yet.

        Args:
            shown: [H, W], pixels of the whole view that count.
        """
        assert self.view is not None
        score, whole_map = self.view
        height, width = self.grid.canvas
        at = self.whole.with_picture_size(self.grid.canvas)
        step = max(1, (1 << 20) // width)
        top = whole_top = -math.inf
        total = 0.0
        count = 0
        samples = []  # of every PIXEL_STEP-th pixel: values in the tiles and in the whole view
        for start in range(0, height, step):
            rows = self.tiles[start : start + step]
            whole_rows = at.window(start, 0, len(rows), width).warp(whole_map, fill=-math.inf)
            inside = np.ones(rows.shape, np.bool_)
            if self.region is not None:
                inside = self.region.window(start, 0, len(rows), width)
            counted = rows[inside]
            total += float(counted.sum(dtype=np.float64))
            count += counted.size
            top = max(top, float(counted.max(initial=-math.inf)))
            whole_top = max(whole_top, float(whole_rows[inside].max(initial=-math.inf)))
            sampled = inside[::PIXEL_STEP, ::PIXEL_STEP]
            of_tiles = rows[::PIXEL_STEP, ::PIXEL_STEP][sampled]
            of_view = whole_rows[::PIXEL_STEP, ::PIXEL_STEP][sampled]
            samples.append(np.stack([of_tiles, of_view]))
        seen = whole_map[shown]
        means = total / max(count, 1), float(seen.mean())
        return TileSummary(
            (self.score, score), (top, whole_top), means, float(seen.max()), np.hstack(samples)
        )

    def result(self, fusion: Fusion) -> tuple[float, Float32]:
        """The picture's score and its map [H, W] at the canvas's size, which is this object's own."""
        picture_map, (height, width) = self.tiles, self.grid.canvas
        score = self.score
        lowest = np.float32(self.lowest if math.isfinite(self.lowest) else 0.0)
        at = self.whole.with_picture_size(self.grid.canvas)
        step = max(1, (1 << 20) // width)
        largest = -math.inf
        if self.view is not None:
            score = float(np.maximum(score, self.view[0] * fusion.factor + fusion.shift))
            scaled = self.view[1] * np.float32(fusion.factor) + np.float32(fusion.shift)
        for start in range(0, height, step):
            rows = picture_map[start : start + step]
            inside = None if self.region is None else self.region.window(start, 0, len(rows), width)
            if inside is not None:
                rows[~inside] = lowest  # tiles outside were not computed
            if self.view is not None:
                whole_map = at.window(start, 0, len(rows), width).warp(scaled, fill=-math.inf)
                if inside is not None:
                    whole_map[~inside] = -math.inf
                np.maximum(rows, whole_map, out=rows)
            largest = float(np.maximum(largest, rows.max()))
        return (largest if fusion.score == "map" else score), picture_map
