"""Finds false alarms that look like defects, by nothing but their scores. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

MILD_QUANTILE = 0.1  # quantile of the known defects' severities, up to which a defect is mild


class Strength(NamedTuple):
    """Score of a picture that was called anomalous, and its severity."""

    score: float
    severity: float


def defect_like(
    false_alarms: Mapping[int, Strength], found_defects: Iterable[float], fence: float | None
) -> set[int]:
    """Return the numbers of the false alarms that look like defects.

    Such a false alarm scores above `fence`, or is at least as severe as the mildest known defects (the
    quantile `MILD_QUANTILE` of their severities).

    Args:
        false_alarms: Score and severity of the false alarms, by number.
        found_defects: Severities of the known defects that were found.
        fence: Score above which a training picture is suspicious (`Manifest.suspicious_above`); None: not
            known.
    """
    severities = list(found_defects)
    mild_severity = float(np.quantile(severities, MILD_QUANTILE)) if severities else math.inf
    max_good_score = math.inf if fence is None else fence
    return {
        number
        for number, false_alarm in false_alarms.items()
        if false_alarm.score > max_good_score or false_alarm.severity >= mild_severity
    }
