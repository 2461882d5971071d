"""Fits one model from the arguments of `flawscope fit`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flawscope.cli import common, fit_options, questions
from flawscope.cli.output import file_remarks
from flawscope.errors import InputError, join_names, pluralize, require_installed
from flawscope.methods import registry
from flawscope.methods.options import FIT_OPTIONS, ConflictError, names_of
from flawscope.methods.options.arguments import ARGUMENTS, Reading, Seeing
from flawscope.methods.options.record import SETTING, SWITCH, records_of
from flawscope.progress import Detail, Say

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from flawscope.artefact.model_file import Artefact
    from flawscope.artefact.model_mapping import ModelMapping
    from flawscope.datasets import Dataset
    from flawscope.predictor import Predictor
    from flawscope.predictor.router import Model
    from flawscope.progress import ProgressCallback
    from flawscope.types import Json


# Settings that have a flag with every method
COMMON_FLAGS = (*names_of(SETTING), "seen")
MEMORY_ARGUMENTS = (Reading, Seeing)  # those of `fit` that its memory depends on


class FitSettings(NamedTuple):
    """Settings of a call of `fit`.

    Attributes:
        method: Name of the method.
        preset: Name of the preset.
        seen: Defects to learn from, as `--seen` takes them.
        settings: Settings of the method.
    """

    method: str
    preset: str
    seen: int | str
    settings: Json


def read_fit_settings(args: argparse.Namespace) -> FitSettings:
    """Read the settings of a call. InputError for a wrong one, before torch is loaded."""
    setting_names = sorted(
        {option.setting for method in registry.loadable_methods() for option in method.options}
    )
    category = (args.category or only_category(args.data)) if args.config else None
    options = common.read_settings(args, (*COMMON_FLAGS, *setting_names), category)
    options = {name: value for name, value in options.items() if name not in fit_options.file_options()}
    _check_update(args, options)
    method, preset, seen = registry.take_choices(options)
    method = registry.default_method_name(method, preset)
    if not args.update:
        try:
            registry.configure(registry.method(method), preset, options)
        except InputError as error:
            raise InputError(fit_options.name_setting_as_flag(args, str(error))) from None
    return FitSettings(method, preset, seen, options)


def _check_update(args: argparse.Namespace, settings: Json) -> None:
    """Raise an InputError for settings that an update keeps, and for options of an update without one."""
    if not args.update:
        if args.fair:
            raise InputError("--fair is for --update: leave it out")
        return
    given = [name for name, value in settings.items() if value is not None]
    given += [option.name for option in FIT_OPTIONS if option.kept_by_update and getattr(args, option.name)]
    if given:
        names = ", ".join(fit_options.written(args, name) for name in given)
        raise InputError(f"--update keeps the model's own settings: leave out {names}")


def fit_and_save(args: argparse.Namespace, say: Say, step: ProgressCallback) -> Predictor:
    """Fit one model, or add to one, and write it to `--out`."""
    from flawscope.artefact import model_file
    from flawscope.artefact.files import checkpoint_path, training_log_path

    call = read_fit_settings(args)
    checkpoint = None
    require_training()
    old = model_file.read(args.update) if args.update else None
    if old is None and registry.method(call.method).learns_in_steps:
        checkpoint = checkpoint_path(args.out)
    with report_kept_steps(checkpoint):
        predictor = fit_model(args, call, old, say, step)
        questions.save(predictor, args.out, args.call_digest, args.update)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
        say(f"training log: {training_log_path(checkpoint)}")
    return predictor


def predict_memory(fit: Mapping[str, object]) -> int | None:
    """`preparation.predict_peak_memory` of a fit, for a process that may load torch.

    `good` names the folder of good pictures, as `open_dataset` takes it.
    """
    from flawscope.datasets import open_dataset
    from flawscope.fitting.preparation import predict_peak_memory

    given: Json = {"good": None, **fit}
    images = given.pop("images")
    good = given.pop("good")
    if good is not None:
        images = open_dataset(images, given.get("category"), group=given.get("group"), good=good)
    return predict_peak_memory(images, **given)


def fit_arguments(
    args: argparse.Namespace, call: FitSettings, records: Iterable[type[DataclassInstance]] = ARGUMENTS
) -> Json:
    """Arguments of `fit`: those of these records that were given, and the settings of the method."""
    given: Json = {}
    for arguments in records:
        for option in records_of(arguments):
            value = getattr(args, option.name)
            if value is None or value is False:
                continue
            given[option.argument] = option.switched if option.value == SWITCH else value
    return {**given, "method": call.method, "preset": call.preset, "seen": call.seen, **call.settings}


def memory_arguments(args: argparse.Namespace, call: FitSettings) -> Json:
    """Arguments of a fit that its memory depends on."""
    return fit_arguments(args, call, MEMORY_ARGUMENTS)


def require_training() -> None:
    """InputError where what fits is not installed."""
    require_installed("fitting", "torch", "timm", extras="train")


def fit_model(
    args: argparse.Namespace, call: FitSettings, old: Artefact | None, say: Say, step: ProgressCallback
) -> Predictor:
    """Fit one model, or add to `old`."""
    if old is not None:
        from flawscope.artefact.model_mapping import ModelMapping

        return add_to_models(args, call, ModelMapping.of(old), say, step).products[""]
    dataset = _open_training_data(args, call, old=None)
    args.has_test = bool(dataset.test)
    if args.only_view is not None:
        from flawscope.datasets.dataset import split_by_view

        pattern, view = args.only_view
        dataset = split_by_view(dataset, pattern, "train", "validation")[view]
    _say_training_data(args, dataset, say)
    is_pose_unknown = not (args.align or args.several or args.channels)
    if is_pose_unknown and not args.auto:  # a search asks it, too
        _advise_before(dataset, say)
    _prepare_torch(args)
    try:
        predictor = _fit_new(args, call, dataset, {"say": say, "step": step})
    except ConflictError as error:
        text = error.conflicts[0].describe(lambda name: fit_options.written(args, name))
        raise InputError(text) from None
    if is_pose_unknown:
        _advise_untried(predictor, dataset, say)
    return predictor


def add_to_models(
    args: argparse.Namespace, call: FitSettings, old: ModelMapping, say: Say, step: ProgressCallback
) -> Model:
    """Add to the model of one product, or to those of the views of a part."""
    from flawscope.fitting.incremental_update import extend
    from flawscope.predictor.router import open_models

    dataset = _open_training_data(args, call, old)
    args.has_test = bool(dataset.test)
    _say_training_data(args, dataset, say)
    _prepare_torch(args)
    return extend(
        open_models(old, args.device),
        dataset,
        group=args.group,
        fair=args.fair,
        force=args.force,
        drop_suspects=args.drop_suspects,
        check=not args.no_check,
        device=args.device,
        say=say,
        step=step,
    )


def _prepare_torch(args: argparse.Namespace) -> None:
    """Set threads and memory of torch, which is loaded after all is checked."""
    from flawscope.methods.threads import reuse_freed_memory, set_thread_count

    set_thread_count(args.threads)
    reuse_freed_memory()


def _open_training_data(args: argparse.Namespace, call: FitSettings, old: ModelMapping | None) -> Dataset:
    """Open the data set, split as the model's seed and parts say."""
    from flawscope.calibration.parts import PartPattern, name_reader
    from flawscope.datasets import open_dataset
    from flawscope.pictures.listing import relative_names
    from flawscope.pictures.units import group_reader

    if old is None:
        group = name_reader(args.group, args.part, args.view)
        seed = registry.configure(registry.method(call.method), call.preset, call.settings).seed
    else:
        _check_extends(old)
        seed, known = common.seed_and_group(old.facts)
        group = group_reader(args.group) or known
    if args.only_view is not None:
        group = args.only_view[0].part_key
    dataset = open_dataset(args.data, args.category, seed=seed, group=group, good=args.good)
    if old is None and args.part is not None:
        PartPattern(args.part, args.view).check_parts(relative_names(_good_pictures(dataset)))
    return dataset


def _check_extends(old: ModelMapping) -> None:
    """Raise an InputError where a model's method cannot be added to."""
    able = ", ".join(method.name for method in registry.loadable_methods() if method.extends)
    for product in old.products.values():
        if registry.method(product.manifest.method).extends:
            continue
        raise InputError(
            f"--update is for {able}: put the new pictures to the good ones and fit "
            f"{product.manifest.method} anew, or give it new thresholds with `flawscope calibrate`"
        )


def _say_training_data(args: argparse.Namespace, dataset: Dataset, say: Say) -> None:
    """Print how many pictures are learnt from, and remarks on them."""
    kept = sum(not item.anomalous for item in dataset.test) if dataset.drawn_split else 0
    others = f"; {kept} more are kept for `evaluate`" if kept else ""
    say(f"{dataset.category}: {pluralize(len(dataset.train), 'good picture')}{others}")
    say(Detail(f"folders: {dataset.layout} layout"))
    for line in training_remarks(dataset, args.group):
        say(line)


def _advise_before(dataset: Dataset, say: Say) -> None:
    from flawscope.evaluation.next_steps import advise_before

    for advice in advise_before(dataset):
        say(advice.line())


def _advise_untried(predictor: Predictor, dataset: Dataset, say: Say) -> None:
    """Print the steps that a search did not try; nothing where there was no search."""
    from flawscope.artefact.tried import Choice
    from flawscope.evaluation.next_steps import advise_untried

    choice = Choice.from_facts(predictor.manifest.facts)
    if choice is None:
        return
    for advice in advise_untried(choice, dataset):
        say(common.next_step(advice))


def _fit_new(args: argparse.Namespace, call: FitSettings, dataset: Dataset, how: Json) -> Predictor:
    from flawscope.artefact.files import checkpoint_path
    from flawscope.fitting import auto, fitting

    given = {**fit_arguments(args, call), **how}
    if args.auto is None:
        return fitting.fit(dataset, checkpoint=checkpoint_path(args.out), **given)
    if args.minutes is not None:
        raise InputError("--auto has minutes of its own: leave out --minutes")
    given |= {"minutes": args.auto, "resume": False}
    return auto.fit_auto(dataset, earlier=args.out if args.resume else None, **given)


@contextmanager
def report_kept_steps(checkpoint: Path | None) -> Iterator[None]:
    """Add to a KeyboardInterrupt how many steps of a training the checkpoint keeps."""
    from flawscope.methods.training.state_file import checkpoint_progress

    try:
        yield
    except KeyboardInterrupt:
        steps = None if checkpoint is None else checkpoint_progress(checkpoint)
        if steps is None:
            raise
        done, total = steps
        text = f"interrupted: step {done:,} of {total:,} kept; go on with --resume"
        raise KeyboardInterrupt(text) from None


def only_category(root: str) -> str | None:
    """Return the category of a data root that has a single one; None where it has none or several."""
    from flawscope.datasets import find_categories

    found = find_categories(root)
    return found[0] if len(found) == 1 else None


def _good_pictures(dataset: Dataset) -> list[Path]:
    items = [*dataset.train, *dataset.validation]
    return [item.path for item in items]


def training_remarks(dataset: Dataset, group: str | None) -> Iterator[str]:
    """Yield remarks on the training pictures, by their names. InputError: `group` matches no name."""
    from flawscope.datasets.dataset import group_warning
    from flawscope.datasets.mask_remarks import picture_remarks
    from flawscope.pictures.listing import COMPANION_SUFFIXES, masks_in, not_pictures_in

    paths = _good_pictures(dataset)
    if not paths:
        return
    if found := group_warning(paths, group):
        yield found
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    unread = list[str]()
    beside = [path.relative_to(folder).as_posix() for path in masks_in(folder)]
    for path in not_pictures_in(folder):
        of = beside if path.suffix.lower() in COMPANION_SUFFIXES else unread
        of.append(path.relative_to(folder).as_posix())
    if unread:
        files = pluralize(len(unread), "file")
        yield f"not learnt from: {files} of formats that are not read: {join_names(unread)}"
    yield from file_remarks(beside)
    yield from picture_remarks(dataset)
