"""Makes a candidate for the next version of a model that is in use, from what people said of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flawscope.artefact import model_file
from flawscope.artefact.files import TRAINED_SUFFIX
from flawscope.artefact.judgement import Judgement
from flawscope.errors import InputError
from flawscope.export.export import export
from flawscope.fitting.incremental_update import (
    RECALIBRATED,
    choose_way,
    open_fitted_dataset,
    update,
)
from flawscope.fitting.update_evaluation import ReviewedPicture
from flawscope.methods.threads import reuse_freed_memory, set_thread_count
from flawscope.predictor import Predictor
from flawscope.progress import ProgressCallback, ignore_progress


def make_candidate(
    active: str,
    trained: str | None,
    out: str,
    *,
    how: str,
    pictures: Sequence[Mapping[str, Any]],
    good: str | None,
    engine: str | None,
    device: str,
    threads: int,
    step: ProgressCallback = ignore_progress,
) -> Judgement:
    """Writes a candidate's model file, and returns its judgement.

    Args:
        active: file of the model in use; its rate holds for the candidate.
        trained: file of the trained model that it was exported from; None: the same.
        out: file of the candidate, exported where its suffix says so.
        how: as `update` takes it.
        pictures: each with the fields of `ReviewedPicture`.
        good: folder of the pictures that the model was fitted on; None: it extends without them.

    Raises:
        InputError: no candidate can be made.
    """
    set_thread_count(threads)
    reuse_freed_memory()
    in_use = Predictor.opened(active, engine, device, threads)
    old = in_use.artefact if trained in (None, active) else model_file.read(trained)
    file = Path(out)
    _check_suffix(file, choose_way(how, old), in_use)
    calibration = replace(
        old.manifest.calibration, **in_use.calibration.chosen
    )  # as people chose it meanwhile
    old = replace(old, manifest=replace(old.manifest, calibration=calibration))
    made = update(
        old,
        in_use,
        [ReviewedPicture(**one) for one in pictures],
        how=how,
        good=open_fitted_dataset(good, old) if good else None,
        device=device,
        step=step,
    )
    predictor = made.predictor
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == predictor.session.suffix:
        predictor.save(file)
    else:
        step("export", 0, 1)
        export(predictor.artefact, file)
    return made.judgement()


def _check_suffix(file: Path, how: str, in_use: Predictor) -> None:
    """Checks that a candidate can be written as this file. InputError, before the work, where it would have
    to be exported in a reduced precision."""
    made_as = in_use.session.suffix if how == RECALIBRATED else TRAINED_SUFFIX
    precision = in_use.calibration.precision
    if file.suffix != made_as and precision != "fp32":
        raise InputError(
            f"the active version is of {precision}, which is calibrated apart from the trained model: use a "
            "version of fp32, or export by hand"
        )
