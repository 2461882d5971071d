"""The pages of `predict --out` and of two models on the same pictures: every picture, whatever the files are
called."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flawscope.evaluation.comparison import Comparison, compare
from flawscope.predictor import Predictor
from flawscope.report import NAME, write
from flawscope.report.pages import LISTED, comparison_page, predictions_page
from flawscope.results.table import Row, Unjudged

pytest.importorskip("jinja2")

FACTS = {"category": "thing", "method": "patchcore", "expected_rate": 0.05, "promise": "score threshold 0.5"}
HOSTILE = "<img src=x onerror=alert(1)>"


def pictures_in(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def check_safe(text: str) -> None:
    """Neither a name nor a reason becomes markup, and nothing comes from outside."""
    assert "<img" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.replace("data:image", ""))


@pytest.fixture(scope="module")
def predictions(hostile: Any) -> list[Any]:
    return [seen.prediction for seen in hostile.result.pictures]


def test_every_input_is_listed_and_the_most_severe_is_first(predictions: list[Any]) -> None:
    broken = Unjudged(f"{HOSTILE}.heic", f"{HOSTILE}.heic is no picture")
    table = [*map(Row.of, predictions), Row.of(broken)]
    text = predictions_page(table, predictions[:3], FACTS)
    check_safe(text)
    pictures = pictures_in(text)
    assert len(pictures) == len(predictions)
    severities = [picture["severity"] for picture in pictures]
    assert severities == sorted(severities, reverse=True)
    assert sum(isinstance(picture["layers"], dict) for picture in pictures) == 3
    assert {picture["layers"] for picture in pictures if isinstance(picture["layers"], str)} == {LISTED}
    assert "1 input not judged" in " ".join(text.split())


def test_names_are_those_below_the_folder_that_all_have_in_common(tmp_path: Path) -> None:
    rows = [Row(str(tmp_path / name), 1.0, 0.5, 0.1, "anomalous", 0.5) for name in ("a/1.png", "b/1.png")]
    text = predictions_page(rows, [], FACTS)
    assert [picture["name"] for picture in pictures_in(text)] == ["a/1.png", "b/1.png"]
    assert str(tmp_path) not in text


def test_a_run_without_a_judged_picture_has_a_page(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, predictions_page([Row("x.png", error="x.png is empty")], [], FACTS))
    assert "x.png is empty" in path.read_text(encoding="utf-8")


def test_what_is_too_much_for_a_page_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flawscope.report.pages.MOST_ROWS", 2)
    rows = [Row(f"{k}.png", 1.0, 0.5, 0.1 * k, "good", 0.5) for k in range(5)]
    text = " ".join(predictions_page(rows, [], FACTS).split())
    assert "3 more pictures stand only in" in text
    assert [picture["name"] for picture in pictures_in(text)] == ["4.png", "3.png"]


# ------------------------------------------------------------------------------------------------ two models


@pytest.fixture(scope="module")
def found(hostile: Any) -> Comparison:
    """The second model lets less pass: its threshold is the tenth largest score of calibration."""
    first = hostile.predictor
    manifest = replace(first.manifest, calibration=first.calibration.with_rate(0.5))
    second = Predictor(replace(first.artefact, manifest=manifest), first.session)
    return compare(first, second, hostile.dataset, names=("<b>old", "new"), resamples=20)


@pytest.fixture(scope="module")
def text(found: Comparison) -> str:
    return comparison_page(found)


def test_every_picture_has_what_both_found(text: str, found: Comparison) -> None:
    check_safe(text)
    assert "<b>old" not in text
    assert "&lt;b&gt;old" in text
    pictures = pictures_in(text)
    assert len(pictures) == len(found.pictures)
    for picture, one in zip(pictures, found.pictures, strict=True):
        assert {"photo", "heat", "line", "heat_b", "line_b"} <= set(picture["layers"])
        assert (picture["severity_a"], picture["severity_b"]) == (one.a.severity, one.b.severity)
        assert picture["changed"] == ("differ" if one.changed else "agree")


def test_changed_decisions_come_first_and_the_one_where_b_is_wrong_before_all(
    text: str, found: Comparison
) -> None:
    pictures = pictures_in(text)
    listed = sorted(pictures, key=lambda picture: -picture["weight"])
    changed = [picture for picture in pictures if picture["changed"] == "differ"]
    assert changed
    assert listed[: len(changed)] == sorted(changed, key=lambda picture: -picture["weight"])
    assert [picture["name"] for picture in listed[: len(changed)]] == [
        one.name.removeprefix("test/") for one in found.changed
    ]
    cards = re.findall(r'class="open" data-index="(\d+)" data-order="changed"', text)
    assert [int(index) for index in cards] == [one.index for one in found.changed]


def test_a_model_beside_itself_shows_the_pictures_all_the_same(hostile: Any, tmp_path: Path) -> None:
    same = compare(hostile.predictor, hostile.predictor, hostile.dataset, resamples=20)
    text = comparison_page(same)
    assert "No decision differs" in text
    assert 'data-order="changed"' in text
