"""The page of two models on the same pictures: differences, changed decisions, both maps side by side."""

from __future__ import annotations

from typing import Any

from flawscope.datasets.files import printable
from flawscope.evaluation.comparison import Comparison, Difference, Judged, described
from flawscope.progress import Step, silent
from flawscope.report import require
from flawscope.report.page import HEAT, LINE, TRUTH, drawn, render, scale_of
from flawscope.report.thumbnails import FULL, Layers, thumbnails
from flawscope.report.words import percent, size_of
from flawscope.results.prediction import Prediction, outcome

CARDS, NEAREST = 24, 6  # changed decisions that are shown by themselves; pictures in their place
VIEWS = {
    "picture": ("Picture", ("photo",)),
    "a": ("A", ("photo", "heat", "line", "truth")),
    "b": ("B", ("photo", "heat_b", "line_b", "truth")),
}
PARTS = (
    ("changed", "Changed"),
    ("differences", "Differences"),
    ("pictures", "Pictures"),
    ("run", "Models"),
)


def comparison_page(found: Comparison, step: Step = silent) -> str:
    """The page of two models on the same pictures. InputError: Jinja2 or WebP is missing."""
    require(plots=False)
    order = _order(found)
    first, second = found.evaluations
    white = found.predictors[0].manifest.preprocess.white_level
    layers = thumbnails(first.pictures, order, white, step, others=second.pictures)
    rank = {index: k for k, index in enumerate(order)}
    rows = [
        _picture(one, len(order) - rank[one.index], shown)
        for one, shown in zip(found.pictures, layers, strict=True)
    ]
    changed = [one.index for one in found.changed]
    return render(
        "comparison.html.j2",
        rows,
        ("pages.js",),
        title=printable(f"{first.category}: two models"),
        parts=PARTS,
        toggles=(HEAT, LINE, TRUTH),
        views=VIEWS,
        headline=_capital(found.sentence()),
        mismatches=[
            f"{which}: {e.mismatch}" for which, e in zip("AB", found.evaluations, strict=True) if e.mismatch
        ],
        models=[_model(found, k) for k in (0, 1)],
        rows=rows,
        order=order,
        changed=changed,
        cards=changed[:CARDS] or order[:NEAREST],
        differences=[_difference(one) for one in found.differences],
        kinds=list(dict.fromkeys(row["kind"] for row in rows)),
        left_out=layers.count(FULL),
        failures=[printable(line) for line in found.failures],
    )


def _order(found: Comparison) -> list[int]:
    """Indices of the pictures: decided differently first, then by how far the severities are apart."""
    changed = [one.index for one in found.changed]
    others = [one for one in found.pictures if not one.changed]
    others.sort(key=lambda one: -abs(one.a.severity - one.b.severity))
    return [*changed, *(one.index for one in others)]


def _picture(one: Judged, weight: int, layers: Layers | str) -> dict[str, Any]:
    """A picture with the decisions of both models; pictures are listed by falling `weight`."""

    def said(found: Prediction) -> str:
        numbers = f"severity {found.severity:+.1f}, p {found.p_value:.3f}, score {found.score:.4g}"
        return f"{found.decision}, {numbers}"

    kind, size = printable(one.item.kind), size_of(one.a)
    truth = "defective" if one.item.anomalous else "good"
    shown = kind if kind == truth else f"{kind} ({truth})"
    return {
        "name": printable(one.name.removeprefix("test/")),
        "kind": kind,
        "truth": truth,
        "changed": "differ" if one.changed else "agree",
        "outcome_a": outcome(one.item.anomalous, one.a.is_anomalous),
        "outcome_b": outcome(one.item.anomalous, one.b.is_anomalous),
        "severity_a": one.a.severity,
        "severity_b": one.b.severity,
        "weight": float(weight),
        "size": size,
        "facts": [("Type", shown), ("A", said(one.a)), ("B", said(one.b)), ("Size", f"{size} pixels")],
        "layers": drawn(layers),
    }


def _model(found: Comparison, which: int) -> dict[str, Any]:
    """The name of a model, what it found, and its facts."""
    predictor, letter = found.predictors[which], "ab"[which]
    values = {one.name: getattr(one, letter) for one in found.differences}

    def share(name: str) -> str:
        value = values.get(name)
        return "not measured" if value is None else percent(value)

    known = {key.replace("_", " "): value for key, value in described(predictor).items()}
    known["size"] = f"{known['size'][1]} × {known['size'][0]} pixels"
    return {
        "title": printable(f"{letter.upper()}: {found.names[which]}"),
        "found": share("defects_found"),
        "small": f"of defects found; {share('false_alarms')} false alarms",
        "scale": scale_of(predictor.calibration),
        "facts": [
            ("file", printable(found.names[which])),
            *(
                (key, printable(f"{value:.4g}" if isinstance(value, float) else str(value)))
                for key, value in known.items()
            ),
        ],
    }


def _difference(one: Difference) -> dict[str, str]:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else f"{value:{form}}"

    interval = "–" if one.interval is None else f"{one.interval[0]:+.3f} to {one.interval[1]:+.3f}"
    return {
        "label": one.label,
        "note": one.note,
        "a": number(one.a, ".4f"),
        "b": number(one.b, ".4f"),
        "apart": number(one.difference, "+.4f"),
        "interval": interval,
        "better": one.better.upper(),
    }


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
