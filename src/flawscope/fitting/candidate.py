"""Makes a candidate for the next version of a model in use, from people's judgements of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flawscope.artefact.files import ARCHIVE_SUFFIX, TRAINED_SUFFIX
from flawscope.artefact.judgement import Judgement
from flawscope.artefact.model_facts import ONE
from flawscope.artefact.model_mapping import ModelMapping
from flawscope.errors import InputError
from flawscope.export.export import export
from flawscope.export.router_export import export_router
from flawscope.fitting.incremental_update import open_fitted_datasets, update_models
from flawscope.fitting.one_update import RECALIBRATED, choose_way
from flawscope.fitting.update_evaluation import ReviewedPicture
from flawscope.fitting.update_options import UpdateOptions
from flawscope.methods.threads import reuse_freed_memory, set_thread_count
from flawscope.predictor import Predictor, router
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
    """Write a candidate's model file, and return its judgement.

    Args:
        active: File of the model in use; its rate holds for the candidate.
        trained: File of the trained model that it was exported from; None: the same.
        out: File of the candidate, exported where its suffix says so.
        how: Way to make it, as `UpdateOptions.how`.
        pictures: Pictures, each with the fields of `ReviewedPicture`.
        good: Folder of the pictures that the model was fitted on; None: it extends without them.
        engine: Engine that runs the model in use; None: the default.
        device: Device, such as "cpu", "cuda" or "auto".
        threads: Number of threads to compute with.
        step: Gets progress.

    Raises:
        InputError: No candidate can be made.
    """
    set_thread_count(threads)
    reuse_freed_memory()
    in_use = router.load(active, engine=engine, device=device, threads=threads)
    old = in_use.mapping if trained in (None, active) else router.read_fitted(trained)
    old = _as_chosen(old, in_use)
    file = Path(out)
    for name, product in old.products.items():
        _check_suffix(file, choose_way(how, product), Path(active), in_use.products[name])
    made = update_models(
        old,
        in_use,
        [ReviewedPicture(**picture) for picture in pictures],
        UpdateOptions(how=how, device=device, step=step),
        open_fitted_datasets(good, old) if good else None,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(made.model, file, step)
    return made.judgement()


def _as_chosen(old: ModelMapping, in_use: router.Model) -> ModelMapping:
    """Return the trained models with people's later choices for those in use.

    Raises:
        InputError: They are of other views.
    """
    if {*old.products} != {*in_use.products}:
        raise InputError(
            "the trained model has other views than the version in use: name as `learn: trained` the one "
            "that it was exported from"
        )
    chosen = {}
    for name, product in old.products.items():
        chosen_by_product = in_use.products[name].calibration.chosen
        manifest = replace(
            product.manifest, calibration=replace(product.manifest.calibration, **chosen_by_product)
        )
        chosen[name] = replace(product, manifest=manifest)
    return replace(old, products=chosen)


def _write(model: router.Model, file: Path, step: ProgressCallback) -> None:
    """Write the models, exported where the file's suffix says so."""
    runs_in = {product.session.suffix for product in model.products.values()}
    if file.suffix == ARCHIVE_SUFFIX:
        step("export", 0, 1)
        export_router(model.mapping, file)
    elif file.suffix in runs_in:
        model.save(file)
    else:
        step("export", 0, 1)
        export(model.products[ONE].artefact, file)


def _check_suffix(file: Path, how: str, active: Path, in_use: Predictor) -> None:
    """Check, before the work, that a candidate can be written as this file.

    Raises:
        InputError: It would have to be exported in a reduced precision.
    """
    made_as = active.suffix if how == RECALIBRATED else TRAINED_SUFFIX
    precision = in_use.calibration.precision
    if file.suffix != made_as and precision != "fp32":
        raise InputError(
            f"the active version is of {precision}, which is calibrated apart from the trained model: use a "
            "version of fp32, or export by hand"
        )
