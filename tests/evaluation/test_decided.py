"""What is counted in an evaluation: pictures, or the parts that they show."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from flawscope.calibration.parts import PartCalibration
from flawscope.datasets import Item
from flawscope.evaluation.decided import JudgedPart, as_parts_say, decided_on
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import Prediction, ScoreLevels
from flawscope.views.geometry import Geometry

KNOWN = PartCalibration(("",) * 39, ("a", "b"), np.random.default_rng(0).normal(10, 1, (39, 2)), 0.05)


def picture(name, score):
    """A picture that is anomalous by itself above a score of 11."""
    geometry = Geometry((4, 4), (4, 4), (1.0, 1.0), (0.0, 0.0))
    levels = ScoreLevels(11.0, 12.0, (8.0, 14.0))
    is_anomalous = score > 11.0
    return Prediction(
        score, 0.5, score - 11.0, is_anomalous, np.empty((0, 0), np.float32), geometry, levels, name
    )


def part(name, kinds, **scores):
    views = {view: picture(f"{name}_{view}.png", score) for view, score in scores.items()}
    items = [
        Item(Path(one.path), kind, kind != "good") for kind, one in zip(kinds, views.values(), strict=True)
    ]
    found = PartPrediction(name, **KNOWN.decide(scores)._asdict(), views=views)
    bad = [item.kind for item in items if item.anomalous]
    judged = JudgedPart(found, bool(bad), (bad or ["good"])[0])
    return [*zip(items, views.values(), strict=True)], judged


def test_a_picture_of_a_good_part_is_not_called_anomalous_beside_it():
    _, judged = part("1", ("good", "good"), a=11.3, b=10.0)
    assert judged.prediction.views["a"].is_anomalous
    assert not judged.prediction.is_anomalous
    told = judged.prediction.pictures()
    assert {one.decision for one in told.values()} == {"good"}
    assert {one.severity for one in told.values()} == {judged.prediction.severity}
    assert told["a"].remark == "part 1, most unusual"
    assert told["b"].remark == "part 1"
    assert [one.score for one in told.values()] == [11.3, 10.0]


def test_pictures_of_a_part_that_was_not_seen_whole_are_not_good():
    _, judged = part("2", ("good",), a=10.0)
    incomplete = replace(judged.prediction, missing=("b",))
    (told,) = incomplete.pictures().values()
    assert (told.decision, told.remark) == ("incomplete", "part 2, most unusual, missing: b")
    assert not told.is_anomalous
    lost = incomplete.called_anomalous().pictures()["a"]
    assert (lost.decision, lost.severity > 0) == ("anomalous", True)


def test_parts_are_counted_once_with_their_own_truth():
    good, first = part("1", ("good", "good"), a=11.3, b=10.0)
    bad, second = part("2", ("good", "hole"), a=10.0, b=16.0)
    pictures, parts = [*good, *bad], (first, second)
    found = decided_on(pictures, parts)
    assert [(one.name, one.kind, one.anomalous, one.is_anomalous) for one in found] == [
        ("1", "good", False, False),
        ("2", "hole", True, True),
    ]
    told = as_parts_say(pictures, parts)
    assert [(item.kind, item.anomalous, one.is_anomalous) for item, one in told] == [
        ("good", False, False),
        ("good", False, False),
        ("hole", True, True),
        ("hole", True, True),
    ]
    assert [one.is_anomalous for one in decided_on(pictures, ())] == [True, False, False, True]
