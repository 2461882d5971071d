"""The drawings as parts of a page."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flawscope.report.plots import (
    MOST_POINTS,
    Curve,
    Group,
    bin_counts,
    bin_edges,
    curve_plot,
    histograms,
    loss_plot,
    thinned,
)

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def roc() -> str:
    x = np.linspace(0, 1, 3000)
    return curve_plot(
        "roc", [Curve("pictures", x, x**0.2), Curve("pixels", x, x)], ("x", "y"), mark=(0.1, 0.6)
    )


def test_a_drawing_needs_nothing_from_outside_and_disturbs_nothing(roc: str) -> None:
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


def test_a_type_may_have_any_name() -> None:
    names = ('<b>&"x', "$x^", "\x07bell", "n" * 200)
    groups = [Group(name, np.array([0.1, 0.2]), True) for name in names]
    drawn = histograms("scores", groups, 0.15)
    assert "<b>" not in drawn
    assert "&lt;b&gt;&amp;" in drawn
    assert "$x^ (2)" in drawn
    assert "n" * 40 not in drawn


def test_no_bar_is_half_anomalous() -> None:
    """A score is called anomalous when it is above the threshold, and bars end there."""
    scores = np.array([0.1, 0.5, 0.5000001, 3.0, -2.0])
    edges = bin_edges(-2.0, 3.0, 0.5)
    counts = bin_counts(scores, edges)
    assert counts.sum() == len(scores)
    assert counts[edges[1:] <= 0.5].sum() == 3
    assert counts[edges[:-1] >= 0.5].sum() == 2


def test_thinning_keeps_the_ends_and_the_shape() -> None:
    x = np.linspace(0, 1, 100_000)
    y = np.where(x < 1e-3, 500 * x, 0.5 + x / 2)  # all that matters is in the first thousandth
    thin_x, thin_y = thinned(x, y)
    assert len(thin_x) <= MOST_POINTS + 2
    assert (thin_x[0], thin_x[-1]) == (0, 1)
    assert np.abs(np.interp(x, thin_x, thin_y) - y).max() < 0.01


def test_losses_are_drawn_as_far_as_they_are_numbers() -> None:
    """A model file may hold anything."""
    curve = [{"step": k, "hard": 10 / k, "penalty": float("nan"), "text": "x"} for k in (1, 2, 3)]
    svg = loss_plot("losses", [*curve, {"step": None, "hard": 1.0}, "nothing"])  # type: ignore[list-item]
    assert "hard" in svg
    assert "penalty" not in svg
    assert loss_plot("losses", curve[:1]) == ""
    assert loss_plot("losses", []) == ""


def test_the_loss_is_drawn_from_its_fine_curve_and_its_parts_from_the_coarse_one() -> None:
    from flawscope.report import _curve

    coarse = [{"step": 50, "hard": 2.0, "loss": 9.0}, {"step": 100, "hard": 1.0, "loss": 8.0}]
    fine = {"step": [25, 50, 75, 100], "loss": [4.0, 3.0, 2.0, 1.5]}
    found = _curve({"curve": coarse, "training_curve": fine})
    assert [(p["step"], p["loss"]) for p in found if "loss" in p] == [*zip(*fine.values(), strict=True)]
    assert [p["hard"] for p in found if "hard" in p] == [2.0, 1.0]
    assert _curve({"curve": coarse}) == coarse  # of earlier models
    for damaged in (None, [], {"step": [1]}, {"step": 1, "loss": 2}):
        assert _curve({"curve": coarse, "training_curve": damaged}) == coarse
    svg = loss_plot("losses", found)
    assert "hard" in svg
    assert "mathdefault" not in svg
    assert ">100<" in svg
