"""Fits a model from a folder of good pictures: the steps that every method shares around its own `fit`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flawscope.artefact.carried import carried_facts
from flawscope.artefact.certificate import MAP_STRIDE
from flawscope.artefact.expected import ExpectedPictures
from flawscope.artefact.model_file import (
    Artefact,
    Manifest,
    pack_images,
    package_versions,
    unpack_images,
)
from flawscope.artefact.parts import PART, parts_of_rows, stored_part_pattern, stored_part_reader
from flawscope.calibration.outliers import SUSPECTS, Odd, list_suspects, odd, settle
from flawscope.calibration.power import SIMULATED_DEFECTS, DefectScores
from flawscope.calibration.rows import calibrate
from flawscope.calibration.size_bounds import SIZE_BOUNDS
from flawscope.datasets import open_dataset
from flawscope.errors import InputError, check_arguments, data_checks, pluralize
from flawscope.fitting.judging import judge_fit
from flawscope.fitting.preparation import PreparedFit, option_facts, pop_options, prepare
from flawscope.fitting.simulated_defects import (
    DEFECT_SIZES,
    MAX_PER_SIZE,
    score_simulated_defects,
)
from flawscope.fitting.training_pictures import (
    Images,
    Reader,
    part_reader,
    split_sources,
)
from flawscope.fitting.training_views import TrainingViews, views_of
from flawscope.methods import registry
from flawscope.methods.detector import Detector
from flawscope.methods.method import Method
from flawscope.methods.options.arguments import Learning
from flawscope.methods.settings import PictureSettings
from flawscope.methods.task import Budget, Fitted, LeaveOut, Task
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.listing import picture_names
from flawscope.pictures.table import CALIBRATION, SEEN, UPDATE, Picture, PictureTable
from flawscope.pictures.units import group_reader, units_of
from flawscope.predictor import Predictor, fitted_artefact, open_fitted
from flawscope.progress import ProgressCallback, Say, discard, ignore_progress
from flawscope.views.light import within_range

NO_UNIT = -1  # of a picture that cannot be read


def budget_of(how: Learning, method: Method) -> Budget:
    """Makes the budget of a fit. InputError: the method does not learn in steps."""
    if (how.minutes is not None or how.resume) and not method.learns_in_steps:
        raise InputError(f"{method.name} does not learn in steps: leave out --minutes and --resume")
    return Budget(
        how.minutes,
        None if how.checkpoint is None else Path(how.checkpoint),
        how.resume,
        scored_later=how.samples,
        scored_if_time=MAX_PER_SIZE * len(DEFECT_SIZES) * how.check,
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
    **options: Any,
) -> Predictor:
    """Fits a model to good parts.

    Args:
        images: a data set, a folder (any layout that `open_dataset` reads), or good pictures: paths, bytes,
            PIL images or numpy `[H, W, 3]` uint8.
        method: patchcore, efficientad, prnet, or one of an installed package; None: patchcore, or
            the only one that has the preset.
        preset: named settings of the method.
        settings: all settings of the method, in place of a preset and single ones.
        names: of the pictures, which `group`, `part` and `view` read, one each; those of a data set that it
            keeps apart (`Dataset.validation`) come last. By default those of their files.
        say: gets lines for a person.
        step: gets progress.
        **options: how the pictures are read, such as `roi="0,0,0.5,1"` or `false_alarm_rate="1%"`
            (`methods.options.arguments.Seeing`, `Reading`); how long it may take and what is kept, such as
            `minutes=30` (`Learning`); and settings of the method, such as `size=384` or `ratio=0.05`.

    Returns:
        A `Predictor`. `failures` lists pictures that could not be read, `suspects` those that do not look
        good, most suspicious first; `questions` asks about pictures with which the model may be wrong, unless
        `force` says that all are good: `accept` says so afterwards.

    Raises:
        InputError: wrong settings, no usable pictures, no weights.
    """
    if "threads" in options:
        raise InputError("fit has no option threads: call torch.set_num_threads(N) before it")
    how, asked = pop_options(Learning, options), registry.method(registry.default_method_name(method, preset))
    budget = budget_of(how, asked)
    if how.minutes is not None:
        options["steps"] = None
    prepared = prepare(
        images, asked, preset=preset, settings=settings, names=names, say=say, step=step, **options
    )
    prepared = replace(prepared, kept={**prepared.kept, **option_facts(how)})
    budget = replace(budget, scored_later=how.samples + prepared.views.held_out_count())
    task = replace(prepared.task, budget=budget)
    return _fit_and_assemble(prepared, task, how.samples, how.check)


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
    """Adds good pictures to a fitted model and to its calibration, without the old pictures, and trusts all
    of them: `incremental_update.extend` does not. Settings are the old model's.

    The old pictures' calibration scores are kept, and the manifest notes the effect on the promise. The share
    of simulated defects that the model finds is measured anew, on the new pictures.

    Args:
        model: a fitted model, or its .safetensors file.
        images: good pictures, as `fit` takes them.
        names: of the pictures, which `group` splits; by default those of their files.

    Raises:
        InputError: the method cannot be extended, or no picture can be used.
    """
    old = fitted_artefact(model)
    method = registry.method(old.manifest.method)
    if not method.extends:
        raise InputError(f"{method.name} cannot be extended: fit anew with all pictures")
    known_parts = group_reader(group) or stored_part_reader(old.manifest)
    if isinstance(images, str | os.PathLike):
        seed = method.parse_stored(old.manifest.config).seed
        images = open_dataset(os.fspath(images), seed=seed, group=known_parts)
    sources, _, _ = split_sources(images, None)
    own_names = picture_names(sources, names)
    pattern = stored_part_pattern(old.manifest)
    if pattern is None and group is None:
        part_of = known_parts  # new pictures may be named otherwise
    else:
        part_of = part_reader(own_names, group, pattern)
    channels = old.manifest.preprocess.channels
    table = PictureTable.read(DecodedPictures(sources, channels), own_names, UPDATE, step)
    units = units_of([*table.rows.values()], old.manifest.pictures, part_of)
    for line in units.remarks:
        say(line)
    table = replace(table, rows=dict(zip(table.rows, units.rows, strict=True)))
    return learn_more(
        old,
        table,
        own_names,
        group=group or old.manifest.facts.get("group"),
        remarks=units.remarks,
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
    """Adds good pictures to a fitted model as `partial_fit` does.

    Args:
        new: the pictures, with units: those of the model's parts have the numbers that its rows have.
        names: of all pictures, also of those that cannot be read.
        group: as the model keeps it. remarks: on the units, as notes of the model.
    """
    manifest, detector = old.manifest, open_fitted(old, device).detector
    method = registry.method(manifest.method)
    known = (row.hash for row in manifest.pictures if row.role != CALIBRATION)
    reader = Reader.of_model(
        detector,
        manifest.preprocess,
        new.pictures.sources,
        known,
        names,
        roi=old.counted,
        region=old.tensors.get("region"),
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
        views_of(reader, surveyed.sizes, detector.config.seed),
        group,
        stored_part_pattern(manifest),
        remarks=remarks,
    )
    return _fit_and_assemble(prepared, task, 0, check)


# -------------------------------------------------------------------------------------------------- the model


def _fit_and_assemble(prepared: PreparedFit, task: Task, samples: int, check: bool) -> Predictor:
    began = time.monotonic()
    model, reader, views, old = prepared.model, prepared.reader, prepared.views, task.old
    how, view_task = reader.preprocess, views.task(task)
    try:
        view_fit = prepared.method.run_fit(model, view_task)
        leave_out = view_fit.leave_out or LeaveOut.of_fit(model, view_fit, view_task)
        judged = judge_fit(leave_out, view_fit, views, task)
    except InputError:
        reader.check_any_readable()  # else their reason is the error
        raise
    fitted, before = judged.fitted, () if old is None else old.manifest.pictures
    promised = fitted.promised and (old is None or old.manifest.calibration.promised)
    chosen = {"rate": task.rate} if old is None else old.manifest.calibration.chosen
    how_scored = {"method": judged.how, "precision": model.config.precision, "promised": promised, **chosen}
    pictures = (*before, *_table(judged.rows, reader))
    plain = (*before, *_table(judged.unlit, reader))
    calibration = calibrate(pictures, **how_scored)
    tensors = {k: v.detach().cpu().numpy() for k, v in {**model.state_dict(), **fitted.extra}.items()}
    tensors |= {} if reader.region is None else {"region": reader.region}
    kept, seconds = _score_samples(model, tensors, views, fitted, samples if old is None else old)
    carriers = {number: judged.rows[i] for number, i in judged.carriers.items()}
    pattern = prepared.part
    parts = None if pattern is None else parts_of_rows(pictures, pattern, calibration.rate)
    # where all pictures show one part there is none that can be left out
    found = (
        score_simulated_defects(leave_out, calibration, carriers, view_task, began, parts)
        if check and calibration.promised
        else None
    )
    expected, size_notes = _expected_pictures(fitted, prepared, task)
    told = [*_notes(fitted, reader, found, old), *size_notes]
    questions, oddities = list[str](), list[Odd]()
    listed = list[str]()  # notes on pictures that the list of suspects names
    if old is None:
        good = _good_pictures(fitted)
        hashes = [reader.hashes[i] for i in good]
        cells = dict(zip(hashes, _cells(view_fit, views, good), strict=True))
        oddities = [*odd(_without_looks(pictures), calibration, found, hashes, cells=cells)]
        listed, questions = settle(oddities, prepared.force)
    if found is not None and how.lights[1:]:
        plain_parts = None if pattern is None else parts_of_rows(plain, pattern, calibration.rate)
        unlit = found.with_calibration(calibrate(plain, **how_scored), plain_parts)
        told.append(_light_cost_note(found, unlit, within_range(how.normalization)))
    for note in told:
        task.say(note)
    far = {reader.names[i]: score for i, score in fitted.suspects.items()}
    suspects = list_suspects(oddities, {row.name: row.score for row in pictures}, far)
    manifest = Manifest(
        method=prepared.method.name,
        config=_without_paths(model.config),
        preprocess=how,
        calibration=calibration,
        backbone=prepared.origin,
        category=prepared.category,
        pictures=pictures,
        facts=expected.to_facts(
            {
                **carried_facts(None if old is None else old.manifest),
                **fitted.facts,
                "summary": [*fitted.summary, *([prepared.chosen] if prepared.chosen else [])],
                **(
                    {}
                    if found is None
                    else {SIMULATED_DEFECTS: found.to_dict(), SIZE_BOUNDS: found.bounds.to_dict()}
                ),
                **_option_facts(prepared),
                **({SUSPECTS: [[*one] for one in suspects]} if suspects else {}),
                "seconds_total": round(time.monotonic() - began, 3),
                **({} if seconds is None else {"seconds_view": round(seconds, 4)}),
                "device": model.roi.device.type,
                "threads": torch.get_num_threads(),
            }
        ),
        notes=(*(old.manifest.notes if old else ()), *prepared.remarks, *told, *listed),
        samples=kept,
        versions=package_versions(),
        fusion=judged.fusion,
    )
    made = Artefact(manifest.asking(*(() if old is None else old.manifest.questions), *questions), tensors)
    failures = [*prepared.unusable, *reader.failures.values()]
    return open_fitted(made, str(model.roi.device), model).with_failures(failures)


def _table(rows: Mapping[int, Picture], reader: Reader) -> list[Picture]:
    """Rows of this fit, and of the defects that it learnt from."""
    defects = [Picture(digest, SEEN, name, origin=reader.origin) for digest, name in reader.defects.items()]
    return [*rows.values(), *defects]


def _notes(fitted: Fitted, reader: Reader, found: DefectScores | None, old: Artefact | None) -> list[str]:
    notes = list(fitted.notes)
    if fitted.dropped:
        notes.append(
            "left out before calibrating on the rest: "
            f"{pluralize(len(fitted.dropped), 'suspicious picture')}; "
            "the false-alarm rate holds for pictures like those that stayed"
        )
    if reader.copies:
        first = {digest: i for i, digest in sorted(reader.hashes.items(), reverse=True)}
        pairs = [(reader.names[i], reader.names[first[reader.hashes[i]]]) for i in reader.copies]
        example = next((f", such as {copy} of {other}" for copy, other in pairs if copy != other), "")
        count = pluralize(len(pairs), "picture")
        line = f"counted once: {count} that are copies of others{example}"
        notes.append(data_checks.COPIES_COUNT_ONCE.coded(line))
    if found is None and old is not None and SIMULATED_DEFECTS in old.manifest.facts:
        notes.append("what it finds of simulated defects was not measured after the model was extended")
    if old is not None and old.manifest.kinds is not None:
        notes.append("it names no kinds of defects since it was extended: run `flawscope kinds` again")
    if found is not None and (remark := found.remark()) is not None:
        notes.append(remark)
    return notes


def _cells(
    view_fit: Fitted, views: TrainingViews, pictures: Sequence[int]
) -> list[NDArray[np.float32] | None]:
    """Features of the cells of each picture's first view that has such; None: there is none."""
    first = {views.picture_of(number): number for number in sorted(view_fit.cells, reverse=True)}
    return [view_fit.cells.get(first.get(picture, -1)) for picture in pictures]


def _light_cost_note(found: DefectScores, plain: DefectScores, lights: str) -> str:
    """Note on the simulated defects that the threshold for each light misses, and one for one light finds."""
    (now, count), (before, _) = found.count_all(), plain.count_all()
    return (
        f"the false-alarm rate is kept{lights.removeprefix(',')}: {now} of {count} simulated defects "
        f"are found, with a threshold for unchanged light alone {before}"
    )


def _option_facts(prepared: PreparedFit) -> dict[str, Any]:
    """Options that a model keeps among its facts."""
    parts = {} if prepared.part is None else {PART: asdict(prepared.part)}
    return {"group": prepared.group, **prepared.kept, **parts}


def _expected_pictures(
    fitted: Fitted, prepared: PreparedFit, task: Task
) -> tuple[ExpectedPictures, list[str]]:
    """Returns what pictures the model expects, and notes on it; an extended model is widened."""
    reader, good = prepared.reader, _good_pictures(fitted)
    rows = [reader.row(i, CALIBRATION, NO_UNIT) for i in good]
    if task.old is not None:
        known = ExpectedPictures.from_facts(task.old.manifest.facts)
        return known.widened(rows), known.scale_notes(rows)
    looks: dict[str, list[NDArray[np.float32]]] = {}
    if prepared.part is not None:
        for i in good:
            view = prepared.part.parse(reader.names[i]).view
            looks.setdefault(view, []).append(reader.looks[i])
    return ExpectedPictures.learn(rows, looks, prepared.scale_mm), []


def _good_pictures(fitted: Fitted) -> list[int]:
    return sorted({*fitted.used, *fitted.scored, *(i for held in fitted.held.values() for i in held)})


def _without_looks(rows: Iterable[Picture]) -> list[Picture]:
    """The rows as `odd` takes them where what shows nothing was asked about before the fit."""
    return [replace(row, look=None) for row in rows]


# ------------------------------------------------------------------------------------------- sample pictures

Samples = tuple[dict[str, Any], ...]


def _score_samples(
    model: Detector,
    tensors: dict[str, NDArray[Any]],
    views: TrainingViews,
    fitted: Fitted,
    samples: int | Artefact,
) -> tuple[Samples, float | None]:
    """Returns the samples' scores for `Predictor.self_test`, and the seconds that the quickest took; adds the
    samples and their maps to `tensors`. samples: how many of the pictures learnt from; or an extended model,
    whose samples stay."""
    if isinstance(samples, Artefact):
        names, packed = [one["name"] for one in samples.manifest.samples], samples.tensors.get("samples")
    else:
        chosen = fitted.used[:: max(1, len(fitted.used) // samples)][:samples] if samples else []
        images = {
            views.reader.names[i]: image.numpy()
            for i in chosen
            if (image := views.load(views.numbers(i)[0])) is not None
        }
        names, packed = [*images], pack_images(np.stack([*images.values()])) if images else None
    if packed is None:
        return (), None
    found, maps, seconds = [], [], []
    with torch.inference_mode():
        for image, name in zip(packed, names, strict=True):
            given = torch.from_numpy(unpack_images(image))[None].to(model.roi.device)
            began = time.monotonic()
            features, inside = model.embed(given), model.inside(given)
            score, drawn = model.score(features, inside)
            seconds.append(time.monotonic() - began)
            tie, of_map = bool(model.ties(features, inside)[0]), float(drawn.max())
            found.append({"name": name, "score": float(score[0]), "map_maximum": of_map, "tie": tie})
            maps.append(drawn[0, ::MAP_STRIDE, ::MAP_STRIDE].float().cpu().numpy())
    tensors["samples"], tensors["sample_maps"] = packed, np.stack(maps)
    return tuple(found), min(seconds)


def _without_paths(config: PictureSettings) -> dict[str, Any]:
    """Settings as the artefact holds them: paths on this machine are private and left out."""
    values = asdict(config)
    return {k: Path(v).name if k in config.PATHS and v else v for k, v in values.items()}
