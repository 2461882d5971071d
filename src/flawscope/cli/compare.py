"""Compare two models on the same test pictures: paired differences with 95 % intervals, changed decisions."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flawscope.artefact.files import EXPORTED_SUFFIX, atomic_write, suffix_of
from flawscope.cli import common
from flawscope.pages import report

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.evaluation.comparison import Comparison, Difference, Judged
    from flawscope.predictor import Predictor

PICTURES_FILE = "pictures.csv"
MAX_SHOWN = 20  # changed decisions that are printed at most; --json and --out have all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="model file, such as the one in use")
    parser.add_argument(
        "b", metavar="B", help="model file, such as the new one; of any method, size, runtime"
    )
    common.add_data(parser)
    common.add_rate(parser, "each model's own")
    common.add_figures(parser, "write a page with both side by side, and the results")
    common.add_json(parser)
    common.add_engine(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    step = common.progress_for(args)
    dataset = _dataset(args)
    if args.out:
        report.require_libraries(plots=False)
        common.check_results_folder(args.out, PICTURES_FILE)

    from flawscope.evaluation.comparison import compare

    a, b = (_open_model(args, path) for path in (args.a, args.b))
    common.keep_other_results(args, a.manifest.category, [item.path for item in dataset.test])
    found = compare(
        *(a, b, dataset), names=_model_names(args.a, args.b), full_resolution=args.full_resolution, step=step
    )
    common.show_document(args, document := found.to_dict(), lambda: format_comparison(found))
    if args.out:
        _write(args, found, document)
    return common.report_failures(found.failures)


def _write(args: argparse.Namespace, found: Comparison, document: dict[str, Any]) -> None:
    from flawscope.pages.report.pages import comparison_page
    from flawscope.results.excel import write_table
    from flawscope.results.run import SUMMARY_NAME
    from flawscope.results.table import OutputFiles

    say = common.say_unless_quiet(args)
    own = OutputFiles(Path(args.out))
    own.remove_earlier(say)
    with atomic_write(own.path(SUMMARY_NAME)) as file:
        file.write(f"{common.as_json(document)}\n".encode("utf-8", "backslashreplace"))
    write_table(own.path(PICTURES_FILE), _picture_rows(document))
    page = report.write_page(own.path(report.REPORT_NAME), comparison_page(found, common.progress_for(args)))
    say(f"page: {page}")


def _picture_rows(document: dict[str, Any]) -> Iterator[Sequence[Any]]:
    values = ("score", "p_value", "severity", "decision")
    yield ["path", "kind", "defective", *(f"{v}_{m}" for m in "ab" for v in values), "changed"]
    for one in document["pictures"]:
        own = [one[model][value] for model in "ab" for value in values]
        yield [one["path"], one["kind"], int(one["defective"]), *own, int(one["changed"])]


def _dataset(args: argparse.Namespace) -> Dataset:
    """Opens the data set, split as for fitting A; `compare` leaves out pictures that B has learnt from."""
    from flawscope.datasets import open_dataset
    from flawscope.predictor import read_manifest

    first, _ = (read_manifest(path) for path in (args.a, args.b))
    seed, group = common.seed_and_group(first)
    return open_dataset(args.data, args.category, seed=seed, group=group, good=args.good)


def _open_model(args: argparse.Namespace, path: str) -> Predictor:
    """Opens a model; `--engine` holds for exported models only."""
    engine = args.engine if suffix_of(path) == EXPORTED_SUFFIX else None
    return common.load_single(argparse.Namespace(**{**vars(args), "engine": engine}), path)


def _model_names(a: str, b: str) -> tuple[str, str]:
    """The files' names, or their paths where the names are the same."""
    names = os.path.basename(a), os.path.basename(b)
    return (a, b) if names[0] == names[1] else names


def format_comparison(found: Comparison) -> str:
    from flawscope.evaluation.comparison import describe_model

    first = found.evaluations[0]
    parts = [f"{first.category}: {first.counts()}"]
    models = [
        f"{which}: {name}, {facts['method']} {'x'.join(map(str, facts['size']))}, {facts['runtime']}"
        for which, name, facts in zip("AB", found.names, map(describe_model, found.predictors), strict=True)
    ]
    header = ("", "A", "B", "B - A", "95 % interval", "better")
    parts = [
        "\n".join([*parts, *models]),
        common.format_table([_difference_row(one) for one in found.differences], header),
        "better: where the interval leaves out zero; of twenty such lines one does so by chance",
        found.sentence(),
    ]
    if found.changed:
        shown = common.format_table(
            [_changed_row(one) for one in found.changed[:MAX_SHOWN]],
            ("picture", "is", "A", "B", "severity A", "B"),
        )
        more = len(found.changed) - MAX_SHOWN
        parts.append(shown + (f"\nand {more} more: --json or --out DIR shows all" if more > 0 else ""))
    both = [*zip("AB", found.evaluations, strict=True)]
    parts += ["\n".join(f"{which}: {line}" for which, one in both for line in one.remarks)]
    parts += [f"warning: {which}: {one.mismatch}" for which, one in both if one.mismatch]
    if first.left_out:
        parts.append(common.left_out_line(first, "a model"))
    return "\n\n".join(filter(None, parts))


def _difference_row(one: Difference) -> tuple[str, ...]:
    def number(value: float | None, form: str = ".4f") -> str:
        return "n/a" if value is None else f"{value:{form}}"

    interval = "n/a" if one.interval is None else f"{one.interval[0]:+.4f} to {one.interval[1]:+.4f}"
    apart = number(one.difference, "+.4f")
    return one.label, number(one.a), number(one.b), apart, interval, one.better.upper()


def _changed_row(one: Judged) -> tuple[str, ...]:
    from flawscope.results.findings import severity_text

    truth = one.item.kind if one.item.anomalous else "good"
    severities = severity_text(one.a.severity), severity_text(one.b.severity)
    return one.name, truth, one.a.decision, one.b.decision, *severities
