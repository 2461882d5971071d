"""What is counted and what is said about it."""

from dataclasses import replace

import numpy as np
import pytest

from flawscope.calibration.threshold import Calibration
from flawscope.pages.report.collect import compute_figures, image_curves
from flawscope.pages.report.words import Tally, headline, percent, range_text, sentences


def counted(run):
    return compute_figures(run.result, run.predictor.calibration, run.dataset)


def metric(found, name):
    return next(m for m in found.metrics if m.name == name)


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
    assert f"({known.method})" not in told[0]  # no term of statistics there
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
    assert range_text(0.631, 1).split() == ["63.1", "to", "100", "%"]
