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
MEMORY_ARGUMENTS = (Reading, Seeing)  # records of the arguments that the memory of a fit depends on


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
    """Read the settings of a call, before torch is loaded.

    Raises:
        InputError: A setting is wrong, or an update cannot have it.
    """
    setting_names = sorted(
        {option.setting for method in registry.loadable_methods() for option in method.options}
    )
    category = None  # the category whose section of the `--config` file is read
    if args.config:
        category = args.category or only_category(args.data)
    options = common.read_settings(args, (*COMMON_FLAGS, *setting_names), category)
    settings = {name: value for name, value in options.items() if name not in fit_options.file_options()}
    _check_update(args, settings)
    requested_method, preset, seen = registry.take_choices(settings)  # removes these from `settings`
    method = registry.default_method_name(requested_method, preset)
    if not args.update:
        try:
            registry.configure(registry.method(method), preset, settings)
        except InputError as error:
            raise InputError(fit_options.name_setting_as_flag(args, str(error))) from None
    return FitSettings(method, preset, seen, settings)


def _check_update(args: argparse.Namespace, settings: Json) -> None:
    """Check that `--update` has no settings that it cannot change, and that `--fair` has `--update`.

    Raises:
        InputError: The call has such settings or options.
    """
    if not args.update:
        if args.fair:
            raise InputError("--fair is for --update: leave it out")
        return
    names = [name for name, value in settings.items() if value is not None]
    names += [option.name for option in FIT_OPTIONS if option.kept_by_update and getattr(args, option.name)]
    if names:
        options = ", ".join(fit_options.written_form(args, name) for name in names)
        raise InputError(f"--update keeps the model's own settings: leave out {options}")


def fit_and_save(args: argparse.Namespace, say: Say, step: ProgressCallback) -> Predictor:
    """Fit one model, or add to the model of `--update`; write the result to `--out` and return it."""
    from flawscope.artefact import model_file
    from flawscope.artefact.files import checkpoint_path, training_log_path

    fit_settings = read_fit_settings(args)
    require_training()
    old_model = model_file.read(args.update) if args.update else None
    checkpoint = None
    if old_model is None and registry.method(fit_settings.method).learns_in_steps:
        checkpoint = checkpoint_path(args.out)
    with report_kept_steps(checkpoint):
        predictor = fit_model(args, fit_settings, old_model, say, step)
        questions.save(predictor, args.out, args.call_digest, args.update)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
        say(f"training log: {training_log_path(checkpoint)}")
    return predictor


def predict_memory(fit: Mapping[str, object]) -> int | None:
    """Return the peak memory of a fit in bytes, as `predict_peak_memory` does; None: it is unknown.

    This loads torch.

    Args:
        fit: Arguments of `predict_peak_memory`; `images` may be the folder of a data set. One more key,
            `good`, names the folders of good pictures in the data set, as for `open_dataset`.
    """
    from flawscope.datasets import open_dataset
    from flawscope.fitting.preparation import predict_peak_memory

    arguments: Json = {**fit}
    images = arguments.pop("images")
    good = arguments.pop("good", None)
    if good is not None:
        images = open_dataset(images, arguments.get("category"), group=arguments.get("group"), good=good)
    return predict_peak_memory(images, **arguments)


def fit_arguments(
    args: argparse.Namespace,
    fit_settings: FitSettings,
    records: Iterable[type[DataclassInstance]] = ARGUMENTS,
) -> Json:
    """Return the keyword arguments of `fitting.fit` for a call; options that the call lacks are left out.

    Args:
        args: Arguments of the call.
        fit_settings: Settings of the method.
        records: Classes with the arguments of `fitting.fit` to take.
    """
    arguments: Json = {}
    for record in records:
        for option in records_of(record):
            value = getattr(args, option.name)
            if value is None or value is False:
                continue
            # a switch that is set stands for the value `switched` of the argument
            arguments[option.argument] = option.switched if option.value == SWITCH else value
    choices = {"method": fit_settings.method, "preset": fit_settings.preset, "seen": fit_settings.seen}
    return {**arguments, **choices, **fit_settings.settings}


def memory_arguments(args: argparse.Namespace, fit_settings: FitSettings) -> Json:
    """Return the arguments of a fit that its memory depends on."""
    return fit_arguments(args, fit_settings, MEMORY_ARGUMENTS)


def require_training() -> None:
    """Raise an InputError if the libraries for fitting are not installed."""
    require_installed("fitting", "torch", "timm", extras="train")


def fit_model(
    args: argparse.Namespace,
    fit_settings: FitSettings,
    old_model: Artefact | None,
    say: Say,
    step: ProgressCallback,
) -> Predictor:
    """Fit one model, or add to an old one.

    Also set `args.has_test`: whether the data have test pictures.

    Args:
        args: Arguments of the call.
        fit_settings: Settings of the call.
        old_model: Model to add to; None: a new one is fitted.
        say: Prints a remark.
        step: Shows the progress.
    """
    if old_model is not None:
        from flawscope.artefact.model_mapping import ModelMapping

        updated = add_to_models(args, fit_settings, ModelMapping.of(old_model), say, step)
        return updated.products[""]  # "": the only product
    dataset = _open_training_data(args, fit_settings, old_model=None)
    args.has_test = bool(dataset.test)
    if args.only_view is not None:
        from flawscope.datasets.dataset import split_by_view

        pattern, view = args.only_view
        dataset = split_by_view(dataset, pattern, "train", "validation")[view]
    _say_training_data(args, dataset, say)
    is_pose_unknown = not (args.align or args.several or args.channels)
    if is_pose_unknown and not args.auto:  # the search of --auto gives this advice itself
        _advise_before(dataset, say)
    _prepare_torch(args)
    try:
        predictor = _fit_new(args, fit_settings, dataset, say, step)
    except ConflictError as error:
        first_conflict = error.conflicts[0]
        text = first_conflict.describe(lambda name: fit_options.written_form(args, name))
        raise InputError(text) from None
    if is_pose_unknown:
        _advise_untried(predictor, dataset, say)
    return predictor


def add_to_models(
    args: argparse.Namespace,
    fit_settings: FitSettings,
    old_model: ModelMapping,
    say: Say,
    step: ProgressCallback,
) -> Model:
    """Add new good pictures to the model of one product, or to the models of its views; return the model.

    Also set `args.has_test`: whether the data have test pictures.
    """
    from flawscope.fitting.incremental_update import extend
    from flawscope.predictor.router import open_models

    dataset = _open_training_data(args, fit_settings, old_model)
    args.has_test = bool(dataset.test)
    _say_training_data(args, dataset, say)
    _prepare_torch(args)
    return extend(
        open_models(old_model, args.device),
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
    """Load torch, and set its threads and its use of memory. Loading is slow: check the call first."""
    from flawscope.methods.threads import reuse_freed_memory, set_thread_count

    set_thread_count(args.threads)
    reuse_freed_memory()


def _open_training_data(
    args: argparse.Namespace, fit_settings: FitSettings, old_model: ModelMapping | None
) -> Dataset:
    """Open the data set of a fit. The seed of the model splits it; pictures of one part stay together.

    Args:
        args: Arguments of the call.
        fit_settings: Settings of the call, which have the seed of a new model.
        old_model: Model that is added to; None: a new one is fitted.
    """
    from flawscope.calibration.parts import PartPattern, name_reader
    from flawscope.datasets import open_dataset
    from flawscope.pictures.listing import relative_names
    from flawscope.pictures.units import group_reader

    if old_model is None:
        group = name_reader(args.group, args.part, args.view)
        method = registry.method(fit_settings.method)
        seed = registry.configure(method, fit_settings.preset, fit_settings.settings).seed
    else:
        _check_extendable(old_model)
        seed, model_group = common.seed_and_group(old_model.facts)
        group = group_reader(args.group) or model_group
    if args.only_view is not None:
        pattern, _ = args.only_view
        group = pattern.part_key
    dataset = open_dataset(args.data, args.category, seed=seed, group=group, good=args.good)
    if old_model is None and args.part is not None:
        PartPattern(args.part, args.view).check_parts(relative_names(_good_pictures(dataset)))
    return dataset


def _check_extendable(old_model: ModelMapping) -> None:
    """Raise an InputError if the method of a model cannot learn more pictures later."""
    extendable = ", ".join(method.name for method in registry.loadable_methods() if method.extends)
    for product in old_model.products.values():
        if registry.method(product.manifest.method).extends:
            continue
        raise InputError(
            f"--update is for {extendable}: put the new pictures to the good ones and fit "
            f"{product.manifest.method} anew, or give it new thresholds with `flawscope calibrate`"
        )


def _say_training_data(args: argparse.Namespace, dataset: Dataset, say: Say) -> None:
    """Print the number of training pictures, and remarks on them."""
    test_count = 0  # good pictures that could be learnt from, but are kept for tests
    if dataset.drawn_split:
        test_count = sum(not item.anomalous for item in dataset.test)
    test_pictures = f"; {test_count} more are kept for `evaluate`" if test_count else ""
    say(f"{dataset.category}: {pluralize(len(dataset.train), 'good picture')}{test_pictures}")
    say(Detail(f"folders: {dataset.layout} layout"))
    for line in training_remarks(dataset, args.group):
        say(line)


def _advise_before(dataset: Dataset, say: Say) -> None:
    """Print the steps that are advised before a fit."""
    from flawscope.evaluation.next_steps import advise_before

    for advice in advise_before(dataset):
        say(advice.line())


def _advise_untried(predictor: Predictor, dataset: Dataset, say: Say) -> None:
    """Print advised steps that the search of `--auto` did not try; nothing if there was no search."""
    from flawscope.artefact.tried import Choice
    from flawscope.evaluation.next_steps import advise_untried

    choice = Choice.from_facts(predictor.manifest.facts)
    if choice is None:
        return
    for advice in advise_untried(choice, dataset):
        say(common.format_advice(advice))


def _fit_new(
    args: argparse.Namespace, fit_settings: FitSettings, dataset: Dataset, say: Say, step: ProgressCallback
) -> Predictor:
    """Fit a new model; with `--auto`, search for the best options first."""
    from flawscope.artefact.files import checkpoint_path
    from flawscope.fitting import auto, fitting

    arguments = {**fit_arguments(args, fit_settings), "say": say, "step": step}
    if args.auto is None:
        return fitting.fit(dataset, checkpoint=checkpoint_path(args.out), **arguments)
    if args.minutes is not None:
        raise InputError("--auto has minutes of its own: leave out --minutes")
    arguments |= {"minutes": args.auto, "resume": False}
    earlier = args.out if args.resume else None  # model of an earlier search
    return auto.fit_auto(dataset, earlier=earlier, **arguments)


@contextmanager
def report_kept_steps(checkpoint: Path | None) -> Iterator[None]:
    """Replace a KeyboardInterrupt in the block by one whose message names the steps in the checkpoint.

    Args:
        checkpoint: File of the checkpoint; None: the method saves none, and the KeyboardInterrupt is not
            replaced.
    """
    from flawscope.methods.training.state_file import checkpoint_progress

    try:
        yield
    except KeyboardInterrupt:
        progress = None if checkpoint is None else checkpoint_progress(checkpoint)
        if progress is None:
            raise
        done, total = progress
        text = f"interrupted: step {done:,} of {total:,} kept; go on with --resume"
        raise KeyboardInterrupt(text) from None


def only_category(root: str) -> str | None:
    """Return the only category of a data root; None if it has none or several."""
    from flawscope.datasets import find_categories

    categories = find_categories(root)
    return categories[0] if len(categories) == 1 else None


def _good_pictures(dataset: Dataset) -> list[Path]:
    """Return the paths of the training and validation pictures."""
    items = [*dataset.train, *dataset.validation]
    return [item.path for item in items]


def training_remarks(dataset: Dataset, group: str | None) -> Iterator[str]:
    """Yield remarks on the training pictures: on their names, and on files beside them.

    Raises:
        InputError: The pattern `group` matches no name.
    """
    from flawscope.datasets.dataset import group_warning
    from flawscope.datasets.mask_remarks import picture_remarks
    from flawscope.pictures.listing import COMPANION_SUFFIXES, masks_in, not_pictures_in

    paths = _good_pictures(dataset)
    if not paths:
        return
    if warning := group_warning(paths, group):
        yield warning
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    unread_files = list[str]()
    # masks, and files with facts on a picture, are expected beside the pictures
    side_files = [path.relative_to(folder).as_posix() for path in masks_in(folder)]
    for path in not_pictures_in(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in COMPANION_SUFFIXES:
            side_files.append(name)
        else:
            unread_files.append(name)
    if unread_files:
        files = pluralize(len(unread_files), "file")
        yield f"not learnt from: {files} of formats that are not read: {join_names(unread_files)}"
    yield from file_remarks(side_files)
    yield from picture_remarks(dataset)
