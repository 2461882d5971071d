"""Splits good pictures and defects into the two stages of a search for settings, and simulates defects on
those that are left out, in the pictures' own pixels: settings that see them otherwise judge the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.streams import Stream
from flawscope.pictures.decoding import PictureSource
from flawscope.synthesis import DefectScale, Foreground, simulate_defect

# Pictures learnt from, and left out, at most, and simulated defects, of a stage; two that follow each other
# make a search, the smaller ones one that has little time
SIZES = (12, 8, 16), (24, 16, 24), (48, 24, 48)
SHORT, LONG = 0, 1  # number of the first of them
LEFT_OUT_SHARE = 4  # one of so many, at most, in each
CONTRASTS = math.log(8), math.log(64)  # grey levels of simulated defects
WINDOW = 512  # pixels a side: every other defect of a picture half as large again is drawn in so many
PART_PICTURES = 8  # that the part is learnt from
Pixels = NDArray[np.uint8]
Load = Callable[[int], Pixels]  # gives good picture i, [H, W, 3]


class SimulatedPatch(NamedTuple):
    """Simulated defect: pixels that replace those of the good picture `carrier`, from row y and column x."""

    carrier: int
    y: int
    x: int
    pixels: Pixels

    def draw(self, load: Load) -> Pixels:
        picture = load(self.carrier).copy()
        height, width = self.pixels.shape[:2]
        picture[self.y : self.y + height, self.x : self.x + width] = self.pixels
        return picture


@dataclass
class Stage:
    """Good pictures of a stage, by number, and defects. given: defective pictures. draw: simulates a defect,
    by number; None: it simulates none."""

    learnt: list[int]
    left_out: list[int]
    given: list[PictureSource]
    count: int
    draw: Callable[[Stage, int], SimulatedPatch] | None

    @cached_property
    def simulated(self) -> list[SimulatedPatch]:
        """Simulated defects: large pictures take a while, and the second stage may not come."""
        return [] if self.draw is None else [self.draw(self, n) for n in range(self.count)]


def make_stages(
    load: Load,
    order: Sequence[int],
    given: Sequence[PictureSource],
    seed: int,
    can_simulate: bool,
    first: int = LONG,
) -> tuple[Stage, Stage]:
    """Makes two stages, which leave out different pictures, and judge different defects.

    Args:
        order: numbers of the good pictures, shuffled; each shows another part.
        given: defective pictures, shuffled; a single one is in both stages.
        first: number of the first stage's `SIZES`.
    """
    sizes = SIZES[first : first + 2]
    counts = [min(most, len(order) // LEFT_OUT_SHARE) for _, most, _ in sizes]
    left_out = order[: counts[0]], order[counts[0] : sum(counts)]
    rest = order[sum(counts) :]

    @cache
    def part() -> Foreground:
        return Foreground.of([load(i) for i in rest[:PART_PICTURES]])

    stages = []
    for k, (most, _, simulated) in enumerate(sizes):

        def draw(stage: Stage, n: int, k: int = k) -> SimulatedPatch:
            return _simulate(load, stage, part(), n, Stream.TRIALS.rng(seed, k, n))

        learnt = [*left_out[0], *rest] if k else rest
        own = given[k::2] if len(given) > 1 else given
        made = draw if can_simulate else None
        stages.append(Stage([*learnt[:most]], [*left_out[k]], [*own], simulated, made))
    return stages[0], stages[1]


def _simulate(
    load: Load, stage: Stage, part: Foreground, number: int, rng: np.random.Generator
) -> SimulatedPatch:
    """Simulates defect `number` of a stage, on the part. Their sizes are shares of what they are drawn in."""
    carrier = stage.left_out[number % len(stage.left_out)]
    picture = load(carrier)
    within = part.mask(picture)
    y = x = 0
    if number % 2 and max(picture.shape[:2]) >= 1.5 * WINDOW:
        places = np.argwhere(within)
        at = places[int(rng.integers(len(places)))]
        y, x = (
            max(0, min(int(v) - WINDOW // 2, side - WINDOW))
            for v, side in zip(at, picture.shape, strict=False)
        )
        rows, columns = slice(y, y + WINDOW), slice(x, x + WINDOW)
        picture, within = np.ascontiguousarray(picture[rows, columns]), within[rows, columns]
    scales = list(DefectScale)
    made = simulate_defect(
        picture,
        rng,
        scale=scales[number // 2 % len(scales)],
        contrast=math.exp(rng.uniform(*CONTRASTS)),
        foreground=within,
    )
    places = np.argwhere(made.mask)
    (top, left), (bottom, right) = places.min(0).tolist(), (places.max(0) + 1).tolist()
    return SimulatedPatch(carrier, y + top, x + left, made.picture[top:bottom, left:right].copy())
