"""Numbers on the pages."""

from __future__ import annotations

import pytest

from flawscope.results.review.pages import Texts


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (153.8, 2, "150"),
        (1000 / 3, 2, "330"),
        (99.7, 2, "100"),
        (12345.6, 3, "12300"),
        (7.69, 2, "7,7"),
    ],
)
def test_a_large_number_has_no_exponent(value: float, digits: int, shown: str) -> None:
    assert Texts("fr", {}).number(value, digits) == shown
