"""The pages beside the report: of `predict --out`, of two models on the same pictures, and parts on them."""

import json
import re
from dataclasses import replace

import pytest

from flawscope.pages.report import REPORT_NAME, write_page
from flawscope.pages.report.pages import LISTED, predictions_page
from flawscope.pages.report.words import part_cards
from flawscope.results.part import PartPrediction
from flawscope.results.table import ResultRow, Unjudged

FACTS = {"category": "thing", "method": "patchcore", "expected_rate": 0.05, "promise": "score threshold 0.5"}
HOSTILE = "<img src=x onerror=alert(1)>"


def pictures_in(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


def check_safe(text):
    """No name or reason becomes markup, and nothing comes from outside."""
    assert "<img" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.replace("data:image", ""))


@pytest.fixture(scope="module")
def predictions(hostile):
    return [seen.prediction for seen in hostile.result.pictures]


def test_every_input_is_listed_and_the_most_severe_is_first(predictions):
    broken = Unjudged(f"{HOSTILE}.heic", f"{HOSTILE}.heic is no picture")
    table = [*map(ResultRow.from_result, predictions), ResultRow.from_result(broken)]
    text = predictions_page(table, predictions[:3], FACTS)
    check_safe(text)
    pictures = pictures_in(text)
    assert len(pictures) == len(predictions)
    severities = [picture["severity"] for picture in pictures]
    assert severities == sorted(severities, reverse=True)
    assert sum(isinstance(picture["layers"], dict) for picture in pictures) == 3
    assert {picture["layers"] for picture in pictures if isinstance(picture["layers"], str)} == {LISTED}
    assert "1 input not judged" in " ".join(text.split())


def test_names_are_those_below_the_folder_that_all_have_in_common(tmp_path):
    paths = [str(tmp_path / name) for name in ("a/1.png", "b/1.png")]
    rows = [ResultRow(path, 1.0, 0.5, 0.1, "anomalous", 0.5) for path in paths]
    text = predictions_page(rows, [], FACTS)
    assert [picture["name"] for picture in pictures_in(text)] == ["a/1.png", "b/1.png"]
    assert str(tmp_path) not in text


def test_a_run_without_a_judged_picture_has_a_page(tmp_path):
    page = predictions_page([ResultRow("x.png", error="x.png is empty")], [], FACTS)
    assert "x.png is empty" in write_page(tmp_path / REPORT_NAME, page).read_text(encoding="utf-8")


def test_what_is_too_much_for_a_page_is_counted(monkeypatch):
    monkeypatch.setattr("flawscope.pages.report.pages.MAX_ROWS", 2)
    rows = [ResultRow(f"{k}.png", 1.0, 0.5, 0.1 * k, "good", 0.5) for k in range(5)]
    text = " ".join(predictions_page(rows, [], FACTS).split())
    assert "3 more pictures stand only in" in text
    assert [picture["name"] for picture in pictures_in(text)] == ["4.png", "3.png"]


def decided(predictions, name, p_value, missing=()):
    views = {"top": predictions[1], "side": predictions[0]}
    return PartPrediction(
        name, 2.0, p_value, p_value < 0.05, "top", 2.0 if p_value < 0.05 else -1.0, views, missing
    )


def test_mistakes_come_first_then_the_most_unusual(predictions):
    words = {"a": "right", "b": "missed", "c": "right", "d": "false alarm"}
    p_values = {"a": 0.4, "b": 0.6, "c": 0.01, "d": 0.02}
    parts = [(decided(predictions, name, p_values[name]), word) for name, word in words.items()]
    places = {str(predictions[1].path): 5}
    cards = part_cards(parts, places)
    assert [card["name"] for card in cards] == ["d", "b", "c", "a"]
    assert cards[0]["views"] == [("side", None), ("top", 5)]  # one is not on the page


def test_a_page_shows_names_as_they_are_and_what_is_missing(predictions, monkeypatch):
    monkeypatch.setattr("flawscope.pages.report.pages.MAX_PARTS", 1)
    first = decided(predictions, HOSTILE, 0.01, missing=(HOSTILE,))
    gone = replace(first, views={"top": replace(predictions[1], path="gone.png")})
    rows = [ResultRow.from_result(one) for one in predictions]
    text = " ".join(predictions_page(rows, [], FACTS, parts=[first, replace(gone, p_value=0.5)]).split())
    assert "<img" not in text.partition("<main>")[2].partition("</main>")[0]
    for said in ("no picture", "1 of 2 parts shown", "2 of 2 parts anomalous"):
        assert said in text
    alone = predictions_page(rows, [], FACTS, parts=[gone]).partition("<main>")[2]
    assert "listed without its picture" in " ".join(alone.split())
