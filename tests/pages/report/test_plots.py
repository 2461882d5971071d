"""The drawings as parts of a page."""

import re

import numpy as np
import pytest

from flawscope.pages.report.plots import (
    Curve,
    Group,
    _loss_curves,
    bin_counts,
    bin_edges,
    curve_plot,
    histograms,
    loss_plot,
)


@pytest.fixture(scope="module")
def roc():
    x = np.linspace(0, 1, 3000)
    return curve_plot(
        "roc", [Curve("pictures", x, x**0.2), Curve("pixels", x, x)], ("x", "y"), mark=(0.1, 0.6)
    )


def test_a_drawing_needs_nothing_from_outside_and_disturbs_nothing(roc):
    assert roc.startswith("<svg ")
    assert "://" not in roc
    assert "<style" not in roc  # would hold for the whole page
    assert "<metadata" not in roc
    ids = set(re.findall(r'\bid="([^"]*)"', roc))
    assert all(name.startswith("roc-") for name in ids)
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]*)", roc)) <= ids
    assert len(roc) < 60_000
    assert not re.findall(r"#[0-9a-fA-F]{6}", roc)  # colours follow the page
    assert {"--ink", "--good", "--bad", "--pale"} <= set(re.findall(r"var\((--\w+)\)", roc))
    assert "threshold" in histograms("scores", [Group("calibration", np.array([1.0]), False)], 1.0)


def test_a_type_may_have_any_name():
    names = ('<b>&"x', "$x^", "\x07bell", "n" * 200)
    groups = [Group(name, np.array([0.1, 0.2]), True) for name in names]
    drawn = histograms("scores", groups, 0.15)
    words = ("&lt;b&gt;&amp;", "$x^ (2)", "<b>", "n" * 40)
    assert [word in drawn for word in words] == [True, True, False, False]


def test_no_bar_is_half_anomalous():
    """A score is called anomalous when it is above the threshold, and bars end there."""
    scores = np.array([0.1, 0.5, 0.5000001, 3.0, -2.0])
    edges = bin_edges(-2.0, 3.0, 0.5)
    counts = bin_counts(scores, edges)
    assert (counts.sum(), counts[edges[1:] <= 0.5].sum()) == (len(scores), 3)
    assert counts[edges[:-1] >= 0.5].sum() == 2


def test_losses_are_drawn_by_their_parts():
    curve = [{"step": k, "hard": 10 / k, "penalty": float("nan")} for k in (50, 100)]
    lines = {line.name: (line.x.tolist(), line.y.tolist()) for line in _loss_curves({"curve": curve})}
    assert lines["hard"] == ([50, 100], [0.2, 0.1])
    svg = loss_plot("losses", {"curve": curve})
    assert [word in svg for word in ("hard", ">100<", "penalty", "mathdefault")] == [True, True, False, False]


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"curve": [{"step": 1, "hard": 2.0}]},
        {"curve": ["nothing", 3]},
        {"curve": [{"step": None, "hard": "x"}]},
        {"curve": 3},
        {"curve": [{"step": 1, "loss": 10**400}, {"step": 2, "loss": {}}]},
    ],
)
def test_a_model_file_may_hold_any_losses(facts):
    assert loss_plot("losses", facts) == ""
