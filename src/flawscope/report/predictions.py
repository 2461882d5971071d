"""The page of `predict --out`: pictures by their severity, without ground truth."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flawscope.datasets import Item
from flawscope.datasets.files import printable
from flawscope.progress import Step, counted, silent
from flawscope.report import require
from flawscope.report.page import HEAT, LINE, VIEWS, drawn, figures_of, render, scale_of
from flawscope.report.thumbnails import FULL, Layers, thumbnails
from flawscope.report.words import percent, size_of
from flawscope.results.evaluation_cache import Evaluated
from flawscope.results.prediction import Prediction
from flawscope.results.table import Row

LISTED = "listed without its picture"  # why a picture is not shown
MOST_ROWS = 2000  # that are listed; the table has all
PARTS = (("pictures", "Pictures"), ("meaning", "How to read it"), ("run", "Run"))


def predictions_page(
    table: Sequence[Row],
    shown: Sequence[Prediction],
    facts: Mapping[str, Any],
    white: float | None = None,
    step: Step = silent,
) -> str:
    """The page of `predict --out`.

    Args:
        table: every input of the run. shown: predictions with their maps, most severe first; pictures of the
            others are not shown.
        facts: of the run, as in `results.json`.
        white: the level of a deep picture that is shown white (`Preprocess.white_level`).

    Raises:
        InputError: Jinja2 or WebP is missing.
    """
    require(plots=False)
    judged = sorted((r for r in table if not r.error), key=lambda r: -(r.severity or 0.0))
    rows, maps = judged[:MOST_ROWS], {str(p.path): p for p in shown}
    names = _names([row.path for row in rows])
    layers = _layers([maps.get(row.path) for row in rows], white, step)
    pictures = [
        _picture(row, names[row.path], maps.get(row.path), made)
        for row, made in zip(rows, layers, strict=True)
    ]
    anomalous = sum(row.decision == "anomalous" for row in judged)
    some = next(iter(shown), None)
    return render(
        "predictions.html.j2",
        pictures,
        ("pages.js",),
        title=printable(": ".join(str(facts[k]) for k in ("category", "method") if facts.get(k)))
        or "Pictures",
        parts=PARTS,
        toggles=(HEAT, LINE),
        views=VIEWS,
        headline=f"{anomalous} of {counted(len(judged), 'picture')} anomalous",
        warning=printable(str(facts.get("warning") or "")),
        anomalous=anomalous,
        judged=len(judged),
        unjudged=[printable(row.error) for row in table if row.error],
        expected=percent(facts["expected_rate"]) if facts.get("promised", True) else "not known",
        promise=printable(str(facts.get("promise", ""))),
        rows=pictures,
        left_out=layers.count(FULL) + layers.count(LISTED),
        more=len(judged) - len(rows),
        scale=scale_of(some) if some else None,
        facts=_facts(facts),
    )


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Paths without the folder that all have in common."""
    try:
        common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    except ValueError:  # none, or on several drives
        return {path: printable(path) for path in paths}
    return {
        path: printable(Path(os.path.relpath(os.path.abspath(path), common)).as_posix()) for path in paths
    }


def _layers(predictions: Sequence[Prediction | None], white: float | None, step: Step) -> list[Layers | str]:
    """The layers of every row, or why there are none."""
    places = [k for k, prediction in enumerate(predictions) if prediction]
    seen = [Evaluated(Item(Path(str(p.path)), "", False), p, None) for p in predictions if p]
    found: list[Layers | str] = [LISTED] * len(predictions)
    for place, layers in zip(places, thumbnails(seen, range(len(seen)), white, step), strict=True):
        found[place] = layers
    return found


def _picture(row: Row, name: str, found: Prediction | None, layers: Layers | str) -> dict[str, Any]:
    """A judged picture as the page lists it."""
    severity, p_value, score = row.severity or 0.0, row.p_value or 0.0, row.score or 0.0
    size = size_of(found) if found else ""
    facts = [("Decision", row.decision), *figures_of(severity, p_value, score)]
    numbers = {"severity": severity, "p_value": p_value, "score": score, "size": size}
    facts += [("Size", f"{size} pixels")] if size else []
    return {"name": name, "verdict": row.decision, **numbers, "facts": facts, "layers": drawn(layers)}


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    made = ("made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
    keys = ("model", "method", "category", "score_threshold", "mask_threshold", "seconds", "flawscope")
    return [made, *((key.replace("_", " "), printable(str(facts[key]))) for key in keys if facts.get(key))]
