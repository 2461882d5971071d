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
PIXEL_STEP = 8  # the map's median is that of every 8th pixel along both axes
BLOCK_PIXELS = 1 << 20  # pixels of a canvas that are computed together


@dataclass(frozen=True)
class TileGrid:
    """Places of tiles on a canvas: rows of tiles from the top, from the left in each row.

    The last tiles are moved inwards, so that nothing is padded.

    Attributes:
        canvas: (H, W) of the canvas.
        tile: (H, W) of a tile.
        overlap: Share of a tile that neighbours have in common.
    """

    canvas: tuple[int, int]
    tile: tuple[int, int]
    overlap: float

    def __post_init__(self) -> None:
        if any(tile_side > side for tile_side, side in zip(self.tile, self.canvas, strict=True)):
            raise ValueError("a tile is larger than the canvas")

    @cached_property
    def starts(self) -> tuple[list[int], list[int]]:
        """Upper edges of the rows of tiles, and left edges of the columns."""
        starts = []
        for canvas_side, tile_side in zip(self.canvas, self.tile, strict=True):
            stride = max(1, tile_side - round(self.overlap * tile_side))
            last = canvas_side - tile_side
            count = math.ceil(last / stride) + 1
            starts.append([min(number * stride, last) for number in range(count)])
        rows, columns = starts
        return rows, columns

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return len(self.starts[0]), len(self.starts[1])

    def __len__(self) -> int:
        return math.prod(self.shape)

    def row_and_column(self, tile: int) -> tuple[int, int]:
        """Return the row and the column of a tile in the grid."""
        return divmod(tile, len(self.starts[1]))

    def tiles_at(self, y: int, x: int) -> list[int]:
        """Return the numbers of the tiles that show a pixel of the canvas."""
        row_starts, column_starts = self.starts
        height, width = self.tile
        rows = [row for row, start in enumerate(row_starts) if start <= y < start + height]
        columns = [column for column, start in enumerate(column_starts) if start <= x < start + width]
        return [row * len(column_starts) + column for row in rows for column in columns]

    def corner(self, tile: int) -> tuple[int, int]:
        """Return the upper left corner (y, x) of a tile on the canvas."""
        row, column = self.row_and_column(tile)
        return self.starts[0][row], self.starts[1][column]

    @cached_property
    def weights(self) -> tuple[Float32, Float32]:
        """Weights of the tiles along their height [rows, h] and width [columns, w].

        A weight is 1 where no neighbour overlaps; in an overlap it falls linearly towards the tile's edge.
        A pixel's weight in a tile is the product of both; the weights of all tiles at a pixel sum to 1.
        """
        return self._axis_weights(0), self._axis_weights(1)

    def _axis_weights(self, axis: int) -> Float32:
        """Return the weights [tiles, side] of the tiles along an axis."""
        starts = self.starts[axis]
        side = self.tile[axis]
        pixel_centres = np.arange(side) + 0.5
        ramps = np.ones((len(starts), side))
        for tile in range(len(starts) - 1):
            overlap = starts[tile] + side - starts[tile + 1]
            if overlap > 0:  # one tile falls from 1 to 0 where the next rises from 0 to 1
                ramps[tile] *= np.clip((side - pixel_centres) / overlap, 0, 1)
                ramps[tile + 1] *= np.clip(pixel_centres / overlap, 0, 1)
        totals = np.zeros(self.canvas[axis])
        for start, ramp in zip(starts, ramps, strict=True):
            totals[start : start + side] += ramp
        # divided by the totals, so that the weights at each pixel sum to 1
        weights = [ramp / totals[start : start + side] for start, ramp in zip(starts, ramps, strict=True)]
        return np.stack(weights).astype(np.float32)


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
        if self.score not in ("map", "views"):  # what gives the picture's score
            raise InputError(f"fusion by {self.score!r:.40}; choose map or views")
        with np.errstate(over="ignore"):  # maps are float32, so both must be finite in that type
            factor = np.float32(self.factor)
            shift = np.float32(self.shift)
        if not 0 < factor < math.inf or not math.isfinite(shift):
            raise InputError(
                f"fusion with factor {self.factor:g}, shift {self.shift:g}; both finite, factor above 0"
            )

    def to_dict(self) -> Json:
        """Convert to values for JSON, which `from_dict` reads."""
        return {"score": self.score, "factor": self.factor, "shift": self.shift}

    @classmethod
    def from_dict(cls, data: Facts) -> Fusion:
        """Read values that `to_dict` returned.

        Raises:
            InputError: There are other entries, or values are invalid.
        """
        if set(data) != {"score", "factor", "shift"}:
            raise InputError("fusion has score, factor and shift, and nothing else")
        factor = data["factor"]
        shift = data["shift"]
        if any(isinstance(number, bool) or not isinstance(number, int | float) for number in (factor, shift)):
            raise InputError("fusion: factor and shift are numbers")
        return cls(data["score"], float(factor), float(shift))


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
        """Return the mask [height, width] of the region at a place of the canvas."""
        inside = self.mask[self.rows[y : y + height]][:, self.columns[x : x + width]]
        return inside if self.visible is None else inside & self.visible[y : y + height, x : x + width]

    def tiles(self, grid: TileGrid) -> list[int]:
        """Return the numbers of the tiles that show a pixel of the region."""
        numbers = []
        for number in range(len(grid)):
            top, left = grid.corner(number)
            if self.window(top, left, *grid.tile).any():
                numbers.append(number)
        return numbers


class TileSummary(NamedTuple):
    """Results for a frame, in pairs: for its tiles, and for its whole view.

    Attributes:
        scores: Largest score of a tile, and the whole view's score.
        maxima: Maximum of the tiles' blended map, and of the whole view's map.
        means: Means of both maps.
        whole_peak: Maximum of the whole view's map, before the map is scaled to the canvas.
        pixels: [2, n], values of both maps at the same sampled places.
    """

    scores: tuple[float, float]
    maxima: tuple[float, float]
    means: tuple[float, float]
    whole_peak: float
    pixels: Float32

    @classmethod
    def of_view(cls, score: float, view_map: Float32, inside: Mask) -> TileSummary:
        """Return the summary for a frame of one view, which is treated as its only tile.

        Args:
            score: Score of the view.
            view_map: [H, W], its map.
            inside: [H, W], pixels that count.
        """
        counted = view_map[inside] if inside.any() else view_map.ravel()
        return cls(
            scores=(score, -math.inf),  # -inf: a maximum never takes the value of the missing whole view
            maxima=(float(view_map.max()), -math.inf),
            means=(float(counted.mean()), 0.0),
            whole_peak=-math.inf,
            pixels=np.stack([counted, np.full(counted.shape, -np.inf, np.float32)]),
        )

    def fused(self, fusion: Fusion) -> tuple[float, float, float]:
        """Return score, maximum and median of the map, all fused as `TileBlender.result` fuses them."""
        tiles_score, whole_score = self.scores
        tiles_maximum, whole_maximum = self.maxima
        tiles_pixels, whole_pixels = self.pixels
        score = max(tiles_score, whole_score * fusion.factor + fusion.shift)
        maximum = max(tiles_maximum, whole_maximum * fusion.factor + fusion.shift)
        fused_pixels = np.maximum(tiles_pixels, whole_pixels * fusion.factor + fusion.shift)
        return (maximum if fusion.score == "map" else score), maximum, float(np.median(fused_pixels))


class TileBlender:
    """Map and score of a picture, put together from its views one by one.

    Args:
        grid: Places of the tiles.
        whole: Place in the frame of its whole view.
        region: Pixels that count; None: all.

    Attributes:
        tiles: [H, W], the blended maps of the tiles.
        lowest: Lowest value of the tiles' maps.
        score: Largest score of a tile.
        view: Score and map of the whole view; None: not added yet.
    """

    def __init__(self, grid: TileGrid, whole: Geometry, region: RegionOfInterest | None = None):
        self.grid = grid
        self.whole = whole
        self.region = region
        self.tiles = np.zeros(grid.canvas, np.float32)
        self.lowest = math.inf
        self.score = -math.inf
        self.view: tuple[float, Float32] | None = None

    def add(self, view: int, score: float, view_map: Float32) -> None:
        """Add the result for a view. Each view is added once, in any order.

        Args:
            view: Number of the view; 0 is the whole picture.
            score: Score of the view.
            view_map: [H, W], map of the view.
        """
        if view == 0:
            self.view = score, view_map
            return
        self._add_weighted(view, view_map)
        self.lowest = min(self.lowest, float(view_map.min()))
        self.score = float(np.maximum(self.score, score))  # NaN stays NaN

    def confirm_maximum(
        self, unsure: dict[int, Float32], sure_maps: Callable[[list[int]], Iterable[Float32]]
    ) -> None:
        """Replace upper bounds of tiles' maps by exact maps, until the blended maximum is exact.

        Args:
            unsure: Maps that are upper bounds, by the number of the view. Replaced ones are removed from this
                dictionary.
            sure_maps: Function that returns the exact maps of views, given their numbers.
        """
        width = self.grid.canvas[1]
        region = self.region
        counted = None if region is None else region.window(0, 0, *self.grid.canvas)
        while unsure:
            blended_map = self.tiles if counted is None else np.where(counted, self.tiles, -np.inf)
            y, x = divmod(int(blended_map.argmax()), width)
            # view 0 is the whole frame: tile t is view t + 1
            numbers = [tile + 1 for tile in self.grid.tiles_at(y, x) if tile + 1 in unsure]
            if not numbers:
                return
            for number, exact_map in zip(numbers, sure_maps(numbers), strict=True):
                bound_map = unsure.pop(number)
                # The exact map may exceed its bound somewhere: each run has a memory bank of its own, and the
                # exact one may lack patches. The minimum cuts off the excess, which could add up over many
                # tiles.
                self._add_weighted(number, np.minimum(bound_map, exact_map) - bound_map)

    def _add_weighted(self, view: int, view_map: Float32) -> None:
        """Add a tile's map, or a change of it, to the blended maps, multiplied by the tile's weights.

        Args:
            view: Number of the tile's view.
            view_map: [H, W], the map or its change.
        """
        tile = view - 1  # view 0 is the whole frame
        row, column = self.grid.row_and_column(tile)
        y, x = self.grid.corner(tile)
        height, width = self.grid.tile
        row_weights = self.grid.weights[0][row]
        column_weights = self.grid.weights[1][column]
        self.tiles[y : y + height, x : x + width] += view_map * row_weights[:, None] * column_weights

    def summary(self, shown: Mask) -> TileSummary:
        """Return a summary of the results, to which a fusion can be applied later.

        Args:
            shown: [H, W], pixels of the whole view that count.
        """
        assert self.view is not None
        whole_score, whole_map = self.view
        height, width = self.grid.canvas
        geometry = self.whole.with_picture_size(self.grid.canvas)
        step = max(1, BLOCK_PIXELS // width)
        tiles_maximum = whole_maximum = -math.inf
        total = 0.0
        count = 0
        samples = []  # [2, n] of each block: values of the tiles and of the whole view
        for start in range(0, height, step):
            rows = self.tiles[start : start + step]
            whole_rows = geometry.window(start, 0, len(rows), width).warp(whole_map, fill=-math.inf)
            inside = np.ones(rows.shape, np.bool_)
            if self.region is not None:
                inside = self.region.window(start, 0, len(rows), width)
            counted = rows[inside]
            total += float(counted.sum(dtype=np.float64))
            count += counted.size
            tiles_maximum = max(tiles_maximum, float(counted.max(initial=-math.inf)))
            whole_maximum = max(whole_maximum, float(whole_rows[inside].max(initial=-math.inf)))
            is_sampled = inside[::PIXEL_STEP, ::PIXEL_STEP]
            tiles_sample = rows[::PIXEL_STEP, ::PIXEL_STEP][is_sampled]
            whole_sample = whole_rows[::PIXEL_STEP, ::PIXEL_STEP][is_sampled]
            samples.append(np.stack([tiles_sample, whole_sample]))
        whole_counted = whole_map[shown]
        return TileSummary(
            scores=(self.score, whole_score),
            maxima=(tiles_maximum, whole_maximum),
            means=(total / max(count, 1), float(whole_counted.mean())),
            whole_peak=float(whole_counted.max()),
            pixels=np.hstack(samples),
        )

    def result(self, fusion: Fusion) -> tuple[float, Float32]:
        """Return the picture's score and its map [H, W] at the canvas's size.

        The map overwrites `tiles`: no view can be added afterwards.
        """
        picture_map = self.tiles
        height, width = self.grid.canvas
        score = self.score
        lowest = np.float32(self.lowest if math.isfinite(self.lowest) else 0.0)
        geometry = self.whole.with_picture_size(self.grid.canvas)
        step = max(1, BLOCK_PIXELS // width)
        largest = -math.inf
        fused_view_map = None
        if self.view is not None:
            whole_score, view_map = self.view
            score = float(np.maximum(score, whole_score * fusion.factor + fusion.shift))
            fused_view_map = view_map * np.float32(fusion.factor) + np.float32(fusion.shift)
        for start in range(0, height, step):
            rows = picture_map[start : start + step]
            inside = None if self.region is None else self.region.window(start, 0, len(rows), width)
            if inside is not None:
                rows[~inside] = lowest  # nothing was computed outside the region
            if fused_view_map is not None:
                whole_rows = geometry.window(start, 0, len(rows), width).warp(fused_view_map, fill=-math.inf)
                if inside is not None:
                    whole_rows[~inside] = -math.inf
                np.maximum(rows, whole_rows, out=rows)
            largest = float(np.maximum(largest, rows.max()))
        return (largest if fusion.score == "map" else score), picture_map
