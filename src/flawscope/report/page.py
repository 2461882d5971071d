"""Renders pages, each in one file with style and script; and the page of an evaluation."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from flawscope import metrics
from flawscope.calibration.threshold import Calibration
from flawscope.errors import pluralize
from flawscope.report.thumbnails import FULL
from flawscope.report.words import headline, percent, rates
from flawscope.results import drawing, html

if TYPE_CHECKING:
    from flawscope.report.collect import Figures, Row
    from flawscope.report.thumbnails import Layers
    from flawscope.report.words import Facts
    from flawscope.results.prediction import Prediction

WORST = 12  # mistakes that are shown by themselves
NEAREST = 6  # pictures that are shown in their place where there are none
CURVES = {  # name of the plot -> title, and its meaning
    "roc": ("ROC", "Defects found against false alarms, for every threshold; the upper left is perfect."),
    "pr": ("Precision and recall", "How much of what is called anomalous is, against how much is found."),
    "pro": ("PRO", "How much of each defect's area is marked, against the good area marked with it."),
}
# What a picture is shown as: the name, and the layers that lie over each other
VIEWS = {
    "picture": ("Picture", ("photo",)),
    "found": ("Found", ("photo", "heat", "line", "truth")),
    "map": ("Map", ("map",)),
}
# Layers that can be switched off: the name, and the key that does it
HEAT, LINE, TRUTH = ("heat", "Heat", "h"), ("line", "Outline", "o"), ("truth", "Ground truth", "g")
MOST_POINTS = 200  # positions of the slider
MOST_RATE = 0.5  # beyond it nobody inspects
PARTS = {
    "mistakes": "Mistakes",
    "meaning": "Meaning",
    "rate": "Alarms",
    "metrics": "Metrics",
    "curves": "Curves",
    "types": "Types",
    "pictures": "Pictures",
    "run": "Run",
}


def page(
    title: str,
    found: Figures,
    summary: list[str],
    facts: Facts,
    thumbnails: list[Layers | str],
    calibration: Calibration,
    *,
    mismatch: str = "",
    losses: str = "",
) -> str:
    """Renders the whole page. All text is escaped. thumbnails: in the order of `found.rows`, layers or the
    reason why there are none. losses: plot of a training, if there was one."""
    from markupsafe import Markup

    pictures = [_picture(row, layers) for row, layers in zip(found.rows, thumbnails, strict=True)]
    points = operating_points(found.rows, calibration)
    parts = {name: title for name, title in PARTS.items() if name != "rate" or points}
    return render(
        "report.html.j2",
        pictures,
        ("pages.js", "rates.js"),
        title=title,
        parts=list(parts.items()),
        toggles=(HEAT, LINE, TRUTH),
        views=VIEWS,
        headline=headline(found.tally),
        summary=summary,
        mismatch=mismatch,
        found=found,
        facts=facts,
        curves=[(*CURVES[name], Markup(found.plots[name])) for name in CURVES if name in found.plots],
        histogram=Markup(found.plots["scores"]),
        losses=Markup(losses),
        worst=found.mistakes[:WORST] or found.by_margin[:NEAREST],
        left_out=thumbnails.count(FULL),
        kinds=list(dict.fromkeys(row.kind for row in found.rows)),
        points=points,
        points_json=json.dumps([asdict(point) for point in points], allow_nan=False),
        point_now=next((k for k, point in enumerate(points) if point.now), 0),
        missed_path=step_path([point.missed_share for point in points]),
        alarms_path=step_path([point.alarm_share for point in points]),
        promised=_promised(calibration),
        scale=scale_of(calibration),
    )


def _promised(calibration: Calibration) -> str:
    if not calibration.promised:
        return f"{calibration.no_promise()[:1].upper()}{calibration.no_promise()[1:]}."
    return (
        f"The rate is what {pluralize(calibration.count, 'good picture')} of the calibration promise of good "
        "parts like them."
    )


def _picture(row: Row, layers: Layers | str) -> dict[str, Any]:
    truth = "defective" if row.anomalous else "good"
    facts = [
        ("Result", row.outcome),
        ("Decision", row.verdict),
        ("Type", truth if row.kind == truth else f"{row.kind} ({truth})"),
        *figures_of(row.severity, row.p_value, row.score),
        ("Regions outlined", str(row.regions)),
        ("Size", f"{row.size} pixels"),
    ]
    return {
        **asdict(row),
        "outcome": row.outcome,
        "verdict": row.verdict,
        "margin": row.margin,
        "facts": facts,
        "layers": drawn(layers),
    }


def figures_of(severity: float, p_value: float, score: float) -> list[tuple[str, str]]:
    """Severity, p-value and score of a picture, as every page shows them."""
    return [("Severity", f"{severity:+.1f}"), ("p-value", f"{p_value:.3f}"), ("Score", f"{score:.4g}")]


def drawn(layers: Layers | str) -> dict[str, str] | str:
    """Returns a picture's layers, or the reason why there are none."""
    return layers if isinstance(layers, str) else {k: v for k, v in asdict(layers).items() if v is not None}


def scale_of(known: Calibration | Prediction) -> dict[str, float]:
    """Map values at both ends of the colours and in the middle."""
    low, high = known.colour_range
    return {"low": low, "middle": known.mask_threshold, "high": high}


def render(template: str, pictures: Sequence[dict[str, Any]], scripts: Sequence[str], **context: Any) -> str:
    """Renders a page from a template that extends `base.html.j2`.

    Args:
        pictures: each with name, size, facts and layers; its other entries serve for sorting and filtering.
        scripts: files that become its one script.
        context: the template's values; title, parts, toggles and views in any case.
    """
    from markupsafe import Markup

    views = {key: (name, list(layers)) for key, (name, layers) in context.pop("views").items()}
    ramp = ", ".join("rgb({} {} {})".format(*drawing.colour_table()[k]) for k in range(0, 256, 17))
    script = "\n".join(map(text_of, scripts))
    found = _environment().get_template(template)
    text: str = found.render(
        style=Markup(text_of("pages.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        data=html.for_script(pictures),
        views=json.dumps(views),
        ramp=ramp,
        **context,
    )
    return text


def _environment() -> Any:
    made = html.environment(text_of)
    made.globals |= {"rates": rates, "count": pluralize, "percent": percent}
    return made


def text_of(name: str) -> str:
    """Text of a template, style or script in this folder."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------- other false-alarm rates


@dataclass(frozen=True)
class Point:
    """Threshold that a report offers, the k-th largest calibration score, and its effect on the test
    pictures.

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
    """Thresholds from the fewest alarms to the most; empty where there is only one."""
    ordered = np.sort(calibration.scores)[::-1]
    now = round(calibration.expected_rate * (calibration.count + 1))
    ranks = _ranks(max(now, int(MOST_RATE * (calibration.count + 1))), now, calibration.count)
    if len(ranks) < 2:
        return []
    good = np.array([row.score for row in rows if not row.anomalous])
    bad = np.array([row.score for row in rows if row.anomalous])
    return [_point(k, float(ordered[k - 1]), good, bad, calibration, k == now) for k in ranks]


def _ranks(last: int, now: int, count: int) -> list[int]:
    """Ranks 1..last; many of them thinned out evenly on a logarithmic scale, as rates are compared."""
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
    """SVG path of shares 0..1 over the slider's positions, in a square of 100, 0 at the bottom."""
    if len(shares) < 2:
        return ""
    xs = np.linspace(0, 100, len(shares))
    points = [f"{x:.2f} {100 - 100 * y:.2f}" for x, y in zip(xs, shares, strict=True)]
    return f"M{'L'.join(points)}"
