"""Views of a picture for a network, and the combination of its answers for them. Torch-free.

The views are the whole of a frame and its tiles; a picture has a frame or several. A picture is scaled once,
to its canvas, and tiles are cut from it at whole pixels: neighbours show the same pixels where they overlap.
Sizes are (height, width), places (y, x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.types import Array
from flawscope.views.frames import PartFrames
from flawscope.views.geometry import Geometry
from flawscope.views.light import ToneCorrection
from flawscope.views.pose import Pose
from flawscope.views.resampling import picture_size, write_planes
from flawscope.views.tiles import Fusion, RegionOfInterest, TileBlender, TileGrid, TileSummary

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

HIDDEN_GREY = 128 / 255  # of tiles outside of the region of interest

# Runs a model: images [n, 3, H, W] -> scores [n], maps [n, H, W]
RunModel = Callable[[Any], Any]


class Views:
    """Views of a picture: 0 is the whole frame, the others are its tiles, row by row.

    Tiles are made when they are read. A frame of exactly one tile has that single view.

    Args:
        first: [1, 3, H, W], view 0.
        geometry: Place in the picture of its map: at the canvas's size with tiles.
        whole: Place of view 0 in the frame; None: `geometry`.
        grid: Places of the tiles; None: there is one view.
        canvas: Scaled frame that tiles are cut from.
        divisor: Value of the canvas that is white.
        tone: Correction of the picture's light, which `first` has had already; None: the light stays.
        pose: Pose of the part, as the view shows it; None: pictures are not aligned.
        placed: Place of view 0 in the picture; None: `geometry`.
        visible: [H, W], pixels of the canvas that show the picture; None: all.
    """

    def __init__(
        self,
        first: Float32,
        geometry: Geometry,
        whole: Geometry | None = None,
        grid: TileGrid | None = None,
        canvas: Array | None = None,
        divisor: float = 255.0,
        tone: ToneCorrection | None = None,
        pose: Pose | None = None,
        placed: Geometry | None = None,
        visible: Mask | None = None,
    ):
        self.first = first
        self.geometry = geometry
        self.whole = whole or geometry
        self.placed = placed or geometry
        self.grid = None if grid is None or len(grid) == 1 else grid
        self.canvas = canvas
        self.divisor = divisor
        self.tone = tone
        self.pose = pose
        self.visible = visible
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
    def frames(self) -> Sequence[Views]:
        """Views of each frame, where a picture has several; else these alone."""
        return [self]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.first.nbytes + (0 if self.canvas is None else self.canvas.nbytes)

    def with_roi(self, mask: Mask | None) -> Views:
        """Set a region of interest [H, W], as the whole view shows it, and return these views.

        Pixels outside are marked like padding, and `view_numbers` leaves out tiles without a pixel inside.
        """
        if mask is not None:
            self.region = RegionOfInterest(mask, self.whole, self.geometry.size, self.visible)
        return self

    def __len__(self) -> int:
        return 1 if self.grid is None else 1 + len(self.grid)

    def is_tile(self, number: int) -> bool:
        """Whether a view is a tile, not the whole of its frame."""
        return number > 0

    def placement(self, number: int) -> Geometry:
        """Return the place of a view in the picture."""
        if not number or self.grid is None:
            return self.placed
        (y, x), (down, across) = self.grid.corner(number - 1), self.geometry.offset
        return replace(self.geometry, size=self.grid.tile, offset=(down - y, across - x))

    def view_numbers(self) -> list[int]:
        """Numbers of the views with pixels that count."""
        region = self.region
        grid = self.grid
        if region is None or grid is None:
            return list(range(len(self)))
        return [0, *(tile + 1 for tile in region.tiles(grid))]

    def images(self, numbers: Iterable[int]) -> Float32:
        """Views `[n, 3, H, W]` float32 in 0..1, padding marked."""
        images = [self._view_image(number) for number in numbers]
        return images[0][None] if len(images) == 1 else np.stack(images)  # one is not copied

    def predict(self, run: RunModel, fusion: Fusion | None, batch: int = 1) -> tuple[float, Float32]:
        """Return the picture's score, and its map at `geometry.size`.

        Args:
            run: Runs the model.
            fusion: Settings that join the answers for the whole view and its tiles; None: there is one view.
            batch: Views that run at a time.
        """
        if self.grid is None or fusion is None:
            scores, maps = run(self.images([0]))
            return float(scores[0]), maps[0]
        return self.blend(run, batch).result(fusion)

    def blend(self, run: RunModel, batch: int = 1, bound: RunModel | None = None) -> TileBlender:
        """Run the views of a frame with tiles, and put their answers together.

        Args:
            run: Runs the model.
            batch: Views that run at a time.
            bound: A faster run for tiles, whose maps are nowhere lower; where the map's maximum lies, `run`
                decides. None: `run` judges all.
        """
        assert self.grid is not None
        blended = TileBlender(self.grid, self.whole, self.region)
        numbers = self.view_numbers()
        unsure = dict[int, Float32]()
        if bound is not None:  # of tiles alone
            blended.add(numbers.pop(0), *(answer[0] for answer in run(self.images([0]))))
        for start in range(0, len(numbers), batch):
            these = numbers[start : start + batch]
            for number, score, drawn in zip(these, *(bound or run)(self.images(these)), strict=True):
                blended.add(number, float(score), drawn)
                if bound is not None:
                    unsure[number] = drawn
        blended.confirm_maximum(unsure, lambda views: run(self.images(views))[1])
        return blended

    def summary(
        self, run: RunModel, counted: Mask, batch: int = 1, bound: RunModel | None = None
    ) -> TileSummary:
        """Summarise the answers for a frame, until the fusion is known by which `predict` joins them.

        Args:
            run: Runs the model.
            counted: [H, W], pixels of the region of interest that the network knows.
            batch: Views that run at a time.
            bound: A faster run for tiles, as `blend` takes it; None: there is none.
        """
        shown = self.images([0])[0, 0] >= 0
        if self.grid is not None:
            return self.blend(run, batch, bound).summary(shown)
        scores, maps = run(self.images([0]))
        return TileSummary.of_view(float(scores[0]), maps[0], shown & counted)

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


class FrameViews(Views):
    """Views of several frames of a picture, frame by frame, as many of each.

    Args:
        frames: Views of each frame.
        geometry: Place in the picture of its map.
    """

    def __init__(self, frames: Sequence[Views], geometry: Geometry):
        super().__init__(frames[0].first, geometry)
        self._frames = frames

    @property
    def frames(self) -> Sequence[Views]:
        """Views of each frame."""
        return self._frames

    def __len__(self) -> int:
        return sum(map(len, self.frames))

    @property
    def outside_light(self) -> bool | None:
        """Whether a frame's light cannot be corrected wholly; None: it is left as it is."""
        outside = [frame.outside_light for frame in self.frames]
        return None if None in outside else any(outside)

    @property
    def nbytes(self) -> int:
        """Bytes in memory of all frames."""
        return sum(frame.nbytes for frame in self.frames)

    def with_roi(self, mask: Mask | None) -> FrameViews:
        """Set a region of interest [H, W] in each frame, and return these views."""
        for frame in self.frames:
            frame.with_roi(mask)
        return self

    def is_tile(self, number: int) -> bool:
        """Whether a view, counted over all frames, is a tile of its frame."""
        return number % len(self.frames[0]) > 0

    def placement(self, number: int) -> Geometry:
        """Return the place in the picture of a view, counted over all frames."""
        each = len(self.frames[0])
        return self.frames[number // each].placement(number % each)

    def view_numbers(self) -> list[int]:
        """Numbers of the views with pixels that count, counted over all frames."""
        each = len(self.frames[0])
        return [k * each + view for k, frame in enumerate(self.frames) for view in frame.view_numbers()]

    def images(self, numbers: Iterable[int]) -> Float32:
        """Return views [n, 3, H, W] float32 in 0..1, padding marked, by their numbers over all frames."""
        each = len(self.frames[0])  # as many views of every frame
        return np.concatenate([self.frames[number // each].images([number % each]) for number in numbers])

    def predict_each(
        self, run: RunModel, fusion: Fusion | None, batch: int | None = None
    ) -> tuple[Array, Array]:
        """Return the scores [n] and the maps [n, h, w] of all frames.

        Args:
            run: Runs the model.
            fusion: Settings that join the answers for a whole view and its tiles; None: each frame is one
                view.
            batch: Views that run at a time; None: all, or one by one where there are tiles.
        """
        if fusion is None:  # each is one view
            images = self.images(range(len(self)))
            step = batch or len(self)
            outputs = [run(images[k : k + step]) for k in range(0, len(self), step)]
            scores, maps = (np.concatenate(values) for values in zip(*outputs, strict=True))
        else:
            pairs = [frame.predict(run, fusion, batch or 1) for frame in self.frames]
            scores, maps = (np.array(values) for values in zip(*pairs, strict=True))
        return np.asarray(scores), maps


class PartFrameViews(FrameViews):
    """Views of all parts in a picture, part by part.

    Args:
        frames: Views of each part.
        found: The parts.
        scale: Pixels of their maps for a pixel of the picture.
    """

    def __init__(self, frames: Sequence[Views], found: PartFrames, scale: float):
        # no finer than the picture
        picture = picture_size(found.middle.picture)
        share = min(1.0, scale)
        height, width = (max(1, math.ceil(side * share)) for side in picture)
        placed = Geometry(picture, (height, width), (height / picture[0], width / picture[1]), (0.0, 0.0))
        super().__init__(frames, placed)
        self.poses = found.poses
        self.objects = found.objects
        self.count_error = found.count_error

    @property
    def unusable(self) -> str:
        """Says how the parts are counted wrong, which leaves nothing to learn; empty: they are not."""
        return f"its parts are counted wrong: {self.count_error}" if self.count_error else ""

    def predict(self, run: RunModel, fusion: Fusion | None, batch: int = 1) -> tuple[float, Float32]:
        """Return the picture's score, and its map at `geometry.size`.

        The score is the largest of the parts; the map is that of `predict_parts`.

        Args:
            run: Runs the model.
            fusion: Settings that join the answers for the whole view and its tiles; None: each frame is one
                view.
            batch: Views that run at a time.
        """
        scores, drawn, _ = self.predict_parts(run, fusion, batch)
        return float(scores.max()), drawn

    def predict_parts(
        self, run: RunModel, fusion: Fusion | None, batch: int | None = None, roi: Mask | None = None
    ) -> tuple[Array, Float32, NDArray[np.uint16]]:
        """Judge each part.

        Args:
            run: Runs the model.
            fusion: Settings that join the answers for a whole view and its tiles; None: each part is one
                view.
            batch: Views that run at a time; None: all, or one by one where there are tiles.
            roi: [H, W], region of interest that the network knows, as a part's view shows it; None: all.

        Returns:
            The scores of all parts [n]. The picture's map: the largest value where parts overlap, and the
            middle value where there is none. At each of its pixels the number of the part that is inspected
            there, from 1; 0: none, or several.
        """
        scores, maps = self.predict_each(run, fusion, batch)
        whole = np.full(self.geometry.size, -np.inf, np.float32)
        numbers = np.zeros(self.geometry.size, np.uint16)
        for number, (part, values) in enumerate(zip(self.frames, maps, strict=True), 1):
            here = part.geometry.with_picture_size(self.geometry.size)
            x0, y0, x1, y1 = (round(at) for at in here.to_picture((0, 0, *values.shape[::-1])))
            if x0 < x1 and y0 < y1:
                window = here.window(y0, x0, y1 - y0, x1 - x0)
                valid = window.warp_mask(part.valid_mask())
                other = whole[y0:y1, x0:x1] > -np.inf
                seen = np.where(valid, window.warp(values, -np.inf), -np.inf)
                whole[y0:y1, x0:x1] = np.maximum(whole[y0:y1, x0:x1], seen)
                inspected = valid if roi is None else valid & window.warp_mask(roi)
                numbers[y0:y1, x0:x1][valid & other] = 0
                numbers[y0:y1, x0:x1][inspected & ~other] = number
        covered = whole > -np.inf
        whole[~covered] = np.median(whole[covered]) if covered.any() else 0.0
        return scores, whole, numbers

    def valid_mask(self) -> Mask:
        """Mask [H, W] at `geometry.size`: all of the picture, also between the parts."""
        return np.ones(self.geometry.size, np.bool_)


class ChannelViews(FrameViews):
    """Views of all channels of a picture, channel group by channel group.

    The picture's score is the largest of the groups, and its map has at each place the largest value.
    """

    def __init__(self, frames: Sequence[Views]):
        super().__init__(frames, frames[0].geometry)
        self.whole = frames[0].whole
        self.placed = frames[0].placed
        self.pose = frames[0].pose

    def predict(self, run: RunModel, fusion: Fusion | None, batch: int = 1) -> tuple[float, Float32]:
        """Return the picture's score, and its map at `geometry.size`.

        Both are the largest of all channel groups.

        Args:
            run: Runs the model.
            fusion: Settings that join the answers for the whole view and its tiles; None: each frame is one
                view.
            batch: Views that run at a time.
        """
        scores, maps = self.predict_each(run, fusion, batch)
        return float(scores.max()), np.max(maps, axis=0)

    def valid_mask(self) -> NDArray[np.bool_]:
        """Mask [H, W] at `geometry.size`, the same for all channels."""
        return self.frames[0].valid_mask()


def remove_padding_marks(images: Float32) -> tuple[Float32, Mask]:
    """Return images `[..., 3, H, W]` in 0..1 without the marks of padding, and where they are not padding.

    The mask is `[..., H, W]` bool.
    """
    inside: Mask = images[..., 0, :, :] >= 0
    return np.where(images < 0, -1 - images, images), inside


def hide_outside_roi(image: Float32, source: NDArray[np.int64] | None) -> Float32:
    """Hide the pixels outside of the region of interest in an image `[3, H, W]`, padding marked.

    Args:
        image: Whole view, or a tile.
        source: [H W], index of the pixel whose value each pixel gets; None: the image is a tile, which
            becomes grey where it is marked.
    """
    if source is None:
        return np.where(image < 0, -1 - HIDDEN_GREY, image)
    return image.reshape(3, -1)[:, source].reshape(image.shape)
