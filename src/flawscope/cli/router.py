"""Fits the models of several products or views, one by one, and joins them in one file."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import common, fit_one, fit_options, fit_several, questions
from flawscope.errors import InputError, pluralize
from flawscope.methods import registry

if TYPE_CHECKING:
    from flawscope.artefact.descriptors import DescriptorModel
    from flawscope.artefact.model_file import Artefact
    from flawscope.artefact.model_mapping import ModelMapping
    from flawscope.calibration.parts import PartPattern
    from flawscope.datasets import Dataset
    from flawscope.predictor.router import Model, Router

Calls = dict[str, argparse.Namespace]  # arguments of each fit, by the name of its model


def fit(args: argparse.Namespace) -> int:
    """Fit a model for each product or view, or add to those of `--update`, and join all models in one file.

    If a fit fails, the other models stay in a folder beside the file, for `--resume`.

    Returns:
        The exit code.
    """
    from flawscope.artefact import files
    from flawscope.predictor.router import read_fitted

    if args.update and args.cluster is not None:
        raise InputError("--update adds to a model on this machine: leave out --cluster")
    out = files.check_writable(args.out, files.TRAINED_SUFFIX)
    say = common.say_unless_quiet(args)
    old_models = read_fitted(args.update) if args.update else None
    if old_models is not None:
        _check_update(args, old_models)
        if old_models.views is not None:
            return _update_views(args, old_models, out)
    folder = Path(f"{out}.parts")
    pattern = _view_pattern(args)
    if pattern is None:
        kind = "product"
        calls = _product_calls(args, old_models, folder)
    else:
        kind = "view"
        calls = _view_calls(args, folder, pattern)
    _check_calls(args, old_models, calls)
    with _models_folder(folder):
        _write_old_models(old_models, calls)
        outcomes = fit_several.fit_each(args, calls, str(folder), kind)
    rows = [(name, *outcome.figures) for name, outcome in outcomes.items()]
    say(common.format_table(rows, (kind, *fit_several.HEADER)))
    if any(outcome.failed for outcome in outcomes.values()):
        return _report_unwritten(out, folder, outcomes)
    model = _join_models(args, old_models, calls, pattern)
    saved_path = _save(args, model, out, kind)
    shutil.rmtree(folder)
    code = fit_several.report_outcomes(outcomes)
    return code or questions.report(saved_path, args.update)


def _save(args: argparse.Namespace, model: Model, out: Path, kind: str) -> Path:
    """Write a model of several products or views, print its promise and its file, and return the file."""
    questions.save(model, out, args.call_digest, args.update)
    path = questions.saved_path(out, args.update)
    say = common.say_unless_quiet(args)
    if parts := model.parts():
        say(parts.promise())
    say(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB), of {pluralize(len(model.products), kind)}")
    return path


def _update_views(args: argparse.Namespace, old_models: ModelMapping, out: Path) -> int:
    """Update the model of each view with the new good pictures of that view, and write the models.

    Returns:
        The exit code.
    """
    say = common.say_unless_quiet(args)
    fit_settings = fit_one.read_fit_settings(args)
    fit_one.require_training()
    model = fit_one.add_to_models(args, fit_settings, old_models, say, common.progress_for(args))
    saved_path = _save(args, model, out, "view")
    failures = [line for product in model.products.values() for line in product.failures]
    return common.report_failures(failures) or questions.report(saved_path, args.update)


def _report_unwritten(out: Path, folder: Path, outcomes: Mapping[str, fit_several.Outcome]) -> int:
    """Report that the joint model is not written, since a fit failed; return the exit code."""
    remedy = f": --resume keeps the other models, which are in {folder}" if folder.exists() else ""
    common.say(f"{out} is not written{remedy}")
    return fit_several.report_outcomes(outcomes)


def _check_calls(args: argparse.Namespace, old_models: ModelMapping | None, calls: Calls) -> None:
    """Raise an InputError if the models that the calls are to fit cannot be joined.

    Args:
        args: Arguments of the command.
        old_models: Models of `--update`; None: all models are new.
        calls: Arguments of each fit, by the model's name.
    """
    from flawscope.artefact.model_facts import check_same_parts

    for call in calls.values():
        fit_one.read_fit_settings(call)
        if args.joint and call.channels:
            raise InputError(
                "--joint tells products apart by one view of a picture: leave out "
                f"{fit_options.written_form(call, 'channels')}"
            )
    fit_one.require_training()
    if all(call.update is not None for call in calls.values()):  # no model is new
        return
    patterns = [_part_patterns(args, call) for call in calls.values()]
    if old_models is not None:
        patterns += [product.manifest.facts.get("part") for product in old_models.products.values()]
    check_same_parts(patterns)


def _write_old_models(old_models: ModelMapping | None, calls: Calls) -> None:
    """Write each old model that gets new pictures to the file from which its call updates it."""
    from flawscope.artefact import model_file

    if old_models is None:
        return
    for name, call in calls.items():
        if call.update:
            model_file.write(old_models.products[name], call.update)


def _join_models(
    args: argparse.Namespace, old_models: ModelMapping | None, calls: Calls, pattern: PartPattern | None
) -> Router:
    """Join the fitted models with those models of `--update` that got no new pictures.

    Args:
        args: Arguments of the command.
        old_models: Models of `--update`; None: all models are new.
        calls: Arguments of each fit, by the model's name.
        pattern: Pattern of parts and views, for models of views; None: the models are of products.
    """
    from flawscope.artefact import model_file
    from flawscope.artefact.model_mapping import ModelMapping
    from flawscope.predictor.router import open_joined

    model_by_name = {} if old_models is None else dict(old_models.products)
    for name, call in calls.items():
        model_by_name[name] = model_file.read(call.out)
    if pattern is None:
        recognition = _describe_products(args, old_models, model_by_name, names=calls)
        return open_joined(ModelMapping(model_by_name, recognition), args.device)
    joined = open_joined(ModelMapping(model_by_name, views=pattern), args.device)
    seed, _ = common.seed_and_group(joined.facts)
    datasets = _open_views(args, pattern, seed)
    return joined.with_looks_of_views(_train_paths_by_view(datasets))


def _check_update(args: argparse.Namespace, old_models: ModelMapping) -> None:
    """Raise an InputError if the call cannot add to the models of `--update`."""
    if not old_models.kind:
        raise InputError(f"cannot use model {args.update}: it is a model of one product, leave out --joint")
    if args.joint and old_models.views is not None:
        raise InputError(
            f"{args.update} has a model for each view, and a joint model has one for each product: leave out "
            "--joint"
        )


def _part_patterns(args: argparse.Namespace, call: argparse.Namespace) -> dict[str, str] | None:
    """Return the patterns of part and view, if a new model decides on parts; None: it decides on pictures."""
    if call.part is None or args.each_view:
        return None
    return {"part": call.part, "view": call.view}


@contextmanager
def _models_folder(folder: Path) -> Iterator[None]:
    """Make the folder of models that wait to be joined; after the block, remove it if it is empty."""
    folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # the folder is not empty
            folder.rmdir()


def _model_call(
    args: argparse.Namespace, old_models: ModelMapping | None, folder: Path, name: str, **changes: object
) -> argparse.Namespace:
    """Return the call that fits the model of a product or view, or adds to it if `old_models` has it.

    Args:
        args: Arguments of the command.
        old_models: Models of `--update`; None: all models are new.
        folder: Folder of the models.
        name: Name of the product or view.
        **changes: Arguments that replace the command's.
    """
    call = fit_several.category_call(args, name, str(folder), **changes)
    has_old_model = old_models is not None and name in old_models.products
    # `_write_old_models` writes the old model to this file
    call.update = f"{call.out}.before" if has_old_model else None
    return call


def _product_calls(args: argparse.Namespace, old_models: ModelMapping | None, folder: Path) -> Calls:
    """Return the call that fits each product, by the product's name.

    The products are the categories that `--category` names; without the option, all categories of the data.

    Raises:
        InputError: The data have no categories; a category is missing; or `--update` is given without
            `--category`, and the data have several.
    """
    from flawscope.datasets import find_categories
    from flawscope.datasets.layouts import present_categories

    if common.has_several_categories(args):
        names = common.selected_categories(args)
    elif args.category:
        names = present_categories(args.data, args.category, "--category")
    else:
        names = tuple(find_categories(args.data))
        if not names or (args.update and len(names) > 1):
            raise InputError(f"name the products in {args.data} with --category: one, several, or all")
    return {name: _model_call(fit_options.with_file(args, name), old_models, folder, name) for name in names}


def _view_pattern(args: argparse.Namespace) -> PartPattern | None:
    """Return the pattern of parts and views, if each view gets a model; None: each product gets one.

    Raises:
        InputError: `--each-view` does not go with other options.
    """
    from flawscope.calibration.parts import PartPattern

    if not args.each_view:
        return None
    if args.part is None or args.group:
        raise InputError("--each-view learns the views of --part: give --part, and leave out --group")
    if args.joint or args.update or common.has_several_categories(args):
        raise InputError(
            "--each-view is for one product: leave out --joint and --update, name one --category"
        )
    return PartPattern(args.part, args.view)


def decide_each_view(args: argparse.Namespace) -> bool:
    """Return whether each view of a part gets a model of its own.

    `--each-view` and `--no-each-view` decide. Without these options, each view gets a model if good pictures
    of the views look different from each other; a line is then printed.
    """
    if args.each_view is not None:
        return bool(args.each_view)
    if args.part is None or _excludes_each_view(args) or common.has_several_categories(args):
        return False
    from flawscope.calibration.parts import PartPattern
    from flawscope.fitting.view_models import different_views_line, views_differ

    datasets = _open_views(args, PartPattern(args.part, args.view), _seed_of_call(args))
    if not views_differ(_train_paths_by_view(datasets)):
        return False
    say = common.say_unless_quiet(args)
    say(different_views_line([*datasets], remedy="--no-each-view: one model for all"))
    return True


def _excludes_each_view(args: argparse.Namespace) -> bool:
    """Return whether the call has an option that does not go with a model for each view."""
    # `--auto` searches for one model, and `--evaluate` measures one
    return any((args.group, args.joint, args.update, args.auto, args.evaluate))


def _open_views(args: argparse.Namespace, pattern: PartPattern, seed: int) -> dict[str, Dataset]:
    """Open the data set, and return the good pictures of each view.

    Raises:
        InputError: No file name shows a part, or no two names show the same part.
    """
    from flawscope.datasets import open_dataset
    from flawscope.fitting.view_models import split_good_by_view

    dataset = open_dataset(args.data, args.category, seed=seed, group=pattern.part_key, good=args.good)
    return split_good_by_view(dataset, pattern)


def _train_paths_by_view(datasets: Mapping[str, Dataset]) -> dict[str, list[Path]]:
    """Return the paths of the training pictures of each view."""
    return {view: [item.path for item in dataset.train] for view, dataset in datasets.items()}


def _seed_of_call(args: argparse.Namespace) -> int:
    """Return the seed by which a call splits its data set."""
    fit_settings = fit_one.read_fit_settings(args)
    method = registry.method(fit_settings.method)
    config = registry.configure(method, fit_settings.preset, fit_settings.settings)
    return int(config.seed)


def _view_calls(args: argparse.Namespace, folder: Path, pattern: PartPattern) -> Calls:
    """Return the call that fits each view, by the view's name."""
    datasets = _open_views(args, pattern, _seed_of_call(args))
    changes = {"category": args.category, "part": None, "view": None, "group": pattern.part}
    return {
        view: _model_call(args, None, folder, view, only_view=(pattern, view), **changes) for view in datasets
    }


def _describe_products(
    args: argparse.Namespace,
    old_models: ModelMapping | None,
    products: Mapping[str, Artefact],
    names: Iterable[str],
) -> DescriptorModel:
    """Return the model that recognises products, with descriptors of the training pictures.

    Args:
        args: Arguments of the command.
        old_models: Models of `--update`, whose network for descriptors is kept; None: all models are new.
        products: Models of all products.
        names: Products whose training pictures are described. A picture that `old_models` has learnt is
            described there, and is not read again.
    """
    from flawscope.datasets import open_dataset
    from flawscope.fitting import joining

    old_network = None if old_models is None else old_models.recognition
    network = old_network or joining.descriptor_model(products)
    description_by_product = {}
    for name in names:
        old_model = None if old_models is None else old_models.products.get(name)
        described_pictures = () if old_model is None else old_model.manifest.pictures
        seed, group = common.seed_and_group(products[name].manifest)
        description_by_product[name] = joining.describe_product(
            network,
            products[name],
            open_dataset(args.data, name, seed=seed, group=group, good=args.good),
            described=[picture.hash for picture in described_pictures],
            device=args.device,
            step=common.progress_for(args),
        )
    return joining.with_products(network, description_by_product)
