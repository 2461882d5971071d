"""Writes the report of an evaluation and the pages of other runs.

Each page is a single HTML file that opens from disk and holds its figures and pictures. matplotlib and Jinja2
are loaded only when a page is written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.pages.report.libraries import require_libraries as require_libraries
from flawscope.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.evaluation.result import Evaluation
    from flawscope.predictor import Predictor

REPORT_NAME = "report.html"

__all__ = ["REPORT_NAME", "require_libraries", "write_page", "write_report"]


def write_report(
    path: str | os.PathLike[str],
    result: Evaluation,
    predictor: Predictor,
    dataset: Dataset,
    *,
    model: str = "",
    step: ProgressCallback = ignore_progress,
) -> Path:
    """Write the report of `evaluate(predictor, dataset)` to `path`, atomically, and return it.

    Args:
        path: Path of the HTML file.
        result: The evaluation.
        predictor: The model that was evaluated.
        dataset: The data set that it was evaluated on.
        model: Name of the model file, for the report.
        step: Gets the progress.

    Raises:
        InputError: matplotlib or WebP is missing.
        FlawscopeError: The file cannot be written.
    """
    require_libraries()
    from flawscope.pages.report.collect import compute_figures
    from flawscope.pages.report.page import evaluation_page
    from flawscope.pages.report.thumbnails import thumbnails
    from flawscope.pages.report.words import collect_facts

    manifest = predictor.manifest
    figures = compute_figures(result, predictor.calibration, dataset, manifest.preprocess.reference)
    layers = thumbnails(result.pictures, figures.worst_first, manifest.preprocess.levels, step)
    about = collect_facts(result, manifest, dataset, predictor.session.runtime, model)
    return write_page(path, evaluation_page(result, figures, about, layers, manifest))


def write_page(path: str | os.PathLike[str], text: str) -> Path:
    """Write a page to `path`, atomically, and return the path. FlawscopeError: it cannot be written."""
    from flawscope.artefact.files import atomic_write

    with atomic_write(path) as file:
        file.write(text.encode())
    return Path(path)
