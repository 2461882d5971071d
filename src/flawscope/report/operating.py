"""What the test pictures would have become at other false-alarm rates: what the report's slider shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flawscope import metrics
from flawscope.calibration.decision import Calibration
from flawscope.report.words import percent, rates

if TYPE_CHECKING:
    from flawscope.report.collect import Row

MOST_POINTS = 200  # positions of the slider
MOST_RATE = 0.5  # beyond it nobody inspects


@dataclass(frozen=True)
class Point:
    """One threshold: the k-th largest score of the calibration, and what it makes of the test pictures.

    rate: share of good parts that is promised to lie above it; None where nothing is promised. option: the
    rate that one gives to have it. missed, alarms: of the test pictures; the intervals hold 95 %.
    now: the threshold that the report is about.
    """

    rate: float | None
    rate_text: str
    threshold: float
    option: str
    missed: int
    defective: int
    missed_interval: str
    alarms: int
    good: int
    alarm_interval: str
    alarm_range: tuple[float, float] | None
    now: bool

    @property
    def missed_share(self) -> float:
        return self.missed / self.defective if self.defective else 0.0

    @property
    def alarm_share(self) -> float:
        return self.alarms / self.good if self.good else 0.0


def operating_points(rows: Sequence[Row], calibration: Calibration) -> list[Point]:
    """From the fewest alarms to the most; empty where there is only one threshold."""
    ordered = np.sort(calibration.scores)[::-1]
    now = round(calibration.expected_rate * (calibration.count + 1))
    ranks = _ranks(max(now, int(MOST_RATE * (calibration.count + 1))), now, calibration.count)
    if len(ranks) < 2:
        return []
    good = np.array([row.score for row in rows if not row.anomalous])
    bad = np.array([row.score for row in rows if row.anomalous])
    return [_point(k, float(ordered[k - 1]), good, bad, calibration, k == now) for k in ranks]


def _ranks(last: int, now: int, count: int) -> list[int]:
    """1..last; many of them thinned out evenly on a logarithmic scale, as rates are compared."""
    last = min(last, count)
    if last <= MOST_POINTS:
        return list(range(1, last + 1))
    return sorted({now, *np.unique(np.geomspace(1, last, MOST_POINTS).round().astype(int)).tolist()})


def _point(
    rank: int,
    threshold: float,
    good: np.ndarray[tuple[int], np.dtype[np.float64]],
    bad: np.ndarray[tuple[int], np.dtype[np.float64]],
    calibration: Calibration,
    now: bool,
) -> Point:
    rate = rank / (calibration.count + 1)
    missed, alarms = int((bad <= threshold).sum()), int((good > threshold).sum())
    alarm_range = metrics.confidence_interval_rate(alarms, good.size) if good.size else None
    return Point(
        rate=rate if calibration.promised else None,
        rate_text=percent(rate),
        threshold=threshold,
        option=f"--false-alarm-rate {np.ceil(1e5 * rate - 1e-6) / 1e3:g}%",
        missed=missed,
        defective=bad.size,
        missed_interval=rates(*metrics.confidence_interval_rate(missed, bad.size)) if bad.size else "",
        alarms=alarms,
        good=good.size,
        alarm_interval=rates(*alarm_range) if alarm_range else "",
        alarm_range=(float(alarm_range[0]), float(alarm_range[1])) if alarm_range else None,
        now=now,
    )


def step_path(shares: Sequence[float]) -> str:
    """Shares 0..1 over the slider's positions, as an SVG path in a square of 100, 0 at the bottom."""
    if len(shares) < 2:
        return ""
    xs = np.linspace(0, 100, len(shares))
    points = [f"{x:.2f} {100 - 100 * y:.2f}" for x, y in zip(xs, shares, strict=True)]
    return f"M{'L'.join(points)}"
