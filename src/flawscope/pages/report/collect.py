"""Computes the report's figures from the test pictures, once for all parts of the page."""

from __future__ import annotations

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
MAX_LOST = 12  # pictures without a part that are shown
MAX_FARTHEST = 6  # pictures with the parts farthest from the reference that are shown
DASH = "–"


class Metric(NamedTuple):
    """Line of the table of metrics, as texts.

    Attributes:
        name: Name of the metric.
        value: Value of the metric.
        interval: 95 % interval of the value.
        step: Smallest change of the value that these pictures can show.
        note: Remarks.
    """

    name: str
    value: str
    interval: str
    step: str
    note: str


@dataclass(frozen=True)
class Figures:
    """Figures of a report.

    Attributes:
        rows: Values of each test picture, in the order of the evaluation, which the page shows, sorts and
            filters by. `margin` is the distance from the score threshold, as a severity: above 0 if the
            decision is wrong, below 0 if it is right.
        metrics: Lines of the table of metrics.
        kinds: Lines of the table of types.
        tally: Numbers of test pictures, and of wrong decisions.
        plots: SVG by name, for the plots that can be drawn.
        parts: Cards of parts.
        alignment: Errors of the parts' poses; empty where the model does not search for parts.
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
        """Indices of the rows: the worst mistakes first, the clearest right decisions last."""
        return sorted(range(len(self.rows)), key=lambda index: -self.rows[index]["margin"])

    @property
    def mistakes(self) -> list[int]:
        """Indices of the mistakes, the worst first."""
        return [index for index in self.worst_first if self.rows[index]["outcome"] != RIGHT]


def compute_figures(
    result: Evaluation, calibration: Calibration, dataset: Dataset, reference: PoseReference | None = None
) -> Figures:
    """Return all figures of an evaluation.

    Args:
        result: The evaluation.
        calibration: Calibration of the model.
        dataset: The data set.
        reference: Reference of the parts' poses; None: the model does not search for parts.
    """
    rows = [_picture_row(picture.item, picture.prediction, dataset) for picture in result.pictures]
    decided = result.decided
    is_defective = np.array([picture.anomalous for picture in decided], dtype=bool)
    is_called = np.array([picture.is_anomalous for picture in decided], dtype=bool)
    scores = np.array([picture.score for picture in decided], dtype=np.float64)
    tally = Tally(
        good=int((~is_defective).sum()),
        false_alarms=int((is_called & ~is_defective).sum()),
        defective=int(is_defective.sum()),
        missed=int((~is_called & is_defective).sum()),
    )
    counts = count_pixels(result.pictures)
    intervals = image_intervals(is_defective, scores, is_called)
    if counts is not None:
        intervals |= pixel_intervals(counts)
    plots = _curve_plots(is_defective, scores, is_called, counts)
    plots["scores"] = _histogram_plot(rows, calibration)
    index_by_path = {}  # the cards of parts link to pictures by these indices
    if result.parts:
        index_by_path = {str(picture.prediction.path): index for index, picture in enumerate(result.pictures)}
    return Figures(
        rows=rows,
        metrics=[*_rate_metrics(tally, result), *_metrics(result, tally, intervals)],
        kinds=_kind_rows(result),
        tally=tally,
        plots=plots,
        parts=part_cards([(part.prediction, part.outcome) for part in result.judged_parts], index_by_path),
        alignment={} if reference is None else _alignment(result, rows, reference),
    )


def _alignment(result: Evaluation, rows: list[Json], reference: PoseReference) -> Json:
    """Return the values of the section on alignment: errors of the parts' poses, and the worst pictures."""
    errors = np.array([_alignment_error(picture.prediction) for picture in result.pictures])
    is_found = np.isfinite(errors)
    has_several_parts = any(picture.prediction.found_parts for picture in result.pictures)
    is_defective = np.array([row["anomalous"] for row in rows], bool)
    groups = (
        ("good pictures of the fit", np.array(reference.errors)),
        ("good test pictures", errors[~is_defective]),
        ("defective test pictures", errors[is_defective]),
    )
    known_errors = np.where(is_found, errors, -1.0)  # -1: pictures without a part come last
    farthest_first = np.argsort(-known_errors, kind="stable")
    reference_image = np.repeat(reference.part_image()[..., None], 3, axis=2)  # three equal channels
    return {
        "reference": image_uri(reference_image, REFERENCE_SIDE),
        "about": reference.describe(),
        "limit": MAX_ERROR,
        "table": [_alignment_row(name, group_errors) for name, group_errors in groups],
        "lost_title": "Parts counted wrong" if has_several_parts else "No part found",
        "lost": np.flatnonzero(~is_found).tolist()[:MAX_LOST],
        "far": [int(index) for index in farthest_first if is_found[index]][:MAX_FARTHEST],
    }


def _alignment_row(name: str, errors: Array) -> tuple[str | int, ...]:
    """Return the cells of a group of pictures: its name, and texts on the alignment.

    The texts are the number of pictures in which a part was found, the number of the other pictures, and the
    median, the 95 % quantile and the largest of the errors.
    """
    found_errors = errors[np.isfinite(errors)]
    found_count = found_errors.size
    error_texts = [DASH] * 3
    if found_count:
        error_texts = [f"{error:.2f}" for error in np.quantile(found_errors, (0.5, 0.95, 1))]
    return name, found_count, errors.size - found_count, *error_texts


def _alignment_error(prediction: Prediction) -> float:
    """Return the pose error of a picture's part, or the largest of several; infinite if none is found."""
    parts = prediction.found_parts
    if parts is not None:
        return np.inf if parts.wrong else max(part.part_pose.error for part in parts.parts)
    return prediction.part_pose.error if prediction.part_pose else np.inf


def _picture_row(item: Item, prediction: Prediction, dataset: Dataset) -> Json:
    """Return the row of a picture (`Figures.rows`)."""
    kind = printable(item.kind)
    truth = "defective" if item.anomalous else "good"
    result = outcome(item.anomalous, prediction.is_anomalous)
    distance = abs(prediction.severity)  # distance from the score threshold
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
        "margin": -distance if result == RIGHT else distance,
        "facts": facts,
    }


# ------------------------------------------------------------------------------------------------- tables


def _rate_metrics(tally: Tally, result: Evaluation) -> list[Metric]:
    """Return the lines of the table of metrics on false alarms and defects found."""
    expected = result.false_alarms["expected"]
    note = "no promise" if expected is None else f"expected {percent(expected)}"
    return [
        _rate_metric("false alarms", tally.false_alarms, tally.good, note),
        _rate_metric("defects found", tally.found, tally.defective, "at the calibrated score threshold"),
    ]


def _rate_metric(name: str, count: int, total: int, note: str) -> Metric:
    """Return the line of the table on a rate: `count` of `total` pictures, with a note."""
    if not total:
        return Metric(name, "not measured", interval="", step="", note="no such test pictures")
    interval = metrics.confidence_interval_rate(count, total)
    return Metric(
        name,
        value=f"{percent(count / total)} ({count} of {total})",
        interval=range_text(*interval),
        step=percent(1 / total),  # one picture changes the rate by this
        note=f"{note}; exact binomial interval",
    )


def _metrics(result: Evaluation, tally: Tally, intervals: dict[str, Interval | None]) -> list[Metric]:
    """Return the lines of the table on the metrics of the evaluation.

    Args:
        result: The evaluation.
        tally: Numbers of good and defective pictures.
        intervals: Interval of a metric, by its name; None: there is none.
    """
    lines: list[Metric] = []
    pair_count = tally.good * tally.defective
    for name, value in result.metrics.items():
        notes: list[str] = []
        text = "not measured"
        interval_text = ""
        step = ""
        if value is not None:
            text = f"{value:.4f}"
            interval = intervals.get(name)
            interval_text = f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""
            notes.append(interval.method if interval else _missing_interval_note(name))
        if name == "image_auroc" and pair_count:
            step = f"{1 / pair_count:.2g}"  # the AUROC is the share of pairs in the right order
            notes.append(f"{pluralize(pair_count, 'pair')} of a good and a defective {result.noun}")
        if name in result.labels and name not in ("image_f1", "pixel_f1"):
            notes.append(str(result.labels[name]))
        shown_name = METRIC_NAMES.get(name, name.replace("_", " "))
        lines.append(Metric(shown_name, text, interval_text, step, note="; ".join(notes)))
    return lines


def _missing_interval_note(name: str) -> str:
    reason = "too few pictures or mistakes" if name in METRIC_NAMES else "not computed"
    return f"no interval: {reason}"


def _kind_rows(result: Evaluation) -> list[Json]:
    """Return the rows of the table of types: counts, and the type's AUROC against the good test pictures."""
    good_scores = [picture.score for picture in result.decided if not picture.anomalous]
    rows = []
    for name, counts in result.kinds.items():
        bad_scores = [
            picture.score for picture in result.decided if picture.anomalous and picture.kind == name
        ]
        interval = metrics.confidence_interval_rate(counts["anomalous"], counts["images"])
        auroc = None
        if good_scores and bad_scores:
            is_bad = np.array([False] * len(good_scores) + [True] * len(bad_scores))
            auroc = metrics.auroc(is_bad, np.array(good_scores + bad_scores))
        row: Json = dict(counts)
        row["name"] = printable(name)
        row["truth"] = "defective" if bad_scores else "good"
        row["interval"] = range_text(*interval)
        row["auroc"] = auroc
        rows.append(row)
    return rows


# --------------------------------------------------------------------------------------------------- plots


def _curve_plots(
    anomalous: NDArray[np.bool_], scores: Array, called: NDArray[np.bool_], counts: PixelCounts | None
) -> dict[str, str]:
    """Return the plots of ROC, precision and recall, and PRO, as SVG by name.

    Args:
        anomalous: [N], whether each decided picture or part is defective.
        scores: [N], score of each.
        called: [N], whether each is called anomalous.
        counts: Counts of pixels; None: there are no masks to compare with.
    """
    plots: dict[str, str] = {}
    roc_curves: list[Curve] = []
    precision_curves: list[Curve] = []
    roc_mark = None
    precision_mark = None
    if anomalous.any() and not anomalous.all():
        fpr, recall, precision = image_curves(anomalous, scores)
        # both curves begin at recall 0
        roc_curves.append(Curve("pictures", np.append(0, fpr), np.append(0, recall)))
        precision_curves.append(Curve("pictures", np.append(0, recall), np.append(precision[0], precision)))
        # the marks show the model's decisions
        called_fpr = float(called[~anomalous].mean())
        called_recall = float(called[anomalous].mean())
        roc_mark = (called_fpr, called_recall)
        if called.any():
            called_precision = float(anomalous[called].mean())
            precision_mark = (called_recall, called_precision)
    if counts is not None:
        # each curve has a row for each resample; here there is one row, of all pictures once
        fpr, recall, pro, precision = (curve[0] for curve in counts.curves()[:4])
        roc_curves.append(Curve("pixels", fpr, recall))
        # the precision lacks its value at recall 0; if no pixel is called anomalous, it counts as 1
        full_precision = np.nan_to_num(np.append(precision[0], precision), nan=1.0)
        precision_curves.append(Curve("pixels", recall, full_precision))
        labels = ("normal pixels called anomalous", "overlap with defects, mean")
        plots["pro"] = curve_plot("pro", [Curve("regions", fpr, pro)], labels, limit=PRO_LIMIT)
    if roc_curves:
        labels = ("false-positive rate", "true-positive rate")
        plots["roc"] = curve_plot("roc", roc_curves, labels, mark=roc_mark, chance=True)
        plots["pr"] = curve_plot("pr", precision_curves, ("recall", "precision"), mark=precision_mark)
    return plots


def _histogram_plot(rows: list[Json], calibration: Calibration) -> str:
    """Return the histograms of the calibration's scores, and of the test pictures by kind, as SVG."""
    groups = [Group("calibration", np.asarray(calibration.scores), anomalous=False)]
    scores_by_kind: dict[tuple[bool, str], list[float]] = {}
    for row in rows:
        scores_by_kind.setdefault((row["anomalous"], row["kind"]), []).append(row["score"])
    for (is_defective, kind), scores in sorted(scores_by_kind.items()):
        groups.append(Group(f"test: {kind}", np.array(scores), is_defective))
    return histograms("scores", groups, calibration.score_threshold)


def image_curves(anomalous: NDArray[np.bool_], scores: Array) -> tuple[Array, Array, Array]:
    """Return false-positive rate, recall and precision, [K] each, for K distinct scores, the largest first.

    Each value holds if all pictures with at least this score are called anomalous.
    """
    order = np.argsort(-scores, kind="stable")
    # equal scores are called together: only the counts after the last of them are kept
    is_last_of_equal = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(anomalous[order])[is_last_of_equal]
    alarms = np.cumsum(~anomalous[order])[is_last_of_equal]
    false_positive_rate = alarms / (~anomalous).sum()
    recall = hits / anomalous.sum()
    precision = hits / (hits + alarms)
    return false_positive_rate, recall, precision
