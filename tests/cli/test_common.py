"""What commands share: tables."""

from __future__ import annotations

from flawscope.cli.common import table


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
