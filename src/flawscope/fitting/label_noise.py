"""Wrong labels: pictures called good that look like defects, and corrections that nothing else supports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from flawscope.artefact.model_file import Artefact
from flawscope.fitting.reviewed import Reviewed, Score

MILD = 0.1  # share of the known defects that are the mildest
ALIKE = 0.75  # of a false alarm's severity: others like it were corrected where it has no more without itself


def odd_ones(old: Artefact, pictures: Sequence[Reviewed], before: Mapping[int, Score]) -> set[int]:
    """False alarms that look like defects: those as far out as `suspicious_above` says of training pictures,
    and those that stand out more than the mildest known defects."""
    fence = old.manifest.suspicious_above
    found = [
        before[one.number].severity
        for one in pictures
        if not one.good and one.number in before and before[one.number].anomalous
    ]
    mild = float(np.quantile(found, MILD)) if found else math.inf
    found_odd = set()
    for one in pictures:
        if not one.learn or (score := before.get(one.number)) is None:
            continue
        if (fence is not None and score.score > fence) or score.severity >= mild:
            found_odd.add(one.number)
    return found_odd


def unsupported(
    wanted: Sequence[Reviewed],
    before: Mapping[int, Score],
    odd: set[int],
    left_out: Mapping[int, float],
) -> set[int]:
    """False alarms for which fewer than two of three speak: not odd, looked at twice, and others like it were
    corrected. That is so where it stands out less with the others in the bank, and itself left out.

    Args:
        left_out: its severity then, by number.
    """
    found = set()
    for one in wanted:
        score = before.get(one.number)
        alike = score is not None and left_out.get(one.number, 0.0) <= ALIKE * score.severity
        if (one.number not in odd) + one.sure + alike < 2:
            found.add(one.number)
    return found
