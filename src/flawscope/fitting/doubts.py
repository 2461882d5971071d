"""Words that are wrong: false alarms that look like defects, and those that nothing else speaks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from flawscope.artefact.model_file import Artefact
from flawscope.fitting.corrections import with_room
from flawscope.fitting.fitting import extend
from flawscope.fitting.reviewed import Reviewed, Score, grouped

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


def alone(
    old: Artefact,
    wanted: Sequence[Reviewed],
    before: Mapping[int, Score],
    odd: set[int],
    hashes: Mapping[int, str],
    device: str,
) -> set[int]:
    """False alarms for which fewer than two of three speak: not odd, looked at twice, and others like it were
    corrected. That is so where it stands out less with the others in the bank, and itself left out."""
    if not wanted:
        return set()
    several = list({hashes[one.number]: one for one in wanted}.values())
    with grouped(old, several) as (sources, group):
        model = extend(with_room(old), sources, group=group, device=device, check=False)
    known = old.manifest.calibration.count
    new = model.manifest.facts["calibration_pictures"][known:]
    left_out = dict(zip(new, model.calibration.scores[known:], strict=True))
    found = set()
    for one in wanted:
        score, digest = before.get(one.number), hashes[one.number]
        severity = float(old.manifest.calibration.severity(left_out[digest])) if digest in left_out else 0.0
        alike = score is not None and severity <= ALIKE * score.severity
        if (one.number not in odd) + one.sure + alike < 2:
            found.add(one.number)
    return found
