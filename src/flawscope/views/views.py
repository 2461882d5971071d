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

HIDDEN_GREY = 128 / 255  # grey of the pixels of tiles outside the region of interest

# Runs a model: images [n, 3, H, W] -> scores [n], maps [n, H, W]
RunModel = Callable[[Any], Any]


class Views:
    """Views of a picture: 0 is the whole frame, the others are its tiles, row by row.

    Tiles are made when they are read. A frame with a single tile has only the view 0.

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
            # a region of all pixels leaves out those that are not visible
            self.with_roi(np.ones(self.whole.size, np.bool_))

    @property
    def unusable(self) -> str:
        """Reason why the picture cannot be used, as its part was not found; empty: no reason."""
        return "" if self.pose is None or self.pose.found else "its part was not found"

    @property
    def outside_light(self) -> bool | None:
        """Whether the light cannot be corrected wholly; None: the light is not corrected."""
        return None if self.tone is None else not self.tone.inside

    @property
    def frames(self) -> Sequence[Views]:
        """Views of each frame, if the picture has several frames; else a list of these views alone."""
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
        y, x = self.grid.corner(number - 1)
        offset_y, offset_x = self.geometry.offset
        return replace(self.geometry, size=self.grid.tile, offset=(offset_y - y, offset_x - x))

    def view_numbers(self) -> list[int]:
        """Return the numbers of the views with pixels that count."""
        region = self.region
        grid = self.grid
        if region is None or grid is None:
            return list(range(len(self)))
        return [0, *(tile + 1 for tile in region.tiles(grid))]

    def images(self, numbers: Iterable[int]) -> Float32:
        """Return views `[n, 3, H, W]` float32 in 0..1, padding marked; a single view is not copied."""
        images = [self._view_image(number) for number in numbers]
        return images[0][None] if len(images) == 1 else np.stack(images)

    def predict(self, run: RunModel, fusion: Fusion | None, batch: int = 1) -> tuple[float, Float32]:
        """Return the picture's score, and its map at `geometry.size`.

        Args:
            run: Function that runs the model on images (`RunModel`).
            fusion: Settings that combine the results of the whole view and its tiles; None: there is a single
                view.
            batch: Number of views that run at a time.
        """
        if self.grid is None or fusion is None:
            scores, maps = run(self.images([0]))
            return float(scores[0]), maps[0]
        return self.blend(run, batch).result(fusion)

    def blend(self, run: RunModel, batch: int = 1, bound: RunModel | None = None) -> TileBlender:
        """Run the views of a frame with tiles, and put their answers together.

        Args:
            run: Function that runs the model on images (`RunModel`).
            batch: Number of views that run at a time.
            bound: A faster run for tiles, whose maps are nowhere lower than those of `run`. The tiles around
                the map's maximum are then run again by `run`. None: `run` is used for all views.
        """
        assert self.grid is not None
        blender = TileBlender(self.grid, self.whole, self.region)
        numbers = self.view_numbers()
        if bound is not None:  # `bound` is for tiles only: `run` judges the whole view
            whole_scores, whole_maps = run(self.images([0]))
            blender.add(numbers.pop(0), whole_scores[0], whole_maps[0])
        run_tiles = bound or run
        bound_maps = dict[int, Float32]()  # number of a view -> upper bound of its map
        for start in range(0, len(numbers), batch):
            batch_numbers = numbers[start : start + batch]
            scores, maps = run_tiles(self.images(batch_numbers))
            for number, score, view_map in zip(batch_numbers, scores, maps, strict=True):
                blender.add(number, float(score), view_map)
                if bound is not None:
                    bound_maps[number] = view_map

        def run_maps(views: list[int]) -> Iterable[Float32]:
            _, exact_maps = run(self.images(views))
            return exact_maps  # type: ignore[no-any-return]

        blender.confirm_maximum(bound_maps, run_maps)
        return blender

    def summary(
        self, run: RunModel, counted: Mask, batch: int = 1, bound: RunModel | None = None
    ) -> TileSummary:
        """Run the model on a frame, and return a summary to which a fusion can be applied later.

        Args:
            run: Function that runs the model on images (`RunModel`).
            counted: Mask [H, W] of the region of interest in the frame's view.
            batch: Number of views that run at a time.
            bound: A faster run for tiles, as in `blend`; None: there is none.
        """
        is_picture = self.images([0])[0, 0] >= 0  # padding is negative
        if self.grid is not None:
            return self.blend(run, batch, bound).summary(is_picture)
        scores, maps = run(self.images([0]))
        return TileSummary.of_view(float(scores[0]), maps[0], is_picture & counted)

    def valid_mask(self) -> Mask:
        """Return the mask [H, W] at `geometry.size` of the picture's pixels in the region of interest."""
        if self.grid is None:
            valid_mask: Mask = self.images([0])[0, 0] >= 0
            return valid_mask
        size = self.geometry.size
        return np.ones(size, np.bool_) if self.region is None else self.region.window(0, 0, *size)

    def window(self, y: int, x: int) -> Float32:
        """Cut a tile `[3, H, W]` with its upper left corner at any place (y, x) of the canvas."""
        assert self.canvas is not None
        height, width = self.first.shape[2:]
        image = np.empty((3, height, width), np.float32)
        write_planes(self.canvas[y : y + height, x : x + width], self.divisor, image)
        if self.tone is not None:
            image = self.tone(image)
        inside = None if self.region is None else self.region.window(y, x, height, width)
        return self._mark_outside(image, inside)

    def _view_image(self, number: int) -> Float32:
        """Return a view [3, H, W] by its number, padding marked."""
        if number and self.grid is not None:
            return self.window(*self.grid.corner(number - 1))
        return self._mark_outside(self.first[0], None if self.region is None else self.region.mask)

    @staticmethod
    def _mark_outside(image: Float32, inside: Mask | None) -> Float32:
        """Mark the pixels of an image [3, H, W] outside the region like padding: v becomes -1 - v.

        Args:
            image: The image, whose padding is marked already.
            inside: [H, W], pixels of the region of interest; None: all.
        """
        if inside is None:
            return image
        is_marked = image < 0
        return np.where(inside | is_marked, image, -1 - image)


class FrameViews(Views):
    """Views of several frames of a picture, frame by frame; each frame has the same number of views.

    Args:
        frames: Views of each frame.
        geometry: Place of the map in the picture.
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
        """Whether the light of any frame cannot be corrected wholly; None: the light is left as it is."""
        outside = [frame.outside_light for frame in self.frames]
        if None in outside:
            return None
        return any(outside)

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
        frame_number, view_number = divmod(number, len(self.frames[0]))
        return self.frames[frame_number].placement(view_number)

    def view_numbers(self) -> list[int]:
        """Return the numbers of the views with pixels that count, counted over all frames."""
        view_count = len(self.frames[0])  # each frame has the same number of views
        numbers = []
        for frame_number, frame in enumerate(self.frames):
            numbers += [frame_number * view_count + view_number for view_number in frame.view_numbers()]
        return numbers

    def images(self, numbers: Iterable[int]) -> Float32:
        """Return views [n, 3, H, W] float32 in 0..1, padding marked, by their numbers over all frames."""
        view_count = len(self.frames[0])  # each frame has the same number of views
        images = []
        for number in numbers:
            frame_number, view_number = divmod(number, view_count)
            images.append(self.frames[frame_number].images([view_number]))
        return np.concatenate(images)

    def predict_each(
        self, run: RunModel, fusion: Fusion | None, batch: int | None = None
    ) -> tuple[Array, Array]:
        """Return the scores [n] and the maps [n, h, w] of all frames.

        Args:
            run: Function that runs the model on images (`RunModel`).
            fusion: Settings that combine the results of a whole view and its tiles; None: each frame is one
                view.
            batch: Number of views that run at a time; None: all, or one by one where there are tiles.
        """
        if fusion is None:  # each frame is one view
            images = self.images(range(len(self)))
            batch_size = batch or len(self)
            outputs = [run(images[start : start + batch_size]) for start in range(0, len(self), batch_size)]
            scores, maps = zip(*outputs, strict=True)
            return np.asarray(np.concatenate(scores)), np.concatenate(maps)
        frame_results = [frame.predict(run, fusion, batch or 1) for frame in self.frames]
        frame_scores, frame_maps = zip(*frame_results, strict=True)
        return np.array(frame_scores), np.array(frame_maps)


class PartFrameViews(FrameViews):
    """Views of all parts in a picture, part by part.

    Args:
        frames: Views of each part.
        parts: The parts.
        scale: Pixels of a part's map per pixel of the picture.
    """

    def __init__(self, frames: Sequence[Views], parts: PartFrames, scale: float):
        size = picture_size(parts.middle.picture)
        picture_height, picture_width = size
        map_scale = min(1.0, scale)  # the map is no finer than the picture
        height = max(1, math.ceil(picture_height * map_scale))
        width = max(1, math.ceil(picture_width * map_scale))
        scales = height / picture_height, width / picture_width
        super().__init__(frames, Geometry(size, (height, width), scales, offset=(0.0, 0.0)))
        self.poses = parts.poses
        self.objects = parts.objects
        self.count_error = parts.count_error

    @property
    def unusable(self) -> str:
        """Reason why the picture cannot be used: how its parts are counted wrong; empty: no reason."""
        return f"its parts are counted wrong: {self.count_error}" if self.count_error else ""

    def predict(self, run: RunModel, fusion: Fusion | None, batch: int = 1) -> tuple[float, Float32]:
        """Return the picture's score, and its map at `geometry.size`.

        The score is the largest of the parts; the map is that of `predict_parts`.

        Args:
            run: Function that runs the model on images (`RunModel`).
            fusion: Settings that combine the results of the whole view and its tiles; None: each frame is one
                view.
            batch: Number of views that run at a time.
        """
        scores, picture_map, _ = self.predict_parts(run, fusion, batch)
        return float(scores.max()), picture_map

    def predict_parts(
        self, run: RunModel, fusion: Fusion | None, batch: int | None = None, roi: Mask | None = None
    ) -> tuple[Array, Float32, NDArray[np.uint16]]:
        """Judge each part, and put the maps of the parts together.

        Args:
            run: Function that runs the model on images (`RunModel`).
            fusion: Settings that combine the results of a whole view and its tiles; None: each part is one
                view.
            batch: Number of views that run at a time; None: all, or one by one where there are tiles.
            roi: Mask [H, W] of the region of interest in a part's view; None: all pixels are of interest.

        Returns:
            The scores of the parts [n]; the picture's map; and at each pixel of the map the number of the
            part that is inspected there, from 1, or 0 for none or several. Where parts overlap, the map has
            the largest value. Where there is no part, it has the median of the other pixels.
        """
        scores, maps = self.predict_each(run, fusion, batch)
        picture_map = np.full(self.geometry.size, -np.inf, np.float32)
        numbers = np.zeros(self.geometry.size, np.uint16)
        for number, (part, part_map) in enumerate(zip(self.frames, maps, strict=True), 1):
            geometry = part.geometry.with_picture_size(self.geometry.size)
            height, width = part_map.shape
            x0, y0, x1, y1 = (round(edge) for edge in geometry.to_picture((0, 0, width, height)))
            if x0 >= x1 or y0 >= y1:
                continue  # the part lies outside the picture
            window = geometry.window(y0, x0, y1 - y0, x1 - x0)
            valid = window.warp_mask(part.valid_mask())
            inspected = valid if roi is None else valid & window.warp_mask(roi)
            warped = np.where(valid, window.warp(part_map, -np.inf), -np.inf)
            # slices of arrays: writing into them changes `picture_map` and `numbers`
            map_window = picture_map[y0:y1, x0:x1]
            number_window = numbers[y0:y1, x0:x1]
            has_other_part = map_window > -np.inf
            np.maximum(map_window, warped, out=map_window)
            number_window[valid & has_other_part] = 0
            number_window[inspected & ~has_other_part] = number
        covered = picture_map > -np.inf
        picture_map[~covered] = np.median(picture_map[covered]) if covered.any() else 0.0
        return scores, picture_map, numbers

    def valid_mask(self) -> Mask:
        """Return the mask [H, W] at `geometry.size`: all of the picture, also between the parts."""
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

        Score and values of the map are the largest of all channel groups.

        Args:
            run: Function that runs the model on images (`RunModel`).
            fusion: Settings that combine the results of the whole view and its tiles; None: each frame is one
                view.
            batch: Number of views that run at a time.
        """
        scores, maps = self.predict_each(run, fusion, batch)
        return float(scores.max()), np.max(maps, axis=0)

    def valid_mask(self) -> NDArray[np.bool_]:
        """Return the mask [H, W] at `geometry.size`, which is the same for all channels."""
        return self.frames[0].valid_mask()


def remove_padding_marks(images: Float32) -> tuple[Float32, Mask]:
    """Remove the marks of padding from images `[..., 3, H, W]`.

    Returns:
        The images in 0..1; and a mask `[..., H, W]` bool of the pixels that were not marked.
    """
    inside: Mask = images[..., 0, :, :] >= 0
    return np.where(images < 0, -1 - images, images), inside


def hide_outside_roi(image: Float32, source: NDArray[np.int64] | None) -> Float32:
    """Replace the pixels of an image `[3, H, W]` outside of the region of interest, padding marked.

    Args:
        image: Whole view, or a tile.
        source: [H * W], for each pixel the index of the pixel whose value it gets. None: the image is a tile,
            and its marked pixels become grey.
    """
    if source is None:
        return np.where(image < 0, -1 - HIDDEN_GREY, image)
    return image.reshape(3, -1)[:, source].reshape(image.shape)
