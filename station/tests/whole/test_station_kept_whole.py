"""The promised false-alarm rate beside the line, what people say twice, versions that were rejected."""

import json

import pytest

from flawscope.artefact import rates
from flawscope_station.learning.candidates import Learning
from flawscope_station.setup.draft import describe_result
from learning_helpers import API, NAME, Line, drawn_part, stained_once
from tablet import PHONE, SLATE, needs_chromium


@pytest.fixture(scope="module")
def model_file(model_path):
    """The trained model itself."""
    return model_path


def test_the_pages_and_the_api_tell_it(running):
    line = Line(running.url)
    line.shift(stains=4)
    found = line.http.get(f"{API}/promise").json()
    assert (found["version"], found["alarms"], found["unreviewed"]) == (1, 4, 0)
    for page in ("models", "trends"):
        text = line.http.get(f"/{NAME}/{page}").text
        assert f'data-state="{found["state"]}"' in text
        first, _, numbers = text[text.index('id="kept"') :].partition("<details>")
        assert f"Good parts that were flagged on the line: 4 of {found['good']}." in first
        assert first.index("<p") < first.index('id="promised"'), "the verdict comes before its numbers"
        assert "may flag" not in first
        assert "This one model may flag 0.2 to 26.5" in numbers
    (version,) = line.http.get(f"{API}/versions").json()["versions"]
    assert version["interval"] == pytest.approx(found["interval"])


@needs_chromium
def test_models_and_trends_say_what_the_version_that_judges_promises(tablet, monkeypatch):
    """The same line on both. On Live nobody needs it."""
    known = tablet.http.get(API).json()["promised"]
    assert (known["version"], known["promised"], known["calibrated"], known["missing"]) == (1, True, 12, 7)
    assert known["rate"] == pytest.approx(1 / 13)
    line = (
        "Version 1 judges. Of 100 good parts it will call about 7.7 defective by mistake. This was measured "
        "on 12 pictures, each judged by a model that had not learnt from it. "
        "7 more pictures would allow 5 in 100."
    )
    for page in ("models", "trends"):
        tablet.open(page)
        assert tablet.text("#promised") == line
    made = rates.promise_of(tablet.station.versions.active(1)[1].manifest)
    nothing = made._replace(is_made=False, calibrated=1)
    monkeypatch.setattr(rates, "promise_of", lambda manifest: nothing)
    tablet.open("models")
    assert tablet.text("#promised").startswith("Version 1 judges. It cannot promise how many")
    assert tablet.text("#promised").endswith("one part alone. 18 more parts would allow 5 in 100.")
    assert tablet.unfit(PHONE, SLATE) == []


def test_parts_that_nobody_reviewed_are_not_called_good(running):
    """Of those that passed and four that were flagged and not reviewed, no share is told of all."""
    line = Line(running.url)
    for k in range(4):
        line.send(drawn_part(400 + k, stained=True), f"stained {k}.png")
    found = line.http.get(f"{API}/promise").json()
    assert found["unreviewed"] == 4
    text = line.http.get(f"/{NAME}/models").text
    counted = f"Good parts that were flagged on the line so far: 0 of {found['good'] - 4}."
    assert f"{counted} Flagged, and not reviewed yet: 4." in text


def test_what_looks_like_a_defect_is_learnt_in_one_step(running):
    """The page asks before the work; who looked once more says so with the request."""
    line = Line(running.url)
    found = stained_once(line)
    assert line.http.get(f"{API}/learning").json()["unsure"] == found
    page = line.http.get(f"/{NAME}/models").text
    assert f'data-learn="{",".join(map(str, found))}"' in page
    answer = line.http.post(f"{API}/learning", json={"good": [999]})
    assert answer.status_code == 422
    assert "999 is not among `unsure`" in answer.json()["error"]
    made = line.learn(good=found)
    assert (made["judgement"]["learnt"], made["judgement"]["unsure"]) == (found, [])
    assert line.http.get(f"{API}/learning").json()["unsure"] == []
    assert len(line.http.get(f"{API}/learning").json()["candidates"]) == 1


def test_a_version_that_was_rejected_or_loses_something_is_not_just_offered(running):
    line = Line(running.url)
    line.shift()
    made = line.learn()
    learning = running.station.components[Learning]
    facts = json.loads(learning.candidates.row(1, made["id"]).facts)
    facts["judgement"] |= {"lost": [8, 9]}
    learning.candidates.change(made["id"], "done", facts=facts)
    assert line.http.post(f"{API}/candidates/{made['id']}/reject", json={}).status_code == 200
    page = line.http.get(f"/{NAME}/models").text
    assert ">Use this version<" not in page
    assert 'id="others"' not in page
    assert ">Use it all the same<" in page
    assert 'data-losing="8,9"' in page
    assert line.use(2).status_code == 409
    assert line.use(2, losing=[8, 9]).status_code == 200
    assert ">Use it all the same<" not in line.http.get(f"/{NAME}/models").text


@needs_chromium
def test_the_page_asks_once_and_names_what_would_be_lost(tablet):
    line = Line(tablet.url)
    found = stained_once(line)
    tablet.open("models")
    assert tablet.unfit(PHONE, SLATE) == []
    assert "Look at them once more" in tablet.text("[aria-labelledby=learn]")
    tablet.click("[data-learn]:not([data-learn=''])")
    tablet.wait(lambda: tablet.all("[data-status=ready]"), 90)
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready") == "yes")
    learnt = line.http.get(f"{API}/learning").json()["candidates"][0]["judgement"]["learnt"]
    assert learnt == found
    tablet.js("document.querySelector('[data-activate=\"2\"]').dataset.losing = '1,2'")
    tablet.click("[data-activate='2']")
    tablet.wait(lambda: tablet.find("#sure").is_displayed())
    assert "Look at these inspections first: 1, 2." in tablet.text("#losses")
    assert tablet.complaints() == []


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ({"small": [0, 1], "medium": [0, 1], "large": [1, 1]}, {}),
        ({"small": [0, 8], "medium": [3, 8], "large": [1, 7]}, {}),
        ({"small": [6, 12]}, {"small": [6, 12, 0.2538, 0.7462]}),
        ({"small": [9, 10]}, {"small": [9, 10, 0.5958, 0.9821]}),
        ({}, {}),
    ],
)
def test_simulated_defects_are_a_number_only_where_enough_were_tried(found, shown):
    result = describe_result({"found": found})
    assert result["found"] == found
    assert result["shown"].keys() == shown.keys()
    for size, numbers in shown.items():
        assert result["shown"][size] == pytest.approx(numbers, abs=1e-4)
