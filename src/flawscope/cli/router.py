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
    from flawscope.predictor.router import Router

Calls = dict[str, argparse.Namespace]


def fit(args: argparse.Namespace) -> int:
    """Fit a model of each product or view, or add to those of a router, and join all in one file.

    Where a fit fails, the others are kept beside the file, for `--resume`.
    """
    from flawscope.artefact import files
    from flawscope.predictor.router import read_fitted

    if args.update and args.cluster is not None:
        raise InputError("--update adds to a model on this machine: leave out --cluster")
    out = files.check_writable(args.out, files.TRAINED_SUFFIX)
    say = common.say_unless_quiet(args)
    old = read_fitted(args.update) if args.update else None
    if old is not None:
        _check_extended(args, old)
        if old.views is not None:
            return _update_views(args, old, out)
    folder = Path(f"{out}.parts")
    pattern = _view_pattern(args)
    if pattern is None:
        kind = "product"
        calls = _product_calls(args, old, folder)
    else:
        kind = "view"
        calls = _view_calls(args, folder, pattern)
    _check_calls(args, old, calls)
    with _kept_models(folder):
        _write_known_models(old, calls)
        outcomes = fit_several.fit_each(args, calls, str(folder), kind)
    rows = [(name, *outcome.figures) for name, outcome in outcomes.items()]
    say(common.format_table(rows, (kind, *fit_several.HEADER)))
    if any(outcome.failed for outcome in outcomes.values()):
        return _report_unwritten(out, folder, outcomes)
    model = _join_models(args, old, calls, pattern)
    questions.save(model, out, args.call_digest, args.update)
    out = questions.written(out, args.update)
    shutil.rmtree(folder)
    if parts := model.parts():
        say(parts.promise())
    say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB), of {pluralize(len(model.products), kind)}")
    return fit_several.exit_code(outcomes) or questions.report(out, args.update)


def _update_views(args: argparse.Namespace, old: ModelMapping, out: Path) -> int:
    """Add to the models of the views of a part, each the pictures of its view."""
    say = common.say_unless_quiet(args)
    call = fit_one.read_fit_settings(args)
    fit_one.require_training()
    model = fit_one.add_to_models(args, call, old, say, common.progress_for(args))
    questions.save(model, out, args.call_digest, args.update)
    out = questions.written(out, args.update)
    if parts := model.parts():
        say(parts.promise())
    say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB), of {pluralize(len(model.products), 'view')}")
    failures = [line for product in model.products.values() for line in product.failures]
    return common.report_failures(failures) or questions.report(out, args.update)


def _report_unwritten(out: Path, folder: Path, outcomes: Mapping[str, fit_several.Outcome]) -> int:
    """Say that the joint model is not written, since a fit failed; return the exit code."""
    kept = f": --resume keeps the other models, which are in {folder}" if folder.exists() else ""
    common.say(f"{out} is not written{kept}")
    return fit_several.exit_code(outcomes)


def _check_calls(args: argparse.Namespace, old: ModelMapping | None, calls: Calls) -> None:
    """Raise an InputError, before anything is fitted, for a call that the joint model cannot have."""
    from flawscope.artefact.model_facts import check_same_parts

    for call in calls.values():
        fit_one.read_fit_settings(call)
        if args.joint and call.channels:
            raise InputError(
                "--joint tells products apart by one view of a picture: leave out "
                f"{fit_options.written(call, 'channels')}"
            )
    fit_one.require_training()
    if all(call.update is not None for call in calls.values()):  # their parts were compared before
        return
    patterns = [_own_part(args, call) for call in calls.values()]
    if old is not None:
        patterns += [product.manifest.facts.get("part") for product in old.products.values()]
    check_same_parts(patterns)


def _write_known_models(old: ModelMapping | None, calls: Calls) -> None:
    """Write the models of a router that are added to, each where its call reads it."""
    from flawscope.artefact import model_file

    if old is None:
        return
    for name, call in calls.items():
        if call.update:
            model_file.write(old.products[name], call.update)


def _join_models(
    args: argparse.Namespace, old: ModelMapping | None, calls: Calls, pattern: PartPattern | None
) -> Router:
    """Join the fitted models, and those of a router that were not added to.

    Args:
        args: Arguments of the command.
        old: Models of the router that is added to; None: it is new.
        calls: Arguments of each fit, by the model's name.
        pattern: Pattern of the parts, where the models are of views; else None.
    """
    from flawscope.artefact import model_file
    from flawscope.artefact.model_mapping import ModelMapping
    from flawscope.predictor.router import open_joined

    products = {} if old is None else dict(old.products)
    for name, call in calls.items():
        products[name] = model_file.read(call.out)
    if pattern is None:
        return open_joined(ModelMapping(products, _describe(args, old, products, calls)), args.device)
    joined = open_joined(ModelMapping(products, views=pattern), args.device)
    views = _views_of(args, pattern, common.seed_and_group(joined.facts)[0])
    return joined.with_looks_of_views({view: _train_paths(model) for view, model in views.items()})


def _check_extended(args: argparse.Namespace, old: ModelMapping) -> None:
    """InputError where a model cannot be added to as the call says."""
    if not old.kind:
        raise InputError(f"cannot use model {args.update}: it is a model of one product, leave out --joint")
    if args.joint and old.views is not None:
        raise InputError(
            f"{args.update} has a model for each view, and a joint model has one for each product: leave out "
            "--joint"
        )


def _own_part(args: argparse.Namespace, call: argparse.Namespace) -> dict[str, str] | None:
    """The patterns of part and view that a new model decides by; None: it decides on pictures."""
    if call.part is None or args.each_view:
        return None
    return {"part": call.part, "view": call.view}


@contextmanager
def _kept_models(folder: Path) -> Iterator[None]:
    """Make the folder that keeps models until all are there, and remove it where it keeps none."""
    folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def _call(
    args: argparse.Namespace, old: ModelMapping | None, folder: Path, name: str, **changes: object
) -> argparse.Namespace:
    """The call that fits the model of a product or view, or adds to the one that there is."""
    call = fit_several.category_call(args, name, str(folder), **changes)
    is_known = old is not None and name in old.products
    call.update = f"{call.out}.before" if is_known else None
    return call


def _product_calls(args: argparse.Namespace, old: ModelMapping | None, folder: Path) -> Calls:
    """The call that fits each product.

    The products are the categories that `--category` names, one or several; without it all categories of the
    data.

    Raises:
        InputError: The data have no categories, a category is missing, or `--update` leaves open which.
    """
    from flawscope.datasets import find_categories
    from flawscope.datasets.layouts import present_categories

    if common.asks_several(args):
        names = common.selected_categories(args)
    elif args.category:
        names = present_categories(args.data, args.category, "--category")
    else:
        names = tuple(find_categories(args.data))
        if not names or (args.update and len(names) > 1):
            raise InputError(f"name the products in {args.data} with --category: one, several, or all")
    return {name: _call(fit_options.with_file(args, name), old, folder, name) for name in names}


def _view_pattern(args: argparse.Namespace) -> PartPattern | None:
    """The pattern of views that have a model each; None: the models are of products. InputError."""
    from flawscope.calibration.parts import PartPattern

    if args.each_view and (args.part is None or args.group):
        raise InputError("--each-view learns the views of --part: give --part, and leave out --group")
    if args.each_view and (args.joint or args.update or common.asks_several(args)):
        raise InputError(
            "--each-view is for one product: leave out --joint and --update, name one --category"
        )
    return PartPattern(args.part, args.view) if args.each_view else None


def wants_each_view(args: argparse.Namespace) -> bool:
    """Return whether each view of a part gets a model of its own.

    The call decides. Where it does not, each view gets one if the good pictures of all views look different;
    a line then says this.
    """
    if args.each_view is not None:
        return bool(args.each_view)
    if args.part is None or _asks_for_one_model(args) or common.asks_several(args):
        return False
    from flawscope.calibration.parts import PartPattern
    from flawscope.fitting.view_models import different_views_line, views_differ

    views = _views_of(args, PartPattern(args.part, args.view), _seed_of_call(args))
    if not views_differ({view: _train_paths(model) for view, model in views.items()}):
        return False
    common.say_unless_quiet(args)(different_views_line([*views], "--no-each-view: one model for all"))
    return True


def _asks_for_one_model(args: argparse.Namespace) -> bool:
    """Whether an option fits one model for all views, or one for several products."""
    # a search has minutes for one model, and `--evaluate` measures one
    return any((args.group, args.joint, args.update, args.auto, args.evaluate))


def _views_of(args: argparse.Namespace, pattern: PartPattern, seed: int) -> dict[str, Dataset]:
    """Return the good pictures of each view.

    Raises:
        InputError: No name shows a part, or none shows the same part twice.
    """
    from flawscope.datasets import open_dataset
    from flawscope.fitting.view_models import views_of

    dataset = open_dataset(args.data, args.category, seed=seed, group=pattern.part_key, good=args.good)
    return views_of(dataset, pattern)


def _train_paths(dataset: Dataset) -> list[Path]:
    return [item.path for item in dataset.train]


def _seed_of_call(args: argparse.Namespace) -> int:
    settings = fit_one.read_fit_settings(args)
    return int(registry.configure(registry.method(settings.method), settings.preset, settings.settings).seed)


def _view_calls(args: argparse.Namespace, folder: Path, pattern: PartPattern) -> Calls:
    """The call that fits each view."""
    views = _views_of(args, pattern, _seed_of_call(args))
    changes = {"category": args.category, "part": None, "view": None, "group": pattern.part}
    return {view: _call(args, None, folder, view, only_view=(pattern, view), **changes) for view in views}


def _describe(
    args: argparse.Namespace, old: ModelMapping | None, products: Mapping[str, Artefact], names: Iterable[str]
) -> DescriptorModel:
    """Return the network that recognises products, with descriptors of the learnt pictures."""
    from flawscope.datasets import open_dataset
    from flawscope.fitting import joining

    network = None if old is None else old.recognition
    network = network or joining.descriptor_model(products)
    found = {}
    for name in names:
        before = () if old is None or name not in old.products else old.products[name].manifest.pictures
        seed, group = common.seed_and_group(products[name].manifest)
        found[name] = joining.describe_product(
            network,
            products[name],
            open_dataset(args.data, name, seed=seed, group=group, good=args.good),
            described=[picture.hash for picture in before],
            device=args.device,
            step=common.progress_for(args),
        )
    return joining.with_products(network, found)
