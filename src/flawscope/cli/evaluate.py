"""Measure a model on the test pictures of a data set."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import common, several
from flawscope.progress import counted, duration

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.evaluation import Evaluation
    from flawscope.predictor import Predictor
    from flawscope.progress import Step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="model file; for several categories the folder of CATEGORY.safetensors"
    )
    common.add_data(parser, several=f"{several.SEVERAL}each by its own model")
    common.add_rate(parser, "the model's")
    parser.add_argument(
        "--full-resolution", action="store_true", help="pixel metrics at the pictures' size too"
    )
    parser.add_argument(
        "--out",
        metavar="DIR|FILE.csv",
        help="write results, a report, overlays, maps and a contact sheet; or the table of results alone, "
        ".csv or .parquet; for several categories a folder for each, or a table with a row for each",
    )
    common.add_pictures(parser, animation="webp")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_device(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    if several.are_asked(args):
        from flawscope.cli import evaluate_several

        return evaluate_several.run(args, measured)

    def show(result: Evaluation) -> None:
        common.show(
            json.dumps(result.to_dict(), indent=1, allow_nan=False) if args.json else lines(result),
            flush=True,
        )

    return common.report_failures(measured(args, show)[1])


def measured(
    args: argparse.Namespace, show: Callable[[Evaluation], None] | None = None
) -> tuple[Evaluation, list[str]]:
    """Evaluate one model and write what `--out` asks for; pictures that could not be judged or drawn. `show`
    comes before what may fail, such as where the disk is full."""
    from flawscope.datasets import open_dataset
    from flawscope.predictor import read_manifest

    step = common.step_for(args)
    folder = Path(args.out) if args.out and not common.is_table(args.out) else None
    if folder:
        from flawscope import report

        report.require()
    manifest = read_manifest(args.model)
    seed, group = common.seed_of(manifest), common.group_of(manifest)  # split as it was for fitting
    dataset = open_dataset(args.data, args.category, seed=seed, group=group)
    common.check_out(args)

    from flawscope.evaluation import evaluate

    predictor = common.load_model(args, args.model)
    result = evaluate(predictor, dataset, full_resolution=args.full_resolution, step=step)
    if show:
        show(result)
    failures = list(result.failures)
    if folder:
        failures += _written(args, folder, result, predictor, dataset, step)
    elif args.out:
        _write_table(args.out, result)
    return result, failures


def _written(
    args: argparse.Namespace,
    folder: Path,
    result: Evaluation,
    predictor: Predictor,
    dataset: Dataset,
    step: Step,
) -> list[str]:
    """Write the results folder, figures and tables first; pictures that could not be drawn."""
    from flawscope import report
    from flawscope.evaluation.result import outcomes
    from flawscope.results.run import Results

    say = common.say_for(args)
    maps, animation = args.maps or "png16", args.animation or "webp"
    results = Results(folder, dataset.root, say, maps=maps, animation=animation)
    results.write_facts(result.to_dict())
    for _, one in outcomes(result):
        results.add(one)
    results.finish()
    for done, (item, prediction, *_) in enumerate(result.pictures, start=1):
        results.pictures.take(item, prediction)
        step("pictures", done, len(result.pictures))
    results.pictures.finish(f"{dataset.category}: {predictor.manifest.method}")
    path = results.own.path(report.NAME)
    name = os.path.basename(args.model)
    report.write_report(path, result, predictor, dataset, model=name, step=step)
    say(f"report: {path}")
    return results.pictures.failures


def _write_table(path: str, result: Evaluation) -> None:
    from flawscope.evaluation.result import outcomes
    from flawscope.results.table import Row, open_table

    table = open_table(path)
    for _, one in outcomes(result):
        table.add(Row.of(one))
    table.close()


def lines(result: Evaluation) -> str:
    """The table that a person reads."""
    from flawscope.evaluation import NAMES

    rows = [(NAMES.get(k, k), "n/a" if v is None else f"{v:.4f}") for k, v in result.metrics.items()]
    parts = [
        f"{result.category}: {result.method}, {counted(result.images, 'test picture')} in "
        f"{duration(result.seconds)}",
        common.table(rows, ("metric", "value")),
    ]
    alarms = result.false_alarms
    if alarms["measured"] is not None:
        low, high = alarms["interval"]
        parts.append(
            f"false alarms: {alarms['measured']:.1%} of {counted(alarms['images'], 'good picture')} "
            f"(expected {alarms['expected']:.1%}, target {alarms['target']:.1%}, "
            f"95 % interval {low:.1%} to {high:.1%})"
        )
    kinds = [
        (kind, v["images"], v["anomalous"], f"{v['mean_score']:.4g}", f"{v['median_severity']:+.1f}")
        for kind, v in result.kinds.items()
    ]
    header = ("kind", "pictures", "called anomalous", "mean score", "median severity")
    parts.append(common.table(kinds, header))
    if result.mismatch:
        parts.append(f"warning: {result.mismatch}")
    if result.outside():
        parts.append(result.outside())
    if result.left_out:
        which = ", ".join(f"{n} {kind}" for kind, n in result.left_out.items())
        parts.append(f"left out, because the model was fitted or calibrated on them: {which}")
    return "\n\n".join(parts)
