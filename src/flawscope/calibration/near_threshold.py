"""Finds the pictures called good that lie nearest the threshold, for a person to find missed defects.

This is uncertainty sampling (Lewis and Gale, A sequential algorithm for training text classifiers, 1994)
among the pictures called good alone: a person sees the others in any case.
"""

from __future__ import annotations

# Times the false-alarm rate, up to which a p-value is near it: as many good ones as false alarms. Of n
# pictures p-values lie 1 / (n + 1) apart, and no rate that they can promise is smaller: up to twice the rate
# there is always one, and no smaller multiple offers something for every number of pictures.
NEAR = 2.0
ROUNDING = 1e-9


def is_near(p_value: float, rate: float, times: float = NEAR) -> bool:
    """Whether a picture or part that is called good is near the threshold.

    Its p-value is at most `times` the rate. Of good pictures, a share of (times - 1) * rate is near where
    that is a whole number of the pictures calibrated on; otherwise a smaller share.

    Args:
        p_value: P-value of the picture or part.
        rate: False-alarm rate, 0..1.
        times: Factor of the rate.
    """
    return bool(p_value <= times * rate + ROUNDING)


def near_share(times: float = NEAR) -> float:
    """Return the number of good pictures near the threshold, as a multiple of the false alarms."""
    return max(0.0, times - 1)
