"""Renders the pages beside the report: of `predict --out`, and of `data check`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.datasets import Dataset, Item
from flawscope.datasets.check import CheckReport
from flawscope.errors import pluralize
from flawscope.evaluation.result import EvaluatedPicture
from flawscope.pages.report.libraries import require_libraries
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
from flawscope.types import Facts, Json

LISTED = "listed without its picture"  # why a picture is not shown
MAX_PAIRS = 48  # pairs of near-duplicates that are shown
PREDICTION_SECTIONS = [("pictures", "Pictures"), ("meaning", "How to read it"), ("run", "Run")]
MAX_ROWS = 2000  # pictures that are listed; the table has all


def predictions_page(
    table: Sequence[ResultRow],
    shown: Sequence[Prediction],
    facts: Facts,
    levels: Levels | None = None,
    step: ProgressCallback = ignore_progress,
    *,
    parts: Sequence[PartPrediction] = (),
) -> str:
    """Return the page of `predict --out`, with every input of the run.

    Args:
        table: Rows of all inputs.
        shown: Predictions with their maps, most severe first; pictures of the other rows are not shown.
        facts: Facts of the run, like those in `results.json`.
        levels: Levels of deep pictures (`Preprocess.levels`).
        step: Gets the progress.
        parts: Predictions of parts, where the model decides on parts.

    Raises:
        InputError: WebP is missing.
    """
    require_libraries(plots=False)
    judged = sorted((row for row in table if not row.error), key=lambda row: -(row.severity or 0.0))
    rows = judged[:MAX_ROWS]
    pictures = _row_entries(rows, shown, levels, step)
    cards = _part_cards(parts, rows)
    decisions = Counter(row.decision for row in judged)
    tolerated = decisions[WITHIN] if "tolerances" in facts else None
    unjudged = [printable(row.error) for row in table if row.error]
    sections = [("parts", "Parts"), *PREDICTION_SECTIONS] if parts else PREDICTION_SECTIONS
    return render(
        "predictions.html.j2",
        pictures,
        ("pages.js",),
        title=_title(facts),
        sections=sections,
        toggles=(HEAT, LINE),
        panels=PANELS,
        headline=_summary(len(judged), decisions["anomalous"], tolerated, parts),
        part_cards=cards[:MAX_PARTS],
        all_parts=len(cards),
        warning=printable(str(facts.get("warning") or "")),
        anomalous=decisions["anomalous"],
        tolerated=tolerated,
        judged=len(judged),
        unjudged=unjudged,
        expected=_expected_rate(facts),
        promise=printable(str(facts.get("promise", ""))),
        rows=pictures,
        left_out=sum(picture["layers"] in (PAGE_FULL, LISTED) for picture in pictures),
        more=len(judged) - len(rows),
        scale=colour_scale(shown[0].levels) if shown else None,
        facts=_run_facts(facts),
    )


def _title(facts: Facts) -> str:
    names = [str(facts[key]) for key in ("category", "method") if facts.get(key)]
    return printable(": ".join(names)) or "Pictures"


def _expected_rate(facts: Facts) -> str:
    return percent(facts["expected_rate"]) if facts.get("promised", True) else "not known"


def _row_entries(
    rows: Sequence[ResultRow], shown: Sequence[Prediction], levels: Levels | None, step: ProgressCallback
) -> list[Json]:
    """Return the entries of the pictures that are listed; pictures that are shown have layers."""
    predictions = {str(prediction.path): prediction for prediction in shown}
    wanted = [predictions[row.path] for row in rows if row.path in predictions]
    seen = [
        EvaluatedPicture(Item(Path(str(prediction.path)), "", anomalous=False), prediction, truth=None)
        for prediction in wanted
    ]
    made = thumbnails(seen, range(len(seen)), levels, step)
    layers: dict[str, Layers | str] = {}
    for prediction, drawn in zip(wanted, made, strict=True):
        layers[str(prediction.path)] = drawn
    common = _common_folder([row.path for row in rows])
    entries = []
    for row in rows:
        entry = _row_entry(row, common, predictions.get(row.path), layers.get(row.path, LISTED))
        entries.append(entry)
    return entries


def _part_cards(parts: Sequence[PartPrediction], rows: Sequence[ResultRow]) -> list[Json]:
    places = {row.path: place for place, row in enumerate(rows)}
    return part_cards([(part, part.decision) for part in parts], places)


def _summary(judged: int, anomalous: int, tolerated: int | None, parts: Sequence[PartPrediction]) -> str:
    """Return the headline of a run.

    Args:
        judged: Number of judged pictures.
        anomalous: Number of anomalous pictures.
        tolerated: Number of pictures within tolerance; None: there are no tolerances.
        parts: Predictions of parts, where the model decides on parts.
    """
    text = f"{anomalous} of {pluralize(judged, 'picture')} anomalous"
    if tolerated is not None:
        text += f", {tolerated} within tolerance"
    if parts:
        anomalous_parts = sum(part.is_anomalous for part in parts)
        text = f"{anomalous_parts} of {pluralize(len(parts), 'part')} anomalous; {text}"
    return text


def _common_folder(paths: Sequence[str]) -> str:
    """Return the folder that all paths have in common; empty where there is none."""
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    except ValueError:  # no path, or on several drives
        return ""


def _row_entry(row: ResultRow, common: str, found: Prediction | None, layers: Layers | str) -> Json:
    severity = row.severity or 0.0
    p_value = row.p_value or 0.0
    score = row.score or 0.0
    name = row.path
    if common:
        name = Path(os.path.relpath(os.path.abspath(row.path), common)).as_posix()
    facts = [("Decision", row.decision)]
    if row.product:
        facts.append(("Product", printable(row.product)))
    facts += score_facts(severity, p_value, score)
    size = ""
    if found:
        size = size_text(found)
        facts += pose_facts(found)
        facts += finding_facts(found)
    if size:
        facts.append(("Size", f"{size} pixels"))
    return {
        "name": printable(name),
        "verdict": row.decision,
        "severity": severity,
        "p_value": p_value,
        "score": score,
        "size": size,
        "facts": facts,
        "layers": layers,
    }


def _run_facts(facts: Facts) -> list[tuple[str, str]]:
    keys = ("model", "method", "category", "score_threshold", "mask_threshold", "seconds", "flawscope")
    given = {key.replace("_", " "): facts[key] for key in keys if facts.get(key)}
    known = {key: f"{fact:.4g}" if isinstance(fact, float) else str(fact) for key, fact in given.items()}
    if rules := facts.get("tolerances"):
        known["tolerances"] = f"version {rules['version']}, SHA-256 {rules['sha256']}"
    return [("made", time_text()), *((key, printable(text)) for key, text in known.items())]


# ------------------------------------------------------------------------------------------ how data is read


def check_page(dataset: Dataset, report: CheckReport, aligned: Alignment | None = None) -> str:
    """Return the page of `data check --out`.

    It shows a picture of each form in the data set with its marked defects, and the places of parts.

    Args:
        dataset: The data set.
        report: Result of the check.
        aligned: Places of the parts; None: they were not looked for.

    Raises:
        InputError: WebP is missing.
    """
    require_libraries(plots=False)
    rows: list[Json] = []
    for form in report.forms[:MAX_ROWS]:
        picture, _ = first_group(form.item.path)
        height, width = picture.shape[:2]
        size = f"{width} × {height}"
        name = printable(dataset.relative(form.item.path))
        facts = [("Pixels", form.pixels), ("Marked", form.marks), ("Such pictures", str(form.pictures))]
        layers, _ = truth_layers(picture, form.item.masks, MAX_SIDE, levels=None)
        rows.append(
            {
                "name": name,
                "size": size,
                "facts": [*facts, ("Size", size)],
                "layers": layers,
                "rank": len(rows),
            }
        )
    pairs = _near_duplicate_entries(report)
    found = aligned.drawings() if aligned else ()
    drawings = [_card(name, drawn, ("Part", words)) for drawn, name, words in found]
    sections = [("forms", "Forms")]
    if aligned:
        sections.append(("alignment", "Alignment"))
    if pairs:
        sections.append(("copies", "Copies"))
    sections.append(("findings", "Findings"))
    pictures = sum(count for *_, count in report.counts)
    return render(
        "check.html.j2",
        rows + drawings + pairs,
        ("pages.js",),
        title=printable(dataset.category),
        sections=sections,
        toggles=(TRUTH,),
        panels={"picture": ("Picture", ("photo", "truth"))},
        headline=f"{pluralize(pictures, 'picture')} in {pluralize(len(rows), 'form')}",
        layout=report.layout,
        totals=report.totals,
        forms=rows,
        drawings=drawings,
        pairs=pairs,
        findings=[*map(printable, report.finding_lines())],
    )


def _near_duplicate_entries(report: CheckReport) -> list[Json]:
    """Return the entries of pairs of near-duplicates, side by side."""
    near = [finding for finding in report.findings if finding.code.startswith("nearly")]
    pairs = []
    for finding in near[:MAX_PAIRS]:
        first, second = finding.subject, finding.others[0]
        drawn = _side_by_side([Path(report.root) / first, Path(report.root) / second])
        seems = "unsure" if finding.code.endswith("unsure") else "one part"
        pairs.append(_card(f"{first}, {second}", drawn, ("Seems", seems)))
    return pairs


def _card(name: str, drawn: NDArray[np.uint8], fact: tuple[str, str]) -> Json:
    """Return the entry of a drawn picture [H, W, 3], with a fact about it."""
    size = f"{drawn.shape[1]} × {drawn.shape[0]}"
    layers = {"photo": image_uri(drawn, MAX_SIDE)}
    return {"name": printable(name), "size": size, "facts": [fact], "layers": layers}


def _side_by_side(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Return two pictures beside each other, [H, W, 3], at the height of the lower picture."""
    shown = [Image.fromarray(to_eight_bits(first_group(path)[0])) for path in paths]
    height = min(picture.height for picture in shown)
    scaled = [
        picture.resize((max(1, round(picture.width * height / picture.height)), height)) for picture in shown
    ]
    return np.concatenate([np.asarray(picture.convert("RGB")) for picture in scaled], axis=1)
