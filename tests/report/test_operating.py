"""The slider over the false-alarm rate: every position is what the model would have decided at that rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flawscope.calibration.threshold import Calibration
from flawscope.report.page import MOST_POINTS, operating_points, step_path

ONE = np.array([0.5]), np.array([True])


def calibration(count: int, rate: float = 0.05, **more: Any) -> Calibration:
    values = tuple(np.random.default_rng(count).normal(size=count).tolist())
    return Calibration(values, values, -9.0, rate=rate, **more)


@pytest.mark.parametrize("count", [4, 20, 199, 3000])
def test_every_position_is_what_its_option_makes_of_the_pictures(count: int) -> None:
    """The rate that is shown, given to the model, decides as the position says."""
    made = calibration(count)
    rng = np.random.default_rng(1)
    scores, bad = rng.normal(0.5, 1, 50), rng.random(50) < 0.5
    # scores on thresholds, too
    scores[:10] = rng.choice(made.scores, 10)
    points = operating_points(scores, bad, made)
    assert len(points) <= MOST_POINTS + 1
    assert [point["threshold"] for point in points] == sorted((p["threshold"] for p in points), reverse=True)
    (now,) = (point for point in points if point["now"])
    assert now["threshold"] == made.score_threshold
    assert now["rate"] == pytest.approx(made.expected_rate)
    for point in points[:: max(1, len(points) // 20)]:
        other = made.with_rate(float(point["option"].split()[1].rstrip("%")) / 100)
        assert other.score_threshold == point["threshold"]
        assert other.expected_rate == pytest.approx(point["rate"])
        called = other.is_anomalous(scores)
        assert point["missed"] == (~called & bad).sum()
        assert point["alarms"] == (called & ~bad).sum()
        assert point["missed"] + point["alarms"] <= point["defective"] + point["good"] == 50


def test_what_is_not_promised_has_no_rate() -> None:
    points = operating_points(*ONE, calibration(10, promised=False))
    assert {point["rate"] for point in points} == {None}
    assert points[0]["good"] == 0
    assert points[0]["alarm_range"] is None


def test_one_threshold_makes_no_slider() -> None:
    assert operating_points(*ONE, calibration(1)) == []


def test_the_path_runs_from_left_to_right_and_down_is_less() -> None:
    assert step_path([0.0, 1.0, 0.5]) == "M0.00 100.00L50.00 0.00L100.00 50.00"


def test_a_report_without_a_choice_of_thresholds_has_no_slider(
    report_path: Path, run_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 'id="rate-slider"' in report_path.read_text(encoding="utf-8")
    monkeypatch.setattr("flawscope.report.page.operating_points", lambda *_: [])
    text = run_of((0.1,), (0.9,)).write(tmp_path / "without.html")
    assert 'id="rate-slider"' not in text
    assert 'href="#rate"' not in text
