"""What commands share: numbers as they are written, and tables."""

from __future__ import annotations

import pytest

from flawscope.cli.common import rate, table


@pytest.mark.parametrize(("text", "value"), [("0.05", 0.05), ("5%", 0.05), ("0.5%", 0.005), ("1e-3", 0.001)])
def test_rates_are_shares_or_percent(text: str, value: float) -> None:
    assert rate(text) == pytest.approx(value)


def test_tables_are_aligned_and_numbers_stand_right() -> None:
    text = table([("a", 1, "x"), ("bcd", 22, None), ("e", "n/a", "y")], ("name", "n", "t"))
    assert text.splitlines() == [
        "name    n  t",
        "----  ---  -",
        "a       1  x",
        "bcd    22",
        "e     n/a  y",
    ]
    assert table([], ("a", "b")).splitlines()[0] == "a  b"
