"""Chooses among the settings that `fit --auto` tried: the quickest of those that are nearly the best.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

from flawscope.artefact.tried import Trial

MARGIN = 0.01  # AUROC: of settings that differ by less, the one that costs less is taken


def compared_rounds(trials: Sequence[Trial]) -> int:
    """Return the number of rounds that at least two settings were tried in; of a single one, its own."""
    counts = sorted((trial.rounds for trial in trials), reverse=True)
    return next(iter(counts[1:] or counts), 0)


def nearly_best(trials: Sequence[Trial], margin: float) -> list[Trial]:
    """Return the trials whose AUROC is less than `margin` below the best.

    They are compared by given defects first, then those that are left by simulated ones. All are compared by
    the same rounds.
    """
    with_results = [trial for trial in trials if trial.rounds]
    if not with_results:
        return []
    rounds = compared_rounds(with_results)
    near = [trial for trial in with_results if trial.rounds >= rounds]
    for kind in range(len(near[0].figures())):
        best = max(trial.figures(rounds)[kind] for trial in near)
        near = [trial for trial in near if best - trial.figures(rounds)[kind] < margin]
    return near


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the quickest trial among those that are nearly the best, by `MARGIN`; None: none has a round."""
    return min(nearly_best(trials, MARGIN), key=lambda trial: trial.seconds, default=None)
