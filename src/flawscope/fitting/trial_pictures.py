"""Splits good pictures and defects into the rounds of a search for settings, and simulates defects.

Defects are simulated on good pictures that are left out, before these are resized. So settings with another
size judge the same defects.
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

# Largest numbers of pictures in a round
LEARNT = 24
LEFT_OUT = 12
SIMULATED = 32
GIVEN = 24
LEFT_OUT_SHARE = 4  # at most one of four good pictures is left out
CONTRASTS = math.log(8), math.log(64)  # logarithms of simulated defects' contrasts in grey levels
WINDOW = 512  # pixels of a side of the window in which every other defect of a large picture is drawn
LARGE = 1.5 * WINDOW  # pixels of the longer side, from which on a picture is large
PART_PICTURES = 8  # pictures that the part is learnt from
Pixels = NDArray[np.uint8]
Load = Callable[[int], Pixels]  # returns good picture i, [H, W, 3]


class SimulatedPatch(NamedTuple):
    """Simulated defect: pixels that replace those of a good picture.

    Attributes:
        carrier: Number of the good picture.
        y: Row of the upper left pixel.
        x: Column of the upper left pixel.
        pixels: The new pixels, [h, w, 3].
    """

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
        """Simulated defects, made when they are first used.

        Simulating takes a while in large pictures, and there may be no time for the round.
        """
        if not self.count:
            return []
        part = Foreground.of([self.load(picture) for picture in self.learnt[:PART_PICTURES]])
        return [self._simulate(number, part) for number in range(self.count)]

    def _simulate(self, number: int, part: Foreground) -> SimulatedPatch:
        """Simulate a defect on the part of a left-out picture.

        A defect's size is a share of the picture. So that large pictures get small defects, too, every other
        defect is simulated in a window around a random pixel of the part: its size is a share of the window.

        Args:
            number: Number of the defect.
            part: Finds the part in a picture.
        """
        rng = Stream.TRIALS.rng(self.seed, self.number, number)
        carrier = self.left_out[number % len(self.left_out)]
        picture = self.load(carrier)
        part_mask = part.mask(picture)
        y = x = 0  # upper left corner of the window
        is_in_window = number % 2 == 1 and max(picture.shape[:2]) >= LARGE
        if is_in_window:
            part_pixels = np.argwhere(part_mask)
            centre_y, centre_x = part_pixels[int(rng.integers(len(part_pixels)))].tolist()
            height, width = picture.shape[:2]
            y = _window_start(centre_y, height)
            x = _window_start(centre_x, width)
            rows = slice(y, y + WINDOW)
            columns = slice(x, x + WINDOW)
            picture = np.ascontiguousarray(picture[rows, columns])
            part_mask = part_mask[rows, columns]
        scales = list(DefectScale)
        # number // 2, so that each scale occurs with and without a window
        defect = simulate_defect(
            picture,
            rng,
            scale=scales[number // 2 % len(scales)],
            contrast=math.exp(rng.uniform(*CONTRASTS)),
            foreground=part_mask,
        )
        defect_pixels = np.argwhere(defect.mask)
        top, left = defect_pixels.min(0).tolist()
        bottom, right = (defect_pixels.max(0) + 1).tolist()
        return SimulatedPatch(carrier, y + top, x + left, defect.picture[top:bottom, left:right].copy())


def _window_start(centre: int, side: int) -> int:
    """Return where a window begins along an axis: around `centre`, but inside a picture of length `side`."""
    return max(0, min(centre - WINDOW // 2, side - WINDOW))


def make_rounds(
    load: Load, order: Sequence[int], given: Sequence[PictureSource], seed: int, can_simulate: bool
) -> list[Round]:
    """Make rounds, each of which leaves out other good pictures and has other defects.

    Over all rounds, each good picture is left out once; a remainder too small for a round is never left out.

    Args:
        load: Function that returns a good picture, [H, W, 3] uint8, by its number.
        order: Numbers of the good pictures, shuffled; each shows another part.
        given: A person's defective pictures, shuffled. If none are left for a round, it gets the first.
        seed: Seed of the simulated defects.
        can_simulate: Whether defects can be simulated.
    """
    left_out_count = min(LEFT_OUT, len(order) // LEFT_OUT_SHARE)
    rounds = []
    for number in range(len(order) // left_out_count):
        start = number * left_out_count
        end = start + left_out_count
        learnt = [*order[:start], *order[end:]][:LEARNT]
        given_of_round = [*given[number * GIVEN : (number + 1) * GIVEN]] or [*given[:GIVEN]]
        rounds.append(
            Round(
                number,
                load,
                learnt,
                left_out=[*order[start:end]],
                given=given_of_round,
                count=SIMULATED if can_simulate else 0,
                seed=seed,
            )
        )
    return rounds
