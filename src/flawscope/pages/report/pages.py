"""Renders the pages beside the report: of `predict --out`, and of `data check`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.datasets import Dataset, Item
from flawscope.datasets.check import CheckReport
from flawscope.errors import pluralize
from flawscope.evaluation.result import EvaluatedPicture
from flawscope.pages.report import require_libraries
from flawscope.pages.report.page import HEAT, LINE, PANELS, TRUTH, colour_scale, render
from flawscope.pages.report.thumbnails import (
    MAX_SIDE,
    PAGE_FULL,
    Layers,
    image_uri,
    thumbnails,
    truth_layers,
)
from flawscope.pages.report.words import (
    MAX_PARTS,
    finding_facts,
    part_cards,
    percent,
    pose_facts,
    score_facts,
    size_text,
    time_text,
)
from flawscope.pictures.channels import first_group
from flawscope.pictures.decoding import to_eight_bits
from flawscope.pictures.levels import Levels
from flawscope.pictures.listing import printable
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results.alignment import Alignment
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import WITHIN, Prediction
from flawscope.results.table import ResultRow

LISTED = "listed without its picture"  # why a picture is not shown
MAX_PAIRS = 48  # pairs of near-copies that are shown
MAX_ROWS = 2000  # pictures that are listed; the table has all


def predictions_page(
    table: Sequence[ResultRow],
    shown: Sequence[Prediction],
    facts: Mapping[str, Any],
    levels: Levels | None = None,
    step: ProgressCallback = ignore_progress,
    *,
    parts: Sequence[PartPrediction] = (),
) -> str:
    """The page of `predict --out`, of every input of the run. InputError: WebP is missing.

    Args:
        shown: predictions with their maps, most severe first; pictures of the others are not shown.
        facts: of the run, as in `results.json`.
        levels: of deep pictures (`Preprocess.levels`).
        parts: that were decided on, where the model decides on parts.
    """
    require_libraries(plots=False)
    judged = sorted((r for r in table if not r.error), key=lambda r: -(r.severity or 0.0))
    rows, maps = judged[:MAX_ROWS], {str(p.path): p for p in shown}
    wanted = [maps[row.path] for row in rows if row.path in maps]
    seen = [EvaluatedPicture(Item(Path(str(p.path)), "", False), p, None) for p in wanted]
    made = thumbnails(seen, range(len(seen)), levels, step)
    layers = dict(zip((str(p.path) for p in wanted), made, strict=True))
    common = _common_folder([row.path for row in rows])
    pictures = [_row_entry(row, common, maps.get(row.path), layers.get(row.path, LISTED)) for row in rows]
    cards = part_cards(((part, part.decision) for part in parts), {row.path: k for k, row in enumerate(rows)})
    anomalous, tolerated = (sum(row.decision == one for row in judged) for one in ("anomalous", WITHIN))
    within = f", {tolerated} within tolerance" if "tolerances" in facts else ""
    summary = f"{anomalous} of {pluralize(len(judged), 'picture')} anomalous{within}"
    if parts:
        anomalous_parts = sum(part.is_anomalous for part in parts)
        summary = f"{anomalous_parts} of {pluralize(len(parts), 'part')} anomalous; {summary}"
    some = next(iter(shown), None)
    return render(
        "predictions.html.j2",
        pictures,
        ("pages.js",),
        title=printable(": ".join(str(facts[k]) for k in ("category", "method") if facts.get(k)))
        or "Pictures",
        sections=(
            *((("parts", "Parts"),) if parts else ()),
            ("pictures", "Pictures"),
            ("meaning", "How to read it"),
            ("run", "Run"),
        ),
        toggles=(HEAT, LINE),
        panels=PANELS,
        headline=summary,
        part_cards=cards[:MAX_PARTS],
        all_parts=len(cards),
        warning=printable(str(facts.get("warning") or "")),
        anomalous=anomalous,
        tolerated=tolerated if "tolerances" in facts else None,
        judged=len(judged),
        unjudged=[printable(row.error) for row in table if row.error],
        expected=percent(facts["expected_rate"]) if facts.get("promised", True) else "not known",
        promise=printable(str(facts.get("promise", ""))),
        rows=pictures,
        left_out=sum(picture["layers"] in (PAGE_FULL, LISTED) for picture in pictures),
        more=len(judged) - len(rows),
        scale=colour_scale(some.levels) if some else None,
        facts=_run_facts(facts),
    )


def _common_folder(paths: Sequence[str]) -> str:
    """The folder that all paths have in common; empty where there is none."""
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    except ValueError:  # no path, or on several drives
        return ""


def _row_entry(row: ResultRow, common: str, found: Prediction | None, layers: Layers | str) -> dict[str, Any]:
    numbers = {key: getattr(row, key) or 0.0 for key in ("severity", "p_value", "score")}
    name = Path(os.path.relpath(os.path.abspath(row.path), common)).as_posix() if common else row.path
    size = size_text(found) if found else ""
    return {
        "name": printable(name),
        "verdict": row.decision,
        **numbers,
        "size": size,
        "facts": [
            ("Decision", row.decision),
            *([("Product", printable(row.product))] if row.product else []),
            *score_facts(**numbers),
            *([*pose_facts(found), *finding_facts(found)] if found else []),
            *([("Size", f"{size} pixels")] if size else []),
        ],
        "layers": layers,
    }


def _run_facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    keys = ("model", "method", "category", "score_threshold", "mask_threshold", "seconds", "flawscope")
    given = {key.replace("_", " "): facts[key] for key in keys if facts.get(key)}
    known = {key: f"{one:.4g}" if isinstance(one, float) else str(one) for key, one in given.items()}
    if rules := facts.get("tolerances"):
        known["tolerances"] = f"version {rules['version']}, SHA-256 {rules['sha256']}"
    return [("made", time_text()), *((key, printable(text)) for key, text in known.items())]


# ------------------------------------------------------------------------------------------ how data is read


def check_page(dataset: Dataset, report: CheckReport, aligned: Alignment | None = None) -> str:
    """The page of `data check --out`: a picture of each form that was met, with what is marked in it, and
    where parts are found. InputError: WebP is missing."""
    require_libraries(plots=False)
    rows: list[dict[str, Any]] = []
    for form in report.forms[:MAX_ROWS]:
        picture, _ = first_group(form.item.path)
        height, width = picture.shape[:2]
        size, name = f"{width} × {height}", printable(dataset.relative(form.item.path))
        facts = [("Pixels", form.pixels), ("Marked", form.marks), ("Such pictures", str(form.pictures))]
        layers, _ = truth_layers(picture, form.item.masks, MAX_SIDE, None)
        rows.append(
            {
                "name": name,
                "size": size,
                "facts": [*facts, ("Size", size)],
                "layers": layers,
                "rank": len(rows),
            }
        )
    pairs = []
    for finding in [one for one in report.findings if one.code.startswith("nearly")][:MAX_PAIRS]:
        drawn = _side_by_side([Path(report.root) / name for name in (finding.subject, finding.others[0])])
        seems = "unsure" if finding.code.endswith("unsure") else "one part"
        pairs.append(_card(f"{finding.subject}, {finding.others[0]}", drawn, ("Seems", seems)))
    found = aligned.drawings() if aligned else ()
    drawings = [_card(name, drawn, ("Part", words)) for drawn, name, words in found]
    return render(
        "check.html.j2",
        rows + drawings + pairs,
        ("pages.js",),
        title=printable(dataset.category),
        sections=(
            ("forms", "Forms"),
            *((("alignment", "Alignment"),) if aligned else ()),
            *((("copies", "Copies"),) if pairs else ()),
            ("findings", "Findings"),
        ),
        toggles=(TRUTH,),
        panels={"picture": ("Picture", ("photo", "truth"))},
        headline=f"{pluralize(sum(count for *_, count in report.counts), 'picture')} in "
        f"{pluralize(len(rows), 'form')}",
        layout=report.layout,
        totals=report.totals,
        forms=rows,
        drawings=drawings,
        pairs=pairs,
        findings=[*map(printable, report.finding_lines())],
    )


def _card(name: str, drawn: NDArray[np.uint8], fact: tuple[str, str]) -> dict[str, Any]:
    """Entry of a drawn picture, with a fact on it."""
    size, layers = f"{drawn.shape[1]} × {drawn.shape[0]}", {"photo": image_uri(drawn, MAX_SIDE)}
    return {"name": printable(name), "size": size, "facts": [fact], "layers": layers}


def _side_by_side(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Two pictures beside each other, [H, W, 3], in the height of the lower one."""
    shown = [Image.fromarray(to_eight_bits(first_group(path)[0])) for path in paths]
    height = min(one.height for one in shown)
    scaled = [one.resize((max(1, round(one.width * height / one.height)), height)) for one in shown]
    return np.concatenate([np.asarray(one.convert("RGB")) for one in scaled], axis=1)
