"""The page of `predict --out`: every input, most severe first, whatever the files are called."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from flawscope.report import NAME, write
from flawscope.report.pages import LISTED, predictions_page
from flawscope.results.table import Row, Unjudged

pytest.importorskip("jinja2")

FACTS = {"category": "thing", "method": "patchcore", "expected_rate": 0.05, "promise": "score threshold 0.5"}
HOSTILE = "<img src=x onerror=alert(1)>"


class Scripts(html.parser.HTMLParser):
    """What stands in <script>, and the tags."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and data.strip():
            self.found.append(data)


@pytest.fixture(scope="module")
def predictions(hostile: Any) -> list[Any]:
    return [seen.prediction for seen in hostile.result.pictures]


def test_every_input_is_listed_and_the_most_severe_is_first(predictions: list[Any]) -> None:
    broken = Unjudged(f"{HOSTILE}.heic", f"{HOSTILE}.heic is no picture")
    table = [*map(Row.of, predictions), Row.of(broken)]
    text = predictions_page(table, predictions[:3], FACTS)
    page = Scripts(text)
    pictures = json.loads(page.found[0])
    assert len(pictures) == len(predictions)
    severities = [picture["severity"] for picture in pictures]
    assert severities == sorted(severities, reverse=True)
    assert sum(isinstance(picture["layers"], dict) for picture in pictures) == 3
    assert {picture["layers"] for picture in pictures if isinstance(picture["layers"], str)} == {LISTED}
    assert "img" not in page.tags  # neither a name nor a reason becomes markup
    assert "1 input not judged" in " ".join(text.split())
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.replace("data:image", ""))


def test_names_are_those_below_the_folder_that_all_have_in_common(tmp_path: Path) -> None:
    rows = [Row(str(tmp_path / name), 1.0, 0.5, 0.1, "anomalous", 0.5) for name in ("a/1.png", "b/1.png")]
    text = predictions_page(rows, [], FACTS)
    assert [picture["name"] for picture in json.loads(Scripts(text).found[0])] == ["a/1.png", "b/1.png"]
    assert str(tmp_path) not in text


def test_a_run_without_a_judged_picture_has_a_page(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, predictions_page([Row("x.png", error="x.png is empty")], [], FACTS))
    assert "x.png is empty" in path.read_text(encoding="utf-8")


def test_what_is_too_much_for_a_page_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flawscope.report.pages.MOST_ROWS", 2)
    rows = [Row(f"{k}.png", 1.0, 0.5, 0.1 * k, "good", 0.5) for k in range(5)]
    text = " ".join(predictions_page(rows, [], FACTS).split())
    assert "3 more pictures stand only in" in text
    assert [picture["name"] for picture in json.loads(Scripts(text).found[0])] == ["4.png", "3.png"]
