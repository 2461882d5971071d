"""Compare two models on the same test pictures: one table of paired differences with 95 % intervals."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from flawscope.artefact.files import EXPORTED_SUFFIX, suffix_of
from flawscope.cli import common

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.evaluation.comparison import Comparison, Difference
    from flawscope.predictor import Predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope compare` to its parser."""
    parser.add_argument("a", metavar="A", help="Model file, such as the one in use.")
    parser.add_argument(
        "b", metavar="B", help="Model file, such as the new one; of any method, size, runtime."
    )
    common.add_data(parser)
    common.add_good(parser)
    common.add_rate(parser, "each model's own")
    common.add_json(parser)
    common.add_engine(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Compare two models and print the table; return 1 where pictures were skipped, else 0."""
    step = common.progress_for(args)
    dataset = _dataset(args)

    from flawscope.evaluation.comparison import compare

    a, b = (_open_model(args, path) for path in (args.a, args.b))
    found = compare(a, b, dataset, names=_model_names(args.a, args.b), step=step)
    common.show_document(args, found.to_dict(), lambda: format_comparison(found))
    return common.report_failures(found.failures)


def _dataset(args: argparse.Namespace) -> Dataset:
    """Open the data set, split as for fitting A; `compare` leaves out pictures that B has learnt from."""
    from flawscope.datasets import open_dataset
    from flawscope.predictor import read_manifest

    first, _ = (read_manifest(path) for path in (args.a, args.b))
    seed, group = common.seed_and_group(first)
    return open_dataset(args.data, args.category, seed=seed, group=group, good=args.good)


def _open_model(args: argparse.Namespace, path: str) -> Predictor:
    """Open a model; `--engine` holds for exported models only."""
    engine = args.engine if suffix_of(path) == EXPORTED_SUFFIX else None
    return common.load_single(argparse.Namespace(**{**vars(args), "engine": engine}), path)


def _model_names(a: str, b: str) -> tuple[str, str]:
    """The files' names, or their paths where the names are the same."""
    names = os.path.basename(a), os.path.basename(b)
    return (a, b) if names[0] == names[1] else names


def format_comparison(found: Comparison) -> str:
    """Return the text of a comparison: both models, the table of differences and remarks."""
    from flawscope.evaluation.comparison import describe_model

    first = found.evaluations[0]
    overview = [f"{first.category}: {first.counts()}"]
    for letter, name, predictor in zip("AB", found.names, found.predictors, strict=True):
        facts = describe_model(predictor)
        size = "x".join(str(side) for side in facts["size"])
        overview.append(f"{letter}: {name}, {facts['method']} {size}, {facts['runtime']}")
    header = ("", "A", "B", "B - A", "95 % interval", "better")
    parts = [
        "\n".join(overview),
        common.format_table([_difference_row(difference) for difference in found.differences], header),
        "better: where the interval leaves out zero; of twenty such lines one does so by chance",
        found.sentence(),
    ]
    both = [*zip("AB", found.evaluations, strict=True)]
    parts += ["\n".join(f"{which}: {line}" for which, evaluation in both for line in evaluation.remarks)]
    parts += [f"warning: {which}: {evaluation.mismatch}" for which, evaluation in both if evaluation.mismatch]
    if first.left_out:
        parts.append(common.left_out_line(first, "a model"))
    return "\n\n".join(filter(None, parts))


def _difference_row(difference: Difference) -> tuple[str, ...]:
    interval = (
        ""
        if difference.interval is None
        else f"{difference.interval[0]:+.4f} to {difference.interval[1]:+.4f}"
    )
    values = f"{difference.a:.4f}", f"{difference.b:.4f}", f"{difference.difference:+.4f}"
    return difference.label, *values, interval, difference.better.upper()
