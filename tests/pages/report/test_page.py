"""The written page: whole, self-contained, and safe whatever the files are called."""

import base64
import hashlib
import json
import re
import sys

import numpy as np
import pytest

from flawscope.calibration.threshold import Calibration
from flawscope.errors import InputError
from flawscope.pages import report
from flawscope.pages.report.page import MAX_POINTS, operating_points, step_path
from flawscope.results.html import script_json
from report_page_helpers import page_fixture, text_fixture  # noqa: F401


def test_names_never_become_markup(page):
    tags = {tag for tag, _ in page.elements}
    assert "img" not in tags  # the script makes all of them
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    words = "".join(page.words)
    assert "<img src=x onerror=alert(1)>\"'&amp;日本" in words  # shown as it is called
    pictures = json.loads(page.scripts[0])
    assert any("onerror" in picture["name"] for picture in pictures)


def test_nothing_comes_from_outside(text, page):
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.replace("data:image", ""))
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert "@import" not in text
    assert "url(http" not in text


def test_only_our_own_script_may_run(text, page):
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert len(page.scripts) == 2


def test_every_picture_is_there_with_its_layers(page, hostile):
    pictures = {p["name"]: p for p in json.loads(page.scripts[0])}
    # good ones, odd ones, dents, the one with a hostile name; and one whose name is no text, if it can be
    assert len(pictures) == len(hostile.result.pictures) >= 5 + 3 + 3 + 1
    for picture in pictures.values():
        for name in ("photo", "heat", "line", "map"):
            assert picture["layers"][name].startswith("data:image/webp;base64,")
    shows_truth = ["truth" in pictures[name]["layers"] for name in ("dent/d0.png", "good/g0.png")]
    outcomes = [pictures[name]["outcome"] for name in ("good/g3.png", "dent/d0.png")]
    assert (shows_truth, outcomes) == ([True, False], ["false alarm", "missed"])
    assert not {"good/broken.png", "good/learnt.png"} & pictures.keys()


def test_what_was_skipped_and_left_out_is_told_without_paths(page, hostile):
    words, told = "".join(page.words), ["problem with the test data", "test/good/broken.png"]
    for said in (*told, "left out of the test", "learnt.png", "model.safetensors"):
        assert said in words
    assert str(hostile.dataset.root.parent) not in words


def test_commands_in_its_sentences_are_shown_as_code(text, page):
    assert "<code>flawscope info --verbose</code> lists the others" in text
    assert "`" not in "".join(page.words)


def test_a_table_can_be_sorted_by_its_buttons(page):
    keys = {a["data-sort"] for tag, a in page.elements if tag == "button" and "data-sort" in a}
    assert keys == {"name", "kind", "severity", "verdict", "margin"}
    assert keys <= set(json.loads(page.scripts[0])[0])


def test_a_card_shows_one_number_and_tables_for_experts_are_folded(text):
    cards = re.findall(r'<li class="card".*?</li>', text, re.DOTALL)
    assert cards
    for card in cards:
        assert re.search(r'<span class="small">severity [+-][\d.]+</span>', card)
    folded = re.findall(r"<details>.*?</details>", text, re.DOTALL)
    assert any('aria-label="Metrics"' in one for one in folded)


def test_a_pillow_without_webp_is_told_first(monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda name: name != "webp")
    with pytest.raises(InputError, match="WebP"):
        report.require_libraries()


def test_json_cannot_end_its_script():
    value = ["</script><script>", "<!--", "]]>", "&lt;"]
    assert not set("<>&") & set(script_json(value))
    assert json.loads(script_json(value)) == value


def test_a_missing_library_is_told_first_with_the_extra(monkeypatch, run, tmp_path):
    """Before the model is opened, which is not even there."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"a report needs .*: pip install "):
        report.require_libraries()
    out, evaluate = tmp_path / "out", ("evaluate", "missing.onnx", "--data", "missing")
    for words in ((*evaluate, "--out", out), ("demo", "--out", out)):
        code, _, error = run(*words)
        assert (code, error.count("\n"), "matplotlib" in error, "pip install" in error) == (2, 1, True, True)
    assert not out.exists()
    code, _, error = run(*evaluate)
    assert (code, "pip install" in error) == (2, False)


# ------------------------- the slider: every position is what the model would have decided at that rate

ONE = np.array([0.5]), np.array([True])


def calibration(count, rate=0.05, **more):
    values = tuple(np.random.default_rng(count).normal(size=count).tolist())
    return Calibration(values, values, -9.0, rate=rate, **more)


@pytest.mark.parametrize("count", [4, 20, 199, 3000])
def test_every_position_is_what_its_option_makes_of_the_pictures(count):
    """The rate that is shown, given to the model, decides as the position says."""
    made = calibration(count)
    rng = np.random.default_rng(1)
    scores, bad = rng.normal(0.5, 1, 50), rng.random(50) < 0.5
    # scores on thresholds, too
    scores[:10] = rng.choice(made.scores, 10)
    points = operating_points(scores, bad, made)
    assert len(points) <= MAX_POINTS + 1
    assert [point["threshold"] for point in points] == sorted((p["threshold"] for p in points), reverse=True)
    (now,) = (point for point in points if point["now"])
    assert (now["threshold"], now["rate"]) == (made.score_threshold, pytest.approx(made.expected_rate))
    for point in points[:: max(1, len(points) // 20)]:
        other = made.with_rate(float(point["option"].split()[1].rstrip("%")) / 100)
        assert other.score_threshold == point["threshold"]
        assert other.expected_rate == pytest.approx(point["rate"])
        called = other.is_anomalous(scores)
        assert (point["missed"], point["alarms"]) == ((~called & bad).sum(), (called & ~bad).sum())
        assert point["missed"] + point["alarms"] <= point["defective"] + point["good"] == 50


def test_a_slider_without_a_promise_and_without_a_choice():
    points = operating_points(*ONE, calibration(10, promised=False))
    assert {point["rate"] for point in points} == {None}
    assert points[0]["good"] == 0
    assert points[0]["alarm_range"] is None
    assert operating_points(*ONE, calibration(1)) == []
    assert step_path([0.0, 1.0, 0.5]) == "M0.00 100.00L50.00 0.00L100.00 50.00"
