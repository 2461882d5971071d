"""Rates, counts and results in plain sentences, as the reports say them."""

from __future__ import annotations

from typing import NamedTuple

from flawscope import metrics
from flawscope.calibration.decision import Calibration
from flawscope.progress import counted
from flawscope.results.prediction import Prediction


class Tally(NamedTuple):
    """Test pictures by what they are, and how many of them were judged wrongly."""

    good: int
    false_alarms: int
    defective: int
    missed: int

    @property
    def found(self) -> int:
        return self.defective - self.missed


def size_of(prediction: Prediction) -> str:
    """The size of its picture, width first, as on every page."""
    height, width = prediction.geometry.picture_size
    return f"{width} × {height}"


def percent(value: float) -> str:
    """0.05 -> 5 %; 0.0123 -> 1.2 %. Number and sign stay on one line."""
    return f"{100 * value:.1f}".removesuffix(".0") + "\N{NO-BREAK SPACE}%"


def rates(low: float, high: float) -> str:
    """An interval of rates: 63.1 to 100 %."""
    return f"{percent(low)[:-2]} to {percent(high)}"


def headline(tally: Tally) -> str:
    """The verdict in one line."""
    parts = []
    if tally.defective:
        parts.append(f"{tally.found} of {counted(tally.defective, 'defective picture')} found")
    if tally.good:
        parts.append(f"{tally.false_alarms} of {counted(tally.good, 'good picture')} called anomalous")
    return ", ".join(parts)


def sentences(tally: Tally, calibration: Calibration, without_mask: int = 0) -> list[str]:
    """Says what the score threshold promises, whether the promise was kept, and what was missed."""
    rate = calibration.expected_rate if calibration.promised else None
    lines = [_promise(calibration), _false_alarms(tally, rate), _missed(tally)]
    if without_mask:
        lines.append(
            f"{counted(without_mask, 'defective picture')} without a usable mask: not in the pixel figures."
        )
    return lines


def _promise(calibration: Calibration) -> str:
    if not calibration.promised:
        return f"The score threshold is {calibration.score_threshold:.4g}; {calibration.no_promise()}."
    text = (
        f"The score threshold is {calibration.score_threshold:.4g}, set from "
        f"{counted(calibration.count, 'good picture')} alone ({calibration.method}). Of good parts like "
        f"those, {percent(calibration.expected_rate)} are expected to be called anomalous; about defects it "
        "promises nothing."
    )
    if calibration.pictures_missing:
        more = counted(calibration.pictures_missing, "more good picture")
        text += f" {percent(calibration.rate)} cannot be promised from so few: {more} would do."
    return text


def _false_alarms(tally: Tally, rate: float | None) -> str:
    """
    Args:
        rate: that was promised; None: there is no promise.
    """
    if not tally.good:
        return "There are no good test pictures: false alarms were not measured."
    low, high = metrics.confidence_interval_rate(tally.false_alarms, tally.good)
    if rate is None:
        judged = "about which nothing was promised."
    elif low > rate:
        judged = "more than promised; are the good test pictures like those that the model learnt from?"
    elif high < rate:
        judged = "less than promised."
    else:
        judged = f"which agrees with the promise of {percent(rate)}."
    return (
        f"Measured: {tally.false_alarms} of {counted(tally.good, 'good picture')} called anomalous, "
        f"{percent(tally.false_alarms / tally.good)}. From so many pictures one learns that the true rate is "
        f"between {percent(low)} and {percent(high)} (95\N{NO-BREAK SPACE}%), {judged}"
    )


def _missed(tally: Tally) -> str:
    if not tally.defective:
        return "There are no defective test pictures: nothing is known about what it finds."
    low, high = metrics.confidence_interval_rate(tally.missed, tally.defective)
    return (
        f"{tally.missed or 'None'} of {counted(tally.defective, 'defective picture')} missed. Of defects "
        f"like these, between {percent(low)} and {percent(high)} may be missed (95 %)."
    )
