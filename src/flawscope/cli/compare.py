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
    common.add_rate(parser, "each model's own")  # the default, in the words of the help
    common.add_json(parser)
    common.add_engine(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Compare two models and print the table; return 1 where pictures were skipped, else 0."""
    step = common.progress_for(args)
    dataset = _dataset(args)

    from flawscope.evaluation.comparison import compare

    a = _open_model(args, args.a)
    b = _open_model(args, args.b)
    comparison = compare(a, b, dataset, names=_model_names(args.a, args.b), step=step)
    common.show_document(args, comparison.to_dict(), lambda: format_comparison(comparison))
    return common.report_failures(comparison.failures)


def _dataset(args: argparse.Namespace) -> Dataset:
    """Open the data set, split as it was for the fit of A."""
    from flawscope.datasets import open_dataset
    from flawscope.predictor import read_manifest

    manifest = read_manifest(args.a)
    read_manifest(args.b)  # raises InputError for a wrong file before pictures are read
    # pictures that B has learnt from are left out later, by `compare`
    seed, group = common.seed_and_group(manifest)
    return open_dataset(args.data, args.category, seed=seed, group=group, good=args.good)


def _open_model(args: argparse.Namespace, path: str) -> Predictor:
    """Open a model; `--engine` holds for exported models only."""
    engine = args.engine if suffix_of(path) == EXPORTED_SUFFIX else None
    call = argparse.Namespace(**{**vars(args), "engine": engine})
    return common.load_single(call, path)


def _model_names(a: str, b: str) -> tuple[str, str]:
    """Return the names of two model files, or their paths if the names are the same."""
    name_a = os.path.basename(a)
    name_b = os.path.basename(b)
    return (a, b) if name_a == name_b else (name_a, name_b)


def format_comparison(comparison: Comparison) -> str:
    """Return the text of a comparison: both models, the table of differences and remarks."""
    from flawscope.evaluation.comparison import describe_model

    first = comparison.evaluations[0]
    overview = [f"{first.category}: {first.counts()}"]
    for letter, name, predictor in zip("AB", comparison.names, comparison.predictors, strict=True):
        facts = describe_model(predictor)
        size = "x".join(str(side) for side in facts["size"])
        overview.append(f"{letter}: {name}, {facts['method']} {size}, {facts['runtime']}")
    header = ("", "A", "B", "B - A", "95 % interval", "better")
    paragraphs = [
        "\n".join(overview),
        common.format_table([_difference_row(difference) for difference in comparison.differences], header),
        "better: where the interval leaves out zero; of twenty such lines one does so by chance",
        comparison.sentence(),
    ]
    remarks = []
    warnings = []
    for letter, evaluation in zip("AB", comparison.evaluations, strict=True):
        remarks += [f"{letter}: {line}" for line in evaluation.remarks]
        if evaluation.mismatch:
            warnings.append(f"warning: {letter}: {evaluation.mismatch}")
    paragraphs += ["\n".join(remarks), *warnings]
    if first.left_out:
        paragraphs.append(common.left_out_line(first, "a model"))
    return "\n\n".join(filter(None, paragraphs))


def _difference_row(difference: Difference) -> tuple[str, ...]:
    """Return the cells of a difference: its label, both values, B - A, the interval, the better model."""
    interval = ""
    if difference.interval is not None:
        low, high = difference.interval
        interval = f"{low:+.4f} to {high:+.4f}"
    values = f"{difference.a:.4f}", f"{difference.b:.4f}", f"{difference.difference:+.4f}"
    return difference.label, *values, interval, difference.better.upper()
