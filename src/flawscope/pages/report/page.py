"""Renders pages as single files with style and script, and the page of an evaluation."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

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
from flawscope.types import Array, Json

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
HEAT = ("heat", "Heat", "h")
LINE = ("line", "Outline", "o")
TRUTH = ("truth", "Ground truth", "g")
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
    facts: Json,
    layers: Sequence[Layers | str],
    manifest: Manifest,
) -> str:
    """Render the page of an evaluation.

    Args:
        result: The evaluation.
        figures: Its figures.
        facts: Facts on model and run (`words.collect_facts`).
        layers: Layers of each picture, or the reason why there are none, in the order of `figures.rows`.
        manifest: Manifest of the model.
    """
    from markupsafe import Markup

    calibration = manifest.calibration
    scores = np.array([row["score"] for row in figures.rows])
    truth = np.array([row["anomalous"] for row in figures.rows])
    # at another rate a part's limit moves otherwise than a picture's threshold
    points = [] if result.parts else operating_points(scores, truth, calibration)
    plotted = [name for name in CURVES if name in figures.plots]
    next_steps = [f"next: {advice.line()}" for advice in advise_after(result, manifest)]
    remarks = [*result.remarks, *next_steps]
    broken = bool(result.false_alarms.get("broken"))
    promise = result.parts.get("promise", "")
    kinds = list(dict.fromkeys(row["kind"] for row in figures.rows))
    return render(
        "report.html.j2",
        _entries(figures, layers),
        ("pages.js", "rates.js"),
        title=printable(f"{result.category}: {result.method}"),
        sections=_sections(figures, points),
        toggles=(HEAT, LINE, TRUTH),
        panels=PANELS,
        headline=headline(figures.tally, result.noun),
        summary=sentences(figures.tally, calibration, broken, remarks, parts=promise),
        mismatch=result.mismatch,
        found=figures,
        facts=facts,
        named=manifest.kinds,
        curves=[(*CURVES[name], Markup(figures.plots[name])) for name in plotted],
        histogram=Markup(figures.plots["scores"]),
        decided=result.parts,
        part_cards=figures.parts[:MAX_PARTS],
        losses=Markup(loss_plot("losses", manifest.facts)),
        robustness=Markup(robustness_plot("robustness", result.robustness)),
        worst=figures.mistakes[:MAX_WORST] or figures.worst_first[:MAX_NEAREST],
        left_out=list(layers).count(PAGE_FULL),
        kinds=kinds,
        points=points,
        points_json=json.dumps(points, allow_nan=False),
        point_now=_present_point(points),
        missed_path=step_path(_shares(points, "missed", "defective")),
        alarms_path=step_path(_shares(points, "alarms", "good")),
        calibration=calibration,
        scale=colour_scale(calibration),
    )


def _entries(figures: Figures, layers: Sequence[Layers | str]) -> list[Json]:
    """Return the pictures' entries, each with its layers, or the reason why there are none."""
    return [row | {"layers": made} for row, made in zip(figures.rows, layers, strict=True)]


def _sections(figures: Figures, points: Sequence[Json]) -> list[tuple[str, str]]:
    """Return the page's sections with their titles; those that would be empty are left out."""
    content = {"rate": points, "parts": figures.parts, "alignment": figures.alignment}
    sections = []
    for name in SECTIONS:
        if name in content and not content[name]:
            continue
        sections.append((name, "Alarms" if name == "rate" else name.capitalize()))
    return sections


def _present_point(points: Sequence[Json]) -> int:
    """Return the place of the model's own threshold among the points; 0 where there are none."""
    return next((place for place, point in enumerate(points) if point["now"]), 0)


def _shares(points: Sequence[Json], counted: str, total: str) -> list[float]:
    """Return for each point the share of pictures that its threshold judges wrongly.

    Args:
        points: The points.
        counted: Key of the number of pictures judged wrongly.
        total: Key of the number of all pictures.
    """
    return [point[counted] / max(point[total], 1) for point in points]


def colour_scale(known: Calibration | ScoreLevels) -> dict[str, float]:
    """Return the map values at both ends of the colours and in the middle."""
    low, high = known.colour_range
    return {"low": low, "middle": known.mask_threshold, "high": high}


def render(template: str, pictures: Sequence[Json], scripts: Sequence[str], **context: object) -> str:
    """Render a page from a template that extends `base.html.j2`; all text is escaped.

    Args:
        template: File name of the template.
        pictures: Entries of the pictures, each with name, size, facts and layers (or the reason why there are
            none); other keys serve for sorting and filtering.
        scripts: Files that become the page's only script.
        context: Values of the template; title, sections, toggles and panels are required.
    """
    from markupsafe import Markup

    script = "\n".join(map(read_asset, scripts))
    environment = html.environment(read_asset)
    environment.globals |= {"rates": range_text, "count": pluralize, "percent": percent}
    script_digest = hashlib.sha256(script.encode()).digest()
    colours = ["rgb({} {} {})".format(*colour) for colour in drawing.colour_table()[::17]]
    values = context | {
        "style": Markup(read_asset("pages.css")),
        "script": Markup(script),
        "script_hash": base64.b64encode(script_digest).decode("ascii"),
        "data": html.script_json(pictures),
        "ramp": ", ".join(colours),
        "panels": json.dumps(context["panels"]),
    }
    text: str = environment.get_template(template).render(values)
    return text


def read_asset(name: str) -> str:
    """Return the text of a template, style or script in this folder."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------- other false-alarm rates


def operating_points(scores: Array, anomalous: NDArray[np.bool_], calibration: Calibration) -> list[Json]:
    """Return thresholds from the fewest alarms to the most, with their effect on the test pictures.

    Each is the k-th largest calibration score. Empty where there is only one threshold.

    Args:
        scores: Scores of the test pictures.
        anomalous: Whether each test picture is defective.
        calibration: Calibration of the model.
    """
    units = calibration.unit_count + 1
    last = max(1, int(MAX_RATE * units))
    ranks: Sequence[int] = range(1, last + 1)
    if last > MAX_POINTS:  # thinned out evenly on a logarithmic scale, as rates are compared
        spaced = np.geomspace(1, last, MAX_POINTS).round().astype(int)
        ranks = sorted(set(spaced.tolist()))
    at = [calibration]
    at += [calibration.with_rate(rank / units) for rank in ranks if rank < units]
    by_threshold = {point.score_threshold: point for point in reversed(at)}  # the calibration's own wins
    good, bad = scores[~anomalous], scores[anomalous]
    points = [
        _point(by_threshold[limit], good, bad) | {"now": by_threshold[limit] is calibration}
        for limit in sorted(by_threshold, reverse=True)
    ]
    return points if len(points) > 1 else []


def _point(calibration: Calibration, good: Array, bad: Array) -> Json:
    """Return the effect of a calibration's threshold on the test pictures.

    In the result, `rate` is the promised share of good parts above the threshold, None without a promise, and
    `option` the argument that sets the threshold. Intervals hold 95 %.

    Args:
        calibration: The calibration.
        good: Scores of the good test pictures.
        bad: Scores of the defective test pictures.
    """
    rate = calibration.expected_rate
    threshold = calibration.score_threshold
    missed = int((bad <= threshold).sum())
    alarms = int((good > threshold).sum())
    missed_range = metrics.confidence_interval_rate(missed, bad.size) if bad.size else None
    alarm_range = metrics.confidence_interval_rate(alarms, good.size) if good.size else None
    rounded_rate = np.ceil(1e5 * rate - 1e-6) / 1e3  # %
    return {
        "rate": rate if calibration.promised else None,
        "rate_text": percent(rate),
        "threshold": threshold,
        "option": f"--false-alarm-rate {rounded_rate:g}%",
        "missed": missed,
        "defective": bad.size,
        "missed_interval": _interval_text(missed_range),
        "alarms": alarms,
        "good": good.size,
        "alarm_interval": _interval_text(alarm_range),
        "alarm_range": alarm_range,
    }


def _interval_text(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else range_text(*interval)


def step_path(shares: Sequence[float]) -> str:
    """SVG path of shares 0..1 over the slider's positions, in a square of 100, 0 at the bottom."""
    xs = np.linspace(0, 100, len(shares))
    return "M" + "L".join(f"{x:.2f} {100 - 100 * y:.2f}" for x, y in zip(xs, shares, strict=True))
