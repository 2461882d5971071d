"""Computes the report's figures of the test pictures, once for every part of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope import metrics
from flawscope.calibration.threshold import Calibration
from flawscope.datasets import Dataset
from flawscope.errors import pluralize
from flawscope.evaluation import NAMES, Evaluation
from flawscope.evaluation.intervals import (
    PRO_LIMIT,
    Interval,
    PixelCounts,
    count_pixels,
    image_intervals,
    pixel_intervals,
)
from flawscope.pictures.listing import printable
from flawscope.report.plots import Curve, Group, curve_plot, histograms
from flawscope.report.words import Tally, percent, rates, size_of
from flawscope.results.prediction import RIGHT, outcome

SEED = 0  # of the bootstrap: the same pictures give the same report


class Metric(NamedTuple):
    """Line of the table of metrics; `step` is the least change that these pictures can show."""

    name: str
    value: str
    interval: str
    step: str
    note: str


@dataclass(frozen=True)
class Row:
    """Row of the report: a test picture."""

    name: str
    kind: str
    anomalous: bool
    called: bool
    score: float
    p_value: float
    severity: float
    regions: int
    size: str

    @property
    def outcome(self) -> str:
        return outcome(self.anomalous, self.called)

    @property
    def margin(self) -> float:
        """Severity on the wrong side of the score threshold; negative: on the right one."""
        return abs(self.severity) * (-1 if self.outcome == RIGHT else 1)

    @property
    def verdict(self) -> str:
        return "anomalous" if self.called else "good"


@dataclass(frozen=True)
class Kind:
    """Line of the table of types."""

    name: str
    anomalous: bool
    images: int
    called: int
    low: float
    high: float
    auroc: float | None  # against the good test pictures
    median_severity: float


@dataclass(frozen=True)
class Figures:
    """Figures of a report; `rows` in the order of the evaluation."""

    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    kinds: tuple[Kind, ...]
    tally: Tally
    plots: dict[str, str]  # name -> SVG; a curve without enough pictures is absent

    @property
    def by_margin(self) -> list[int]:
        """Indices of the rows: the worst mistake first, then near mistakes."""
        return sorted(range(len(self.rows)), key=lambda i: -self.rows[i].margin)

    @property
    def mistakes(self) -> list[int]:
        """Indices of the mistakes, the worst first."""
        return [i for i in self.by_margin if self.rows[i].outcome != RIGHT]


def figures(result: Evaluation, calibration: Calibration, dataset: Dataset) -> Figures:
    """Counts everything once."""
    rows = tuple(_row(seen.item, seen.prediction, dataset) for seen in result.pictures)
    anomalous = np.array([row.anomalous for row in rows], dtype=bool)
    scores = np.array([row.score for row in rows], dtype=np.float64)
    called = np.array([row.called for row in rows], dtype=bool)
    counts = count_pixels(result.pictures)
    tally = Tally(
        good=int((~anomalous).sum()),
        false_alarms=int((called & ~anomalous).sum()),
        defective=int(anomalous.sum()),
        missed=int((~called & anomalous).sum()),
    )
    intervals = image_intervals(anomalous, scores, called, seed=SEED)
    if counts is not None:
        intervals |= pixel_intervals(counts, seed=SEED)
    return Figures(
        rows,
        (*_rates(tally, calibration.expected_rate), *_metrics(result, tally, intervals)),
        tuple(_kinds(result, rows)),
        tally,
        _plots(rows, anomalous, scores, called, counts, calibration),
    )


def _row(item: Any, prediction: Any, dataset: Dataset) -> Row:
    return Row(
        name=printable(dataset.relative(item.path).removeprefix("test/")),
        kind=printable(item.kind),
        anomalous=item.anomalous,
        called=prediction.is_anomalous,
        score=prediction.score,
        p_value=prediction.p_value,
        severity=prediction.severity,
        regions=len(prediction.regions),
        size=size_of(prediction),
    )


# ------------------------------------------------------------------------------------------------- tables


def _rates(tally: Tally, rate: float) -> list[Metric]:
    found = []
    counted = (
        ("false alarms", tally.false_alarms, tally.good, f"expected {percent(rate)}"),
        ("defects found", tally.found, tally.defective, "at the calibrated score threshold"),
    )
    for name, k, n, note in counted:
        if n:
            interval = rates(*metrics.confidence_interval_rate(k, n))
            note += "; exact binomial interval"
            found.append(Metric(name, f"{percent(k / n)} ({k} of {n})", interval, percent(1 / n), note))
        else:
            found.append(Metric(name, "not measured", "", "", "no such test pictures"))
    return found


def _metrics(result: Evaluation, tally: Tally, intervals: dict[str, Interval | None]) -> list[Metric]:
    pairs = tally.good * tally.defective
    found = []
    for name, value in result.metrics.items():
        interval = intervals.get(name)
        notes = [interval.how] if interval and value is not None else []
        if name == "image_auroc" and value is not None:
            notes.append(f"{pluralize(pairs, 'pair')} of a good and a defective picture")
        if name in result.labels and name not in ("image_f1", "pixel_f1"):
            notes.append(str(result.labels[name]))
        if value is not None and interval is None:
            why = "too few pictures, or no mistakes to vary" if name in NAMES else "not computed"
            notes.append(f"no interval: {why}")
        step = f"{1 / pairs:.2g}" if name == "image_auroc" and pairs else ""
        found.append(
            Metric(
                NAMES.get(name, name.replace("_", " ")),
                "not measured" if value is None else f"{value:.4f}",
                f"{interval.low:.3f} to {interval.high:.3f}" if interval and value is not None else "",
                step,
                "; ".join(notes),
            )
        )
    return found


def _kinds(result: Evaluation, rows: Sequence[Row]) -> list[Kind]:
    normal = [row.score for row in rows if not row.anomalous]
    found = []
    for name, values in result.kinds.items():
        own = [row for row in rows if row.kind == printable(name)]
        scores = [row.score for row in own]
        anomalous = any(row.anomalous for row in own)
        area = None
        if anomalous and normal:
            labels = np.array([False] * len(normal) + [True] * len(own))
            area = metrics.auroc(labels, np.array(normal + scores))
        low, high = metrics.confidence_interval_rate(values["anomalous"], values["images"])
        found.append(
            Kind(
                name=printable(name),
                anomalous=anomalous,
                images=values["images"],
                called=values["anomalous"],
                low=low,
                high=high,
                auroc=area,
                median_severity=values["median_severity"],
            )
        )
    return found


# --------------------------------------------------------------------------------------------------- plots


def _plots(
    rows: Sequence[Row],
    anomalous: NDArray[np.bool_],
    scores: NDArray[Any],
    called: NDArray[np.bool_],
    counts: PixelCounts | None,
    calibration: Calibration,
) -> dict[str, str]:
    found = {}
    roc, recall_curve, pixels = [], [], None if counts is None else counts.curves()
    mark_roc = mark_pr = None
    if anomalous.any() and not anomalous.all():
        fpr, recall, precision = image_curves(anomalous, scores)
        roc.append(Curve("pictures", np.append(0, fpr), np.append(0, recall)))
        recall_curve.append(Curve("pictures", np.append(0, recall), np.append(precision[0], precision)))
        hits, alarms = int((called & anomalous).sum()), int((called & ~anomalous).sum())
        mark_roc = (alarms / int((~anomalous).sum()), hits / int(anomalous.sum()))
        mark_pr = (mark_roc[1], hits / (hits + alarms)) if hits + alarms else None
    if pixels is not None:
        roc.append(Curve("pixels", pixels.fpr[0], pixels.recall[0]))
        precision = np.append(pixels.precision[0, :1], pixels.precision[0])
        recall_curve.append(Curve("pixels", pixels.recall[0], np.nan_to_num(precision, nan=1.0)))
        within = pixels.fpr[0] <= PRO_LIMIT
        x = np.append(pixels.fpr[0][within], PRO_LIMIT)
        y = np.append(pixels.pro[0][within], np.interp(PRO_LIMIT, pixels.fpr[0], pixels.pro[0]))
        axes = ("normal pixels called anomalous", "overlap with defects, mean")
        found["pro"] = curve_plot("pro", [Curve("regions", x, y)], axes, limit=PRO_LIMIT)
    if roc:
        axes = ("false-positive rate", "true-positive rate")
        found["roc"] = curve_plot("roc", roc, axes, mark=mark_roc, chance=True)
        found["pr"] = curve_plot("pr", recall_curve, ("recall", "precision"), mark=mark_pr)
    groups = [Group("calibration", np.asarray(calibration.scores), False)]
    kinds = Counter((row.anomalous, row.kind) for row in rows)
    for bad, kind in sorted(kinds):
        own = np.array([row.score for row in rows if row.kind == kind and row.anomalous == bad])
        groups.append(Group(f"test: {kind}", own, bad))
    found["scores"] = histograms("scores", groups, calibration.score_threshold)
    return found


def image_curves(
    anomalous: NDArray[np.bool_], scores: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """False-positive rate, recall and precision [K] at every distinct score, thresholds falling."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores are called together
    hits = np.cumsum(anomalous[order])[last]
    alarms = np.cumsum(~anomalous[order])[last]
    return alarms / (~anomalous).sum(), hits / anomalous.sum(), hits / (hits + alarms)
