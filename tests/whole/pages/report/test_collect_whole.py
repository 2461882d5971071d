"""What is counted and what is said about it."""

import pytest

from flawscope.evaluation.metrics import confidence_interval_rate
from flawscope.pages.report.collect import compute_figures
from flawscope.pages.report.words import Tally, percent, range_text
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
    in_order = [(found.rows[i]["name"], found.rows[i]["outcome"]) for i in found.worst_first]
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


def test_pixels_have_curves_where_there_are_masks(run_of):
    assert set(counted(run_of((), (0.4, 0.9))).plots) == {"roc", "pr", "pro", "scores"}
