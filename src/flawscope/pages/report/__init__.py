"""Writes the report of an evaluation and the pages of other runs: each one HTML file that opens from disk,
with its figures and its pictures.

matplotlib and Jinja2 are loaded when a page is written, and only then.
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
    """Writes the report of `evaluate(predictor, dataset)` to `path`, atomically, and returns it.

    Args:
        model: the model file's name, as the report shows it.

    Raises:
        InputError: matplotlib or WebP is missing.
        FlawscopeError: the file cannot be written.
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
    """Writes a page to `path`, atomically, and returns it. FlawscopeError: it cannot be written."""
    from flawscope.artefact.files import atomic_write

    with atomic_write(path) as file:
        file.write(text.encode())
    return Path(path)
