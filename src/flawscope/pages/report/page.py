"""Renders pages, each in one file with style and script; and the page of an evaluation."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.threshold import Calibration
from flawscope.errors import pluralize
from flawscope.evaluation import metrics
from flawscope.evaluation.next_steps import advise_after
from flawscope.pages.report.plots import loss_plot, robustness_plot
from flawscope.pages.report.thumbnails import PAGE_FULL, Layers
from flawscope.pages.report.words import MAX_PARTS, headline, percent, range_text, sentences
from flawscope.pictures.listing import printable
from flawscope.results import drawing, html

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.evaluation.result import Evaluation
    from flawscope.pages.report.collect import Figures
    from flawscope.results.prediction import ScoreLevels

MAX_WORST = 12  # mistakes that are shown by themselves
MAX_NEAREST = 6  # pictures that are shown in their place where there are none
CURVES = {  # name of the plot -> title, and its meaning
    "roc": ("ROC", "Defects found against false alarms, for every threshold; the upper left is perfect."),
    "pr": ("Precision and recall", "How much of what is called anomalous is, against how much is found."),
    "pro": ("PRO", "How much of each defect's area is marked, against the good area marked with it."),
}
# What a picture is shown as: the name, and the layers that lie over each other
PANELS = {
    "picture": ("Picture", ("photo",)),
    "found": ("Found", ("photo", "heat", "line", "truth")),
    "map": ("Map", ("map",)),
}
# Layers that can be switched off: the name, and the key that does it
HEAT, LINE, TRUTH = ("heat", "Heat", "h"), ("line", "Outline", "o"), ("truth", "Ground truth", "g")
MAX_POINTS = 200  # positions of the slider
MAX_RATE = 0.5  # beyond it nobody inspects
SECTIONS = (
    "parts",
    "mistakes",
    "alignment",
    "meaning",
    "rate",
    "metrics",
    "curves",
    "types",
    "pictures",
    "run",
)


def evaluation_page(
    result: Evaluation,
    figures: Figures,
    facts: dict[str, Any],
    layers: Sequence[Layers | str],
    manifest: Manifest,
) -> str:
    """Renders the page of an evaluation. layers: in the order of `found.rows`."""
    from markupsafe import Markup

    calibration = manifest.calibration
    scores = np.array([row["score"] for row in figures.rows])
    truth = np.array([row["anomalous"] for row in figures.rows])
    # at another rate a part's limit moves otherwise than a picture's threshold
    points = [] if result.parts else operating_points(scores, truth, calibration)
    curves = [(*CURVES[name], Markup(figures.plots[name])) for name in CURVES if name in figures.plots]
    return render(
        "report.html.j2",
        [{**row, "layers": made} for row, made in zip(figures.rows, layers, strict=True)],
        ("pages.js", "rates.js"),
        title=printable(f"{result.category}: {result.method}"),
        sections=[
            (section, "Alarms" if section == "rate" else section.capitalize())
            for section in SECTIONS
            if {"rate": points, "parts": figures.parts, "alignment": figures.alignment}.get(section, True)
        ],
        toggles=(HEAT, LINE, TRUTH),
        panels=PANELS,
        headline=headline(figures.tally, result.noun),
        summary=sentences(
            figures.tally,
            calibration,
            bool(result.false_alarms.get("broken")),
            [*result.remarks, *(f"next: {one.line()}" for one in advise_after(result, manifest))],
            parts=result.parts.get("promise", ""),
        ),
        mismatch=result.mismatch,
        found=figures,
        facts=facts,
        named=manifest.kinds,
        curves=curves,
        histogram=Markup(figures.plots["scores"]),
        decided=result.parts,
        part_cards=figures.parts[:MAX_PARTS],
        losses=Markup(loss_plot("losses", manifest.facts)),
        robustness=Markup(robustness_plot("robustness", result.robustness)),
        worst=figures.mistakes[:MAX_WORST] or figures.by_margin[:MAX_NEAREST],
        left_out=list(layers).count(PAGE_FULL),
        kinds=list(dict.fromkeys(row["kind"] for row in figures.rows)),
        points=points,
        points_json=json.dumps(points, allow_nan=False),
        point_now=next((k for k, point in enumerate(points) if point["now"]), 0),
        missed_path=step_path([point["missed"] / max(point["defective"], 1) for point in points]),
        alarms_path=step_path([point["alarms"] / max(point["good"], 1) for point in points]),
        calibration=calibration,
        scale=colour_scale(calibration),
    )


def colour_scale(known: Calibration | ScoreLevels) -> dict[str, float]:
    """Map values at both ends of the colours and in the middle."""
    low, high = known.colour_range
    return {"low": low, "middle": known.mask_threshold, "high": high}


def render(template: str, pictures: Sequence[dict[str, Any]], scripts: Sequence[str], **context: Any) -> str:
    """Renders a page from a template that extends `base.html.j2`; all text is escaped.

    Args:
        pictures: each with name, size, facts and layers (or the reason why there are none); its other entries
            serve for sorting and filtering.
        scripts: files that become its one script.
        context: the template's values; title, sections, toggles and panels in any case.
    """
    from markupsafe import Markup

    script = "\n".join(map(read_asset, scripts))
    environment = html.environment(read_asset)
    environment.globals |= {"rates": range_text, "count": pluralize, "percent": percent}
    text: str = environment.get_template(template).render(
        style=Markup(read_asset("pages.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        data=html.script_json(pictures),
        ramp=", ".join("rgb({} {} {})".format(*drawing.colour_table()[k]) for k in range(0, 256, 17)),
        **(context | {"panels": json.dumps(context["panels"])}),
    )
    return text


def read_asset(name: str) -> str:
    """Text of a template, style or script in this folder."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------- other false-alarm rates


def operating_points(
    scores: NDArray[Any], anomalous: NDArray[np.bool_], calibration: Calibration
) -> list[dict[str, Any]]:
    """Thresholds from the fewest alarms to the most, each the k-th largest calibration score, with their
    effect on the test pictures; empty where there is only one."""
    units = calibration.unit_count + 1
    last = max(1, int(MAX_RATE * units))
    ranks: Sequence[int] = range(1, last + 1)
    if last > MAX_POINTS:  # thinned out evenly on a logarithmic scale, as rates are compared
        ranks = sorted({*np.geomspace(1, last, MAX_POINTS).round().astype(int).tolist()})
    at = [calibration, *(calibration.with_rate(rank / units) for rank in ranks if rank < units)]
    by_threshold = {one.score_threshold: one for one in reversed(at)}  # the calibration's own wins
    good, bad = scores[~anomalous], scores[anomalous]
    points = [
        _point(by_threshold[limit], good, bad) | {"now": by_threshold[limit] is calibration}
        for limit in sorted(by_threshold, reverse=True)
    ]
    return points if len(points) > 1 else []


def _point(calibration: Calibration, good: NDArray[Any], bad: NDArray[Any]) -> dict[str, Any]:
    """Effect of a threshold. rate: the promised share of good parts above it; None: nothing is promised.
    option: the argument that sets it. Intervals hold 95 %."""
    rate, threshold = calibration.expected_rate, calibration.score_threshold
    missed, alarms = int((bad <= threshold).sum()), int((good > threshold).sum())
    missed_range, alarm_range = (
        metrics.confidence_interval_rate(k, of.size) if of.size else None
        for k, of in ((missed, bad), (alarms, good))
    )
    return {
        "rate": rate if calibration.promised else None,
        "rate_text": percent(rate),
        "threshold": threshold,
        "option": f"--false-alarm-rate {np.ceil(1e5 * rate - 1e-6) / 1e3:g}%",
        "missed": missed,
        "defective": bad.size,
        "missed_interval": range_text(*missed_range) if missed_range else "",
        "alarms": alarms,
        "good": good.size,
        "alarm_interval": range_text(*alarm_range) if alarm_range else "",
        "alarm_range": alarm_range,
    }


def step_path(shares: Sequence[float]) -> str:
    """SVG path of shares 0..1 over the slider's positions, in a square of 100, 0 at the bottom."""
    xs = np.linspace(0, 100, len(shares))
    return "M" + "L".join(f"{x:.2f} {100 - 100 * y:.2f}" for x, y in zip(xs, shares, strict=True))
