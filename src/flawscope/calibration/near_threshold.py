"""Tells which good ones lie nearest the threshold: a person looks at these, too, and so meets missed defects.

This is uncertainty sampling (Lewis and Gale, A sequential algorithm for training text classifiers, 1994), of
those called good alone: a person sees the others anyway.
"""

from __future__ import annotations

# Times the false-alarm rate, up to which a p-value is near it: as many good ones as false alarms. Of n
# pictures p-values lie 1 / (n + 1) apart, and no rate that they can promise is smaller: up to twice the rate
# there is always one, and no smaller multiple offers something for every number of pictures.
NEAR = 2.0
ROUNDING = 1e-9


def is_near(p_value: float, rate: float, times: float = NEAR) -> bool:
    """Whether a picture or part that is called good at a false-alarm rate is near the threshold: its p-value
    is at most so many times the rate. Of good ones a share of (times - 1) * rate is, where that is a whole
    number of those calibrated on; of fewer less.
    """
    return bool(p_value <= times * rate + ROUNDING)


def near_share(times: float = NEAR) -> float:
    """Returns how many good ones are near the threshold, in times of the false alarms."""
    return max(0.0, times - 1)
