"""The page of two models on the same pictures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flawscope.evaluation.comparison import Comparison, compare
from flawscope.predictor import Predictor
from flawscope.report.pages import comparison_page

pytest.importorskip("jinja2")


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


def pictures_in(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_every_picture_has_what_both_found(text: str, found: Comparison) -> None:
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


def test_names_are_no_markup_and_nothing_comes_from_outside(text: str) -> None:
    page = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "<img" not in page
    assert "<b>old" not in page
    assert "&lt;b&gt;old" in page
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.replace("data:image", ""))


def test_a_model_beside_itself_shows_the_pictures_all_the_same(hostile: Any, tmp_path: Path) -> None:
    same = compare(hostile.predictor, hostile.predictor, hostile.dataset, resamples=20)
    text = comparison_page(same)
    assert "No decision differs" in text
    assert 'data-order="changed"' in text
