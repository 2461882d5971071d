"""Chooses among the settings that `fit --auto` tried: the quickest of those that are nearly the best.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

from flawscope.artefact.tried import Trial

MARGIN = 0.01  # AUROC: of settings that differ by less, the one that costs less is taken


def compared_rounds(trials: Sequence[Trial]) -> int:
    """Return the number of rounds that at least two settings were tried in; of a single one, its own."""
    counts = sorted((one.rounds for one in trials), reverse=True)
    return next(iter(counts[1:] or counts), 0)


def nearly_best(trials: Sequence[Trial], margin: float) -> list[Trial]:
    """Return the trials whose AUROC is less than `margin` below the best.

    They are compared by given defects first, then those that are left by simulated ones. All are compared by
    the same rounds.
    """
    ended = [one for one in trials if one.rounds]
    if not ended:
        return []
    rounds = compared_rounds(ended)
    near = [one for one in ended if one.rounds >= rounds]
    for kind in range(len(near[0].figures())):
        best = max(one.figures(rounds)[kind] for one in near)
        near = [one for one in near if best - one.figures(rounds)[kind] < margin]
    return near


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the quickest trial among those that are nearly the best, by `MARGIN`; None: none was ended."""
    return min(nearly_best(trials, MARGIN), key=lambda one: one.seconds, default=None)
