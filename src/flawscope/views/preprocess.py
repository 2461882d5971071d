"""Turns a picture into the network's input, and maps back; the same for every runtime. Torch-free.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5. Sizes are (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from numbers import Real
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError, suggest_name
from flawscope.pictures.arrays import check_depth, grey_as_rgb, picture_error
from flawscope.pictures.channels import Channels, mean_channel
from flawscope.pictures.decoding import HashedPicture, PictureSource, decode, load_picture, source_name
from flawscope.pictures.form import MAX_CANVAS_PIXELS
from flawscope.pictures.levels import Levels
from flawscope.types import Array, Json
from flawscope.views.frames import AlignedPart, Frame, WholePicture, find_frames
from flawscope.views.geometry import Geometry, positive_integer
from flawscope.views.light import Light, Normalization, ToneCorrection, light_variations
from flawscope.views.overlap import DEFAULT_OVERLAP, MAX_OVERLAP
from flawscope.views.pose import SIDE, PoseReference
from flawscope.views.resampling import Raster, resized, small_grey, warp_view, write_planes
from flawscope.views.several_parts import SeveralParts
from flawscope.views.tiles import TileGrid
from flawscope.views.undistort import Undistortion
from flawscope.views.views import ChannelViews, PartFrameViews, Views

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

DEFAULT_SIZE = (256, 256)
# Factors of a tile's scaling for the network: beyond them a small picture would become a gigantic canvas, or
# a large one a point
MAX_ENLARGEMENT = 8
MAX_REDUCTION = 1024


class Correction(Protocol):
    """Stage that changes the picture itself, before all others.

    Its answer is the same for a scene in 8, 12 or 16 bits or in floats: it goes by `divisor`, never by the
    type of the values.
    """

    def __call__(self, picture: Raster, divisor: float, name: str) -> Raster:
        """Correct a picture.

        Args:
            picture: Values of any type, of which 0 is black.
            divisor: Value that is white; larger values are white, too. It may be below the type's maximum.
            name: Name of the picture for errors.

        Returns:
            The corrected picture, of the same size and with the same white value.

        Raises:
            InputError: The picture cannot be corrected.
        """

    def mask(self, mask: Mask) -> Mask:
        """Transform a mask [H, W] of the picture as taken into a mask of the corrected picture."""

    def restored(self, drawn: Array, placed: Geometry, fill: float | None) -> tuple[Array, Geometry]:
        """Transform a map of the corrected picture into a map of the picture as taken.

        Args:
            drawn: Map of the corrected picture.
            placed: Place of that map in the corrected picture.
            fill: Value of pixels outside that map; None: its median.

        Returns:
            The transformed map, and its place in the picture as taken.
        """


# Stages before sizes and tiles, by the keys of the fields and of the model file: a new one is a file, its
# entry here and its field. Corrections come in this order, before all others.
LEARNT_STAGES: Json = {
    "normalization": Normalization,
    "reference": PoseReference,
    "several": SeveralParts,
    "channels": Channels,
}
CORRECTIONS: Json = {"undistort": Undistortion}
STAGES = {**LEARNT_STAGES, **CORRECTIONS}


@dataclass(frozen=True)
class Preprocess:
    """Turns a picture into the network's input, the same for training and every runtime.

    It is stored in the manifest. A picture becomes views in this order: corrections, frames (the picture, the
    aligned part or each of several), light, the region of interest, which lies in the frame, sizes and tiles.

    Resampling is Pillow's antialiased bilinear. Values are clipped to 0..1; with a `black_level` before they
    are resampled: a stray pixel stays one pixel. Nothing depends on the content of a single picture. The
    value v of a repeated edge pixel stands as -1 - v: methods distinguish it from the product.

    Attributes:
        size: (H, W) that a frame is scaled to. Without `crop` the whole frame is stretched to it.
        keep_aspect: Whether the frame is fitted into `size` instead, centred, its edge pixels repeated
            outwards (letterbox); with `crop` it is scaled until it covers `size` (the PatchCore paper's 256
            -> 224).
        crop: (H, W) of the centre that is kept after scaling; None: all.
        white_level: Value that is 1 in deep pictures; all pictures are resampled in float32, and 8-bit ones
            divided by 255. None: the model learnt from 8-bit pictures and sees others as such, uint16 divided
            by 65535, floats by 1.
        black_level: Value that is 0 in deep pictures; None: 0.
        tile: (H, W) of the frame's pixels: the frame is seen in tiles as well, each scaled to `size`; None:
            it is not.
        overlap: Share of a tile that two neighbours have in common (`Views`).
        normalization: Brings pictures to the light of the good ones.
        reference: The part is found, and the network sees it turned and moved as the reference is, not
            stretched, with its surroundings; pixels outside of the picture are marked as padding. A part that
            is not found leaves the picture as it lies.
        several: All parts in a picture are found; each is seen by itself, in tiles and in its light as well.
        undistort: Pictures are undistorted first, in files of earlier versions.
        channels: A picture has any number of channels, seen in views of one or three, judged together.
    """

    size: tuple[int, int] = DEFAULT_SIZE
    keep_aspect: bool = False
    crop: tuple[int, int] | None = None
    white_level: float | None = None
    black_level: float | None = None
    tile: tuple[int, int] | None = None
    overlap: float = DEFAULT_OVERLAP
    normalization: Normalization | None = None
    reference: PoseReference | None = None
    several: SeveralParts | None = None
    undistort: Undistortion | None = None
    channels: Channels | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _parse_size("size", self.size))
        if self.crop is not None:
            object.__setattr__(self, "crop", _parse_crop(self.crop, self.size))
        if not isinstance(self.keep_aspect, bool):
            raise InputError(f"keep_aspect is {self.keep_aspect!r}; give true or false")
        if self.tile is not None:
            object.__setattr__(self, "tile", _parse_size("tile", self.tile))
            if self.crop is not None:
                raise InputError("crop and tile do not go together: leave one out")
            _check_tile_scale(self.tile, self.size)
        if self.several is not None and self.reference is None:
            raise InputError("several parts need a reference: fit anew")
        if not _is_number(self.overlap) or not 0 <= self.overlap <= MAX_OVERLAP:
            raise InputError(
                f"overlap is {self.overlap!r:.25}; give a share of a tile from 0 to {MAX_OVERLAP}"
            )
        self._parse_levels()

    def _parse_levels(self) -> None:
        white, black = self.white_level, self.black_level
        if white is not None:
            if not _is_number(white) or not 0 < white < math.inf:
                raise InputError(f"white_level is {white!r}; give a number above 0, or none")
            object.__setattr__(self, "white_level", float(white))
        if black is not None:
            upper_bound = white or 0.0  # without a white level, no black level is valid
            if not _is_number(black) or not 0 <= black < upper_bound:
                raise InputError(f"black_level is {black!r}; give a number from 0 to below the white level")
            object.__setattr__(self, "black_level", float(black))

    @classmethod
    def of_levels(
        cls, levels: Levels | None, *, size: tuple[int, int] = DEFAULT_SIZE, channels: Channels | None = None
    ) -> Preprocess:
        """Return the preprocessing for pictures with these black and white levels; None: 8-bit pictures."""
        black, white = levels or (None, None)
        return cls(size, white_level=white, black_level=black, channels=channels)

    @property
    def levels(self) -> Levels | None:
        """Values of deep pictures that are black and white; None: the model learnt from 8-bit pictures."""
        return None if self.white_level is None else Levels(self.black_level or 0.0, self.white_level)

    @property
    def network_size(self) -> tuple[int, int]:
        """Size (H, W) of the tensor."""
        return self.crop or self.size

    @property
    def lights(self) -> list[Light]:
        """Changes of light under which the false-alarm rate holds; the first changes nothing."""
        return [Light()] if self.normalization is None else light_variations(self.normalization.share)

    @cached_property
    def corrections(self) -> list[Correction]:
        """Stages that change the picture itself."""
        return [stage for name in CORRECTIONS if (stage := getattr(self, name)) is not None]

    @cached_property
    def framing(self) -> WholePicture | AlignedPart:
        """Stage that makes the frames of pictures."""
        if self.reference is None:
            return WholePicture()
        return AlignedPart(self.reference, SIDE if self.several is None else self.several.side)

    @cached_property
    def whole(self) -> Preprocess:
        """The preprocessing of the whole picture, without tiles."""
        return self if self.tile is None else replace(self, tile=None)

    def __call__(self, source: PictureSource, name: str | None = None) -> tuple[Float32, Geometry]:
        """Return the network's input for a picture, and the place of its map in the picture.

        The input is [T, 3, H, W] float32 in 0..1, RGB, padding marked. T is the number of views, 1 without
        tiles. For large pictures, `views` makes the views one by one.

        Args:
            source: Picture that `decode` reads.
            name: Name for errors; None: the source's.
        """
        views = self.views(source, name)
        return views.images(range(len(views))), views.geometry

    def read(self, source: PictureSource | HashedPicture, name: str | None = None) -> Raster:
        """Read a picture: with `channels`, all of them [H, W, N]; else as `load_picture` does.

        Raises:
            InputError: The picture cannot be read.
        """
        return load_picture(source, name) if self.channels is None else self.channels.read(source, name)

    def decode(self, source: PictureSource, name: str | None = None) -> Array:
        """Read a picture as `read` does, to an array."""
        return decode(source, name=name) if self.channels is None else np.asarray(self.read(source, name))

    def views(self, source: PictureSource, name: str | None = None, counted: Mask | None = None) -> Views:
        """Cut a picture into the network's views.

        Args:
            source: Picture that `decode` reads.
            name: Name for errors; None: the source's.
            counted: [H, W], region of interest in the view of the whole picture, in which the light is
                measured; None: it is measured in the whole view.

        Raises:
            InputError: The picture cannot be read, or is smaller than a tile.
        """
        name = name or source_name(source)
        return self.cut(self.read(source, name), name, counted)

    def cut(self, raster: Raster, name: str, counted: Mask | None = None) -> Views:
        """Cut a picture that `read` or `decode` returned into the network's views.

        Args:
            raster: The picture.
            name: Name for errors.
            counted: [H, W], region of interest in the view of the whole picture, in which the light is
                measured; None: it is measured in the whole view.
        """
        if self.channels is not None:
            return self._channel_views(self.channels, np.asarray(raster), counted, name)
        picture, divisor = self._corrected(raster, name)
        if self.several is None:
            pose = self.framing.find(lambda: small_grey(picture, divisor))
            return self._views_of(self.framing.frame(picture, divisor, self.size, pose), counted, name)
        assert isinstance(self.framing, AlignedPart)
        parts = find_frames(picture, divisor, self.size, self.framing, self.several)
        part_views = [self._views_of(frame, counted, name) for frame in parts.frames]
        map_place = parts.middle.place(self.geometry(parts.middle.size))
        scale, _ = map_place.scale
        return PartFrameViews(part_views, parts, scale)

    def _channel_views(
        self, channels: Channels, values: Array, counted: Mask | None, name: str
    ) -> ChannelViews:
        """Return views of a picture's channels [H, W, N], in groups of channels.

        The part's pose is found once, in the mean of all channels, and holds for all groups.
        """
        single_group = replace(self, channels=None)  # preprocesses a group of channels like a picture
        pose = self.framing.find(lambda: self.small(values))
        group_views = []
        for group in channels.split(values):
            picture, divisor = single_group._corrected(group, name)
            frame = self.framing.frame(picture, divisor, self.size, pose)
            group_views.append(single_group._views_of(frame, counted, name))
        return ChannelViews(group_views)

    def _views_of(self, frame: Frame, counted: Mask | None, name: str) -> Views:
        """Return the views of a frame: of the whole frame, and of its tiles.

        `counted` is the region of interest, as `cut` takes it.
        """
        whole_view, placed = self._whole_view(frame)
        pose = frame.pose
        size = frame.size
        is_picture = whole_view[0, 0] >= 0  # padding is negative
        if pose is not None and counted is not None and not (counted & is_picture).any():
            # no pixel of the region of interest lies in the picture: the part counts as not found
            pose = replace(pose, error=math.inf)
        whole_view, tone = self.lit(whole_view, counted)
        if self.tile is None:
            return Views(whole_view, placed, tone=tone, pose=pose)
        grid = self.grid(size)
        canvas_place = self.geometry(size)
        self._check_tiles(grid, canvas_place, name)
        canvas, visible = frame.scaled(canvas_place)
        return Views(
            whole_view,
            geometry=frame.place(canvas_place),
            whole=self.whole.geometry(size),
            grid=grid,
            canvas=canvas,
            divisor=frame.divisor,
            tone=tone,
            pose=pose,
            placed=placed,
            visible=visible,
        )

    def lit(self, first: Float32, counted: Mask | None) -> tuple[Float32, ToneCorrection | None]:
        """Correct the light of a whole picture's view to that of good pictures.

        Args:
            first: [1, 3, H, W], the view.
            counted: [H, W], pixels whose light is measured; None: all.

        Returns:
            The corrected view, and the correction. Without `normalization`: the given view, and None.
        """
        if self.normalization is None:
            return first, None
        image = first[0]
        tone = self.normalization.correction(image, counted)
        return tone(image)[None], tone

    def small(self, picture: Array, side: int = SIDE) -> Float32:
        """Reduce a decoded picture to a small grey one, in which poses are found.

        Args:
            picture: The picture.
            side: Longer side of the result, in pixels.

        Raises:
            InputError: The picture's values are far off the white level.
        """
        if self.channels is not None:
            picture = mean_channel(picture)
        corrected, divisor = self._corrected(picture, "a picture")
        return small_grey(corrected, divisor, side)

    def corrected_mask(self, mask: Mask) -> Mask:
        """Transform a mask [H, W] of the picture as taken into one of the corrected picture."""
        corrected = mask
        for stage in self.corrections:
            corrected = stage.mask(corrected)
        return corrected

    def restored(self, drawn: Array, placed: Geometry, fill: float | None = None) -> tuple[Array, Geometry]:
        """Transform a map of the corrected picture into a map of the picture as taken.

        Args:
            drawn: Map of the corrected picture.
            placed: Place of that map in the corrected picture.
            fill: Value of pixels outside that map; None: its median.

        Returns:
            The transformed map, and its place in the picture as taken.
        """
        restored_map = drawn
        geometry = placed
        for stage in reversed(self.corrections):
            restored_map, geometry = stage.restored(restored_map, geometry, fill)
        if geometry is placed:  # no stage has changed it
            return restored_map, placed
        return restored_map, replace(geometry, corrected=placed)

    def frame_size(self, picture_size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (H, W) of the frame in a picture of this size (H, W).

        The frame is the picture or, where parts are aligned, the part with its surroundings.
        """
        return self.framing.size(picture_size, self.size)

    def canvas(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (H, W) to which a frame of (H, W) pixels is scaled before tiles are cut from it."""
        assert self.tile is not None
        frame_height, frame_width = frame_size
        network_height, network_width = self.size
        tile_height, tile_width = self.tile
        # a tile is scaled to the network's size, and the frame by the same factor
        height = max(1, round(frame_height * network_height / tile_height))
        width = max(1, round(frame_width * network_width / tile_width))
        return height, width

    def grid(self, frame_size: tuple[int, int]) -> TileGrid | None:
        """Return the grid of the tiles of a frame (H, W); None: the frame is smaller than a tile."""
        canvas_height, canvas_width = self.canvas(frame_size)
        height, width = self.size
        if height > canvas_height or width > canvas_width:
            return None
        return TileGrid((canvas_height, canvas_width), self.size, self.overlap)

    def geometry(self, frame_size: tuple[int, int]) -> Geometry:
        """Return the place of the anomaly map in a frame of this size (H, W).

        The map has the canvas's size if there are tiles, else the network's. If parts are not aligned, the
        frame is the picture.
        """
        if self.tile is not None:
            canvas = self.canvas(frame_size)
            if canvas != self.size:  # if they are equal, the only tile is the whole frame
                scale = (canvas[0] / frame_size[0], canvas[1] / frame_size[1])
                return Geometry(frame_size, canvas, scale, offset=(0.0, 0.0))
        (y0, x0, y1, x1), (height, width), (top, left) = self._whole_placement(*frame_size)
        scale_y = height / (y1 - y0)
        scale_x = width / (x1 - x0)
        offset = (top - y0 * scale_y, left - x0 * scale_x)
        return Geometry(frame_size, self.network_size, (scale_y, scale_x), offset)

    def described(self) -> str:
        """Describe the preprocessing for a person."""
        height, width = self.network_size
        if self.tile is None:
            return f"{height}x{width}"
        tile_height, tile_width = self.tile
        is_scaled = tile_height != self.size[0]
        scaling = f", scaled to {height}x{width}" if is_scaled else ""
        tiles = f"tiles of {tile_height}x{tile_width} pixels{scaling}, {self.overlap:.0%} shared"
        return f"{tiles}, and whole at {height}x{width}"

    def to_dict(self) -> Json:
        """Convert to values for JSON, which `from_dict` reads."""
        data: Json = {
            "size": list(self.size),
            "keep_aspect": self.keep_aspect,
            "crop": list(self.crop) if self.crop else None,
            "white_level": self.white_level,
        }
        if self.black_level is not None:
            data["black_level"] = self.black_level
        if self.tile is not None:
            data["tile"] = list(self.tile)
            data["overlap"] = self.overlap
        for name in STAGES:
            stage = getattr(self, name)
            if stage is not None:
                data[name] = stage.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Preprocess:
        """Read values that `to_dict` returned.

        Raises:
            InputError: Keys are unknown, or values are invalid.
        """
        names = [field.name for field in fields(cls)]
        unknown_keys = sorted(set(data) - set(names))
        if unknown_keys:
            key = unknown_keys[0]
            raise InputError(f"unknown preprocess key {key!r}; {suggest_name(key, names)}")
        values: Json = dict(data)
        for name, stage_class in STAGES.items():
            if data.get(name) is not None:
                values[name] = stage_class.from_dict(data[name])
        return cls(**values)

    def _whole_placement(
        self, height: int, width: int
    ) -> tuple[tuple[float, float, float, float], tuple[int, int], tuple[int, int]]:
        """Return the box of a frame that the network sees, and the box's place in the network's input.

        Returns:
            The box (y0, x0, y1, x1) in the frame; and in the network's input, the box's size (h, w) and upper
            left corner (top, left).
        """
        whole_frame = (0.0, 0.0, float(height), float(width))
        scaled_height, scaled_width = self.size
        scale_y = scaled_height / height
        scale_x = scaled_width / width
        # a part's frame has the network's shape already
        keeps_aspect = self.keep_aspect and self.reference is None
        if self.crop is None and not keeps_aspect:
            return whole_frame, self.size, (0, 0)
        if self.crop is None:  # letterbox
            scale = min(scale_y, scale_x)
            h = min(max(round(height * scale), 1), scaled_height)
            w = min(max(round(width * scale), 1), scaled_width)
            return whole_frame, (h, w), ((scaled_height - h) // 2, (scaled_width - w) // 2)
        if keeps_aspect:
            scale_y = scale_x = max(scale_y, scale_x)
        crop_height, crop_width = self.crop
        y0 = max(0.0, (height - crop_height / scale_y) / 2)
        x0 = max(0.0, (width - crop_width / scale_x) / 2)
        return (y0, x0, height - y0, width - x0), self.crop, (0, 0)

    def _whole_view(self, frame: Frame) -> tuple[Float32, Geometry]:
        """Return the view of the whole frame, and its place in the picture.

        The view is [1, 3, H, W]. Pixels outside of the picture are marked: value v becomes -1 - v.
        """
        picture = frame.picture
        divisor = frame.divisor
        placed = frame.place(self.whole.geometry(frame.size))
        tensor = np.empty((1, 3, *self.network_size), dtype=np.float32)
        image = tensor[0]
        if frame.turned is not None:
            write_planes(warp_view(picture, placed), divisor, image)
            visible = frame.visible(placed, image.transpose(1, 2, 0))  # covers other parts in `image`
            image[:] = np.where(visible, image, -1 - image)
            return tensor, placed
        box, (h, w), (top, left) = self._whole_placement(*frame.size)
        write_planes(resized(picture, (h, w), box), divisor, image[:, top : top + h, left : left + w])
        if (h, w) != self.network_size:
            _repeat_edges(image, top, left, h, w)
            padding = np.ones(self.network_size, np.bool_)
            padding[top : top + h, left : left + w] = False
            image[:, padding] = -1 - image[:, padding]
        return tensor, placed

    def _check_tiles(self, grid: TileGrid | None, canvas: Geometry, name: str) -> None:
        """Raise InputError where a frame is smaller than a tile, or its canvas would be too large.

        Args:
            grid: Grid of the tiles; None: the frame is smaller than a tile.
            canvas: Place of the canvas in the frame.
            name: Name of the picture for errors.
        """
        assert self.tile is not None
        height, width = canvas.picture_size
        if grid is None:
            frame_text = f"{self.framing.words} {width} x {height} pixels"
            tile_text = f"{self.tile[1]} x {self.tile[0]}"
            problem = f"{frame_text}, less than a tile of {tile_text}"
            raise picture_error(name, problem, "fit with a smaller --tile")
        canvas_height, canvas_width = canvas.size
        if math.prod(canvas.size) > max(MAX_CANVAS_PIXELS, height * width):
            raise picture_error(
                name,
                f"for its tiles it would be enlarged to {canvas_width} x {canvas_height} pixels",
                "fit with a larger --tile or a smaller --size",
            )

    def _corrected(self, picture: Raster, name: str) -> tuple[Raster, float]:
        """Correct a picture in the learnt depth; return it, and the value that is white in it."""
        picture, divisor = self._at_learnt_depth(picture, name)
        for correction in self.corrections:
            picture = correction(picture, divisor, name)
        return picture, divisor

    def _at_learnt_depth(self, picture: Raster, name: str) -> tuple[Raster, float]:
        """Convert a picture to the depth that the model learnt from: 8 bits or, with a white level, more.

        Pictures of one scene give the same view, whatever their type is.

        Returns:
            The converted picture, and the value that is white in it.

        Raises:
            InputError: The values are so far off the white level that all would be black, or all white.
        """
        if isinstance(picture, Image.Image) or picture.dtype == np.uint8:
            if self.white_level is None:
                return picture, 255.0
            pixels = np.asarray(picture)
            with_channel_axis = pixels.reshape(*pixels.shape[:2], -1)
            # `resized` scales uint16 in float32, as it scales deep pictures
            return with_channel_axis.astype(np.uint16), 255.0
        white = self.white_level or (65535.0 if picture.dtype == np.uint16 else 1.0)
        check_depth(picture, self.white_level, self.black_level, name)
        if self.white_level is not None:
            return self._clipped(picture, white)
        values = np.multiply(picture, np.float32(255 / white), dtype=np.float32)
        np.rint(values, out=values)
        np.clip(values, 0, 255, out=values)
        return grey_as_rgb(values.astype(np.uint8)), 255.0

    def _clipped(self, picture: Array, white: float) -> tuple[Array, float]:
        """Clip a deep picture to black and white, and shift it so that black is 0.

        Returns:
            The picture, and the value that is white in it.
        """
        black = self.black_level
        if black is None or (black == 0 and picture.max() <= white):
            return picture, white
        clipped = np.clip(picture, black, white).astype(np.float32)
        return clipped - np.float32(black), white - black


def _repeat_edges(planes: Float32, top: int, left: int, height: int, width: int) -> None:
    """Fill an image [C, H, W] around a window with the window's outermost pixels, in place."""
    bottom = top + height
    right = left + width
    rows = planes[:, top:bottom]  # a slice: writing into it changes `planes`
    rows[:, :, :left] = rows[:, :, left : left + 1]
    rows[:, :, right:] = rows[:, :, right - 1 : right]
    planes[:, :top] = planes[:, top : top + 1]
    planes[:, bottom:] = planes[:, bottom - 1 : bottom]


def _parse_size(key: str, value: object) -> tuple[int, int]:
    """Read a size (H, W); raise InputError, with the key's name, for any other value."""
    try:
        height, width = cast("Iterable[object]", value)
        return positive_integer(height), positive_integer(width)
    except (TypeError, ValueError):
        raise InputError(f"{key} is {value!r:.30}; give two whole numbers, height and width") from None


def _parse_crop(value: object, size: tuple[int, int]) -> tuple[int, int]:
    """Read the size of a crop; raise InputError where it is larger than `size`."""
    crop = _parse_size("crop", value)
    if any(crop_side > side for crop_side, side in zip(crop, size, strict=True)):
        raise InputError(f"crop {crop} is larger than size {size}; make size larger")
    return crop


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_tile_scale(tile: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise InputError if scaling tiles to the network's size enlarges or reduces them too much."""
    for tile_side, side in zip(tile, size, strict=True):
        if side > MAX_ENLARGEMENT * tile_side or tile_side > MAX_REDUCTION * side:
            raise InputError(
                f"tile is {tile!r:.30} at size {size}; "
                f"choose 1/{MAX_ENLARGEMENT} to {MAX_REDUCTION} times the size"
            )
