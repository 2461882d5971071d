"""Finds the pictures called good that lie nearest the threshold, for a person to find missed defects.

This is uncertainty sampling (Lewis and Gale, A sequential algorithm for training text classifiers, 1994)
among the pictures called good alone: a person sees the others in any case.
"""

from __future__ import annotations

# A p-value up to this multiple of the false-alarm rate is near the threshold. Then as many good pictures are
# near it as there are false alarms. P-values from n pictures lie 1 / (n + 1) apart, and no rate that they can
# promise is smaller. So between the rate and its double there is always a p-value; no smaller multiple has
# one for each n.
NEAR = 2.0
ROUNDING = 1e-9  # by which a p-value may exceed the limit


def is_near(p_value: float, rate: float, times: float = NEAR) -> bool:
    """Whether a picture or part that is called good is near the threshold: p_value <= times * rate.

    The share of good pictures that are near is (times - 1) * rate. It is smaller if this share of the
    pictures calibrated on is not a whole number.

    Args:
        p_value: P-value of the picture or part.
        rate: False-alarm rate, 0..1.
        times: Factor of the rate.
    """
    return bool(p_value <= times * rate + ROUNDING)


def near_share(times: float = NEAR) -> float:
    """Return the expected number of good pictures near the threshold, divided by that of false alarms."""
    return max(0.0, times - 1)
