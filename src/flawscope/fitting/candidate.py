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
        active: File of the model in use; the candidate gets its false-alarm rate.
        trained: File of the trained model from which the model in use was exported; None: the same file.
        out: File of the candidate. If it has the suffix of an exported model, the candidate is exported.
        how: Way to make the candidate, as `UpdateOptions.how`.
        pictures: Pictures, each with the fields of `ReviewedPicture`.
        good: Folder of the pictures that the model was fitted on; only a training needs it. None: there is
            none.
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
    old = _with_choices_of(in_use, old)
    file = Path(out)
    for name, product in old.products.items():
        _check_suffix(file, choose_way(how, product), Path(active), in_use.products[name])
    updates = update_models(
        old,
        in_use,
        [ReviewedPicture(**picture) for picture in pictures],
        UpdateOptions(how=how, device=device, step=step),
        open_fitted_datasets(good, old) if good else None,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(updates.model, file, step)
    return updates.judgement()


def _with_choices_of(in_use: router.Model, old: ModelMapping) -> ModelMapping:
    """Return the trained models with the settings that people have chosen for the models in use.

    Raises:
        InputError: The trained models are of other views than the models in use.
    """
    if {*old.products} != {*in_use.products}:
        raise InputError(
            "the trained model has other views than the version in use: name as `learn: trained` the one "
            "that it was exported from"
        )
    product_by_name = {}
    for name, product in old.products.items():
        calibration = replace(product.manifest.calibration, **in_use.products[name].calibration.chosen)
        product_by_name[name] = replace(product, manifest=replace(product.manifest, calibration=calibration))
    return replace(old, products=product_by_name)


def _write(model: router.Model, file: Path, step: ProgressCallback) -> None:
    """Write the models to a file; export them first if the file's suffix is of another engine than theirs."""
    suffixes = {product.session.suffix for product in model.products.values()}
    if file.suffix == ARCHIVE_SUFFIX:
        step("export", 0, 1)
        export_router(model.mapping, file)
    elif file.suffix in suffixes:
        model.save(file)
    else:
        step("export", 0, 1)
        export(model.products[ONE].artefact, file)


def _check_suffix(file: Path, how: str, active: Path, in_use: Predictor) -> None:
    """Check, before the work, that a candidate can be written to this file.

    Args:
        file: File of the candidate.
        how: Way to make the candidate.
        active: File of the model in use.
        in_use: The model in use.

    Raises:
        InputError: The candidate would have to be exported in a reduced precision.
    """
    # a recalibrated candidate keeps the engine of the model in use; others come from the trained model
    candidate_suffix = active.suffix if how == RECALIBRATED else TRAINED_SUFFIX
    precision = in_use.calibration.precision
    if file.suffix != candidate_suffix and precision != "fp32":
        raise InputError(
            f"the active version is of {precision}, which is calibrated apart from the trained model: use a "
            "version of fp32, or export by hand"
        )
