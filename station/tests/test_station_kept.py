"""The promised false-alarm rate beside the line, what people say twice, versions that were rejected."""

import json
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flawscope
from flawscope.predictor import rates
from flawscope_station.learning.activation import Learning
from flawscope_station.setup.draft import describe_result
from flawscope_station.store.insert import PartViews
from flawscope_station.store.line_alarms import _count_parts, hold_promise
from flawscope_station.store.records import Store
from flawscope_station.store.schema import learnt_pixels, pictures
from learning_helpers import API, NAME, Line, drawn_part
from station_helpers import add_version, taken
from tablet import PHONE, SLATE, needs_chromium

HASHES = (f"{number:064x}" for number in range(10**9))


@pytest.fixture(scope="module")
def model_file(model_path):
    """The trained model itself."""
    return model_path


@pytest.fixture
def hold(database, onnx_path):
    """What is told of a version that promises 1 in 13, calibrated on 12, after these parts, each as how many,
    flagged, verdict, more."""
    store, predictor = Store(database), flawscope.load(onnx_path)
    product, version = add_version(database)
    versions: Any = SimpleNamespace(database=database, active=lambda number: (version, predictor))

    def told(*kinds: Any, other: int = version) -> dict[str, Any]:
        for count, flagged, verdict, *more in kinds:
            given = more[0] if more else {}
            for _ in range(count):
                new = taken(product, other, **{"picture": next(HASHES), "anomalous": flagged, **given})
                ((number, _),) = store.record([new])
                if verdict:
                    store.add_verdict(product, number, verdict, "anna")
        found = hold_promise(versions, product)
        assert found is not None
        return found

    return told


FALSE, TRUE, UNSEEN, PASSED = (True, "good"), (True, "defect"), (True, None), (False, None)
CASES = {
    "nothing was judged": ([], (0, 0, 0, "nothing")),
    "as promised": ([(3, *FALSE), (37, *PASSED)], (40, 3, 0, "kept")),
    "all that was reviewed was flagged": ([(2, *FALSE), (98, *PASSED)], (100, 2, 0, "kept")),
    "too many": ([(15, *FALSE), (25, *PASSED)], (40, 15, 0, "broken")),
    "too many, if they are good": ([(1, *FALSE), (14, *UNSEEN), (25, *PASSED)], (40, 1, 14, "open")),
    "too many, whatever the others are": ([(15, *FALSE), (9, *UNSEEN), (16, *PASSED)], (40, 15, 9, "broken")),
    "a burst of defects": ([(15, *TRUE), (25, *PASSED)], (25, 0, 0, "kept")),
    "a defect that passed": ([(1, False, "defect"), (9, *PASSED)], (9, 0, 0, "kept")),
    "one part again and again": ([(15, *FALSE, {"part": "7"}), (25, *PASSED)], (26, 1, 0, "kept")),
    "parts of two batches": (
        [(1, *FALSE, {"part": "7", "batch": "a"}), (1, *FALSE, {"part": "7", "batch": "b"})],
        (2, 2, 0, "broken"),
    ),
    "one picture again and again": ([(15, *FALSE, {"picture": "f" * 64}), (25, *PASSED)], (26, 1, 0, "kept")),
    "within tolerance": ([(15, *FALSE, {"tolerated": True}), (25, *PASSED)], (25, 0, 0, "kept")),
    "skipped": ([(15, True, "skip"), (25, *PASSED)], (40, 0, 15, "open")),
}


@pytest.mark.parametrize(("kinds", "wanted"), CASES.values(), ids=CASES)
def test_the_promise_is_held_against_all_parts_and_not_only_the_reviewed_ones(hold, kinds, wanted):
    found = hold(*kinds)
    assert tuple(found[key] for key in ("good", "alarms", "unreviewed", "state")) == wanted
    assert found["rate"] == pytest.approx(1 / 13)
    assert found["interval"] == pytest.approx([1 - 0.975 ** (1 / 12), 1 - 0.025 ** (1 / 12)])
    low, high = found["line_interval"]
    count = max(1, found["good"])
    assert low <= found["alarms"] / count <= (found["alarms"] + found["unreviewed"]) / count <= high


def test_what_the_version_learnt_from_does_not_count(hold, database):
    hold((15, *FALSE), (25, *PASSED))
    with database.writing() as connection:
        connection.execute(pictures.update().values(pixels="a" * 64))
        connection.execute(learnt_pixels.insert(), [{"version_id": 1, "pixels": "a" * 64}])
    assert hold()["good"] == 0
    assert hold((3, *PASSED))["good"] == 3


def test_parts_in_views_count_as_parts(database):
    """By the verdict on the most unusual view; a part is a defect where any view is."""
    judge = import_module("test_station_parts").judging(np.column_stack([np.linspace(0, 1, 19)] * 2))
    store, (product, version) = Store(database), add_version(database)

    def part(name: str, score: float, *verdicts: str) -> None:
        both, views = (("a", 0.5), ("b", score)), PartViews(judge)
        new = [
            taken(product, version, part=name, view=view, score=one, part_views=views, picture=next(HASHES))
            for view, one in both
        ]
        for (number, _), verdict in zip(store.record(new), verdicts, strict=False):
            if verdict:
                store.add_verdict(product, number, verdict, "anna")

    for name in ("p", "q", "r"):
        part(name, 0.6)
    part("false alarm", 2.0, "", "good")
    part("unseen", 2.0)
    part("another view was looked at", 2.0, "good")
    part("defect", 2.0, "", "defect")
    part("defect in the other view", 2.0, "defect", "good")
    assert _count_parts(database, product, version) == (6, 1, 2)
    part("p", 2.0, "", "good")  # it came again
    assert _count_parts(database, product, version) == (6, 1, 2)


def test_a_line_without_unreviewed_parts_is_judged_as_evaluate_judges(onnx_path):
    promise = rates.promise_of(flawscope.load(onnx_path).manifest)
    for alarms in range(41):
        is_broken = promise.judge(alarms, 40).broken
        assert promise.judge_line(40, alarms, 0).state == ("broken" if is_broken else "kept")


def test_the_pages_and_the_api_tell_it(running):
    line = Line(running.url)
    line.shift(stains=4)
    found = line.http.get(f"{API}/promise").json()
    assert (found["version"], found["alarms"], found["unreviewed"]) == (1, 4, 0)
    for page in ("models", "trends"):
        text = line.http.get(f"/{NAME}/{page}").text
        assert f'data-state="{found["state"]}"' in text
        assert f"of {found['good']} good parts 4 were flagged" in text
        assert "This one model may flag 0.2 to 26.5" in text
    (version,) = line.http.get(f"{API}/versions").json()["versions"]
    assert version["interval"] == pytest.approx(found["interval"])


def stained_once(line: Line) -> list[int]:
    """False alarms that stand out like defects, each called good once."""
    found = [
        line.send(drawn_part(seed, stained=True), f"stained-{seed}.png")["id"] for seed in (200, 201, 202)
    ]
    for number in found:
        line.say(number, "good")
    line.say(line.send(drawn_part(300, "missing_part"), "defect.png")["id"], "defect")
    return found


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


def test_two_people_are_a_second_look(running):
    line = Line(running.url)
    first, *others = stained_once(line)
    running.station.store.add_verdict(1, first, "good", "bert")
    assert line.http.get(f"{API}/learning").json()["unsure"] == others
    line.say(others[0], "undo")
    assert line.http.get(f"{API}/learning").json()["unsure"] == others[1:]


def test_a_version_that_was_rejected_or_loses_something_is_not_just_offered(running):
    line = Line(running.url)
    line.shift()
    made = line.learn()
    learning = running.station.parts[Learning]
    facts = json.loads(learning.candidates.row(1, made["id"]).facts)
    facts["judgement"] |= {"lost": [8, 9]}
    learning.candidates.change(made["id"], "ready", facts=facts)
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
    ("found", "tested", "shown"),
    [
        ({"small": [0, 1], "medium": [0, 1], "large": [1, 1]}, None, {}),
        ({"small": [0, 8], "medium": [3, 8], "large": [1, 7]}, None, {}),
        ({"small": [0, 1]}, {"small": [6, 12]}, {"small": [6, 12, 0.2538, 0.7462]}),
        ({"small": [9, 10]}, {}, {"small": [9, 10, 0.5958, 0.9821]}),
        ({}, None, {}),
    ],
)
def test_simulated_defects_are_a_number_only_where_enough_were_tried(found, tested, shown):
    result = describe_result({"found": found, "tested": tested})
    assert result["found"] == found
    assert result["shown"].keys() == shown.keys()
    for size, numbers in shown.items():
        assert result["shown"][size] == pytest.approx(numbers, abs=1e-4)
