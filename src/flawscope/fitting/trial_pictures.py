"""Splits good pictures and defects into the rounds of a search for settings, and simulates defects.

Defects are simulated on good pictures that are left out, in the pictures' own pixels: settings that see them
at another size judge the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.streams import Stream
from flawscope.pictures.decoding import PictureSource
from flawscope.synthesis import DefectScale, Foreground, simulate_defect

# pictures of a round, at most
LEARNT = 24
LEFT_OUT = 12
SIMULATED = 32
GIVEN = 24
LEFT_OUT_SHARE = 4  # one of four good pictures is left out, at most
CONTRASTS = math.log(8), math.log(64)  # grey levels of simulated defects
WINDOW = 512  # pixels a side: in pictures 1.5 times as large, every other defect is drawn in a window
PART_PICTURES = 8  # pictures that the part is learnt from
Pixels = NDArray[np.uint8]
Load = Callable[[int], Pixels]  # returns good picture i, [H, W, 3]


class SimulatedPatch(NamedTuple):
    """Simulated defect: pixels that replace those of the good picture `carrier`, from row y and column x."""

    carrier: int
    y: int
    x: int
    pixels: Pixels

    def draw(self, load: Load) -> Pixels:
        """Return the carrier, [H, W, 3] uint8, with the defect."""
        picture = load(self.carrier).copy()
        height, width = self.pixels.shape[:2]
        picture[self.y : self.y + height, self.x : self.x + width] = self.pixels
        return picture


@dataclass
class Round:
    """Good pictures of a round, by number, and defects.

    Attributes:
        number: Number of the round, from 0.
        load: Returns good picture i, [H, W, 3] uint8.
        learnt: Good pictures to learn from.
        left_out: Good pictures to judge.
        given: Defective pictures of a person.
        count: Number of simulated defects, on the good pictures left out.
        seed: Seed of the simulated defects.
    """

    number: int
    load: Load
    learnt: list[int]
    left_out: list[int]
    given: list[PictureSource]
    count: int
    seed: int

    @property
    def judged(self) -> int:
        """Number of pictures that are judged."""
        return len(self.left_out) + len(self.given) + self.count

    @cached_property
    def simulated(self) -> list[SimulatedPatch]:
        """Simulated defects, made when first used.

        Large pictures take a while, and the round may not come.
        """
        if not self.count:
            return []
        part = Foreground.of([self.load(i) for i in self.learnt[:PART_PICTURES]])
        return [self._simulate(number, part) for number in range(self.count)]

    def _simulate(self, number: int, part: Foreground) -> SimulatedPatch:
        """Simulate defect `number` on the part. Its size is a share of the picture or window around it."""
        rng = Stream.TRIALS.rng(self.seed, self.number, number)
        carrier = self.left_out[number % len(self.left_out)]
        picture = self.load(carrier)
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
            picture = np.ascontiguousarray(picture[rows, columns])
            within = within[rows, columns]
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


def make_rounds(
    load: Load, order: Sequence[int], given: Sequence[PictureSource], seed: int, can_simulate: bool
) -> list[Round]:
    """Make rounds, each of which leaves out other pictures, with defects of its own.

    There are as many rounds as there are pictures to leave out.

    Args:
        load: Returns good picture i, [H, W, 3] uint8.
        order: Numbers of the good pictures, shuffled; each shows another part.
        given: Defective pictures, shuffled; few are in every round.
        seed: Seed of the simulated defects.
        can_simulate: Whether defects can be simulated.
    """
    size = min(LEFT_OUT, len(order) // LEFT_OUT_SHARE)
    rounds = []
    for number in range(len(order) // size):
        first = number * size
        left_out = [*order[first : first + size]]
        learnt = [*order[:first], *order[first + size :]][:LEARNT]
        given_of_round = [*given[number * GIVEN : (number + 1) * GIVEN]] or [*given[:GIVEN]]
        count = SIMULATED if can_simulate else 0
        rounds.append(Round(number, load, learnt, left_out, given_of_round, count, seed))
    return rounds
