"""Large pictures as tiles of one size, and the tiles' maps as one map again. Torch-free.

A picture is scaled once, to its canvas, and tiles are cut from it at whole pixels, so that neighbours show
the same pixels where they overlap. Sizes are (height, width), places (y, x).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.pictures.geometry import Geometry

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Places of tiles on a canvas: rows of tiles from the top, from the left in each. The last ones are
    moved inwards, so that nothing is padded."""

    canvas: tuple[int, int]
    tile: tuple[int, int]
    overlap: float

    def __post_init__(self) -> None:
        if any(part > whole for part, whole in zip(self.tile, self.canvas, strict=True)):
            raise ValueError("a tile is larger than the canvas")

    @cached_property
    def starts(self) -> tuple[list[int], list[int]]:
        """The upper edges of the rows of tiles, and the left edges of the columns."""
        found = []
        for whole, part in zip(self.canvas, self.tile, strict=True):
            stride = max(1, part - round(self.overlap * part))
            count = -(-(whole - part) // stride) + 1
            found.append([min(i * stride, whole - part) for i in range(count)])
        return found[0], found[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return len(self.starts[0]), len(self.starts[1])

    def __len__(self) -> int:
        return math.prod(self.shape)

    def place(self, tile: int) -> tuple[int, int]:
        """The row and the column of tiles that tile number so and so lies in."""
        return divmod(tile, len(self.starts[1]))

    def showing(self, y: int, x: int) -> list[int]:
        """The tiles that show a pixel of the canvas."""
        rows, columns = (
            [i for i, start in enumerate(starts) if start <= at < start + side]
            for starts, at, side in zip(self.starts, (y, x), self.tile, strict=True)
        )
        return [row * len(self.starts[1]) + column for row in rows for column in columns]

    def alone(self, tile: int) -> tuple[slice, slice]:
        """The rows and the columns of a tile that no other one shows; there may be none."""
        parts = []
        for starts, side, k in zip(self.starts, self.tile, self.place(tile), strict=True):
            first = starts[k - 1] + side - starts[k] if k else 0
            last = starts[k + 1] - starts[k] if k + 1 < len(starts) else side
            parts.append(slice(max(first, 0), max(first, 0, min(last, side))))
        return parts[0], parts[1]

    def corner(self, tile: int) -> tuple[int, int]:
        """Its upper left corner on the canvas."""
        row, column = self.place(tile)
        return self.starts[0][row], self.starts[1][column]

    @cached_property
    def weights(self) -> tuple[Float32, Float32]:
        """The weights of the tiles of a row [rows, h], and of a column [columns, w], along their side: 1
        where they are alone, and falling linearly to the edge where a neighbour begins; of all tiles that
        show a pixel the products sum to 1."""
        return self._along(0), self._along(1)

    def _along(self, axis: int) -> Float32:
        starts, part, whole = self.starts[axis], self.tile[axis], self.canvas[axis]
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
    """The way from the maps of a picture's views to its score and its map; stored in the model.

    score: "map": the score is the map's maximum; "views": the largest score of a view.
    factor, shift: bring the whole view's map, and its score, to the scale of the tiles': value * factor +
        shift.
    """

    score: str = "map"
    factor: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.score not in ("map", "views"):
            raise InputError(f"fusion by {self.score!r:.40}; choose map or views")
        with np.errstate(over="ignore"):  # maps are computed with in float32
            factor, shift = np.float32(self.factor), np.float32(self.shift)
        if not 0 < factor < math.inf or not math.isfinite(shift):
            raise InputError(
                f"fusion with factor {self.factor:g}, shift {self.shift:g}; both finite, factor above 0"
            )

    def to_dict(self) -> dict[str, Any]:
        return {"score": self.score, "factor": self.factor, "shift": self.shift}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fusion:
        """Raises InputError for other entries than these, and for values that make no sense."""
        if set(data) != {"score", "factor", "shift"}:
            raise InputError("fusion has score, factor and shift, and nothing else")
        numbers = data["factor"], data["shift"]
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            raise InputError("fusion: factor and shift are numbers")
        return cls(data["score"], float(numbers[0]), float(numbers[1]))


class Region:
    """A region of interest on a canvas: never drawn at the canvas's size, which may be large."""

    def __init__(self, mask: Mask, whole: Geometry, canvas: tuple[int, int]):
        """
        Args:
            mask: [H, W], as the view of the whole picture shows it.
            whole: where that view lies in the picture.
        """
        self.mask = mask
        self.rows, self.columns = whole.at(canvas).nearest()

    def window(self, y: int, x: int, height: int, width: int) -> Mask:
        """[height, width]: the part of it at this place."""
        return self.mask[self.rows[y : y + height]][:, self.columns[x : x + width]]

    def tiles(self, grid: Grid) -> list[int]:
        """The tiles that hold anything of it."""
        return [k for k in range(len(grid)) if self.window(*grid.corner(k), *grid.tile).any()]


class Blended:
    """One picture's map and score, put together from its views one by one."""

    def __init__(self, grid: Grid, whole: Geometry, fusion: Fusion, region: Region | None = None):
        """
        Args:
            whole: where the view of the whole picture lies in it.
            region: what counts.
        """
        self.grid, self.whole, self.fusion, self.region = grid, whole, fusion, region
        self.tiles = np.zeros(grid.canvas, np.float32)  # blended
        self.lowest = math.inf  # of the tiles' maps
        self.score = -math.inf  # the largest of a tile
        self.view: tuple[float, Float32] | None = None  # of the whole picture

    def add(self, view: int, score: float, drawn: Float32) -> None:
        """The answer for view number so and so, [H, W]; 0 is the whole picture. In any order, each once."""
        if view == 0:
            self.view = score, drawn
            return
        self._spread(view, drawn)
        self.lowest = min(self.lowest, float(drawn.min()))
        self.score = float(np.maximum(self.score, score))  # NaN stays NaN

    def replace(self, view: int, before: Float32, after: Float32) -> None:
        """Another map for a tile than the one that was added."""
        self._spread(view, after - before)

    def _spread(self, view: int, drawn: Float32) -> None:
        row, column = self.grid.place(view - 1)
        (y, x), (height, width) = self.grid.corner(view - 1), self.grid.tile
        down, across = self.grid.weights[0][row], self.grid.weights[1][column]
        self.tiles[y : y + height, x : x + width] += drawn * down[:, None] * across

    def result(self) -> tuple[float, Float32]:
        """The picture's score and its map [H, W] at the canvas's size, which is this object's own."""
        drawn, fusion, (height, width) = self.tiles, self.fusion, self.grid.canvas
        score = self.score
        lowest = np.float32(self.lowest if math.isfinite(self.lowest) else 0.0)
        at = self.whole.at(self.grid.canvas)
        step = max(1, (1 << 20) // width)
        largest = -math.inf
        if self.view is not None:
            score = float(np.maximum(score, self.view[0] * fusion.factor + fusion.shift))
            scaled = self.view[1] * np.float32(fusion.factor) + np.float32(fusion.shift)
        for start in range(0, height, step):
            rows = drawn[start : start + step]
            inside = None if self.region is None else self.region.window(start, 0, len(rows), width)
            if inside is not None:
                rows[~inside] = lowest  # tiles outside were not computed
            if self.view is not None:
                seen = at.rows(start, len(rows)).warp(scaled, fill=-math.inf)
                if inside is not None:
                    seen[~inside] = -math.inf
                np.maximum(rows, seen, out=rows)
            largest = float(np.maximum(largest, rows.max()))
        return (largest if fusion.score == "map" else score), drawn
