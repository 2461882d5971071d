"""The report of an evaluation: one HTML file that opens from disk, with every figure and every picture.

matplotlib and Jinja2 are loaded when a report is written, and only then.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flawscope.errors import InputError
from flawscope.progress import Step, silent

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.evaluation import Evaluation
    from flawscope.predictor import Predictor

NAME = "report.html"

__all__ = ["NAME", "require", "write_report"]


def require() -> None:
    """Raises InputError where something that the report needs is not installed."""
    from PIL import features

    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"a report needs {' and '.join(missing)}: pip install 'flawscope[report]'")
    if not features.check("webp"):
        raise InputError("a report needs a Pillow with WebP: pip install --force-reinstall pillow")


def write_report(
    path: str | os.PathLike[str],
    result: Evaluation,
    predictor: Predictor,
    dataset: Dataset,
    *,
    model: str = "",
    step: Step = silent,
) -> Path:
    """Write the report of `evaluate(predictor, dataset)` to `path`, atomically, and return it.

    Args:
        model: the model file's name, as the report shows it.

    Raises:
        InputError: matplotlib, Jinja2 or WebP is missing.
        FlawscopeError: the file cannot be written.
    """
    require()
    from flawscope.artefact.files import atomic
    from flawscope.report.collect import figures
    from flawscope.report.facts import facts
    from flawscope.report.page import page
    from flawscope.report.plots import loss_plot
    from flawscope.report.thumbnails import thumbnails
    from flawscope.report.words import printable, sentences

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
    with atomic(path) as file:
        file.write(text.encode())
    return Path(path)


def _curve(facts: Mapping[str, Any]) -> Sequence[Any]:
    """The losses that a model which was trained keeps."""
    curve = facts.get("curve")
    return curve if isinstance(curve, list) else ()
