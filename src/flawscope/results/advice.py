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

MOST = 3  # steps that are advised
TOO_SMALL = 8.0  # pixels at the network below which one in five spots or more is missed (`defect_size`)
SMALL_SHARE = 0.25  # of the missed defects: a step is worth its time where so many are too small
MIN_MISSED = 0.1  # share of the defects from which on other settings are advised
MIN_WORTH = 0.15  # gain in the share of defects found, less that of false alarms, for which a rate is advised
ROUNDING = 1e-9  # of a rate
MANY_MISSED = 0.25  # share from which on a step is named, whatever is known
SEARCH = "fit --auto, which tries how the pictures are best seen"
MIN_SEARCHED = 12  # good parts: of fewer a search tries nothing
REDUCED = 0.9  # share of a side's pixels left to most pictures, below which a larger size shows more
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
        lies: `--align` that good parts need; None: they lie alike, or are aligned already.
        rate: The requested false-alarm rate.
        missing: Words on the good pictures that the rate still needs, by `describe_missing`; empty: none.
        learnt: Number of good pictures learnt from by the default of a method with a preset `accurate`, where
            they are few; 0: many, or by other settings.
        marks: Length of the largest piece of each missed defect that is marked, in pixels of the pictures.
        pictures: Sizes (H, W) of pictures.
        network: Size (H, W) that pictures are scaled to; None: they are seen in tiles.
        defects: Number of defects that were judged.
        missed: Number of defects that were not found.
        lies_elsewhere: Returns whether parts lie elsewhere; called only where it decides.
        sole: Name of the good picture that alone sets the threshold.
        hidden: Number of missed defects that would be found without that picture.
        looser: A false-alarm rate that would find many more of them, and what it costs.
        remedies: Steps that may help a model that does not see the defects (`remedies`).
        blind: Words on simulated defects that it hardly sees; empty: it does.
    """
    steps = _steps_to_see_better(lies, marks, pictures, network)
    misses = f"{missed} of {pluralize(defects, 'defect')} are missed"
    has_many = missed >= max(1, MANY_MISSED * defects)
    if missed >= max(1, MIN_MISSED * defects):
        if sole and 2 * hidden >= missed:
            look = f"look whether {sole} is good, else fit without it"
            steps.append(Advice(look, f"{misses}, {hidden} for one picture"))
        else:
            steps += _given(looser)
            if SEARCH in remedies and (is_reduced(pictures, network) or lies_elsewhere()):
                steps.append(Advice(SEARCH, misses))
    if remedies and not steps:
        steps += _remedy_steps(remedies, misses if has_many else blind)
    steps += _steps_to_learn_more(learnt, missing, rate)
    return steps[:MOST]


def _steps_to_see_better(
    lies: str | None, marks: Sequence[float], pictures: Sequence[Size], network: Size | None
) -> list[Advice]:
    """Steps by how parts lie, and by how small defects are at the network."""
    steps = []
    if lies is not None:
        steps.append(Advice(f"--align {lies}", LIES[lies]))
    if marks and pictures and network is not None:
        steps += _given(_smaller_view(marks, pictures, network))
    return steps


def _given(step: Advice | None) -> list[Advice]:
    return [] if step is None else [step]


def _remedy_steps(remedies: Sequence[str], reason: str) -> list[Advice]:
    """The step that names all remedies; none without a reason."""
    return [Advice(f"what may help: {join_words(remedies)}", reason)] if reason else []


def _steps_to_learn_more(learnt: int, missing: str, rate: float) -> list[Advice]:
    steps = []
    if learnt:
        steps.append(Advice(ACCURATE, f"{pluralize(learnt, 'good picture')} to learn from"))
    if missing:
        steps.append(Advice(f"add {missing}", f"a false-alarm rate of {rate:.1%} cannot be promised yet"))
    return steps


def join_words(words: Sequence[str]) -> str:
    """Join alternatives: "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def remedies(
    *, learnt: int, pictures: Sequence[Size], network: Size | None, accurate: bool, tried: bool
) -> list[str]:
    """Return steps that may help a model that does not see the defects, the likeliest first.

    Args:
        learnt: Number of good parts that it learnt from.
        pictures: Sizes (H, W) of pictures.
        network: Size (H, W) that pictures are scaled to; None: they are seen in tiles.
        accurate: Whether its method has a preset `accurate` that it was not fitted with.
        tried: Whether settings were tried (`--auto`).
    """
    found = ["--preset accurate"] if accurate else []
    if is_reduced(pictures, network):
        found.append("larger pictures (--size, or --min-defect with the smallest defect's size)")
    found.append("a region where the defects are (--roi)")
    if learnt >= MIN_SEARCHED and not tried:
        found.append(SEARCH)
    return found


def looser_rate(
    decided: Sequence[tuple[bool, bool, float]], rates: Sequence[float], auroc: float | None
) -> Advice | None:
    """Advise a higher false-alarm rate where scores separate good from defective and decisions do not.

    Args:
        decided: Of each test picture, or part: whether it is defective, whether it is called anomalous, and
            its p-value.
        rates: Rates to choose from, all above the model's own.
        auroc: AUROC of the scores.

    Returns:
        None: no rate finds so many more that it is worth its false alarms.
    """
    count = sum(defective for defective, _, _ in decided)
    good = len(decided) - count
    if not count or not good or auroc is None:
        return None

    def called(rate: float) -> tuple[int, int]:
        """Number of defective and of good ones that are called anomalous at a rate."""
        flagged = [defective for defective, is_called, p in decided if is_called or p <= rate + ROUNDING]
        return sum(flagged), len(flagged) - sum(flagged)

    def worth(rate: float) -> float:
        found, alarms = called(rate)
        return found / count - alarms / good

    now = called(0.0)
    best = max(sorted(rates), key=worth, default=None)
    if best is None or worth(best) - (now[0] / count - now[1] / good) < MIN_WORTH:
        return None
    found, alarms = called(best)
    return Advice(
        f"calibrate --false-alarm-rate {best:.0%}, which finds {found} and calls {alarms} of {good} good "
        "ones anomalous, as read from this test set: others tell whether it holds",
        f"{count - now[0]} of {pluralize(count, 'defect')} are missed, though scores tell them from good "
        f"ones (AUROC {auroc:.2f})",
    )


def is_reduced(pictures: Sequence[Size], network: Size | None) -> bool:
    """Return whether most pictures are scaled down to the default size.

    A larger size, which a search tries, shows more. Sides are rounded to the network's step: a few percent
    less do not count.
    """
    if network is None or not pictures or network != default_network(pictures):
        return False
    return statistics.median_low(pixels_left(1, size, network) for size in pictures) < REDUCED


def _smaller_view(marks: Sequence[float], pictures: Sequence[Size], network: Size) -> Advice | None:
    """Advise `--min-defect` where missed defects are too small at the network to be found."""
    usual = sorted(marks)[int(SMALL_SHARE * (len(marks) - 1))]
    left = min(pixels_left(usual, size, network) for size in pictures)
    wanted = max(1, math.floor(usual))
    if left >= TOO_SMALL or (chosen := choose_tile(wanted, pictures, network)) is None:
        return None
    largest = max(pictures, key=math.prod)
    counts = (  # tiles of the largest picture, which overlap by a quarter, beside the whole
        1 if side <= length else 1 + math.ceil((side - length) / (0.75 * length))
        for side, length in zip(largest, chosen[0], strict=True)
    )
    return Advice(
        f"--min-defect {wanted}px, which takes about {1 + math.prod(counts)} times as long a picture",
        f"a quarter of the missed defects are up to {usual:.0f} px long, {left:.0f} px at the network",
    )
