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

MAX_WORST = 12  # mistakes that have a section of their own
MAX_NEAREST = 6  # pictures shown in place of mistakes, if there are none: those that were nearly mistakes
# Title and meaning of the curves, by the name of the plot
CURVES = {
    "roc": ("ROC", "Defects found against false alarms, for every threshold; the upper left is perfect."),
    "pr": ("Precision and recall", "How much of what is called anomalous is, against how much is found."),
    "pro": ("PRO", "How much of each defect's area is marked, against the good area marked with it."),
}
# Forms of a picture on the page: the title, and the layers that lie over each other
PANELS = {
    "picture": ("Picture", ("photo",)),
    "found": ("Found", ("photo", "heat", "line", "truth")),
    "map": ("Map", ("map",)),
}
# Layers that can be switched off: the layer, its title, and the key that switches it
HEAT = ("heat", "Heat", "h")
LINE = ("line", "Outline", "o")
TRUTH = ("truth", "Ground truth", "g")
COLOUR_STEP = 17  # every 17th of the 256 colours, 16 in all, makes the gradient beside the scale
MAX_POINTS = 200  # positions of the slider
MAX_RATE = 0.5  # largest false-alarm rate of the slider: nobody inspects with more
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
        figures: Figures of the evaluation.
        facts: Facts on model and run (`words.collect_facts`).
        layers: For each of `figures.rows`, the layers of the picture, or the reason why there are none.
        manifest: Manifest of the model.
    """
    from markupsafe import Markup

    calibration = manifest.calibration
    scores = np.array([row["score"] for row in figures.rows])
    truth = np.array([row["anomalous"] for row in figures.rows])
    # the slider moves the threshold of pictures; a model that decides on parts has another limit
    points = [] if result.parts else operating_points(scores, truth, calibration)
    curves = []
    for name, (title, meaning) in CURVES.items():
        if name in figures.plots:
            curves.append((title, meaning, Markup(figures.plots[name])))
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
        figures=figures,
        facts=facts,
        named=manifest.kinds,
        curves=curves,
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
    """Return an entry for each picture: its row, and as `layers` its layers or the reason for having none."""
    return [
        row | {"layers": picture_layers} for row, picture_layers in zip(figures.rows, layers, strict=True)
    ]


def _sections(figures: Figures, points: Sequence[Json]) -> list[tuple[str, str]]:
    """Return name and title of each section of the page; sections that would be empty are left out."""
    content = {"rate": points, "parts": figures.parts, "alignment": figures.alignment}
    sections = []
    for name in SECTIONS:
        if name in content and not content[name]:
            continue
        sections.append((name, "Alarms" if name == "rate" else name.capitalize()))
    return sections


def _present_point(points: Sequence[Json]) -> int:
    """Return the index of the point that has the model's present threshold; 0 if there are no points."""
    return next((index for index, point in enumerate(points) if point["now"]), 0)


def _shares(points: Sequence[Json], count_key: str, total_key: str) -> list[float]:
    """Return for each point the share of pictures that its threshold judges wrongly.

    Args:
        points: The points.
        count_key: Key of the number of pictures judged wrongly.
        total_key: Key of the number of all pictures.
    """
    return [point[count_key] / max(point[total_key], 1) for point in points]


def colour_scale(levels: Calibration | ScoreLevels) -> dict[str, float]:
    """Return the map values at both ends of the colours and in the middle."""
    low, high = levels.colour_range
    return {"low": low, "middle": levels.mask_threshold, "high": high}


def render(template: str, pictures: Sequence[Json], scripts: Sequence[str], **context: object) -> str:
    """Render a page from a template that extends `base.html.j2`; all text is escaped.

    Args:
        template: File name of the template.
        pictures: Entries of the pictures. Each has name, size, facts, and its layers or the reason why it has
            none, and further keys by which the page sorts and filters.
        scripts: Files that are joined to the page's script.
        context: Values of the template; title, sections, toggles and panels are required.
    """
    from markupsafe import Markup

    script = "\n".join(map(read_asset, scripts))
    environment = html.environment(read_asset)
    environment.globals |= {"rates": range_text, "count": pluralize, "percent": percent}
    script_digest = hashlib.sha256(script.encode()).digest()
    colours = [f"rgb({red} {green} {blue})" for red, green, blue in drawing.colour_table()[::COLOUR_STEP]]
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
    """Return the slider's points: thresholds with their effect on the test pictures, fewest alarms first.

    Each threshold is one of the largest calibration scores. If there is only one, no points are returned.

    Args:
        scores: Scores of the test pictures.
        anomalous: Whether each test picture is defective.
        calibration: Calibration of the model.
    """
    # with the k-th largest of n calibration scores as threshold, the false-alarm rate is k / (n + 1)
    denominator = calibration.unit_count + 1
    last_rank = max(1, int(MAX_RATE * denominator))
    ranks: Sequence[int] = range(1, last_rank + 1)
    if last_rank > MAX_POINTS:  # spaced evenly on a logarithmic scale, on which people compare rates
        spaced = np.geomspace(1, last_rank, MAX_POINTS).round().astype(int)
        ranks = sorted(set(spaced.tolist()))
    calibration_by_threshold: dict[float, Calibration] = {}
    for rank in reversed(ranks):  # the lowest rate comes last, and stays where thresholds are equal
        if rank < denominator:
            changed_calibration = calibration.with_rate(rank / denominator)
            calibration_by_threshold[changed_calibration.score_threshold] = changed_calibration
    # the model's own threshold replaces an equal one of another rate
    calibration_by_threshold[calibration.score_threshold] = calibration
    good_scores = scores[~anomalous]
    bad_scores = scores[anomalous]
    points = []
    for threshold in sorted(calibration_by_threshold, reverse=True):
        point = _point(calibration_by_threshold[threshold], good_scores, bad_scores)
        point["now"] = threshold == calibration.score_threshold
        points.append(point)
    return points if len(points) > 1 else []


def _point(calibration: Calibration, good: Array, bad: Array) -> Json:
    """Return the effect of a calibration's threshold on the test pictures.

    In the result, `rate` is the expected share of good parts above the threshold; None: no rate is promised.
    `option` is the argument of the command line that sets the threshold. Intervals are of 95 %.

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
    # The percentage is rounded up to three decimals, so that the option never gives a lower rate. Without
    # 1e-6, floating-point errors would round up a percentage that has three decimals already.
    rounded_percentage = np.ceil(1e5 * rate - 1e-6) / 1e3
    return {
        "rate": rate if calibration.promised else None,
        "rate_text": percent(rate),
        "threshold": threshold,
        "option": f"--false-alarm-rate {rounded_percentage:g}%",
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
    """Return the SVG path of shares 0..1 over the slider's positions.

    The path fills a square with sides of 100; a share of 0 is at the bottom.
    """
    xs = np.linspace(0, 100, len(shares))
    points = [f"{x:.2f} {100 - 100 * share:.2f}" for x, share in zip(xs, shares, strict=True)]
    return "M" + "L".join(points)
