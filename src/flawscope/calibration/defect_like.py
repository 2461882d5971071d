"""Finds false alarms that look like defects, by their scores alone. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

MILD_QUANTILE = 0.1  # of the known defects' severities, up to which they are mild


class Strength(NamedTuple):
    """Score of a picture that was called anomalous, and its severity."""

    score: float
    severity: float


def defect_like(
    false_alarms: Mapping[int, Strength], found_defects: Iterable[float], fence: float | None
) -> set[int]:
    """Return the numbers of the false alarms that look like defects.

    They lie farther out than training pictures may be, or stand out more than the mildest known defects.

    Args:
        false_alarms: The false alarms, by number.
        found_defects: Severities of the known defects that were found.
        fence: Score above which a training picture is suspicious (`Manifest.suspicious_above`); None: not
            known.
    """
    found = list(found_defects)
    mild = float(np.quantile(found, MILD_QUANTILE)) if found else math.inf
    return {
        number
        for number, false_alarm in false_alarms.items()
        if (fence is not None and false_alarm.score > fence) or false_alarm.severity >= mild
    }
