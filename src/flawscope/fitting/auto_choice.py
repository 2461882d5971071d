"""Chooses among the settings that `fit --auto` tried: the quickest of those that are nearly the best.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

from flawscope.artefact.tried import Trial

MARGIN = 0.01  # AUROC: of settings that differ by less, the quicker is taken


def compared_rounds(trials: Sequence[Trial]) -> int:
    """Return the number of rounds by which trials can be compared: those of the second most often tried.

    Of a single trial it is the number of its own rounds, without trials 0.
    """
    counts = sorted((trial.rounds for trial in trials), reverse=True)
    if len(counts) > 1:
        return counts[1]
    return counts[0] if counts else 0


def nearly_best(trials: Sequence[Trial], margin: float) -> list[Trial]:
    """Return the trials whose AUROC is less than `margin` below the best.

    Trials are compared by given defects first; those that remain are compared by simulated defects. All are
    compared by the same rounds.

    Args:
        trials: The trials; those without a round are left out.
        margin: Difference of AUROC.
    """
    with_results = [trial for trial in trials if trial.rounds]
    if not with_results:
        return []
    rounds = compared_rounds(with_results)
    remaining = [trial for trial in with_results if trial.rounds >= rounds]
    for kind in range(len(remaining[0].figures())):
        best = max(trial.figures(rounds)[kind] for trial in remaining)
        remaining = [trial for trial in remaining if best - trial.figures(rounds)[kind] < margin]
    return remaining


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the quickest trial among those that are nearly the best, by `MARGIN`; None: none has a round."""
    return min(nearly_best(trials, MARGIN), key=lambda trial: trial.seconds, default=None)
