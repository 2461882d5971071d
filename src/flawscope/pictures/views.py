"""Cuts a picture into views for a network, the whole and tiles, and combines the answers. Torch-free.

A picture is scaled once, to its canvas, and tiles are cut from it at whole pixels, so that neighbours show
the same pixels where they overlap. Sizes are (height, width), places (y, x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.pictures.geometry import Geometry
from flawscope.pictures.light import ToneCorrection
from flawscope.pictures.pose import Pose

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TileGrid:
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
        """Upper edges of the rows of tiles, and left edges of the columns."""
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

    def unshared_window(self, tile: int) -> tuple[slice, slice]:
        """Rows and columns of a tile that no other tile shows; there may be none."""
        parts = []
        for starts, side, k in zip(self.starts, self.tile, self.row_and_column(tile), strict=True):
            first = starts[k - 1] + side - starts[k] if k else 0
            last = starts[k + 1] - starts[k] if k + 1 < len(starts) else side
            parts.append(slice(max(first, 0), max(first, 0, min(last, side))))
        return parts[0], parts[1]

    def corner(self, tile: int) -> tuple[int, int]:
        """Upper left corner of a tile on the canvas."""
        row, column = self.row_and_column(tile)
        return self.starts[0][row], self.starts[1][column]

    @cached_property
    def weights(self) -> tuple[Float32, Float32]:
        """Weights of the tiles along their height [rows, h] and width [columns, w]: 1 where a tile is alone,
        falling linearly to the edge where a neighbour overlaps. The products of all tiles that show a pixel
        sum to 1."""
        return self._axis_weights(0), self._axis_weights(1)

    def _axis_weights(self, axis: int) -> Float32:
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
    """Settings that combine the maps of a picture's views into its score and its map; stored in the model.

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
        """Reads a fusion. InputError for other entries, and for invalid values."""
        if set(data) != {"score", "factor", "shift"}:
            raise InputError("fusion has score, factor and shift, and nothing else")
        numbers = data["factor"], data["shift"]
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            raise InputError("fusion: factor and shift are numbers")
        return cls(data["score"], float(numbers[0]), float(numbers[1]))


class RegionOfInterest:
    """Region of interest on a canvas, never expanded to the canvas's size, which may be large.

    mask: [H, W], as the view of the whole frame shows it. whole: where that view lies in the frame. visible:
    the canvas's pixels [H, W] that show the picture; None: all.
    """

    def __init__(self, mask: Mask, whole: Geometry, canvas: tuple[int, int], visible: Mask | None = None):
        self.mask, self.visible = mask, visible
        self.rows, self.columns = whole.with_picture_size(canvas).nearest_indices()

    def window(self, y: int, x: int, height: int, width: int) -> Mask:
        """Mask [height, width] of the region at this place."""
        inside = self.mask[self.rows[y : y + height]][:, self.columns[x : x + width]]
        return inside if self.visible is None else inside & self.visible[y : y + height, x : x + width]

    def tiles(self, grid: TileGrid) -> list[int]:
        """Numbers of the tiles that show a pixel of the region."""
        return [k for k in range(len(grid)) if self.window(*grid.corner(k), *grid.tile).any()]


class TileBlender:
    """Map and score of a picture, put together from its views one by one.

    whole: where the view of the whole frame lies in it. region: pixels that count; None: all.
    """

    def __init__(
        self, grid: TileGrid, whole: Geometry, fusion: Fusion, region: RegionOfInterest | None = None
    ):
        self.grid, self.whole, self.fusion, self.region = grid, whole, fusion, region
        self.tiles = np.zeros(grid.canvas, np.float32)  # blended
        self.lowest = math.inf  # of the tiles' maps
        self.score = -math.inf  # the largest of a tile
        self.view: tuple[float, Float32] | None = None  # of the whole picture

    def add(self, view: int, score: float, view_map: Float32) -> None:
        """Adds the answer for a view, its map [H, W]; 0 is the whole picture. In any order, each once."""
        if view == 0:
            self.view = score, view_map
            return
        self._add_weighted(view, view_map)
        self.lowest = min(self.lowest, float(view_map.min()))
        self.score = float(np.maximum(self.score, score))  # NaN stays NaN

    def replace(self, view: int, before: Float32, after: Float32) -> None:
        """Replaces the map `before` of a tile, which was added, by `after`."""
        self._add_weighted(view, after - before)

    def _add_weighted(self, view: int, view_map: Float32) -> None:
        row, column = self.grid.row_and_column(view - 1)
        (y, x), (height, width) = self.grid.corner(view - 1), self.grid.tile
        down, across = self.grid.weights[0][row], self.grid.weights[1][column]
        self.tiles[y : y + height, x : x + width] += view_map * down[:, None] * across

    def result(self) -> tuple[float, Float32]:
        """The picture's score and its map [H, W] at the canvas's size, which is this object's own."""
        picture_map, fusion, (height, width) = self.tiles, self.fusion, self.grid.canvas
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


HIDDEN_GREY = 128 / 255  # of tiles outside of the region of interest

# Runs a model: images [n, 3, H, W], and their places in the picture [n] int64; None: whole -> scores [n],
# maps [n, H, W]
RunModel = Callable[[Any, Any], Any]


class Views:
    """Views of a picture: 0 is the whole frame, the others are its tiles, row by row, made when they are
    asked for. A frame of exactly one tile has that one view.

    geometry: where the map of the picture lies in it: at the canvas's size with tiles. whole: where view 0
    lies in the frame. grid: of the tiles; None: there is one view. tone: correction of the picture's light,
    which `first` has had already; None: it is left as it is. pose: of the part, as the view shows it; None:
    pictures are not aligned. placed: where view 0 lies in the picture. visible: the canvas's pixels [H, W]
    that show the picture; None: all.
    """

    def __init__(
        self,
        first: Float32,
        geometry: Geometry,
        whole: Geometry | None = None,
        grid: TileGrid | None = None,
        canvas: NDArray[Any] | None = None,
        divisor: float = 255.0,
        tone: ToneCorrection | None = None,
        pose: Pose | None = None,
        placed: Geometry | None = None,
        visible: Mask | None = None,
    ):
        self.first, self.geometry, self.whole = first, geometry, whole or geometry
        self.placed = placed or geometry
        self.grid = None if grid is None or len(grid) == 1 else grid
        self.canvas, self.divisor, self.tone = canvas, divisor, tone
        self.pose, self.visible = pose, visible
        self.region: RegionOfInterest | None = None
        if visible is not None:
            self.with_roi(np.ones(self.whole.size, np.bool_))

    @property
    def unusable(self) -> str:
        """Reason why nothing is to be learnt from the picture, where parts are aligned; empty: none."""
        return "" if self.pose is None or self.pose.found else "its part was not found"

    @property
    def outside_light(self) -> bool | None:
        """Whether the light cannot be corrected wholly; None: it is left as it is."""
        return None if self.tone is None else not self.tone.inside

    @property
    def parts(self) -> Sequence[Views]:
        """Views of each part among several; else these alone."""
        return [self]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.first.nbytes + (0 if self.canvas is None else self.canvas.nbytes)

    def with_roi(self, mask: Mask | None) -> Views:
        """Sets a region of interest [H, W], as the whole view shows it, and returns itself: pixels outside
        are marked like padding, and `numbers` leaves out tiles without a pixel inside."""
        if mask is not None:
            self.region = RegionOfInterest(mask, self.whole, self.geometry.size, self.visible)
        return self

    def __len__(self) -> int:
        return 1 if self.grid is None else 1 + len(self.grid)

    def position(self, number: int) -> int:
        """Position of a view in its frame: 0 of the whole, then of the tiles."""
        return number

    def placement(self, number: int) -> Geometry:
        """Placement of a view in the picture."""
        if not number or self.grid is None:
            return self.placed
        (y, x), (down, across) = self.grid.corner(number - 1), self.geometry.offset
        return replace(self.geometry, size=self.grid.tile, offset=(down - y, across - x))

    def view_numbers(self) -> list[int]:
        """Numbers of the views with pixels that count."""
        region, grid = self.region, self.grid
        if region is None or grid is None:
            return list(range(len(self)))
        return [0, *(tile + 1 for tile in region.tiles(grid))]

    def images(self, numbers: Iterable[int]) -> Float32:
        """Views `[n, 3, H, W]` float32 in 0..1, padding marked."""
        images = [self._view_image(number) for number in numbers]
        return images[0][None] if len(images) == 1 else np.stack(images)  # one is not copied

    def predict(self, run: RunModel, fusion: Fusion | None, batch: int = 1) -> tuple[float, Float32]:
        """The picture's score, and its map at `geometry.size`. fusion: None: there is one view. batch: views
        run at a time."""
        if self.grid is None or fusion is None:
            scores, maps = run(self.images([0]), None)
            return float(scores[0]), maps[0]
        blended, numbers = TileBlender(self.grid, self.whole, fusion, self.region), self.view_numbers()
        for start in range(0, len(numbers), batch):
            these = numbers[start : start + batch]
            where = np.array(these, np.int64)
            for number, score, drawn in zip(these, *run(self.images(these), where), strict=True):
                blended.add(number, float(score), drawn)
        return blended.result()

    def valid_mask(self) -> Mask:
        """Mask [H, W] at `geometry.size`: pixels of the picture that lie in the region of interest."""
        if self.grid is None:
            valid_mask: Mask = self.images([0])[0, 0] >= 0
            return valid_mask
        size = self.geometry.size
        return np.ones(size, np.bool_) if self.region is None else self.region.window(0, 0, *size)

    def window(self, y: int, x: int) -> Float32:
        """Tile `[3, H, W]` at any place of the canvas."""
        assert self.canvas is not None
        height, width = self.first.shape[2:]
        image = np.empty((3, height, width), np.float32)
        write_planes(self.canvas[y : y + height, x : x + width], self.divisor, image)
        image = image if self.tone is None else self.tone(image)
        inside = None if self.region is None else self.region.window(y, x, height, width)
        return self._mark_outside(image, inside)

    def _view_image(self, number: int) -> Float32:
        if number and self.grid is not None:
            return self.window(*self.grid.corner(number - 1))
        return self._mark_outside(self.first[0], None if self.region is None else self.region.mask)

    @staticmethod
    def _mark_outside(image: Float32, inside: Mask | None) -> Float32:
        return image if inside is None else np.where(inside | (image < 0), image, -1 - image)


class SeveralViews(Views):
    """Views of several parts or channels of a picture, those of one after the other, as many of each.

    geometry: where the picture's map lies in it.
    """

    def __init__(self, parts: Sequence[Views], geometry: Geometry):
        super().__init__(parts[0].first, geometry)
        self._parts = parts

    @property
    def parts(self) -> Sequence[Views]:
        return self._parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def outside_light(self) -> bool | None:
        outside = [part.outside_light for part in self.parts]
        return None if None in outside else any(outside)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def with_roi(self, mask: Mask | None) -> SeveralViews:
        for part in self.parts:
            part.with_roi(mask)
        return self

    def position(self, number: int) -> int:
        return number % len(self.parts[0])

    def placement(self, number: int) -> Geometry:
        each = len(self.parts[0])
        return self.parts[number // each].placement(number % each)

    def view_numbers(self) -> list[int]:
        each = len(self.parts[0])
        return [k * each + view for k, part in enumerate(self.parts) for view in part.view_numbers()]

    def images(self, numbers: Iterable[int]) -> Float32:
        each = len(self.parts[0])  # as many views of every part
        return np.concatenate([self.parts[number // each].images([number % each]) for number in numbers])

    def predict_each(
        self, run: RunModel, fusion: Fusion | None, batch: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Scores [n] and maps [n, h, w] of each. batch: views that are computed together; None: all, of tiles
        one."""
        if fusion is None:  # each is one view
            images, step = self.images(range(len(self))), batch or len(self)
            answers = [run(images[k : k + step], None) for k in range(0, len(self), step)]
            scores, maps = (np.concatenate(values) for values in zip(*answers, strict=True))
        else:
            pairs = [part.predict(run, fusion, batch or 1) for part in self.parts]
            scores, maps = (np.array(values) for values in zip(*pairs, strict=True))
        return np.asarray(scores), maps


def write_planes(planes: NDArray[Any], divisor: float, target: Float32) -> None:
    """Writes pixels [H, W] or [H, W, C] of any depth into [3, H, W], in 0..1."""
    if planes.ndim == 2 or planes.shape[2] == 1:
        np.divide(planes.reshape(planes.shape[:2]), divisor, out=target[0], dtype=np.float32)
        target[1:] = target[0]
    else:
        np.divide(planes.transpose(2, 0, 1), divisor, out=target, dtype=np.float32)
    if planes.dtype != np.uint8:
        np.clip(target, 0, 1, out=target)


def remove_padding_marks(images: Float32) -> tuple[Float32, Mask]:
    """Removes the marks of padding: images `[..., 3, H, W]` in 0..1, and a mask `[..., H, W]` bool of the
    pixels that are not padding."""
    inside: Mask = images[..., 0, :, :] >= 0
    return np.where(images < 0, -1 - images, images), inside


def hide_outside_roi(image: Float32, source: NDArray[np.int64] | None) -> Float32:
    """Hides the pixels outside of the region of interest in an image `[3, H, W]`, padding marked. source:
    [H W], the index of the pixel whose value each pixel gets; None: the image is a tile's, which is grey
    where it is marked."""
    if source is None:
        return np.where(image < 0, -1 - HIDDEN_GREY, image)
    return image.reshape(3, -1)[:, source].reshape(image.shape)
