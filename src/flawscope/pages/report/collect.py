"""Computes the report's figures from the test pictures, once for all parts of the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.threshold import Calibration
from flawscope.datasets import Dataset, Item
from flawscope.errors import pluralize
from flawscope.evaluation import metrics
from flawscope.evaluation.intervals import (
    PRO_LIMIT,
    Interval,
    PixelCounts,
    count_pixels,
    image_intervals,
    pixel_intervals,
)
from flawscope.evaluation.result import METRIC_NAMES, Evaluation
from flawscope.pages.report.plots import Curve, Group, curve_plot, histograms
from flawscope.pages.report.thumbnails import image_uri
from flawscope.pages.report.words import (
    Tally,
    finding_facts,
    part_cards,
    percent,
    pose_facts,
    range_text,
    score_facts,
    size_text,
)
from flawscope.pictures.listing import printable
from flawscope.results.prediction import RIGHT, Prediction, outcome
from flawscope.types import Array, Json
from flawscope.views.pose import MAX_ERROR, PoseReference

REFERENCE_SIDE = 192  # pixels
# pictures shown without a part, and with those farthest from the reference
MAX_LOST = 12
MAX_FARTHEST = 6
DASH = "–"


class Metric(NamedTuple):
    """Line of the table of metrics; `step` is the smallest change that these pictures can show."""

    name: str
    value: str
    interval: str
    step: str
    note: str


@dataclass(frozen=True)
class Figures:
    """Figures of a report.

    Attributes:
        rows: Test pictures in the order of the evaluation, each with the values that the page shows, sorts
            and filters by. `margin` is the severity on the wrong side of the score threshold, negative on the
            right side.
        metrics: Lines of the table of metrics.
        kinds: Lines of the table of types.
        tally: Numbers of test pictures, and of wrong decisions.
        plots: SVG by name, for the plots that can be drawn.
        parts: Cards of parts.
        alignment: Errors of the parts' poses; empty where parts are not looked for.
    """

    rows: list[Json]
    metrics: list[Metric]
    kinds: list[Json]
    tally: Tally
    plots: dict[str, str]
    parts: list[Json]
    alignment: Json

    @property
    def worst_first(self) -> list[int]:
        """Indices of the rows: the worst mistake first, then near mistakes."""
        return sorted(range(len(self.rows)), key=lambda i: -self.rows[i]["margin"])

    @property
    def mistakes(self) -> list[int]:
        """Indices of the mistakes, the worst first."""
        return [i for i in self.worst_first if self.rows[i]["outcome"] != RIGHT]


def compute_figures(
    result: Evaluation, calibration: Calibration, dataset: Dataset, reference: PoseReference | None = None
) -> Figures:
    """Return all figures of an evaluation.

    Args:
        result: The evaluation.
        calibration: Calibration of the model.
        dataset: The data set.
        reference: Reference of the parts' poses; None: parts are not looked for.
    """
    rows = [_picture_row(item, prediction, dataset) for item, prediction, *_ in result.pictures]
    decided = result.decided
    anomalous = np.array([picture.anomalous for picture in decided], dtype=bool)
    called = np.array([picture.is_anomalous for picture in decided], dtype=bool)
    scores = np.array([picture.score for picture in decided], dtype=np.float64)
    tally = Tally(
        good=int((~anomalous).sum()),
        false_alarms=int((called & ~anomalous).sum()),
        defective=int(anomalous.sum()),
        missed=int((~called & anomalous).sum()),
    )
    counts = count_pixels(result.pictures)
    intervals = image_intervals(anomalous, scores, called)
    if counts is not None:
        intervals |= pixel_intervals(counts)
    plots = _curve_plots(anomalous, scores, called, counts) | {"scores": _histogram_plot(rows, calibration)}
    table = [*_rate_metrics(tally, result), *_metrics(result, tally, intervals)]
    places = (
        {str(picture.prediction.path): k for k, picture in enumerate(result.pictures)} if result.parts else {}
    )
    parts = part_cards(((part.prediction, part.outcome) for part in result.judged_parts), places)
    aligned = {} if reference is None else _alignment(result, rows, reference)
    return Figures(rows, table, _kind_rows(result), tally, plots, parts, aligned)


def _alignment(result: Evaluation, rows: list[Json], reference: PoseReference) -> Json:
    """Return the errors of the parts' poses in spreads, by kind of picture, and the worst pictures."""
    errors = np.array([_alignment_error(picture.prediction) for picture in result.pictures])
    several = any(picture.prediction.found_parts for picture in result.pictures)
    bad = np.array([row["anomalous"] for row in rows], bool)
    groups = (
        ("good pictures of the fit", np.array(reference.errors)),
        ("good test pictures", errors[~bad]),
        ("defective test pictures", errors[bad]),
    )
    table = []
    for name, every in groups:
        known = every[np.isfinite(every)]
        levels = (
            [f"{level:.2f}" for level in np.quantile(known, (0.5, 0.95, 1))] if known.size else [DASH] * 3
        )
        table.append((name, known.size, every.size - known.size, *levels))
    far = np.argsort(-np.where(np.isfinite(errors), errors, -1.0), kind="stable")
    return {
        "reference": image_uri(np.repeat(reference.part_image()[..., None], 3, 2), REFERENCE_SIDE),
        "about": reference.describe(),
        "limit": MAX_ERROR,
        "table": table,
        "lost_title": "Parts counted wrong" if several else "No part found",
        "lost": np.flatnonzero(~np.isfinite(errors)).tolist()[:MAX_LOST],
        "far": [int(k) for k in far if np.isfinite(errors[k])][:MAX_FARTHEST],
    }


def _alignment_error(prediction: Prediction) -> float:
    """Return the pose error of a picture's part, or the largest of several; infinite if not found."""
    if (parts := prediction.found_parts) is not None:
        return np.inf if parts.wrong else max(part.part_pose.error for part in parts.parts)
    return prediction.part_pose.error if prediction.part_pose else np.inf


def _picture_row(item: Item, prediction: Prediction, dataset: Dataset) -> Json:
    kind = printable(item.kind)
    truth = "defective" if item.anomalous else "good"
    result = outcome(item.anomalous, prediction.is_anomalous)
    facts = [
        ("Result", result),
        ("Decision", prediction.decision),
        ("Type", truth if kind == truth else f"{kind} ({truth})"),
    ]
    facts += score_facts(prediction.severity, prediction.p_value, prediction.score)
    facts.append(("Regions outlined", str(len(prediction.regions))))
    facts += pose_facts(prediction)
    facts += finding_facts(prediction)
    facts.append(("Size", f"{size_text(prediction)} pixels"))
    return {
        "name": printable(dataset.relative(item.path).removeprefix("test/")),
        "kind": kind,
        "anomalous": item.anomalous,
        "called": prediction.is_anomalous,
        "score": prediction.score,
        "p_value": prediction.p_value,
        "severity": prediction.severity,
        "size": size_text(prediction),
        "outcome": result,
        "verdict": prediction.decision,
        "margin": abs(prediction.severity) * (-1 if result == RIGHT else 1),
        "facts": facts,
    }


# ------------------------------------------------------------------------------------------------- tables


def _rate_metrics(tally: Tally, result: Evaluation) -> list[Metric]:
    expected = result.false_alarms["expected"]
    note = "no promise" if expected is None else f"expected {percent(expected)}"
    return [
        _rate_metric("false alarms", tally.false_alarms, tally.good, note),
        _rate_metric("defects found", tally.found, tally.defective, "at the calibrated score threshold"),
    ]


def _rate_metric(name: str, count: int, total: int, note: str) -> Metric:
    if not total:
        return Metric(name, "not measured", "", "", "no such test pictures")
    interval = metrics.confidence_interval_rate(count, total)
    return Metric(
        name,
        f"{percent(count / total)} ({count} of {total})",
        range_text(*interval),
        percent(1 / total),
        f"{note}; exact binomial interval",
    )


def _metrics(result: Evaluation, tally: Tally, intervals: dict[str, Interval | None]) -> list[Metric]:
    found: list[Metric] = []
    pairs = tally.good * tally.defective
    for name, value in result.metrics.items():
        notes: list[str] = []
        text = "not measured"
        interval_text = ""
        step = ""
        if value is not None:
            text = f"{value:.4f}"
            interval = intervals.get(name)
            interval_text = f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""
            notes.append(interval.method if interval else _why_no_interval(name))
        if name == "image_auroc" and pairs:
            step = f"{1 / pairs:.2g}"
            notes.append(f"{pluralize(pairs, 'pair')} of a good and a defective {result.noun}")
        if name in result.labels and name not in ("image_f1", "pixel_f1"):
            notes.append(str(result.labels[name]))
        shown_name = METRIC_NAMES.get(name, name.replace("_", " "))
        found.append(Metric(shown_name, text, interval_text, step, "; ".join(notes)))
    return found


def _why_no_interval(name: str) -> str:
    why = "too few pictures or mistakes" if name in METRIC_NAMES else "not computed"
    return f"no interval: {why}"


def _kind_rows(result: Evaluation) -> list[Json]:
    """Return the counts of each type, with its AUROC against the good test pictures."""
    good = [picture.score for picture in result.decided if not picture.anomalous]
    found = []
    for name, values in result.kinds.items():
        bad = [picture.score for picture in result.decided if picture.anomalous and picture.kind == name]
        interval = metrics.confidence_interval_rate(values["anomalous"], values["images"])
        auroc = None
        if good and bad:
            labels = np.arange(len(good) + len(bad)) >= len(good)
            auroc = metrics.auroc(labels, np.array(good + bad))
        row: Json = dict(values)
        row["name"] = printable(name)
        row["truth"] = "defective" if bad else "good"
        row["interval"] = range_text(*interval)
        row["auroc"] = auroc
        found.append(row)
    return found


# --------------------------------------------------------------------------------------------------- plots


def _curve_plots(
    anomalous: NDArray[np.bool_], scores: Array, called: NDArray[np.bool_], counts: PixelCounts | None
) -> dict[str, str]:
    found: dict[str, str] = {}
    roc: list[Curve] = []
    recall_curve: list[Curve] = []
    mark_roc = mark_pr = None
    if anomalous.any() and not anomalous.all():
        fpr, recall, precision = image_curves(anomalous, scores)
        roc.append(Curve("pictures", np.append(0, fpr), np.append(0, recall)))
        recall_curve.append(Curve("pictures", np.append(0, recall), np.append(precision[0], precision)))
        mark_roc = (float(called[~anomalous].mean()), float(called[anomalous].mean()))
        mark_pr = (mark_roc[1], float(anomalous[called].mean())) if called.any() else None
    if counts is not None:
        fpr, recall, pro, precision = (curve[0] for curve in counts.curves()[:4])
        roc.append(Curve("pixels", fpr, recall))
        precision = np.nan_to_num(np.append(precision[0], precision), nan=1.0)
        recall_curve.append(Curve("pixels", recall, precision))
        axes = ("normal pixels called anomalous", "overlap with defects, mean")
        found["pro"] = curve_plot("pro", [Curve("regions", fpr, pro)], axes, limit=PRO_LIMIT)
    if roc:
        axes = ("false-positive rate", "true-positive rate")
        found["roc"] = curve_plot("roc", roc, axes, mark=mark_roc, chance=True)
        found["pr"] = curve_plot("pr", recall_curve, ("recall", "precision"), mark=mark_pr)
    return found


def _histogram_plot(rows: list[Json], calibration: Calibration) -> str:
    groups = [Group("calibration", np.asarray(calibration.scores), anomalous=False)]
    for bad, kind in sorted(Counter((row["anomalous"], row["kind"]) for row in rows)):
        scores = [row["score"] for row in rows if (row["anomalous"], row["kind"]) == (bad, kind)]
        groups.append(Group(f"test: {kind}", np.array(scores), bad))
    return histograms("scores", groups, calibration.score_threshold)


def image_curves(anomalous: NDArray[np.bool_], scores: Array) -> tuple[Array, Array, Array]:
    """Return false-positive rate, recall and precision [K] at every distinct score, in falling order."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores are called together
    hits = np.cumsum(anomalous[order])[last]
    alarms = np.cumsum(~anomalous[order])[last]
    return alarms / (~anomalous).sum(), hits / anomalous.sum(), hits / (hits + alarms)
