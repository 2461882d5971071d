"""One sentence about a version: use it, or rather not."""

from __future__ import annotations

from typing import Any

import pytest

from flawscope.station.learning.promotion_policy import advice
from flawscope.station.web.templates import LANGUAGES, texts


def candidate(status: str = "ready", **judged: Any) -> dict[str, Any]:
    none: dict[str, list[int]] = {"lost": [], "weaker": [], "found": []}
    good = {"before": [7, 0.6, 1.0], "after": [1, 0.0, 0.5], "count": 9}
    return {"status": status, "compared_with": 1, "judgement": {**none, "good": good, **judged}}


@pytest.mark.parametrize(
    ("judged", "use", "reason"),
    [
        ({}, True, "fewer"),
        ({"found": [4]}, True, "finds"),
        ({"good": {"before": [1, 0, 1], "after": [1, 0, 1], "count": 9}}, False, "no_gain"),
        ({"lost": [3, 4], "found": [5]}, False, "lost"),
        ({"weaker": [3], "found": [5]}, False, "weaker"),
        ({"refused": ["simulated"], "simulated": [90, 60, 100], "responsible": [3]}, False, "simulated"),
    ],
)
def test_a_version_that_loses_something_is_not_advised(
    judged: dict[str, Any], use: bool, reason: str
) -> None:
    found = advice(candidate(**judged), active=1)
    assert found is not None
    assert found[:2] == (use, reason)
    for language in LANGUAGES:
        assert texts(language)(f"advice.{reason}", **found.values)


def test_what_was_compared_with_another_version_is_learnt_again() -> None:
    found = advice(candidate(), active=2)
    assert found is not None
    assert found[:2] == (False, "old")
    assert advice({"status": "running", "judgement": None}, active=2) is None
