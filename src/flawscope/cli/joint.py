"""Fits joint models, of several products or views in one file, and sums up what they predict."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flawscope.cli import common, fit_one
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope.methods import registry
from flawscope.progress import format_duration

if TYPE_CHECKING:
    from flawscope.artefact.joint_file import JointArtefact
    from flawscope.artefact.model_file import Artefact, Manifest
    from flawscope.calibration.parts import PartPattern
    from flawscope.calibration.recognition import ProductDescriptors
    from flawscope.datasets import Dataset, Item
    from flawscope.predictor import Predictor
    from flawscope.predictor.joint import JointPredictor
    from flawscope.progress import ProgressCallback

HEADER = ("pictures", "score threshold", "false alarms expected", "time")  # of `figures`
# Options of `fit` that do not go with a joint model
REFUSED = ("cluster", "resume", "align", "several", "tile", "min_defect", "scale", "overlap", "positions")


def figures(manifest: Manifest, took: str) -> list[str]:
    """Cells of a table with the main figures of a model."""
    calibration = manifest.calibration
    alarms = f"{calibration.expected_rate:.1%}" if calibration.promised else "no promise"
    return [str(len(manifest.pictures)), f"{calibration.score_threshold:.4g}", alarms, took]


# ----------------------------------------------------------------------------------------------------- fit


def fit(args: argparse.Namespace) -> int:
    """Fits a model of several products or views, or adds a product or its pictures, and writes one file."""
    from flawscope.artefact import files, joint_file
    from flawscope.calibration.power import describe_detection

    out = files.check_writable(args.out, joint_file.SUFFIX)
    if given := [option for option in REFUSED if getattr(args, option, None) not in (None, False, "none")]:
        options = ", ".join(f"--{option.replace('_', '-')}" for option in given)
        raise InputError(f"a joint model is fitted without {options}: leave out, or fit a model for each")
    say = common.say_unless_quiet(args)
    if args.each_view:
        views, datasets = _split_views(args)
        kind, own = "view", {"part": None, "view": None, "group": args.part}
        calls = {name: argparse.Namespace(**{**vars(args), **own}) for name in datasets}
    else:
        views, datasets, kind = None, {}, "product"
        calls = {name: argparse.Namespace(**{**vars(args), "category": name}) for name in _products(args)}
    settings = {name: fit_one.read_fit_settings(call) for name, call in calls.items()}
    old = joint_file.read(args.update) if args.update else None
    if old is not None and old.views is not None:
        raise InputError("--update: the model of each view by itself is fitted anew with all pictures")
    from flawscope.fitting import joint  # torch

    for one in settings.values():
        joint.check_joinable(one.method)
    say(f"{pluralize(len(calls), kind)}, in {out}: {', '.join(calls)}")
    products, known = ({}, {}) if old is None else (dict(old.products), dict(old.descriptors))
    rows, failures = [], []
    for name, call in calls.items():
        began = time.monotonic()
        step, dataset = common.progress_for(args), datasets.get(name)
        predictor, new = _fit_product(call, settings[name], old, name, step, dataset)
        products[name] = predictor.artefact
        if new is not None:
            known[name] = known[name].merged(new) if name in known else new
        took = format_duration(time.monotonic() - began)
        say(f"{name}: {predictor.calibration.promise()}")
        if power := describe_detection(predictor.manifest.facts, predictor.calibration):
            say(f"  simulated defects found: {power}")
        for note in predictor.manifest.notes:
            say(f"  {note}")
        rows.append([name, *figures(predictor.manifest, took)])
        failures += predictor.failures
    model = joint.join_artefacts(products, known, args.device, views)
    model.save(out)
    say(common.format_table(rows, (kind, *HEADER)))
    if parts := model.parts():
        say(parts.promise())
    say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB), of {pluralize(len(products), kind)}")
    return common.report_failures(failures)


def _split_views(args: argparse.Namespace) -> tuple[PartPattern, dict[str, Dataset]]:
    """The pattern of views, and the good pictures of each."""
    from flawscope.calibration.parts import PartPattern
    from flawscope.datasets import open_dataset

    if args.part is None or args.group:
        raise InputError("--each-view learns the views of --part: give --part, and leave out --group")
    if args.joint or args.update or common.asks_several(args):
        raise InputError(
            "--each-view is for one product: leave out --joint and --update, name one --category"
        )
    settings = fit_one.read_fit_settings(args)
    seed = registry.configure(registry.method(settings.method), settings.preset, settings.settings).seed
    dataset = open_dataset(args.data, args.category, seed=seed, group=args.part)
    pattern = PartPattern(args.part, args.view)
    pattern.part_numbers(dataset.relative(item.path) for item in (*dataset.train, *dataset.validation))
    return pattern, split_by_view(dataset, pattern, "train", "validation")


def split_by_view(dataset: Dataset, pattern: PartPattern, *splits: str) -> dict[str, Dataset]:
    """Splits a data set by view; pictures of other `splits` are dropped. InputError: a name has no view."""
    views = {
        item: pattern.parse(dataset.relative(item.path)).view
        for one in splits
        for item in dataset.splits[one]
    }

    def of(view: str, items: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(item for item in items if views.get(item) == view)

    return {
        view: replace(
            dataset,
            train=of(view, dataset.train),
            test=of(view, dataset.test),
            validation=of(view, dataset.validation),
        )
        for view in sorted({*views.values()})
    }


def _products(args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the products that the call means: all categories, unless `--category` names them."""
    from flawscope.datasets import find_categories

    if common.asks_several(args):
        return common.selected_categories(args)
    if args.category:
        return (args.category,)
    found = tuple(find_categories(args.data))
    if not found or (args.update and len(found) > 1):
        raise InputError(f"name the products in {args.data} with --category: one, several, or all")
    return found


def _fit_product(
    call: argparse.Namespace,
    settings: fit_one.FitSettings,
    old: JointArtefact | None,
    name: str,
    step: ProgressCallback,
    dataset: Dataset | None,
) -> tuple[Predictor, ProductDescriptors | None]:
    """Fits a product's model, or adds to it; returns it with the descriptors of its new pictures, by which it
    is recognised. A view, whose `dataset` is given, has none: its name tells it."""
    from flawscope.fitting import joint

    def quiet(line: str) -> None:
        """Drops a remark: a row for each product is enough."""

    before = None if old is None else old.products.get(name)
    if old is not None and before is None:
        settings = _settings_like(next(iter(old.products.values())), call)
    try:
        predictor, opened = fit_one.fit_model(call, settings, before, quiet, step, dataset)
        if dataset is not None:
            return predictor, None
        seen = [] if before is None else [picture.hash for picture in before.manifest.pictures]
        return predictor, joint.describe_product(
            predictor.artefact, opened, but=seen, device=call.device, step=step
        )
    except FlawscopeError as error:
        kind = InputError if isinstance(error, InputError) else FlawscopeError
        raise kind(f"{name}: {error}") from error


def _settings_like(product: Artefact, call: argparse.Namespace) -> fit_one.FitSettings:
    """Settings of a new product, copied from a product of the model; region, light and so on go to `call`."""
    from flawscope.predictor.parts import stored_part_pattern

    manifest, roi = product.manifest, product.tensors["roi"]
    settings = {key: value for key, value in manifest.config.items() if key not in ("hidden", "masked")}
    if settings.get("weights"):
        if not call.weights:
            raise InputError(
                f"the model's backbone is from {settings['weights']}: name this file with --weights"
            )
        settings["weights"] = call.weights
    call.roi = None if roi.all() else roi
    light, parts = manifest.preprocess.normalization, stored_part_pattern(manifest)
    call.light = None if light is None else light.share
    call.part, call.view = (None, None) if parts is None else (parts.part, parts.view)
    call.false_alarm_rate = manifest.calibration.rate
    registry.configure(registry.method(manifest.method), "default", settings)
    return fit_one.FitSettings(manifest.method, "default", 0, settings)


# ------------------------------------------------------------------------------------------------- predict


class Summary:
    """Summary of a run of a joint model."""

    def __init__(self, model: JointPredictor):
        from flawscope.results.by_product import ProductCounts

        self.aligned = False
        self.parts, self.products = model.parts(), not model.of_views  # rows of the table name them
        first = next(iter(model.products.values())).manifest
        self.method, self.white_level = first.method, first.preprocess.white_level
        self.calibrations = {name: one.calibration for name, one in model.products.items()}
        self.totals = ProductCounts(max(one.expected_rate for one in self.calibrations.values()))

    def facts(self, args: argparse.Namespace, unjudged: int) -> dict[str, Any]:
        from flawscope._version import __version__

        totals, calibrations = self.totals, self.calibrations
        each: dict[str, dict[str, Any]] = {}
        for name, one in calibrations.items():
            shown, found = totals.pictures_by_product[name], totals.anomalous_by_product[name]
            each[name] = {
                **({"pictures": shown, "anomalous": found} if self.products else {}),
                "target_rate": one.rate,
                "expected_rate": one.expected_rate,
                "score_threshold": one.score_threshold,
                "mask_threshold": one.mask_threshold,
                "promised": one.promised,
            }
        return {
            "model": os.path.basename(args.model),
            "category": ", ".join(calibrations),
            "method": self.method,
            "inputs": totals.count + unjudged,
            "judged": totals.count,
            "anomalous": totals.anomalous,
            "unjudged": unjudged,
            **({"none_of_these": totals.unrecognised} if self.products else {}),
            "products" if self.products else "views": each,
            "expected_rate": max(one.expected_rate for one in calibrations.values()),
            "promise": "; ".join(f"{name}: {one.promise()}" for name, one in calibrations.items()),
            "promised": all(one.promised for one in calibrations.values()),
            "warning": totals.warning() or None,
            "flawscope": __version__,
        }

    def line(self) -> str:
        of = pluralize(self.totals.count, "picture")
        by_product = f": {self.totals.lines()}" if self.products else ""
        return f"{self.totals.anomalous} of {of} anomalous{by_product}"
