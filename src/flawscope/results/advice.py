"""Advises what to do next: at most three steps, each with its reason; none where nothing is to be gained.

Torch-free. What is known after a check, a fit or an evaluation is gathered by the caller (`Facts`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from flawscope.errors import pluralize
from flawscope.views.defect_size import choose_tile, default_network, pixels_left
from flawscope.views.form import Size

MOST = 3  # steps that are advised
TOO_SMALL = 8.0  # pixels at the network below which one in five spots or more is missed (`defect_size`)
SMALL_SHARE = 0.25  # of the marked defects: a step is worth its time where so many are too small
MIN_MISSED = 0.1  # share of the defects from which on other settings are advised
REDUCED = 0.9  # share of a side's pixels left to most pictures, below which a larger size shows more
LIES = {"turn": "parts lie at any angle", "shift": "parts lie at different places"}


class Advice(NamedTuple):
    """A step, as flags of `flawscope fit` or in words, and why."""

    step: str
    reason: str

    def line(self) -> str:
        return f"{self.reason}: {self.step}"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Knowledge that steps are advised by; what is not known is left at its default.

    lies: `--align` that the outlines of good parts ask for; None: they lie alike, or are aligned already.
    rate, missing: the false-alarm rate asked for, and how many more good pictures it needs.
    marks: length of the largest piece of each marked defect, in pixels of the pictures; after an evaluation
        of those that were missed.
    pictures, network: sizes (H, W) of pictures, and the one that they are scaled to; None where they are seen
        in tiles.
    defects, missed: how many were judged, and not found.
    lies_elsewhere: tells whether parts lie elsewhere from picture to picture; asked only where it decides.
    tried: whether settings were tried (`--auto`).
    sole, hidden: name of the good picture that alone sets the threshold, and how many of the missed defects
        would be found without it.
    """

    lies: str | None = None
    rate: float = 0.0
    missing: int = 0
    marks: Sequence[float] = ()
    pictures: Sequence[Size] = ()
    network: Size | None = None
    defects: int = 0
    missed: int = 0
    lies_elsewhere: Callable[[], bool] = lambda: False
    tried: bool = False
    sole: str = ""
    hidden: int = 0


def advice(facts: Facts) -> list[Advice]:
    """Returns the steps that are worth most, at most three, the first first."""
    return [*_steps(facts)][:MOST]


def _steps(facts: Facts) -> Iterator[Advice]:
    misses = facts.missed >= max(1, MIN_MISSED * facts.defects)
    if facts.lies is not None:
        yield Advice(f"--align {facts.lies}", LIES[facts.lies])
    if small := _smaller_view(facts):
        yield small
    of = f"{facts.missed} of {pluralize(facts.defects, 'defect')} are missed"
    if misses and facts.sole and 2 * facts.hidden >= facts.missed:
        yield Advice(
            f"look whether {facts.sole} is good, else fit without it", f"{of}, {facts.hidden} for one picture"
        )
    elif misses and not facts.tried and (is_reduced(facts.pictures, facts.network) or facts.lies_elsewhere()):
        yield Advice("fit --auto, which tries how the pictures are best seen", of)
    if facts.missing:
        more = pluralize(facts.missing, "more good picture")
        yield Advice(f"add {more}", f"a false-alarm rate of {facts.rate:.1%} cannot be promised yet")


def is_reduced(pictures: Sequence[Size], network: Size | None) -> bool:
    """Whether most pictures are scaled down to the default size: a larger one, which a search tries, shows
    more. Sides are rounded to the network's step, so that a few percent less is as they are."""
    if network is None or not pictures or network != default_network(pictures):
        return False
    return statistics.median_low(pixels_left(1, size, network) for size in pictures) < REDUCED


def _smaller_view(facts: Facts) -> Advice | None:
    """Advises `--min-defect` where marked defects are too small at the network to be found."""
    if not facts.marks or facts.network is None or not facts.pictures:
        return None
    marks = sorted(facts.marks)
    usual = marks[int(SMALL_SHARE * (len(marks) - 1))]
    if min(pixels_left(usual, size, facts.network) for size in facts.pictures) >= TOO_SMALL:
        return None
    wanted = max(1, math.floor(usual))
    chosen = choose_tile(wanted, facts.pictures, facts.network)
    if chosen is None:
        return None
    left = min(pixels_left(usual, size, facts.network) for size in facts.pictures)
    return Advice(
        f"--min-defect {wanted}px, which takes about {_tiles(facts, chosen[0])} times as long a picture",
        f"a quarter of the marked defects are up to {usual:.0f} px long, {left:.0f} px at the network",
    )


def _tiles(facts: Facts, tile: tuple[int, int]) -> int:
    """Tiles of the largest picture, which overlap by a quarter, and the whole."""
    largest = max(facts.pictures, key=math.prod)
    counts = (
        1 if side <= length else 1 + math.ceil((side - length) / (0.75 * length))
        for side, length in zip(largest, tile, strict=True)
    )
    return 1 + math.prod(counts)
