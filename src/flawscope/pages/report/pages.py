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

LISTED = "listed without its picture"  # reason why a picture is not shown
MAX_PAIRS = 48  # pairs of near-duplicates that are shown
PREDICTION_SECTIONS = [("pictures", "Pictures"), ("meaning", "How to read it"), ("run", "Run")]
MAX_ROWS = 2000  # pictures that are listed; the table has all


def predictions_page(
    table: Sequence[ResultRow],
    predictions: Sequence[Prediction],
    facts: Facts,
    levels: Levels | None = None,
    step: ProgressCallback = ignore_progress,
    *,
    parts: Sequence[PartPrediction] = (),
) -> str:
    """Return the page of `predict --out`, with every input of the run.

    Args:
        table: Rows of all inputs.
        predictions: Predictions with their maps, most severe first; only the pictures of these are shown.
        facts: Facts of the run, as in `results.json`.
        levels: Levels of pictures with more than 8 bits (`Preprocess.levels`).
        step: Called with the progress.
        parts: Predictions of parts, if the model decides on parts.

    Raises:
        InputError: Pillow cannot write WebP.
    """
    require_libraries(plots=False)
    judged = [row for row in table if not row.error]
    judged.sort(key=lambda row: -(row.severity or 0.0))
    rows = judged[:MAX_ROWS]
    entries = _row_entries(rows, predictions, levels, step)
    cards = _part_cards(parts, rows)
    decisions = Counter(row.decision for row in judged)
    tolerated = decisions[WITHIN] if "tolerances" in facts else None
    unjudged = [printable(row.error) for row in table if row.error]
    sections = [("parts", "Parts"), *PREDICTION_SECTIONS] if parts else PREDICTION_SECTIONS
    return render(
        "predictions.html.j2",
        entries,
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
        rows=entries,
        left_out=sum(entry["layers"] in (PAGE_FULL, LISTED) for entry in entries),
        more=len(judged) - len(rows),
        scale=colour_scale(predictions[0].levels) if predictions else None,
        facts=_run_facts(facts),
    )


def _title(facts: Facts) -> str:
    """Return the title of a run's page: product and method."""
    names = [str(facts[key]) for key in ("category", "method") if facts.get(key)]
    return printable(": ".join(names)) or "Pictures"


def _expected_rate(facts: Facts) -> str:
    """Return the expected false-alarm rate as text."""
    return percent(facts["expected_rate"]) if facts.get("promised", True) else "not known"


def _row_entries(
    rows: Sequence[ResultRow],
    predictions: Sequence[Prediction],
    levels: Levels | None,
    step: ProgressCallback,
) -> list[Json]:
    """Return the entries of the listed rows; only rows with a prediction show their picture."""
    prediction_by_path = {str(prediction.path): prediction for prediction in predictions}
    paths = [row.path for row in rows if row.path in prediction_by_path]
    pictures = []
    for path in paths:
        item = Item(Path(path), kind="", anomalous=False)  # kind and truth are not known
        pictures.append(EvaluatedPicture(item, prediction_by_path[path], truth=None))
    all_layers = thumbnails(pictures, range(len(pictures)), levels, step)
    layers_by_path = dict(zip(paths, all_layers, strict=True))
    root = _common_folder([row.path for row in rows])
    entries = []
    for row in rows:
        prediction = prediction_by_path.get(row.path)
        entries.append(_row_entry(row, root, prediction, layers_by_path.get(row.path, LISTED)))
    return entries


def _part_cards(parts: Sequence[PartPrediction], rows: Sequence[ResultRow]) -> list[Json]:
    """Return the cards of parts, whose views link to the rows of the page."""
    index_by_path = {row.path: index for index, row in enumerate(rows)}
    return part_cards([(part, part.decision) for part in parts], index_by_path)


def _summary(judged: int, anomalous: int, tolerated: int | None, parts: Sequence[PartPrediction]) -> str:
    """Return the headline of a run.

    Args:
        judged: Number of judged pictures.
        anomalous: Number of anomalous pictures.
        tolerated: Number of pictures within tolerance; None: there are no tolerances.
        parts: Predictions of parts, if the model decides on parts; else empty.
    """
    text = f"{anomalous} of {pluralize(judged, 'picture')} anomalous"
    if tolerated is not None:
        text += f", {tolerated} within tolerance"
    if parts:
        anomalous_parts = sum(part.is_anomalous for part in parts)
        text = f"{anomalous_parts} of {pluralize(len(parts), 'part')} anomalous; {text}"
    return text


def _common_folder(paths: Sequence[str]) -> str:
    """Return the common folder of all paths; empty if there is none."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    try:
        return os.path.commonpath(folders)
    except ValueError:  # there are no paths, or they lie on several drives
        return ""


def _row_entry(row: ResultRow, root: str, prediction: Prediction | None, layers: Layers | str) -> Json:
    """Return the entry of a row.

    Args:
        row: The row.
        root: Folder to which the shown path is relative; empty: the whole path is shown.
        prediction: The picture's prediction; None: only the row is known.
        layers: Layers of the picture, or the reason why it has none.
    """
    severity = row.severity or 0.0
    p_value = row.p_value or 0.0
    score = row.score or 0.0
    name = row.path
    if root:
        name = Path(os.path.relpath(os.path.abspath(row.path), root)).as_posix()
    facts = [("Decision", row.decision)]
    if row.product:
        facts.append(("Product", printable(row.product)))
    facts += score_facts(severity, p_value, score)
    size = ""
    if prediction is not None:
        size = size_text(prediction)
        facts += pose_facts(prediction)
        facts += finding_facts(prediction)
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
    """Return the rows on a run, from the facts of its summary."""
    rows = [("made", time_text())]
    for key in ("model", "method", "category", "score_threshold", "mask_threshold", "seconds", "flawscope"):
        fact = facts.get(key)
        if fact:
            text = f"{fact:.4g}" if isinstance(fact, float) else str(fact)
            rows.append((key.replace("_", " "), printable(text)))
    if rules := facts.get("tolerances"):
        rows.append(("tolerances", printable(f"version {rules['version']}, SHA-256 {rules['sha256']}")))
    return rows


# ------------------------------------------------------------------------------------------ how data is read


def check_page(dataset: Dataset, report: CheckReport, alignment: Alignment | None = None) -> str:
    """Return the page of `data check --out`.

    The page shows a picture of each form in the data set, with the marked defects; the places of parts; and
    pairs of near-duplicates.

    Args:
        dataset: The data set.
        report: Result of the check.
        alignment: Places of the parts; None: they were not searched.

    Raises:
        InputError: Pillow cannot write WebP.
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
    drawings = []
    sections = [("forms", "Forms")]
    if alignment:
        drawings = [_card(name, picture, ("Part", words)) for picture, name, words in alignment.drawings()]
        sections.append(("alignment", "Alignment"))
    if pairs:
        sections.append(("copies", "Copies"))
    sections.append(("findings", "Findings"))
    picture_count = sum(count for *_, count in report.counts)
    return render(
        "check.html.j2",
        rows + drawings + pairs,
        ("pages.js",),
        title=printable(dataset.category),
        sections=sections,
        toggles=(TRUTH,),
        panels={"picture": ("Picture", ("photo", "truth"))},
        headline=f"{pluralize(picture_count, 'picture')} in {pluralize(len(rows), 'form')}",
        layout=report.layout,
        totals=report.totals,
        forms=rows,
        drawings=drawings,
        pairs=pairs,
        findings=[*map(printable, report.finding_lines())],
    )


def _near_duplicate_entries(report: CheckReport) -> list[Json]:
    """Return an entry for each pair of near-duplicates, which shows the two side by side."""
    root = Path(report.root)
    near_findings = [finding for finding in report.findings if finding.code.startswith("nearly")]
    entries = []
    for finding in near_findings[:MAX_PAIRS]:
        first = finding.subject
        second = finding.others[0]
        picture = _join_pictures([root / first, root / second])
        verdict = "unsure" if finding.code.endswith("unsure") else "one part"
        entries.append(_card(f"{first}, {second}", picture, fact=("Seems", verdict)))
    return entries


def _card(name: str, picture: NDArray[np.uint8], fact: tuple[str, str]) -> Json:
    """Return the entry of a picture [H, W, 3], with a fact on it: title and value."""
    height, width = picture.shape[:2]
    layers = {"photo": image_uri(picture, MAX_SIDE)}
    return {"name": printable(name), "size": f"{width} × {height}", "facts": [fact], "layers": layers}


def _join_pictures(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Return pictures side by side, [H, W, 3], all scaled to the smallest height among them."""
    pictures = []
    for path in paths:
        pixels, _ = first_group(path)
        pictures.append(Image.fromarray(to_eight_bits(pixels)))
    height = min(picture.height for picture in pictures)
    scaled = []
    for picture in pictures:
        width = max(1, round(picture.width * height / picture.height))
        scaled.append(np.asarray(picture.resize((width, height)).convert("RGB")))
    return np.concatenate(scaled, axis=1)
