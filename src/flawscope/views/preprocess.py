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
            picture: values of any type, of which 0 is black.
            divisor: value that is white, whatever the type could hold; values above it are white, too.
            name: for errors.

        Returns:
            A picture of the same size, with the same white.

        Raises:
            InputError: it cannot be corrected.
        """

    def mask(self, mask: Mask) -> Mask:
        """Mask [H, W] of a picture as taken, as one of the corrected picture."""

    def restored(self, drawn: Array, placed: Geometry, fill: float | None) -> tuple[Array, Geometry]:
        """Return the map of a corrected picture as one of the picture as taken, and its place there.

        Args:
            drawn: Map of the corrected picture.
            placed: Place of the map in the corrected picture.
            fill: Value where the map shows nothing; None: its middle value.
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
            if not _is_number(black) or not 0 <= black < (white or 0.0):
                raise InputError(f"black_level is {black!r}; give a number from 0 to below the white level")
            object.__setattr__(self, "black_level", float(black))

    @classmethod
    def of_levels(
        cls, levels: Levels | None, *, size: tuple[int, int] = DEFAULT_SIZE, channels: Channels | None = None
    ) -> Preprocess:
        """Preprocessing of pictures of these levels; None: of 8 bits."""
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
        """The lights in which the false-alarm rate holds, that of the good pictures first."""
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
        """Return the network's input for a source that `decode` reads, and the geometry of its map.

        The input is [T, 3, H, W] float32 in 0..1, RGB, padding marked. T is 1 without tiles; `views` reads
        large pictures in parts.
        """
        views = self.views(source, name)
        return views.images(range(len(views))), views.geometry

    def read(self, source: PictureSource | HashedPicture, name: str | None = None) -> Raster:
        """Read a picture, with all of its channels [H, W, N] where the model knows them.

        Else it reads it as `load_picture` does.

        Raises:
            InputError: It cannot be read, as `decode` says.
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
            counted: [H, W], region of interest as the view of the whole picture shows it, whose light is
                measured; None: all of it.

        Raises:
            InputError: It cannot be read, or is smaller than a tile.
        """
        name = name or source_name(source)
        return self.cut(self.read(source, name), name, counted)

    def cut(self, raster: Raster, name: str, counted: Mask | None = None) -> Views:
        """Cut a picture that `read` or `decode` returned into the network's views.

        Args:
            raster: The picture.
            name: Name for errors.
            counted: [H, W], region of interest as the view of the whole picture shows it, whose light is
                measured; None: all of it.
        """
        if self.channels is not None:
            return self._channel_views(self.channels, np.asarray(raster), counted, name)
        picture, divisor = self._corrected(raster, name)
        if self.several is None:
            pose = self.framing.find(lambda: small_grey(picture, divisor))
            return self._views_of(self.framing.frame(picture, divisor, self.size, pose), counted, name)
        assert isinstance(self.framing, AlignedPart)
        parts = find_frames(picture, divisor, self.size, self.framing, self.several)
        views = [self._views_of(frame, counted, name) for frame in parts.frames]
        return PartFrameViews(views, parts, parts.middle.place(self.geometry(parts.middle.size)).scale[0])

    def _channel_views(
        self, channels: Channels, values: Array, counted: Mask | None, name: str
    ) -> ChannelViews:
        """Views of the channels [H, W, N] of a picture; its part is found in the mean of all."""
        alone = replace(self, channels=None)
        pose = self.framing.find(lambda: self.small(values))
        pictures = (alone._corrected(picture, name) for picture in channels.split(values))
        frames = (self.framing.frame(*picture, self.size, pose) for picture in pictures)
        return ChannelViews([alone._views_of(frame, counted, name) for frame in frames])

    def _views_of(self, frame: Frame, counted: Mask | None, name: str) -> Views:
        """Views of a frame, as `views` has them."""
        first, placed = self._whole_view(frame)
        pose = frame.pose
        size = frame.size
        if pose is not None and counted is not None and not (counted & (first[0, 0] >= 0)).any():
            pose = replace(pose, error=math.inf)  # nothing of what counts lies in the picture
        first, tone = self.lit(first, counted)
        if self.tile is None:
            return Views(first, placed, tone=tone, pose=pose)
        grid = self.grid(size)
        canvas = self.geometry(size)
        self._check_tiles(grid, canvas, name)
        planes, visible = frame.scaled(canvas)
        return Views(
            first,
            frame.place(canvas),
            self.whole.geometry(size),
            grid,
            planes,
            frame.divisor,
            tone,
            pose,
            placed,
            visible,
        )

    def lit(self, first: Float32, counted: Mask | None) -> tuple[Float32, ToneCorrection | None]:
        """Return the view of a whole picture in the light of good ones, and the correction.

        Without `normalization` the view stays as it is, and the correction is None.

        Args:
            first: [1, 3, H, W], the view.
            counted: [H, W], pixels whose light is measured; None: all.
        """
        if self.normalization is None:
            return first, None
        tone = self.normalization.correction(first[0], counted)
        return tone(first[0])[None], tone

    def small(self, picture: Array, side: int = SIDE) -> Float32:
        """Reduce a decoded picture to a grey one, in which poses are found.

        Args:
            picture: The picture.
            side: Longer side of the result, in pixels.

        Raises:
            InputError: Its values are far off the white level.
        """
        if self.channels is not None:
            picture = mean_channel(picture)
        return small_grey(*self._corrected(picture, "a picture"), side)

    def corrected_mask(self, mask: Mask) -> Mask:
        """Mask [H, W] of a picture as taken, as one of the corrected picture."""
        for stage in self.corrections:
            mask = stage.mask(mask)
        return mask

    def restored(self, drawn: Array, placed: Geometry, fill: float | None = None) -> tuple[Array, Geometry]:
        """Return the map of a corrected picture as one of the picture as taken, and its place there.

        Args:
            drawn: Map of the corrected picture.
            placed: Place of the map in the corrected picture.
            fill: Value where the map shows nothing; None: its middle value.
        """
        corrected = placed
        for stage in reversed(self.corrections):
            drawn, placed = stage.restored(drawn, placed, fill)
        return drawn, placed if placed is corrected else replace(placed, corrected=corrected)

    def frame_size(self, picture_size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (H, W) of the frame of a picture of (H, W) pixels.

        It is the picture's, or that of the aligned part with its surroundings.
        """
        return self.framing.size(picture_size, self.size)

    def canvas(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Size (H, W) to which a frame of (H, W) pixels is scaled before tiles are cut from it."""
        assert self.tile is not None
        height, width = (
            max(1, round(whole * seen / part))
            for whole, seen, part in zip(frame_size, self.size, self.tile, strict=True)
        )
        return height, width

    def grid(self, frame_size: tuple[int, int]) -> TileGrid | None:
        """Grid of the tiles of a frame of (H, W) pixels; None where the frame is smaller than a tile."""
        canvas = self.canvas(frame_size)
        if any(part > whole for part, whole in zip(self.size, canvas, strict=True)):
            return None
        return TileGrid(canvas, self.size, self.overlap)

    def geometry(self, frame_size: tuple[int, int]) -> Geometry:
        """Place of the map in a frame of (H, W) pixels; without an alignment the frame is the picture."""
        if self.tile is not None and (canvas := self.canvas(frame_size)) != self.size:
            scale = (canvas[0] / frame_size[0], canvas[1] / frame_size[1])
            return Geometry(frame_size, canvas, scale, (0.0, 0.0))
        (y0, x0, y1, x1), (h, w), (top, left) = self._whole_placement(*frame_size)
        sy, sx = h / (y1 - y0), w / (x1 - x0)
        return Geometry(frame_size, self.network_size, (sy, sx), (top - y0 * sy, left - x0 * sx))

    def described(self) -> str:
        """Describe the preprocessing for a person."""
        (height, width), tile = self.network_size, self.tile
        if tile is None:
            return f"{height}x{width}"
        scale = tile[0] / self.size[0]
        by = "" if scale == 1 else f", scaled to {height}x{width}"
        tiles = f"tiles of {tile[0]}x{tile[1]} pixels{by}, {self.overlap:.0%} shared"
        return f"{tiles}, and whole at {height}x{width}"

    def to_dict(self) -> Json:
        """Return values that JSON knows, for `from_dict`."""
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
        """Read what `to_dict` returned. InputError for unknown keys and invalid values."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise InputError(f"unknown preprocess key {unknown[0]!r}; {suggest_name(unknown[0], known)}")
        stages = {name: STAGES[name].from_dict(data[name]) for name in STAGES if data.get(name) is not None}
        return cls(**{**data, **stages})

    def _whole_placement(
        self, height: int, width: int
    ) -> tuple[tuple[float, float, float, float], tuple[int, int], tuple[int, int]]:
        """Return the box that is seen (y0, x0, y1, x1), and its size and corner in the tensor."""
        whole = (0.0, 0.0, float(height), float(width))
        sy, sx = self.size[0] / height, self.size[1] / width
        keeps = self.keep_aspect and self.reference is None  # a part's frame has the network's shape
        if self.crop is None and not keeps:
            return whole, self.size, (0, 0)
        if self.crop is None:
            scale = min(sy, sx)
            h = min(max(round(height * scale), 1), self.size[0])
            w = min(max(round(width * scale), 1), self.size[1])
            return whole, (h, w), ((self.size[0] - h) // 2, (self.size[1] - w) // 2)
        if keeps:
            sy = sx = max(sy, sx)
        y0 = max(0.0, (height - self.crop[0] / sy) / 2)
        x0 = max(0.0, (width - self.crop[1] / sx) / 2)
        return (y0, x0, height - y0, width - x0), self.crop, (0, 0)

    def _whole_view(self, frame: Frame) -> tuple[Float32, Geometry]:
        """View of the whole frame [1, 3, H, W], and its place in the picture."""
        picture = frame.picture
        divisor = frame.divisor
        placed = frame.place(self.whole.geometry(frame.size))
        tensor = np.empty((1, 3, *self.network_size), dtype=np.float32)
        if frame.turned is not None:
            write_planes(warp_view(picture, placed), divisor, tensor[0])
            visible = frame.visible(placed, tensor[0].transpose(1, 2, 0))
            tensor[0] = np.where(visible, tensor[0], -1 - tensor[0])
            return tensor, placed
        box, (h, w), (top, left) = self._whole_placement(*frame.size)
        write_planes(resized(picture, (h, w), box), divisor, tensor[0, :, top : top + h, left : left + w])
        if (h, w) != self.network_size:
            _repeat_edges(tensor[0], top, left, h, w)
            padding = np.ones(self.network_size, np.bool_)
            padding[top : top + h, left : left + w] = False
            tensor[0][:, padding] = -1 - tensor[0][:, padding]
        return tensor, placed

    def _check_tiles(self, grid: TileGrid | None, canvas: Geometry, name: str) -> None:
        """InputError where a frame is too small for a tile, or too large for its canvas."""
        assert self.tile is not None
        height, width = canvas.picture_size
        has = f"{self.framing.words} {width} x {height} pixels"
        if grid is None:
            least = f"{self.tile[1]} x {self.tile[0]}"
            raise picture_error(name, f"{has}, less than a tile of {least}", "fit with a smaller --tile")
        if math.prod(canvas.size) > max(MAX_CANVAS_PIXELS, height * width):
            raise picture_error(
                name,
                f"for its tiles it would be enlarged to {canvas.size[1]} x {canvas.size[0]} pixels",
                "fit with a larger --tile or a smaller --size",
            )

    def _corrected(self, picture: Raster, name: str) -> tuple[Raster, float]:
        """Picture of the learnt depth, corrected, and the divisor of its values."""
        picture, divisor = self._at_learnt_depth(picture, name)
        for correction in self.corrections:
            picture = correction(picture, divisor, name)
        return picture, divisor

    def _at_learnt_depth(self, picture: Raster, name: str) -> tuple[Raster, float]:
        """Return the picture with the depth that the model learnt from, and the divisor of its values.

        A picture gives the same view whatever its type. Without a white level it is uint8, else deep.

        Raises:
            InputError: Its values are far off the white level, and it would be all black or white.
        """
        if isinstance(picture, Image.Image) or picture.dtype == np.uint8:
            if self.white_level is None:
                return picture, 255.0
            values = np.asarray(picture)
            return values.reshape(*values.shape[:2], -1).astype(np.uint16), 255.0
        level = self.white_level or (65535.0 if picture.dtype == np.uint16 else 1.0)
        check_depth(picture, self.white_level, self.black_level, name)
        if self.white_level is not None:
            return self._clipped(picture, level)
        values = np.multiply(picture, np.float32(255 / level), dtype=np.float32)
        return grey_as_rgb(np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)), 255.0

    def _clipped(self, picture: Array, white: float) -> tuple[Array, float]:
        """A deep picture from black on, and the divisor of its values."""
        black = self.black_level
        if black is None or (black == 0 and picture.max() <= white):
            return picture, white
        return np.clip(picture, black, white).astype(np.float32) - np.float32(black), white - black


def _repeat_edges(planes: Float32, top: int, left: int, height: int, width: int) -> None:
    """Fill the border of [C, H, W] around the given window with the window's outermost pixels, in place."""
    bottom, right = top + height, left + width
    rows = planes[:, top:bottom]
    rows[:, :, :left] = rows[:, :, left : left + 1]
    rows[:, :, right:] = rows[:, :, right - 1 : right]
    planes[:, :top] = planes[:, top : top + 1]
    planes[:, bottom:] = planes[:, bottom - 1 : bottom]


def _parse_size(key: str, value: object) -> tuple[int, int]:
    try:
        height, width = cast("Iterable[object]", value)
        return positive_integer(height), positive_integer(width)
    except (TypeError, ValueError):
        raise InputError(f"{key} is {value!r:.30}; give two whole numbers, height and width") from None


def _parse_crop(value: object, size: tuple[int, int]) -> tuple[int, int]:
    crop = _parse_size("crop", value)
    if any(part > whole for part, whole in zip(crop, size, strict=True)):
        raise InputError(f"crop {crop} is larger than size {size}; make size larger")
    return crop


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_tile_scale(tile: tuple[int, int], size: tuple[int, int]) -> None:
    """InputError for tiles that are scaled too much to the network's size."""
    for part, seen in zip(tile, size, strict=True):
        if seen > MAX_ENLARGEMENT * part or part > MAX_REDUCTION * seen:
            raise InputError(
                f"tile is {tile!r:.30} at size {size}; "
                f"choose 1/{MAX_ENLARGEMENT} to {MAX_REDUCTION} times the size"
            )
