"""Chooses among the settings that `fit --auto` tried: the quickest of those that are nearly the best.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

from flawscope.artefact.tried import Trial

MARGIN = 0.01  # AUROC: of settings that differ by less, the quicker is taken


def compared_rounds(trials: Sequence[Trial]) -> int:
    """Return the number of rounds by which trials can be compared: at least two trials have done so many.

    The result is the second largest number of rounds of a trial; for a single trial, its number of rounds;
    without trials, 0.
    """
    round_counts = sorted((trial.rounds for trial in trials), reverse=True)  # the largest first
    if len(round_counts) > 1:
        return round_counts[1]
    return round_counts[0] if round_counts else 0


def nearly_best(trials: Sequence[Trial], margin: float) -> list[Trial]:
    """Return the trials whose AUROC is less than `margin` below the best.

    Trials are compared by given defects first. The trials that are nearly the best by these are compared by
    simulated defects. A trial's AUROC is the mean over its first rounds, which are as many for
    each trial.

    Args:
        trials: The trials; those without a round are left out.
        margin: Difference of AUROC.
    """
    with_results = [trial for trial in trials if trial.rounds]
    if not with_results:
        return []
    round_count = compared_rounds(with_results)
    remaining = [trial for trial in with_results if trial.rounds >= round_count]
    # number of kinds of defects that were tried, given and simulated: the same for all trials
    kind_count = len(remaining[0].figures())
    for kind in range(kind_count):
        aurocs = [trial.figures(round_count)[kind] for trial in remaining]
        best = max(aurocs)
        trials_and_aurocs = zip(remaining, aurocs, strict=True)
        remaining = [trial for trial, auroc in trials_and_aurocs if best - auroc < margin]
    return remaining


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the quickest of the trials within `MARGIN` of the best AUROC; None: no trial has a round."""
    return min(nearly_best(trials, MARGIN), key=lambda trial: trial.seconds, default=None)
