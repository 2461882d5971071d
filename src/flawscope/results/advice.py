"""Advises the next steps: at most three, each with its reason; none where no step would help.

Torch-free. Callers gather the facts before a fit and after an evaluation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flawscope.errors import pluralize
from flawscope.pictures.defect_size import choose_tile, default_network, pixels_left
from flawscope.pictures.form import Size

MAX_STEPS = 3  # steps that are advised
MIN_PIXELS = 8.0  # length of a spot at the network: of smaller spots one in five is missed (`defect_size`)
SMALL_SHARE = 0.25  # share of missed defects that must be too small before `--min-defect` is advised
MIN_MISSED = 0.1  # share of missed defects from which on other settings are advised
# A rate is advised if it raises (share of defects found - share of false alarms) by at least this
MIN_WORTH = 0.15
ROUNDING = 1e-9  # error of a rate
MANY_MISSED = 0.25  # share of missed defects that is a reason for any remedy
SEARCH = "fit --auto, which tries how the pictures are best seen"
MIN_SEARCHED = 12  # good parts: with fewer a search tries nothing
REDUCED = 0.9  # share of its pixels that scaling leaves to a side, below which a larger size shows more
ACCURATE = "--preset accurate, which knows more beforehand and takes about five times as long a picture"
LIES = {
    "turn": "parts lie at any angle",
    "full": "parts lie at any angle, mirrored or at another scale",
    "shift": "parts lie at different places",
}


class Advice(NamedTuple):
    """A step to take next, with its reason.

    Attributes:
        step: The step, as flags of `flawscope fit` or in words.
        reason: Why it helps.
    """

    step: str
    reason: str

    def line(self) -> str:
        """Return the reason and the step in one line."""
        return f"{self.reason}: {self.step}"


def advice(
    *,
    lies: str | None = None,
    rate: float = 0.0,
    missing: str = "",
    learnt: int = 0,
    marks: Sequence[float] = (),
    pictures: Sequence[Size] = (),
    network: Size | None = None,
    defects: int = 0,
    missed: int = 0,
    lies_elsewhere: Callable[[], bool] = lambda: False,
    sole: str = "",
    hidden: int = 0,
    looser: Advice | None = None,
    remedies: Sequence[str] = (),
    blind: str = "",
) -> list[Advice]:
    """Return the steps that help most, at most three, the best first.

    Args:
        lies: Value of `--align` that good parts need, a key of `LIES`; None: they lie alike, or are aligned
            already.
        rate: The requested false-alarm rate.
        missing: Words on the good pictures that the rate still needs, by `describe_missing`; empty: it needs
            none.
        learnt: Number of training pictures, if they are so few that the method's preset `accurate` is worth
            its time; else 0.
        marks: For each missed defect the length of its largest labelled region, in pixels of the pictures.
        pictures: Sizes (H, W) of pictures.
        network: Size (H, W) that pictures are scaled to; None: they are seen in tiles.
        defects: Number of defects that were judged.
        missed: Number of defects that were not found.
        lies_elsewhere: Returns whether parts lie at different places; called only if the answer matters.
        sole: Name of the good picture that alone sets the threshold; empty: no single picture does.
        hidden: Number of missed defects that would be found if `sole` were left out.
        looser: Advice on a false-alarm rate that would find many more defects; None: no rate would.
        remedies: Steps that may help if the model does not see the defects, from `remedies()`.
        blind: Words on simulated defects that the model hardly sees; empty: it sees them.
    """
    steps = _steps_to_see_better(lies, marks, pictures, network)
    misses = f"{missed} of {pluralize(defects, 'defect')} are missed"
    if missed >= max(1, MIN_MISSED * defects):
        is_due_to_one_picture = bool(sole) and hidden >= missed / 2
        if is_due_to_one_picture:
            step = f"look whether {sole} is good, else fit without it"
            steps.append(Advice(step, f"{misses}, {hidden} for one picture"))
        elif looser is not None:
            steps.append(looser)
        can_search_help = SEARCH in remedies and not is_due_to_one_picture
        if can_search_help and (is_reduced(pictures, network) or lies_elsewhere()):
            steps.append(Advice(SEARCH, misses))
    are_many_missed = missed >= max(1, MANY_MISSED * defects)
    remedy_reason = misses if are_many_missed else blind
    if remedies and remedy_reason and not steps:
        steps.append(Advice(f"what may help: {join_words(remedies)}", remedy_reason))
    steps += _steps_to_learn_more(learnt, missing, rate)
    return steps[:MAX_STEPS]


def _steps_to_see_better(
    lies: str | None, marks: Sequence[float], pictures: Sequence[Size], network: Size | None
) -> list[Advice]:
    """Return the steps against parts that lie differently, and against defects too small for the network."""
    steps = []
    if lies is not None:
        steps.append(Advice(f"--align {lies}", LIES[lies]))
    if marks and pictures and network is not None:
        min_defect = _advise_min_defect(marks, pictures, network)
        if min_defect is not None:
            steps.append(min_defect)
    return steps


def _steps_to_learn_more(learnt: int, missing: str, rate: float) -> list[Advice]:
    """Return the steps against few training pictures, and against a rate that does not hold yet."""
    steps = []
    if learnt:
        steps.append(Advice(ACCURATE, f"{pluralize(learnt, 'good picture')} to learn from"))
    if missing:
        steps.append(Advice(f"add {missing}", f"a false-alarm rate of {rate:.1%} cannot be promised yet"))
    return steps


def join_words(words: Sequence[str]) -> str:
    """Join alternatives: "a, b or c"."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def remedies(
    *, learnt: int, pictures: Sequence[Size], network: Size | None, accurate: bool, tried: bool
) -> list[str]:
    """Return steps that may help a model that does not see the defects, the likeliest first.

    Args:
        learnt: Number of good parts that the model has learnt from.
        pictures: Sizes (H, W) of pictures.
        network: Size (H, W) that pictures are scaled to; None: pictures are seen in tiles.
        accurate: Whether the model's method has a preset `accurate`, and the model was fitted with another.
        tried: Whether settings were tried (`--auto`).
    """
    steps = ["--preset accurate"] if accurate else []
    if is_reduced(pictures, network):
        steps.append("larger pictures (--size, or --min-defect with the smallest defect's size)")
    steps.append("a region where the defects are (--roi)")
    if learnt >= MIN_SEARCHED and not tried:
        steps.append(SEARCH)
    return steps


def looser_rate(
    decided: Sequence[tuple[bool, bool, float]], rates: Sequence[float], auroc: float | None
) -> Advice | None:
    """Advise a higher false-alarm rate where scores separate good from defective and decisions do not.

    Args:
        decided: For each test picture, or part: whether it is defective; whether it is called anomalous; its
            p-value.
        rates: Rates to choose from, all above the rate of the model.
        auroc: AUROC of the scores; None: it is not known.

    Returns:
        The advice; None: no rate finds so many more defects that its false alarms are worth it.
    """
    defect_count = sum(is_defective for is_defective, _, _ in decided)
    good_count = len(decided) - defect_count
    if not defect_count or not good_count or auroc is None:
        return None

    def count_called(rate: float) -> tuple[int, int]:
        """Return the numbers of defective and of good pictures that are called anomalous at a rate."""
        found_defects = 0
        false_alarms = 0
        for is_defective, is_called, p_value in decided:
            if is_called or p_value <= rate + ROUNDING:
                found_defects += is_defective
                false_alarms += not is_defective
        return found_defects, false_alarms

    def worth(rate: float) -> float:
        """Return the share of defects found at a rate, minus the share of false alarms."""
        found_defects, false_alarms = count_called(rate)
        return found_defects / defect_count - false_alarms / good_count

    # no p-value is 0, so at rate 0 the count is of the pictures that the model calls anomalous now
    present_rate = 0.0
    best_rate = max(sorted(rates), key=worth, default=None)
    if best_rate is None or worth(best_rate) - worth(present_rate) < MIN_WORTH:
        return None
    present_defects, _ = count_called(present_rate)
    best_defects, best_alarms = count_called(best_rate)
    return Advice(
        f"calibrate --false-alarm-rate {best_rate:.0%}, which finds {best_defects} and calls {best_alarms} "
        f"of {good_count} good ones anomalous, as read from this test set: others tell whether it holds",
        f"{defect_count - present_defects} of {pluralize(defect_count, 'defect')} are missed, though scores "
        f"tell them from good ones (AUROC {auroc:.2f})",
    )


def is_reduced(pictures: Sequence[Size], network: Size | None) -> bool:
    """Return whether `network` is the default size, and most pictures lose pixels when scaled to it.

    If so, a search tries larger sizes, which show more. A loss of a few percent does not count: it comes from
    rounding the sides to the network's step.
    """
    if network is None or not pictures or network != default_network(pictures):
        return False
    shares = [pixels_left(1, size, network) for size in pictures]  # what is left of a length of one pixel
    return statistics.median_low(shares) < REDUCED


def _advise_min_defect(marks: Sequence[float], pictures: Sequence[Size], network: Size) -> Advice | None:
    """Advise `--min-defect` where missed defects are too small for the network.

    The arguments are those of `advice`. The result is None if the defects are large enough, or if they would
    be too small in any tile as well.
    """
    quarter_index = int(SMALL_SHARE * (len(marks) - 1))
    length = sorted(marks)[quarter_index]  # a quarter of the defects are not longer
    network_length = min(pixels_left(length, size, network) for size in pictures)
    if network_length >= MIN_PIXELS:
        return None
    min_defect = max(1, math.floor(length))
    choice = choose_tile(min_defect, pictures, network)
    if choice is None:
        return None
    tile_size, _ = choice
    largest_size = max(pictures, key=math.prod)
    tile_counts = []  # along the height, along the width
    for side, tile_side in zip(largest_size, tile_size, strict=True):
        tile_counts.append(_count_tiles(side, tile_side))
    view_count = 1 + math.prod(tile_counts)  # the whole picture is seen, too
    return Advice(
        f"--min-defect {min_defect}px, which takes about {view_count} times as long a picture",
        f"a quarter of the missed defects are up to {length:.0f} px long, {network_length:.0f} px at the "
        "network",
    )


def _count_tiles(side: int, tile_side: int) -> int:
    """Return the number of tiles along a side of a picture; they overlap by a quarter."""
    if side <= tile_side:
        return 1
    return 1 + math.ceil((side - tile_side) / (0.75 * tile_side))
