"""Writes the report of an evaluation and the pages of other runs: each one HTML file that opens from disk,
with its figures and its pictures.

matplotlib and Jinja2 are loaded when a report is written, and only then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flawscope.errors import InputError, require_installed
from flawscope.progress import Step, silent

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.calibration.threshold import Calibration
    from flawscope.datasets import Dataset
    from flawscope.evaluation import Evaluation

NAME = "report.html"


class _Session(Protocol):
    runtime: str


class Model(Protocol):
    """Parts of a `Predictor` that a report describes."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def calibration(self) -> Calibration: ...
    @property
    def session(self) -> _Session: ...


__all__ = [
    "NAME",
    "require",
    "write",
    "write_report",
]


def require(*, plots: bool = True) -> None:
    """InputError where a library that a page needs is not installed. plots: the page has curves."""
    from PIL import features

    wanted = ("matplotlib", "jinja2") if plots else ("jinja2",)
    require_installed("a report", *wanted, extras="report")
    if not features.check("webp"):
        raise InputError("a report needs a Pillow with WebP: pip install --force-reinstall pillow")


def write_report(
    path: str | os.PathLike[str],
    result: Evaluation,
    predictor: Model,
    dataset: Dataset,
    *,
    model: str = "",
    step: Step = silent,
) -> Path:
    """Writes the report of `evaluate(predictor, dataset)` to `path`, atomically, and returns it.

    Args:
        model: the model file's name, as the report shows it.

    Raises:
        InputError: matplotlib, Jinja2 or WebP is missing.
        FlawscopeError: the file cannot be written.
    """
    require()
    from flawscope.pictures.listing import printable
    from flawscope.report.collect import figures
    from flawscope.report.page import page
    from flawscope.report.plots import loss_plot
    from flawscope.report.thumbnails import thumbnails
    from flawscope.report.words import facts, sentences

    calibration = predictor.calibration
    found = figures(result, calibration, dataset)
    text = page(
        title=printable(f"{dataset.category}: {result.method}"),
        found=found,
        summary=[
            *sentences(found.tally, calibration, result.without_mask),
            *filter(None, [result.outside()]),
        ],
        facts=facts(result, predictor.manifest, dataset, predictor.session.runtime, model),
        thumbnails=thumbnails(
            result.pictures, found.by_margin, predictor.manifest.preprocess.white_level, step
        ),
        calibration=calibration,
        mismatch=result.mismatch,
        losses=loss_plot("losses", _curve(predictor.manifest.facts)),
    )
    return write(path, text)


def write(path: str | os.PathLike[str], text: str) -> Path:
    """Writes a page to `path`, atomically, and returns it. FlawscopeError: it cannot be written."""
    from flawscope.artefact.files import atomic

    with atomic(path) as file:
        file.write(text.encode())
    return Path(path)


def _curve(facts: Mapping[str, Any]) -> Sequence[Any]:
    """Losses of a training: the whole loss in up to 200 points, where there are any, and its parts in a
    few."""
    coarse, fine = facts.get("curve"), facts.get("training_curve")
    parts = coarse if isinstance(coarse, list) else []
    steps, losses = (fine.get("step"), fine.get("loss")) if isinstance(fine, dict) else (None, None)
    if not (isinstance(steps, list) and isinstance(losses, list)):
        return parts
    whole = [{"step": step, "loss": loss} for step, loss in zip(steps, losses, strict=False)]
    known = [one for one in parts if isinstance(one, dict)]
    return whole + [{key: value for key, value in one.items() if key != "loss"} for one in known]
