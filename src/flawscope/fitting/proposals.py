"""Proposes settings that a product may need.

The good pictures show how parts lie, how many there are, and at which size they must be seen.
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

LARGE = 1000  # pixels: pictures whose longer side has as many are also tried at size 1024, and in tiles
USUAL_SIZES = "256+512"
SEEN_PIXELS = 512**2  # pixels of the larger usual size: pictures with fewer show nothing more when enlarged
# A network's time by presets and in tiles, as a factor of the default's time (measured on one core)
PRESET_COSTS = {"accurate": 5.5, "small": 0.7}
TILES_COST = 10.0
TILED = 64  # tiles are proposed for defects of at least a 64th of the longer side, which two tiles then cover


@dataclass(frozen=True)
class Recipe:
    """Options of a fit that a search adds to the user's, with the values of a configuration file."""

    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def flags(self) -> str:
        """The options as flags of `flawscope fit`; empty without any."""
        words = []
        for name, value in self.options.items():
            words.append(flag_of(name))
            if value is not True:
                words.append(str(value))
        return " ".join(words)

    @classmethod
    def from_flags(cls, flags: str) -> Recipe:
        """Parse the flags of a recipe, as `Recipe.flags` returns them."""
        options: dict[str, Any] = {}
        for flag in flags.split("--"):
            name, _, value = flag.strip().partition(" ")
            if name:
                options[name.replace("-", "_")] = value or True  # True: a flag without a value
        return cls(options)

    def with_options(self, **options: object) -> Recipe:
        """Return the recipe with further options."""
        return Recipe({**self.options, **options})


def propose_frames(sources: Sequence[PictureSource], load: Callable[[int], NDArray[Any]]) -> Iterator[Recipe]:
    """Yield recipes that find the part, or several parts, if parts lie differently in the good pictures.

    Args:
        sources: The good pictures.
        load: Function that returns a picture, [H, W, 3] uint8, by its place in `sources`.
    """
    several_parts = _propose_several(sources)
    if several_parts is not None:
        yield several_parts
        return
    small_pictures = [Preprocess().small(load(number)) for number in range(len(sources))]
    needed = poses_needed(small_pictures, full=True)
    if needed is not None:
        yield Recipe({"align": needed.kind})


def _propose_several(sources: Sequence[PictureSource]) -> Recipe | None:
    """Return a recipe that finds several parts in each picture; None: pictures do not show several parts."""
    pictures = DecodedPictures(sources)
    for kind in ("turn", "shift"):
        try:
            learnt = learn_part_finding(pictures, Preprocess(), kind)
        except InputError:
            continue  # no parts are found with these poses
        if learnt.is_reliable and np.median(learnt.counts) >= 2:
            return Recipe({"align": kind, "several": True})
    return None


def propose_views(frame: Recipe, shape: tuple[int, int], judged_by_given: bool) -> Iterator[Recipe]:
    """Yield recipes with a larger network, a larger picture, or less work, the most promising first.

    Without given defects, every recipe includes the usual small size of the picture. The reason: simulated
    defects are smaller and fainter than most real ones, and cannot show whether other sizes suffice.

    Args:
        frame: Recipe that finds the parts.
        shape: Largest height and largest width of the pictures.
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
    """Yield recipes with tiles, for large pictures only: tiles take at least ten times as long.

    Args:
        frame: Recipe that finds the parts.
        side: Longer side of the pictures, in pixels.
    """
    if _is_large(frame, side):
        yield frame.with_options(min_defect=f"{round(side / TILED)}px")


def _is_large(frame: Recipe, side: int) -> bool:
    """Whether a frame shows a large picture as a whole; with several parts, each part is a small frame."""
    return side >= LARGE and "several" not in frame.options


def relative_cost(recipe: Recipe) -> float:
    """Estimate a network's time for a picture with a recipe, as a factor of its time with usual settings.

    Without tiles and preset, the factor is the ratio of the numbers of pixels that the network sees.
    """
    options = recipe.options
    if "min_defect" in options:
        return TILES_COST
    if "preset" in options:
        return PRESET_COSTS[options["preset"]]
    # the network sees the picture at each size of a text such as "256+512"
    sizes = [int(size) for size in options.get("size", USUAL_SIZES).split("+")]
    usual = [int(size) for size in USUAL_SIZES.split("+")]
    return sum(size**2 for size in sizes) / sum(size**2 for size in usual)
