"""Pauses before something that failed is tried again."""

from __future__ import annotations

from flawscope.station.background import Backoff


def test_pauses_double_up_to_the_longest_and_begin_anew_after_success() -> None:
    pauses = Backoff(1.0, 5.0)
    assert [pauses.next() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    pauses.reset()
    assert pauses.next() == 1.0


def test_pauses_are_spread_around_what_is_due() -> None:
    several = [Backoff(1.0, 8.0, 0.25).next() for _ in range(200)]
    assert 0.75 <= min(several) < 1.0 < max(several) <= 1.25
