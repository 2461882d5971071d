"""Measure a model on the test pictures of a data set."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flawscope.artefact.files import MODEL_SUFFIXES
from flawscope.cli import common, fit_one, tables
from flawscope.errors import InputError, pluralize
from flawscope.evaluation import report
from flawscope.progress import format_duration

if TYPE_CHECKING:
    from flawscope.datasets import Dataset, Item
    from flawscope.evaluation import Evaluation, Robustness
    from flawscope.predictor import Predictor
    from flawscope.predictor.router import Router
    from flawscope.progress import ProgressCallback
    from flawscope.results.prediction import Prediction

Documents = Mapping[str, dict[str, Any]]  # of `evaluate --json`, by category


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="model file; for several categories the folder of CATEGORY.safetensors, or a joint model",
    )
    common.add_data(parser, several=f"{common.SEVERAL_HELP}each by its own model, or by a joint one")
    common.add_rate(parser, "the model's")
    common.add_figures(
        parser,
        "write results, a report, overlays and maps; or the table of results alone, .csv or .xlsx (Excel); "
        "for several categories a folder for each, or a table with a row for each",
        "DIR|FILE.csv|FILE.xlsx",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="judge every picture in other light and out of focus too: false alarms, defects found (20 times "
        "the time)",
    )
    common.add_pictures(parser)
    common.add_json(parser)
    common.add_engine(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.predictor.router import is_router

    if is_router(args.model):
        return _run_router(args)
    if common.asks_several(args):
        if not Path(args.model).is_dir():
            raise InputError(
                f"--category {args.category} measures a model for each category: give the folder of "
                f"CATEGORY.safetensors that `fit` wrote, or a joint model, instead of {args.model}"
            )
        _check_table(args)
        return _run_several(args, common.selected_categories(args))

    def show(found: Evaluation) -> None:
        common.show_document(args, found.to_dict(), lambda: format_evaluation(found))

    return common.report_failures(evaluate_model(args, show)[1])


def evaluate_model(
    args: argparse.Namespace,
    show: Callable[[Evaluation], None] | None = None,
    predictor: Predictor | None = None,
    dataset: Dataset | None = None,
) -> tuple[Evaluation, list[str]]:
    """Evaluates one model and writes what `--out` asks for. Returns also the pictures that could not be
    judged or drawn. `show` is called before steps that may fail, such as on a full disk. predictor, dataset:
    where they are open already."""
    from flawscope.datasets import open_dataset
    from flawscope.predictor import read_manifest

    step = common.progress_for(args)
    folder = Path(args.out) if args.out and not common.is_table(args.out) else None
    if folder:
        common.require_torch(args.model)  # whose extra brings what a report needs, too
        report.require_libraries()
    manifest = read_manifest(args.model) if predictor is None else predictor.manifest
    seed, group = common.seed_and_group(manifest)
    dataset = dataset or open_dataset(args.data, args.category, seed=seed, group=group, good=args.good)
    common.check_output(args)

    from flawscope.datasets.mask_remarks import mask_remarks
    from flawscope.evaluation import evaluate
    from flawscope.evaluation.next_steps import advise_after
    from flawscope.evaluation.result import all_results

    predictor = predictor or common.load_single(args, args.model)
    result = evaluate(
        predictor, dataset, full_resolution=args.full_resolution, robust=args.robustness, step=step
    )
    if show:
        show(result)
    for line in mask_remarks(dataset):
        common.say(f"warning: {line}")
    for step_advised in () if args.json or args.quiet else advise_after(result, manifest):
        common.say(f"next: {step_advised.line()}")
