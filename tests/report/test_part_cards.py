"""Parts on the pages: mistakes first, every view's picture, and what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flawscope.report import part_cards
from flawscope.report.pages import predictions_page
from flawscope.results.part import PartPrediction
from flawscope.results.table import Row

pytest.importorskip("jinja2")

HOSTILE = "<img src=x onerror=alert(1)>"
FACTS = {"category": "thing", "method": "patchcore", "expected_rate": 0.05, "promise": "score threshold 0.5"}


@pytest.fixture(scope="module")
def predictions(hostile: Any) -> list[Any]:
    return [seen.prediction for seen in hostile.result.pictures]


def decided(predictions: list[Any], name: str, p_value: float, missing: tuple[str, ...] = ()) -> Any:
    views = {"top": predictions[1], "side": predictions[0]}
    return PartPrediction(name, 2.0, p_value, p_value < 0.05, "top", views, missing)


def test_mistakes_come_first_then_the_most_unusual(predictions: list[Any]) -> None:
    words = {"a": "right", "b": "missed", "c": "right", "d": "false alarm"}
    p_values = {"a": 0.4, "b": 0.6, "c": 0.01, "d": 0.02}
    parts = [(decided(predictions, name, p_values[name]), word) for name, word in words.items()]
    places = {str(predictions[1].path): 5}
    cards = part_cards.part_cards(parts, places)
    assert [card["name"] for card in cards] == ["d", "b", "c", "a"]
    assert cards[0]["views"] == [("side", None), ("top", 5)]  # one is not on the page


def test_a_page_shows_names_as_they_are_and_what_is_missing(
    predictions: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flawscope.report.pages.MOST_PARTS", 1)
    first = decided(predictions, HOSTILE, 0.01, missing=(HOSTILE,))
    gone = replace(first, views={"top": replace(predictions[1], path="gone.png")})
    rows = [Row.of(one) for one in predictions]
    text = " ".join(predictions_page(rows, [], FACTS, parts=[first, replace(gone, p_value=0.5)]).split())
    assert "<img" not in text.partition("<main>")[2].partition("</main>")[0]
    assert "no picture" in text
    assert "1 of 2 parts shown" in text
    assert "2 of 2 parts anomalous" in text
    assert "listed without its picture" in " ".join(
        predictions_page(rows, [], FACTS, parts=[gone]).partition("<main>")[2].split()
    )
