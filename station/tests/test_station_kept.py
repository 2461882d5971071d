"""The promised false-alarm rate beside the line, what people say twice, versions that were rejected."""

from types import SimpleNamespace
from typing import Any

import pytest

import flawscope
from flawscope.artefact import rates
from flawscope.calibration.promise import confidence_interval_rate
from flawscope_station.store.line_alarms import compare_false_alarm_rates, count_parts
from flawscope_station.store.records import Store
from flawscope_station.store.schema import learnt_pixels, pictures
from learning_helpers import API, Line, stained_once
from station_helpers import add_version, taken, taken_part, taken_view


@pytest.fixture(scope="module")
def model_file(model_path):
    """The trained model itself."""
    return model_path


HASHES = (f"{number:064x}" for number in range(10**9))


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
        found = compare_false_alarm_rates(versions, product)
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
    store, (product, version) = Store(database), add_version(database)

    def part(name: str, anomalous: bool, verdict: str = "") -> None:
        seen = [taken_view(view=view, picture=next(HASHES)) for view in "ab"]
        new = taken_part(product, version, seen, "b", part=name, anomalous=anomalous)
        ((number, _),) = store.record([new])
        if verdict:
            store.add_verdict(product, number, verdict, "anna")

    for name in ("p", "q", "r"):
        part(name, False)
    part("false alarm", True, "good")
    part("unseen", True)
    part("defect", True, "defect")
    part("missed", False, "defect")
    assert count_parts(database, product, version) == (5, 1, 1)
    part("p", True, "good")  # it came again
    assert count_parts(database, product, version) == (5, 1, 1)


def test_a_line_without_unreviewed_parts_is_judged_as_evaluate_judges(onnx_path):
    promise = rates.promise_of(flawscope.load(onnx_path).manifest)
    for alarms in range(41):
        is_broken = promise.judge(alarms, 40).broken
        line = promise.judge_line(40, alarms, 0)
        assert line.state == ("broken" if is_broken else "kept")
        assert line.interval == confidence_interval_rate(alarms, 40)


def test_two_people_are_a_second_look(running):
    line = Line(running.url)
    first, *others = stained_once(line)
    running.station.store.add_verdict(1, first, "good", "bert")
    assert line.http.get(f"{API}/learning").json()["unsure"] == others
    line.say(others[0], "undo")
    assert line.http.get(f"{API}/learning").json()["unsure"] == others[1:]
