"""Settings that methods share. Torch-free: a wrong setting is reported before torch is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import get_annotations
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol, Self

from flawscope.config import convert_value
from flawscope.errors import InputError
from flawscope.methods.features.weights import DEFAULT_BACKBONE
from flawscope.pictures.form import MAX_SIDE, STEP, is_enlarged_much, size_in_form, size_text, usual_form
from flawscope.views.overlap import DEFAULT_OVERLAP, MAX_OVERLAP, parse_overlap

if TYPE_CHECKING:
    from flawscope.types import Facts, Json

Size = tuple[int, int]  # (H, W)
Rule = tuple[bool, str]  # a condition, and the message where it does not hold
# timm's names of plain transformers contain the patch size in pixels; those with windows have stages
PATCH_SIZE_IN_NAME = re.compile(r"(?!.*window)^.*patch(\d+)")
# Blocks of a transformer without `stages`: later blocks say which thing is shown, not how it looks
TRANSFORMER_BLOCKS = (6,)


class BranchSpec(NamedTuple):
    """Description of a branch of a detector.

    Attributes:
        size: (H, W) at which it sees the picture.
        stages: Stages of the backbone that are joined at this size.
        second: Whether the backbone is the second backbone.
    """

    size: Size
    stages: tuple[int, ...]
    second: bool = False


def check_rules(rules: Iterable[Rule]) -> None:
    """Raise InputError with the message of the first rule that does not hold."""
    for holds, text in rules:
        if not holds:
            raise InputError(f"setting {text}")


@dataclass(frozen=True)
class PictureSettings:
    """Settings of how pictures reach the network: the base of every method's settings. They are checked."""

    # size to which the picture is scaled: HxW, or N, which means N² pixels in the pictures' form; up to SIZES
    # sizes, joined by +
    size: str = "256"
    keep_aspect: bool = False
    crop: tuple[int, int] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the networks in a fitted model
    seed: int = 0
    # (H, W) in the picture of tiles, seen beside the whole picture and scaled to `size` too; None: no tiles
    tile: tuple[int, int] | None = None
    # of neighbouring tiles: a share of a tile, or pixels of the picture (128px)
    overlap: str = str(DEFAULT_OVERLAP)
    # The fit sets these three, not the user
    masked: bool = (
        False  # pixels that do not count are marked as padding: for a region in tiles, and to align
    )
    upright: bool = False  # parts are turned to lie at one angle: by an alignment that turns them
    hidden: bool = False  # networks do not see pixels outside: for a region of interest

    PATHS: ClassVar[tuple[str, ...]] = ()  # settings that name files: a model stores only the name
    SIZES: ClassVar[int] = 1  # sizes at which a picture may be seen, at most
    SMALLEST: ClassVar[int] = 16  # pixels a side
    MULTIPLE: ClassVar[int] = 1  # sides must be multiples of it
    FIXED: ClassVar[Mapping[str, object]] = {}  # settings of earlier files, and the only values accepted

    def __init_subclass__(cls) -> None:
        reserved_names = {"masked", "upright", "hidden"} & {*get_annotations(cls)}
        if reserved_names:
            raise TypeError(f"{cls.__qualname__}.{min(reserved_names)}: set by fit itself, take another name")

    def __post_init__(self) -> None:
        check_rules((*self._picture_rules(), *self.rules()))

    @classmethod
    def complete(cls, values: Mapping[str, object]) -> Mapping[str, object]:
        """Return the values, and further settings that follow from them and are not given."""
        return values

    def rules(self) -> Iterable[Rule]:
        """Return the method's own rules, beside those for pictures."""
        return ()

    def _picture_rules(self) -> Iterable[Rule]:
        """Yield the rules for pictures; later rules rely on earlier ones."""
        low = self.SMALLEST
        sizes = self.sizes
        yield self.tile is None or min(self.tile) >= low, f"tile must be at least {low} pixels on both sides"
        yield self._fits_network(), f"size, or crop, must be {self._describe_sizes()}"
        are_different = len(set(sizes)) == len(sizes)
        yield (
            are_different and len(sizes) <= self.SIZES,
            f"size must name up to {self.SIZES} different sizes",
        )
        if self.crop is not None:
            yield len(sizes) == 1, "crop works with one size"
            is_crop_within = all(crop <= side for crop, side in zip(self.crop, sizes[0], strict=True))
            yield is_crop_within, "crop must be no larger than size"
        largest_sides = (max(height for height, _ in sizes), max(width for _, width in sizes))
        yield largest_sides in sizes, "size must name one that is the largest on both sides"
        yield self.seed >= 0, "seed must be at least 0"
        yield self.tile is None or self.crop is None, "crop and tile do not go together: leave one out"
        yield (
            parse_overlap(self.overlap, self.tile or (1, 1)) is not None,
            f"overlap must be a share of a tile from 0 to {MAX_OVERLAP}, or pixels such as 128px",
        )

    def _fits_network(self) -> bool:
        """Whether the network takes images of all sizes, and no scaled picture is too large."""
        network_sides = [side for size in self.network_sizes for side in size]
        for side in network_sides:
            if side % self.MULTIPLE != 0 or not self.SMALLEST <= side <= MAX_SIDE:
                return False
        scaled_sides = [side for size in self.sizes for side in size]
        return max(scaled_sides) <= MAX_SIDE

    def _describe_sizes(self) -> str:
        """Describe the sizes that the network takes."""
        low = self.SMALLEST
        step = self.MULTIPLE
        if step == 1:
            return f"between {low} and {MAX_SIDE} pixels on both sides"
        near_sides = [max(1, round(side / step)) * step for side in self.network_size]
        near_size = "x".join(map(str, near_sides))
        return f"multiples of {step} between {low} and {MAX_SIDE}: {near_size} is near"

    @property
    def overlap_share(self) -> float:
        """Share of a tile, 0..1, that the neighbouring tile shows, too."""
        return parse_overlap(self.overlap, self.tile or (1, 1)) or 0.0

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(H, W) of each size to which the picture is scaled, smallest first."""
        texts = self.size.split("+")
        has_one_size = self.SIZES == 1
        expected_form = "N or HxW" if has_one_size else "N, HxW, or several joined by +"
        if has_one_size and len(texts) > 1:
            raise InputError(f"setting size: {self.size!r} is not {expected_form}")
        sizes: list[Size] = []
        for text in texts:
            sides = text.strip().lower().split("x")
            if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
                raise InputError(f"setting size: {self.size!r} is not {expected_form}")
            sizes.append((int(sides[0]), int(sides[-1])))  # a single N stands for NxN
        return tuple(sorted(sizes))

    def in_form(self, pictures: Sequence[Size]) -> Self:
        """Return the settings with sizes in the pictures' usual form instead of squares.

        A size N becomes a size of about N² pixels in the form that is usual among the pictures. With `tile`,
        `crop` or `keep_aspect`, or if N would enlarge the pictures much, size N stays a square.

        Args:
            pictures: (H, W) of the pictures.
        """
        if self.tile is not None or self.crop is not None or self.keep_aspect:
            return self
        texts = self.size.split("+")
        square_sides = [int(text) for text in texts if text.strip().isdecimal()]
        if is_enlarged_much(max(square_sides, default=0), pictures):
            return self
        form = usual_form(pictures)
        formed_texts = []
        for text in texts:
            if "x" in text.lower():
                formed_texts.append(text)
            else:
                size = size_in_form(int(text), form, self.step, self.SMALLEST)
                formed_texts.append(size_text(size))
        return replace(self, size="+".join(formed_texts))

    @property
    def step(self) -> int:
        """Number of pixels; the sides that this class chooses are multiples of it."""
        return max(STEP, self.MULTIPLE)

    @property
    def network_sizes(self) -> tuple[Size, ...]:
        """(H, W) of each size that the networks see, smallest first."""
        return (self.crop,) if self.crop else self.sizes

    @property
    def pads(self) -> bool:
        """Whether images may hold pixels that do not count.

        Such pixels are padding around a picture that keeps its aspect or is aligned, and pixels of a tile
        outside the region of interest.
        """
        return self.masked or (self.keep_aspect and self.crop is None)

    @property
    def network_size(self) -> Size:
        """(H, W) of the images that the detector takes."""
        return self.network_sizes[-1]


def apply_tile_scale(preset: Facts, given: Facts) -> Json:
    """Merge a preset with the settings of a call, and replace a tile's `scale` by its `size` in the network.

    Args:
        preset: Settings of the preset.
        given: Settings of the call, which override the preset's. `scale` among them is the number of pixels
            of the picture per pixel of the network, 1 by default.

    Raises:
        InputError: A scale is given without tiles, or with a size.
    """
    values = {**preset, **given}
    scale = values.pop("scale", None)
    if values.get("tile") is None:
        if scale is not None:
            raise InputError("setting scale is for tiles: give tile as well, or size")
        return values
    if "size" in given:
        if scale is not None:
            raise InputError("setting scale: it follows from tile and size; leave one of the three out")
        return values
    try:
        tile = convert_value(values["tile"], tuple[int, int])
        factor = 1.0 if scale is None else float(scale)
        height, width = (round(side / factor) for side in tile)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        if scale is not None:
            values["scale"] = scale  # a later check refuses it with a message of its own
        return values
    return {**values, "size": f"{height}" if height == width else f"{height}x{width}"}


@dataclass(frozen=True)
class PatchSettings(PictureSettings):
    """Settings of a method that judges the patches of a frozen backbone."""

    backbone: str = DEFAULT_BACKBONE
    # feature maps as timm counts them: strides 8 and 16; of a transformer blocks, by default 6
    stages: tuple[int, ...] = (2, 3)
    weights: str | None = None
    neighbourhood: int = 3  # a patch is the mean of a neighbourhood of so many cells a side
    sigma: float = 4.0  # pixels; of the Gaussian that smooths maps

    PATHS: ClassVar[tuple[str, ...]] = ("weights",)

    @classmethod
    def complete(cls, values: Mapping[str, object]) -> Mapping[str, object]:
        """Return the values; for a transformer without `stages`, add its usual blocks as `stages`."""
        if patch_in_name(str(values.get("backbone", ""))) is None:
            return values
        return {"stages": TRANSFORMER_BLOCKS, **values}

    def _picture_rules(self) -> Iterable[Rule]:
        yield from super()._picture_rules()
        yield bool(self.stages), "stages must be feature indices such as 2,3"
        is_odd = self.neighbourhood >= 1 and self.neighbourhood % 2 == 1
        yield is_odd, "neighbourhood must be odd: 1, 3, 5"
        yield 0 <= self.sigma <= 64, "sigma must be between 0 and 64 pixels"

    @property
    def patch(self) -> int | None:
        """Pixels a side of a transformer's patches; None: the backbone is no transformer."""
        return patch_in_name(self.backbone)

    @property
    def step(self) -> int:
        """Number of pixels; the sides that this class chooses are multiples of it: a transformer's patch."""
        return self.patch or super().step

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(H, W) of each size to which the picture is scaled, smallest first, in whole patches."""
        sizes = super().sizes
        patch = self.patch
        if patch is None:
            return sizes
        return tuple(round_to_patches(size, patch, pixels=patch) for size in sizes)

    @property
    def branch_specs(self) -> tuple[BranchSpec, ...]:
        """Size and stages of each branch, smallest size first, those of a second backbone last."""
        stages = tuple(sorted(self.stages))  # a backbone gives its maps in its own order
        return tuple(BranchSpec(size, stages) for size in self.network_sizes)

    @property
    def backbone_stages(self) -> tuple[int, ...]:
        """All stages of the first backbone that the branches see, in rising order."""
        branches = (branch for branch in self.branch_specs if not branch.second)
        return tuple(sorted({stage for branch in branches for stage in branch.stages}))


def patch_in_name(backbone: str) -> int | None:
    """Return the pixels a side of a plain transformer's patches, by its name in timm.

    It is None for a backbone that is no plain transformer.
    """
    match = PATCH_SIZE_IN_NAME.match(backbone)
    return None if match is None else int(match[1])


def round_to_patches(size: Size, patch: int, pixels: int) -> Size:
    """Return (H, W) for `size`: each side becomes round(side / pixels) * patch, and at least one patch.

    In a picture of the returned size, a patch then shows what `pixels` pixels a side show at `size`.
    """
    height, width = (max(1, round(side / pixels)) * patch for side in size)
    return height, width


@dataclass(frozen=True)
class TrainingSettings(PictureSettings):
    """Settings of a method that learns in steps."""

    held_out: float = 0.1  # share of the good pictures kept for calibration, 10 at least
    steps: int | None = None  # None: what the device can do, or what --minutes allows
    batch: int = 8  # pictures a step
    rate: float = 1e-3  # Adam's largest learning rate
    # drop: after 95 % of the steps, a tenth of the rate
    schedule: Literal["constant", "drop", "one_cycle"] = "one_cycle"
    decay: float = 1e-5  # weight decay
    training: Literal["auto", "fp32", "bf16"] = "auto"  # precision while it learns
    memory: float = 2.0  # GiB of pictures and features kept at a time

    def _picture_rules(self) -> Iterable[Rule]:
        yield from super()._picture_rules()
        yield from training_rules(self)
        yield self.memory > 0, "memory must be a number of GiB above 0"


class TrainingFields(Protocol):
    """Settings of every training, also that of a teacher; `TrainingSettings` has them."""

    @property
    def held_out(self) -> float:
        """Share of the good pictures that is kept for calibration."""

    @property
    def steps(self) -> int | None:
        """Number of steps; None: the device's default, or as many as the minutes allow."""

    @property
    def batch(self) -> int:
        """Number of pictures in a step."""

    @property
    def rate(self) -> float:
        """Adam's largest learning rate."""

    @property
    def schedule(self) -> str:
        """Schedule of the learning rate: constant, drop or one_cycle."""

    @property
    def decay(self) -> float:
        """Weight decay."""

    @property
    def training(self) -> Literal["auto", "fp32", "bf16"]:
        """Precision while it learns."""

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""


def training_rules(settings: TrainingFields) -> Iterable[Rule]:
    """Return the rules of every training, also that of a teacher."""
    yield 0 < settings.held_out <= 0.5, "held_out must be above 0 and at most 0.5"
    yield settings.steps is None or settings.steps >= 1, "steps must be at least 1"
    yield settings.batch >= 1, "batch must be at least 1"
    yield 0 < settings.rate <= 1, "rate must be above 0 and at most 1"
    yield 0 <= settings.decay <= 1, "decay must be between 0 and 1"
