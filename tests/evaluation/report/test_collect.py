"""What is counted and what is said about it."""

from dataclasses import replace

import numpy as np
import pytest

from flawscope.calibration.threshold import Calibration
from flawscope.evaluation.metrics import confidence_interval_rate
from flawscope.evaluation.report.collect import compute_figures, image_curves
from flawscope.evaluation.report.words import Tally, headline, percent, range_text, sentences
from flawscope.results.prediction import FALSE_ALARM, MISSED, RIGHT


def counted(run):
    return compute_figures(run.result, run.predictor.calibration, run.dataset)


def metric(found, name):
    return next(m for m in found.metrics if m.name == name)


def test_one_step_is_the_least_change_there_can_be(run_of):
    found = counted(run_of((0.1, 0.2, 0.3, 0.6), (0.4, 0.8, 0.9)))
    assert metric(found, "image AUROC").step == "0.083"  # 1 of 12 pairs
    assert metric(found, "false alarms").step == percent(1 / 4)
    assert metric(found, "defects found").step == percent(1 / 3)
    assert metric(found, "false alarms").value == f"{percent(0.25)} (1 of 4)"
    assert metric(found, "defects found").value == f"{percent(2 / 3)} (2 of 3)"
    assert found.tally == Tally(good=4, false_alarms=1, defective=3, missed=1)


def test_the_worst_mistake_is_first_and_what_was_nearly_one_follows(run_of):
    found = counted(run_of((0.1, 0.46, 0.6), (0.2, 0.55, 0.9)))
    in_order = [(found.rows[i]["name"], found.rows[i]["outcome"]) for i in found.by_margin]
    assert in_order == [
        ("dent/d0.png", MISSED),  # 0.3 below
        ("good/g2.png", FALSE_ALARM),  # 0.1 above
        ("good/g1.png", RIGHT),  # 0.04 from being wrong
        ("dent/d1.png", RIGHT),  # 0.05
        ("good/g0.png", RIGHT),
        ("dent/d2.png", RIGHT),
    ]
    assert [found.rows[i]["name"] for i in found.mistakes] == ["dent/d0.png", "good/g2.png"]


def test_the_table_of_types_counts_each(run_of):
    good, dent = counted(run_of((0.1, 0.6), (0.4, 0.8, 0.9))).kinds
    assert [good[key] for key in ("name", "anomalous", "images", "auroc")] == ["good", 1, 2, None]
    assert [dent[key] for key in ("name", "anomalous", "images")] == ["dent", 2, 3]
    assert dent["auroc"] == pytest.approx(5 / 6)
    assert dent["interval"] == range_text(*confidence_interval_rate(2, 3))


def test_image_curves_are_those_of_scikit_learn():
    from sklearn import metrics as sklearn

    rng = np.random.default_rng(0)
    labels = rng.random(60) < 0.5
    scores = rng.integers(0, 12, 60) + labels * 2.0
    fpr, recall, precision = image_curves(labels, scores)
    expected = sklearn.roc_curve(labels, scores, drop_intermediate=False)
    assert np.append(0, fpr) == pytest.approx(expected[0])
    assert np.append(0, recall) == pytest.approx(expected[1])
    p, r, _ = sklearn.precision_recall_curve(labels, scores)
    assert precision[::-1] == pytest.approx(p[:-1])
    assert recall[::-1] == pytest.approx(r[:-1])


@pytest.mark.parametrize(("good", "bad"), [((), (0.4, 0.9)), ((0.1, 0.6), ()), ((0.1,), ())])
def test_curves_that_cannot_be_drawn_are_left_out(run_of, good, bad):
    found = counted(run_of(good, bad, masks=False))
    assert set(found.plots) == {"scores"}
    assert metric(found, "image AUROC").value == "not measured"


def test_pixels_have_curves_where_there_are_masks(run_of):
    assert set(counted(run_of((), (0.4, 0.9))).plots) == {"roc", "pr", "pro", "scores"}


def calibration(count, rate=0.05):
    values = tuple(np.linspace(0, 1, count))
    return Calibration(values, values, 0.1, rate=rate)


UNPROMISED = replace(calibration(1), promised=False)


@pytest.mark.parametrize(
    ("known", "broken", "promised", "words"),
    [
        (calibration(99), False, "about 1 of 20", "promise was kept"),
        (calibration(38), True, "about 1 of 39", "promise was broken"),
        (UNPROMISED, False, "no promise: one good picture", "Nothing was promised"),
    ],
)
def test_what_the_pictures_promise_is_compared_with_what_was_measured(known, broken, promised, words):
    told = sentences(Tally(1000, 60, 0, 0), known, broken)
    assert promised in told[0]
    assert "60 of 1,000 good pictures" in told[1]
    assert words in told[1]


def test_what_was_not_tested_is_not_claimed():
    told = " ".join(sentences(Tally(0, 0, 0, 0), calibration(19), False, ["2 of 2 without a mask"]))
    assert "false alarms were not measured" in told
    assert "nothing is known about what it finds" in told
    assert told.endswith("2 of 2 without a mask.")
    assert headline(Tally(0, 0, 1, 1)) == "0 of 1 defective picture found"
    assert headline(Tally(3, 1, 0, 0)) == "1 of 3 good pictures called anomalous"
    missed = sentences(Tally(10, 0, 10, 0), calibration(19), False)[2]
    assert missed.startswith("None of 10 defective pictures missed")
    assert percent(0.308) in missed  # 1 - 0.025 ** (1 / 10)
    few = sentences(Tally(5, 0, 5, 0), calibration(9), False)[0]
    assert "about 1 of 10 good pictures will be called anomalous (10 %; for this one model between" in few
    assert "10 more good pictures would do" in few
    assert range_text(0.631, 1).split() == ["63.1", "to", "100", "%"]
