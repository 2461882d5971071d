"""Proposes settings that a product may need, from a look at its good pictures.

The look shows how parts lie, how many there are, and how large the pictures must be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.config import flag_of
from flawscope.errors import InputError
from flawscope.fitting.first_look import learn_part_finding
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import PictureSource
from flawscope.views.congealing import poses_needed
from flawscope.views.preprocess import Preprocess

LARGE = 1000  # pixels along the longer side, from which they are seen larger still, and in tiles
USUAL_SIZES = "256+512"
SEEN_PIXELS = 512**2  # of the larger usual size: pictures with fewer show nothing more when enlarged
# Time of a network by presets and in tiles, in times of the default's (measured on one core)
PRESET_COSTS = {"accurate": 5.5, "small": 0.7}
TILES_COST = 10.0
TILED = 64  # a side in lengths of the smallest defect that tiles are proposed for: two tiles cover a side


@dataclass(frozen=True)
class Recipe:
    """Options of a fit beside those given, with the values of a configuration file."""

    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def flags(self) -> str:
        """The options as flags of `flawscope fit`; empty without any."""
        words = (
            flag_of(name) + ("" if value is True else f" {value}") for name, value in self.options.items()
        )
        return " ".join(words)

    @classmethod
    def from_flags(cls, flags: str) -> Recipe:
        """Parse the flags of a recipe."""
        pairs = (flag.strip().partition(" ") for flag in flags.split("--") if flag.strip())
        return cls({name.replace("-", "_"): value or True for name, _, value in pairs})

    def with_options(self, **options: object) -> Recipe:
        """Return the recipe with further options."""
        return Recipe({**self.options, **options})


def propose_frames(sources: Sequence[PictureSource], load: Callable[[int], NDArray[Any]]) -> Iterator[Recipe]:
    """Yield recipes that find the part, or each of several, where it lies elsewhere in each good picture.

    Args:
        sources: The good pictures.
        load: Returns picture `i`, [H, W, 3] uint8.
    """
    several = _propose_several(sources)
    if several is not None:
        yield several
        return
    small = [Preprocess().small(load(i)) for i in range(len(sources))]
    if lying := poses_needed(small, full=True):
        yield Recipe({"align": lying.kind})


def _propose_several(sources: Sequence[PictureSource]) -> Recipe | None:
    pictures = DecodedPictures(sources)
    for kind in ("turn", "shift"):
        try:
            learnt = learn_part_finding(pictures, Preprocess(), kind)
        except InputError:  # no part was found so
            continue
        if learnt.is_reliable and np.median(learnt.counts) >= 2:
            return Recipe({"align": kind, "several": True})
    return None


def propose_views(frame: Recipe, shape: tuple[int, int], judged_by_given: bool) -> Iterator[Recipe]:
    """Yield recipes that see the frame with a larger network, larger, or with less work, the likeliest first.

    Smaller ones are proposed where given defects show whether these suffice. Simulated defects are smaller
    and fainter than most real ones. So with them alone the small look at the whole picture stays: the choice
    adds to it.

    Args:
        frame: Recipe that finds the parts.
        shape: Height and width of the pictures, the largest of each.
        judged_by_given: Whether given defects judge the settings.
    """
    yield frame.with_options(preset="accurate")
    if math.prod(shape) > SEEN_PIXELS:
        yield frame.with_options(size="256+768")
    if _is_large(frame, max(shape)):
        yield frame.with_options(size="256+1024")
    yield frame.with_options(preset="small")
    if judged_by_given:
        for size in ("512", "256", "384+512"):
            yield frame.with_options(size=size)


def propose_tiles(frame: Recipe, side: int) -> Iterator[Recipe]:
    """Yield recipes that see the frame of large pictures in tiles, which takes ten times as long or more."""
    if _is_large(frame, side):
        yield frame.with_options(min_defect=f"{round(side / TILED)}px")


def _is_large(frame: Recipe, side: int) -> bool:
    """Whether a frame shows much of large pictures: of several parts each is seen by itself."""
    return side >= LARGE and "several" not in frame.options


def relative_cost(recipe: Recipe) -> float:
    """Return the network's time for a picture by a recipe, about, in times of the settings as given.

    It follows from the pixels that are seen.
    """
    options = recipe.options
    if "min_defect" in options:
        return TILES_COST
    if "preset" in options:
        return PRESET_COSTS[options["preset"]]
    sizes = [int(size) for size in options.get("size", USUAL_SIZES).split("+")]
    usual = [int(size) for size in USUAL_SIZES.split("+")]
    return sum(size**2 for size in sizes) / sum(size**2 for size in usual)
