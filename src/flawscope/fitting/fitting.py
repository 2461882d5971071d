"""Fits a model from a folder of good pictures: the steps that every method shares around its own `fit`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flawscope.artefact.model_file import Artefact, pack_images, unpack_images
from flawscope.artefact.parts import stored_part_pattern, stored_part_reader
from flawscope.datasets import open_dataset
from flawscope.errors import InputError, check_arguments
from flawscope.fitting.assembly import FitResult, know_good
from flawscope.fitting.judging import judge_fit
from flawscope.fitting.preparation import PreparedFit, option_facts, pop_options, prepare
from flawscope.fitting.samples import Samples, score_samples
from flawscope.fitting.simulated_defects import (
    DEFECT_SIZES,
    MAX_PER_SIZE,
    draw_carriers,
    score_simulated_defects,
)
from flawscope.fitting.sources import Images, part_reader, split_sources
from flawscope.fitting.training_views import Reader, nearest_of, number_views
from flawscope.methods import registry
from flawscope.methods.method import Method
from flawscope.methods.options.arguments import Learning
from flawscope.methods.settings import PictureSettings
from flawscope.methods.task import Budget, LeaveOut, Task
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.listing import picture_names
from flawscope.pictures.table import CALIBRATION, UPDATE, PictureTable
from flawscope.pictures.units import group_reader, units_of
from flawscope.predictor import Predictor, fitted_artefact, open_fitted
from flawscope.progress import ProgressCallback, Say, discard, ignore_progress
from flawscope.types import Json

NO_UNIT = -1  # unit of a picture that cannot be read


def budget_of(how: Learning, method: Method) -> Budget:
    """Return the budget of a fit.

    Raises:
        InputError: The method does not learn in steps.
    """
    if (how.minutes is not None or how.resume) and not method.learns_in_steps:
        raise InputError(f"{method.name} does not learn in steps: leave out --minutes and --resume")
    return Budget(
        how.minutes,
        None if how.checkpoint is None else Path(how.checkpoint),
        how.resume,
        scored_later=how.samples,
        scored_if_time=MAX_PER_SIZE * len(DEFECT_SIZES) if how.check else 0,
    )


@check_arguments()
def fit(
    images: Images,
    *,
    method: str | None = None,
    preset: str = "default",
    settings: PictureSettings | None = None,
    names: Sequence[str] = (),
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: object,
) -> Predictor:
    """Fit a model to good parts.

    Args:
        images: A data set, a folder (any layout that `open_dataset` reads), or good pictures: paths, bytes,
            PIL images or numpy `[H, W, 3]` uint8.
        method: patchcore, efficientad, prnet, or a method of an installed package. None: patchcore, or the
            only method that has the preset.
        preset: Named settings of the method.
        settings: All settings of the method, in place of a preset and single ones.
        names: One name per picture, which `group`, `part` and `view` read. Names of pictures that a data set
            reserves (`Dataset.validation`) come last. By default the names of the files.
        say: Gets lines for a person.
        step: Gets progress.
        **options: How the pictures are read, such as `roi="0,0,0.5,1"` or `false_alarm_rate="1%"`
            (`methods.options.arguments.Seeing`, `Reading`); how long it may take and what is kept, such as
            `minutes=30` (`Learning`); and settings of the method, such as `size=384` or `ratio=0.05`.

    Returns:
        A `Predictor`. `failures` lists pictures that could not be read. `suspects` lists pictures that do not
        look good, most suspicious first. `questions` ask about pictures that may make the model wrong; there
        are none with the option `force`, which states that all pictures are good. `accept` states that
        afterwards.

    Raises:
        InputError: Wrong settings, no usable pictures, no weights.
    """
    if "threads" in options:
        raise InputError("fit has no option threads: call torch.set_num_threads(N) before it")
    arguments: Json = options
    learning = pop_options(Learning, arguments)
    method_record = registry.method(registry.default_method_name(method, preset))
    budget = budget_of(learning, method_record)
    if learning.minutes is not None:
        arguments["steps"] = None  # the minutes limit the fit in place of steps
    prepared = prepare(
        images, method_record, preset=preset, settings=settings, names=names, say=say, step=step, **arguments
    )
    prepared = replace(prepared, kept={**prepared.kept, **option_facts(learning)})
    budget = replace(budget, scored_later=learning.samples + prepared.views.held_out_count())
    task = replace(prepared.task, budget=budget)
    view_task = prepared.views.task(task)
    return _fit_and_assemble(prepared, task, view_task, samples=learning.samples, check=learning.check)


def partial_fit(
    model: str | os.PathLike[str] | Artefact | Predictor,
    images: Images,
    *,
    group: str | None = None,
    names: Sequence[str] = (),
    device: str = "auto",
    check: bool = True,
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
) -> Predictor:
    """Add good pictures to a fitted model and to its calibration, without the old pictures.

    Unlike `incremental_update.extend`, `partial_fit` trusts all new pictures. The old model's
    settings and calibration scores are kept, and a note of the manifest describes the effect on the
    false-alarm rate.
    The share of simulated defects that the model finds is measured anew, on the new pictures.

    Args:
        model: A fitted model, or its .safetensors file.
        images: Good pictures, as `fit` takes them.
        group: Regular expression on file names; pictures for which it matches the same text show one part.
        names: Names of the pictures, which `group` reads; by default those of their files.
        device: Device, such as "cpu", "cuda" or "auto".
        check: Whether to measure the share of simulated defects that are found.
        say: Gets lines for a person.
        step: Gets progress.

    Raises:
        InputError: The method cannot be extended, or no picture can be used.
    """
    old = fitted_artefact(model)
    method = registry.method(old.manifest.method)
    if not method.extends:
        raise InputError(f"{method.name} cannot be extended: fit anew with all pictures")
    old_part_reader = group_reader(group) or stored_part_reader(old.manifest)
    if isinstance(images, str | os.PathLike):
        seed = method.parse_stored(old.manifest.config).seed
        images = open_dataset(os.fspath(images), seed=seed, group=old_part_reader)
    sources, _, _ = split_sources(images, category=None)
    source_names = picture_names(sources, names)
    pattern = stored_part_pattern(old.manifest)
    if pattern is None and group is None:
        part_of = old_part_reader  # not checked, because new pictures may have names of another form
    else:
        part_of = part_reader(source_names, group, pattern)
    channels = old.manifest.preprocess.channels
    table = PictureTable.read(DecodedPictures(sources, channels), source_names, UPDATE, step)
    found_units = units_of([*table.rows.values()], old.manifest.pictures, part_of)
    for line in found_units.remarks:
        say(line)
    table = replace(table, rows=dict(zip(table.rows, found_units.rows, strict=True)))
    return learn_more(
        old,
        table,
        source_names,
        group=group or old.manifest.facts.get("group"),
        remarks=found_units.remarks,
        device=device,
        check=check,
        say=say,
        step=step,
    )


def learn_more(
    old: Artefact,
    new: PictureTable,
    names: Sequence[str],
    *,
    group: str | None,
    remarks: Sequence[str] = (),
    device: str = "auto",
    check: bool = True,
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
) -> Predictor:
    """Add good pictures to a fitted model as `partial_fit` does.

    Args:
        old: The fitted model.
        new: The pictures, with units. Pictures of a part that the model knows have the unit of that part.
        names: Names of all pictures, including those that cannot be read.
        group: Pattern of parts, which is stored in the model.
        remarks: Remarks on the units, which become notes of the model.
        device: Device, such as "cpu", "cuda" or "auto".
        check: Whether to measure the share of simulated defects that are found.
        say: Gets lines for a person.
        step: Gets progress.
    """
    manifest = old.manifest
    detector = open_fitted(old, device).detector
    method = registry.method(manifest.method)
    reader = Reader(
        [*new.pictures.sources],
        manifest.preprocess,
        known={row.hash for row in manifest.pictures if row.role != CALIBRATION},
        names=[*names],
        roi=old.counted,
        region=old.tensors.get("region"),
        hidden=detector.config.hidden,
        nearest=nearest_of(detector),
        pictures=new.pictures,
        near_looks={number: row.look for number, row in new.rows.items() if row.look is not None},
        origin=UPDATE,
    )
    surveyed = reader.decoded.survey()
    task = Task(
        reader.load,
        [new.rows[number].unit if number in new.rows else NO_UNIT for number in range(len(names))],
        rate=manifest.calibration.rate,
        settle=reader.without_copies,
        old=old,
        decoded_bytes=surveyed.largest,
        say=say,
        step=step,
    )
    prepared = PreparedFit(
        method,
        detector,
        manifest.backbone,
        manifest.category,
        reader,
        task,
        number_views(reader, surveyed.sizes, detector.config.seed),
        group,
        stored_part_pattern(manifest),
        remarks=remarks,
    )
    # the model keeps the samples that it has
    return _fit_and_assemble(prepared, task, prepared.views.task(task), samples=0, check=check)


# -------------------------------------------------------------------------------------------------- the model


def _fit_and_assemble(
    prepared: PreparedFit, task: Task, view_task: Task, samples: int, check: bool
) -> Predictor:
    """Fit and calibrate a model.

    Args:
        prepared: The prepared fit.
        task: Task with the pictures as the numbered items.
        view_task: Task with the pictures' views as the numbered items.
        samples: Number of training pictures that a new model keeps.
        check: Whether to measure the share of simulated defects that are found.

    Raises:
        InputError: No model can be fitted. If no picture can be read, the message says that.
    """
    began = time.monotonic()
    model = prepared.model
    reader = prepared.reader
    views = prepared.views
    old = task.old
    try:
        view_fit = prepared.method.run_fit(model, view_task)
        leave_out = view_fit.leave_out or LeaveOut.of_fit(model, view_fit, view_task)
        fitted = views.to_pictures(view_fit)
        rows = reader.rows(task.groups)
        judged = judge_fit(leave_out, fitted, rows, views, task)
    except InputError:
        reader.check_any_readable()  # raises the pictures' error in place of the fit's
        raise
    good = know_good(prepared, judged, old)
    if old is None:
        images = views.samples(fitted.used, samples)
        names = [*images]
        packed = pack_images(np.stack([*images.values()])) if images else None
    else:
        names = [sample["name"] for sample in old.manifest.samples]
        packed = old.tensors.get("samples")
    scored_samples = Samples()
    if packed is not None:
        scored_samples = score_samples(model, names, packed, unpack_images(packed))
    defect_scores = None
    # without an expected rate, all pictures show the same part: no model without this part can score defects
    if check and good.calibration.promised:
        carriers = draw_carriers(judged, views, model.config.seed)
        defect_scores = score_simulated_defects(
            leave_out, good.calibration, carriers, view_task, began, good.parts
        )
    result = FitResult(prepared, task, judged, good, defect_scores, scored_samples, began)
    failures = [*prepared.unusable, *reader.failures.values()]
    return open_fitted(result.to_artefact(), str(model.roi.device), model).with_failures(failures)
